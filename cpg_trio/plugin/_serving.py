"""What a plugin serves, and where it listens: its services, the control services for its host, and probes."""

from __future__ import annotations

import ipaddress
import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from urllib.parse import urlsplit

import attrs
import trio

from cpg_trio import wire
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import App, Receive, Scope, Send
from cpg_trio.http import Origin, serve
from cpg_trio.http.server.browsers import BrowserGuard
from cpg_trio.plugin._clients import for_clients
from cpg_trio.plugin._config import PluginConfig
from cpg_trio.plugin._declaration import Provided
from cpg_trio.plugin._session import own_socket
from cpg_trio.plugin._state import PluginState
from cpg_trio.plugin.control import Control, PluginInfo
from cpg_trio.plugin.guard import Guard, Managers
from cpg_trio.probes import PATHS, Probes
from cpg_trio.rpc import LocalHost, application

_log = logging.getLogger("cpg_trio.plugin")


@attrs.frozen
class Addresses:
    """Where a plugin can be called."""

    bound: tuple[str, ...]
    """The URLs of what it listens on."""
    base_url: str
    """The URL at which the host finds its services."""
    control_url: str
    """The URL at which the host finds the control services; empty if they are beside the others."""
    socket: str
    """The name of its Unix socket in the directory that it shares with its host; empty if there is none."""


NOWHERE = Addresses((), "", "", "")
"""Of what does not listen."""


async def serve_plugin(
    state: PluginState,
    probes: Probes,
    drain: trio.Event,
    *,
    task_status: trio.TaskStatus[Addresses],
) -> None:
    """Serve all of a plugin until `drain` is set, and then until the calls in flight are done.

    That has no limit here: how long calls may take to finish is the host's to set, later. Raises: BindError.
    """
    config = state.config
    services, control, local = _applications(state, probes)
    async with open_plain_nursery() as nursery:
        control_url = ""
        if config.control_bind is not None:
            serve_control = partial(serve, control, bind=config.control_bind, config=config.serve, stop=drain)
            bound_control, *_ = await nursery.start(serve_control)
            control_url = _control_url(config, bound_control)
            _log.info("%s listening for its host on %s", state.declared.self_id, bound_control)
        binds, socket = _binds(state)
        unlimited = attrs.evolve(config.serve, grace_s=math.inf)
        at_once = frozenset().union(*(each.at_once for each in state.declared.provided.values()))
        serve_services = partial(serve, services, bind=binds, config=unlimited, stop=drain, at_once=at_once)
        async with open_plain_nursery() as until_drained:
            bound: tuple[str, ...] = ()
            if binds:
                bound = await until_drained.start(serve_services)
                _log.info("%s listening on %s", state.declared.self_id, ", ".join(bound))
            if config.local is not None and not (bound and config.local.shared):
                base_url = await until_drained.start(_serve_in_memory, config.local, local, drain)
            else:
                base_url = _base_url(config, bound[0])
            task_status.started(Addresses(bound, base_url, control_url, socket))
        nursery.cancel_scope.cancel()


async def _serve_in_memory(
    host: LocalHost, app: App, drain: trio.Event, *, task_status: trio.TaskStatus[str]
) -> None:
    """Take the calls of a host in this process until `drain` is set, and then finish those in flight."""
    async with host.serving(app) as url:
        task_status.started(url)
        await drain.wait()


def _applications(state: PluginState, probes: Probes) -> tuple[App, App, App]:
    """Return what is served where others call, at the address for the host alone, and in memory."""
    guard = _guard(state)
    provided = _provided(state, guard)
    if state.config.handshake_clients:
        provided |= for_clients(state)
    control = {
        f"/{each.service_name}/": guard.control(application([each]))
        for each in (Control(state), PluginInfo(state))
    }
    local = _dispatching(guard, probes, provided | control)
    binds = [*_listed(state.config.bind), *_listed(state.config.control_bind or ())]
    browsers = BrowserGuard(state.config.serve, binds=binds, names=[state.config.hostname])
    everything = browsers.guarding(local)
    if state.config.control_bind is None:
        return everything, everything, local
    services = browsers.guarding(_dispatching(guard, probes, provided))

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        # At a Unix socket the host first asks whose it is, before it knows the control address.
        await (everything if scope["client"] is None else services)(scope, receive, send)

    return dispatch, browsers.guarding(_dispatching(guard, probes, control)), local


def _provided(state: PluginState, guard: Guard) -> dict[str, App]:
    """Return what the author provides, by path, and what describes it, if that is switched on."""
    services = list(state.declared.provided.values())
    if not state.config.reflection:
        return {p.path: _guarded(guard, p, p.application) for p in services}
    from cpg_trio.plugin import _reflection  # noqa: PLC0415 - see the module

    found = {p.path: _guarded(guard, p, _reflection.described(p)) for p in services}
    anyone = services if state.config.accept_unsigned else [p for p in services if p.public]
    at_root = guard.service(_reflection.describing(anyone), public=any(p.public for p in services))
    return found | dict.fromkeys(_reflection.PATHS, at_root)


def _guarded(guard: Guard, provided: Provided, app: App) -> App:
    return guard.service(app, public=provided.public, service_type=provided.service_type)


def _dispatching(guard: Guard, probes: Probes, by_path: Mapping[str, App]) -> App:
    """Return an application of several, by the first segment of their paths, and of the probes."""
    # A host may still send calls here that are for the plugin that had this address before. A 404 would
    # pass for that plugin's answer, so the guard refuses them as it does for a service that is here.
    elsewhere = guard.service(application([]), public=True)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        app = by_path.get(path[: path.find("/", 1) + 1], elsewhere)
        is_probe = path in PATHS and scope["type"] == "http"
        await (probes if is_probe else app)(scope, receive, send)

    return dispatch


def _guard(state: PluginState) -> Guard:
    config = state.config
    digest = wire.token_digest(config.enrolment_token) if config.enrolment_token else None
    return Guard(
        lambda: state.last_session,
        Managers(state.declared.self_id, digest, lambda: state.waits_for_adoption),
        accept_unsigned=config.accept_unsigned,
        calls=state.declared.served,
        wall_clock=state.host_time,
    )


def _binds(state: PluginState) -> tuple[Sequence[str], str]:
    """Return what to listen on, and the name of the Unix socket among it, empty if there is none."""
    config = state.config
    binds = _listed(config.bind)
    if config.socket_dir is None:
        return binds, ""
    socket = own_socket(state.declared.self_id, config.hostname, binds)
    return [*binds, f"unix:{config.socket_dir / socket}"], socket


def _base_url(config: PluginConfig, bound: str) -> str:
    """Return the URL at which the host finds what listens on `bound`."""
    scheme = "https" if config.serve.tls.serves else "http"
    origin = Origin(scheme, config.hostname, urlsplit(bound).port or 80)
    return f"{scheme}://{origin.host_header.decode()}"


def _control_url(config: PluginConfig, bound: str) -> str:
    """Return the URL at which the host finds what listens on `bound`.

    That is the address itself, if it is one and no certificate has to match the plugin's name.
    """
    address = ipaddress.ip_address(urlsplit(bound).hostname or "")
    by_name = address.is_unspecified or config.serve.tls.serves
    return _base_url(config, bound) if by_name else bound


def _listed(bind: str | Sequence[str]) -> list[str]:
    return [bind] if isinstance(bind, str) else list(bind)
