"""A client of the JSON gateway that each member of an etcd cluster has beside gRPC.

One endpoint is used until it fails. A request that has not been acted on is sent to the next one, and so is
one that may be repeated. How it failed says whether it may have been acted on: it was not if nothing was
sent, or if the member says that it refuses.

May touch: sockets, by a pool of its own. What is asked is not known here. The gateway is documented at
https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/, and on the same page of later versions.
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, TypeAlias

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import HeaderList
from cpg_trio.http import BodyTooLargeError, NotSentError, Origin, Pool, Request, Response, UpstreamError
from cpg_trio.store._store import StoreError
from cpg_trio.store.etcd._url import EtcdUrl

Json: TypeAlias = dict[str, Any]

_log = logging.getLogger("cpg_trio.store")

#: Seconds that one member has for an answer.
ATTEMPT_S = 2.0
_CONNECT_S = 1.0
_CALL_S = 5.0  # for all of a call: the election of a leader takes one or two
_PAUSE_S = 0.1  # before all endpoints are asked again, while they elect a leader
_MAX_BODY_BYTES = 4 * 1024 * 1024
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # of a stream

# Codes of gRPC for what may have been done: cancelled, unknown, deadline, aborted, internal, unavailable.
_UNCERTAIN = frozenset({1, 2, 4, 10, 13, 14})
_UNKNOWN = 2
# Messages of a member that has not acted on the request, where another one may, or this one a moment later.
_NOT_NOW = frozenset(
    {
        "etcdserver: no leader",
        "etcdserver: too many requests",
        "etcdserver: rpc not supported for learner",
    }
)
_BAD_TOKEN = frozenset({"etcdserver: invalid auth token", "etcdserver: revision of auth store is old"})
_WHAT_TO_DO = {
    "etcdserver: authentication is not enabled": (
        "etcd does not ask for users: enable its authentication, or leave the user out of the URL"
    ),
    "etcdserver: authentication failed, invalid user ID or password": "etcd knows no such user and password",
    "etcdserver: user name is empty": "etcd asks for a user: name one in the URL, and give its password",
    "etcdserver: permission denied": (
        "etcd does not permit it: the URL must name a user with a role that has readwrite on the whole prefix"
    ),
    "etcdserver: mvcc: database space exceeded": (
        "etcd's database is full: compact and defragment it, then disarm the alarm"
    ),
}
_HINT = {
    "http": " (if it speaks TLS, the URL must begin with etcds)",
    "https": " (it may ask for another certificate, or not speak TLS: then the URL must begin with etcd)",
}
# What is in answers that are text, and what it means.
_PLAIN = {
    b"HTTPS server": "it speaks TLS: the URL must begin with etcds",
    b"CommonName": (
        "etcd takes no client certificate with a common name where it asks for users: use one without"
    ),
    b"host-whitelist": "etcd does not answer to this name: add it to its --host-whitelist",
}


class RefusedError(StoreError):
    """A member has refused a request, and has not acted on it; any other one would refuse it as well."""

    def __init__(self, message: str) -> None:
        what_to_do = _WHAT_TO_DO.get(message)
        super().__init__(f"{what_to_do} ({message})" if what_to_do else message)
        self.message = message
        """As etcd says it."""


class UncertainError(StoreError):
    """A request that may not be repeated may have been acted on, or may still be."""


class TooLargeError(StoreError):
    """An answer is larger than is read at once."""


class AttemptError(Exception):
    """One endpoint has not answered a request; the message says which, and why."""

    def __init__(self, reason: str, *, may_be_done: bool, answered: bool = False) -> None:
        super().__init__(reason)
        self.may_be_done = may_be_done
        """Whether the member may have acted on the request, or may still do so."""
        self.answered = answered
        """Whether a member was there, so that it makes sense to ask again a moment later."""


class _TokenError(Exception):
    """The token is not valid any more, or the member has forgotten it. Nothing was done."""


@attrs.frozen
class Answer:
    """What a member has answered."""

    body: Json
    sent_at: float
    """When the request that it answers was sent, on Trio's clock."""


