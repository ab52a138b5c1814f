"""What is fuzzed: for each kind of message, where to begin and what has to hold. No fuzzer in here.

A target is any bytes in, and AssertionError out. One that has bytes travel through more than the parser
belongs into `TARGETS` as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs

from tests.http1 import corpus
from tests.http1.corpus import Bad, Good, GoodResponse
from tests.http1.reading import assert_read_in_one_way, assert_response_read_in_one_way


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


_REQUESTS: tuple[Bad | Good, ...] = (*corpus.REFUSED, *corpus.ACCEPTED, corpus.TUNNEL, *corpus.UNFINISHED)
_RESPONSES: tuple[Bad | GoodResponse, ...] = (*corpus.REFUSED_RESPONSES, *corpus.ACCEPTED_RESPONSES)

TARGETS = {
    "request": Target(tuple(entry.data for entry in _REQUESTS), _check_request),
    "response": Target(tuple(entry.data for entry in _RESPONSES), _check_response),
}
