"""`cpg-trio call`: each kind of method, and bad input of each kind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from cpg_trio import cli
from cpg_trio.cli._calling import NoHostError, call_of, perform
from cpg_trio.cli._errors import CommandError
from cpg_trio.cli._json_documents import InvalidJsonError
from cpg_trio.host import Enrolment, Host, HostConfig, PluginRules, Policy, Rules
from cpg_trio.http import ServeConfig, StartError, TlsConfig
from cpg_trio.rpc import Code, ConnectError, Context
from cpg_trio.rpc.dynamic import DescriptionError
from tests._gen.echo.v1 import echo_pb2 as pb
from tests.certificates import LOCAL, Files
from tests.cli.beside import beside
from tests.cli.ended import Ended, ended
from tests.plugin.running import echo_plugin, hosting, is_healthy, plugged, until
from tests.processes import assert_no_traceback
from tests.rpc.echo import Echo


def command(host_url: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "cpg_trio", "call", *words, "--host", host_url]


@asynccontextmanager
async def echoing(
    config: HostConfig | None = None, *, reflection: bool = True, echo: Echo | None = None
) -> AsyncIterator[tuple[Host, str]]:
    async with (
        hosting(config) as (host, url),
        plugged(echo_plugin(service=echo), url, reflection=reflection),
    ):
        await until(host, lambda: is_healthy(host, "echo"))
        yield host, url


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs the command, on a host at a URL."""
    return lambda url, *words: ended(capsys, "call", *words, "--host", url)


def test_each_kind_of_method_prints_its_answers_as_json_and_nothing_else(call: Callable[..., Ended]) -> None:
    echo = Echo()
    cases: Mapping[tuple[str, ...], list[object]] = {
        ("Echo", '{"text": "✓"}'): [{"text": "✓", "data": ""}],
        ("echo.v1.EchoService/Count", '{"to": 3}'): [{"number": 0}, {"number": 1}, {"number": 2}],
        ("EchoService.Sum", '{"number": 1}{"number": 41}'): [{"sum": 42}],
        ("HTTPChat", '{"text": "a"}\n{"text":\n "b"}'): [{"text": "a"}, {"text": "b"}],
    }
    with beside(echoing(echo=echo)) as (host, url):
        for words, answers in cases.items():
            done = call(url, "echo", *words)
            assert (done.status, done.err) == (0, "")
            assert [json.loads(line) for line in done.out.splitlines()] == answers
        assert {caller.name for ctx in echo.contexts if (caller := ctx.caller)} == {"cpg-trio-call"}
        # The identities have ended with the commands.
        assert not [name for name in host.identities.known() if name.startswith("cpg-trio-call")]


@pytest.mark.measured_processes
async def test_a_process_reads_messages_from_standard_input_and_prints_its_answers_and_nothing_else() -> None:
    texts = b'{"text": "a"}\n{"text":\n "b"}'
    async with echoing() as (_, url):
        done = await trio.run_process(
            command(url, "echo", "HTTPChat", "-"), stdin=texts, capture_stdout=True, capture_stderr=True
        )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"text": "a"}, {"text": "b"}]
    assert not done.stderr


def test_what_it_calls_with_is_told_and_passed_on(tmp_path: Path, call: Callable[..., Ended]) -> None:
    request = tmp_path / "request.json"
    request.write_text('{"text": "from a file"}')
    echo = Echo()
    with beside(echoing(echo=echo)) as (_, url):
        words = (
            "Echo",
            f"@{request}",
            "-v",
            "--as",
            "ada",
            "-H",
            "x-request-id: by-hand",
            "--timeout",
            "600",
        )
        done = call(url, "echo", *words)
    assert json.loads(done.out)["text"] == "from a file"
    [ctx] = echo.contexts
    assert ctx.caller is not None
    assert ctx.caller.name == "ada"
    assert ctx.request_headers["x-request-id"] == "by-hand"
    assert 0 < (ctx.timeout_ms or 0) <= 600_000
    outcome, ids = done.err.splitlines()
    assert outcome.startswith("ok in ")
    assert " by echo-plugin-" in outcome
    assert ids == f"request by-hand  trace {ctx.request_headers['traceparent'][3:35]}"


