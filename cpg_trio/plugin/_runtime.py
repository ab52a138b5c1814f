"""The nursery that a plugin runs in.

    listen ─▶ handshake ─▶ register ─▶ report health ─▶ heartbeat, and follow the dependencies
                 ▲                                          │
                 └────────── the host has forgotten ────────┘

It listens before it registers, so that nobody is sent to a closed door, and it stops in the opposite order.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar
from urllib.parse import urlsplit

import attrs
import trio

from cpg_trio import _clock, wire
from cpg_trio._cell import Cell
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._lines import one_line
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import App, Receive, Scope, Send
from cpg_trio.http import (
    BrowserGuard,
    Origin,
    Pool,
    StartError,
    fitted_to_descriptors,
    fitted_to_memory,
    most_connections,
    serve,
)
from cpg_trio.plugin._backoff import FIRST_S, LONGEST_S, Reopening, backoff, retry_after_s
from cpg_trio.plugin._config import PluginConfig
from cpg_trio.plugin._handshake import CALL_TIMEOUT_S, REGISTER_TIMEOUT_S, Introduction, shake_hands
from cpg_trio.plugin._host_time import HostTime
from cpg_trio.plugin._session import Session, handshake
from cpg_trio.plugin._sockets import own_socket
from cpg_trio.plugin.capability import Capability
from cpg_trio.plugin.control import Control, PluginInfo
from cpg_trio.plugin.dependency import Dependency
from cpg_trio.plugin.discovery import follow
from cpg_trio.plugin.guard import Guard, Managers
from cpg_trio.probes import PATHS, Probes, probe_port
from cpg_trio.rpc import Code, ConnectError, ResponseMetadata, application

_log = logging.getLogger("cpg_trio.plugin")
_T = TypeVar("_T")

MANAGED_HOST_URL = "http://localhost:8080"  # where a managing host is, if it does not say

_MOST_REPORTED = 100  # pairs of a service and a provider, of direct calls: a host takes no more at once
_RENEWED_AT = 0.4, 0.6  # of the time that a token is good
_SPREAD = 0.2  # of a heartbeat, in which plugins come back to a host that has forgotten them
_STILL_WAITING_S = 30.0  # between two lines of the log about a host that is not there yet
_CLOCKS_AGREE_S = 10.0  # within which clocks count as the same
_LEAVE_S = 2.0  # what leaving may take: nothing is owed to a host that does not answer
# The host has understood, and will not have it; to ask again changes nothing, unless it says when to.
_REFUSALS = frozenset({Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.PERMISSION_DENIED})
# Seconds that an idle connection is kept. Hosts keep theirs for longer (ours for 120 s), so that no call is
# lost on one that the host is just giving up.
_KEEP_S = 30.0
_MAX_PER_ORIGIN = 2000  # connections to the host, of which calls to others have half


class RefusedError(StartError):
    """The host will not have this plugin as it is: another protocol version, say."""


@attrs.frozen
class Provided:
    """A service that a plugin provides."""

    service_type: str
    version: str
    path: str
    """Where it is on the plugin: `/storage.v1.Storage/`."""
    application: App
    public: bool
    """Whether it answers everybody, and not only who calls through the host."""


@attrs.frozen
class Declaration:
    """What a plugin's author has said of it."""

    self_id: str
    version: str
    name: str
    provided: dict[str, Provided] = attrs.field(factory=dict)
    dependencies: dict[str, Dependency] = attrs.field(factory=dict)
    capabilities: list[Capability] = attrs.field(factory=list)
    own_health: Cell[tuple[pb.HealthState, str]] = attrs.field(
        factory=lambda: Cell((pb.HEALTH_STATE_HEALTHY, ""))
    )


