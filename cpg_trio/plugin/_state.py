"""What the tasks of a running plugin share: session, health, whether it is stopping. No tasks, no I/O."""

from __future__ import annotations

import logging
import time

import trio

from cpg_trio import _clock
from cpg_trio._lines import one_line
from cpg_trio.http import Pool
from cpg_trio.plugin._adoption import Adoption
from cpg_trio.plugin._config import PluginConfig
from cpg_trio.plugin._declaration import Declaration
from cpg_trio.plugin._health import Health
from cpg_trio.plugin._heartbeat import HeartbeatCounts
from cpg_trio.plugin._hosts import LOCAL_HOST_URL, Hosts
from cpg_trio.plugin._session import Introduction, Session
from cpg_trio.states import HealthState
from cpg_trio.tracing import Tracing

_log = logging.getLogger("cpg_trio.plugin")


class PluginState:
    """The state of one run of a plugin. Changed from the loop's thread only, between checkpoints."""

    def __init__(self, declared: Declaration, config: PluginConfig, pool: Pool) -> None:
        self.declared = declared
        declared.link.start()
        self.config = config
        self.pool = pool
        self.introduction: Introduction = Introduction(
            declared.self_id,
            declared.version,
            list(declared.provided),
            list(declared.dependencies),
            config.enrolment_token,
            [each.service_type for each in declared.dependencies.values() if not each.required],
        )
        self.health: Health = Health(declared)
        link, self_id = declared.link, declared.self_id
        self.adoption: Adoption | None = None
        self.hosts: Hosts | None = None
        if config.local is not None:
            self.hosts = Hosts((LOCAL_HOST_URL,), pool, link, self_id, config.local)
        elif config.host_url is None:
            self.adoption = Adoption(pool, link, self_id)
        else:
            self.hosts = Hosts(config.host_urls, pool, link, self_id)
        """The hosts of its configuration; None for a plugin that waits for a managing host."""
        self.session: Session | None = None
        """The session with the host; None before the first handshake, after it is lost, and while leaving."""
        self.last_session: Session | None = None
        """The last session, which may have ended: calls of its host may still arrive."""
        self.heartbeats: HeartbeatCounts = HeartbeatCounts()
        self.traces: Tracing = Tracing()
        """The traces of its calls. They have the runtime id of the last session."""
        self.registered: trio.Event = trio.Event()
        """Set when all services have been registered for the first time."""
        self.stopping: trio.Event = trio.Event()
        self.grace_s: float = config.grace_s

    def begin_session(self, session: Session) -> None:
        """Take a session that a handshake or a managing host has given."""
        self.session = self.last_session = session
        self.declared.link.begin(session)
        self.traces.identify(session.runtime_id)
        for capability in self.declared.capabilities:
            capability.begin(session)

    def end_session(self) -> Session | None:
        """End the session; return it, None if there was none."""
        session, self.session = self.session, None
        return session

    def shut_down(self, grace_s: float, reason: str) -> None:
        """Begin to stop as the host asks; calls in flight have `grace_s` seconds to finish."""
        _log.info("%s is told to stop: %s", self.declared.self_id, one_line(reason) or "no reason given")
        self.grace_s = grace_s
        self.stopping.set()

    def forget(self) -> None:
        """Leave nothing of this run in the declaration, which may be served again."""
        self.declared.link.end()
        for dependency in self.declared.dependencies.values():
            dependency.forget()
        for capability in self.declared.capabilities:
            capability.begin(None)

    @property
    def waits_for_adoption(self) -> bool:
        """Whether a managing host may give the plugin an identity without proof from the host before."""
        return self.session is None and self.adoption is not None

    def host_time(self) -> float:
        """Return the time, in seconds since 1970, by the clock of the last host."""
        session = self.last_session
        return time.time() if session is None else session.time.now()

    def why_not_started(self) -> str:
        """Return why the startup probe fails; empty if it succeeds."""
        return "no handshake with a host yet" if self.last_session is None else ""

    def how_ready(self) -> str:
        """Return what the readiness probe says while it succeeds."""
        return ", ".join(["ready", *self.declared.missing.values()])

    def why_not_ready(self) -> str:
        """Return why the readiness probe fails; empty if it succeeds."""
        if self.stopping.is_set():
            return "stopping"
        if (session := self.session) is None:
            return self.why_not_started() or "the host has forgotten it"
        if session.lease_ends <= _clock.current_time():
            return f"no heartbeat has reached the host in the last {session.lease_s:g} s"
        state, reason = self.declared.own_health.value
        return (reason or "UNHEALTHY") if state is HealthState.UNHEALTHY else ""
