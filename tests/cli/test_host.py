"""The command `host`: its flags, its file, and what it says of them before it starts."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cpg_trio.cli._host import TABLE
from cpg_trio.host import host_binds, host_config
from cpg_trio.process import log_from_environment
from cpg_trio.settings import settle
from cpg_trio.variables import SECRETS, flag_of
from tests.cli.ended import Ended, ended
from tests.processes import running

EXAMPLE = Path(__file__).parents[2] / "docs/reference/host.toml"
SECRET = "s3cret-" * 6


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TABLE:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def ran(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Run `cpg-trio host`; return its status and what it wrote."""
    done = ended(capsys, "host", *map(str, words))
    return done.status, done.out, done.err


def checked(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, dict[str, Any]]:
    status, out, err = ran(capsys, "--check", "--json", "--port", "0", *words)
    assert not err
    told: dict[str, Any] = json.loads(out)
    assert told["ok"] == (not told["errors"]) == (status == 0)
    return status, told


def test_the_help_fits_a_screen_and_another_has_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = ran(capsys, "--help")
    assert (status, "cpg-trio host --port 9000" in out) == (0, True)
    assert len(out.splitlines()) <= 32
    assert max(map(len, out.splitlines())) <= 80
    status, out, _ = ran(capsys, "--help-all")
    assert status == 0
    for name, text in TABLE.items():
        label = name if name in SECRETS else f"{flag_of(name)}, {name}"
        assert f"  {label}\n    {text[:30]}" in out


def test_each_setting_but_secrets_has_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    words = list[str]()
    for name in TABLE.keys() - SECRETS:
        words += [flag_of(name)] if TABLE[name].startswith("true: ") else [flag_of(name), "x"]
    _, out, _ = ran(capsys, "--check", "--json", *words)
    sources = {each["name"]: each["source"] for each in json.loads(out)["settings"]}
    assert {sources[name] for name in TABLE.keys() - SECRETS} == {"flag"}
    for name in SECRETS & TABLE.keys():
        status, out, err = ran(capsys, "--check", "--json", flag_of(name), "x")
        assert (status, out) == (2, "")
        assert f"Unknown option: {flag_of(name)}" in err
        assert err.count("\n") == 1


async def test_a_host_uses_what_flags_environment_and_file_say(tmp_path: Path) -> None:
    file = tmp_path / "host.toml"
    file.write_text('lease_s = 7\nlog_format = "text"\nbind = ["127.0.0.1"]\nadmin_socket = "off"')
    words = "cpg_trio", "host", "--config", str(file), "--port", "0"
    async with running(*words, environment={"LOG_FORMAT": "json", "PORT": "1"}) as host:
        line = await host.until(r".*host listening on http://127\.0\.0\.1:\d+.*")
        assert json.loads(line[0])["plugin"] == "host"
        assert await host.end(signal.SIGTERM) == 0