def test_methods_are_listed_and_described(call: Callable[..., Ended]) -> None:
    with beside(echoing()) as (_, url):
        listed = call(url, "echo")
        described = call(url, "echo", "Count", "--describe")
    assert listed.out.splitlines()[:5] == [
        "echo.v1.EchoService",
        "  Echo(EchoRequest) returns (EchoResponse)",
        '      {"text": string, "data": bytes} -> {"text": string, "data": bytes}',
        "  Count(CountRequest) returns (stream CountResponse)",
        '      {"to": int32} -> {"number": int32}',
    ]
    assert described.out.startswith("Count(CountRequest) returns (stream CountResponse)\n\n")
    assert "message echo.v1.CountRequest {\n  int32 to = 1;\n}" in described.out


async def in_process(url: str, service: str, method: str, message: str | None, **options: Any) -> str:
    """Do what the command does, in this process; return the line that it ends with."""
    given: dict[str, Any] = {"self_id": "cpg-trio-call", **options}
    try:
        await perform(
            call_of({}, host_url=url, service_type=service, method=method, message=message, **given)
        )
    except ConnectError as error:
        return f"{error.code.value}: {error.message}"
    except (CommandError, DescriptionError, InvalidJsonError, StartError) as error:
        return str(error)
    return ""


async def test_what_does_not_fit_is_one_line_that_says_what_and_what_to_do(tmp_path: Path) -> None:
    cases: Sequence[tuple[str, str, str | None, str]] = [
        (
            "echo",
            "Echo",
            '{"txt": "a"}',
            'the message is no echo.v1.EchoRequest: .* has no field named "txt"',
        ),
        ("echo", "Echo", "[]", "it has to be an object"),
        ("echo", "Echo", "{", "not JSON"),
        ("echo", "Echo", "{}{}", "takes one message, and there are 2"),
        ("echo", "Echo", f"@{tmp_path}/no", "cannot read .*/no: no such file"),
        ("echo", "Zzz", None, "there is echo.v1.EchoService/Echo, "),
        ("echo", "Sum", '{"number": 1}{"number": ""}', "number field"),
        ("a/b", "Echo", None, 'service type "a/b"'),
        ("nobody", "Echo", None, 'not_found: no providers for service "nobody"'),
        ("echo", "Echo", '{"text": "fail"}', "already_exists: there it is"),
        ("echo", "Count", '{"to": -1}', "internal: internal error"),
    ]
    async with echoing() as (_, url):
        for service, method, message, expected in cases:
            told = await in_process(url, service, method, message)
            assert re.search(expected, told, re.IGNORECASE), told
            assert "\n" not in told
        told = await in_process(url, "echo", "Echo", '{"text": "hang"}', timeout_s=0.2)
        assert told.startswith("deadline_exceeded: ")
        told = await in_process(url, "echo", "Echo", None, descriptor_set=Path(__file__))
        assert "is no FileDescriptorSet" in told
        told = await in_process(url, "echo", "Echo", None, self_id="a b")
        assert "self_id" in told


def test_bad_input_ends_the_command_with_a_status_of_its_own(call: Callable[..., Ended]) -> None:
    cases: Mapping[tuple[str, ...], tuple[int, str]] = {
        ("echo", "Echo", '{"text": 5}'): (2, "text field: expected string"),
        ("echo", "Eco"): (2, "did you mean echo.v1.EchoService/Echo?"),
        ("echo", "Echo", '{"text": "fail"}'): (1, "already_exists: there it is"),
    }
    with beside(echoing()) as (_, url):
        for words, (status, text) in cases.items():
            done = call(url, *words)
            assert done.status == status, (words, done)
            assert text in done.err
            assert len(done.err.splitlines()) == 1, done.err
            assert status == 1 or not done.out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--header", "nothing"], "--header is like 'name: value'"),
        (["--header", "Authorization: Bearer x"], "authorization is set by the call itself"),
        (["--timeout", "0"], "--timeout is a number of seconds above 0"),
        (["--host", "localhost:80"], "the host's URL"),
        (["--hots=http://localhost"], "there is no option --hots"),
    ],
)
def test_wrong_options_are_usage_errors(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["call", "echo", "Echo", *options])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert expected in told
    assert len(told.splitlines()) == 1


def test_a_host_that_is_not_there_is_named(call: Callable[..., Ended]) -> None:
    done = call("http://127.0.0.1:1", "echo", "Echo")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("cpg-trio: no host: ")
    assert "http://127.0.0.1:1" in done.err


