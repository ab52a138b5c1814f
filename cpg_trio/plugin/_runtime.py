"""The tasks of a plugin that runs.

    run                        background: connection pool, probe port, _tasks (the author's own)
    └─ until drained           _serving: the servers
       └─ until a stop         _health: keeps the report up to date
          └─ _staying          handshake and registration, again each time that the host has lost the plugin

A plugin listens before it registers, so that no call is sent to a port that is closed. It stops in the
opposite order: it takes its registrations back, then the calls in flight finish, then all else is cancelled:
the author's tasks, which calls may wait for, and last the connection pool, which tasks may use.
"""

from __future__ import annotations

import logging
import os
from contextlib import AbstractAsyncContextManager

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.http import StartError
from cpg_trio.http.server.capacity import fitted_to_descriptors, fitted_to_memory
from cpg_trio.plugin._config import PluginConfig
from cpg_trio.plugin._declaration import Declaration
from cpg_trio.plugin._metrics import answering_metrics
from cpg_trio.plugin._registration import Registrations
from cpg_trio.plugin._required_service import RequiredService
from cpg_trio.plugin._serving import Addresses, serve_plugin
from cpg_trio.plugin._state import PluginState
from cpg_trio.plugin._staying import own_pool, stay_registered
from cpg_trio.plugin._tasks import run_tasks
from cpg_trio.probes import Probes, probe_port
from cpg_trio.tracing import Tracing, tracing

_log = logging.getLogger("cpg_trio.plugin")


async def run(
    declared: Declaration,
    config: PluginConfig,
    stop: trio.Event,
    task_status: trio.TaskStatus[tuple[str, ...]],
) -> None:
    """Run a plugin until `stop` is set or the host asks it to stop. See `Plugin.serve`."""
    config = attrs.evolve(config, serve=fitted_to_memory(fitted_to_descriptors(config.serve)))
    pool = own_pool(config.serve.tls)
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
            nursery.start_soon(state.declared.dependencies.for_each, RequiredService.keep)
            nursery.start_soon(stay_registered, state, addresses, registrations)
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