class Runtime:
    """One run of a plugin."""

    def __init__(self, declared: Declaration, config: PluginConfig) -> None:
        self._declared = declared
        self._config = attrs.evolve(config, serve=fitted_to_memory(fitted_to_descriptors(config.serve)))
        self._session: Session | None = None
        self._last_session: Session | None = None  # also when it takes leave: calls may come late
        self._guard = Guard(
            lambda: self._last_session,
            self._managers(),
            accept_unsigned=config.accept_unsigned,
            wall_clock=self._host_time,
        )
        self._introduction = Introduction(
            declared.self_id,
            declared.version,
            list(declared.provided),
            list(declared.dependencies),
            config.enrolment_token,
        )
        self._has_started = False
        self._clock_differs = False
        self._lease_ends = -math.inf
        self._adopted: Cell[Session | None] = Cell(None)
        self._adopting: Pool | None = None
        self._registrations: list[str] = []
        self._bound: Sequence[str] = ()
        self._control_url = ""  # where the host finds the control services, if not with the others
        self._socket = ""  # its name in the directory that is shared with the host
        self._health = Cell(self._report())
        self._loss_told_at = -math.inf
        self._health_logged: tuple[pb.HealthState, str] | None = None
        self._probes = Probes(self._why_not_ready, self._why_not_started)
        self._stop = trio.Event()
        self._grace_s = config.grace_s

    async def run(self, stop: trio.Event, task_status: trio.TaskStatus[tuple[str, ...]]) -> None:
        """Run until `stop` is set or the host says so. See `Plugin.serve`."""
        drain = trio.Event()
        contexts = self._config.serve.tls.client_contexts()
        contexts.check()
        try:
            with trio.CancelScope() as everything:
                async with (
                    Pool(
                        idle_expiry_s=_KEEP_S,
                        ssl_context=contexts,
                        max_per_origin=_MAX_PER_ORIGIN,
                        max_total=most_connections(),
                    ) as pool,
                    probe_port(self._probes, self._config.probe_bind, self._config.serve),
                    open_plain_nursery() as nursery,
                ):
                    nursery.start_soon(pool.sweep)
                    await self._serve_control(nursery, drain)
                    bound = await nursery.start(self._serve, nursery.cancel_scope, drain)
                    self._bound = bound
                    _log.info("%s listening on %s", self._declared.self_id, ", ".join(bound))
                    task_status.started(bound)
                    await self._be_registered(pool, bound, stop)
                    _log.info("%s stopping; calls in flight have %g s", self._declared.self_id, self._grace_s)
                    everything.deadline = trio.current_time() + self._grace_s
                    nursery.start_soon(self._hurry, stop, everything)
                    drain.set()
        finally:
            for dependency in self._declared.dependencies.values():
                dependency.forget()
            self._let_use_capabilities(None)
        _log.info("%s has stopped", self._declared.self_id)

    async def _serve(
        self,
        everything: trio.CancelScope,
        drain: trio.Event,
        *,
        task_status: trio.TaskStatus[tuple[str, ...]],
    ) -> None:
        # How long calls may take to finish may be the host's to say, so the end is set in `run`.
        unbounded = attrs.evolve(self._config.serve, grace_s=math.inf)
        await serve(
            self._application(),
            bind=self._binds(),
            config=unbounded,
            stop=drain,
            task_status=task_status,
        )
        everything.cancel()

    async def _serve_control(self, nursery: trio.Nursery, drain: trio.Event) -> None:
        """Serve what is for the host at an address of its own, if there is to be one."""
        if (bind := self._config.control_bind) is None:
            return
        serve_control = partial(
            serve, self._serving(self._control()), bind=bind, config=self._config.serve, stop=drain
        )
        bound, *_ = await nursery.start(serve_control)
        self._control_url = self._control_url_at(bound)
        _log.info("%s listening for its host on %s", self._declared.self_id, bound)

    def _binds(self) -> Sequence[str]:
        folder, binds = self._config.socket_dir, _listed(self._config.bind)
        if folder is None:
            return binds
        self._socket = own_socket(self._declared.self_id, self._config.hostname, binds)
        return [*binds, f"unix:{folder / self._socket}"]

    async def _hurry(self, stop: trio.Event, everything: trio.CancelScope) -> None:
        """Have a local stop shorten the grace period that the host has set."""
        await stop.wait()
        everything.deadline = min(everything.deadline, trio.current_time() + self._config.grace_s)

    # What the control services ask

    def info(self) -> pb.GetPluginInfoResponse:
        """Return what the plugin is, as its host asks for it."""
        declared, session = self._declared, self._session
        known_as = {wire.RUNTIME_ID_KEY: session.runtime_id} if session else {}
        return pb.GetPluginInfoResponse(
            self_id=declared.self_id,
            self_version=declared.version,
            provides=[
                pb.ServiceDeclaration(type=p.service_type, version=p.version, path=p.path)
                for p in declared.provided.values()
            ],
            requires=[_required(dependency) for dependency in declared.dependencies.values()],
            metadata={
                "name": declared.name,
                "version": declared.version,
                wire.RENEWS_KEY: "true",
                **known_as,
            },
        )

    def health_report(self) -> pb.ReportHealthRequest:
        """Return what the plugin reports of its health now."""
        return self._health.value

    def shut_down(self, grace_s: float, reason: str) -> None:
        """Begin to stop; calls in flight have `grace_s` seconds to finish."""
        _log.info("%s is told to stop: %s", self._declared.self_id, one_line(reason) or "no reason given")
        self._grace_s = grace_s
        self._stop.set()

    def adopt(self, runtime_id: str, token: str, host_url: str) -> bool:
        """Take an identity from a managing host; return whether the plugin waits for one."""
        if self._adopting is None:
            return False
        self._adopted.set(Session(host_url or MANAGED_HOST_URL, runtime_id, token, self._adopting))
        return True

    # Serving

    def _managers(self) -> Managers:
        """Return whose word counts while there is no host."""
        token = self._config.enrolment_token
        digest = wire.token_digest(token) if token else None
        return Managers(
            self._declared.self_id, digest, lambda: self._session is None and self._adopting is not None
        )

    def _application(self) -> App:
        """Return what is served where others call."""
        services, control = self._services(), self._control()
        everything, services_alone = self._serving(services | control), self._serving(services)
        if self._config.control_bind is None:
            return everything

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            # At its Unix socket the host asks whose that is, before it has it from there where else to ask.
            app = everything if scope["client"] is None else services_alone
            await app(scope, receive, send)

        return dispatch

    def _services(self) -> dict[str, App]:
        provided = self._declared.provided.values()
        return {p.path: self._guard.service(p.application, public=p.public) for p in provided}

    def _control(self) -> dict[str, App]:
        services = (Control(self), PluginInfo(self))
        return {f"/{s.service_name}/": self._guard.control(application([s])) for s in services}

    def _serving(self, by_path: Mapping[str, App]) -> App:
        """Return an application of several, by what their paths begin with, and of the probes."""
        config = self._config
        binds = [*_listed(config.bind), *_listed(config.control_bind or ())]
        browsers = BrowserGuard(config.serve, binds=binds, names=[config.hostname])
        # A host may still send calls here that are for the plugin that had this address before. A 404 would
        # pass for that plugin's answer, so the guard refuses them as it does for a service that is here.
        elsewhere = self._guard.service(application([]), public=True)

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope["path"]
            app = next((app for prefix, app in by_path.items() if path.startswith(prefix)), elsewhere)
            is_probe = path in PATHS and scope["type"] == "http"
            await (self._probes if is_probe else app)(scope, receive, send)

        return browsers.guarding(dispatch)

    def _why_not_started(self) -> str:
        return "" if self._has_started else "no handshake with a host yet"

    def _why_not_ready(self) -> str:
        if self._stop.is_set():
            return "stopping"
        if self._session is None:
            return "the host has forgotten it" if self._has_started else self._why_not_started()
        if self._lease_ends <= _clock.current_time():
            return f"no heartbeat has reached the host in the last {self._session.lease_s:g} s"
        state, reason = self._declared.own_health.value
        return (reason or "UNHEALTHY") if state == pb.HEALTH_STATE_UNHEALTHY else ""

    # Registration

    def _base_url(self, bound: Sequence[str]) -> str:
        """Return the URL at which the host finds the plugin, which listens on `bound`."""
        scheme = "https" if self._config.serve.tls.serves else "http"
        origin = Origin(scheme, self._config.hostname, urlsplit(bound[0]).port or 80)
        return f"{scheme}://{origin.host_header.decode()}"

    def _control_url_at(self, bound: str) -> str:
        """Return the URL at which the host finds what listens on `bound`.

        That is the address itself, if it is one, and if no certificate has to be for the plugin's name.
        """
        address = ipaddress.ip_address(urlsplit(bound).hostname or "")
        by_name = address.is_unspecified or self._config.serve.tls.serves
        return self._base_url([bound]) if by_name else bound

    async def _be_registered(self, pool: Pool, bound: Sequence[str], stop: trio.Event) -> None:
        """Be registered until a stop begins, then take leave; also if that is for an error."""
        try:
            async with open_plain_nursery() as nursery:
                nursery.start_soon(self._stop_with, stop)
                nursery.start_soon(self._follow, self._declared.own_health)
                for dependency in self._declared.dependencies.values():
                    nursery.start_soon(self._follow, dependency.changes)
                nursery.start_soon(self._stay_registered, pool, self._base_url(bound))
                await self._stop.wait()
                nursery.cancel_scope.cancel()
        except StartError:
            await self._leave()
            raise
        await self._leave()

    async def _stop_with(self, stop: trio.Event) -> None:
        await stop.wait()
        self._stop.set()

    async def _stay_registered(self, pool: Pool, base_url: str) -> None:
        session: Session | None = None
        reopening = Reopening()
        former: list[str] = []  # what a host may keep that has only let a token expire
        while True:
            session = await self._find_host(pool, session)
            reopening.opened()
            self._session = self._last_session = session
            self._has_started, self._lease_ends = True, -math.inf
            self._let_use_capabilities(session)
            if await self._register(session, base_url):
                with trio.move_on_after(_LEAVE_S):
                    await _unregister(session, former)
                await self._keep(session)
            session.void.set()
            _log.warning("%s: the host does not know %s any more", self._declared.self_id, session.runtime_id)
            self._session = None
            former = [] if session.host_id else list(self._registrations)
            self._registrations.clear()
            # A host that has forgotten one plugin has forgotten all, and they are not to come back at once.
            await reopening.wait(random.uniform(0, session.heartbeat_s * _SPREAD))  # noqa: S311

    def _let_use_capabilities(self, session: Session | None) -> None:
        for capability in self._declared.capabilities:
            capability.begin(session)

    async def _find_host(self, pool: Pool, before: Session | None) -> Session:
        """Return an identity on a host, however long that takes; the one before if the host accepts it."""
        declared, host_url = self._declared, self._config.host_url
        if host_url is None:
            session = await self._wait_adopted(pool)
            await self._get_to_know(session)
            return session
        session = await self._persist(
            f"reach the host at {host_url}",
            partial(handshake, host_url, pool, self._introduction, before, self._config.socket_dir),
        )
        through = f" through unix:{session.socket_path}" if session.socket_path else ""
        _log.info("%s is %s on %s%s", declared.self_id, session.runtime_id, host_url, through)
        return session

    async def _wait_adopted(self, pool: Pool) -> Session:
        """Return an identity that a managing host gives, other than those that turned out void."""
        self._adopting = pool
        sessions = self._adopted.reader()
        while True:
            _log.info(
                "%s has no HOST_URL, and waits for a managing host to call it on %s",
                self._declared.self_id,
                ", ".join(self._bound),
            )
            with trio.move_on_after(_STILL_WAITING_S):
                async for session in sessions:
                    if session is not None and not session.void.is_set():
                        return session

    async def _get_to_know(self, session: Session) -> None:
        """Ask a managing host for what a handshake tells: it has given an identity, and said nothing else."""
        try:
            await self._renew_token(session)
        except ConnectError as error:
            _log.debug("%s does not know its host's intervals yet: %s", session.runtime_id, error.message)

    async def _register(self, session: Session, base_url: str) -> bool:
        """Register all that is provided; return False if the host does not know the identity any more."""
        metadata = {wire.BASE_URL_KEY: base_url, wire.DIRECT_KEY: "true"}
        if self._control_url:
            metadata[wire.CONTROL_URL_KEY] = self._control_url
        if session.socket_path:  # so the host can find ours, too
            metadata[wire.SOCKET_KEY] = self._socket
        for provided in self._declared.provided.values():
            request = pb.RegisterServiceRequest(
                service_type=provided.service_type,
                version=provided.version,
                endpoint_path=provided.path,
                metadata=metadata,
            )
            call = partial(self._register_one, session, request)
            try:
                await self._persist(f"register {provided.service_type}", call, session.heartbeat_s)
            except ConnectError:
                return False
            except RefusedError as error:
                if self._config.host_url is not None:
                    raise
                _log.warning("%s", error)  # a managing host may give another identity that works
                return False
            _log.info("Registered service: %s v%s at %s", provided.service_type, provided.version, base_url)
        return True

    async def _register_one(
        self, session: Session, request: pb.RegisterServiceRequest, metadata: ResponseMetadata
    ) -> None:
        # To its end, also when a stop begins meanwhile: what the host has registered is to be taken back.
        async with open_plain_nursery() as nursery:
            with trio.CancelScope(shield=True) as to_its_end:
                nursery.start_soon(_hurry_when_cancelled, to_its_end)
                call = session.registry.register_service
                response = await call(request, timeout_s=REGISTER_TIMEOUT_S, metadata=metadata)
                self._registrations.append(response.registration_id)
            nursery.cancel_scope.cancel()

    async def _persist(
        self, what: str, call: Callable[[ResponseMetadata], Awaitable[_T]], longest_s: float = LONGEST_S
    ) -> _T:
        """Call until it succeeds, with up to `longest_s` seconds between the tries, or as the host asks.

        Raises: RefusedError if the host will not have it, and does not say when to ask again; ConnectError
        `unauthenticated` from one that does not know us.
        """
        told, say_again_at = None, -math.inf
        for delay in backoff(longest_s):
            answer = ResponseMetadata()
            try:
                return await call(answer)
            except ConnectError as error:
                asked_s, why = retry_after_s(answer.headers), error.message
                if error.code in _REFUSALS and not asked_s:
                    raise RefusedError(f"cannot {what}: the host refuses: {why}") from error
                if error.code == Code.UNAUTHENTICATED:
                    raise
                if error.code == Code.UNIMPLEMENTED:
                    why = f"what answers there is not a host ({why})"
                level = logging.DEBUG
                if error.code != told or trio.current_time() >= say_again_at:
                    told, say_again_at = error.code, trio.current_time() + _STILL_WAITING_S
                    level = logging.WARNING
                _log.log(level, "%s cannot %s yet, and tries on: %s", self._declared.self_id, what, why)
            await trio.sleep(max(delay, asked_s))
        raise AssertionError("backoff never ends")  # pragma: no cover

    async def _keep(self, session: Session) -> None:
        """Follow the dependencies and report health until the host does not know the identity any more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, session, list(self._declared.dependencies.values()))
            nursery.start_soon(self._heartbeat, session)
            nursery.start_soon(self._renew, session)
            if self._config.direct_calls:
                for dependency in self._declared.dependencies.values():
                    nursery.start_soon(dependency.direct.keep, session, dependency.changes)
            if self._config.host_url is None:
                nursery.start_soon(self._make_room, session)
            await session.void.wait()
            nursery.cancel_scope.cancel()

    async def _renew(self, session: Session) -> None:
        """Get another token well before the one that there is expires.

        While it is not known how long one is good, of a managing host, it is asked at once.
        """
        delays, is_known = backoff(), session.host_id or self._config.host_url is not None
        wait = _renewal_s(session) if is_known else 0.0
        while True:
            await trio.sleep(wait)
            try:
                if not await self._renew_token(session):
                    return
            except ConnectError as error:
                level = logging.WARNING if error.code in _REFUSALS else logging.DEBUG
                _log.log(level, "%s has got no other token yet: %s", session.runtime_id, error.message)
                wait = next(delays)
                continue
            delays = backoff()
            wait = _renewal_s(session)

    async def _renew_token(self, session: Session) -> bool:
        """Shake hands with a session's host; return whether that knows the session. Raises: ConnectError."""
        asked_at, metadata = _clock.current_time(), ResponseMetadata()
        answer = await shake_hands(
            session.host_url, session.exchange, self._introduction, session.headers, metadata
        )
        session.time.hear(metadata.headers.get("date", ""), asked_at)
        session.take_announced(answer.server_metadata)
        if answer.runtime_id == session.runtime_id:
            session.renew(answer.runtime_token)
            return True
        if self._config.host_url is not None:  # a managed plugin has no use for another identity
            session.void.set()
        return False

    async def _make_room(self, session: Session) -> None:
        """Give an identity up when a managing host gives another."""
        async for adopted in self._adopted.reader():
            if adopted is not session:
                session.void.set()

    # Health

    async def _heartbeat(self, session: Session) -> None:
        reports = self._health.reader()
        delays = backoff()
        wait = math.inf  # until the first report, which is there
        while True:
            with trio.move_on_after(wait):
                await anext(reports)
            interval = self._config.heartbeat_s or session.heartbeat_s
            timeout_s = min(CALL_TIMEOUT_S, interval)  # one that hangs is not to be all that the lease hears
            wait = interval * random.uniform(0.9, 1.0)  # noqa: S311 - spreads load, no secret
            self._log_health()
            began = _clock.current_time()
            try:
                answered = ResponseMetadata()
                await session.lifecycle.report_health(
                    self._with_direct_calls(), timeout_s=timeout_s, metadata=answered
                )
                self._lease_ends = began + session.lease_s
                session.heard_from(answered.headers.get(wire.HOST_ID_HEADER, ""))
                session.time.hear(answered.headers.get("date", ""), began)
                self._tell_clock(session.time)
                if not session.host_id and self._config.host_url is not None:
                    with trio.move_on_after(timeout_s):
                        await session.check_token()
                delays = backoff()
                self._tell_of_host(session, None)
            except ConnectError as error:
                if error.code == Code.UNAUTHENTICATED:
                    session.void.set()
                    return
                self._tell_of_host(session, error)
                wait = min(wait, next(delays))

    def _host_time(self) -> float:
        """Return what time it is by the clock of the host that the plugin has, or had."""
        session = self._last_session
        return time.time() if session is None else session.time.now()

    def _tell_clock(self, host_time: HostTime) -> None:
        """Log that this machine's clock differs from the host's, or does no more: once each."""
        ahead_s = host_time.ahead_s
        differs = abs(ahead_s) > _CLOCKS_AGREE_S
        if differs and not self._clock_differs:
            which = "ahead of" if ahead_s > 0 else "behind"
            _log.warning(
                "the clock of %s is %.0f s %s its host's; what the host signs is judged by the host's",
                self._declared.self_id,
                abs(ahead_s),
                which,
            )
        elif self._clock_differs and not differs:
            _log.info("the clock of %s agrees with its host's again", self._declared.self_id)
        self._clock_differs = differs

    def _log_health(self) -> None:
        """Log how the plugin is and why, once it has changed."""
        report = self._health.value
        health = report.state, report.reason
        if health == self._health_logged:
            return
        self._health_logged = health
        state = pb.HealthState.Name(report.state).removeprefix("HEALTH_STATE_").lower()
        _log.info("%s is %s%s", self._declared.self_id, state, f": {report.reason}" if report.reason else "")

    def _with_direct_calls(self) -> pb.ReportHealthRequest:
        """Return what is reported now, with what has been called without the host."""
        report = pb.ReportHealthRequest()
        report.CopyFrom(self._health.value)
        for dependency in self._declared.dependencies.values():
            report.direct_calls.extend(dependency.direct.report())
        del report.direct_calls[_MOST_REPORTED:]
        return report

    def _tell_of_host(self, session: Session, error: ConnectError | None) -> None:
        """Log that the host is lost, now and then for as long as it is, and that it is back."""
        declared, told_at, now = self._declared, self._loss_told_at, trio.current_time()
        if error is None:
            self._loss_told_at = -math.inf
            if told_at > -math.inf:
                _log.info("%s has its host back", declared.self_id)
        elif now >= told_at + _STILL_WAITING_S:
            self._loss_told_at = now
            _log.warning(
                "%s has lost its host at %s, and tries on: %s",
                declared.self_id,
                session.host_url,
                error.message,
            )

    async def _follow(self, cell: Cell[_T]) -> None:
        """Keep the health up to date with what it follows from."""
        async for _ in cell.reader():
            self._health.set(self._report())

    def _report(self) -> pb.ReportHealthRequest:
        state, reason = self._declared.own_health.value
        missing = [
            d.service_type for d in self._declared.dependencies.values() if d.required and not d.available
        ]
        if missing and state != pb.HEALTH_STATE_UNHEALTHY:
            state = pb.HEALTH_STATE_DEGRADED
            reason = "; ".join(filter(None, [reason, f"waiting for {', '.join(missing)}"]))
        return pb.ReportHealthRequest(state=state, reason=reason, unavailable_dependencies=missing)

    async def _leave(self) -> None:
        """Tell the host that nobody is to be sent here any more. Each word counts by itself."""
        session, self._session = self._session, None
        if session is None:
            return
        stopping = pb.ReportHealthRequest(state=pb.HEALTH_STATE_UNHEALTHY, reason="stopping")
        unsaid = []
        with trio.move_on_after(_LEAVE_S) as patience:
            unsaid.append(await _why_unsaid(partial(session.lifecycle.report_health, stopping)))
            unsaid += await _unregister(session, self._registrations)
        if patience.cancelled_caught:
            unsaid.append(f"no answer within {_LEAVE_S:g} s")
        if why := next(filter(None, unsaid), ""):
            _log.info("%s leaves without its host: %s", self._declared.self_id, why)


