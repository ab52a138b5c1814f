"""Health reports to the host, each of which renews the plugin's lease."""

from __future__ import annotations

import logging
import math
import random
from functools import partial

import attrs
import trio

from cpg_trio import _clock, wire
from cpg_trio.plugin._health import Health
from cpg_trio.plugin._host_time import HostTime
from cpg_trio.plugin._hosts import HostAddress, Hosts
from cpg_trio.plugin._retry import LOG_AGAIN_S, Backoff
from cpg_trio.plugin._session import CALL_TIMEOUT_S, Session
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import Code, ConnectError, ResponseMetadata

_log = logging.getLogger("cpg_trio.plugin")

_IN_TIME = 0.6  # of what is left of a lease when a report is due
_CLOCKS_AGREE_S = 10.0  # clocks that differ by less count as the same


@attrs.define
class HeartbeatCounts:
    """How many reports were sent, and how many of them did not reach the host."""

    sent: int = 0
    failed: int = 0


class Heartbeat:
    """Reports a plugin's health: when it changes, and at intervals. One for all sessions of a plugin.

    `interval_s` are the seconds between two reports; None is what the host asks for.
    """

    def __init__(
        self, self_id: str, health: Health, interval_s: float | None, counts: HeartbeatCounts | None = None
    ) -> None:
        self._counts = counts or HeartbeatCounts()
        self._health = health
        self._interval_s = interval_s
        self._changes = _ChangeLog(self_id)

    async def keep(self, session: Session) -> None:
        """Report, until cancelled or until the host does not know the session; then set `session.void`."""
        reports, backoff, hosts = self._health.report.reader(), Backoff(), session.hosts
        wait_s = math.inf  # the first report is there at once
        while not session.void.is_set():
            interval_s = self._interval_s or session.heartbeat_s
            with (
                trio.move_on_after(wait_s) as until_due,
                hosts.moves.added(partial(_arrive, hosts, interval_s, until_due)),
            ):
                await anext(reports)
            interval_s = self._interval_s or session.heartbeat_s
            wait_s = interval_s * random.uniform(0.9, 1.0)  # noqa: S311 - spreads load, no secret
            at = hosts.current
            self._changes.health(self._health.report.value)
            self._counts.sent += 1
            try:
                await self._report(session, at, _timeout_s(session, interval_s))
            except ConnectError as error:
                self._counts.failed += 1
                if error.code == Code.UNAUTHENTICATED:
                    session.void.set()
                    return
                if hosts.current is at or not hosts.promising:
                    self._changes.host_lost(at.url, error.message)
                    wait_s = min(wait_s, backoff.next_s())
            else:
                backoff.reset()
                self._changes.host_found()
            if hosts.current is not at and hosts.promising:
                wait_s = min(wait_s, hosts.arrival_s(interval_s))

    async def _report(self, session: Session, at: HostAddress, timeout_s: float) -> None:
        """Send one report. Raises: ConnectError."""
        began, answer = _clock.current_time(), ResponseMetadata()
        report = self._health.with_direct_calls()
        try:
            call = session.lifecycle_at(at).report_health
            await call(report, timeout_s=timeout_s, metadata=answer)
        except ConnectError as error:
            if error.code == Code.DEADLINE_EXCEEDED and not answer.headers:
                at.silent(f"no answer to a report within {timeout_s:.1f} s")
            raise
        is_sent_elsewhere = answer.headers.get(wire.ELSEWHERE_HEADER.lower()) == "true"
        session.heard(at, welcome=not is_sent_elsewhere)
        session.lease_ends = began + session.lease_s
        session.check_host(answer.headers.get(wire.HOST_ID_HEADER, ""))
        session.time.update(answer.headers.get("date", ""), began)
        self._changes.clock(session.time)
        if is_sent_elsewhere:
            at.dismissed("it sends its plugins elsewhere", anew=True)
        if not session.host_id and not session.managed:
            with trio.move_on_after(timeout_s):
                await session.check_token()


def _timeout_s(session: Session, interval_s: float) -> float:
    """Return how long to wait for the answer to a report.

    Limited to the interval: one call that hangs must not be the only one within a lease. With several hosts
    all of them are asked, if need be, in time for the lease that the report before has renewed.
    """
    usual_s = min(CALL_TIMEOUT_S, interval_s)
    return session.hosts.patience_s(usual_s, _IN_TIME * (session.lease_s - interval_s))


def _arrive(hosts: Hosts, interval_s: float, until_due: trio.CancelScope, _: HostAddress) -> None:
    """Have another host get a report soon."""
    until_due.deadline = min(until_due.deadline, trio.current_time() + hosts.arrival_s(interval_s))


class _ChangeLog:
    """Writes to the log what has changed between two reports; what has not is not repeated."""

    def __init__(self, self_id: str) -> None:
        self._self_id = self_id
        self._health: tuple[pb.HealthState, str] | None = None
        self._host_lost_at = -math.inf
        self._clock_differs = False

    def health(self, report: pb.ReportHealthRequest) -> None:
        health = report.state, report.reason
        if health == self._health:
            return
        self._health = health
        state = pb.HealthState.Name(report.state).removeprefix("HEALTH_STATE_").lower()
        _log.info("%s is %s%s", self._self_id, state, f": {report.reason}" if report.reason else "")

    def host_lost(self, host_url: str, why: str) -> None:
        """Write that the host cannot be reached, and again from time to time."""
        now = trio.current_time()
        if now >= self._host_lost_at + LOG_AGAIN_S:
            self._host_lost_at = now
            _log.warning("%s has lost its host at %s, and tries on: %s", self._self_id, host_url, why)

    def host_found(self) -> None:
        if self._host_lost_at > -math.inf:
            _log.info("%s has its host back", self._self_id)
        self._host_lost_at = -math.inf

    def clock(self, host_time: HostTime) -> None:
        """Write that this machine's clock differs from the host's, or agrees again: once each."""
        ahead_s = host_time.ahead_s
        differs = abs(ahead_s) > _CLOCKS_AGREE_S
        if differs and not self._clock_differs:
            which = "ahead of" if ahead_s > 0 else "behind"
            _log.warning(
                "the clock of %s is %.0f s %s its host's; what the host signs is judged by the host's",
                self._self_id,
                abs(ahead_s),
                which,
            )
        elif self._clock_differs and not differs:
            _log.info("the clock of %s agrees with its host's again", self._self_id)
        self._clock_differs = differs
