"""What is fuzzed: for each kind of message, where to begin and what has to hold. No fuzzer in here.

A target is any bytes in, and AssertionError out. `relay` has them travel from a caller through a host to a
provider, on real sockets, which is a hundred times slower than to have them read.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import cache
from queue import SimpleQueue

import attrs
import trio

from tests.fuzz import costs, parsers
from tests.fuzz.relaying import Relayed, relaying
from tests.http import corpus
from tests.http.corpus import Bad, Good, GoodResponse
from tests.http.reading import assert_read_in_one_way, assert_response_read_in_one_way


@attrs.frozen
class Target:
    """`check` raises AssertionError for what must not be. `seeds`: what to begin with."""

    seeds: tuple[bytes, ...]
    check: Callable[[bytes], None]


def _cuts(data: bytes) -> list[int]:
    """Give some places to cut at, always the same for the same bytes, so that a finding can be repeated."""
    chance = random.Random(data)
    return [chance.randrange(len(data) + 1) for _ in range(chance.randrange(6))]


def _check_request(data: bytes) -> None:
    assert_read_in_one_way(data, _cuts(data))


def _check_response(data: bytes) -> None:
    for to_head in (False, True):
        assert_response_read_in_one_way(data, _cuts(data), to_head=to_head)


def _check_relay(data: bytes) -> None:
    relayed, token = _running()
    trio.from_thread.run(relayed.check, data, _cuts(data), trio_token=token)


@cache
def _running() -> tuple[Relayed, trio.lowlevel.TrioToken]:
    """Run a host and a provider in a thread of their own, for as long as the process lives."""
    started: SimpleQueue[tuple[Relayed, trio.lowlevel.TrioToken]] = SimpleQueue()

    async def run() -> None:
        async with relaying(bound_s=0.05) as relayed:
            started.put((relayed, trio.lowlevel.current_trio_token()))
            await trio.sleep_forever()

    threading.Thread(target=trio.run, args=(run,), daemon=True).start()
    return started.get()


_REQUESTS: tuple[Bad | Good, ...] = (*corpus.REFUSED, *corpus.ACCEPTED, corpus.TUNNEL, *corpus.UNFINISHED)
_RESPONSES: tuple[Bad | GoodResponse, ...] = (*corpus.REFUSED_RESPONSES, *corpus.ACCEPTED_RESPONSES)

TARGETS = {
    "request": Target(tuple(entry.data for entry in _REQUESTS), _check_request),
    "relay": Target(tuple(entry.data for entry in _REQUESTS), _check_relay),
    "response": Target(tuple(entry.data for entry in _RESPONSES), _check_response),
    "costs": Target(costs.SEEDS, lambda data: costs.readers().check(data)),
    "token": Target((parsers.TOKEN.encode(), b"", b"a.b.c"), parsers.check_token),
    "assertion": Target((parsers.ASSERTION.encode(), b"..", b"a.b.c"), parsers.check_assertion),
    "path": Target((b"t/p-1/M", b"p/M", b"a%2F..%2F%2e%2E/x", b"..", b"%23x"), parsers.check_path),
    "fields": Target(
        (b"Accept: x\nX_Plugin_Caller_Id: y\nX-App-T: z", b"Connection: accept, x-app-t\nX-App-T: 1"),
        parsers.check_fields,
    ),
    "origin": Target(
        (b"http://h:1/p", b"https://[::1]:8443", b"http://u:p@h", b"HTTP://H"), parsers.check_origin
    ),
    "names": Target(
        (b"storage", b"a,b", b"1.2.3-rc.1", b">=1.2,<2", b"~=1.2.3-a", b"==1.*", b"/x/", b"a..b", b"a\n"),
        parsers.check_names,
    ),
    "envelopes": Target(parsers.FRAMES, parsers.check_envelopes),
    "error": Target(
        (b'{"code": "not_found", "details": [{"type": "t", "value": "eA"}]}',), parsers.check_error
    ),
    "watch": Target(
        (
            b'{"subscribe": [{"serviceType": "t"}]}',
            b'{"subscribe": [{"serviceType": "t", "versionRange": ">=1,<2", "maxProviders": 4294967295}]}',
            b"\n\3\n\1t",
            b"\n\16\n\1t\x1a\3>=1 \xff\xff\xff\xff\x0f",
        ),
        parsers.check_watch_frame,
    ),
    "times": Target(
        (b"1", b"0", b"9" * 19, b"9" * 5000, b"-1", b"1.5", "\u0661".encode()), parsers.check_times
    ),
    "files": Target(
        (
            b'undeclared = "deny"\n[plugins.p]\nprovides = ["a"]\n[services.a]\nproviders = ["p"]\n',
            b"x = " + b"[" * 1400,
            b"storage-plugin 0123456789abcdef\n# words\np 0123456789abcdef",
            b"k" * 32 + b"\n" + b"q" * 40,
            b"\xff",
            b"",
        ),
        parsers.check_files,
    ),
    "environment": Target(
        (
            *(
                b"handshake=10/20,discover=off",
                b"handshake=1e308/1",
                b"router=nan/1",
                b"register=1/" + b"9" * 1400,
            ),
            *(b"max_identities=10", b"storage=round-robin", b"storage-plugin=0123456789abcdef", b"x-app-*"),
            *(
                b"http://h:1/p",
                b"true",
                b"any",
                b"1.5",
                b"1e999",
                b"nan",
                b"::1",
                b"65535",
                b"k" * 32,
                b"\xff",
            ),
        ),
        parsers.check_environment,
    ),
    "answers": Target(costs.SEEDS, lambda data: costs.readers().check_answers(data)),
    "peer": Target((b"127.0.0.1:1", b"::1:2", b"spiffe://d/p", b"storage-plugin.x"), parsers.check_peer),
}
