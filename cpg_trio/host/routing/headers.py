"""Which header fields the router forwards, in requests and in responses. No I/O.

A request field is forwarded if its name is on the allow list: `ALLOWED`, and what the operator adds. The
fields of the call's context (`call_context.FIELDS`) are checked, and forwarded as far as they are valid. A
response field is forwarded unless it is for one connection only, sets a cookie, is the host's own, or is the
request's id, which the host writes itself. What a Connection field names is dropped in both directions
(RFC 9110, section 7.6.1).
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
"""Request fields that are always forwarded; `x-b3-*` is all that begin so."""

# Fields that name the caller or its origin are never forwarded: a caller could forge them.
_NEVER_ALLOWED = ("cookie", "forwarded", "host", "x-forwarded-*", "x-plugin-*", "x-real-ip")
# RFC 9110, section 7.6.1, and older names for the same.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NOT_IN_RESPONSES = _HOP_BY_HOP | {b"set-cookie", b"x-request-id"}
_HOSTS_OWN = b"x-plugin-"
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


_FORWARDED = _Kind.FORWARDED


class _Rules(dict[bytes, _Kind]):
    """The kinds of fields by name. It keeps those of usual names only, so that nobody makes it grow."""

    _special: ClassVar[Mapping[bytes, _Kind]]

    def __init__(self) -> None:
        super().__init__()
        self.update({name: self[name] for name in spellings(USUAL_NAMES)})

    def __missing__(self, name: bytes) -> _Kind:
        lowered = name.lower()
        # Some servers read X_Plugin_Caller_Id as X-Plugin-Caller-ID, so both names are dropped.
        return self._special.get(lowered) or self._kind(lowered.replace(b"_", b"-"))

    def _kind(self, name: bytes) -> _Kind:
        raise NotImplementedError


class _ResponseHeaderRules(_Rules):
    _special: ClassVar[Mapping[bytes, _Kind]] = {b"connection": _Kind.CONNECTION}

    def _kind(self, name: bytes) -> _Kind:
        dropped = name in _NOT_IN_RESPONSES or name.startswith(_HOSTS_OWN)
        return _Kind.DROPPED if dropped else _FORWARDED


class RequestHeaderRules(_Rules):
    """Which fields of a request are forwarded: those on the allow list."""

    _special: ClassVar[Mapping[bytes, _Kind]] = {
        b"connection": _Kind.CONNECTION,
        wire.RUNTIME_ID_HEADER.lower().encode(): _Kind.RUNTIME_ID,
        wire.AUTHORIZATION_HEADER.lower().encode(): _Kind.AUTHORIZATION,
        **dict.fromkeys(CONTEXT, _Kind.CONTEXT),
    }

    def __init__(self, added: Sequence[str] = ()) -> None:
        """Add names to the list; `x-app-*` is all that begin so. Raises: ValueError for a wrong one."""
        names = [name.lower().encode() for name in (*ALLOWED, *added)]
        self._names = frozenset(names)
        self._prefixes = tuple(name[:-1] for name in names if name.endswith(b"*"))
        for name in added:
            _check_added(name)
        super().__init__()

    def _kind(self, name: bytes) -> _Kind:
        allowed = name in self._names or name.startswith(self._prefixes)
        return _FORWARDED if allowed and name not in _HOP_BY_HOP else _Kind.DROPPED


def _check_added(name: str) -> None:
    """Check that no caller can pass for another by a field of this name. Raises: ValueError."""
    lowered = name.lower()
    if not _FIELD_NAME.fullmatch(lowered):
        raise ValueError(f"{name!r} is not the name of a header, nor the beginning of one and a *")
    begins = lowered.removesuffix("*")
    for never in (*_NEVER_ALLOWED, *(each.decode() for each in _HOP_BY_HOP), "authorization"):
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


def forwarded_in_request(fields: Iterable[tuple[bytes, bytes]], rules: RequestHeaderRules) -> RequestFields:
    """Return what of the fields of a request is forwarded, and its credentials, which are not."""
    forwarded, context, runtime_id, authorization = HeaderList(), HeaderList(), b"", b""
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
    if named:
        forwarded, context = _without(forwarded, named), _without(context, named)
    return RequestFields(forwarded, context, runtime_id, authorization)


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


def lines(fields: HeaderList) -> bytes:
    """Return fields as lines of an HTTP/1.1 head. They were parsed strictly, so nothing is escaped."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])
