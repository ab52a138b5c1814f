"""A failure counts against whoever caused it: the table of `docs/design/routing.md`, row by row."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests._wire import dial
from tests.descriptors import none_left
from tests.host.routed import Setting, routing, silent_address, text
from tests.http.peers import OK, Handler, Peer
from tests.names import Names
from tests.plugin.running import eventually, unused_port

PLAIN = b"HTTP/1.1 %d x\r\ncontent-type: text/plain\r\n%bcontent-length: 2\r\n\r\nno"
MARK = b"x-plugin-undelivered: true\r\n"
Amiss: TypeAlias = Callable[[Setting], AbstractAsyncContextManager[None]]


def answering(data: bytes) -> Handler:
    async def answer(peer: Peer) -> None:
        while await peer.receive_head():
            await peer.send(data)

    return answer


async def speak_plain(peer: Peer) -> None:
    await peer.stream.receive_some()
    await peer.send(b"HTTP/1.1 400 x\r\ncontent-length: 0\r\n\r\n")


async def break_off(peer: Peer) -> None:
    await peer.receive_head()


@asynccontextmanager
async def nothing(_: Setting) -> AsyncIterator[None]:
    yield


def at(base_url: Callable[[], str]) -> Amiss:
    @asynccontextmanager
    async def registered(s: Setting) -> AsyncIterator[None]:
        s.host.registry.register(s.provider, "echo", "1.0.0", "/echo.v1.Echo/", {"base_url": base_url()})
        yield

    return registered


@asynccontextmanager
async def at_a_silent_address(s: Setting) -> AsyncIterator[None]:
    s.host._pool._connect_timeout_s = 0.05
    async with silent_address() as url, at(lambda: url)(s):
        yield


@asynccontextmanager
async def spoken_to_in_tls(s: Setting) -> AsyncIterator[None]:
    registered = s.host.registry.provider("echo", s.provider)
    assert registered is not None
    async with at(lambda: registered.base_url.replace("http:", "https:"))(s):
        yield


@asynccontextmanager
async def without_descriptors(_: Setting) -> AsyncIterator[None]:
    with none_left():
        yield


@asynccontextmanager
async def with_no_room(s: Setting) -> AsyncIterator[None]:
    s.host._pool._max_total = 0
    yield


@asynccontextmanager
async def with_a_full_pool(s: Setting) -> AsyncIterator[None]:
    s.host._pool._max_per_origin = 0
    s.host._pool._connect_timeout_s = 0.05
    yield


@asynccontextmanager
async def revoking_the_caller(s: Setting) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_when_called, s, s.host._lifetimes.end_identity, s.caller)
        yield
        nursery.cancel_scope.cancel()


async def _when_called(s: Setting, end: Callable[[str, str], object], runtime_id: str) -> None:
    await eventually(lambda: s.host.registry.calls.count(s.provider))
    end(runtime_id, "it has been revoked")


async def hang(peer: Peer) -> None:
    await peer.receive_to_end()


def clock(ahead_s: float) -> bytes:
    return PLAIN % (401, MARK + b"x-plugin-clock: %d\r\n" % (time.time() + ahead_s))


NAME = at(lambda: "http://unknown.test:1")
REFUSING = at(lambda: f"http://127.0.0.1:{unused_port()}")

# What happens: what the provider does, what else is the case, the status, mark and fault of the answer, and
# whether the provider is suspected.
CASES: dict[str, tuple[Handler, Amiss, int, str, bool]] = {
    "nothing listens at the provider's address": (break_off, REFUSING, 502, "true provider", True),
    "the provider takes no connection in time": (break_off, at_a_silent_address, 502, "true provider", True),
    "the provider's TLS or certificate is not accepted": (
        speak_plain,
        spoken_to_in_tls,
        502,
        "true provider",
        True,
    ),
    "another plugin answers at the address": (
        answering(PLAIN % (401, MARK)),
        nothing,
        502,
        "true provider",
        True,
    ),
    "the provider's clock differs": (answering(clock(600)), nothing, 502, "true guard", False),
    "the host has no file descriptor": (answering(OK), without_descriptors, 502, "true host", False),
    "the host has as many connections as it may": (answering(OK), with_no_room, 503, "true host", False),
    "all connections to the provider are in use": (answering(OK), with_a_full_pool, 503, "true host", False),
    "a name is not known, or its server is silent": (answering(OK), NAME, 502, "true host", False),
    "the provider breaks off before it answers": (break_off, nothing, 502, "false provider", False),
    "the provider does not speak HTTP": (answering(b"hello\r\n\r\n"), nothing, 502, "false provider", False),
    "the caller's identity ends in the call": (hang, revoking_the_caller, 401, "false caller", False),
    "the provider answers 401": (answering(PLAIN % (401, b"")), nothing, 401, "none none", False),
    "the provider answers 429, 500 or 503": (
        answering(PLAIN % (503, MARK)),
        nothing,
        503,
        "none none",
        False,
    ),
}


@contextmanager
def unknown(names: Names) -> Iterator[None]:
    names.fails = OSError("Name or service not known")
    yield


@pytest.mark.parametrize("case", CASES)
async def test_only_what_a_provider_does_counts_against_it(case: str, names: Names) -> None:
    handler, amiss, status, marks, suspected = CASES[case]
    with unknown(names):
        async with routing(handler) as s, dial(s.url) as wire:
            await wire.send(s.head("GET", "/healthz"))  # it is connected before anything is amiss
            assert (await wire.response()).status == 200
            async with amiss(s):
                await wire.send(s.head("GET"))
                answer = await wire.response()
            await wait_all_tasks_blocked()
            named = [answer.header(b"x-plugin-undelivered"), answer.header(b"x-plugin-fault")]
            assert (answer.status, b" ".join(each or b"none" for each in named)) == (status, marks.encode())
            assert s.host.registry.health(s.provider).callable is not suspected


@pytest.mark.parametrize(
    "answer",
    [b"garbage\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"],
)
async def test_a_provider_that_does_not_speak_http_is_502(answer: bytes) -> None:
    async def handler(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(answer)

    async with routing(handler) as s:
        assert text(await s.call(s.head())) == (502, "failed to proxy request\n")


def test_the_table_of_the_documentation_has_these_rows() -> None:
    text = (Path(__file__).parents[3] / "docs/design/routing.md").read_text()
    table = text.partition("### Whose fault a failed call is")[2].partition("\n#")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| ")][1:]
    told = {row[0].strip(): [cell.strip().strip("`") for cell in row[2:]] for row in rows}
    assert told == {
        case: [str(status), *marks.split(), "suspected" if suspected else "none"]
        for case, (_, _, status, marks, suspected) in CASES.items()
    }