def test_a_plugin_without_reflection_can_be_called_by_a_file_of_descriptors(
    tmp_path: Path, call: Callable[..., Ended]
) -> None:
    file = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    path = tmp_path / "echo.binpb"
    path.write_bytes(FileDescriptorSet(file=[file]).SerializeToString())
    with beside(echoing(reflection=False)) as (_, url):
        without = call(url, "echo", "Echo")
        done = call(url, "echo", "Echo", '{"text": "a"}', "--proto-descriptor", str(path))
    assert (without.status, without.out) == (1, "")
    assert without.err.startswith("unimplemented: ")
    assert "REFLECTION=true" in without.err
    assert json.loads(done.out)["text"] == "a"


def test_the_policy_of_the_host_holds(call: Callable[..., Ended]) -> None:
    policy = Policy(
        Rules(plugins={"cpg-trio-call": PluginRules(calls=[]), "ada": PluginRules(calls=["echo"])})
    )
    with beside(echoing(HostConfig(policy=policy))) as (_, url):
        refused = call(url, "echo", "Echo")
        assert (refused.status, refused.out) == (1, "")
        assert refused.err.startswith("permission_denied: ")
        assert call(url, "echo", "Echo", "--as", "ada").status == 0


async def test_a_host_with_enrolment_and_tls_lets_it_in_with_a_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Files.write(tmp_path, trustme.CA(), *LOCAL)
    enrolment = Enrolment({"cpg-trio-call": "t" * 32, "echo-plugin": "e" * 32})
    config = HostConfig(enrolment=enrolment, serve=ServeConfig(tls=files.config()))
    trusting_plugin = ServeConfig(tls=TlsConfig(ca_file=files.ca))
    async with (
        hosting(config) as (host, url),
        plugged(echo_plugin(), url, reflection=True, enrolment_token="e" * 32, serve=trusting_plugin),
    ):
        await until(host, lambda: is_healthy(host, "echo"))
        given: dict[str, Any] = {"host_url": url, "service_type": "echo", "method": "HTTPChat"}
        given |= {"message": '{"text": "a"}', "self_id": "cpg-trio-call"}
        trusting = {"TLS_CA": str(files.ca)}
        await perform(call_of({**trusting, "ENROLMENT_TOKEN": "t" * 32}, **given))
        assert json.loads(capsys.readouterr().out) == {"text": "a"}
        with pytest.raises(ConnectError) as caught:
            await perform(call_of(trusting, **given))
        assert caught.value.code in {Code.PERMISSION_DENIED, Code.UNAUTHENTICATED}
        with pytest.raises(NoHostError, match="certificate is not accepted"):
            await perform(call_of({}, **given))


@pytest.mark.measured_processes
async def test_answers_and_messages_of_a_stream_pass_as_they_come_and_ctrl_c_ends_it() -> None:
    async with echoing() as (host, url):
        process = await trio.lowlevel.open_process(
            command(url, "echo", "HTTPChat", "-v"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin
        assert process.stdout
        assert process.stderr
        with trio.fail_after(60):
            for text in ("one", "two"):
                await process.stdin.send_all(b'{"text": "%b"}\n' % text.encode())
                assert json.loads(await _line(process.stdout)) == {"text": text}
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
            told = (await process.stderr.receive_some()).decode()
        await process.stdin.aclose()
        await process.stdout.aclose()
        await process.stderr.aclose()
        assert told.startswith("canceled in ")
        assert_no_traceback(told)
        assert not [name for name in host.identities.known() if name.startswith("cpg-trio-call")]


async def _line(stream: trio.abc.ReceiveStream) -> bytes:
    """Return what is written up to the end of a line, which a pipe may pass in pieces."""
    line = b""
    while not line.endswith(b"\n"):
        more = await stream.receive_some()
        assert more, line
        line += more
    return line


class Hostile(Echo):
    async def echo(self, request: pb.EchoRequest, _ctx: Context, /) -> pb.EchoResponse:
        text = "\x1b]0;owned\x07\x9b31m\u202e\r\nforged"
        if request.text:
            raise ConnectError(Code.ABORTED, text)
        return pb.EchoResponse(text=text)


def test_a_terminal_is_told_nothing_by_a_plugin(call: Callable[..., Ended]) -> None:
    with beside(echoing(echo=Hostile())) as (_, url):
        answered = call(url, "echo", "Echo")
        failed = call(url, "echo", "Echo", '{"text": "x"}')
    assert json.loads(answered.out)["text"].startswith("\x1b]0;owned")
    for said in (answered.out, failed.err):
        assert said.count("\n") == 1
        assert said[:-1].isprintable(), said
    assert failed.err.startswith("aborted: \\x1b]0;owned")
