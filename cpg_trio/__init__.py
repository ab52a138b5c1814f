"""A plugin platform on Trio: identity, registry, liveness and an authenticated streaming router.

What is named here is public, and so is what the rooms `rpc` (Connect on Trio), `serving` (ASGI in a nursery),
`host` and `plugin` name in their own `__init__`; everything else is private. What stands on what:

    asgi, wire, _cell, _nursery    types, names and rules; a conflating cell; a nursery without groups
    rpc, _gen, http1               Connect calls and services; generated code; a pool of connections
    serving, probes, logs          an ASGI application in a nursery; what orchestrators probe; the log
    host | plugin                  the two sides, which never import each other
    demo, cli                      the URL shortener; the command line
"""

from ._version import __version__ as __version__
from .host import Host as Host
from .host import HostConfig as HostConfig
from .host import LeaseConfig as LeaseConfig
from .host import Selection as Selection
from .plugin import Dependency as Dependency
from .plugin import HealthState as HealthState
from .plugin import Plugin as Plugin
from .plugin import PluginConfig as PluginConfig
from .plugin import Provider as Provider
from .plugin import RefusedError as RefusedError
from .rpc import Code as Code
from .rpc import ConnectError as ConnectError
from .serving import BindError as BindError
from .serving import ServeConfig as ServeConfig
from .serving import StartError as StartError
from .serving import run as run
