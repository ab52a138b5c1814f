"""The router: who calls, whether it may, and where the call goes.

The relay asks `Router` about each request, which returns a `RoutedCall` or refuses. The relay then passes the
call on byte for byte, in both directions at once; it holds no body, and adds no timeout.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from time import perf_counter

from cpg_trio import wire
from cpg_trio._lines import one_line
from cpg_trio.asgi import HeaderList, Receive, Scope, Send
from cpg_trio.call_context import CallContext, NewRequest, received
from cpg_trio.call_record import Call, CallKind, Calls
from cpg_trio.calls.outcome import Outcome
from cpg_trio.host.access import AccessCheck, Action, Identity, Kind, Peer, RefusedError
from cpg_trio.host.directory import InFlight, Registry
from cpg_trio.host.routing.failures import (
    IDENTITY_ENDED,
    PROVIDER_GONE,
    CallFailure,
    failure_of,
    fault_on_way,
    refusal_of,
)
from cpg_trio.host.routing.headers import (
    RequestFields,
    RequestHeaderRules,
    forwarded_in_request,
    forwarded_in_response,
)
from cpg_trio.host.routing.routes import CALLER_FIELDS, PREFIX, Route, Routes, ServicePath, Statement
from cpg_trio.host.routing.task_call import TaskCall
from cpg_trio.http import UndeliveredError, UpstreamError
from cpg_trio.http.channel import Address
from cpg_trio.http.heads import MalformedError, RequestHead
from cpg_trio.http.outgoing import field_lines
from cpg_trio.http.relay import RelayCall, RequestRefusedError
from cpg_trio.http.server.browsers import BrowserGuard
from cpg_trio.http.server.exchange import ServerExchange
from cpg_trio.logs import ids
from cpg_trio.rpc import Code, Fault
from cpg_trio.rpc.response_code import code_of_end, code_of_head

_log = logging.getLogger("cpg_trio.router")
_ROUTED = CallKind.ROUTED  # a member of an Enum takes ten times as long to look up as a global name


class Router:
    """The gateway of the relay (see `relay.Gateway`).

    `suspect` is called with the runtime id of a provider that has caused a failure.
    """

    def __init__(
        self,
        access: AccessCheck,
        routes: Routes,
        registry: Registry,
        calls: Calls,
        suspect: Callable[[str], object],
        browsers: BrowserGuard,
        rules: RequestHeaderRules,
        max_body_bytes: int | None = None,
    ) -> None:
        self._access = access
        self.routes = routes
        self._suspect = suspect
        self._browsers = browsers
        self._rules = rules
        self._max_body_bytes = max_body_bytes
        self._unlisted = _Unlisted()
        self.calls = calls
        self.in_flight = registry.calls

    def claims(self, target: bytes, /) -> bool:
        """See `relay.Gateway`."""
        return target.startswith(PREFIX)

    def admit(self, exchange: ServerExchange, /) -> RoutedCall:
        """See `relay.Gateway`."""
        known = exchange.head.remembered
        head = known if isinstance(known, _RequestHead) else self._read(exchange)
        fields = exchange.context or head.context
        context = received(fields) if fields else NewRequest()
        exchange.request_id = context.request_id.encode()
        try:
            admitted = self._admit(exchange, head, context)
        except RefusedError as refused:
            call = Call(_ROUTED, refused.caller, context=context)
            call.status, call.code = refused.status, refused.code.value
            call.failure, call.undelivered = refused.log, True
            self.calls.refused.tell(call)
            raise RequestRefusedError(refused.status, refused.plain, refused.fields) from None
        if known is None and head.unlisted:
            self._unlisted.tell(head.unlisted, admitted.caller)
        return admitted

    def _admit(self, exchange: ServerExchange, head: _RequestHead, context: CallContext) -> RoutedCall:
        connection = exchange.connection
        known = exchange.known_caller  # in this process, which has no pages
        if known is None and (head.no_page_at is None or head.no_page_at != connection.server):
            self._check_page(exchange)
            head.no_page_at = connection.server
        authorization = exchange.authorization or head.authorization
        peer = connection.remembered
        if not isinstance(peer, Peer):
            peer = connection.remembered = Peer.of(connection.client, connection.peer_names)
        if isinstance(known, Identity):
            caller, route = self._route_of(head.path, known)
        else:
            caller, route = self.route(head.path, head.runtime_id, authorization, peer)
        exchange.prove(caller.runtime_id)
        if self._max_body_bytes is not None:
            try:
                exchange.limit_body(self._max_body_bytes)
            except MalformedError as error:
                raise RefusedError(Code.RESOURCE_EXHAUSTED, str(error), status=error.status) from None
        if (tracer := self.calls.tracer) is not None:
            context = tracer.enter(context, route.rpc_method, route.host.decode())
        start = own = b""
        if route.task is None:
            start, own = head.start(route, self.routes.statement(caller, route)), context.lines
            if metadata := exchange.metadata:
                own += self._rules.lines_of(metadata) or self._metadata(metadata, caller.runtime_id)
        kind: type[RoutedCall] = RoutedCall
        if route.by_load:
            kind = ChosenCall if route.is_chosen else ObservedCall
        return kind(self, exchange, head, caller, route, start, own, context)

    def route(
        self, raw_path: bytes, runtime_id: bytes, authorization: bytes, peer: Peer
    ) -> tuple[Identity, Route]:
        """Check a call, in the order that the protocol fixes, and count it. Raises: RefusedError.

        Return who calls, and where the call goes.
        """
        route = self.routes.get(raw_path)
        path = self._parse(raw_path, peer) if route is None else route.path
        try:
            caller = self._access.admit_routed(
                runtime_id.decode("latin-1"), authorization.decode("latin-1"), peer, path.service_type
            )
        except RefusedError as refused:
            refused.log = _log_line(refused, raw_path, runtime_id, authorization)
            raise
        if route is None:
            try:
                route = self.routes.find(raw_path, path, caller.runtime_id)
            except RefusedError as refused:
                refused.caller = caller.runtime_id
                raise
        return caller, route

    def _route_of(self, raw_path: bytes, caller: Identity) -> tuple[Identity, Route]:
        """Return the same for a caller that this process knows, and that may call. Raises: RefusedError."""
        route = self.routes.get(raw_path)
        if route is None:
            route = self.routes.find(raw_path, ServicePath.parse(raw_path), caller.runtime_id)
        self._access.record_once(Action.CALL, caller, route.path.service_type, "the host calls")
        return caller, route

    def in_memory(self, exchange: ServerExchange, without: bytes) -> HeaderList:
        """Return the fields of a request that is admitted as they are forwarded, but for those of a name."""
        head = exchange.head.remembered
        fields: HeaderList = []
        if isinstance(head, _RequestHead):
            fields = [field for field in head.forwarded if field[0] != without]
        if exchange.metadata:
            fields += forwarded_in_request(exchange.metadata, self._rules).forwarded
        if exchange.declared:
            fields.append((b"content-length", exchange.declared))
        return fields

    def failure(
        self, call: Call, error: UpstreamError | MalformedError | None, known_caller: object = None
    ) -> CallFailure:
        """Return what a failure means; None is a call that was cancelled."""
        if error is None:
            is_valid = isinstance(known_caller, Identity) or self._access.is_valid(call.caller)
            return PROVIDER_GONE if is_valid else IDENTITY_ENDED
        failure = failure_of(error)
        call.undelivered = failure.undelivered
        if failure.suspected:
            self._suspect(call.provider)
        return failure

    def _parse(self, raw_path: bytes, peer: Peer) -> ServicePath:
        """Parse a path; one that is malformed is counted like a call that proves no identity."""
        try:
            return ServicePath.parse(raw_path)
        except RefusedError:
            self._access.count(Kind.FAILED_AUTHENTICATION, peer.key)
            raise

    def _read(self, exchange: ServerExchange) -> _RequestHead:
        fields = forwarded_in_request(exchange.head.fields, self._rules)
        head = exchange.head.remembered = _RequestHead(exchange.head, fields)
        return head

    def _metadata(self, fields: HeaderList, caller: str) -> bytes:
        """Return what is forwarded of fields that are not in the head which requests share."""
        passed = forwarded_in_request(fields, self._rules)
        if passed.unlisted:
            self._unlisted.tell(passed.unlisted, caller)
        return field_lines(passed.forwarded)

    def _check_page(self, exchange: ServerExchange) -> None:
        head = exchange.head
        if why := self._browsers.why_not(head.host, head.origin, exchange.connection.server):
            raise RefusedError(Code.PERMISSION_DENIED, why)


def _log_line(refused: RefusedError, raw_path: bytes, runtime_id: bytes, authorization: bytes) -> str:
    """Return what the log says of a call that the access check has refused; nothing for one too many."""
    match refused.status:
        case 401 if not runtime_id:
            return f"Missing {wire.RUNTIME_ID_HEADER} header for {one_line(raw_path)}"
        case 401 if wire.bearer_token(authorization.decode("latin-1")) is None:
            caller = one_line(runtime_id)
            return f"Missing/invalid Authorization header for {one_line(raw_path)} (caller: {caller})"
        case 401:
            return f"Invalid token for caller: {one_line(runtime_id)}"
        case 403:
            return f"Denied: {refused.message}"
        case _:
            return ""


class _RequestHead:
    """What the router reads in the head of a request. Requests with the same head share it."""

    __slots__ = (
        *("_method", "_query", "_start", "_statement", "_te"),
        *("authorization", "context", "forwarded", "no_page_at", "path", "query", "runtime_id", "unlisted"),
    )

    def __init__(self, head: RequestHead, fields: RequestFields) -> None:
        self._method = head.method
        self._te = b"te: trailers\r\n" if head.accepts_trailers else b""
        self._statement: Statement | None = None
        self._start = b""  # with that statement
        self.path, mark, self.query = head.target.partition(b"?")
        self._query = mark + self.query  # an empty one goes on, too
        self.forwarded = fields.forwarded
        """The fields that are forwarded as they are."""
        self.context = fields.context
        """Fields of the call's context; none in a head that is shared."""
        self.no_page_at: Address = None
        """The server address at which it was found that no web page sent this; None before."""
        self.runtime_id = fields.runtime_id
        self.authorization = fields.authorization
        self.unlisted = fields.unlisted
        """The names of fields that the operator's strict list drops."""

    def start(self, route: Route, statement: Statement) -> bytes:
        """Return what goes on of it by a route, with the statement for that. It is kept for the next call."""
        if statement is not self._statement:
            target = route.target + self._query
            first = b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (self._method, target, route.host)
            self._start = b"".join([first, self._te, field_lines(self.forwarded), statement.lines])
            self._statement = statement
        return self._start


