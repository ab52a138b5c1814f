"""What becomes of messages when bytes of them are dropped, doubled, swapped, and mixed with others'."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import strategies as st

# What parsers trip over, and what makes messages of another kind.
SNIPPETS = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"\x00",
        b"\x0b",
        b"\xff",
        b":",
        b";",
        b",",
        b"#",
        b"0",
    ),
    *(
        b"0\r\n\r\n",
        b"1\r\na\r\n",
        b"ffffffffffffffff\r\n",
        b"5;a=b\r\n",
        b"GET / HTTP/1.1\r\n",
        b"Host: h\r\n",
    ),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"HTTP/1.0"),
    *(b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"CONNECT h:80", b"X: a\r\n b\r\n", b"HTTP/1.1 204 x\r\n"),
)
MAX_BYTES = 1500
"""Entries above it are about sizes, which chance finds nothing about."""


def mutations(entries: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Give entries to which one to four things have been done."""
    small = st.sampled_from([entry for entry in entries if len(entry) <= MAX_BYTES])
    place = st.integers(0, 400)
    snippet = st.one_of(st.sampled_from(SNIPPETS), st.binary(min_size=1, max_size=3))
    step: st.SearchStrategy[Callable[[bytes], bytes]] = st.one_of(
        st.builds(_inserted, place, snippet),
        st.builds(_without, place, st.integers(1, 20)),
        st.builds(_replaced, place, snippet),
        st.builds(_doubled, place, st.integers(1, 40)),
        st.builds(_joined, place, small),
    )
    return st.builds(_applied, small, st.lists(step, min_size=1, max_size=4))


def _applied(data: bytes, steps: list[Callable[[bytes], bytes]]) -> bytes:
    for step in steps:
        data = step(data)
    return data


def _inserted(at: int, piece: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + piece + data[at:]


def _without(at: int, size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + data[at + size :]


def _replaced(at: int, piece: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + piece + data[at + len(piece) :]


def _doubled(at: int, size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[: at + size] + data[at:]


def _joined(at: int, other: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + other[at:]
