"""Clients of HTTP/2 that keep to the rules, and do not know yet what the server has sent.

A server that has answered early, or has reset a stream, gets what its client had already sent on that stream:
parts of bodies, trailers, window updates, resets. None of it ends the connection (RFC 9113, section 5.1), and
the fields of blocks that nobody reads are unpacked, as those of later ones depend on them.
"""

from __future__ import annotations

import h2.connection
import h2.events
import trio
from h2.config import H2Configuration
from h2.settings import SettingCodes
from hypothesis import given, settings, strategies as st

from cpg_trio.asgi import ClientDisconnectedError, Receive, Scope, Send, send_text
from tests.http.apps import START, chunk, read_body, served

WHAT = ("data", "end", "trailers", "reset", "window", "priority", "ping", "settings", "wait")
PATHS = ("/early", "/whole", "/failing", "/late", "/half")
BEGINS = st.tuples(st.just("begin"), st.sampled_from(PATHS), st.integers(0, 5))
DOES = st.tuples(st.sampled_from(WHAT), st.integers(0, 30), st.integers(0, 5))


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in one of several ways, of which most do not wait for the request."""
    path = scope["path"]
    try:
        if path == "/whole":
            await read_body(receive)
        elif path == "/late":
            await trio.sleep(0.005)
        elif path == "/half":
            await receive()
        elif path == "/failing":
            await send(START)
            await chunk(send, b"half of it")
            raise ValueError("on purpose")
        await send_text(send, 200, "answered")
    except ClientDisconnectedError:
        pass


class Blind:
    """A client that sends, and reads only at its end."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._engine = h2.connection.H2Connection(H2Configuration(client_side=True))
        self._engine.initiate_connection()
        self._open = list[int]()  # streams of which it has not sent the end
        self._begun = list[int]()
        self._reset = set[int]()

    async def do(self, what: str, choice: int | str, number: int) -> None:
        engine = self._engine
        if what == "wait":
            await self._flush()
            await trio.sleep(0.002)
        elif what == "ping":
            engine.ping(b"12345678")
        elif what == "settings":
            engine.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 40_000 + number * 10_000})
        elif what == "begin":
            self._begin(str(choice), number)
        elif what in {"window", "priority"} and self._begun:
            stream_id = self._begun[int(choice) % len(self._begun)]
            if what == "priority":
                engine.prioritize(stream_id, weight=1 + number)
            elif stream_id not in self._reset:
                engine.increment_flow_control_window(1 + number, stream_id)
        elif self._open:
            self._go_on(what, self._open[int(choice) % len(self._open)], number)

    def _begin(self, path: str, number: int) -> int:
        stream_id = self._engine.get_next_available_stream_id()
        pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", path)]
        self._engine.send_headers(stream_id, [*pseudo, (f"x-{number}", f"of {stream_id}")])
        self._open.append(stream_id)
        self._begun.append(stream_id)
        return stream_id

    def _go_on(self, what: str, stream_id: int, number: int) -> None:
        if what == "data":
            self._engine.send_data(stream_id, b"x" * 100 * number)
            return
        self._open.remove(stream_id)
        if what == "end":
            self._engine.end_stream(stream_id)
        elif what == "trailers":
            self._engine.send_headers(stream_id, [(f"x-{number}", f"ends {stream_id}")], end_stream=True)
        elif what == "reset":
            self._engine.reset_stream(stream_id)
            self._reset.add(stream_id)

    async def _flush(self) -> None:
        await self._stream.send_all(self._engine.data_to_send())

    async def is_answered(self) -> bool:
        """Return whether a last call is answered, whose head needs what all before it have in the tables."""
        last = self._begin("/whole", 0)
        self._engine.end_stream(last)
        await self._flush()
        while data := await self._stream.receive_some():
            for event in self._engine.receive_data(data):
                assert not isinstance(event, h2.events.ConnectionTerminated), event
                if isinstance(event, h2.events.StreamEnded) and event.stream_id == last:
                    return True
            await self._flush()
        return False


@settings(max_examples=60)
@given(st.lists(st.one_of(BEGINS, DOES), max_size=60))
def test_no_client_that_keeps_to_the_rules_loses_its_connection(
    steps: list[tuple[str, int | str, int]],
) -> None:
    async def main() -> None:
        async with served(app) as url:
            host, _, port = url.removeprefix("http://").rpartition(":")
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                client = Blind(stream)
                for step in steps:
                    await client.do(*step)
                with trio.fail_after(20):
                    assert await client.is_answered()

    trio.run(main)
