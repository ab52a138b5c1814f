"""The Connect client: unary calls and streams of each kind, and the base of typed clients.

Source of the protocol: https://connectrpc.com/docs/protocol. A call is bounded by its own `timeout_s`, by
the client's, and by the enclosing cancel scopes; the nearest of the deadlines travels to the server in
`Connect-Timeout-Ms`, so that the server stops when it is over. A call's own deadline is an error
(`deadline_exceeded`); an enclosing scope's is a cancellation, as everywhere in Trio.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, suppress
from copy import copy
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Literal, Self, TypedDict, TypeVar, cast

import attrs
import httpx
import trio
from connectrpc.code import Code
from connectrpc.compression.gzip import GzipCompression
from connectrpc.errors import ConnectError
from connectrpc.request import Headers
from google.protobuf.message import Message

from cpg_trio._version import __version__
from cpg_trio.call_context import NO_CALL, current
from cpg_trio.http import Pool
from cpg_trio.rpc.codecs import CODECS
from cpg_trio.rpc.envelope import decompress, unwrap, wrap
from cpg_trio.rpc.errors import error_from_http, error_from_json, protocol_error
from cpg_trio.rpc.faults import CallError, Fault, fault_of_answer
from cpg_trio.rpc.http_client import (
    NO_TRAITS,
    CallTraits,
    Duplex,
    HttpClient,
    HttpRequest,
    HttpResponse,
    HttpResponseHead,
    WholeResponse,
    http_client_of,
    read_body,
    send_duplex,
)
from cpg_trio.rpc.intercepted import Intercepted, Sending
from cpg_trio.rpc.interceptors import Interceptor, checked_interceptors
from cpg_trio.rpc.response import ResponseMetadata, ResponseStream

if TYPE_CHECKING:
    from cpg_trio.calls import Retry

_M = TypeVar("_M", bound=Message)

_OK = 200
_LONGEST_TIMEOUT_MS = 9_999_999_999  # the header holds ten digits
_SAME_DEADLINE_S = 0.05  # the two ends may differ by this much on one deadline
_END_S = 0.1  # the wait for the end of a body after the end of its stream
_GZIP = GzipCompression()
_ACCEPT_GZIP = ("accept-encoding", "gzip")


class CallOptions(TypedDict, total=False):
    """Keyword options of a single call. Another keyword is a TypeError."""

    timeout_s: float | None
    """Seconds until the call fails with `deadline_exceeded`. None leaves it to the cancel scopes."""
    headers: Mapping[str, str]
    """Request headers, in addition to the client's. `Headers` may have several values for a name."""
    metadata: ResponseMetadata
    """Receives the response's headers and trailers, also when the call fails."""
    retry: bool | Retry
    """Of a dependency's call: whether it may run several times, whatever its method says; False has it sent
    once, come what may. Or another policy than the dependency's."""
    key: str
    """Of a dependency's call: calls with the same key go to the same provider, if its policy is so."""


_OPTIONS = frozenset(CallOptions.__annotations__)
_IDEMPOTENT = CallTraits(idempotent=True)


@attrs.frozen(kw_only=True)
class ClientConfig:
    """How a client calls: codec, deadlines, headers, limits. Each call may have others (`CallOptions`)."""

    codec: Literal["proto", "json"] = "proto"
    """How messages are sent, and asked for."""
    timeout_s: float | None = None
    """Seconds that a call may take by default; None leaves it to the cancel scopes."""
    answer_timeout_s: float | None = None
    """Without a `timeout_s`: seconds until the answer, or until the first message of a stream of them, which
    may go on then. If requests are streamed, they count from the first request; if the answer is one message,
    from the last. A client of a dependency has that of its policy."""
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    """Sent with every call."""
    max_message_bytes: int | None = 4 * 1024 * 1024
    """The largest response message that is accepted, also after decompression; None is no limit."""
    gzip_from_bytes: int | None = 1024
    """Requests of at least this many bytes are sent compressed; None compresses none."""


