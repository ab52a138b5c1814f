"""Files that are read anew: taken when they are whole and valid, and tried again until they are."""

from __future__ import annotations

import os
import resource
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from cpg_trio._reload import Reloaded
from cpg_trio.host import Enrolment, Keys, Policy
from cpg_trio.host.access.identity import Identity
from cpg_trio.host.access.keys import Claims
from cpg_trio.http import Pool, StartError, TlsConfig
from tests.certificates import Files

LATER_S = 1.0
FAILED = "cannot be used, and what was there before goes on"


@attrs.frozen
class Kind:
    """One use of `Reloaded`, with a file that has been read."""

    path: Path
    change: Callable[[], object]
    """Put another content in the file."""
    is_new: Callable[[], bool]
    """Look at the file; return whether the other content counts."""


def written(path: Path, text: str) -> None:
    path.touch(0o600)
    path.write_text(text)


def policy(folder: Path) -> Kind:
    path = folder / "policy.toml"
    written(path, "undeclared = 'allow'")
    read = Policy.from_file(path)
    stranger = Identity("x-1", "x")
    return Kind(path, partial(written, path, "undeclared = 'deny'"), lambda: not read.may_call(stranger, "a"))


def enrolment(folder: Path) -> Kind:
    path = folder / "tokens"
    written(path, f"x {'s' * 16}\n")
    read = Enrolment(path)
    return Kind(path, partial(written, path, f"y {'s' * 16}\n"), lambda: bool(read.why_not("x", "s" * 16)))


def keys(folder: Path) -> Kind:
    path = folder / "key"
    written(path, "a" * 32)
    read = Keys(path=path)
    read.open()
    token = read.sign(Claims("x-1", "x", 2e9))
    return Kind(path, partial(written, path, "b" * 32), lambda: read.verify(token) is None)


def certificates(folder: Path) -> Kind:
    ca = trustme.CA()
    files = Files.write(folder, ca, "localhost")
    contexts = TlsConfig(cert_file=files.cert, key_file=files.key).server_contexts()
    before = contexts()
    return Kind(files.cert, partial(files.issue, ca, "localhost"), lambda: contexts() is not before)


KINDS = pytest.mark.parametrize("kind", [policy, enrolment, keys, certificates])
Make = Callable[[Path], Kind]


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Leave this process no file descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with suppress(OSError):
            os.close(os.open(os.devnull, os.O_RDONLY))
            pytest.fail("there is a descriptor left")
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@KINDS
async def test_a_reload_that_failed_for_want_of_a_descriptor_is_tried_again(
    kind: Make, tmp_path: Path, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    used = kind(tmp_path)
    used.change()
    await trio.sleep(LATER_S)
    with no_descriptors():
        assert not used.is_new()
    assert caplog.text.count(FAILED) == 1
    await trio.sleep(LATER_S)
    assert used.is_new()


@pytest.mark.skipif(not ssl.get_default_verify_paths().cafile, reason="the system has no file of authorities")
@pytest.mark.parametrize("contexts", [TlsConfig().client_contexts, lambda: Pool().ssl_context])
async def test_a_context_that_could_not_read_whom_the_system_trusts_is_not_kept(
    contexts: Callable[[], Callable[[], ssl.SSLContext]],
) -> None:
    context = contexts()
    with no_descriptors(), pytest.raises((OSError, StartError)):
        context()
    assert context().cert_store_stats()["x509_ca"]


@KINDS
async def test_an_emptied_file_changes_nothing_and_is_named_once_until_it_is_whole_again(
    kind: Make, tmp_path: Path, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    used = kind(tmp_path)
    used.path.write_text("")
    for _ in range(3):
        await trio.sleep(LATER_S)
        assert not used.is_new()
    assert caplog.text.count(FAILED) == 1
    used.change()
    await trio.sleep(LATER_S)
    assert used.is_new()


@KINDS
async def test_a_file_that_is_gone_changes_nothing_and_the_next_one_counts(
    kind: Make, tmp_path: Path, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    used = kind(tmp_path)
    used.path.unlink()
    for _ in range(3):
        await trio.sleep(LATER_S)
        assert not used.is_new()
    assert caplog.text.count(FAILED) == 1
    used.path.touch(0o600)
    used.change()
    await trio.sleep(LATER_S)
    assert used.is_new()


async def test_each_different_failure_is_named_once_and_that_the_file_is_as_before(
    tmp_path: Path, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "number"
    path.write_text("1")
    aside = tmp_path / "aside"
    read = Reloaded([path], lambda: int(path.read_text()))
    path.rename(aside)
    await seconds(read, 3)
    path.write_text("one")
    await seconds(read, 3)
    assert [r.getMessage().partition(FAILED)[2] for r in caplog.records] == [
        ": no such file or directory",
        ": invalid literal for int() with base 10: 'one'",
    ]
    aside.rename(path)
    await seconds(read, 3)
    assert len(caplog.records) == 3


async def seconds(read: Reloaded[int], count: int) -> None:
    for _ in range(count):
        await trio.sleep(LATER_S)
        assert read.value == 1


async def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, autojump_clock: object
) -> None:
    path = tmp_path / "text"
    path.write_text("before")
    interrupts: list[str] = []

    def interrupted() -> str:
        said = path.read_text()
        if interrupts:
            path.write_text(interrupts.pop())
        return said

    read = Reloaded([path], interrupted)
    path.write_text("half of it")
    interrupts.append("and all of it")
    await trio.sleep(LATER_S)
    assert read.value == "before"
    await trio.sleep(LATER_S)
    assert read.value == "and all of it"


@pytest.mark.parametrize("text", ["", "\n", "# no rules yet\n"])
def test_a_policy_or_enrolment_file_without_content_is_refused_at_the_start(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    written(path, text)
    with pytest.raises(ValueError, match='it has no rules; if that is meant, write: rules = "none"'):
        Policy.from_file(path)
    with pytest.raises(
        ValueError, match="it has no enrolment tokens; if nobody is to be let in, write: none"
    ):
        Enrolment(path)


async def test_a_word_says_that_a_file_is_meant_to_have_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    written(path, '# as yet\nrules = "none"\n')
    assert Policy.from_file(path).may_call(Identity("x-1", "x"), "a")
    written(path, "# nobody\nnone\n")
    assert Enrolment(path).why_not("x", "s" * 16) == "the enrolment token is wrong"


def test_at_the_start_a_file_has_to_be_there(tmp_path: Path) -> None:
    absent = tmp_path / "absent" / "file"
    for start in (
        lambda: Policy.from_file(absent),
        lambda: Enrolment(absent),
        Keys(path=absent).open,
        TlsConfig(cert_file=absent).server_contexts().check,
    ):
        with pytest.raises((OSError, StartError), match=r"[Nn]o such file"):
            start()
