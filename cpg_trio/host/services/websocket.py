"""The websocket `/watch`: one connection on which a plugin follows any number of service types.

The client sends a `WatchRequest` in each frame, and the host a `WatchUpdate`: proto in binary frames or JSON
in text frames, by subprotocol. The headers of the handshake prove who calls, as in every call.

A subscription that cannot be made is refused by itself. A frame that cannot be read ends the connection, with
a close code.

A change is the same for most of its watchers. What is sent of it is encoded once, and the hub's task writes
it to each socket (`Delivery`), after it has checked what that watcher may see.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeAlias

import attrs
import trio
from google.protobuf import json_format

from cpg_trio import wire
from cpg_trio._lines import one_line
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import FRAMES, FrameSender, Receive, Scope, Send, note_proved, refuse_websocket
from cpg_trio.host.access import (
    AccessCheck,
    Action,
    Identity,
    Kind,
    LimitError,
    Peer,
    RefusedError,
    retry_fields,
)
from cpg_trio.host.cluster import ALONE, BehindError, Others
from cpg_trio.host.directory import ServiceStatus, Update, Watch, WatchHub
from cpg_trio.host.services.edges import credentials_of, state_errors
from cpg_trio.host.services.service_registry import provider_changes, watch_event
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import Code

# RFC 6455, section 7.4.1
_INVALID_PAYLOAD = 1007
_POLICY_VIOLATION = 1008
_GOING_AWAY = 1001
_MOST_FRAME_BYTES = 256 * 1024  # of a request
_MOST_REFUSALS = 50  # in one update
_MAX_REASON_BYTES = 123  # section 5.5
_MOST_KEPT = 64  # updates of one revision
_MOST_KEPT_BYTES = 16 * 1024  # of a message

_Frame: TypeAlias = Mapping[str, Any]


class UnreadableError(ValueError):
    """A frame that the subprotocol does not allow."""


@attrs.frozen
class _Codec:
    """How a subprotocol writes messages in frames."""

    kind: str
    key: str
    """The entry of an ASGI message that has the frame."""
    decode: Callable[[Any], pb.WatchRequest]
    encode: Callable[[pb.WatchUpdate], str | bytes]

    def read(self, frame: _Frame) -> pb.WatchRequest:
        """Return the request of a frame. Raises: UnreadableError."""
        if (data := frame.get(self.key)) is None:
            raise UnreadableError(f"a {self.kind} frame was expected")
        try:
            return self.decode(data)
        except Exception as error:  # DecodeError, RecursionError, ValueErrors of several kinds
            raise UnreadableError(f"not a WatchRequest: {one_line(str(error))}") from error

    def write(self, update: str | bytes) -> dict[str, Any]:
        """Return the ASGI message that sends an update, which is encoded."""
        return {"type": "websocket.send", self.key: update}


CODECS: Mapping[str, _Codec] = {
    wire.WATCH_PROTO: _Codec("binary", "bytes", pb.WatchRequest.FromString, pb.WatchUpdate.SerializeToString),
    wire.WATCH_JSON: _Codec(
        "text",
        "text",
        lambda text: json_format.Parse(text, pb.WatchRequest()),
        partial(json_format.MessageToJson, indent=None),
    ),
}


class _Encoded:
    """An update that is encoded, and may be the same for others."""

    __slots__ = ("_frame", "message")

    def __init__(self, message: str | bytes) -> None:
        self.message = message
        self._frame = b""

    def frame(self, sender: FrameSender) -> bytes:
        """Return it as a frame."""
        if not self._frame:
            self._frame = sender.encode_frame(self.message)
        return self._frame


class _Updates:
    """The updates of one revision that were sent last, encoded, for the watchers that are told the same."""

    def __init__(self) -> None:
        self._revision = 0
        self._encoded: dict[tuple[object, ...], _Encoded] = {}

    def encoded(self, update: Update, codec: _Codec) -> _Encoded:
        """Return an update of which nothing is refused."""
        if update.revision != self._revision or len(self._encoded) >= _MOST_KEPT:
            self._encoded.clear()
            self._revision = update.revision
        content = codec.kind, *update.content()
        found = self._encoded.get(content)
        if found is None:
            found = _Encoded(codec.encode(_message(update, {})))
            if len(found.message) <= _MOST_KEPT_BYTES:
                self._encoded[content] = found
        return found


class WatchSocket:
    """The ASGI application at `/watch`."""

    def __init__(
        self,
        access: AccessCheck,
        hub: WatchHub,
        max_subscriptions: int,
        host_id: str,
        others: Others = ALONE,
    ) -> None:
        self._access = access
        self._hub = hub
        self._max_subscriptions = max_subscriptions
        self._others = others
        self._updates = _Updates()
        self._accepted = [(wire.HOST_ID_HEADER.lower().encode(), host_id.encode())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection until either side ends it, or the caller's identity has ended."""
        await receive()  # websocket.connect
        with ExitStack() as stack:
            try:
                caller = self._access.admit(*credentials_of(scope), Peer.of_scope(scope), Kind.WATCH)
                note_proved(scope, caller.runtime_id)
                chosen = _chosen(scope["subprotocols"])
                with state_errors():
                    watch = stack.enter_context(self._hub.watch(caller.runtime_id))
            except RefusedError as refused:
                fields = retry_fields(refused.retry_after_s)
                await refuse_websocket(send, refused.status, refused.message, fields)
                return
            await send({"type": "websocket.accept", "subprotocol": chosen, "headers": self._accepted})
            connection = _Connection(
                self._access,
                caller,
                watch,
                self._hub.turns,
                self._max_subscriptions,
                CODECS[chosen or wire.WATCH_JSON],
                self._updates,
                receive,
                send,
                self._others,
            )
            if (sender := scope.get("extensions", {}).get(FRAMES)) is not None:
                watch.deliver_by(_FrameDelivery(connection, sender))
            await connection.run()