class ServiceClient:
    """A client of one service. Generated subclasses add the methods with their types.

    `address` is the URL before `/package.Service/Method`; with a path, that path comes first. `http` is any
    `httpx.AsyncClient`, a `Pool`, or another `HttpClient`; the client neither opens nor closes it.
    Its calls pass the `interceptors` (see the module of that name), the first one first.
    """

    service_name: ClassVar[str]
    _intercepted: Intercepted | None = None

    def __init__(
        self,
        address: str,
        http: httpx.AsyncClient | Pool | HttpClient,
        config: ClientConfig | None = None,
        *,
        interceptors: Iterable[Interceptor] = (),
    ) -> None:
        self._base_url = f"{address.rstrip('/')}/{self.service_name}/"
        self._http = http_client_of(http)
        self._config = config or ClientConfig()
        self._codec = CODECS[self._config.codec]
        self._content_type = f"application/{self._config.codec}"
        self._stream_type = f"application/connect+{self._config.codec}"
        self._own_headers = {"user-agent": f"cpg-trio/{__version__}", **_lower(self._config.headers)}
        self._usual_headers = self._headers_with({}, self._content_type)
        usual, until_answer = self._config.timeout_s, self._config.answer_timeout_s
        self._unary_timeout_s = until_answer if usual is None else usual
        if chain := checked_interceptors(interceptors):
            sending = copy(self)._sending()  # noqa: SLF001 - this class's own
            self._intercepted = Intercepted(chain, self._own_headers, sending)

    def _sending(self) -> Sending:
        """Return the calls of a client that gets all of their headers from its interceptors."""
        self._own_headers = {}
        self._usual_headers = self._headers_with({}, self._content_type)
        calls = (self._unary, self._client_stream, self._server_stream, self._bidi_stream)
        return Sending(self.service_name, self._config.timeout_s, *calls)

    async def _unary(
        self,
        method: str,
        request: Message,
        returns: type[_M],
        options: CallOptions,
        *,
        idempotent: bool = False,
    ) -> _M:
        traits = _traits(options, idempotent=idempotent)
        async with _Deadline(options.get("timeout_s", self._unary_timeout_s)) as deadline:
            if self._intercepted is not None:
                return await self._intercepted.unary(method, request, returns, options, idempotent=idempotent)
            content, encoding = self._compress(self._codec.encode(request))
            headers = [*self._headers(options), *deadline.header, *encoding]
            headers += [_ACCEPT_GZIP, *self._context(options)]
            sent = HttpRequest("POST", self._base_url + method, headers, content, traits)
            response = await self._http.unary(sent, self._config.max_message_bytes)
            body = self._read_unary(response, options.get("metadata"))
        return self._decode(body, returns)

    async def _client_stream(
        self,
        method: str,
        requests: AsyncIterable[Message],
        returns: type[_M],
        options: CallOptions,
        *,
        idempotent: bool = False,
    ) -> _M:
        traits = _traits(options, idempotent=idempotent)
        if self._intercepted is not None:
            return await self._intercepted.client_stream(
                method, requests, returns, options, idempotent=idempotent
            )
        deadline = self._stream_deadline(options, begun=False)
        async with (
            aclosing(self._frames(requests, None, deadline.begin)) as frames,
            self._stream(method, frames, returns, options, traits, deadline) as stream,
        ):
            messages = [message async for message in stream]
        if len(messages) != 1:
            text = f"{len(messages)} responses instead of one"
            raise CallError(Code.UNIMPLEMENTED, text, fault=Fault.HANDLER)
        return messages[0]

    def _server_stream(
        self,
        method: str,
        request: Message,
        returns: type[_M],
        options: CallOptions,
        *,
        idempotent: bool = False,
    ) -> AbstractAsyncContextManager[ResponseStream[_M]]:
        traits = _traits(options, idempotent=idempotent)
        if self._intercepted is not None:
            return self._intercepted.server_stream(method, request, returns, options, idempotent=idempotent)
        deadline = self._stream_deadline(options, begun=True)
        return self._stream(method, self._frame(request), returns, options, traits, deadline)

    def _bidi_stream(
        self,
        method: str,
        requests: AsyncIterable[Message],
        returns: type[_M],
        options: CallOptions,
        *,
        idempotent: bool = False,
    ) -> AbstractAsyncContextManager[ResponseStream[_M]]:
        traits = _traits(options, idempotent=idempotent)
        if self._intercepted is not None:
            return self._intercepted.bidi_stream(method, requests, returns, options, idempotent=idempotent)
        return self._both_streams(method, requests, returns, options, traits)

    @asynccontextmanager
    async def _both_streams(
        self,
        method: str,
        requests: AsyncIterable[Message],
        returns: type[_M],
        options: CallOptions,
        traits: CallTraits,
    ) -> AsyncIterator[ResponseStream[_M]]:
        """Begin at once: the first response may be an answer to a request that the block causes."""
        metadata = options.get("metadata", ResponseMetadata())
        async with (
            self._stream_deadline(options, begun=False) as deadline,
            aclosing(self._frames(requests, deadline.begin, deadline.begin)) as frames,
            send_duplex(
                self._http, self._stream_request(method, frames, options, traits, deadline)
            ) as duplex,
            aclosing(self._duplex_messages(duplex, returns, metadata, deadline)) as messages,
        ):
            yield ResponseStream(messages, metadata)

    @asynccontextmanager
    async def _stream(
        self,
        method: str,
        body: bytes | AsyncIterable[bytes],
        returns: type[_M],
        options: CallOptions,
        traits: CallTraits,
        deadline: _Deadline,
    ) -> AsyncIterator[ResponseStream[_M]]:
        metadata = options.get("metadata", ResponseMetadata())
        async with (
            deadline,
            self._http.stream(self._stream_request(method, body, options, traits, deadline)) as response,
        ):
            await self._check_stream(response, metadata)
            deadline.lift()
            async with aclosing(self._messages(response, returns, metadata)) as messages:
                yield ResponseStream(messages, metadata)

    def _stream_request(
        self,
        method: str,
        body: bytes | AsyncIterable[bytes],
        options: CallOptions,
        traits: CallTraits,
        deadline: _Deadline,
    ) -> HttpRequest:
        headers = [*self._headers_with(options.get("headers", {}), self._stream_type), *deadline.header]
        headers += self._context(options)
        # httpx would offer encodings of the whole body by default; a stream compresses each message.
        headers += [("connect-accept-encoding", "gzip"), ("accept-encoding", "identity")]
        if self._config.gzip_from_bytes is not None:
            headers.append(("connect-content-encoding", "gzip"))
        return HttpRequest("POST", self._base_url + method, headers, body, traits, deadline.lift)

    async def _duplex_messages(
        self, duplex: Duplex, returns: type[_M], metadata: ResponseMetadata, deadline: _Deadline
    ) -> AsyncGenerator[_M, None]:
        response = await duplex.response()
        deadline.lift()
        await self._check_stream(response, metadata)
        async with aclosing(self._messages(response, returns, metadata)) as messages:
            async for message in messages:
                yield message

    def _stream_deadline(self, options: CallOptions, *, begun: bool) -> _Deadline:
        own = options.get("timeout_s", self._config.timeout_s)
        if own is not None or "timeout_s" in options:
            return _Deadline(own)
        return _Deadline(self._config.answer_timeout_s, of_first_message=True, begun=begun)

    def _headers(self, options: CallOptions) -> list[tuple[str, str]]:
        given = options.get("headers")
        return self._headers_with(given, self._content_type) if given else self._usual_headers

    def _headers_with(self, given: Mapping[str, str], content_type: str) -> list[tuple[str, str]]:
        fixed = {"connect-protocol-version": "1", "content-type": content_type}
        named = {**self._own_headers, **_lower(given), **fixed}
        if not isinstance(given, Headers):
            return [*named.items()]
        repeated = {name: given.getall(name) for name in given if name not in fixed}
        return [(name, each) for name, value in named.items() for each in repeated.get(name, (value,))]

    def _context(self, options: CallOptions) -> list[tuple[str, str]]:
        """Return the fields by which a call belongs to the one that is served here; its own ones win."""
        context = current()
        if context is NO_CALL:
            return []
        given = options.get("headers")
        return context.fields({**self._own_headers, **_lower(given)} if given else self._own_headers)

    def _compress(self, content: bytes) -> tuple[bytes, list[tuple[str, str]]]:
        if not self._worth_compressing(content):
            return content, []
        return _GZIP.compress(content), [("content-encoding", "gzip")]

    def _worth_compressing(self, content: bytes) -> bool:
        return self._config.gzip_from_bytes is not None and len(content) >= self._config.gzip_from_bytes

    def _frame(self, request: Message) -> bytes:
        content = self._codec.encode(request)
        return wrap(content, compress=self._worth_compressing(content))

    async def _frames(
        self,
        requests: AsyncIterable[Message],
        on_each: Callable[[], None] | None,
        on_end: Callable[[], None],
    ) -> AsyncGenerator[bytes, None]:
        async with AsyncExitStack() as stack:
            if isinstance(requests, AsyncGenerator):  # it is not iterated to its end if the answer is early
                await stack.enter_async_context(aclosing(requests))
            async for request in requests:
                if on_each is not None:
                    on_each()
                yield self._frame(request)
        on_end()

    def _read_unary(self, response: WholeResponse, metadata: ResponseMetadata | None) -> bytes:
        if metadata is not None:
            _sort_metadata(response, metadata)
        body = self._unpacked(response, response.body)
        content_type = _media_type(response)
        if response.status != _OK:
            raise _error(response, content_type, body)
        if content_type != self._content_type:
            raise _another_type(content_type, self._content_type, "application/")
        return body

    async def _check_stream(self, response: HttpResponse, metadata: ResponseMetadata) -> None:
        metadata.headers = Headers(response.headers)
        content_type = _media_type(response)
        if response.status != _OK:
            body = await read_body(response, self._config.max_message_bytes)
            raise _error(response, content_type, self._unpacked(response, body))
        if content_type != self._stream_type:
            raise _another_type(content_type, self._stream_type, "application/connect+")

    def _unpacked(self, response: HttpResponseHead, body: bytes) -> bytes:
        match response.header("content-encoding"):
            case "" | "identity":
                return body
            case "gzip":
                return decompress(body, self._config.max_message_bytes)
            case other:
                raise protocol_error(f"unknown content encoding {other!r}")

    async def _messages(
        self, response: HttpResponse, returns: type[_M], metadata: ResponseMetadata
    ) -> AsyncGenerator[_M, None]:
        async with aclosing(unwrap(response.body, self._config.max_message_bytes)) as envelopes:
            async for envelope in envelopes:
                await trio.lowlevel.checkpoint_if_cancelled()  # many may have come at once
                if envelope.ends_stream:
                    await _read_to_end(response)
                    _end_stream(envelope.content, metadata)
                    return
                yield self._decode(envelope.content, returns)
        raise protocol_error("the stream broke off before its end")

    def _decode(self, content: bytes, returns: type[_M]) -> _M:
        try:
            return cast("_M", self._codec.decode(content, returns))
        except Exception as error:
            name = returns.DESCRIPTOR.full_name
            raise protocol_error(f"the answer is no {name}") from error


