"""The Connect client: unary, server-streaming and client-streaming calls, and the base of typed clients.

Source of the protocol: https://connectrpc.com/docs/protocol. A call is bounded by its own `timeout_s`, by
the client's, and by the enclosing cancel scopes; the nearest of the deadlines travels to the server in
`Connect-Timeout-Ms`, so that it stops working for nobody. A call's own deadline is an error
(`deadline_exceeded`); an enclosing scope's is a cancellation, as everywhere in Trio.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any, ClassVar, Generic, Literal, TypedDict, TypeVar, cast

import attrs
import httpx
import trio
from connectrpc.code import Code
from connectrpc.codec import Codec
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.compression.gzip import GzipCompression
from connectrpc.errors import ConnectError
from connectrpc.request import Headers
from google.protobuf.message import Message

from cpg_trio._version import __version__

from .envelope import decompress, unwrap, wrap
from .errors import error_from_http, error_from_json
from .exchange import Exchange, HttpRequest, HttpResponse, HttpxExchange

_M = TypeVar("_M", bound=Message)

_OK = 200
_LONGEST_TIMEOUT_MS = 9_999_999_999  # the header holds ten digits
_SAME_DEADLINE_S = 0.05  # by how much the two ends may differ on one deadline
_GZIP = GzipCompression()
_CODECS: Mapping[str, Codec[Any, Any]] = {
    "proto": google_protobuf_binary_codec(),
    "json": google_protobuf_json_codec(),
}


@attrs.define
class ResponseMetadata:
    """Filled in by a call that it is given to: what came beside the message."""

    headers: Headers = attrs.field(factory=Headers)
    trailers: Headers = attrs.field(factory=Headers)


class CallOptions(TypedDict, total=False):
    """What a single call can be given by keyword."""

    timeout_s: float
    """Seconds until the call fails with `deadline_exceeded`."""
    headers: Mapping[str, str]
    """Request headers, in addition to the client's."""
    metadata: ResponseMetadata
    """Receives the response's headers and trailers, also when the call fails."""


@attrs.frozen(kw_only=True)
class ClientConfig:
    """How a client calls."""

    codec: Literal["proto", "json"] = "proto"
    timeout_s: float | None = None
    """Seconds that a call may take unless it says otherwise; None leaves it to the cancel scopes."""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    """Sent with every call."""
    max_message_bytes: int | None = 4 * 1024 * 1024
    """The largest response message that is accepted, also after decompression; None is no limit."""
    gzip_from_bytes: int | None = 1024
    """Requests at least this large are sent compressed; None sends none so."""


class ResponseStream(Generic[_M]):
    """The responses of a server-streaming call, in order.

    `metadata.headers` are there from the start, `metadata.trailers` when the stream has ended. Iterating
    raises ConnectError with the server's error, or `internal` for a stream that broke off before its end.
    """

    def __init__(self, messages: AsyncIterator[_M], metadata: ResponseMetadata) -> None:
        self._messages = messages
        self.metadata = metadata

    def __aiter__(self) -> AsyncIterator[_M]:
        """Return the iterator, of which there is one."""
        return self._messages


