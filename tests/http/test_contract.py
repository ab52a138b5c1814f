"""What every driver of the server does alike: each behaviour once, against each of them.

What belongs to one protocol only is in `test_server`; what a message may look like is in `test_verdicts`.
"""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from cpg_trio.asgi import (
    App,
    ClientDisconnectedError,
    Receive,
    ResponseAbortedError,
    Scope,
    Send,
    note_message,
    note_proved,
    send_response,
    send_text,
)
from cpg_trio.http import ServeConfig, reactor
from cpg_trio.http.channel import SocketChannel
from cpg_trio.http.server.browsers import BrowserGuard
from tests import _wire
from tests._wire import connect, socket_of
from tests.certificates import Files
from tests.http.apps import START, Endless, Held, Watching, chunk, echo, hello, read_body, routed
from tests.http.drivers import (
    PLAIN,
    TLS,
    Call,
    CutError,
    Driver,
    Fields,
    Up,
)

Clock = trio.testing.MockClock

MOMENT = 0.01
END = {"type": "http.response.body", "body": b"", "more_body": False}
A_WEEK_S = 7 * 86_400.0


@pytest.fixture(params=[*PLAIN, *TLS], ids=lambda driver: driver.name)
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, certificates: Files) -> Driver:
    driver: Driver = request.param
    if not driver.has_epoll:
        monkeypatch.setattr(reactor, "_HAS_EPOLL", False)
    if driver.tls:
        monkeypatch.setattr(_wire, "TRUST", [certificates.client_context()])
        return attrs.evolve(driver, settings={"tls": certificates.config()})
    return driver


def only(*drivers: Driver) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("driver", drivers, indirect=True, ids=lambda driver: driver.name)


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged: nothing, but for what a test takes out by `logged`."""
    with caplog.at_level(logging.WARNING):
        yield caplog
    assert [record.getMessage() for record in caplog.get_records("call")] == []


def logged(log: pytest.LogCaptureFixture) -> list[str]:
    messages = log.messages
    log.clear()
    return messages


def responding(*messages: dict[str, Any], error: Exception | None = None) -> Any:
    """An application that sends these messages, and raises then if there is an error."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        if error is not None:
            raise error

    return app


def start(*fields: tuple[bytes, bytes], status: int = 200, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(fields), **more}


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


