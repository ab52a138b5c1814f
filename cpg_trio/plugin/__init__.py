"""The plugin's side: a declaration, and the tasks that keep a plugin registered, healthy and callable.

Each module uses those above it:

    _host_link       whether the host can be reached
    _host_time       the time by the host's clock
    _redirecting     the base of clients that decide where a request goes
    _hosts           which host is used, and when the plugin moves to another one
    _session         the handshake, and the calls that prove an identity
    _recording       the records of the calls that the plugin makes
    direct           calls without the host in between
    _calling         the calls of a dependency
    _required_service  a service that is required: its providers, its state, its clients
    dependency       that service, as its author sees it
    _dependencies    all of them
    _used_capability  what the plugin's host offers, and the grant to use it
    capability       that, as its author sees it
    _websocket       a websocket whose connection is closed with its block
    discovery        learns of providers: by websocket, by stream, or by asking
    guard            checks who calls, before anything answers
    _config          where a plugin runs, and the variables that set it
    _declaration     what the author declares
    _health          the health that is reported
    _retry           calls to the host that are tried again
    _adoption        identities from a managing host
    _state           what the tasks share
    _metrics         metrics of the plugin, where they are asked for
    control          the services for the host
    _clients         handshakes and health for clients without a host, where that is switched on
    _reflection      describes the services, where that is switched on
    _serving         the servers, and their addresses
    _registration    registers the services, and takes them back when the plugin leaves
    _heartbeat       reports health, which renews the lease
    _token_renewal   renews the token
    _tasks           the tasks of the author
    _staying         all that keeps a plugin known to its host
    _runtime         the nursery of all these tasks
    _requiring       what requires services, and has clients of them
    _plugin          the public declaration
    _session_service  a service that a session requires
    _connect         sessions of programs that are no plugins
"""

from cpg_trio.calls import DependencyState, Provider
from cpg_trio.plugin._config import PluginConfig, SessionConfig
from cpg_trio.plugin._connect import DiscoveredProvider, HostSession, connect
from cpg_trio.plugin._hosts import parse_host_urls
from cpg_trio.plugin._plugin import Middleware, Plugin
from cpg_trio.plugin._required_service import PluginStoppedError
from cpg_trio.plugin._retry import RefusedError
from cpg_trio.plugin.capability import Capability
from cpg_trio.plugin.dependency import Dependency
from cpg_trio.states import HealthState

__all__ = [
    "Capability",
    "Dependency",
    "DependencyState",
    "DiscoveredProvider",
    "HealthState",
    "HostSession",
    "Middleware",
    "Plugin",
    "PluginConfig",
    "PluginStoppedError",
    "Provider",
    "RefusedError",
    "SessionConfig",
    "connect",
    "parse_host_urls",
]