class _Deadline:
    """Bounds the block by a call's own deadline; `header` has the nearest deadline then, if there is any.

    That of the first message of a stream counts from `begin`, until `lift`, and is not told to the server.
    A class, because a generator would cost more than all that it does.
    """

    def __init__(
        self, timeout_s: float | None, *, of_first_message: bool = False, begun: bool = True
    ) -> None:
        self._timeout_s = timeout_s
        self._of_first_message = of_first_message
        self._begun = begun
        self._scope: trio.CancelScope | None = None
        self._enclosing = math.inf
        self.header: list[tuple[str, str]] = []

    async def __aenter__(self) -> Self:
        now = trio.current_time()
        nearest = self._enclosing = trio.current_effective_deadline()
        if self._timeout_s is not None:
            # Setting the deadline of a scope costs as much as making one, so it is given at once.
            deadline = now + max(self._timeout_s, 0.0) if self._begun else math.inf
            self._scope = trio.CancelScope(deadline=deadline)
            self._scope.__enter__()
            if not self._of_first_message:
                nearest = min(nearest, deadline)
        # The deadline of a scope that is cancelled already is minus infinity.
        milliseconds = max(nearest - now, 0.0) * 1000
        if milliseconds <= _LONGEST_TIMEOUT_MS:
            self.header = [("connect-timeout-ms", str(int(milliseconds)))]
        return self

    def begin(self) -> None:
        """Let the time of the first message run, if it does not yet."""
        if self._scope is not None and self._timeout_s is not None and not self._begun:
            self._begun = True
            self._scope.deadline = trio.current_time() + self._timeout_s

    def lift(self) -> None:
        """Note that the first message is there: its time is over."""
        if self._of_first_message and self._scope is not None:
            self._begun = True
            self._scope.deadline = math.inf

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._scope is not None:
            self._scope.__exit__(exc_type, error, traceback)
            if self._scope.cancelled_caught:
                what = "message" if self._of_first_message else "complete answer"
                message = f"no {what} within {self._timeout_s:g} s"
                raise CallError(Code.DEADLINE_EXCEEDED, message, fault=Fault.WAY) from None
        if isinstance(error, ConnectError) and error.code is Code.DEADLINE_EXCEEDED:
            await self._leave_to_enclosing()

    async def _leave_to_enclosing(self) -> None:
        """Let the enclosing scope cancel, if the server kept the same deadline and was a moment faster."""
        if self._enclosing - trio.current_time() < _SAME_DEADLINE_S:
            await trio.sleep_until(self._enclosing)


