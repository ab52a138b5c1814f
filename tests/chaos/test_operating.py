"""What an operator asks of a host in trouble, answered from the terminal: real processes, real commands."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cpg_trio import cli
from cpg_trio.cli._app import COMMANDS, Command
from tests.cli.processes import ADMIN_TOKEN, ROOT, Platform, eventually, process, status_of
from tests.processes import assert_no_traceback

LEASE_S = 3.0


class Terminal:
    """Runs command lines in this process, and has what they write."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def run(self, *words: str) -> tuple[int, str, str]:
        """Return the exit status, stdout and stderr."""
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        written = self._capsys.readouterr()
        return int(ended.value.code or 0), written.out, written.err

    def rows(self, *words: str) -> list[str]:
        """Return the rows of the table that a command writes."""
        status, out, err = self.run(*words)
        assert status == 0, err
        return out.splitlines()[1:]

    def json(self, *words: str) -> dict[str, list[dict[str, object]]]:
        status, out, err = self.run(*words, "--json")
        assert status == 0, err
        return dict(json.loads(out))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A host whose logger was killed, after calls that went well, calls that failed, and one refused."""
    folder = tmp_path_factory.mktemp("platform")
    socket = folder / "admin.sock"
    environment = {
        "ADMIN_SOCKET": str(socket),
        "ADMIN_BIND": "127.0.0.1:0",
        "ADMIN_TOKEN": ADMIN_TOKEN,
        "LEASE_S": str(LEASE_S),
        "CPG_HOST_KEY_FILE": str(folder / "host.key"),
    }
    with ExitStack() as stack:
        host = stack.enter_context(process(folder, "host", "cpg_trio", "host", environment=environment))
        url = host.url()
        plugins = {
            name: stack.enter_context(
                process(folder, name, f"cpg_trio.demo.{name}", environment={"HOST_URL": url})
            )
            for name in ("logger", "storage", "api")
        }
        platform = Platform(folder, host, url, socket, plugins)
        eventually(lambda: platform.call_api("Shorten?url=https://example.com/") == 200, "a whole platform")
        assert platform.call_api("Resolve?code=nowhere") == 404
        assert status_of(f"{url}/services/storage/nobody/Get") == 401
        plugins["logger"].end(signal.SIGKILL)
        host.until(r"logger-plugin-\w+ has lapsed: no sign of life")
        yield platform


@pytest.fixture
def terminal(
    platform: Platform, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Terminal:
    monkeypatch.setenv("ADMIN_SOCKET", str(platform.socket))
    return Terminal(capsys)


def test_whether_all_is_well_is_in_the_first_line_and_in_the_exit_status(terminal: Terminal) -> None:
    status, out, _ = terminal.run("status")
    assert status == 3
    assert re.match(r"(degraded|unhealthy) for [\d]+ s: storage-plugin waits for logger \(", out)
    assert re.search(r"\n  what to do  cpg-trio plugins logger-plugin", out)


def test_which_plugin_is_down_and_since_when(terminal: Terminal) -> None:
    (row,) = terminal.rows("plugins", "--all", "--filter", "logger-plugin")
    assert re.match(r"logger-plugin-\w{16}  (lapsed|gone) +\d+ s ", row)
    status, out, _ = terminal.run("plugins", "logger-plugin")
    assert status == 0
    assert re.match(r"(lapsed|gone) for \d+ s: logger-plugin: no (heartbeat|sign of life)", out)


def test_how_many_are_degraded_and_why(terminal: Terminal) -> None:
    (plugin,) = terminal.json("plugins", "--state", "degraded")["plugins"]
    assert plugin["name"] == "storage-plugin"
    assert "1 degraded" in terminal.run("status")[1]
    _, out, _ = terminal.run("plugins", "storage-plugin")
    assert re.match(r"degraded for \d+ s: storage-plugin: waiting for logger: .+\n", out)
    assert "requires   logger" in out


def test_who_calls_whom(terminal: Terminal) -> None:
    edges = terminal.json("graph")["edges"]
    assert {(e["caller"], e["serviceType"]) for e in edges} == {
        ("api-plugin", "storage"),
        ("storage-plugin", "logger"),
    }
    assert any(re.match(r"api-plugin +storage-plugin +storage ", row) for row in terminal.rows("graph"))


def test_which_calls_fail_and_with_what(terminal: Terminal) -> None:
    failed = [row for row in terminal.rows("calls", "--failed") if " not_found " in row]
    assert failed
    assert re.match(r"\d{4}-\d\d-\d\dT\S+Z  api-plugin-\w{16}  storage-plugin-\w{16}  Get ", failed[0])
    series = terminal.json("calls", "storage")["series"]
    assert {("Store", "ok"), ("Get", "not_found")} <= {(each["method"], each["code"]) for each in series}


def test_what_is_slow(terminal: Terminal) -> None:
    rows = terminal.rows("calls", "--slow")
    assert re.match(r" *[\d.]+ (µs|ms|s)  \d{4}-", rows[0])
    durations = [float(str(each["duration"])[:-1]) for each in terminal.json("calls")["slowest"]]
    assert durations == sorted(durations, reverse=True)


def test_who_was_refused(terminal: Terminal) -> None:
    _, out, _ = terminal.run("events", "--kind", "refused")
    assert re.match(r"\d{4}-\S+Z  refused ", out)


def test_events_for_programs_are_one_document_a_line(terminal: Terminal) -> None:
    _, out, _ = terminal.run("events", "logger-plugin", "--json")
    kinds = [json.loads(line)["kind"] for line in out.splitlines()]
    assert kinds[:2] == ["EVENT_KIND_ADMITTED", "EVENT_KIND_REGISTERED"]


def test_services_configuration_and_capabilities_are_told(terminal: Terminal) -> None:
    assert any(re.match(r"storage  degraded +storage-plugin-", row) for row in terminal.rows("services"))
    assert any(row.startswith("logger ") for row in terminal.rows("capabilities"))
    assert terminal.run("config", "--changed")[0] == 0
    assert ADMIN_TOKEN not in terminal.run("config")[1]


def test_a_plugin_is_drained_and_gets_calls_again(terminal: Terminal) -> None:
    status, out, _ = terminal.run("drain", "api-plugin", "--yes", "--reason", "a test")
    assert status == 0
    assert re.fullmatch(r"api-plugin-\w{16} gets no new calls; \d+ are in flight\n", out)
    assert [row for row in terminal.rows("plugins", "--state", "draining") if "a test" in row]
    assert terminal.run("drain", "api-plugin", "--undo")[1].endswith(" gets calls again\n")
    assert not terminal.rows("plugins", "--state", "draining")
    assert set(terminal.json("drain", "api-plugin", "--yes")) == {"plugin", "callsInFlight"}
    assert terminal.run("drain", "api-plugin", "--undo")[0] == 0


def test_what_the_host_logs_is_changed_for_a_while(terminal: Terminal) -> None:
    status, out, _ = terminal.run("log-level", "debug", "cpg_trio.router", "--for", "5m")
    assert status == 0
    assert re.fullmatch(r"cpg_trio\.router: debug until \S+\n", out)
    assert terminal.run("log-level", "reset", "cpg_trio.router")[1] == "cpg_trio.router: as before\n"


def test_each_file_that_is_read_again_is_told(terminal: Terminal, platform: Platform) -> None:
    rows = terminal.rows("reload")
    assert [row.split() for row in rows if "host.key" in row] == [
        ["CPG_HOST_KEY_FILE", str(platform.folder / "host.key"), "read"]
    ]


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (("plugins",), {"plugins"}),
        (("plugins", "storage-plugin"), {"plugin", "history", "edges", "events", "grants", "calls"}),
        (("services",), {"services"}),
        (("graph",), {"nodes", "edges"}),
        (("calls", "storage"), {"series", "inFlight", "failures", "slowest"}),
        (("capabilities",), {"capabilities", "grants"}),
        (("config",), {"settings"}),
        (("reload",), {"files"}),
        (("log-level", "reset"), set()),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_programs_get_one_document_with_all_fields(
    terminal: Terminal, words: tuple[str, ...], fields: set[str]
) -> None:
    assert fields <= set(terminal.json(*words))


def test_the_calls_in_flight_are_a_table_of_their_own(terminal: Terminal) -> None:
    assert terminal.run("calls", "--in-flight")[1].startswith("FOR  CALLER  PROVIDER  METHOD")


@pytest.mark.parametrize("command", [("drain", "api"), ("shutdown", "api"), ("revoke", "api")])
def test_nothing_is_done_without_a_terminal_to_confirm_it_or_yes(
    terminal: Terminal, command: tuple[str, ...]
) -> None:
    status, _, err = terminal.run(*command)
    assert (status, err.count("\n")) == (2, 1)
    assert "say --yes" in err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_help_of_each_command_fits_a_screen_and_has_examples(
    terminal: Terminal, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = terminal.run(command.name, "--help")
    assert (status, len(out.splitlines()) <= 40) == (0, True)
    assert max(map(len, out.splitlines())) <= 80
    assert out.startswith(f"usage: cpg-trio {command.name}")
    assert "\nExamples:\n  cpg-trio " in out


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("plugins", "nobody"), 1, "no plugin is called 'nobody'"),
        (("plugins", "--state", "ill"), 2, "there is no state 'ill': it is one of healthy,"),
        (("plugins", "--sate", "gone"), 2, "Did you mean --state?"),
        (("events", "--kind", "refusal"), 2, "there is no kind of event 'refusal'"),
        (("drain", "nobody", "--yes"), 1, "no plugin is called 'nobody'"),
        (("drain",), 2, "parameter plugin requires an argument"),
        (("shutdown", "api", "--grace", "soon"), 2, "--grace must be a time such as 30s"),
        (("revoke",), 2, "name a plugin, or a grant with --grant"),
        (("revoke", "--grant", "none", "--yes"), 1, "grant"),
        (("log-level", "loud"), 2, '"debug", "info"'),
        (("log-level", "debug", "--for", "10"), 2, "--for must be a time such as 30s"),
        (("top",), 2, "top needs a terminal"),
        (("top", "--every", "0"), 2, "--every must be 0.2 or more"),
        (("status", "now"), 2, "there is no place for 'now'"),
        (("graph", "--jsno"), 2, "Did you mean --json?"),
        (("completion", "tcsh"), 2, '"bash", "zsh", "fish"'),
        (("stauts",), 2, 'Did you mean "status"?'),
    ],
)
def test_bad_input_is_one_line_that_says_what_and_what_to_do(
    terminal: Terminal, words: tuple[str, ...], status: int, said: str
) -> None:
    ended, out, err = terminal.run(*words)
    assert (ended, out, err.count("\n")) == (status, "", 1), err
    assert said in err
    assert err.startswith("cpg-trio")


# The admin addresses with a token


def test_the_token_of_the_host_opens_its_admin_url(
    terminal: Terminal, platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ADMIN_URL", platform.admin_url)
    wanted = f"the host at {platform.admin_url} wants its admin token: set ADMIN_TOKEN or ADMIN_TOKEN_FILE"
    assert terminal.run("services") == (1, "", f"cpg-trio: {wanted}\n")
    monkeypatch.setenv("ADMIN_TOKEN", "wrong" * 10)
    status, _, err = terminal.run("services")
    assert (status, err.count("\n")) == (1, 1)
    assert "does not know this token" in err
    monkeypatch.delenv("ADMIN_TOKEN")
    tokens = tmp_path / "token"
    tokens.write_text(f"# of the host\n{ADMIN_TOKEN}\n")
    monkeypatch.setenv("ADMIN_TOKEN_FILE", str(tokens))
    assert terminal.run("services")[0] == 0


def test_the_port_of_the_plugins_is_no_admin_address(terminal: Terminal, platform: Platform) -> None:
    status, _, err = terminal.run("status", "--admin", platform.url)
    assert (status, err.count("\n")) == (1, 1)
    assert "does not answer as the admin service of cpg-trio" in err


# Terminals, pipes and signals


def _command(platform: Platform, *words: str) -> tuple[list[str], dict[str, str]]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ADMIN_SOCKET": str(platform.socket),
        "TERM": "xterm",
    }
    environment.pop("NO_COLOR", None)
    return [sys.executable, "-m", "cpg_trio", *words], environment


def _read_until(terminal: int, text: bytes) -> bytes:
    """Return what is written to a terminal, up to a text."""
    shown = b""
    while text not in shown:
        assert select.select([terminal], [], [], 60)[0], f"no {text!r} in {shown!r}"
        shown += os.read(terminal, 65536)
    return shown


@pytest.mark.parametrize(("key", "status"), [(b"q", 0), (b"", 130)])
def test_top_fits_the_terminal_and_leaves_it_as_it_was(platform: Platform, key: bytes, status: int) -> None:
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(terminal)
    command, environment = _command(platform, "top")
    with subprocess.Popen(
        command,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment,
    ) as child:
        shown = _read_until(main, b"q ends")
        if key:
            os.write(main, key)
        else:
            child.send_signal(signal.SIGINT)  # as the terminal does at Ctrl-C
        shown += _read_until(main, b"\x1b[?1049l")  # the other screen is left
        assert child.wait(60) == status
    assert termios.tcgetattr(terminal) == before
    os.close(main)
    os.close(terminal)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode().replace("\x1b[H", "\n"))
    assert "storage-plugin" in text
    assert max(map(len, text.splitlines())) <= 80
    assert_no_traceback(text, "top")


@pytest.mark.parametrize(
    ("answer", "status", "said"), [(b"n\n", 1, "nothing was done"), (b"y\n", 0, "are in flight")]
)
def test_on_a_terminal_it_is_asked_before_a_plugin_is_drained(
    platform: Platform, terminal: Terminal, answer: bytes, status: int, said: str
) -> None:
    main, tty = pty.openpty()
    command, environment = _command(platform, "drain", "api-plugin")
    with subprocess.Popen(command, stdin=tty, stdout=tty, stderr=tty, env=environment) as child:
        shown = _read_until(main, b"[y/N] ")
        os.write(main, answer)
        shown += _read_until(main, said.encode())
        assert child.wait(60) == status
    os.close(main)
    os.close(tty)
    assert re.search(r"drain api-plugin-\w{16} \(healthy for .*, .*/s calls to it\)\?", shown.decode())
    terminal.run("drain", "api-plugin", "--undo")


def test_a_shell_completes_commands_and_the_names_of_plugins(platform: Platform, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    command, environment = _command(platform, "completion", "bash")
    script = tmp_path / "completion.bash"
    script.write_bytes(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    complete = """
        source "$1"; cpg-trio() { "$PYTHON" -m cpg_trio "$@"; }
        ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
                $(complete -p cpg-trio | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo "${COMPREPLY[@]}"; }
        ask cpg-trio plu; ask cpg-trio plugins stor; ask cpg-trio log-level d
    """
    done = subprocess.run(
        [bash, "--norc", "-c", complete, "bash", str(script)],
        env={**environment, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["plugins", "storage-plugin", "debug"]


@pytest.mark.parametrize("words", [("plugins", "--all"), ("events", "--follow"), ("status", "--json")])
def test_a_reader_that_leaves_ends_a_command_quietly(platform: Platform, words: tuple[str, ...]) -> None:
    command, environment = _command(platform, *words)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command, env=environment, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_events_are_followed_across_a_restart_of_the_host(tmp_path: Path) -> None:
    environment = {"ADMIN_SOCKET": str(tmp_path / "a.sock")}
    with ExitStack() as stack:
        first = stack.enter_context(process(tmp_path, "first", "cpg_trio", "host", environment=environment))
        first.until("admin service on")
        follow = stack.enter_context(
            process(tmp_path, "events", "cpg_trio", "events", "--follow", "--json", environment=environment)
        )
        follow.until("EVENT_KIND_HOST")
        first.end()
        follow.until("waiting for the host to come back")
        second = stack.enter_context(process(tmp_path, "second", "cpg_trio", "host", environment=environment))
        follow.until("the host is there again")
        follow.until(re.escape(second.url()))
        assert follow.end(signal.SIGINT) == 130
        assert_no_traceback(follow.log.read_text(), "events")


# Last, since plugins come and go


def test_an_ambiguous_name_lists_what_it_may_mean(terminal: Terminal, platform: Platform) -> None:
    environment = {"HOST_URL": platform.url}
    with process(platform.folder, "second", "cpg_trio.demo.api", environment=environment):
        eventually(lambda: len(terminal.rows("plugins", "--filter", "api-plugin")) == 2, "a second one")
        status, _, err = terminal.run("plugins", "api-plugin")
    assert status == 1
    assert len(re.findall(r"api-plugin-\w{16}", err)) == 2


def test_a_plugin_is_asked_to_stop_and_another_loses_its_identity(
    terminal: Terminal, platform: Platform
) -> None:
    status, out, _ = terminal.run("revoke", "storage-plugin", "--yes", "--reason", "stolen")
    assert status == 0
    assert re.fullmatch(r"storage-plugin-\w{16} has no identity any more, and gets no calls\n", out)
    assert "revoked" in terminal.run("events", "--kind", "revoked")[1]
    first_api = platform.host.until(r"api-plugin is (api-plugin-\w{16})")[1]
    status, out, _ = terminal.run("shutdown", first_api, "--grace", "1s", "--yes")
    assert (status, out.endswith(" was asked to stop within 1s\n")) == (0, True)
    platform.plugins["api"].process.wait(60)