_MOST_NAMED = 100
_LONGEST_NAME = 64  # characters


class _Unlisted:
    """Names each header that a strict list drops once in the log, until there are too many."""

    def __init__(self) -> None:
        self._named: set[str] = set()

    def tell(self, names: Iterable[bytes], caller: str) -> None:
        """Name those that were not named before. `caller` has proved its identity."""
        for name in {one_line(name.lower(), _LONGEST_NAME) for name in names} - self._named:
            if len(self._named) == _MOST_NAMED:
                return
            self._named.add(name)
            more = "" if len(self._named) < _MOST_NAMED else "; no more headers are named"
            _log.warning(
                "header %s of a call by %s is not passed on: PASS_HEADERS does not list it%s",
                *(name, caller, more),
            )


class RoutedCall:
    """One call that the relay passes on. See `relay.Forward`."""

    __slots__ = (
        *("_exchange", "_head", "_own", "_route", "_router", "_start"),
        *("call", "caller", "context", "identity", "is_here", "origin", "query", "task"),
    )

    call: Call

    def __init__(
        self,
        router: Router,
        exchange: ServerExchange,
        head: _RequestHead,
        caller: Identity,
        route: Route,
        start: bytes,
        own: bytes,
        context: CallContext,
    ) -> None:
        """`start` goes on of the head that others share, and `own` are the lines of this call alone."""
        self.origin = route.origin
        self.task = route.task
        self.is_here = route.task is not None
        self.identity = caller
        self.caller = caller.runtime_id
        self._router = router
        self._exchange = exchange
        self._route = route
        self.query = head.query
        self._head = head
        self._start = start
        self._own = own
        self.context = context

    def head(self) -> bytes:
        """See `relay.Forward`."""
        return self._start + self._own

    async def answer(self, scope: Scope, receive: Receive, send: Send, /) -> None:
        """See `relay.Forward`."""
        assert self.task is not None  # noqa: S101 - it is here
        await TaskCall(self, self.task).run(scope, receive, send)

    def in_memory(self, without: bytes) -> tuple[Route, HeaderList]:
        """Return where it goes, and its header fields but for one name, for a provider in this process."""
        fields = self._router.in_memory(self._exchange, without)
        fields += [(name.encode(), value.encode()) for name, value in self.context.fields()]
        fields += [(CALLER_FIELDS[1], self.caller.encode()), (b"host", self._route.host)]
        return self._route, fields

    may_move = False
    """See `relay.Forward`."""

    def move(self, _call: RelayCall, _error: UpstreamError, /) -> bool:
        """See `relay.Forward`."""
        return False

    refusal = staticmethod(refusal_of)
    """See `relay.Forward`."""
    head_back = fields_back = staticmethod(forwarded_in_response)
    """See `relay.Forward`."""
    code_of_head = staticmethod(code_of_head)
    """See `relay.Forward`."""
    code_of_end = staticmethod(code_of_end)
    """See `relay.Forward`."""

    def begin(self, call: InFlight) -> Call:
        """See `relay.Forward`."""
        path = self._route.path
        record = self.call = Call(
            _ROUTED,
            self.caller,
            path.provider_id,
            path.service_type,
            self._route.method,
            self._exchange.version,
            self.context,
        )
        self._router.in_flight.begin(self.caller, path.provider_id, call)
        self._exchange.behind_round(partial(self._router.calls.begun.tell, record))
        return record

    def end(self, call: InFlight) -> None:
        """See `relay.Forward`."""
        self._router.in_flight.end(self.caller, self.call.provider, call)
        self.call.stop()
        self._exchange.behind_round(partial(self._router.calls.ended.tell, self.call))

    def failure(self, error: UpstreamError | MalformedError | None) -> CallFailure:
        """See `relay.Forward`."""
        return self._router.failure(self.call, error, self._exchange.known_caller)


