"""Sealed texts: what opens them and what does not, and what they tell."""

from __future__ import annotations

import base64
import hmac
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, strategies as st
from trio.testing import MockClock

from cpg_trio.host import Keys
from cpg_trio.store import Sealer, UnsealError

A, B = "a" * 32, "b" * 32
ENTRY, SECRET = "plugins/storage-1f", b"a digest of 32 bytes, say, or so"


def sealer(*keys: str, directory: str = "d1") -> Sealer:
    held = Keys(keys)
    return Sealer(lambda: held.all, directory)


@given(st.text(max_size=50), st.binary(max_size=200))
def test_what_is_sealed_comes_back(entry: str, data: bytes) -> None:
    assert sealer(A).unseal(entry, sealer(A).seal(entry, data)) == data


def test_a_text_tells_nothing_and_is_another_one_each_time() -> None:
    texts = {sealer(A).seal(ENTRY, SECRET) for _ in range(100)}
    assert len(texts) == 100
    for text in texts:
        assert text.isascii()
        _, key_id, sealed = text.split(".")
        assert SECRET not in base64.urlsafe_b64decode(sealed)
        assert len(key_id) == 16
        assert A.encode() not in bytes.fromhex(key_id)
    assert A not in repr(vars(sealer(A)))


def hkdf(key: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with SHA-256 and no salt, for up to 32 bytes."""
    extracted = hmac.digest(bytes(32), key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")[:length]


def test_the_form_of_a_text_is_that_of_every_release() -> None:
    key = hkdf(A.encode(), b"cpg_trio store v1 key", 32)
    key_id = hkdf(A.encode(), b"cpg_trio store v1 key id", 8).hex()
    sealed = bytes(12) + AESGCM(key).encrypt(bytes(12), SECRET, b"d1\0" + ENTRY.encode())
    text = f"v1.{key_id}.{base64.urlsafe_b64encode(sealed).decode()}"
    assert sealer(A).key_id == key_id
    assert sealer(A).unseal(ENTRY, text) == SECRET


def test_any_key_opens_and_the_first_seals() -> None:
    old, both, new = sealer(A), sealer(B, A), sealer(B)
    assert both.unseal(ENTRY, old.seal(ENTRY, SECRET)) == SECRET
    assert new.unseal(ENTRY, both.seal(ENTRY, SECRET)) == SECRET
    assert both.key_ids == [new.key_id, old.key_id]


def test_a_text_by_another_key_is_refused_with_the_id_of_the_key_and_what_to_do() -> None:
    with pytest.raises(UnsealError) as refused:
        sealer(A).unseal(ENTRY, sealer(B).seal(ENTRY, SECRET))
    message = str(refused.value)
    assert f"is sealed by the key {sealer(B).key_id}, which is none of the hosts' keys here" in message
    assert "give all hosts of a directory the same CPG_HOST_KEY" in message


def test_a_text_opens_for_its_entry_and_in_its_directory_only() -> None:
    text = sealer(A).seal(ENTRY, SECRET)
    for entry, directory in (("plugins/storage-2f", "d1"), (ENTRY, "d2"), ("\0" + ENTRY, "d"), ("", "d1")):
        with pytest.raises(UnsealError, match="altered, or sealed for another entry or in another directory"):
            sealer(A, directory=directory).unseal(entry, text)


def test_a_text_that_was_altered_anywhere_does_not_open() -> None:
    text = sealer(A).seal(ENTRY, SECRET)
    for at in range(len(text)):
        altered = f"{text[:at]}{'A' if text[at] != 'A' else 'B'}{text[at + 1 :]}"
        with pytest.raises(UnsealError):
            sealer(A).unseal(ENTRY, altered)


@given(st.one_of(st.text(max_size=100), st.text(max_size=100).map(f"v1.{sealer(A).key_id}.".__add__)))
def test_a_text_that_nobody_has_sealed_is_refused(text: str) -> None:
    with pytest.raises(UnsealError):
        sealer(A).unseal(ENTRY, text)


def test_a_form_of_a_later_release_is_refused_by_name() -> None:
    with pytest.raises(UnsealError, match=r"'v2', not v1\): run the release that has written it"):
        sealer(A).unseal(ENTRY, "v2.anything")


async def test_keys_may_be_changed_in_their_file(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{A}\n")
    path.chmod(0o600)
    keys = Keys(path=path)
    keys.open()
    follows = Sealer(lambda: keys.all, "d1")
    before = follows.seal(ENTRY, SECRET)
    path.write_text(f"{B}\n{A}\n")
    autojump_clock.jump(2)
    assert follows.key_ids == sealer(B, A).key_ids
    assert follows.unseal(ENTRY, before) == SECRET
    assert sealer(B).unseal(ENTRY, follows.seal(ENTRY, SECRET)) == SECRET


def test_without_the_package_it_says_what_to_install() -> None:
    program = """
import sys
sys.modules["cryptography"] = None
from cpg_trio.store import Sealer
from cpg_trio.http import StartError
try:
    Sealer(lambda: (b"a" * 32,), "d1")
except StartError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.endswith("pip install 'cpg-trio[etcd]'\n")