class Keeping:
    """An application that keeps the scopes of its calls, and answers hello."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        await hello(scope, receive, send)


# What an application is told


async def test_the_scope_names_the_request(driver: Driver) -> None:
    app = Keeping()
    async with driver.serving(app) as up, up.connect() as peer:
        await peer.call("/a%20b?c=d", ("X-One", "1") if driver.version == "1.1" else ("x-one", "1"))
    (scope,) = app.scopes
    assert (scope["type"], scope["method"], scope["http_version"]) == ("http", "GET", driver.version)
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=d")
    assert scope["root_path"] == ""
    assert (b"x-one", b"1") in scope["headers"]
    assert bool(scope["state"]["peer_names"]) == driver.tls  # those of the client's certificate


async def test_the_scope_names_both_ends_of_the_connection(driver: Driver) -> None:
    app = Keeping()
    async with driver.serving(app) as up, up.connect() as peer:
        await peer.call()
        assert socket_of(peer.stream).getsockname() == app.scopes[0]["client"]
        host, port = app.scopes[0]["server"]
        assert f"{app.scopes[0]['scheme']}://{host}:{port}" == up.url


async def test_the_scope_says_whether_there_is_tls(driver: Driver) -> None:
    app = Keeping()
    async with driver.serving(app) as up, up.connect() as peer:
        await peer.call()
    assert ("tls" in app.scopes[0]["extensions"]) == driver.tls
    assert app.scopes[0]["scheme"] == ("https" if driver.tls else "http")


async def test_a_unix_socket_has_no_addresses(driver: Driver, short_path: Path) -> None:
    app = Keeping()
    async with driver.serving(app, f"unix:{short_path}/s", tls=ServeConfig().tls) as up, up.connect() as peer:
        await peer.call()
    assert (app.scopes[0]["client"], app.scopes[0]["server"]) == (None, None)


async def test_fields_come_in_lower_case_in_order_and_as_often_as_they_were_sent(driver: Driver) -> None:
    app = Keeping()
    async with driver.serving(app) as up, up.connect() as peer:
        await peer.call("/", ("x-b", "1"), ("x-a", "2"), ("x-b", "3"))
    fields = [field for field in app.scopes[0]["headers"] if field[0].startswith(b"x-")]
    assert fields == [(b"x-b", b"1"), (b"x-a", b"2"), (b"x-b", b"3")]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_request_without_a_body_is_one_empty_message(driver: Driver, method: str) -> None:
    messages: list[Any] = []

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        messages.append(await receive())
        with trio.move_on_after(MOMENT):
            messages.append(await receive())
        await send_text(send, 200, "hello")

    async with driver.serving(app) as up, up.connect() as peer:
        assert (await peer.call(method=method)).status == 200
    assert messages == [{"type": "http.request", "body": b"", "more_body": False}]


async def test_an_empty_body_of_declared_length_is_one_empty_message(driver: Driver) -> None:
    async with driver.serving(echo) as up, up.connect() as peer:
        call = await peer.begin("POST", "/", length=0)
        await call.end()
        assert (await call.response()).body == b""


# Bodies of requests


@pytest.mark.parametrize("size", [1, 70_000, 2_000_000])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_arrives_as_it_was_sent(driver: Driver, size: int, declared: bool) -> None:  # noqa: FBT001
    data = bytes(range(251)) * (size // 251 + 1)
    async with driver.serving(echo) as up, up.connect() as peer, trio.open_nursery() as nursery:
        call = await peer.begin("POST", "/", length=len(data) if declared else None)

        async def upload() -> None:
            await call.send(data)
            await call.end()

        nursery.start_soon(upload)
        assert (await call.response()).body == data


async def test_a_body_in_crumbs_arrives_whole(driver: Driver) -> None:
    async with driver.serving(echo) as up, up.connect() as peer:
        call = await peer.begin("POST", "/")
        for _ in range(300):
            await call.send(b"x")
        await call.end()
        assert (await call.response()).body == b"x" * 300


async def test_a_part_of_a_body_is_received_before_the_next_one_is_sent(driver: Driver) -> None:
    received = trio.Semaphore(0)

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["more_body"]:
            if message["body"]:
                received.release()
        await send_text(send, 200, "done")

    async with driver.serving(app) as up, up.connect() as peer:
        call = await peer.begin("POST", "/")
        for _ in range(3):
            await call.send(b"part")
            await received.acquire()
        await call.end()
        assert (await call.response()).body == b"done"


async def test_request_and_response_go_on_at_the_same_time(driver: Driver) -> None:
    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            if message["body"]:
                await chunk(send, message["body"].upper())
        await send(END)

    async with driver.serving(app) as up, up.connect() as peer:
        call = await peer.begin("POST", "/")
        await call.send(b"a")
        assert (await call.head()).status == 200
        assert await call.part() == b"A"
        for data in (b"b", b"c"):
            await call.send(data)
            assert await call.part() == data.upper()
        await call.end()
        assert await call.part() == b""


async def test_a_response_may_begin_before_the_request_has_been_received(driver: Driver) -> None:
    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await chunk(send, b"early")
        await chunk(send, await read_body(receive), more=False)

    async with driver.serving(app) as up, up.connect() as peer:
        call = await peer.begin("POST", "/", length=4)
        assert (await call.head()).status == 200
        assert await call.part() == b"early"
        await call.send(b"late")
        await call.end()
        assert await call.part() == b"late"


async def test_an_early_answer_is_seen_although_the_body_is_not_received(driver: Driver) -> None:
    async def refusing(_receive: Receive, send: Send) -> None:
        await send_text(send, 413, "too large")

    async with driver.serving(routed(refuse=refusing)) as up:
        async with up.connect() as peer:
            call = await peer.begin("POST", "/refuse", length=10**9)
            await call.send(b"x" * 10_000)
            response = await call.response()
            assert (response.status, response.body) == (413, b"too large")
        await up.assert_answers()


async def test_an_early_answer_to_a_client_that_sends_on_leaves_no_task_behind(driver: Driver) -> None:
    ended = trio.Event()

    async def refusing(_receive: Receive, send: Send) -> None:
        await trio.testing.wait_all_tasks_blocked(MOMENT)  # until nothing more fits
        await send_text(send, 413, "too large")
        ended.set()

    async with driver.serving(routed(refuse=refusing)) as up:
        async with up.connect() as peer, trio.open_nursery() as nursery:
            call = await peer.begin("POST", "/refuse", length=10**9)
            nursery.start_soon(send_until_refused, call)
            assert (await call.response()).body == b"too large"
            await ended.wait()
            nursery.cancel_scope.cancel()
        await up.assert_answers()


async def send_until_refused(call: Call) -> None:
    try:
        while True:
            await call.send(b"x" * 65536)
    except Exception:  # noqa: BLE001 - the protocols of three libraries end in as many ways
        await trio.sleep_forever()


async def test_an_upload_that_nobody_receives_is_held_up(driver: Driver) -> None:
    held, sent = Held(), 0

    async def upload(call: Call) -> None:
        nonlocal sent
        for _ in range(1024):
            await call.send(b"x" * 65536)
            sent += 65536

    async with (
        driver.serving(routed(held=held)) as up,
        up.connect() as peer,
        trio.open_nursery() as nursery,
    ):
        call = await peer.begin("POST", "/held")
        await held.begun.wait()
        nursery.start_soon(upload, call)
        await trio.testing.wait_all_tasks_blocked(MOMENT)
        assert sent < 32 * 2**20  # the buffers of two kernels
        nursery.cancel_scope.cancel()


async def test_a_body_is_received_after_the_client_was_held_up(driver: Driver) -> None:
    async def late(_scope: Scope, receive: Receive, send: Send) -> None:
        await trio.testing.wait_all_tasks_blocked(MOMENT)
        await send_text(send, 200, str(len(await read_body(receive))))

    async with driver.serving(late) as up, up.connect() as peer:
        assert (await peer.call(method="POST", body=b"x" * 3_000_000)).body == b"3000000"


async def test_an_application_that_reads_a_fast_client_lets_others_run(driver: Driver) -> None:
    reads = others = 0

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal reads
        while (await receive())["more_body"]:
            reads += 1
        await send_text(send, 200, "done")

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await trio.lowlevel.checkpoint()

    async with driver.serving(app) as up, up.connect() as peer, trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await peer.call(method="POST", body=b"x" * 2_000_000)
        nursery.cancel_scope.cancel()
    assert others >= reads > 0


# Responses


async def test_a_response_is_dated_and_names_no_server(driver: Driver) -> None:
    async with driver.serving(hello) as up, up.connect() as peer:
        for _ in range(3):
            response = await peer.call()
            assert str(response.field(b"date")).endswith("GMT'")
            assert response.field(b"server") is None
            assert response.field(b"connection") is None


async def test_a_date_of_the_application_stands(driver: Driver) -> None:
    async with driver.serving(responding(start((b"Date", b"mine")), END)) as up, up.connect() as peer:
        fields = (await peer.call()).fields
        assert [value for name, value in fields if name == b"date"] == [b"mine"]


async def test_fields_of_a_response_arrive_in_order_and_as_often_as_they_were_given(driver: Driver) -> None:
    fields = [(b"set-cookie", b"a=1"), (b"x-one", b""), (b"set-cookie", b"b=2")]
    async with driver.serving(responding(start(*fields), END)) as up, up.connect() as peer:
        assert (await peer.call()).fields[:3] == fields


@pytest.mark.parametrize("field", [(b"connection", b"keep-alive"), (b"transfer-encoding", b"gzip, chunked")])
async def test_an_application_does_not_choose_framing_and_connection(
    driver: Driver, field: tuple[bytes, bytes]
) -> None:
    async with driver.serving(responding(start(field), body(b"text"))) as up, up.connect() as peer:
        for _ in range(2):
            response = await peer.call()
            assert (response.status, response.body) == (200, b"text")
            assert field not in response.fields


@pytest.mark.parametrize("status", [200, 201, 299, 404, 503])
async def test_a_status_arrives_as_it_was_given(driver: Driver, status: int) -> None:
    async with driver.serving(responding(start(status=status), body(b"text"))) as up, up.connect() as peer:
        response = await peer.call()
        assert (response.status, response.body) == (status, b"text")


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_that_has_no_body_has_none(driver: Driver, status: int) -> None:
    app = routed(empty=partial(responding(start(status=status), END), {}))
    async with driver.serving(app) as up, up.connect() as peer:
        response = await peer.call("/empty")
        assert (response.status, response.body) == (status, b"")
        assert response.field(b"transfer-encoding") is None
        assert (await peer.call()).body == b"hello"


async def test_a_response_to_head_has_the_fields_and_no_body(driver: Driver) -> None:
    async with driver.serving(hello) as up, up.connect() as peer:
        response = await peer.call(method="HEAD")
        assert (response.field(b"content-length"), response.body) == (b"5", b"")
        assert (await peer.call()).body == b"hello"


@pytest.mark.parametrize("parts", [[], [b"one"], [b"one", b"", b"two"], [b"x" * 100_000] * 30])
async def test_a_streamed_response_arrives_whole(driver: Driver, parts: list[bytes]) -> None:
    messages = [START, *(body(part, more=True) for part in parts), END]
    async with driver.serving(responding(*messages)) as up, up.connect() as peer:
        for _ in range(2):
            assert (await peer.call()).body == b"".join(parts)


async def test_a_declared_length_is_told_to_the_client(driver: Driver) -> None:
    length = (b"content-length", b"10")
    app = responding(start(length), body(b"12345", more=True), body(b"67890"))
    async with driver.serving(app) as up, up.connect() as peer:
        response = await peer.call()
        assert (response.body, response.field(b"content-length")) == (b"1234567890", b"10")


async def test_a_head_goes_out_before_there_is_a_body(driver: Driver) -> None:
    release = trio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(START)
        await release.wait()
        await chunk(send, b"late", more=False)

    async with driver.serving(app) as up, up.connect() as peer:
        call = await peer.ask("GET", "/")
        assert (await call.head()).status == 200
        release.set()
        assert await call.part() == b"late"


async def test_each_part_of_a_response_goes_out_at_once(driver: Driver) -> None:
    go_on = trio.Semaphore(0)

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(START)
        for part in (b"one", b"two"):
            await chunk(send, part)
            await go_on.acquire()
        await send(END)

    async with driver.serving(app) as up, up.connect() as peer:
        call = await peer.ask("GET", "/")
        await call.head()
        for part in (b"one", b"two"):
            assert await call.part() == part
            go_on.release()
        assert await call.part() == b""


TRAILERS = [
    {**START, "trailers": True},
    body(b"body"),
    {"type": "http.response.trailers", "headers": [(b"a", b"1")], "more_trailers": True},
    {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]},
]


async def test_trailers_reach_a_client_that_wants_them(driver: Driver) -> None:
    async with driver.serving(responding(*TRAILERS)) as up, up.connect() as peer:
        response = await peer.call("/", ("te", "trailers"))
        assert (response.body, response.trailers) == (b"body", [(b"a", b"1"), (b"grpc-status", b"0")])


async def test_trailers_are_kept_from_a_client_that_does_not_want_them(driver: Driver) -> None:
    async with driver.serving(responding(*TRAILERS)) as up, up.connect() as peer:
        for _ in range(2):
            response = await peer.call()
            assert (response.body, response.trailers) == (b"body", [])


async def test_an_application_is_told_whether_trailers_are_wanted(driver: Driver) -> None:
    app = Keeping()
    async with driver.serving(app) as up, up.connect() as peer:
        await peer.call("/", ("te", "trailers"))
    assert "http.response.trailers" in app.scopes[0]["extensions"]


async def test_calls_on_one_connection_follow_each_other(driver: Driver) -> None:
    async with driver.serving(echo) as up, up.connect() as peer:
        for number in range(20):
            assert (await peer.call(method="POST", body=b"%d" % number)).body == b"%d" % number


# Errors of the application


@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret"),
        ExceptionGroup("secret", [ValueError("secret"), ClientDisconnectedError("secret")]),
    ],
)
async def test_an_exception_before_the_response_becomes_a_bare_500(
    driver: Driver, error: Exception, log: pytest.LogCaptureFixture
) -> None:
    async with driver.serving(routed(failing=partial(responding(error=error), {}))) as up:
        async with up.connect() as peer:
            response = await peer.call("/failing")
            assert (response.status, response.body) == (500, b"")
            assert b"secret" not in repr(response).encode()
        await up.assert_answers()
    assert "ValueError: secret" in log.text
    assert {record.name for record in log.records} == {"cpg_trio.http"}
    assert logged(log) == ["the application failed on GET '/failing'"]


async def test_an_exception_within_a_response_breaks_it_off(
    driver: Driver, log: pytest.LogCaptureFixture
) -> None:
    failing = partial(responding(START, body(b"half", more=True), error=ValueError("secret")), {})
    async with driver.serving(routed(failing=failing)) as up:
        async with up.connect() as peer:
            with pytest.raises(CutError) as cut:
                await peer.call("/failing")
            assert cut.value.body in {b"half", b""}  # a reset takes what was not read
        await up.assert_answers()
    assert logged(log) == ["the application failed on GET '/failing'"]


@pytest.mark.parametrize("fields", [[], [(b"content-length", b"8")]])
@pytest.mark.parametrize(
    "error", [ResponseAbortedError(), ExceptionGroup("", [ResponseAbortedError(), ClientDisconnectedError()])]
)
async def test_an_aborted_response_cannot_be_taken_for_the_whole(
    driver: Driver, error: Exception, fields: Fields
) -> None:
    aborting = partial(responding(start(*fields), body(b"half", more=True), error=error), {})
    async with driver.serving(routed(aborting=aborting)) as up:
        async with up.connect() as peer:
            with pytest.raises(CutError):
                await peer.call("/aborting")
        await up.assert_answers()


async def test_an_application_that_answers_nothing_is_reported(
    driver: Driver, log: pytest.LogCaptureFixture
) -> None:
    async with driver.serving(responding()) as up, up.connect() as peer:
        assert (await peer.call("/silent")).status == 500
    assert logged(log) == ["the application returned without finishing its response to GET '/silent'"]


async def test_an_application_that_stops_half_way_is_reported(
    driver: Driver, log: pytest.LogCaptureFixture
) -> None:
    async with driver.serving(responding(START)) as up, up.connect() as peer:
        with pytest.raises(CutError):
            await peer.call("/half")
    assert logged(log) == ["the application returned without finishing its response to GET '/half'"]


BROKEN_RULES: dict[str, list[dict[str, Any]]] = {
    "more than was declared": [start((b"content-length", b"3")), body(b"12345")],
    "a name that is none": [start((b"bad header", b"x")), body(b"12345")],
    "a line end in a value": [start((b"x", b"a\r\nb: c")), body(b"12345")],
    "a body before the head": [body(b"12345")],
    "two heads": [START, START],
    "a message of no response": [{"type": "websocket.accept"}],
}


@pytest.mark.parametrize("name", BROKEN_RULES)
async def test_a_response_that_breaks_the_rules_is_the_applications_error(
    driver: Driver, name: str, log: pytest.LogCaptureFixture
) -> None:
    wrong = partial(responding(*BROKEN_RULES[name]), {})
    async with driver.serving(routed(wrong=wrong)) as up:
        async with up.connect() as peer:
            with suppress(CutError):  # its head had gone out
                assert (await peer.call("/wrong")).status == 500
        await up.assert_answers()
    assert logged(log) == ["the application failed on GET '/wrong'"]


async def test_a_message_after_the_end_is_the_applications_error(
    driver: Driver, log: pytest.LogCaptureFixture
) -> None:
    talkative = partial(responding(start(), body(b"done"), body(b"more")), {})
    async with driver.serving(routed(talkative=talkative)) as up, up.connect() as peer:
        assert (await peer.call("/talkative")).body == b"done"
        assert (await peer.call("/hello")).body == b"hello"
    assert logged(log) == ["the application failed on GET '/talkative'"]


# Clients that leave


async def test_an_application_that_receives_is_told_that_the_client_has_left(driver: Driver) -> None:
    watching = Watching()
    async with driver.serving(routed(watch=watching)) as up:
        async with up.connect() as peer:
            call = await peer.ask("GET", "/watch")
            await watching.begun.wait()
            await call.leave()
            await watching.left.wait()
        assert watching.last == {"type": "http.disconnect"}
        await up.assert_answers()


async def test_a_client_that_leaves_within_its_body_is_told_of(driver: Driver) -> None:
    watching = Watching()
    async with driver.serving(routed(watch=watching)) as up, up.connect() as peer:
        call = await peer.begin("POST", "/watch", length=100)
        await call.send(b"half")
        await watching.begun.wait()
        await call.leave()
        await watching.left.wait()


async def test_an_application_that_sends_learns_that_the_client_has_left(driver: Driver) -> None:
    endless = Endless()
    async with driver.serving(routed(endless=endless)) as up:
        async with up.connect() as peer:
            call = await peer.ask("GET", "/endless")
            await call.head()
            await call.leave()
            await endless.ended.wait()
        assert isinstance(endless.error, ClientDisconnectedError)
        await up.assert_answers()


async def test_a_client_that_leaves_takes_no_other_call_with_it(driver: Driver) -> None:
    held, watching = Held(), Watching()
    app = routed(held=held, watch=watching)
    async with driver.serving(app) as up, up.connect() as one, up.connect() as other:
        left, kept = await one.ask("GET", "/watch"), await other.ask("GET", "/held")
        await watching.begun.wait()
        await held.begun.wait()
        await left.leave()
        await watching.left.wait()
        held.release.set()
        assert (await kept.response()).body == b"released"


async def test_a_client_that_connects_and_leaves_is_no_news(driver: Driver) -> None:
    async with driver.serving(hello) as up:
        for _ in range(5):
            (await connect(up.url.replace("https:", "http:"))).socket.close()
        await up.assert_answers()


async def test_a_client_that_is_gone_before_it_is_looked_at_is_no_error(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_self: object) -> Any:
        raise OSError(errno.ENOTCONN, "not connected")

    async with driver.serving(hello) as up:
        with monkeypatch.context() as patched:
            patched.setattr(SocketChannel, "addresses", gone)
            async with await connect(up.url.replace("https:", "http:")) as stream:
                assert await stream.receive_some() == b""
        await up.assert_answers()


# Time, on Unix sockets and by a clock that jumps


Serving = Callable[..., AbstractAsyncContextManager[Up]]


@pytest.fixture
def timed(driver: Driver, short_path: Path) -> Serving:
    """Serve in the virtual time of a clock that jumps."""

    def serving(clock: Clock, app: App, **settings: Any) -> AbstractAsyncContextManager[Up]:
        assert clock.autojump_threshold == 0
        return driver.serving(app, f"unix:{short_path}/socket", bound_s=math.inf, **settings)

    return serving


timed_drivers = only(*PLAIN)


@timed_drivers
async def test_a_client_that_says_nothing_is_let_go(timed: Serving, autojump_clock: Clock) -> None:
    async with (
        timed(autojump_clock, hello, header_timeout_s=3, idle_timeout_s=60) as up,
        await connect(up.url) as stream,
    ):
        began = trio.current_time()
        assert await stream.receive_some() == b""
        assert trio.current_time() - began == pytest.approx(3)


@timed_drivers
async def test_an_idle_connection_is_let_go(timed: Serving, autojump_clock: Clock) -> None:
    async with (
        timed(autojump_clock, hello, header_timeout_s=3, idle_timeout_s=60) as up,
        up.connect() as peer,
    ):
        for _ in range(3):
            assert (await peer.call()).status == 200
            await trio.sleep(50)
        began = trio.current_time()
        await peer.closed()
        assert trio.current_time() - began == pytest.approx(10)


@timed_drivers
async def test_a_request_in_flight_is_never_timed_out(timed: Serving, autojump_clock: Clock) -> None:
    async def slow(_scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await trio.sleep(A_WEEK_S)
        await send(START)
        await trio.sleep(A_WEEK_S)
        await chunk(send, b"slow", more=False)

    async with timed(autojump_clock, slow) as up, up.connect() as peer:
        assert (await peer.call()).body == b"slow"
        assert (await peer.call(method="POST", body=b"all of it")).body == b"slow"


@timed_drivers
async def test_a_body_that_the_application_does_not_receive_is_not_out_of_time(
    timed: Serving, autojump_clock: Clock
) -> None:
    async def late(_scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(1000)
        await send_text(send, 200, str(len(await read_body(receive))))

    async with timed(autojump_clock, late, body_timeout_s=10) as up, up.connect() as peer:
        assert (await peer.call(method="POST", body=b"x" * 1_000_000)).body == b"1000000"


@timed_drivers
async def test_a_client_that_does_not_read_is_let_go(timed: Serving, autojump_clock: Clock) -> None:
    endless = Endless()
    async with timed(autojump_clock, routed(endless=endless), send_timeout_s=5) as up, up.connect() as peer:
        await peer.ask("GET", "/endless")
        await endless.ended.wait()
        assert isinstance(endless.error, ClientDisconnectedError)
        assert trio.current_time() == pytest.approx(5, abs=1)


@timed_drivers
async def test_a_client_that_reads_slowly_is_not_let_go(timed: Serving, autojump_clock: Clock) -> None:
    async def large(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send_response(send, 200, b"x" * 2**20)

    async with timed(autojump_clock, large, send_timeout_s=5) as up, up.connect() as peer:
        call, size = await peer.ask("GET", "/"), 0
        await call.head()
        while part := await call.part():
            size += len(part)
            await trio.sleep(len(part) / 50_000)  # 20 s in all
        assert size == 2**20


@timed_drivers
async def test_an_application_waits_while_its_client_does_not_read(
    timed: Serving, autojump_clock: Clock
) -> None:
    endless = Endless()
    async with (
        timed(autojump_clock, routed(endless=endless), send_timeout_s=A_WEEK_S) as up,
        up.connect() as peer,
    ):
        await peer.ask("GET", "/endless")
        await trio.sleep(100)
        sent = endless.sent
        await trio.sleep(100)
        assert endless.sent == sent < 8 * 2**20


# Bodies that come slowly: a message at a rate, a stream at its leisure once its client is known

TIMEOUT_S = 30.0
RATE = 100.0  # bytes per second


async def by_path(scope: Scope, receive: Receive, send: Send) -> None:
    """Say of the request what its path says, receive all, and answer with the size."""
    if "proved" in scope["path"]:
        note_proved(scope, "somebody")
    if "message" in scope["path"]:
        note_message(scope)
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    await send_text(send, 200, str(size))


@pytest.fixture
def slow(timed: Serving) -> Serving:
    return partial(timed, app=by_path, body_timeout_s=TIMEOUT_S, min_body_bytes_per_s=RATE)


async def given_up(call: Call) -> None:
    with pytest.raises(CutError):
        await call.response()


@timed_drivers
@pytest.mark.parametrize("begun", [b"", b"a beginning"])
@pytest.mark.parametrize("length", [None, 1_000_000])
async def test_the_body_of_a_stranger_that_never_comes_is_given_up(
    slow: Serving, autojump_clock: Clock, begun: bytes, length: int | None
) -> None:
    async with slow(autojump_clock) as up, up.connect() as peer:
        call = await peer.begin("POST", "/", length=length)
        await call.send(begun)
        await given_up(call)
        assert trio.current_time() == pytest.approx(TIMEOUT_S, abs=2)


@timed_drivers
async def test_a_stream_of_a_client_that_has_proved_an_identity_may_be_silent(
    slow: Serving, autojump_clock: Clock
) -> None:
    async with slow(autojump_clock) as up, up.connect() as peer:
        call = await peer.begin("POST", "/proved")
        await call.send(b"a")
        await trio.sleep(A_WEEK_S)
        await call.send(b"b")
        await call.end()
        assert (await call.response()).body == b"2"


@timed_drivers
async def test_a_stream_of_a_stranger_may_take_its_time_if_it_is_not_silent(
    slow: Serving, autojump_clock: Clock
) -> None:
    async with slow(autojump_clock) as up, up.connect() as peer:
        call = await peer.begin("POST", "/")
        for _ in range(100):
            await call.send(b"a")
            await trio.sleep(TIMEOUT_S / 2)
        await call.end()
        assert (await call.response()).body == b"100"


@timed_drivers
@pytest.mark.parametrize(
    ("path", "length"),
    [("/", 1_000_000), ("/proved", 1_000_000), ("/message", None), ("/message/proved", None)],
)
async def test_a_message_that_drips_is_given_up_whoever_sends_it(
    slow: Serving, autojump_clock: Clock, path: str, length: int | None
) -> None:
    async def drip(call: Call) -> None:
        while True:
            await call.send(b"x")
            await trio.sleep(1)

    async with slow(autojump_clock) as up, up.connect() as peer:
        call = await peer.begin("POST", path, length=length)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drip, call)
                await given_up(call)
                nursery.cancel_scope.cancel()
        except* trio.BrokenResourceError:
            pass
        assert trio.current_time() < 2 * TIMEOUT_S


@timed_drivers
@pytest.mark.parametrize("length", [None, 200_000])
async def test_a_message_may_take_as_long_as_it_keeps_the_rate(
    slow: Serving, autojump_clock: Clock, length: int | None
) -> None:
    async with slow(autojump_clock) as up, up.connect() as peer:
        call = await peer.begin("POST", "/message", length=length)
        for _ in range(200):
            await call.send(b"x" * int(RATE * 10))
            await trio.sleep(10)
        await call.end()
        assert (await call.response()).body == b"200000"


# Limits, and requests that are refused


async def test_a_head_beyond_the_limit_is_refused(driver: Driver) -> None:
    async with driver.serving(hello, max_head_bytes=1000) as up:
        async with up.connect() as peer:
            assert (await peer.call("/", ("x", "y" * 500))).status == 200
            try:
                assert (await peer.call("/", ("x", "y" * 1200))).status == 431
            except CutError:
                assert driver.version == "2"  # its connection ends
        await up.assert_answers()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_pages_of_other_origins_are_refused(
    driver: Driver, method: str, log: pytest.LogCaptureFixture
) -> None:
    guard = BrowserGuard(ServeConfig(), binds=["127.0.0.1:0"])
    async with driver.serving(guard.guarding(hello)) as up, up.connect() as peer:
        response = await peer.call("/", ("origin", "https://elsewhere.example"), method=method)
        assert (response.status, b"ALLOWED_ORIGINS" in response.body) == (403, True)
        assert (await peer.call("/", method=method)).status == 200
    assert len(logged(log)) == 1


async def test_an_identity_that_is_proved_is_counted_for_its_connection(driver: Driver) -> None:
    """With one identity that holds all, a stranger has the reserve; see `test_connection_shares`."""

    async def proving(scope: Scope, receive: Receive, send: Send) -> None:
        note_proved(scope, "somebody")
        await hello(scope, receive, send)

    async with driver.serving(proving, max_connections=20) as up:
        for _ in range(40):
            async with up.connect() as peer:
                assert (await peer.call()).status == 200


# Stopping


async def test_a_stop_lets_calls_in_flight_finish_and_takes_nothing_new(driver: Driver) -> None:
    held = Held()
    async with (
        driver.serving(routed(held=held)) as up,
        up.connect() as peer,
        up.connect() as idle,
        up.connect() as new,
    ):
        call = await peer.ask("GET", "/held")
        await held.begun.wait()
        assert (await idle.call()).status == 200
        up.stop.set()
        up.stop.set()  # twice is once
        await idle.closed()
        await new.closed()
        with pytest.raises(OSError, match="refused"):
            await connect(up.url)
        assert not up.stopped.is_set()
        held.release.set()
        assert (await call.response()).body == b"released"
        await peer.closed()
        await up.stopped.wait()


@pytest.mark.parametrize("grace_s", [0.0, MOMENT])
async def test_calls_that_outlast_the_grace_are_cancelled(driver: Driver, grace_s: float) -> None:
    held = Held()
    async with driver.serving(routed(held=held), grace_s=grace_s) as up, up.connect() as peer:
        call = await peer.ask("GET", "/held")
        await held.begun.wait()
        up.stop.set()
        await up.stopped.wait()
        assert held.ended.is_set()
        with pytest.raises(CutError):
            await call.response()


@pytest.mark.parametrize("how", ["stop", "cancel"])
@pytest.mark.parametrize("reads", [True, False])
async def test_an_endless_response_ends_with_the_server(
    driver: Driver,
    how: str,
    reads: bool,  # noqa: FBT001
) -> None:
    """With a client that does not read, the response is in the middle of a write that never returns."""
    endless = Endless()
    settings: dict[str, Any] = {"grace_s": MOMENT, "send_timeout_s": 3600}
    async with (
        driver.serving(routed(endless=endless), **settings) as up,
        up.connect(receive_buffer=4096) as peer,
        trio.open_nursery() as nursery,
    ):
        call = await peer.ask("GET", "/endless")
        if reads:
            nursery.start_soon(given_up, call)
        await endless.begun.wait()
        await trio.sleep(MOMENT)
        (up.stop.set if how == "stop" else up.scope.cancel)()
        await up.stopped.wait()
        assert endless.ended.is_set()


async def test_an_application_that_writes_while_it_is_cancelled_holds_nothing_up(driver: Driver) -> None:
    begun = trio.Event()

    async def stubborn(_receive: Receive, send: Send) -> None:
        await send(START)
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True), pytest.raises(ClientDisconnectedError):
                while True:
                    await chunk(send, b"x" * 65536)

    async with (
        driver.serving(routed(stubborn=stubborn), send_timeout_s=3600) as up,
        up.connect(receive_buffer=4096) as peer,
    ):
        await peer.ask("GET", "/stubborn")
        await begun.wait()
        up.scope.cancel()
        await up.stopped.wait()


async def test_a_send_that_is_cancelled_leaves_the_response_whole(driver: Driver) -> None:
    pieces = 0

    async def impatient(_receive: Receive, send: Send) -> None:
        nonlocal pieces
        await send(START)
        with trio.move_on_after(MOMENT):
            while True:
                await chunk(send, b"y" * 65536)
                pieces += 1
        await send(END)

    async with driver.serving(routed(impatient=impatient)) as up, up.connect(receive_buffer=65536) as peer:
        call = await peer.ask("GET", "/impatient")
        await trio.sleep(2 * MOMENT)
        data = (await call.response()).body
        assert data == b"y" * len(data)
        assert len(data) >= pieces * 65536
        assert (await peer.call("/hello")).body == b"hello"