class ObservedCall(RoutedCall):
    """A call that shows its provider's load, where choices go by that."""

    __slots__ = ("_has_answered", "_outcome")

    def begin(self, call: InFlight) -> Call:
        """See `relay.Forward`."""
        record = super().begin(call)
        self._has_answered = False
        self._outcome: Outcome | None = None
        self._route.provider.load.begin(record.began_at)
        return record

    def refusal(self, status: int, fields: HeaderList) -> UndeliveredError | None:
        """See `relay.Forward`. The first that comes of an answer: its end may be hours from now."""
        refusal = refusal_of(status, fields)
        if refusal is None and not self._has_answered:
            self._has_answered = True
            now = perf_counter()
            self._route.provider.load.answered(now - self.call.began_at, now)
        return refusal

    def failure(self, error: UpstreamError | MalformedError | None) -> CallFailure:
        """See `relay.Forward`."""
        is_providers = error is not None and fault_on_way(error) is Fault.PROVIDER
        self._outcome = Outcome.FAILURE if is_providers else Outcome.NOTHING
        return super().failure(error)

    def end(self, call: InFlight) -> None:
        """See `relay.Forward`."""
        super().end(call)
        record = self.call
        outcome = self._outcome or (Outcome.NOTHING if record.failure else _OUTCOMES.get(record.code))
        latency_s = None if self._has_answered else record.duration_s
        self._route.provider.load.end(outcome or Outcome.SUCCESS, latency_s, perf_counter())


