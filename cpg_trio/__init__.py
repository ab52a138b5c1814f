"""A plugin platform on Trio: identity, registry, liveness and an authenticated streaming router.

What is named here is public; everything else is private, but for the rooms `cpg_trio.rpc` (Connect on Trio),
`cpg_trio.serving` (ASGI in a nursery) and `cpg_trio.demo` (the example), each with its own `__init__`.
What stands on what:

    asgi, wire, _cell, _nursery    types, names and rules; a conflating cell; a nursery without groups
    rpc, http1                     Connect calls and services; a pool of HTTP/1.1 connections
    serving, probes                an ASGI application in a nursery; the paths that orchestrators probe
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
