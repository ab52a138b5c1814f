"""Which header fields the router forwards, in requests and in responses. No I/O.

By default all that is metadata of the call (`cpg_trio.metadata`) is forwarded in both directions, byte for
byte and in its order. With a strict list, of a request only what is on it: `ALLOWED`, and what the operator
adds. The fields of the call's context (`call_context.FIELDS`) are checked, and forwarded as far as they are
valid; the request's id in a response is the host's to write. What a Connection field names is dropped in both
directions (RFC 9110, section 7.6.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import ClassVar, NamedTuple

from cpg_trio import wire
from cpg_trio.asgi import HeaderList
from cpg_trio.call_context import FIELDS as CONTEXT
from cpg_trio.http.outgoing import USUAL_NAMES, spellings
from cpg_trio.metadata import CREDENTIALS, OF_CONNECTION, folded, is_metadata

ALLOWED = (
    "accept",
    "accept-*",
    "b3",
    "cache-control",
    "connect-*",
    "content-*",
    "date",
    "grpc-*",
    "idempotency-key",
    "if-*",
    "pragma",
    "prefer",
    "range",
    "user-agent",
    "x-b3-*",
    "x-correlation-id",
)
"""Request fields that a strict list always forwards; `x-b3-*` is all that begin so."""

# No operator can add these. Other claims can be added by their full name: then the operator vouches for them.
_NEVER_ADDED = (
    *OF_CONNECTION,
    *CREDENTIALS,
    *("forwarded", "proxy", "x-forwarded-*", "x-plugin-*", "x-real-ip"),
)
_REQUEST_ID = b"x-request-id"
_HOP_BY_HOP = frozenset(name.encode() for name in OF_CONNECTION)
_FIELD_NAME = re.compile(r"[a-z0-9][a-z0-9-]*\*?")


class _Kind(IntEnum):
    """What the router does with a field."""

    FORWARDED = 0
    DROPPED = 1
    CONNECTION = 2
    """Dropped, with the fields that it names."""
    RUNTIME_ID = 3
    """Dropped: it says who the caller is."""
    AUTHORIZATION = 4
    """Dropped: it proves who the caller is."""
    CONTEXT = 5
    """Not forwarded as it is: a part of the call's context."""
    UNLISTED = 6
    """Dropped, as the operator's list does not have it."""


_FORWARDED = _Kind.FORWARDED


_MOST_NAMES = 1000  # that are kept, beside the usual ones
_LONGEST_NAME = 64  # bytes


class _Rules(dict[bytes, _Kind]):
    """The kinds of fields by name. It keeps those of short names, and forgets them all when they are many."""

    _special: ClassVar[Mapping[bytes, _Kind]]

    def __init__(self) -> None:
        super().__init__()
        self._usual = {name: self._found(name) for name in spellings(USUAL_NAMES)}
        self.update(self._usual)

    def __missing__(self, name: bytes) -> _Kind:
        kind = self._found(name)
        if len(name) <= _LONGEST_NAME:
            if len(self) >= len(self._usual) + _MOST_NAMES:
                self.clear()
                self.update(self._usual)
            self[name] = kind
        return kind

    def _found(self, name: bytes) -> _Kind:
        lowered = name.lower()
        return self._special.get(lowered) or self._kind(lowered)

    def _kind(self, name: bytes) -> _Kind:
        raise NotImplementedError


class _ResponseHeaderRules(_Rules):
    _special: ClassVar[Mapping[bytes, _Kind]] = {b"connection": _Kind.CONNECTION}

    def _kind(self, name: bytes) -> _Kind:
        is_forwarded = is_metadata(name) and folded(name) != _REQUEST_ID
        return _FORWARDED if is_forwarded else _Kind.DROPPED


