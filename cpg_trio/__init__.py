"""A plugin platform on Trio: identity, directory, liveness and an authenticated streaming router.

Public are the names in the `__all__` of this package, of the rooms `host`, `plugin`, `launch`, `rpc`, `http`,
`calls`, `store` and `testing`, and of the modules `process`, `logs`, `call_context`, `statistics`,
`capabilities` and `http.client.httpx_transport`; and the generated code below `protos`. All else is private.

    http             servers, a pool of connections, and the relay between the two
    rpc              Connect calls and services on Trio
    host | plugin    the two sides, which never import each other
    launch           starts plugins for a host
    testing          a host in memory, and checks, for tests of plugins
    demo             the URL shortener, an example

`docs/architecture.md` has all rooms in their order. A room is imported when one of its names is used: the
command `check`, which runs every few seconds in each container, has to start fast.
"""

import importlib

from ._version import __version__

TYPE_CHECKING = False  # to import typing would be a tenth of the time of `check`

if TYPE_CHECKING:
    from .calls import Breaking, CallPolicy, Concurrency, Retry
    from .errors import CpgTrioError
    from .host import (
        Enrolment,
        Host,
        HostConfig,
        HostDependency,
        HostStoppedError,
        Keys,
        LeaseConfig,
        Limits,
        Policy,
        Rate,
        RateLimits,
        Selection,
    )
    from .http import BindError, ServeConfig, StartError, TlsConfig
    from .plugin import (
        Dependency,
        DependencyState,
        HostSession,
        Plugin,
        PluginConfig,
        PluginStoppedError,
        Provider,
        RefusedError,
        SessionConfig,
        connect,
    )
    from .process import run
    from .rpc import Caller, CallError, Code, ConnectError, Context, Fault, Interceptor
    from .states import HealthState
    from .wire import InvalidError

__all__ = [
    "BindError",
    "Breaking",
    "CallError",
    "CallPolicy",
    "Caller",
    "Code",
    "Concurrency",
    "ConnectError",
    "Context",
    "CpgTrioError",
    "Dependency",
    "DependencyState",
    "Enrolment",
    "Fault",
    "HealthState",
    "Host",
    "HostConfig",
    "HostDependency",
    "HostSession",
    "HostStoppedError",
    "Interceptor",
    "InvalidError",
    "Keys",
    "LeaseConfig",
    "Limits",
    "Plugin",
    "PluginConfig",
    "PluginStoppedError",
    "Policy",
    "Provider",
    "Rate",
    "RateLimits",
    "RefusedError",
    "Retry",
    "Selection",
    "ServeConfig",
    "SessionConfig",
    "StartError",
    "TlsConfig",
    "__version__",
    "connect",
    "run",
]

_HOMES = {
    "calls": ("Breaking", "CallPolicy", "Concurrency", "Retry"),
    "errors": ("CpgTrioError",),
    "host": (
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
    ),
    "http": ("BindError", "ServeConfig", "StartError", "TlsConfig"),
    "plugin": (
        "Dependency",
        "DependencyState",
        "HostSession",
        "Plugin",
        "PluginConfig",
        "PluginStoppedError",
        "Provider",
        "RefusedError",
        "SessionConfig",
        "connect",
    ),
    "process": ("run",),
    "rpc": ("CallError", "Caller", "Code", "ConnectError", "Context", "Fault", "Interceptor"),
    "states": ("HealthState",),
    "wire": ("InvalidError",),
}
_ROOMS = (
    "call_context",
    "calls",
    "capabilities",
    "host",
    "http",
    "launch",
    "logs",
    "plugin",
    "process",
    "rpc",
    "statistics",
    "store",
    "testing",
)

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above

    def __getattr__(name: str) -> object:
        """Return a public name, or a public room."""
        if name in _ROOMS:
            return importlib.import_module(f".{name}", __name__)
        for home, names in _HOMES.items():
            if name in names:
                return getattr(importlib.import_module(f".{home}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