class ServiceClient:
    """A client of one service. The typed ones are generated; they only name methods and types.

    `address` is the URL before `/package.Service/Method`; with a path, that path comes first. `http` is any
    `httpx.AsyncClient`, or another `Exchange`; the client neither opens nor closes it.
    """

    service_name: ClassVar[str]

    def __init__(
        self, address: str, http: httpx.AsyncClient | Exchange, config: ClientConfig | None = None
    ) -> None:
        self._address = address.rstrip("/")
        self._exchange = HttpxExchange(http) if isinstance(http, httpx.AsyncClient) else http
        self._config = config or ClientConfig()
        self._codec = _CODECS[self._config.codec]

    async def _unary(self, method: str, request: Message, returns: type[_M], options: CallOptions) -> _M:
        async with self._deadline(options) as timeout:
            content, encoding = self._compress(self._codec.encode(request))
            headers = self._headers(f"application/{self._config.codec}", timeout, options)
            headers += [*encoding, ("accept-encoding", "gzip")]
            async with self._exchange(self._request(method, headers, content)) as response:
                body = await self._read_unary(response, options.get("metadata", ResponseMetadata()))
        return self._decode(body, returns)

    async def _client_stream(
        self, method: str, requests: AsyncIterable[Message], returns: type[_M], options: CallOptions
    ) -> _M:
        async with self._stream(method, self._frames(requests), returns, options) as stream:
            messages = [message async for message in stream]
        if len(messages) != 1:
            raise ConnectError(Code.INTERNAL, f"protocol error: {len(messages)} responses instead of one")
        return messages[0]

    def _server_stream(
        self, method: str, request: Message, returns: type[_M], options: CallOptions
    ) -> AbstractAsyncContextManager[ResponseStream[_M]]:
        return self._stream(method, self._frame(request), returns, options)

    @asynccontextmanager
    async def _stream(
        self, method: str, body: bytes | AsyncIterable[bytes], returns: type[_M], options: CallOptions
    ) -> AsyncIterator[ResponseStream[_M]]:
        metadata = options.get("metadata", ResponseMetadata())
        async with self._deadline(options) as timeout:
            headers = self._headers(f"application/connect+{self._config.codec}", timeout, options)
            # httpx would offer encodings of the whole body by itself; a stream compresses each message.
            headers += [("connect-accept-encoding", "gzip"), ("accept-encoding", "identity")]
            if self._config.gzip_from_bytes is not None:
                headers.append(("connect-content-encoding", "gzip"))
            async with self._exchange(self._request(method, headers, body)) as response:
                await self._check_stream(response, metadata)
                async with aclosing(self._messages(response, returns, metadata)) as messages:
                    yield ResponseStream(messages, metadata)

    @asynccontextmanager
    async def _deadline(self, options: CallOptions) -> AsyncIterator[list[tuple[str, str]]]:
        """Bound the block by the call's own deadline; yield the header that tells of the nearest one."""
        timeout_s = options.get("timeout_s", self._config.timeout_s)
        own = trio.current_time() + (math.inf if timeout_s is None else max(timeout_s, 0.0))
        enclosing = trio.current_effective_deadline()
        try:
            with trio.CancelScope(deadline=own) as scope:
                yield _timeout_header(min(own, enclosing))
        except ConnectError as error:
            if error.code == Code.DEADLINE_EXCEEDED and enclosing - trio.current_time() < _SAME_DEADLINE_S:
                # The server keeps the enclosing scope's deadline too, and was a moment faster.
                await trio.sleep_until(enclosing)
            raise
        if scope.cancelled_caught:
            raise ConnectError(Code.DEADLINE_EXCEEDED, f"no complete answer within {timeout_s:g} s")

    def _request(
        self, method: str, headers: list[tuple[str, str]], body: bytes | AsyncIterable[bytes]
    ) -> HttpRequest:
        return HttpRequest("POST", f"{self._address}/{self.service_name}/{method}", headers, body)

    def _headers(
        self, content_type: str, timeout: list[tuple[str, str]], options: CallOptions
    ) -> list[tuple[str, str]]:
        own = {
            "user-agent": f"cpg-trio/{__version__}",
            **{name.lower(): value for name, value in self._config.headers.items()},
            **{name.lower(): value for name, value in options.get("headers", {}).items()},
            "connect-protocol-version": "1",
            "content-type": content_type,
        }
        return [*own.items(), *timeout]

    def _compress(self, content: bytes) -> tuple[bytes, list[tuple[str, str]]]:
        if not self._worth_compressing(content):
            return content, []
        return _GZIP.compress(content), [("content-encoding", "gzip")]

    def _worth_compressing(self, content: bytes) -> bool:
        return self._config.gzip_from_bytes is not None and len(content) >= self._config.gzip_from_bytes

    def _frame(self, request: Message) -> bytes:
        content = self._codec.encode(request)
        return wrap(content, compress=self._worth_compressing(content))

    async def _frames(self, requests: AsyncIterable[Message]) -> AsyncIterator[bytes]:
        async for request in requests:
            yield self._frame(request)

    async def _read_unary(self, response: HttpResponse, metadata: ResponseMetadata) -> bytes:
        _sort_metadata(response, metadata)
        body = await self._read_all(response)
        content_type = _media_type(response)
        if response.status != _OK:
            raise _error(response.status, content_type, body)
        if content_type != f"application/{self._config.codec}":
            raise ConnectError(Code.UNKNOWN, f"the answer is {content_type or 'of no type'}, not a message")
        return body

    async def _check_stream(self, response: HttpResponse, metadata: ResponseMetadata) -> None:
        metadata.headers = Headers(response.headers)
        content_type = _media_type(response)
        if response.status != _OK:
            raise _error(response.status, content_type, await self._read_all(response))
        if content_type != f"application/connect+{self._config.codec}":
            raise ConnectError(Code.UNKNOWN, f"the answer is {content_type or 'of no type'}, not a stream")

    async def _read_all(self, response: HttpResponse) -> bytes:
        limit = self._config.max_message_bytes
        body = bytearray()
        async for chunk in response.body:
            body += chunk
            if limit is not None and len(body) > limit:
                raise ConnectError(Code.RESOURCE_EXHAUSTED, f"the answer is larger than {limit} bytes")
        match response.header("content-encoding"):
            case "" | "identity":
                return bytes(body)
            case "gzip":
                return decompress(bytes(body), limit)
            case other:
                raise ConnectError(Code.INTERNAL, f"protocol error: unknown content encoding {other!r}")

    async def _messages(
        self, response: HttpResponse, returns: type[_M], metadata: ResponseMetadata
    ) -> AsyncGenerator[_M, None]:
        async with aclosing(unwrap(response.body, self._config.max_message_bytes)) as envelopes:
            async for envelope in envelopes:
                if envelope.ends_stream:
                    _end_stream(envelope.content, metadata)
                    return
                yield self._decode(envelope.content, returns)
        raise ConnectError(Code.INTERNAL, "protocol error: the stream broke off before its end")

    def _decode(self, content: bytes, returns: type[_M]) -> _M:
        try:
            return cast("_M", self._codec.decode(content, returns))
        except Exception as error:
            name = returns.DESCRIPTOR.full_name
            raise ConnectError(Code.INTERNAL, f"protocol error: the answer is no {name}") from error


