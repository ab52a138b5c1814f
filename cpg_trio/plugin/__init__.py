"""The plugin's side: a declaration, and the nursery that keeps its word.

What stands on what:

    _backoff     how long to wait before the next try
    _handshake   the first word to a host
    _host_time   what time it is by the host's clock
    _sockets     Unix sockets, where a plugin shares a directory with its host
    _session     an identity on a host, and the calls that carry it
    _provider    who provides a service, as the host has said
    direct       calls without the host in between
    dependency   a service that is required, and who provides it now
    capability   what the plugin's host offers, and leave to use it
    _websocket   one that leaves nothing open
    discovery    how that is heard of: websocket, stream, or questions
    guard        who calls, before anything answers
    control      what a plugin serves for its host
    _config      where a plugin runs, and what the environment says of it
    _runtime     the tasks of a plugin that runs
    _plugin      the declaration
"""

from cpg_trio._gen.connectplugin.v1.connectplugin_pb2 import HealthState as HealthState
from cpg_trio.plugin._config import PluginConfig as PluginConfig
from cpg_trio.plugin._plugin import Middleware as Middleware
from cpg_trio.plugin._plugin import Plugin as Plugin
from cpg_trio.plugin._provider import Provider as Provider
from cpg_trio.plugin._runtime import RefusedError as RefusedError
from cpg_trio.plugin.capability import Capability as Capability
from cpg_trio.plugin.dependency import Dependency as Dependency
