"""A plugin platform on Trio: identity, directory, liveness and an authenticated streaming router.

Public are the names here and those in the `__init__` of the rooms `host`, `plugin`, `launch`, `rpc` and
`http`, the modules `process`, `logs`, `call_context`, `statistics`, `capabilities` and
`http.client.httpx_transport`. Everything else is private.

    http             servers, a pool of connections, and the relay between the two
    rpc              Connect calls and services on Trio
    host | plugin    the two sides, which never import each other
    launch           starts plugins for a host
    demo             the URL shortener, an example

`docs/architecture.md` has all rooms in their order. A room is imported when one of its names is used: the
command `check`, which runs every few seconds in each container, has to start fast.
"""

import importlib

from ._version import __version__ as __version__

TYPE_CHECKING = False  # to import typing would be a tenth of the time of `check`

if TYPE_CHECKING:
    from .calls import (
        Breaking as Breaking,
        CallPolicy as CallPolicy,
        Concurrency as Concurrency,
        Retry as Retry,
    )
    from .host import (
        Enrolment as Enrolment,
        Host as Host,
        HostConfig as HostConfig,
        HostDependency as HostDependency,
        HostStoppedError as HostStoppedError,
        Keys as Keys,
        LeaseConfig as LeaseConfig,
        Limits as Limits,
        Policy as Policy,
        Rate as Rate,
        RateLimits as RateLimits,
        Selection as Selection,
    )
    from .http import (
        BindError as BindError,
        ServeConfig as ServeConfig,
        StartError as StartError,
        TlsConfig as TlsConfig,
    )
    from .plugin import (
        Dependency as Dependency,
        DependencyState as DependencyState,
        HealthState as HealthState,
        Plugin as Plugin,
        PluginConfig as PluginConfig,
        PluginStoppedError as PluginStoppedError,
        Provider as Provider,
        RefusedError as RefusedError,
    )
    from .process import run as run
    from .rpc import (
        Code as Code,
        ConnectError as ConnectError,
        Fault as Fault,
        Interceptor as Interceptor,
    )

_ROOMS = {
    "host": {
        "Enrolment",
        "Host",
        "HostConfig",
        "HostDependency",
        "HostStoppedError",
        "Keys",
        "LeaseConfig",
        "Limits",
        "Policy",
        "Rate",
        "RateLimits",
        "Selection",
    },
    "plugin": {
        "Dependency",
        "DependencyState",
        "HealthState",
        "Plugin",
        "PluginConfig",
        "PluginStoppedError",
        "Provider",
        "RefusedError",
    },
    "calls": {"Breaking", "CallPolicy", "Concurrency", "Retry"},
    "rpc": {"Code", "ConnectError", "Fault", "Interceptor"},
    "http": {"BindError", "ServeConfig", "StartError", "TlsConfig"},
    "process": {"run"},
}

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above

    def __getattr__(name: str) -> object:
        """Return a public name, or a room, from the room that has it."""
        for room, names in _ROOMS.items():
            if name == room or name in names:
                module = importlib.import_module(f".{room}", __name__)
                return module if name == room else getattr(module, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["__version__", *_ROOMS, *(name for names in _ROOMS.values() for name in names)]
