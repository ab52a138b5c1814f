"""The admin room of a host, wired: what follows the host, and what answers for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager

from cpg_trio._loop_lag import LoopLag
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import App, Receive, Scope, Send
from cpg_trio.host.access import Audit, AuditEvent, Identities, Limits
from cpg_trio.host.admin.actions import Actions, Steering
from cpg_trio.host.admin.dashboard import Dashboard
from cpg_trio.host.admin.events import Event, EventLog
from cpg_trio.host.admin.host_state import HostState
from cpg_trio.host.admin.hosts import Hosts
from cpg_trio.host.admin.kept import Kept
from cpg_trio.host.admin.late_loop import LateLoop
from cpg_trio.host.admin.managed import ManagedStates
from cpg_trio.host.admin.managed_actions import ManagedActions
from cpg_trio.host.admin.plugins import Plugins
from cpg_trio.host.admin.service import AdminRpcs
from cpg_trio.host.admin.snapshot import Parts
from cpg_trio.host.admin.view import View
from cpg_trio.host.directory import Undo
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.rpc import application

_SERVICE_PATH = f"/{pb.DESCRIPTOR.services_by_name['AdminService'].full_name}/"


class Admin:
    """What an operator sees of a host, and does with it."""

    def __init__(
        self,
        parts: Parts,
        audit: Audit,
        host: Steering,
        limits: Limits,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._parts = parts
        self._host = HostState(parts, wall_clock())
        self._wall_clock = wall_clock
        kept = Kept.within(limits)
        self.events = EventLog(most=kept.events, wall_clock=wall_clock)
        """What has happened."""
        self._plugins = Plugins(
            parts.identities, parts.registry, parts.liveness, self.events, kept, wall_clock
        )
        self.hosts: Hosts | None = None
        """The hosts that share the directory; None for one that has it alone."""
        if parts.cluster is not None:
            self.hosts = Hosts(parts.cluster, parts.store, self.events, wall_clock)
        self.managed = ManagedStates(parts.managed, self._plugins, self.events, wall_clock)
        """The plugins that the host runs."""
        self.view = View(parts, self._plugins, self.events, self._host, self.managed, self.hosts, wall_clock)
        """Answers what only reads."""
        self.actions = Actions(
            find=self.view.find,
            registry=parts.registry,
            files=parts.files,
            audit=audit,
            events=self.events,
            host=host,
            saved=parts.journal.saved if parts.cluster is not None else _not_kept,
        )
        """What an operator does."""
        self.managed_actions = ManagedActions(self.managed, self.events)
        """What an operator does with the plugins that the host runs."""
        self._late = LateLoop(self.loop_lag, self.managed, self.events)
        audit.subscribe(self._audited)

    @property
    def parts(self) -> Parts:
        """The parts of the host that are looked at."""
        return self._parts

    @property
    def plugins(self) -> Plugins:
        """The plugins that are there, and those that were."""
        return self._plugins

    @property
    def loop_lag(self) -> LoopLag:
        """The lag of the host's event loop."""
        return self._host.loop_lag

    def service(self) -> App:
        """Return the admin service as an ASGI application. It does not check who asks."""
        return application([AdminRpcs(self.view, self.events, self.actions, self.managed_actions)])

    def application(self) -> App:
        """Return what operators are served: the admin service, and the dashboard at all other paths."""
        service = self.service()
        dashboard = Dashboard(self.view, self.events, self.actions, self.managed_actions, self._wall_clock)

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            of_service = scope["path"].startswith(_SERVICE_PATH)
            await (service if of_service else dashboard)(scope, receive, send)

        return serve

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the host within the block."""
        self._host.started_at = self._wall_clock()
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self.loop_lag.run)
            nursery.start_soon(self.actions.levels.run)
            with ExitStack() as stack:
                stack.enter_context(self._plugins.following())
                stack.enter_context(self.managed.following())
                stack.enter_context(self._late.following())
                stack.enter_context(self._parts.files.told(self._file_changed))
                if self.hosts is not None:
                    stack.enter_context(self.hosts.following())
                    nursery.start_soon(self.hosts.run)
                yield
            nursery.cancel_scope.cancel()

    def listening(self, urls: Sequence[str]) -> None:
        """Note where plugins reach the host."""
        self._host.urls = urls
        self._tell(f"the host listens on {', '.join(urls)}")

    def stopping(self) -> None:
        """Note that the host has begun to stop, and end the readers of events."""
        self._host.stopping = True
        self._tell("the host is stopping")
        self.events.close()

    def _file_changed(self, text: str) -> None:
        self.events.add(Event(kind=pb.EVENT_KIND_RELOADED, text=text))

    def _tell(self, text: str) -> None:
        self.events.add(Event(kind=pb.EVENT_KIND_HOST, text=text))

    def _audited(self, decision: AuditEvent) -> None:
        """Keep a refusal. Other decisions are told by what they change."""
        if decision.allowed:
            return
        self._host.refusals.add()
        name = self._parts.identities.name_of(decision.subject)
        self.events.add(
            Event(
                kind=pb.EVENT_KIND_REFUSED,
                text=f"{decision.action.value}: {decision.reason}",
                runtime_id=decision.subject if name else "",
                name=name or decision.subject,
                service_type=decision.target,
                address=decision.address,
            ),
            _cause(self._parts.identities, decision),
        )


async def _not_kept(_about: str, _undo: Undo) -> None:
    """Wait for nothing: a host that shares its directory with nobody keeps no drains."""


def _cause(identities: Identities, decision: AuditEvent) -> str:
    """Return the address that a refusal counts for."""
    entry = identities.entry(decision.subject)
    return decision.address or (entry.share if entry is not None else "")