def _timeout_header(deadline: float) -> list[tuple[str, str]]:
    # The deadline of a scope that is cancelled already is minus infinity.
    milliseconds = max(deadline - trio.current_time(), 0.0) * 1000
    if milliseconds > _LONGEST_TIMEOUT_MS:
        return []
    return [("connect-timeout-ms", str(int(milliseconds)))]


def _media_type(response: HttpResponse) -> str:
    return response.header("content-type").partition(";")[0].strip().lower()


def _error(status: int, content_type: str, body: bytes) -> ConnectError:
    if content_type == "application/json":
        try:
            return error_from_json(json.loads(body), status)
        except (ValueError, RecursionError):
            pass
    return error_from_http(status, content_type, body)


def _sort_metadata(response: HttpResponse, metadata: ResponseMetadata) -> None:
    """Sort a unary response's headers, where trailers travel as `trailer-…`."""
    metadata.headers, metadata.trailers = Headers(), Headers()
    for name, value in response.headers:
        if name.startswith("trailer-"):
            metadata.trailers.add(name.removeprefix("trailer-"), value)
        else:
            metadata.headers.add(name, value)


def _end_stream(content: bytes, metadata: ResponseMetadata) -> None:
    try:
        end = json.loads(content)
        trailers = [(name, value) for name, values in end.get("metadata", {}).items() for value in values]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ConnectError(Code.INTERNAL, "protocol error: the end of the stream is not JSON") from error
    metadata.trailers = Headers(trailers)
    if end.get("error") is not None:
        raise error_from_json(end["error"], _OK)
