"""A plugin as its author declares it: what it provides and what it requires."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import trio

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.asgi import App
from cpg_trio.plugin._config import PluginConfig
from cpg_trio.plugin._declaration import Declaration, Provided
from cpg_trio.plugin._runtime import run
from cpg_trio.plugin.capability import Capability
from cpg_trio.plugin.dependency import Dependency
from cpg_trio.rpc import MAX_MESSAGE_BYTES, Service, application

Middleware: TypeAlias = Callable[[App], App]


class Plugin:
    """A plugin, declared by `provide` and `require`, run by `serve`.

    `self_id` is its name, which its replicas share; `version` is its own, and that of its services unless
    they say another. `default_port` is where it listens if the environment says nothing.
    """

    def __init__(self, self_id: str, *, version: str, name: str | None = None, default_port: int = 0) -> None:
        wire.validate_self_id(self_id)
        wire.validate_version(version)
        self._default_port = default_port
        self._served = 0
        self._declared = Declaration(self_id, version, name or self_id)

    def provide(
        self,
        service_type: str,
        service: Service,
        *,
        version: str | None = None,
        max_message_bytes: int | None = MAX_MESSAGE_BYTES,
        middleware: Middleware = lambda app: app,
        public: bool = False,
    ) -> None:
        """Provide a service. `middleware` is put around the ASGI application that serves it.

        It answers other plugins, which call through the host; what is `public` answers everybody who can
        reach it. Its methods see who calls, if that is known, in `Context.caller`.
        Messages of more than `max_message_bytes` are refused; None is no limit.

        Raises: wire.InvalidError for a type or version that is none; ValueError for a type given twice;
        TypeError for a class instead of an instance; RuntimeError once the plugin is served.
        """
        self._check_open("provide")
        version = version or self._declared.version
        wire.validate_service_type(service_type)
        wire.validate_version(version)
        if service_type in self._declared.provided:
            raise ValueError(f"{service_type} is provided already")
        app = middleware(application([service], max_message_bytes=max_message_bytes))
        if not callable(app):
            raise TypeError(f"the middleware of {service_type} returned {app!r}, and not an application")
        path = f"/{service.service_name}/"
        self._declared.provided[service_type] = Provided(service_type, version, path, app, public)

    def require(self, service_type: str, *, min_version: str = "", required: bool = True) -> Dependency:
        """Require a service; the plugin is DEGRADED while it is away, unless it is not `required`.

        Raises: wire.InvalidError for a type or version that is none; ValueError for a type given twice;
        RuntimeError once the plugin is served.
        """
        self._check_open("require")
        if service_type in self._declared.dependencies:
            raise ValueError(f"{service_type} is required already")
        dependency = Dependency(self._declared.self_id, service_type, min_version, required=required)
        self._declared.dependencies[service_type] = dependency
        return dependency

    def capability(self, capability_type: str, *, min_version: str = "", reason: str = "") -> Capability:
        """Use something that the plugin's host offers. `reason` is what it is told that this is for.

        Raises: wire.InvalidError for a type or version that is none; RuntimeError once the plugin is served.
        """
        self._check_open("capability")
        capability = Capability(capability_type, min_version, reason)
        self._declared.capabilities.append(capability)
        return capability

    def set_health(self, state: pb.HealthState, reason: str = "") -> None:
        """Say how the plugin is apart from its dependencies. The worse of the two is what it reports.

        Raises: ValueError for what is no state.
        """
        if state not in pb.HealthState.values():
            raise ValueError(f"{state!r} is not a HealthState")
        self._declared.own_health.set((state, reason))

    async def serve(
        self,
        stop: trio.Event | None = None,
        *,
        config: PluginConfig | None = None,
        task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run until `stop` is set or the host says so, then leave in order.

        Without a `config` the environment says where. `started` reports the addresses as URLs once it
        listens; it may not be registered yet. Raises: StartError for what makes no sense; BindError;
        RefusedError if the host will not have it.
        """
        config = config or PluginConfig.from_environment(self._default_port)
        self._served += 1
        try:
            await run(self._declared, config, trio.Event() if stop is None else stop, task_status)
        finally:
            self._served -= 1

    def _check_open(self, what: str) -> None:
        if self._served:
            self_id = self._declared.self_id
            raise RuntimeError(f"{what}() comes before serve(): the host knows already what {self_id} is")
