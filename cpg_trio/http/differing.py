"""The lines of a head that differ from call to call. They are cut out of it: what is left is the same again.

Heads are read once and then known, so that reading costs a look-up. No two calls would share a head if it had
its token or the host's word for its caller, the id of its request, its trace, its deadline, its length and
the application's own fields.

No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from cpg_trio import wire
from cpg_trio.call_context import FIELDS
from cpg_trio.http.outgoing import USUAL_NAMES

_CALLER = wire.CALLER_HEADER.lower().encode()
_AUTHORIZATION, _LENGTH, _REQUEST_ID = b"authorization", b"content-length", b"x-request-id"
PROOFS = frozenset({_AUTHORIZATION, _CALLER})
"""The names of fields that prove who calls: to a host, and to a plugin that its host calls."""
_OF_CALLS = FIELDS | PROOFS | {_LENGTH, b"connect-timeout-ms", b"grpc-timeout"}
KEPT_NAMES = (USUAL_NAMES | {b"expect", b"origin", b"proxy-connection", b"upgrade"}) - _OF_CALLS
"""The names of fields that stay in a head, in lower case."""


def _any_of(names: Iterable[bytes]) -> bytes:
    """Return a pattern of names in any case, which the first letter rules out soon."""
    rests: dict[bytes, list[bytes]] = {}
    for name in sorted(names):
        rests.setdefault(name[:1], []).append(name[1:])
    some = [b"[%b%b](?i:%b)" % (first.upper(), first, b"|".join(rest)) for first, rest in rests.items()]
    return b"|".join(some)


# Each is a line of printable letters, so that a head without it is read as it is with it, but for the framing
# that a length declares.
_VALUE = rb":[ \t]*+([\x21-\x7e]++(?: [\x21-\x7e]++)*)(?=\r\n)"
_OTHERS = rb"(?!(?:%b):)[A-Za-z0-9_.-]++" % _any_of(KEPT_NAMES)


def _lines(names: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"\r\n(%b)%b" % (names, _VALUE))


cut = _lines(_OTHERS).split
"""Return the parts of a head, in turns: what stays, a name, and its value."""
cut_usual_of_request = _lines(_any_of(_OF_CALLS)).split
"""The same, in half the time, of a head that has nothing of the application's own."""
has_proof = re.compile(rb"(?mi)^(?:%b)$" % b"|".join(sorted(PROOFS))).search
"""Look for the name of a proof among lines that are names."""
cut_usual_of_response = _lines(_any_of([_LENGTH, _REQUEST_ID])).split
"""The same of the head of a response."""


class Places:
    """Where among the parts of a head the values of its fields are: an index each, 0 for none."""

    __slots__ = (
        "authorization",
        "caller",
        "context",
        "fits",
        "has_length_only",
        "in_response",
        "is_clear",
        "length",
        "metadata",
        "names",
    )

    def __init__(self, names: list[bytes]) -> None:
        """Take the names of the fields that were cut out."""
        self.names = names
        self.authorization = 0
        self.caller = 0
        self.length = 0
        self.context: list[tuple[bytes, int]] = []
        """Of the fields of `call_context.FIELDS`, with their names in lower case."""
        self.metadata: list[tuple[bytes, int]] = []
        """Of all others, which are the application's own, and timeouts."""
        self.in_response: list[tuple[bytes, int]] = []
        """Of all that are metadata if it is the head of a response."""
        self.is_clear = True
        """Whether no field comes twice that may come once."""
        self.fits = False
        """Whether the head that has it means the same with and without these fields (`Head.place`)."""
        for number, name in enumerate(names):
            self._add(name, name.lower(), 3 * number + 2)
        self.has_length_only = self.length > 0 and len(names) == 1
        """Whether nothing else was cut out: heads of one length are the same."""

    def _add(self, name: bytes, lowered: bytes, at: int) -> None:
        if lowered == _LENGTH:
            self.is_clear = self.is_clear and not self.length
            self.length = at
            return
        if lowered != _REQUEST_ID:
            self.in_response.append((name, at))
        if lowered == _AUTHORIZATION:
            self.is_clear = self.is_clear and not self.authorization
            self.authorization = at
            return
        if lowered == _CALLER:
            self.is_clear = self.is_clear and not self.caller
            self.caller = at
        if lowered in FIELDS:
            self.context.append((lowered, at))
        else:
            self.metadata.append((name, at))


NOWHERE = Places([b""])  # no field has this name, so that no message has been seen with these places
