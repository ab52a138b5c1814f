"""Where commands look for the admin service of a host, and what they say if there is none."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cpg_trio import cli
from cpg_trio.cli._admin_address import AdminAddress, find_admin
from cpg_trio.cli._errors import CommandError
from tests.plugin.running import unused_port


@pytest.fixture
def folder() -> Iterator[Path]:
    """The directory of admin sockets of a user: its path is short, as that of a Unix socket has to be."""
    with TemporaryDirectory(prefix="cpg-") as runtime:
        folder = Path(runtime) / "cpg-trio"
        folder.mkdir(0o700)
        yield folder


@pytest.fixture
def listening() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _listen(stack: ExitStack, path: Path) -> Path:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.bind(str(path))
    sock.listen()
    return path


def test_the_option_comes_before_the_url_the_socket_and_the_port(folder: Path) -> None:
    environment = {
        "ADMIN_URL": "https://host.example:9090/",
        "ADMIN_SOCKET": "/run/{port}.sock",
        "PORT": "81",
        "XDG_RUNTIME_DIR": str(folder.parent),
    }
    assert find_admin("unix:/a.sock", environment) == AdminAddress(socket=Path("/a.sock"))
    assert find_admin("/a.sock", environment) == AdminAddress(socket=Path("/a.sock"))
    assert find_admin("http://localhost:1", environment) == AdminAddress(url="http://localhost:1")
    assert find_admin("", environment) == AdminAddress(url="https://host.example:9090")
    del environment["ADMIN_URL"]
    assert find_admin("", environment) == AdminAddress(socket=Path("/run/81.sock"))
    environment["ADMIN_SOCKET"] = "off"
    assert find_admin("", environment) == AdminAddress(socket=folder / "81.sock")


@pytest.mark.parametrize("url", ["http://127.0.0.1:81", "http://localhost:81/", "https://[::1]:81"])
def test_the_url_of_a_host_on_this_machine_comes_before_a_port(folder: Path, url: str) -> None:
    environment = {"HOST_URL": url, "PORT": "8090", "XDG_RUNTIME_DIR": str(folder.parent)}
    assert find_admin("", environment) == AdminAddress(socket=folder / "81.sock")


@pytest.mark.parametrize(
    "url", ["http://host:81", "http://127.0.0.1", "http://127.0.0.1:x", "http://a:1,http://b:2"]
)
def test_the_url_of_another_host_says_nothing_of_this_machine(folder: Path, url: str) -> None:
    environment = {"HOST_URL": url, "PORT": "8090", "XDG_RUNTIME_DIR": str(folder.parent)}
    assert find_admin("", environment) == AdminAddress(socket=folder / "8090.sock")


def test_without_a_port_it_is_the_usual_socket_or_the_only_one(folder: Path, listening: ExitStack) -> None:
    environment = {"XDG_RUNTIME_DIR": str(folder.parent)}
    (folder / "70.sock").touch()  # it is none
    other = _listen(listening, folder / "81.sock")
    assert find_admin("", environment).socket == other
    usual = _listen(listening, folder / "8080.sock")
    assert find_admin("", environment).socket == usual


def test_several_hosts_are_listed(folder: Path, listening: ExitStack) -> None:
    first, second = (_listen(listening, folder / name) for name in ("81.sock", "82.sock"))
    with pytest.raises(CommandError, match="several hosts run here: ") as refused:
        find_admin("", {"XDG_RUNTIME_DIR": str(folder.parent)})
    assert f"{first}, {second}; name the host with --admin" in str(refused.value)


@pytest.mark.parametrize("port", [{}, {"PORT": "8080"}])
def test_sockets_where_others_may_write_are_not_trusted(
    folder: Path, listening: ExitStack, port: dict[str, str]
) -> None:
    _listen(listening, folder / "8080.sock")
    folder.chmod(0o777)
    with pytest.raises(CommandError, match="are not trusted: others may write in"):
        find_admin("", {"XDG_RUNTIME_DIR": str(folder.parent), **port})


def _error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the only line that a command writes before it ends with status 1."""
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    written = capsys.readouterr()
    assert (ended.value.code, written.out, written.err.count("\n")) == (1, "", 1)
    return written.err


@pytest.fixture
def no_host(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ADMIN_URL", "ADMIN_SOCKET", "ADMIN_TOKEN", "ADMIN_TOKEN_FILE", "PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder.parent))
    return folder


COMMANDS = [
    ("status",),
    ("plugins",),
    ("services",),
    ("graph",),
    ("calls",),
    ("events", "--follow"),
    ("capabilities",),
    ("config",),
    ("drain", "x", "--yes"),
    ("shutdown", "x", "--yes"),
    ("revoke", "x", "--yes"),
    ("log-level", "debug"),
    ("reload",),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_each_command_says_where_it_looked_for_a_host(
    no_host: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    said = _error(capsys, *command)
    assert said.startswith(f"cpg-trio: no host answers: tried {no_host}/8080.sock and the other sockets in")
    assert "start a host with cpg-trio host, or name the host with --admin" in said


@pytest.mark.usefixtures("no_host")
def test_what_is_wrong_with_an_address_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = folder / "ended.sock"
    with ExitStack() as stack:
        _listen(stack, ended)
    assert "the host that made this socket has ended" in _error(capsys, "status", "--admin", str(ended))
    assert "there is no such socket" in _error(capsys, "status", "--admin", str(folder / "none.sock"))
    assert "it is not a socket" in _error(capsys, "status", "--admin", str(folder))
    closed = f"http://127.0.0.1:{unused_port()}"
    assert f"no host answers at {closed}: " in _error(capsys, "status", "--admin", closed)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every socket")
@pytest.mark.usefixtures("no_host")
def test_another_users_socket_is_denied(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as stack:
        _listen(stack, folder / "a.sock").chmod(0)
        assert "permission denied; only the user of the host" in _error(
            capsys, "status", "--admin", str(folder / "a.sock")
        )


@pytest.mark.usefixtures("no_host")
def test_the_token_is_not_sent_where_the_network_can_read_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "t" * 32)
    said = _error(capsys, "status", "--admin", "http://192.0.2.1:9090")
    assert "the network could read the admin token on its way to http://192.0.2.1:9090: use https" in said
    assert "t" * 32 not in said


@pytest.mark.usefixtures("no_host")
def test_a_url_that_is_none_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", "--admin", "http://a b"])
    assert ended.value.code == 2
    assert "the address of the admin service is not valid" in capsys.readouterr().err
