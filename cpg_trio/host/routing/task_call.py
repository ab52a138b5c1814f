"""A routed call whose provider runs in this process: the provider's application answers it, and no socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cpg_trio.asgi import (
    CANCEL_ON_DISCONNECT,
    DEADLINE,
    LOCAL,
    HeaderList,
    Message,
    Receive,
    ResponseAbortedError,
    Scope,
    Send,
    send_text,
)
from cpg_trio.call_record import Stage
from cpg_trio.host.routing.headers import forwarded_in_response
from cpg_trio.http import ConnectionBrokenError, UpstreamError
from cpg_trio.http.heads import MalformedError
from cpg_trio.rpc import Caller
from cpg_trio.rpc.app_server import AppServer, ServedCall
from cpg_trio.rpc.recording import RecordedCall

if TYPE_CHECKING:
    from cpg_trio.host.routing.router import RoutedCall

_TRAILERS = "http.response.trailers"


class TaskCall:
    """One call. Of its scope it takes what the server says, and what its client has sent from the router.

    It is what `http.RelayCall` is for a provider with an address, with the same ends: the caller leaves, the
    provider is gone, or either may not go on.
    """

    __slots__ = (
        *("_call", "_forward", "_has_head", "_is_cancelled", "_is_in_memory"),
        *("_malformed", "_receive", "_record", "_send", "_task"),
    )

    def __init__(self, forward: RoutedCall, task: AppServer) -> None:
        self._forward = forward
        self._task = task
        self._call: ServedCall | None = None
        self._is_cancelled = self._has_head = False
        self._malformed: MalformedError | None = None

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the call, as an ASGI application does."""
        forward, self._send = self._forward, send
        self._is_in_memory = LOCAL in scope["extensions"]
        if (cancelling := scope["extensions"].get(CANCEL_ON_DISCONNECT)) is not None:
            cancelling["request"]()
        record = self._record = forward.begin(self)
        self._receive = receive
        take = self._take if self._is_in_memory else receive
        recorded = RecordedCall(record, take, send, self._fields_back)
        try:
            self._call = self._task.begin(self._scope(scope), recorded.receive, recorded.send)
            await self._call.wait()
        except UpstreamError as error:
            await self._fail(self._malformed or error)
        except ResponseAbortedError as error:
            await self._fail(ConnectionBrokenError(str(error)))
        finally:
            self.note_progress()
            forward.end(self)
            self._call = None  # a reference cycle would stay until garbage is collected

    def cancel(self) -> None:
        """End the call from outside, as its provider is gone, or may not be called any more."""
        self._is_cancelled = True
        if self._call is not None:
            self._call.cut()

    def note_progress(self) -> None:
        """Bring the record up to date."""
        if self._call is not None and self._record.stage is Stage.CONNECT:
            self._record.stage = Stage.REQUEST

    async def _fail(self, error: UpstreamError | MalformedError) -> None:
        """Tell the caller of a failure; one that has a part of the response sees that it is not all."""
        record, has_begun = self._record, self._record.stage is Stage.RESPONSE
        failure = self._forward.failure(None if self._is_cancelled else error)
        record.failure, record.code = failure.why, failure.code
        if has_begun:
            raise ResponseAbortedError(failure.why)
        record.status = failure.status
        await send_text(self._send, failure.status, f"{failure.text}\n", failure.fields)

    async def _take(self) -> Message:
        """Return the next message of the caller. A request that is none ends the call alone."""
        try:
            return await self._receive()
        except MalformedError as error:
            self._malformed = error
            if self._call is not None:
                self._call.cut()
            return {"type": "http.disconnect"}

    def _fields_back(self, status: int, fields: HeaderList) -> HeaderList:
        """Return the header fields that go back, of a response or of its trailers."""
        passed = forwarded_in_response(fields)
        if not self._has_head:
            self._has_head = True
            self._forward.refusal(status, fields)  # the load of the provider is known by it
            if self._is_in_memory:
                passed.append((b"x-request-id", self._record.request_id.encode()))
        return passed

    def _scope(self, scope: Scope) -> Scope:
        """Return the scope of the call for its provider."""
        forward = self._forward
        # Nothing is gained by compressing what does not travel.
        route, fields = forward.in_memory(without=b"accept-encoding" if self._is_in_memory else b"")
        identity = forward.identity
        extensions: dict[str, object] = {LOCAL: Caller(identity.runtime_id, identity.self_id)}
        if self._is_in_memory:
            extensions[DEADLINE] = True
        if _TRAILERS in scope["extensions"]:
            extensions[_TRAILERS] = {}
        return {
            "type": "http",
            "asgi": scope["asgi"],
            "http_version": scope["http_version"],
            "method": scope["method"],
            "scheme": "http",
            "path": route.path_text,
            "raw_path": route.target,
            "query_string": forward.query,
            "root_path": "",
            "headers": fields,
            "client": None,
            "server": None,
            "state": {},
            "extensions": extensions,
        }