class Stream:
    """The messages of a stream. It ends with an error only: what is asked for goes on."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Json](0)
        self._error: AttemptError | StoreError = AttemptError("it has not begun", may_be_done=False)

    async def put(self, message: Json) -> None:
        """Hand a message over. Waits until it is taken."""
        await self._send.send(message)

    def end(self, error: AttemptError | StoreError) -> None:
        """End it behind what has been put."""
        self._error = error
        self._send.close()

    async def next(self) -> Json:
        """Wait for a message. Raises: AttemptError; RefusedError; StoreError."""
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise self._error from None


class Gateway:
    """The gateways of a cluster's members. Used inside its own `async with` block.

    `password` is asked each time that the user proves who it is, as it may have been changed.
    """

    def __init__(self, url: EtcdUrl, password: Callable[[], str]) -> None:
        self._user = url.user
        self._password = password
        self._endpoints = random.sample(url.endpoints, len(url.endpoints))  # hosts spread over the members
        self._current = 0
        self._token = ""
        self._authenticating = trio.Lock()
        self._streams: dict[trio.CancelScope, Origin] = {}
        self._used: Origin | None = None  # which has answered last
        self._why_left: dict[Origin, str] = {}
        self._pool = Pool(connect_timeout_s=_CONNECT_S, ssl_context=url.tls.client_contexts())

    async def __aenter__(self) -> Self:
        """Open the pool. Nothing is sent yet."""
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._pool.__aexit__(None, None, None)

    @property
    def endpoint(self) -> Origin:
        """The endpoint that is used."""
        return self._endpoints[self._current]

    def leave(self, endpoint: Origin, why: str) -> None:
        """Use the next endpoint, if it is still this one that is used. Streams from this one end."""
        if endpoint == self.endpoint:
            self._why_left[endpoint] = why
            self._current = (self._current + 1) % len(self._endpoints)
            for scope, origin in self._streams.items():
                if origin == endpoint:
                    scope.cancel()

    async def call(
        self, path: str, body: Json | None, *, may_repeat: bool = True, attempt_s: float | None = None
    ) -> Answer:
        """Return the first endpoint's answer that there is. A `body` of None is a GET.

        `may_repeat`: whether the request may be sent again although it may have been acted on.
        `attempt_s`: how long each endpoint has, in seconds; by default `ATTEMPT_S`.
        Raises: RefusedError; UncertainError; TooLargeError; StoreError.
        """
        data = None if body is None else json.dumps(body).encode()
        failures: dict[Origin, str] = {}
        with trio.move_on_after(_CALL_S) as limit:
            answered = True
            while answered:
                answered = False
                for _ in self._endpoints:
                    endpoint = self.endpoint
                    try:
                        answer = await self._attempt(endpoint, path, data, attempt_s or ATTEMPT_S)
                    except AttemptError as error:
                        self.leave(endpoint, str(error))
                        failures[endpoint] = str(error)
                        answered |= error.answered
                        if error.may_be_done and not may_repeat:
                            raise UncertainError(f"{error}; it may have been done") from error
                    else:
                        self._note_use(endpoint)
                        return answer
                await trio.sleep(_PAUSE_S if answered else 0)
        why = "; ".join(failures.values()) or f"no answer within {_CALL_S:g} s"
        raise UncertainError(why) if limit.cancelled_caught and not may_repeat else StoreError(why)

    def _note_use(self, endpoint: Origin) -> None:
        """Log that another endpoint is used than before."""
        if self._used != endpoint == self.endpoint:  # a late answer of one that was left is none
            before, self._used = self._used, endpoint
            if before is not None:
                why = self._why_left[before]
                _log.warning("etcd at %s is used instead of %s: %s", _name(endpoint), _name(before), why)

    @asynccontextmanager
    async def stream(self, path: str, body: Json) -> AsyncIterator[Stream]:
        """Ask the current endpoint for a stream, which ends with the block. Raises nothing of its own."""
        stream = Stream()
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._read, self.endpoint, path, json.dumps(body).encode(), stream)
            yield stream
            nursery.cancel_scope.cancel()

    async def _read(self, endpoint: Origin, path: str, data: bytes, stream: Stream) -> None:
        with trio.CancelScope() as scope:
            self._streams[scope] = endpoint
            try:
                await self._read_to_its_end(endpoint, path, data, stream)
            except (AttemptError, StoreError) as error:
                stream.end(error)
            finally:
                del self._streams[scope]
        if scope.cancelled_caught:  # it may be silent for ever
            stream.end(AttemptError(f"{_name(endpoint)} has not answered other calls", may_be_done=True))

    async def _read_to_its_end(self, endpoint: Origin, path: str, data: bytes, stream: Stream) -> None:
        token = await self._token_for(endpoint)
        try:
            with _errors(endpoint):
                async with self._pool.request(endpoint, _request(path, data, token)) as response:
                    await _read_messages(endpoint, response, stream)
        except _TokenError as error:
            self.forget_token(token)
            raise AttemptError(str(error), may_be_done=False, answered=True) from error

    # One endpoint

    async def _attempt(self, endpoint: Origin, path: str, data: bytes | None, limit_s: float) -> Answer:
        """Send a request with a token, if there is a user, and once more with a new one."""
        token = await self._token_for(endpoint)
        try:
            return await self._exchange(endpoint, path, data, token, limit_s)
        except _TokenError:
            self.forget_token(token)
        token = await self._token_for(endpoint)
        try:
            return await self._exchange(endpoint, path, data, token, limit_s)
        except _TokenError as error:
            self.forget_token(token)
            why = f"{_name(endpoint)} does not accept a token that has just been given"
            raise AttemptError(why, may_be_done=False, answered=True) from error

    async def _exchange(
        self, endpoint: Origin, path: str, data: bytes | None, token: str, limit_s: float
    ) -> Answer:
        sent_at = trio.current_time()
        with _errors(endpoint, limit_s, first=self._used is None), trio.fail_after(limit_s):
            whole = await self._pool.fetch(
                endpoint, _request(path, data, token), max_body_bytes=_MAX_BODY_BYTES
            )
        return Answer(_checked(endpoint, whole.status, whole.body), sent_at)

    # Users

    def forget_token(self, token: str) -> None:
        """Prove who the user is before the next request, unless there is another token already."""
        if token == self._token:
            self._token = ""

    @property
    def token(self) -> str:
        """The token of the user; empty if there is none."""
        return self._token

    async def _token_for(self, endpoint: Origin) -> str:
        if not self._user or self._token:
            return self._token
        async with self._authenticating:
            if not self._token:
                self._token = await self._authenticate(endpoint)
            return self._token

    async def _authenticate(self, endpoint: Origin) -> str:
        try:
            body = json.dumps({"name": self._user, "password": self._password()}).encode()
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot read the password of etcd's user: {error}") from error
        try:
            answer = await self._exchange(endpoint, "/v3/auth/authenticate", body, "", ATTEMPT_S)
        except AttemptError as error:  # nothing of what it is for was sent
            raise AttemptError(str(error), may_be_done=False, answered=error.answered) from error
        token = answer.body.get("token")
        if not isinstance(token, str) or not (token.isascii() and token.isprintable()):
            why = f"{_name(endpoint)} answers an authentication without a token"
            raise AttemptError(why, may_be_done=False)
        return token


def _name(endpoint: Origin) -> str:
    return f"{endpoint.scheme}://{endpoint.host_header.decode()}"


def _request(path: str, data: bytes | None, token: str) -> Request:
    # A member that has lost its leader would answer late or never, and would let a watch wait in silence.
    headers: HeaderList = [(b"grpc-metadata-hasleader", b"true")]
    if token:
        headers.append((b"authorization", token.encode()))
    if data is None:
        return Request(b"GET", path.encode(), headers)
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    return Request(b"POST", path.encode(), headers, data)


@contextmanager
def _errors(endpoint: Origin, limit_s: float = math.inf, *, first: bool = False) -> Iterator[None]:
    """Raise what goes wrong between an endpoint and us as AttemptError or TooLargeError.

    The message about the `first` call says what may be wrong with the URL.
    """
    try:
        yield
    except BodyTooLargeError as error:
        raise TooLargeError(f"{_name(endpoint)}: {error}") from error
    except NotSentError as error:
        in_handshake = any(word in str(error) for word in ("TLS", "reset"))
        hint = _HINT[endpoint.scheme] if first and in_handshake else ""
        raise AttemptError(f"{error}{hint}", may_be_done=False) from error
    except trio.TooSlowError as error:
        why = f"{_name(endpoint)}: no answer within {limit_s:g} s"
        raise AttemptError(why, may_be_done=True) from error
    except UpstreamError as error:
        hint = _HINT[endpoint.scheme] if first else ""
        raise AttemptError(f"{_name(endpoint)}: {error}{hint}", may_be_done=True) from error


async def _read_messages(endpoint: Origin, response: Response, stream: Stream) -> None:
    """Put the messages of a response, a line each. Raises: AttemptError; StoreError."""
    buffer = bytearray()
    async for data in response:
        buffer += data
        if b"\n" in data:
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                await stream.put(_checked(endpoint, response.status, bytes(line)).get("result", {}))
        if len(buffer) > _MAX_MESSAGE_BYTES:
            raise AttemptError(f"{_name(endpoint)}: a message is too large", may_be_done=True)
    if buffer:  # an error that is no message of the stream
        _checked(endpoint, response.status, bytes(buffer))
    raise AttemptError(f"{_name(endpoint)}: it has ended the stream", may_be_done=True, answered=True)


def _checked(endpoint: Origin, status: int, body: bytes) -> Json:
    """Return an answer that is none of an error. Raises: AttemptError; RefusedError; _TokenError."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        why = next(
            (why for text, why in _PLAIN.items() if text in body), f"it answers {status}, and not as etcd"
        )
        raise AttemptError(f"{_name(endpoint)}: {why}", may_be_done=not 400 <= status < 500)  # noqa: PLR2004
    if "error" in answer or "code" in answer:
        raise error_of(endpoint, answer)
    return answer


def error_of(endpoint: Origin, answer: Json) -> Exception:
    """Return the exception for an error that was answered; its form depends on the call and the version."""
    found = answer["error"] if isinstance(answer.get("error"), dict) else answer
    code = found.get("code", found.get("grpc_code", _UNKNOWN))
    message = str(found.get("message") or found.get("error"))
    if message in _BAD_TOKEN:
        return _TokenError(message)
    if message in _NOT_NOW:
        return AttemptError(f"{_name(endpoint)}: {message}", may_be_done=False, answered=True)
    if code in _UNCERTAIN:
        return AttemptError(f"{_name(endpoint)}: {message}", may_be_done=True, answered=True)
    return RefusedError(message)
