"""The tasks of a plugin that runs.

    run                        background: connection pool, probe port, _tasks (the author's own)
    └─ until drained           _serving: the servers
       └─ until a stop         _health: keeps the report up to date
          └─ while the host    handshake, then _registration; after that, at the same time:
             knows the plugin  _heartbeat · _token_renewal · discovery (follows the dependencies) ·
                               direct (direct calls) · _adoption (a managing host gives another identity)

A plugin listens before it registers, so that no call is sent to a port that is closed. It stops in the
opposite order: it takes its registrations back, then the calls in flight finish, then all else is cancelled:
the author's tasks, which calls may wait for, and last the connection pool, which tasks may use.
"""

from __future__ import annotations

import logging
import os
import random
from contextlib import AbstractAsyncContextManager
from functools import partial

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.http import Pool, StartError, fitted_to_descriptors, fitted_to_memory, most_connections
from cpg_trio.logs import identify
from cpg_trio.plugin._config import PluginConfig
from cpg_trio.plugin._declaration import Declaration
from cpg_trio.plugin._heartbeat import Heartbeat
from cpg_trio.plugin._hosts import Hosts
from cpg_trio.plugin._metrics import answering_metrics
from cpg_trio.plugin._registration import Registrations
from cpg_trio.plugin._retry import Backoff, retry_until_done
from cpg_trio.plugin._serving import Addresses, serve_plugin
from cpg_trio.plugin._session import Session, handshake
from cpg_trio.plugin._state import PluginState
from cpg_trio.plugin._tasks import run_tasks
from cpg_trio.plugin._token_renewal import keep_renewed, renew
from cpg_trio.plugin.direct import RequestPace
from cpg_trio.plugin.discovery import follow
from cpg_trio.probes import Probes, probe_port
from cpg_trio.rpc import ConnectError, ResponseMetadata
from cpg_trio.tracing import Tracing, tracing

_log = logging.getLogger("cpg_trio.plugin")

# Seconds that an idle connection is kept. Hosts keep theirs for longer (ours for 120 s), so that no call is
# sent on one that the host is just closing.
_IDLE_EXPIRY_S = 30.0
_MAX_PER_ORIGIN = 2000  # connections to the host; calls to other plugins have half of them
_RETURN_SPREAD = 0.2  # of a heartbeat: over this time plugins return to a host that has lost its state


async def run(
    declared: Declaration,
    config: PluginConfig,
    stop: trio.Event,
    task_status: trio.TaskStatus[tuple[str, ...]],
) -> None:
    """Run a plugin until `stop` is set or the host asks it to stop. See `Plugin.serve`."""
    config = attrs.evolve(config, serve=fitted_to_memory(fitted_to_descriptors(config.serve)))
    contexts = config.serve.tls.client_contexts()
    contexts.check()
    pool = Pool(
        idle_expiry_s=_IDLE_EXPIRY_S,
        ssl_context=contexts,
        max_per_origin=_MAX_PER_ORIGIN,
        max_total=most_connections(),
    )
    state = PluginState(declared, config, pool)
    probes = Probes(state.why_not_ready, state.why_not_started, state.how_ready)
    try:
        async with (
            _tracing(declared) as state.traces,
            pool,
            probe_port(probes, config.probe_bind, config.serve),
            answering_metrics(state),
            open_plain_nursery() as background,
        ):
            background.start_soon(pool.sweep)
            if state.hosts is not None:
                background.start_soon(state.hosts.keep)
            background.start_soon(run_tasks, state)
            async with open_plain_nursery() as until_drained:
                drain = trio.Event()
                addresses = await until_drained.start(serve_plugin, state, probes, drain)
                task_status.started(addresses.bound)
                await _stay_until_stopped(state, addresses, stop)
                _log.info("%s stopping; calls in flight have %g s", declared.self_id, state.grace_s)
                drained = until_drained.cancel_scope
                drained.deadline = trio.current_time() + state.grace_s
                background.start_soon(_shorten_grace, stop, config.grace_s, drained)
                drain.set()
            background.cancel_scope.cancel()
    finally:
        state.forget()
    _log.info("%s has stopped", declared.self_id)


def _tracing(declared: Declaration) -> AbstractAsyncContextManager[Tracing]:
    """Have spans made of the calls that a plugin answers and makes, if tracing is on."""
    made = [calls for each in declared.dependencies.values() for calls in (each.calls, each.direct.calls)]
    return tracing(declared.self_id, declared.version, os.environ, server=[declared.served], client=made)