_MOST_PROVIDERS = 3  # that a call goes to: each may take as long as connecting takes


class ChosenCall(ObservedCall):
    """A call whose provider the router has chosen. It goes to another one if that has not received it."""

    __slots__ = ("_tried",)

    may_move = True

    def begin(self, call: InFlight) -> Call:
        """See `relay.Forward`."""
        self._tried: tuple[str, ...] = ()
        return super().begin(call)

    def move(self, call: RelayCall, error: UpstreamError, /) -> bool:
        """See `relay.Forward`."""
        router, record, route = self._router, self.call, self._route
        tried = self._tried = (*self._tried, record.provider)
        if len(tried) == _MOST_PROVIDERS or fault_on_way(error) is not Fault.PROVIDER:
            return False
        if (found := router.routes.other(self._head.path, route, tried, self.caller)) is None:
            return False
        router.in_flight.end(
            self.caller, record.provider, call
        )  # first: what ends its calls is not for this one
        failure, now = self.failure(error), perf_counter()
        _log.warning(
            "[ROUTER] %s → %s /%s FAILED: %s; the call goes to %s",
            *(record.caller, record.provider, record.method, failure.why, found[0].provider.runtime_id),
            extra=ids(record.context),
        )
        route.provider.load.end(Outcome.FAILURE, now - record.began_at, now)
        self._go_to(*found)
        router.in_flight.begin(self.caller, record.provider, call)
        self._route.provider.load.begin(now)
        return True

    def _go_to(self, route: Route, statement: Statement) -> None:
        record = self.call
        record.provider, record.undelivered = route.provider.runtime_id, False
        self._route, self.origin, self._outcome = route, route.origin, None
        self._start = self._head.start(route, statement)


_OUTCOMES = {  # of answers of a provider; others are its successes
    **dict.fromkeys(("unavailable", "internal", "unknown", "data_loss"), Outcome.FAILURE),
    **dict.fromkeys(("canceled", "resource_exhausted"), Outcome.NOTHING),
}
