"""The host's keys: what they sign, what they verify, and the file that they are in."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import jwt
import pytest
import trio

from cpg_trio.host import Keys
from cpg_trio.host.access.keys import Claims
from cpg_trio.http import StartError

A, B = "a" * 32, "b" * 32
CLAIMS = Claims("x-1", "x", 2e9, ("p", "q"), (), "192.0.2.7")


def at(path: Path) -> Keys:
    keys = Keys(path=path)
    keys.open()
    return keys


def test_what_a_token_says_comes_back() -> None:
    for claims in (CLAIMS, Claims("x-1", "x", 2e9)):
        assert Keys([A]).verify(Keys([A]).sign(claims)) == claims


def test_a_token_is_good_with_every_key_and_signed_with_the_first() -> None:
    old, both, new = Keys([A]), Keys([B, A]), Keys([B])
    assert both.verify(old.sign(CLAIMS)) == CLAIMS
    assert new.verify(both.sign(CLAIMS)) == CLAIMS
    assert old.verify(both.sign(CLAIMS)) is None


def test_every_host_without_a_key_has_one_of_its_own() -> None:
    assert Keys().verify(Keys().sign(CLAIMS)) is None


def b64(data: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()


def forgeries() -> dict[str, str]:
    token = Keys([A]).sign(CLAIMS)
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    unsigned = f"{b64({'alg': 'none', 'typ': 'JWT'})}.{body}."
    return {
        "empty": "",
        "no token": "abc",
        "truncated": token[:-1],
        "without its signature": f"{head}.{body}.",
        "unsigned": unsigned,
        "unsigned in capitals": f"{b64({'alg': 'NONE'})}.{body}.",
        "of another algorithm": f"{b64({'alg': 'HS512'})}.{body}.{signature}",
        "of another plugin": f"{head}.{b64({**claims, 'sub': 'y-1'})}.{signature}",
        "for longer": f"{head}.{b64({**claims, 'exp': 3e9})}.{signature}",
        "with another key": Keys([B]).sign(CLAIMS),
        "too long": "x" * 10_000,
        "not ASCII": token + "ä",
        "with padding": token + "=",
        "with a null": token + "\0",
        "with spaces": f" {token}",
        "nested": f"{b64([[[[]]]])}.{body}.{signature}",
    }


@pytest.mark.parametrize("name", forgeries())
def test_no_forged_token_is_good(name: str) -> None:
    assert Keys([A]).verify(forgeries()[name]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"sub": 1},
        {"sub": None},
        {"name": []},
        {"exp": "2000000000"},
        {"exp": None},
        {"exp": True},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": 10**400},
        {"iat": 10**400},
        {"adr": 7},
        {"prv": "p"},
        {"prv": [1]},
        {"req": {"a": 1}},
    ],
    ids=str,
)
def test_what_was_signed_and_makes_no_sense_is_no_token(change: dict[str, object]) -> None:
    claims = {"sub": "x-1", "name": "x", "exp": 2e9, "adr": "", "jti": "j"}
    assert Keys([A]).verify(jwt.encode(claims, A, "HS256"))
    assert Keys([A]).verify(json_token({**claims, **change})) is None


def json_token(claims: dict[str, object]) -> str:
    """Sign what PyJWT would not."""
    return jwt.PyJWS().encode(json.dumps(claims).encode(), A, "HS256")


@pytest.mark.parametrize("keys", [["short"], [A, "short"], [A] * 11])
def test_keys_that_protect_nothing_are_refused(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="1 to 10 keys are needed, each of 32 characters or more") as caught:
        Keys(keys)
    assert A not in str(caught.value)


# The file


async def test_a_file_is_made_once_for_its_owner_alone_and_used_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    token = at(path).sign(CLAIMS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert at(path).verify(token) == CLAIMS
    assert [each.name for each in await trio.Path(tmp_path).iterdir()] == ["key"]


def test_a_file_that_everybody_may_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "key"
    at(path)
    path.chmod(0o604)
    with pytest.raises(StartError, match=r"everybody may read it.*chmod") as caught:
        at(path)
    assert path.read_text().strip() not in str(caught.value)


@pytest.mark.parametrize("content", ["", "# nothing\n", "short\n", "\xff" * 40])
def test_a_file_without_keys_ends_the_start_and_stays_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(StartError, match="cannot keep the host's key in"):
        at(path)
    assert path.read_bytes() == content.encode("latin-1")


def test_a_folder_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(
        StartError, match="no such file or directory; mend it, or choose another file with CPG"
    ):
        at(tmp_path / "no" / "key")


async def test_keys_are_changed_without_a_restart_and_bad_ones_change_nothing(
    tmp_path: Path, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "key"
    keys = at(path)
    first = path.read_text().strip()
    old = keys.sign(CLAIMS)
    await replace(path, f"{A}\n# until its tokens are gone\n{first}\n")
    new = keys.sign(CLAIMS)
    assert Keys([A]).verify(new) == CLAIMS
    assert keys.verify(old) == keys.verify(new) == CLAIMS
    await replace(path, "short\n")
    assert keys.verify(keys.sign(CLAIMS)) == CLAIMS
    assert "cannot be used, and what was there before goes on" in caplog.text
    await replace(path, f"{A}\n")
    assert keys.verify(old) is None
    assert keys.verify(new) == CLAIMS
    assert A not in caplog.text
    assert first not in caplog.text


async def replace(path: Path, content: str) -> None:
    """Put another file in the place of one, and let the time pass until it is looked at."""
    draft = path.with_name("draft")
    await trio.Path(draft).write_text(content)
    draft.chmod(0o600)
    draft.replace(path)
    await trio.sleep(1)
