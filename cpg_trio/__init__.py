"""A plugin platform on Trio: identity, registry, liveness and an authenticated streaming router.

What is named here is public, and so is what the rooms `rpc` (Connect on Trio), `http` (servers, calls over a
pool), `host` and `plugin` name in their own `__init__`, `http.client.httpx_transport`, and `capabilities`;
everything else is private. Each room imports only from those above it:

    asgi, wire, _cell, _nursery    types, names and rules; a conflating cell; a nursery without groups
    assertions, _reload            what a host says to a plugin, signed; files that change
    http                           servers, a pool of connections, and the relay between the two
    process, probes, logs          a process: environment, signals; what orchestrators probe; the log
    rpc, _gen                      Connect calls and services; generated code
    host | plugin                  the two sides, which never import each other
    demo, cli, check               the URL shortener; the command line; its health check

Each room is imported when something of it is asked for, and not before: a program that runs every few seconds
in each container (`check`) is a module of this package, too.
"""

import importlib
from typing import TYPE_CHECKING

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .host import Enrolment as Enrolment
    from .host import Host as Host
    from .host import HostConfig as HostConfig
    from .host import Keys as Keys
    from .host import LeaseConfig as LeaseConfig
    from .host import Limits as Limits
    from .host import Policy as Policy
    from .host import Rate as Rate
    from .host import RateLimits as RateLimits
    from .host import Selection as Selection
    from .http import BindError as BindError
    from .http import ServeConfig as ServeConfig
    from .http import StartError as StartError
    from .http import TlsConfig as TlsConfig
    from .plugin import Dependency as Dependency
    from .plugin import HealthState as HealthState
    from .plugin import Plugin as Plugin
    from .plugin import PluginConfig as PluginConfig
    from .plugin import Provider as Provider
    from .plugin import RefusedError as RefusedError
    from .process import run as run
    from .rpc import Code as Code
    from .rpc import ConnectError as ConnectError

_ROOMS = {
    "host": {
        "Enrolment",
        "Host",
        "HostConfig",
        "Keys",
        "LeaseConfig",
        "Limits",
        "Policy",
        "Rate",
        "RateLimits",
        "Selection",
    },
    "plugin": {"Dependency", "HealthState", "Plugin", "PluginConfig", "Provider", "RefusedError"},
    "rpc": {"Code", "ConnectError"},
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
