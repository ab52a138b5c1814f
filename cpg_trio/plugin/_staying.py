"""How a plugin, or a session of `connect`, stays known to its host, whatever becomes of host and network.

It shakes hands, and registers what it provides. After that, at the same time: _heartbeat, _token_renewal,
discovery (follows the dependencies), direct (direct calls), _adoption (a managing host gives another
identity). All begins anew when the host has lost it.
"""

from __future__ import annotations

import logging
import math
import random
from functools import partial

import trio

from cpg_trio.http import Pool, TlsConfig
from cpg_trio.http.server.capacity import most_connections
from cpg_trio.logs import identify
from cpg_trio.plugin._heartbeat import Heartbeat
from cpg_trio.plugin._hosts import Hosts
from cpg_trio.plugin._registration import Registrations
from cpg_trio.plugin._retry import Backoff, retry_until_done
from cpg_trio.plugin._serving import Addresses
from cpg_trio.plugin._session import Session, handshake
from cpg_trio.plugin._state import PluginState
from cpg_trio.plugin._token_renewal import keep_renewed, renew
from cpg_trio.plugin.direct import RequestPace
from cpg_trio.plugin.discovery import follow
from cpg_trio.rpc import ConnectError, ResponseMetadata

_log = logging.getLogger("cpg_trio.plugin")

# Seconds that an idle connection is kept. Hosts keep theirs for longer (ours for 120 s), so that no call is
# sent on one that the host is just closing.
_IDLE_EXPIRY_S = 30.0
_MAX_PER_ORIGIN = 2000  # connections to the host; calls to other plugins have half of them
_RETURN_SPREAD = 0.2  # of a heartbeat: over this time plugins return to a host that has lost its state


def own_pool(tls: TlsConfig) -> Pool:
    """Return a pool for all calls that are made. Raises: StartError for files for TLS that are of no use."""
    contexts = tls.client_contexts()
    contexts.check()
    return Pool(
        idle_expiry_s=_IDLE_EXPIRY_S,
        ssl_context=contexts,
        max_per_origin=_MAX_PER_ORIGIN,
        max_total=most_connections(),
    )


async def stay_registered(
    state: PluginState,
    addresses: Addresses,
    registrations: Registrations,
    *,
    within_s: float = math.inf,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Shake hands, register and follow the host; from the beginning each time that it has lost the plugin.

    `started` with the first session. Raises: RefusedError; ConnectError if no host answers `within_s`, at
    first; later it is tried without end.
    """
    heartbeat = Heartbeat(state.declared.self_id, state.health, state.config.heartbeat_s, state.heartbeats)
    session: Session | None = None
    backoff = Backoff()
    while True:
        before, session = session, await _open_session(state, addresses, session, within_s)
        backoff.opened()
        state.begin_session(session)
        identify(session.runtime_id)
        if before is None:
            within_s = math.inf
            task_status.started()
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


async def _open_session(
    state: PluginState, addresses: Addresses, before: Session | None, within_s: float
) -> Session:
    """Return a session with a host, however long that takes; a host may accept the one before."""
    self_id, hosts = state.declared.self_id, state.hosts
    if state.adoption is not None:
        session = await state.adoption.wait(self_id, addresses.bound)
        await _learn_intervals(state, session)
        return session
    assert hosts is not None  # noqa: S101 - without one there is an adoption
    session = await retry_until_done(
        self_id,
        f"reach {hosts}",
        partial(_shake_hands, state, hosts, before),
        within_s=within_s,
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
    dependencies = state.declared.dependencies
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeat.keep, session)
        nursery.start_soon(keep_renewed, session, state.introduction)
        nursery.start_soon(follow, session, dependencies)
        if state.config.direct_calls and state.config.local is None:
            pace = RequestPace()
            nursery.start_soon(
                dependencies.for_each,
                lambda each: each.direct.keep_granted(session, each.providers, pace),
            )
        if state.adoption is not None:
            nursery.start_soon(state.adoption.end_when_replaced, session)
        await session.void.wait()
        nursery.cancel_scope.cancel()