class _Connection:
    """One connection, once it is accepted."""

    def __init__(
        self,
        access: AccessCheck,
        caller: Identity,
        watch: Watch,
        turns: trio.Semaphore,
        max_subscriptions: int,
        codec: _Codec,
        updates: _Updates,
        receive: Receive,
        send: Send,
        others: Others,
    ) -> None:
        self._others = others
        self._updates = updates
        self._access = access
        self._caller = caller
        self._watch = watch
        self._turns = turns
        self._max_subscriptions = max_subscriptions
        self._codec = codec
        self._receive = receive
        self._send = send
        self._is_first = True  # the next request
        self._end: tuple[int, str] | None = None
        """The code and the reason with which the host ends the connection; None if the client has left."""

    async def run(self) -> None:
        """Serve until either side ends the connection. Of two reasons the first is sent."""
        async with open_plain_nursery() as nursery:
            for side in (self._receive_requests, self._send_updates):
                nursery.start_soon(self._until_end, side, nursery.cancel_scope)
        if self._end is not None:
            code, reason = self._end
            cut = reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
            await self._send({"type": "websocket.close", "code": code, "reason": cut})

    async def _until_end(self, side: Callable[[], Awaitable[None]], both: trio.CancelScope) -> None:
        end: tuple[int, str] | None = None
        try:
            await side()
        except UnreadableError as error:
            end = _INVALID_PAYLOAD, str(error)
        except RefusedError as refused:
            end = _POLICY_VIOLATION, refused.message
        except BehindError as error:
            end = wire.WATCH_BEHIND_CODE, str(error)
        self._end = self._end or end
        both.cancel()

    async def _send_updates(self) -> None:
        """Send updates until the host stops. Raises: RefusedError once the caller's identity has ended."""
        while True:
            update: Update | None = None  # the one before is not held during the wait
            with trio.move_on_at(self._access.expires_at(self._caller)) as until_end:
                update = await anext(self._watch, None)
            self._access.check_still_valid(self._caller)
            if until_end.cancelled_caught:
                continue  # its identity has been renewed
            if update is None:
                self._end = self._end or (_GOING_AWAY, "the host is stopping")
                return
            await self._send_update(update)

    async def _send_update(self, update: Update) -> None:
        async with self._turns:
            self._access.check_still_valid(self._caller)
            message = self._codec.write(self.encoded(update).message)
        await self._send(message)

    async def _receive_requests(self) -> None:
        """Carry out requests until the client leaves. Raises: RefusedError; UnreadableError; BehindError."""
        while await self._carry_out_next():
            pass  # in no variable here: a request may be large, and the wait for the next one long

    async def _carry_out_next(self) -> bool:
        """Receive a request and carry it out; return whether there was one."""
        frame = await self._receive()
        if frame["type"] == "websocket.disconnect":
            return False
        size = len(frame.get("bytes") or frame.get("text") or b"")
        for wait_s in iter(partial(self._access.subscribe_wait_s, self._caller, size // 1024), 0):
            await trio.sleep(wait_s)
        async with self._watch.large(size):
            if size > _MOST_FRAME_BYTES:
                raise UnreadableError(f"a request of {size} bytes (max: {_MOST_FRAME_BYTES})")
            async with self._turns:
                request = self._codec.read(frame)
            if self._is_first:
                self._is_first = False
                await self._others.known(request.seen_revision)
            await self._carry_out(request)
        return True

    async def _carry_out(self, request: pb.WatchRequest) -> None:
        """Carry out a request, and send which of its subscriptions are refused."""
        for service_type in request.unsubscribe:
            self._watch.unsubscribe(service_type)
        for begin in range(0, len(request.subscribe), _MOST_REFUSALS):
            async with self._turns:
                self._access.check_still_valid(self._caller)
                some = request.subscribe[begin : begin + _MOST_REFUSALS]
                refusals = [r for s in some if (r := self._subscribe(s)) is not None]
                message = self._codec.encode(pb.WatchUpdate(refusals=refusals))
            if refusals:
                await self._send(self._codec.write(message))

    def _subscribe(self, subscription: pb.WatchSubscription) -> pb.WatchRefusal | None:
        service_type = subscription.service_type
        try:
            with state_errors():
                if len(self._watch) >= self._max_subscriptions:
                    raise LimitError("subscriptions", self._max_subscriptions)
                wire.validate_service_type(service_type)
                self._access.check_may_call(self._caller, service_type, Action.DISCOVER)
                self._watch.subscribe(
                    service_type,
                    subscription.min_version,
                    subscription.version_range,
                    subscription.max_providers,
                )
        except RefusedError as refused:
            return pb.WatchRefusal(service_type=service_type, message=refused.message)
        return None

    def may_be_told(self) -> bool:
        """Whether the caller's identity has not ended."""
        try:
            self._access.check_still_valid(self._caller)
        except RefusedError:
            return False
        return True

    def encoded(self, update: Update) -> _Encoded:
        """Return an update for the client. Services that it may not call any more are unavailable to it."""
        refused: dict[str, str] = {}
        for service_type in (*update.statuses, *update.providers):
            try:
                self._access.check_may_call(self._caller, service_type, Action.DISCOVER)
            except RefusedError as error:
                refused[service_type] = error.message
        if not refused:
            return self._updates.encoded(update, self._codec)
        for service_type in refused:
            self._watch.forget_told(service_type)
        return _Encoded(self._codec.encode(_message(update, refused)))


@attrs.frozen
class _FrameDelivery:
    """Writes updates to a connection: a `Delivery`."""

    connection: _Connection
    sender: FrameSender

    def is_ready(self) -> bool:
        """See `Delivery`."""
        return self.sender.may_send_frame() and self.connection.may_be_told()

    def send(self, update: Update) -> bool:
        """See `Delivery`."""
        return self.sender.send_frame(self.connection.encoded(update).frame(self.sender))

    async def finish(self) -> None:
        """See `Delivery`."""
        await self.sender.send_rest()


def _message(update: Update, refused: Mapping[str, str]) -> pb.WatchUpdate:
    """Return an update without what is refused, which is a reason by service type."""
    refusals = [pb.WatchRefusal(service_type=name, message=reason) for name, reason in refused.items()]
    unavailable = ServiceStatus(pb.SERVICE_STATE_UNAVAILABLE)
    return pb.WatchUpdate(
        revision=update.revision,
        gone=update.gone,
        events=[
            watch_event(name, unavailable if name in refused else status)
            for name, status in update.statuses.items()
        ],
        providers=[
            provider_changes(name, news) for name, news in update.providers.items() if name not in refused
        ],
        refusals=refusals,
    )


def _chosen(offered: Sequence[str]) -> str | None:
    """Return the subprotocol to speak, None to a client that offers none. Raises: RefusedError."""
    chosen = next((name for name in offered if name in CODECS), None)
    if offered and chosen is None:
        raise RefusedError(Code.INVALID_ARGUMENT, f"subprotocols are {' and '.join(CODECS)}")
    return chosen
