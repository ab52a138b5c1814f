"""A plugin as its author declares it: what it provides and what it requires."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TypeAlias, TypeVar, overload

import trio
from connectrpc.method import StreamType

from cpg_trio import wire
from cpg_trio.asgi import App
from cpg_trio.calls import CallPolicy
from cpg_trio.logs import log_source
from cpg_trio.plugin._config import PluginConfig
from cpg_trio.plugin._declaration import Declaration, Provided
from cpg_trio.plugin._dependencies import Dependencies
from cpg_trio.plugin._required_service import RequiredService
from cpg_trio.plugin._requiring import Requiring
from cpg_trio.plugin._runtime import run
from cpg_trio.plugin._tasks import TaskFunction, check_task, task_name
from cpg_trio.plugin._used_capability import UsedCapability
from cpg_trio.plugin.capability import Capability
from cpg_trio.plugin.dependency import Dependency
from cpg_trio.rpc import MAX_MESSAGE_BYTES, Interceptor, Service, application
from cpg_trio.rpc.given import check_service_type, check_texts, described
from cpg_trio.rpc.interceptors import checked_interceptors
from cpg_trio.states import HealthState

Middleware: TypeAlias = Callable[[App], App]
"""Returns an application that stands before another one."""
_Task = TypeVar("_Task", bound=TaskFunction)


class Plugin(Requiring):
    """A plugin, declared by `provide` and `require`, run by `serve`.

    `self_id` is its name, which its replicas share. `version` is that of the plugin, and of its services
    unless `provide` gives another. `default_port` is the port if the environment sets none.
    `interceptors` see the calls of all its services, outside of those of a service (see `rpc.interceptors`).

    Raises: wire.InvalidError for a name or version that is not valid; TypeError for what is no text, or no
    interceptor.
    """

    def __init__(
        self,
        self_id: str,
        *,
        version: str,
        name: str | None = None,
        default_port: int = 0,
        interceptors: Iterable[Interceptor] = (),
    ) -> None:
        check_texts(self_id=self_id, version=version)
        wire.validate_self_id(self_id)
        wire.validate_version(version)
        self._default_port = default_port
        self._interceptors = checked_interceptors(interceptors)
        self._served = 0
        self._declared = Declaration(self_id, version, name or self_id)

    @property
    def self_id(self) -> str:
        """Its name, which its replicas share."""
        return self._declared.self_id

    @property
    def provides(self) -> tuple[str, ...]:
        """The types of its services."""
        return tuple(self._declared.provided)

    @property
    def services(self) -> dict[str, str]:
        """The full names of its services, as in `storage.v1.Storage`, by their types."""
        return {each.service_type: each.path.strip("/") for each in self._declared.provided.values()}

    @property
    def requires(self) -> tuple[str, ...]:
        """The types of the services without which it is not HEALTHY."""
        return self._dependencies(required=True)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of its own tasks."""
        return tuple(self._declared.tasks)

    @property
    def uses(self) -> tuple[str, ...]:
        """The types of the services that it does without, if it has to."""
        return self._dependencies(required=False)

    def _dependencies(self, *, required: bool) -> tuple[str, ...]:
        dependencies = self._declared.dependencies.items()
        return tuple(name for name, each in dependencies if each.required is required)

    def provide(
        self,
        service_type: str,
        service: Service,
        *,
        version: str | None = None,
        max_message_bytes: int | None = MAX_MESSAGE_BYTES,
        middleware: Middleware = lambda app: app,
        interceptors: Iterable[Interceptor] = (),
        public: bool = False,
        at_once: Collection[str] = (),
    ) -> None:
        """Provide a service. `middleware` wraps the ASGI application that serves it.

        `interceptors` see its calls, inside of the plugin's; the first of them is the outermost.

        The service answers other plugins, which call through the host. A `public` one answers every client.
        Its methods find the caller, if it is known, in `Context.caller`. Messages of more than
        `max_message_bytes` are refused; None is no limit.

        `at_once` are the names of unary methods that never wait for anything, nor do the middleware and the
        interceptors around them. Their calls take less time, as they need no task. If such a method waits all
        the same, or uses what of Trio's needs a task, its caller gets `internal`, and the log says so.

        Raises: wire.InvalidError for a type or version that is not valid; ValueError for a type that is
        provided already, and for a name in `at_once` that no unary method has; TypeError for what is no
        implementation of a generated service (a class instead of an instance, a client, a method that is not
        async), or no interceptor; RuntimeError while the plugin runs.
        """
        self._check_open("provide")
        check_service_type("provide", service_type)
        version = version or self._declared.version
        check_texts(version=version)
        wire.validate_service_type(service_type)
        wire.validate_version(version)
        if service_type in self._declared.provided:
            raise ValueError(
                f"{self.self_id} provides {service_type} already: a plugin provides a type once, and another"
                " version is another plugin's, or another type"
            )
        chain = (*self._interceptors, *checked_interceptors(interceptors))
        app = middleware(application([service], chain, max_message_bytes=max_message_bytes))
        if not callable(app):
            raise TypeError(f"the middleware of {service_type} returned {app!r}, and not an application")
        path, quick = f"/{service.service_name}/", _targets_of(service, at_once)
        self._declared.provided[service_type] = Provided(service_type, version, path, app, public, quick)

    def require(
        self,
        service_type: str,
        *,
        version: str = "",
        min_version: str = "",
        required: bool = True,
        policy: CallPolicy | None = None,
        interceptors: Iterable[Interceptor] = (),
    ) -> Dependency:
        """Require a service. Unless `required` is false, the plugin is DEGRADED while there is no provider.

        `version` is a range of versions that count, in the comparisons of PEP 440 (`>=1.2,<2`, see
        `versions`); those before `min_version` do not count either. `policy` says how its calls are balanced,
        bounded, and treated when they fail. `interceptors` see the calls of all its clients.

        Raises: wire.InvalidError for a type or version that is not valid; ValueError for a type that is
        required already; TypeError for what is no interceptor; RuntimeError while the plugin runs.
        """
        self._check_open("require")
        requirement = self._requirement(self.self_id, service_type, version, min_version, policy)
        service = RequiredService(
            self._declared.self_id,
            service_type,
            requirement,
            required=required,
            interceptors=interceptors,
            policy=policy,
            link=self._declared.link,
        )
        self._declared.dependencies.add(service)
        return Dependency(service)

    def _required(self) -> Dependencies:
        return self._declared.dependencies

    def capability(self, capability_type: str, *, min_version: str = "", reason: str = "") -> Capability:
        """Use something that the plugin's host offers. `reason` is for the host's records.

        Raises: wire.InvalidError for a type or version that is not valid; RuntimeError while the plugin runs.
        """
        self._check_open("capability")
        check_service_type("capability", capability_type)
        used = UsedCapability(capability_type, min_version, reason)
        self._declared.capabilities.append(used)
        return Capability(used)

    @overload
    def task(self, function: _Task, *, name: str | None = None) -> _Task: ...

    @overload
    def task(self, *, name: str | None = None) -> Callable[[_Task], _Task]: ...

    def task(
        self, function: _Task | None = None, *, name: str | None = None
    ) -> _Task | Callable[[_Task], _Task]:
        """Run an async function beside the plugin, as a task of its nursery. Also a decorator.

        It is called without arguments, once, when the plugin has registered for the first time; and each time
        that the plugin is served. It may return. At a stop it is cancelled when the calls in flight are done,
        as they may wait for it, or when their grace period is over; it can still make calls until then. Who
        has to clean up does so as everywhere in Trio, with `finally` and a shield with a limit.

        An exception in it ends the plugin as a crash does: all else is cancelled, `serve` raises it, and the
        host finds out. Whoever runs the plugin starts it again, if anybody does. Tasks that shall go on after
        errors catch them. `name` is for the log, by default that of the function.

        Raises: TypeError for what is no async function without arguments; ValueError for a name that another
        task has; RuntimeError while the plugin runs.
        """
        if function is None:
            return partial(self.task, name=name)
        self._check_open("task")
        check_task(function)
        name = name or task_name(function)
        if name in self._declared.tasks:
            raise ValueError(f"{self.self_id} has a task {name} already: give this one another name")
        self._declared.tasks[name] = function
        return function

    def set_health(self, state: HealthState, reason: str = "") -> None:
        """Set the health of the plugin, without regard to its dependencies, which can only make it worse.

        Raises: TypeError for what is no HealthState, or no text.
        """
        if not isinstance(state, HealthState):
            raise TypeError(f"{state!r} is no HealthState: give one, as in HealthState.DEGRADED")
        check_texts(reason=reason)
        self._declared.own_health.set((state, reason))

    async def serve(
        self,
        stop: trio.Event | None = None,
        *,
        config: PluginConfig | None = None,
        task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run until `stop` is set or the host asks for a stop; then leave the host, and finish the calls.

        Without a `config` the environment sets where it runs. `started` reports the URLs of its addresses
        once it listens; it may not be registered yet. Raises: StartError for a configuration that is not
        valid; BindError; RefusedError if the host refuses the plugin.
        """
        if not isinstance(config, PluginConfig | None):
            raise TypeError(f"serve() takes a PluginConfig as config, and not {described(config)}")
        if not isinstance(stop, trio.Event | None):
            raise TypeError(f"serve() takes a trio.Event that stops it, and not {described(stop)}")
        config = config or PluginConfig.from_environment(self._default_port)
        self._served += 1
        try:
            with log_source(self._declared.self_id):
                await run(self._declared, config, trio.Event() if stop is None else stop, task_status)
        finally:
            self._served -= 1

    def _check_open(self, what: str) -> None:
        if self._served:
            self_id = self._declared.self_id
            raise RuntimeError(f"{what}() comes before serve(): the host knows already what {self_id} is")


def _targets_of(service: Service, names: Collection[str]) -> frozenset[bytes]:
    """Return the targets of calls of unary methods. Raises: ValueError for a name that none of them has."""
    unary = [rpc.name for rpc in service.rpcs if rpc.streams is StreamType.UNARY]
    for name in names:
        if name not in unary:
            known = f"those of {service.service_name} are {', '.join(unary)}" if unary else "there is none"
            raise ValueError(f"at_once: {name!r} is no unary method; {known}")
    return frozenset(f"/{service.service_name}/{name}".encode() for name in names)