async def _shorten_grace(stop: trio.Event, grace_s: float, drained: trio.CancelScope) -> None:
    """Have a local stop shorten the grace period that the host has set."""
    await stop.wait()
    drained.deadline = min(drained.deadline, trio.current_time() + grace_s)


async def _stay_until_stopped(state: PluginState, addresses: Addresses, stop: trio.Event) -> None:
    """Be registered until a stop begins, then leave; leave after a StartError, too."""
    registrations = Registrations(state.declared, addresses)
    try:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(_set_with, stop, state.stopping)
            nursery.start_soon(state.health.follow)
            for dependency in state.declared.dependencies.values():
                nursery.start_soon(dependency.keep)
            nursery.start_soon(_stay_registered, state, addresses, registrations)
            await state.stopping.wait()
            state.declared.link.stop()
            nursery.cancel_scope.cancel()
    except StartError:
        state.declared.link.stop()
        await registrations.leave(state.end_session())
        raise
    await registrations.leave(state.end_session())


async def _set_with(first: trio.Event, second: trio.Event) -> None:
    await first.wait()
    second.set()


async def _stay_registered(state: PluginState, addresses: Addresses, registrations: Registrations) -> None:
    """Shake hands, register and follow the host; from the beginning each time that it has lost the plugin."""
    heartbeat = Heartbeat(state.declared.self_id, state.health, state.config.heartbeat_s, state.heartbeats)
    session: Session | None = None
    backoff = Backoff()
    while True:
        session = await _open_session(state, addresses, session)
        backoff.opened()
        state.begin_session(session)
        identify(session.runtime_id)
        if await registrations.register(session):
            state.registered.set()
            await _keep(state, session, heartbeat)
        session.void.set()
        _log.warning("%s: the host does not know %s any more", state.declared.self_id, session.runtime_id)
        state.end_session()
        state.declared.link.lose()
        registrations.forget(session)
        # A host that has lost one plugin has lost all, and they should not return at the same moment.
        await backoff.wait(random.uniform(0, session.heartbeat_s * _RETURN_SPREAD))  # noqa: S311


async def _open_session(state: PluginState, addresses: Addresses, before: Session | None) -> Session:
    """Return a session with a host, however long that takes; a host may accept the one before."""
    self_id, hosts = state.declared.self_id, state.hosts
    if state.adoption is not None:
        session = await state.adoption.wait(self_id, addresses.bound)
        await _learn_intervals(state, session)
        return session
    assert hosts is not None  # noqa: S101 - without one there is an adoption
    session = await retry_until_done(
        self_id,
        f"reach the host at {' or '.join(hosts.urls)}",
        partial(_shake_hands, state, hosts, before),
    )
    _log.info("%s is %s on %s", self_id, session.runtime_id, hosts.current)
    return session


async def _shake_hands(
    state: PluginState, hosts: Hosts, before: Session | None, metadata: ResponseMetadata
) -> Session:
    """Return a session of a new handshake, with the first host that answers. Raises: ConnectError."""
    await hosts.look_up()
    shaking = partial(handshake, hosts, state.introduction, before, state.config.socket_dir, metadata)
    try:
        return await hosts.ask(shaking)
    except ConnectError as error:
        state.declared.link.unreachable(error.message)
        raise


async def _learn_intervals(state: PluginState, session: Session) -> None:
    """Ask a managing host for its intervals: it has given an identity and nothing else."""
    try:
        await renew(session, state.introduction)
    except ConnectError as error:
        _log.debug("%s does not know its host's intervals yet: %s", session.runtime_id, error.message)


async def _keep(state: PluginState, session: Session, heartbeat: Heartbeat) -> None:
    """Keep a session until the host does not know it any more."""
    dependencies = list(state.declared.dependencies.values())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeat.keep, session)
        nursery.start_soon(keep_renewed, session, state.introduction)
        nursery.start_soon(follow, session, dependencies)
        if state.config.direct_calls and state.config.local is None:
            pace = RequestPace()
            for dependency in dependencies:
                nursery.start_soon(dependency.direct.keep_granted, session, dependency.providers, pace)
        if state.adoption is not None:
            nursery.start_soon(state.adoption.end_when_replaced, session)
        await session.void.wait()
        nursery.cancel_scope.cancel()