def test_a_check_tells_each_setting_with_its_value_and_source(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "host.toml"
    file.write_text('lease_s = 7\nselection = { storage = "random" }')
    monkeypatch.setenv("ADMIN_TOKEN", SECRET)
    monkeypatch.setenv("PROT", "1")
    status, told = checked(capsys, "--config", file, "--allow-plaintext")
    assert status == 0
    settings = {each["name"]: (each["value"], each["source"]) for each in told["settings"]}
    assert list(settings) == list(TABLE)
    assert settings["LEASE_S"] == ("7", "file")
    assert settings["SELECTION"] == ("storage=random", "file")
    assert settings["ALLOW_PLAINTEXT"] == ("true", "flag")
    assert settings["ADMIN_TOKEN"] == ("(secret)", "environment")
    assert settings["MAX_CONNECTIONS"] == ("10000", "default")
    assert told["warnings"][0].startswith("PROT in the environment")
    status, out, _ = ran(capsys, "--check", "--config", file)
    assert (status, out.splitlines()[0]) == (0, "a host would use this")
    assert re.search(r"^LEASE_S +7 +file ", out, re.MULTILINE)
    assert SECRET not in out


def test_a_check_finds_all_that_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    policy, state = tmp_path / "policy.toml", tmp_path / "state.sqlite3"
    policy.write_text("x")
    state.write_text("this is not a database of SQLite")
    files = "--policy-file", policy, "--state-path", state, "--tls-ca", "/nowhere.pem"
    status, told = checked(capsys, "--lease-s", "soon", "--bind", "0.0.0.0", *files)
    assert status == 1
    found = "\n".join(told["errors"])
    for said in (
        "LEASE_S must be a number of seconds above 0, not 'soon' (LEASE_S is --lease-s)",
        f"POLICY_FILE: {policy}: ",
        f"cannot keep the host's state in {state}: it is not a state file",
        "the host would listen on 0.0.0.0:0 without TLS",
        "cannot use /nowhere.pem for TLS: no such file or directory",
    ):
        assert said in found
    assert len(told["errors"]) == 5


def test_a_check_makes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert checked(capsys, "--state-path", tmp_path / "state.sqlite3")[0] == 0
    assert list(tmp_path.iterdir()) == []
    [no_state, no_key] = checked(capsys, "--state-path", tmp_path / "away" / "state")[1]["errors"]
    assert "no such file or directory" in no_key
    assert "no such file or directory" in no_state
    key = tmp_path / "key"
    key.write_text(SECRET)
    key.chmod(0o644)
    [public] = checked(capsys, "--cpg-host-key-file", key)[1]["errors"]
    assert "everybody may read it" in public
    assert SECRET not in public
    key.chmod(stat.S_IRUSR)
    assert checked(capsys, "--cpg-host-key-file", key)[0] == 0


def test_a_port_that_is_in_use_is_a_warning_and_an_address_of_another_machine_an_error(
    capsys: pytest.CaptureFixture[str], taken: int
) -> None:
    status, told = checked(capsys, "--metrics-bind", f"127.0.0.1:{taken}")
    assert status == 0
    assert f"cannot listen on 127.0.0.1:{taken}: address already in use" in told["warnings"][0]
    [error] = checked(capsys, "--probe-port", "1", "--probe-bind", "192.0.2.1")[1]["errors"]
    assert "cannot listen on 192.0.2.1:1" in error


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--lease", "5"], 2, r"cpg-trio host: Unknown option: --lease. Did you mean --lease-s\? \(see"),
        (["--lease-s"], 2, "cpg-trio host: .*--lease-s requires an argument"),
        (["--config", "/nowhere.toml"], 1, "cpg-trio: /nowhere.toml: no such file or directory"),
        (["--json"], 2, "cpg-trio: --json is for --check"),
        (["--log-level", "loud"], 1, "cpg-trio: LOG_LEVEL must be .*LOG_LEVEL is --log-level"),
    ],
)
def test_a_wrong_command_line_ends_with_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str
) -> None:
    done = ended(capsys, "host", *words)
    assert (done.status, done.out, done.err.count("\n")) == (status, "", 1)
    assert re.match(said, done.err)


def test_a_wrong_value_ends_a_host_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    said = "LEASE_S must be a number of seconds above 0, not 'soon' (LEASE_S is --lease-s)\n"
    assert ended(capsys, "host", "--lease-s", "soon") == Ended(1, "", said)


def test_the_example_file_has_each_setting_with_its_meaning() -> None:
    blocks = re.findall(r"((?:^# .*\n)+)^#(\w+) = (.*)$", EXAMPLE.read_text(), re.MULTILINE)
    told = {name.upper(): " ".join(text.replace("# ", "").split()) for text, name, _ in blocks}
    assert told == TABLE
    assert list(told) == list(TABLE)
    assert tomllib.loads(EXAMPLE.read_text()) == {}  # all of it is a comment


def test_each_value_of_the_example_file_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"policy.toml": 'rules = "none"', "enrolment": f"storage-plugin {SECRET}", "admin.token": SECRET}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    for key, value in re.findall(r"^#(\w+) = (.*)$", EXAMPLE.read_text(), re.MULTILINE):
        file = tmp_path / "host.toml"
        needs = {"tls_key": 'tls_cert = "x"\n', "tls_clients": 'tls_cert = "x"\ntls_ca = "x"\n'}
        needs["admin_bind"] = f'admin_token = "{SECRET}"\n'
        needs["state_url"] = f'cpg_host_key = "{SECRET}"\n'
        file.write_text(f"{needs.get(key, '')}{key} = {value}")
        file.chmod(0o600)
        environment = settle(TABLE, {}, {}, file).environment
        host_config(environment)
        host_binds(environment)
        log_from_environment(environment)