async def _hurry_when_cancelled(shielded: trio.CancelScope) -> None:
    """Allow a shielded block no longer than leaving may take, once this task is cancelled."""
    try:
        await trio.sleep_forever()
    finally:
        shielded.deadline = trio.current_time() + _LEAVE_S


def _listed(bind: str | Sequence[str]) -> list[str]:
    return [bind] if isinstance(bind, str) else list(bind)


async def _unregister(session: Session, registration_ids: Sequence[str]) -> list[str]:
    """Take registrations back; return why that could not be said, an empty string for each that was."""
    requests = [pb.UnregisterServiceRequest(registration_id=each) for each in registration_ids]
    return [await _why_unsaid(partial(session.registry.unregister_service, request)) for request in requests]


async def _why_unsaid(call: Callable[[], Awaitable[object]]) -> str:
    """Try to tell the host something, three times; return why it could not be told, empty if it could."""
    why = ""
    for delay in islice(backoff(), 3):
        try:
            await call()
        except ConnectError as error:
            if error.code in (Code.NOT_FOUND, Code.UNAUTHENTICATED):
                return ""  # it is so already
            why = error.message
            await trio.sleep(delay)
        else:
            return ""
    return why


def _renewal_s(session: Session) -> float:
    """Return in how many seconds to ask for another token."""
    return max(FIRST_S, session.token_ttl_s * random.uniform(*_RENEWED_AT))  # noqa: S311


def _required(dependency: Dependency) -> pb.ServiceDependency:
    return pb.ServiceDependency(
        type=dependency.service_type,
        min_version=dependency.min_version,
        required_for_startup=dependency.required,
        watch_for_changes=True,
    )
