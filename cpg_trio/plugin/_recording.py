"""The records of the calls that a plugin makes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import attrs

from cpg_trio.call_context import FIELDS, CallContext, current, received
from cpg_trio.call_record import Call, CallKind, Calls, Stage
from cpg_trio.plugin._session import SessionProvider
from cpg_trio.rpc import ConnectError, Duplex, HttpClient, HttpRequest, HttpResponse, WholeResponse
from cpg_trio.rpc.http_client import code_of, send_duplex

_NAMES = frozenset(name.decode() for name in FIELDS)

Read = Callable[[AsyncIterator[bytes]], Awaitable[bytes]]


class RecordedBody:
    """The body of a response. When it has been read to its end, its call has succeeded."""

    def __init__(self, call: Call, response: HttpResponse, read: Read = anext) -> None:
        self._call = call
        self._response = response
        self._read = read
        self._last = b""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._read(self._response.body)
        except StopAsyncIteration:
            self._call.succeed(self._response.status, code_of(self._response, self._last))
            raise
        self._call.response_bytes += len(chunk)
        self._last = chunk or self._last
        return chunk


def note_sent(call: Call, request: HttpRequest) -> None:
    """Note how many bytes a request has, if that is known."""
    if isinstance(request.body, bytes):
        call.request_bytes = len(request.body)


def note_whole(call: Call, response: WholeResponse) -> None:
    """Note that a response has come whole."""
    call.response_bytes = len(response.body)
    call.succeed(response.status, code_of(response, response.body))


def note_begun(call: Call, response: HttpResponse, read: Read = anext) -> HttpResponse:
    """Note that a response has begun; return it with a body that notes the rest."""
    call.status, call.stage = response.status, Stage.RESPONSE
    return attrs.evolve(response, body=RecordedBody(call, response, read))


def note_error(call: Call, error: ConnectError) -> None:
    """Note why there was no whole response."""
    call.code, call.failure = error.code.value, error.message


def entered(calls: Calls, request: HttpRequest, method: str, url: str) -> tuple[CallContext, HttpRequest]:
    """Return the context of a call that is made now, and the request that carries it.

    Without a tracer both are as they are. `method` is `/package.Service/Method`; `url` is where it goes.
    """
    if (tracer := calls.tracer) is None:
        return current(), request
    given = received([(name.encode(), value.encode()) for name, value in request.headers if name in _NAMES])
    context = tracer.enter(tracer.calling(given), method.lstrip("/"), url.split("/", 3)[2])
    others = [field for field in request.headers if field[0] not in _NAMES]
    return context, attrs.evolve(request, headers=[*others, *context.fields()])


@attrs.frozen
class AnsweredDuplex:
    """A request that is being sent, whose response is noted when it begins."""

    duplex: Duplex
    answered: Callable[[HttpResponse], HttpResponse]

    async def response(self) -> HttpResponse:
        """See `Duplex`."""
        return self.answered(await self.duplex.response())


@attrs.frozen
class RecordedCalls:
    """An `HttpClient` that sends the calls to a provider through the host, and records them."""

    calls: Calls
    http: HttpClient
    provider: SessionProvider
    service_type: str
    method: str
    """With its service: `/package.Service/Method`."""

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        """See `HttpClient.unary`."""
        with self._call(request) as (call, sent):
            response = await self.http.unary(sent, max_bytes)
            note_whole(call, response)
            return response

    @asynccontextmanager
    async def stream(self, request: HttpRequest) -> AsyncIterator[HttpResponse]:
        """See `HttpClient.stream`."""
        with self._call(request) as (call, sent):
            async with self.http.stream(sent) as response:
                yield note_begun(call, response)

    @asynccontextmanager
    async def duplex(self, request: HttpRequest) -> AsyncIterator[Duplex]:
        """See `DuplexClient.duplex`."""
        with self._call(request) as (call, sent):
            async with send_duplex(self.http, sent) as duplex:
                yield AnsweredDuplex(duplex, partial(note_begun, call))

    @contextmanager
    def _call(self, request: HttpRequest) -> Iterator[tuple[Call, HttpRequest]]:
        context, sent = entered(self.calls, request, self.method, request.url)
        provider, method = self.provider, request.url.rpartition("/")[2]
        caller = provider.session.runtime_id
        call = Call(CallKind.ROUTED, caller, provider.runtime_id, self.service_type, method, context=context)
        note_sent(call, request)
        self.calls.begun.tell(call)
        try:
            yield call, sent
        except ConnectError as error:
            note_error(call, error)
            raise
        finally:
            self.calls.end(call)
