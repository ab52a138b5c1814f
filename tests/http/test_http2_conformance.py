"""HTTP/2 as it is served, rule by rule of RFC 9113: what a client may not send, and what it gets for it.

Each entry is frames on a socket of their own, and what is to come back: the end of the connection or of a
stream, with its code, or an answer. After each, the server serves the next client.

An error of a stream ends that stream alone. An entry that `differs` says what the rule asks for instead, and
why what is done does no harm.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import attrs
import h2.events
import pytest
import trio
import trio.lowlevel
import trio.testing
from h2.errors import ErrorCodes
from hpack import Encoder
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame

from cpg_trio.asgi import Receive, Scope, Send, send_response
from tests._wire import dial_http2
from tests.http.apps import served

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20

PROTOCOL = ErrorCodes.PROTOCOL_ERROR
FLOW = ErrorCodes.FLOW_CONTROL_ERROR
CLOSED = ErrorCodes.STREAM_CLOSED
SIZE = ErrorCodes.FRAME_SIZE_ERROR
CALM = ErrorCodes.ENHANCE_YOUR_CALM
REFUSED = ErrorCodes.REFUSED_STREAM

MARK = b"the mark"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST = 2**14

Fields = Sequence[tuple[str, str]]

PSEUDO: Fields = ((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "test"))
POSTED: Fields = ((":method", "POST"), *PSEUDO[1:])


def frame(
    kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", length: int | None = None
) -> bytes:
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def block(fields: Fields = PSEUDO) -> bytes:
    """Return fields as a header block that depends on none before it."""
    return Encoder().encode(fields)


def ask(stream: int = 1, fields: Fields = PSEUDO, flags: int = END_STREAM | END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream, block(fields))


def begin(stream: int = 1, *more: tuple[str, str]) -> bytes:
    return ask(stream, (*POSTED, *more), END_HEADERS)


def without(name: str) -> Fields:
    return [field for field in PSEUDO if field[0] != name]


def setting(number: int, value: int) -> bytes:
    return frame(SETTINGS, payload=struct.pack(">HI", number, value))


def window(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def reset(stream: int) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">I", ErrorCodes.CANCEL))


@attrs.define
class Seen:
    """What a client got: the code of a GOAWAY and its reason, those of resets, and statuses, by stream."""

    goaway: int | None = None
    why: bytes = b""
    resets: dict[int, int] = attrs.field(factory=dict)
    answered: set[int] = attrs.field(factory=set)
    pongs: list[bytes] = attrs.field(factory=list)
    closed: bool = False


@attrs.frozen
class Rule:
    """Frames, and what they lead to: a code for the connection, one for the stream, or else an answer."""

    section: str
    name: str
    frames: tuple[bytes, ...]
    goaway: ErrorCodes | None = None
    reset: ErrorCodes | None = None
    stream: int = 1
    """The one that is reset, or answered."""
    preface: bytes = PREFACE + frame(SETTINGS)
    closed: bool = False
    """Whether the connection ends without a word."""

    differs: str = ""

    def __str__(self) -> str:
        return f"{self.section} {self.name}"


def connection(section: str, name: str, code: ErrorCodes, *frames: bytes) -> Rule:
    return Rule(section, name, frames, goaway=code)


def stream(section: str, name: str, code: ErrorCodes, *frames: bytes, at: int = 1) -> Rule:
    return Rule(section, name, frames, reset=code, stream=at)


def good(section: str, name: str, *frames: bytes, at: int = 1) -> Rule:
    return Rule(section, name, frames, stream=at)


HUGE = 2**31 - 1
ONLY_THE_CODE = "another code, which nobody acts upon: the connection has to end all the same"
ODD_TYPE = 0xBE

_BLOCK = block([*PSEUDO, *((f"x-{index}", "y" * 8000) for index in range(20))])
LARGE_BLOCK = [
    frame(
        CONTINUATION if start else HEADERS,
        END_HEADERS * (start + LARGEST >= len(_BLOCK)),
        1,
        _BLOCK[start : start + LARGEST],
    )
    for start in range(0, len(_BLOCK), LARGEST)
]

RULES = [
    # 3.4 Connection Preface
    Rule("3.4", "preface is none", (), closed=True, preface=PREFACE[:-2] + b"XX" + frame(SETTINGS)),
    Rule("3.4", "preface without settings", (ask(),), preface=PREFACE,
         differs="PROTOCOL_ERROR; h2 has defaults for all settings, which a client may keep"),
    good("3.4", "preface, and a request right behind it", ask()),
    # 4.1 Frame Format
    good("4.1", "unknown type is ignored", frame(ODD_TYPE, 0xFF, 0, b"x" * 8), ask()),
    good("4.1", "unknown type on a stream is ignored", frame(ODD_TYPE, 0, 1, b"x"), ask()),
    good("4.1", "unknown flags are ignored", frame(PING, 0x16, 0, b"12345678"), ask()),
    good("4.1", "reserved bit is ignored", frame(PING, 0, 1 << 31, b"12345678"), ask()),
    # 4.2 Frame Size
    connection("4.2", "DATA larger than allowed", SIZE, begin(), frame(DATA, 1, 1, b"x" * (LARGEST + 1))),
    connection("4.2", "HEADERS larger than allowed", SIZE, frame(HEADERS, 5, 1, b"x" * (LARGEST + 1))),
    good("4.2", "DATA as large as allowed", begin(), frame(DATA, 1, 1, b"x" * LARGEST)),
    # 4.3 Field Section Compression and Decompression
    Rule("4.3", "block that cannot be read", (frame(HEADERS, 5, 1, b"\xff" * 5),), PROTOCOL,
         differs=f"COMPRESSION_ERROR; {ONLY_THE_CODE}"),
    Rule("4.3", "index beyond the tables", (frame(HEADERS, 5, 1, b"\xfe"),), PROTOCOL,
         differs=f"COMPRESSION_ERROR; {ONLY_THE_CODE}"),
    connection("4.3", "HEADERS within a block", PROTOCOL, ask(1, flags=END_STREAM), ask(3)),
    connection("4.3", "PING within a block", PROTOCOL, ask(1, flags=END_STREAM), frame(PING, 0, 0, MARK)),
    connection("4.3", "unknown type within a block", PROTOCOL, ask(1, flags=1), frame(ODD_TYPE, 0, 1, b"x")),
    # 5.1 Stream States
    connection("5.1", "DATA on an idle stream", PROTOCOL, frame(DATA, 0, 1, b"x")),
    connection("5.1", "RST_STREAM on an idle stream", PROTOCOL, reset(1)),
    connection("5.1", "WINDOW_UPDATE on an idle stream", PROTOCOL, window(1, 1)),
    connection("5.1", "CONTINUATION on an idle stream", PROTOCOL, frame(CONTINUATION, 4, 1, block())),
    stream("5.1", "DATA after END_STREAM", CLOSED, ask(), frame(DATA, 1, 1, b"x")),
    stream("5.1", "HEADERS after END_STREAM", CLOSED, ask(), ask()),
    connection("5.1", "CONTINUATION after END_HEADERS", PROTOCOL, ask(), frame(CONTINUATION, 4, 1, block())),
    good("5.1", "WINDOW_UPDATE after END_STREAM", ask(), window(1, 1)),
    good("5.1", "RST_STREAM twice", begin(), reset(1), reset(1), ask(3), at=3),
    good("5.1", "PRIORITY after END_STREAM", ask(), frame(PRIORITY, 0, 1, b"\0\0\0\0\1")),
    # 5.1.1 Stream Identifiers
    connection("5.1.1", "even stream", PROTOCOL, ask(2)),
    connection("5.1.1", "streams that go back", PROTOCOL, ask(5), ask(3)),
    # 5.1.2 Stream Concurrency
    stream("5.1.2", "one stream too many", REFUSED, *[begin(n) for n in range(1, 203, 2)], at=201),
    # 5.3.1: priorities are given up; what a client says of them has still to be well-formed
    stream("5.3.1", "HEADERS that depend on themselves", PROTOCOL,
           frame(HEADERS, 0x25, 1, b"\0\0\0\1\1" + block())),
    stream("5.3.1", "PRIORITY that depends on itself", PROTOCOL, begin(),
              frame(PRIORITY, 0, 1, b"\0\0\0\1\1")),
    # 5.5 Extending HTTP/2
    good("5.5", "unknown setting is ignored", setting(0xFF, 1), ask()),
    # 6.1 DATA
    connection("6.1", "DATA on stream 0", PROTOCOL, frame(DATA, 0, 0, b"x")),
    connection("6.1", "padding longer than the frame", PROTOCOL, begin(), frame(DATA, 9, 1, b"\x08xx")),
    good("6.1", "padding", begin(), frame(DATA, 9, 1, b"\x02xx\0\0")),
    # 6.2 HEADERS
    connection("6.2", "HEADERS on stream 0", PROTOCOL, ask(0)),
    connection("6.2", "padding longer than the frame", PROTOCOL, frame(HEADERS, 13, 1, b"\xff" + block())),
    good("6.2", "priority and padding", frame(HEADERS, 0x2D, 1, b"\1\0\0\0\0\1" + block() + b"\0")),
    # 6.3 PRIORITY
    connection("6.3", "PRIORITY on stream 0", PROTOCOL, frame(PRIORITY, 0, 0, b"\0\0\0\1\1")),
    stream("6.3", "PRIORITY of four bytes", SIZE, begin(), frame(PRIORITY, 0, 1, b"\0\0\0\0")),
    # 6.4 RST_STREAM
    connection("6.4", "RST_STREAM on stream 0", PROTOCOL, reset(0)),
    connection("6.4", "RST_STREAM of three bytes", SIZE, begin(), frame(RST_STREAM, 0, 1, b"\0\0\0")),
    # 6.5 SETTINGS
    Rule("6.5", "SETTINGS acknowledged with a payload", (frame(SETTINGS, ACK, 0, b"\0" * 6),), PROTOCOL,
         differs=f"FRAME_SIZE_ERROR; {ONLY_THE_CODE}"),
    connection("6.5", "SETTINGS on a stream", PROTOCOL, frame(SETTINGS, 0, 1)),
    connection("6.5", "SETTINGS of five bytes", SIZE, frame(SETTINGS, 0, 0, b"\0" * 5)),
    # 6.5.2 Defined Settings
    connection("6.5.2", "ENABLE_PUSH of 2", PROTOCOL, setting(2, 2)),
    connection("6.5.2", "INITIAL_WINDOW_SIZE of 2^31", FLOW, setting(4, 2**31)),
    connection("6.5.2", "MAX_FRAME_SIZE that is too small", PROTOCOL, setting(5, LARGEST - 1)),
    connection("6.5.2", "MAX_FRAME_SIZE that is too large", PROTOCOL, setting(5, 2**24)),
    # 6.6 PUSH_PROMISE, 8.4
    connection("8.4", "PUSH_PROMISE of a client", PROTOCOL, begin(),
               frame(PUSH_PROMISE, 4, 1, struct.pack(">I", 2) + block())),
    # 6.7 PING
    connection("6.7", "PING on a stream", PROTOCOL, frame(PING, 0, 1, MARK)),
    connection("6.7", "PING of six bytes", SIZE, frame(PING, 0, 0, b"123456")),
    good("6.7", "PING that nobody asked for, acknowledged", frame(PING, ACK, 0, b"12345678"), ask()),
    # 6.8 GOAWAY
    connection("6.8", "GOAWAY on a stream", PROTOCOL, frame(GOAWAY, 0, 1, b"\0" * 8)),
    # 6.9 WINDOW_UPDATE
    connection("6.9", "window of the connection opened by 0", PROTOCOL, window(0, 0)),
    stream("6.9", "window of a stream opened by 0", PROTOCOL, begin(), window(1, 0)),
    connection("6.9", "WINDOW_UPDATE of three bytes", SIZE, frame(WINDOW_UPDATE, 0, 0, b"\0\0\1")),
    connection("6.9.1", "window of the connection above 2^31-1", FLOW, window(0, HUGE), window(0, HUGE)),
    stream("6.9.1", "window of a stream above 2^31-1", FLOW, begin(), window(1, HUGE)),
    connection("6.9.2", "SETTINGS that open a window above 2^31-1", FLOW, begin(), window(1, 2**30),
               setting(4, HUGE)),
    # 6.10 CONTINUATION
    good("6.10", "block in three frames", ask(1, PSEUDO[:1], END_STREAM),
         frame(CONTINUATION, 0, 1, block(PSEUDO[1:2])), frame(CONTINUATION, 4, 1, block(PSEUDO[2:]))),
    connection("6.10", "CONTINUATION on another stream", PROTOCOL, ask(1, PSEUDO[:1], END_STREAM),
               frame(CONTINUATION, 4, 3, block(PSEUDO[1:]))),
    connection("6.10", "CONTINUATION on stream 0", PROTOCOL, ask(1, PSEUDO[:1], END_STREAM),
               frame(CONTINUATION, 4, 0, block(PSEUDO[1:]))),
    connection("6.10", "CONTINUATION after DATA", PROTOCOL, begin(), frame(DATA, 0, 1, b"x"),
               frame(CONTINUATION, 4, 1, block())),
    connection("6.10", "block in very many frames", PROTOCOL, ask(1, PSEUDO[:1], END_STREAM),
               *[frame(CONTINUATION, 0, 1)] * 100),
    # 8.1 HTTP Message Framing
    stream("8.1", "trailers without END_STREAM", PROTOCOL, begin(), ask(1, [("x", "y")], END_HEADERS)),
    good("8.1", "trailers", begin(), frame(DATA, 0, 1, b"x"), ask(1, [("x", "y")])),
    stream("8.1", "trailers with a pseudo-header", PROTOCOL, begin(), ask(1, [(":path", "/")])),
    # 8.2 HTTP Fields
    stream("8.2.1", "name with a capital", PROTOCOL, ask(1, [*PSEUDO, ("X-Name", "y")])),
    stream("8.2.1", "name with a space", PROTOCOL, ask(1, [*PSEUDO, ("x name", "y")])),
    stream("8.2.1", "value with a line end", PROTOCOL, ask(1, [*PSEUDO, ("x", "y\r\nz: 1")])),
    stream("8.2.1", "value with a NUL", PROTOCOL, ask(1, [*PSEUDO, ("x", "y\0z")])),
    *[
        stream("8.2.2", f"field of one connection: {name}", PROTOCOL, ask(1, [*PSEUDO, (name, value)]))
        for name, value in (
            ("connection", "close"), ("keep-alive", "5"), ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"), ("upgrade", "x"), ("te", "gzip"),
        )
    ],
    good("8.2.2", "te: trailers", ask(1, [*PSEUDO, ("te", "trailers")])),
    # 8.3 HTTP Control Data
    *[
        stream("8.3.1", f"no {name}", PROTOCOL, ask(1, without(name)))
        for name in (":method", ":scheme", ":path")
    ],
    *[
        stream("8.3.1", f"{field[0]} twice", PROTOCOL, ask(1, [*PSEUDO, field])) for field in PSEUDO
    ],
    stream("8.3.1", "empty :path", PROTOCOL, ask(1, [*without(":path"), (":path", "")])),
    stream("8.3", "unknown pseudo-header", PROTOCOL, ask(1, [*PSEUDO, (":odd", "x")])),
    stream("8.3", "pseudo-header of a response", PROTOCOL, ask(1, [*PSEUDO, (":status", "200")])),
    stream("8.3", "pseudo-header behind a field", PROTOCOL, ask(1, [*PSEUDO[:3], ("x", "y"), PSEUDO[3]])),
    connection("10.5.1", "fields larger than the limit", CALM,
               *LARGE_BLOCK),
    # 8.1.1 Malformed Messages
    stream("8.1.1", "content-length above the body", PROTOCOL, begin(1, ("content-length", "2")),
           frame(DATA, 1, 1, b"x")),
    stream("8.1.1", "content-length below the body", PROTOCOL, begin(1, ("content-length", "1")),
           frame(DATA, 1, 1, b"xx")),
    stream("8.1.1", "content-length below a body in parts", PROTOCOL, begin(1, ("content-length", "1")),
           frame(DATA, 0, 1, b"x"), frame(DATA, 1, 1, b"x")),
    stream("8.1.1", "content-length without a body", PROTOCOL, ask(1, [*POSTED, ("content-length", "1")])),
    stream("8.1.1", "content-length that is no number", PROTOCOL, begin(1, ("content-length", "one"))),
]  # fmt: skip


async def read_all(_scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body", False):
        pass
    await send_response(send, 204)


async def look(stream: trio.SocketStream, rule: Rule) -> Seen:
    """Read until the connection ends, or until what was sent has been seen to and answered."""
    seen, buffer = Seen(), b""
    settled = seen.answered if rule.reset is None else seen.resets
    while MARK not in seen.pongs or rule.stream not in settled:
        try:
            data = await stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        if not data:
            seen.closed = True
            break
        buffer += data
        while len(buffer) >= 9 and len(buffer) >= 9 + int.from_bytes(buffer[:3], "big"):
            head, length = Frame.parse_frame_header(memoryview(buffer[:9]))
            head.parse_body(memoryview(buffer[9 : 9 + length]))
            buffer = buffer[9 + length :]
            _note(seen, head)
    return seen


def _note(seen: Seen, it: Frame) -> None:
    if isinstance(it, GoAwayFrame):
        seen.goaway, seen.why = it.error_code, it.additional_data
    elif isinstance(it, RstStreamFrame):
        seen.resets[it.stream_id] = it.error_code
    elif isinstance(it, HeadersFrame):
        seen.answered.add(it.stream_id)
    elif isinstance(it, PingFrame):
        seen.pongs.append(it.opaque_data)


@pytest.mark.parametrize("rule", RULES, ids=str)
async def test_a_rule_is_kept(rule: Rule, caplog: pytest.LogCaptureFixture) -> None:
    with trio.fail_after(20):
        async with served(read_all) as url:
            address, _, port = url.removeprefix("http://").rpartition(":")
            async with await trio.open_tcp_stream(address, int(port)) as client:
                await client.send_all(rule.preface + b"".join(rule.frames) + frame(PING, payload=MARK))
                seen = await look(client, rule)
            async with dial_http2(url) as next_client:
                assert await next_client.status(await next_client.request()) == 204
    assert (seen.goaway, seen.closed) == (rule.goaway, rule.closed or rule.goaway is not None)
    assert bool(seen.why) == (rule.goaway is not None)
    assert seen.resets == ({} if rule.reset is None else {rule.stream: rule.reset})
    assert not caplog.records


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.reset and rule.stream == 1], ids=str)
async def test_an_error_of_a_stream_leaves_the_others_alone(rule: Rule) -> None:
    other, mark = 1001, frame(PING, payload=MARK)
    with trio.fail_after(20):
        async with served(read_all) as url:
            address, _, port = url.removeprefix("http://").rpartition(":")
            async with await trio.open_tcp_stream(address, int(port)) as client:
                await client.send_all(rule.preface + b"".join(rule.frames) + mark)
                assert (await look(client, rule)).resets == {rule.stream: rule.reset}
                await client.send_all(ask(other) + mark)
                assert not (await look(client, good("", "another", at=other))).closed


async def test_a_request_whose_body_belies_its_length_leaves_those_in_flight_alone() -> None:
    async with served(read_all) as url, dial_http2(url) as wire:

        async def begun(length: str) -> int:
            number = await wire.request("/", ("content-length", length), body=b"", method="POST")
            await wire.upload(number, b"xx")
            return number

        in_flight = await begun("2")
        for length in ("1", "3"):
            bad = await begun(length)
            if length == "3":
                wire.h2.end_stream(bad)
                await wire.flush()
            assert (await wire.until(h2.events.StreamReset, bad)).error_code == PROTOCOL
        wire.h2.end_stream(in_flight)
        await wire.flush()
        assert await wire.status(in_flight) == 204


async def test_a_client_that_makes_no_end_of_errors_is_told_to_calm_down() -> None:
    malformed = [*PSEUDO, ("X-Name", "y")]
    async with served(read_all) as url:
        address, _, port = url.removeprefix("http://").rpartition(":")
        async with await trio.open_tcp_stream(address, int(port)) as client:
            frames = [ask(number, malformed) for number in range(1, 301, 2)]
            await client.send_all(PREFACE + frame(SETTINGS) + b"".join(frames))
            seen = await look(client, good("", "never answered", at=9999))
    assert (seen.goaway, len(seen.resets)) == (CALM, 100)


@pytest.mark.parametrize("count", [400, 1500])
async def test_streams_that_are_begun_and_reset_at_once_leave_nothing_behind(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 9113, section 10.5: what is more than any client needs ends its connection."""
    async with served(read_all) as url:
        await trio.testing.wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        async with dial_http2(url) as wire:
            assert await wire.status(await wire.request()) == 204
            await trio.testing.wait_all_tasks_blocked()
            served_one = trio.lowlevel.current_statistics().tasks_living
            numbers = range(3, 2 * count + 3, 2)
            await wire.stream.send_all(b"".join(begin(number) + reset(number) for number in numbers))
            if count > 1000:
                terminated = await wire.until(h2.events.ConnectionTerminated)
                assert terminated.error_code == ErrorCodes.ENHANCE_YOUR_CALM
            else:
                await wire.stream.send_all(frame(PING, payload=MARK))
                await wire.until(h2.events.PingAckReceived)
                await trio.testing.wait_all_tasks_blocked()
                assert trio.lowlevel.current_statistics().tasks_living == served_one
        await trio.testing.wait_all_tasks_blocked(0.005)
        assert trio.lowlevel.current_statistics().tasks_living == before
        async with dial_http2(url) as wire:
            assert await wire.status(await wire.request()) == 204
    assert not caplog.records