class RequestHeaderRules(_Rules):
    """Which fields of a request are forwarded: all that are metadata, or those of a strict list."""

    _special: ClassVar[Mapping[bytes, _Kind]] = {
        b"connection": _Kind.CONNECTION,
        wire.RUNTIME_ID_HEADER.lower().encode(): _Kind.RUNTIME_ID,
        wire.AUTHORIZATION_HEADER.lower().encode(): _Kind.AUTHORIZATION,
        **dict.fromkeys(CONTEXT, _Kind.CONTEXT),
    }

    def __init__(self, added: Sequence[str] | None = None) -> None:
        """Make the list strict: `ALLOWED`, and these names, where `x-app-*` is all that begin so.

        None forwards all metadata. Raises: ValueError for a name that nobody may add.
        """
        for name in added or ():
            _check_added(name)
        self._is_strict = added is not None
        self._names = frozenset(name.lower().encode() for name in (*ALLOWED, *(added or ())))
        self._beginnings = tuple(name[:-1] for name in self._names if name.endswith(b"*"))
        super().__init__()

    def lines_of(self, fields: HeaderList) -> bytes:
        """Return the lines of fields that are all forwarded; empty if one is not."""
        lines = b""
        for name, value in fields:
            if self[name] is not _FORWARDED:
                return b""
            lines += name + b": " + value + b"\r\n"
        return lines

    def _kind(self, name: bytes) -> _Kind:
        if not self._is_strict:
            return _FORWARDED if is_metadata(name) else _Kind.DROPPED
        listed = name.replace(b"_", b"-")
        if listed in self._names:
            return _FORWARDED if is_metadata(name) or listed == name else _Kind.DROPPED
        if not is_metadata(name):
            return _Kind.DROPPED
        return _FORWARDED if listed.startswith(self._beginnings) else _Kind.UNLISTED


def _check_added(name: str) -> None:
    """Check that no caller can pass for another by a field of this name. Raises: ValueError."""
    lowered = name.lower()
    if not _FIELD_NAME.fullmatch(lowered):
        raise ValueError(f"{name!r} is not the name of a header, nor the beginning of one and a *")
    begins = lowered.removesuffix("*")
    for never in _NEVER_ADDED:
        stem = never.removesuffix("*")
        clash = stem.startswith(begins) if "*" in lowered else lowered == never
        if clash or (never.endswith("*") and lowered.startswith(stem)):
            raise ValueError(f"{name!r} would pass on {never}, which no caller may set")


_RESPONSE_RULES = _ResponseHeaderRules()


class RequestFields(NamedTuple):
    """What the router takes from the fields of a request."""

    forwarded: HeaderList
    """Those that are forwarded as they are."""
    context: HeaderList
    """Those that are the call's context, not checked yet."""
    runtime_id: bytes
    """The first value of this field, which is not forwarded; empty without one."""
    authorization: bytes
    """The same of this one."""
    unlisted: Sequence[bytes]
    """The names of those that only a strict list drops."""


def forwarded_in_request(fields: Iterable[tuple[bytes, bytes]], rules: RequestHeaderRules) -> RequestFields:
    """Return what of the fields of a request is forwarded, and its credentials, which are not."""
    forwarded, context, runtime_id, authorization = HeaderList(), HeaderList(), b"", b""
    unlisted: list[bytes] = []
    named: frozenset[bytes] = frozenset()
    for field in fields:
        kind = rules[field[0]]
        if kind is _FORWARDED:
            forwarded.append(field)
        elif kind is _Kind.RUNTIME_ID:
            runtime_id = runtime_id or field[1]
        elif kind is _Kind.AUTHORIZATION:
            authorization = authorization or field[1]
        elif kind is _Kind.CONTEXT:
            context.append(field)
        elif kind is _Kind.CONNECTION:
            named |= _named_by_connection(field[1])
        elif kind is _Kind.UNLISTED:
            unlisted.append(field[0])
    if named:
        forwarded, context = _without(forwarded, named), _without(context, named)
    return RequestFields(forwarded, context, runtime_id, authorization, unlisted)


def forwarded_in_response(fields: Iterable[tuple[bytes, bytes]]) -> HeaderList:
    """Return the fields of a response, or of its trailers, that are forwarded."""
    forwarded = []
    named: frozenset[bytes] = frozenset()
    for field in fields:
        kind = _RESPONSE_RULES[field[0]]
        if kind is _Kind.CONNECTION:
            named |= _named_by_connection(field[1])
        elif kind is not _Kind.DROPPED:
            forwarded.append(field)
    return _without(forwarded, named) if named else forwarded


def _named_by_connection(value: bytes) -> frozenset[bytes]:
    """Return the names of fields that a value of Connection has dropped."""
    names = {token.strip().lower() for token in value.split(b",")} - _HOP_BY_HOP
    # Content-Length frames the message: to drop it would change where the message ends.
    return frozenset(names - {b"", b"close", b"content-length"})


def _without(fields: HeaderList, names: frozenset[bytes]) -> HeaderList:
    return [field for field in fields if field[0].lower() not in names]