def _traits(options: CallOptions, *, idempotent: bool) -> CallTraits:
    """Return the traits of a call. Raises: TypeError for an option that there is not."""
    if not options:
        return _IDEMPOTENT if idempotent else NO_TRAITS
    if not options.keys() <= _OPTIONS:
        raise _unknown_option(next(name for name in options if name not in _OPTIONS))
    if "retry" in options or "key" in options:
        return CallTraits(idempotent, options.get("retry"), options.get("key", ""))
    return _IDEMPOTENT if idempotent else NO_TRAITS


def _unknown_option(name: str) -> TypeError:
    near = difflib.get_close_matches(name, _OPTIONS, 1)
    hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(sorted(_OPTIONS))}"
    return TypeError(f"a call has no option {name}: {hint}")


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _media_type(response: HttpResponseHead) -> str:
    return response.header("content-type").partition(";")[0].strip().lower()


def _error(response: HttpResponseHead, content_type: str, body: bytes) -> CallError:
    fault = fault_of_answer(response, content_type)
    if content_type == "application/json":
        try:
            return error_from_json(json.loads(body), response.status, fault)
        except (ValueError, RecursionError):
            pass
    return error_from_http(response.status, content_type, body, fault)


def _another_type(content_type: str, expected: str, ours: str) -> CallError:
    """Return the error for an answer of another type than the expected one.

    If the type begins with `ours`, as Connect's types do, the server speaks Connect with a wrong codec.
    """
    code = Code.INTERNAL if content_type.startswith(ours) else Code.UNKNOWN
    text = f"the answer is {content_type or 'of no type'}, not {expected}"
    return CallError(code, text, fault=Fault.HANDLER)


def _sort_metadata(response: WholeResponse, metadata: ResponseMetadata) -> None:
    """Fill `metadata` from a unary response, whose trailers are headers that begin with `trailer-`."""
    metadata.headers, metadata.trailers = Headers(), Headers()
    for name, value in response.headers:
        if name.startswith("trailer-"):
            metadata.trailers.add(name.removeprefix("trailer-"), value)
        else:
            metadata.headers.add(name, value)


async def _read_to_end(response: HttpResponse) -> None:
    """Read a body to its end, though its stream has ended, so that its connection can be kept."""
    with trio.move_on_after(_END_S), suppress(ConnectError):
        async for _ in response.body:
            pass


def _end_stream(content: bytes, metadata: ResponseMetadata) -> None:
    try:
        end = json.loads(content)
        trailers = [(name, value) for name, values in end.get("metadata", {}).items() for value in values]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise protocol_error("the end of the stream is not JSON") from error
    metadata.trailers = Headers(trailers)
    if end.get("error") is not None:
        raise error_from_json(end["error"], _OK)
