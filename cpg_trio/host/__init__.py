"""The host: it gives plugins an identity, a place in a directory, supervision and a router.

Its rooms, each of which imports only from those above it:

    access        who calls, and what the caller may do
    directory     who provides what, who is alive, and who is told of changes
    routing       calls from plugin to plugin
    services      the RPC services, and the websocket `/watch`
    capabilities  what the host itself offers
    supervision   the plugins that the host starts
    admin         what an operator sees of the host, and does with it

    _config, _state, _environment    its configuration, and the variables that set it
    _dependency                      the services that the host calls itself
    _dispatch, _lifetimes, _metrics, _host    the host that is made of all this
"""

from cpg_trio.call_record import Call, CallKind, Calls, Stage
from cpg_trio.host._config import HostConfig
from cpg_trio.host._dependency import HostDependency, HostStoppedError
from cpg_trio.host._environment import DEFAULT_PORT, from_settings, host_binds, host_config
from cpg_trio.host._host import Host, HostStatistics
from cpg_trio.host._state import check_store
from cpg_trio.host.access import (
    Action,
    Audit,
    AuditEvent,
    Enrolment,
    Identity,
    Keys,
    LimitError,
    Limits,
    Peer,
    PluginRules,
    Policy,
    Rate,
    RateLimits,
    Rules,
    ServiceRules,
)
from cpg_trio.host.admin import AdminConfig, AdminTokens
from cpg_trio.host.capabilities.capability import Capability
from cpg_trio.host.capabilities.logger import host_logger
from cpg_trio.host.directory import (
    BaseUrls,
    Health,
    LeaseConfig,
    NoProviderError,
    Registration,
    Registry,
    Selection,
    UnknownRegistrationError,
)
from cpg_trio.host.routing import DirectStatistics, RouterStatistics
from cpg_trio.host.supervision import (
    ApplyError,
    Assignment,
    Ended,
    Enrol,
    GraphError,
    Impact,
    Launcher,
    LaunchError,
    ManagedPlugins,
    ManageError,
    OutdatedPlanError,
    Phase,
    Plan,
    PluginSpec,
    Ready,
    RemovalRefusedError,
    Replica,
    Restart,
    RestartPolicy,
    Running,
    UnknownPluginError,
)

__all__ = [
    "DEFAULT_PORT",
    "Action",
    "AdminConfig",
    "AdminTokens",
    "ApplyError",
    "Assignment",
    "Audit",
    "AuditEvent",
    "BaseUrls",
    "Call",
    "CallKind",
    "Calls",
    "Capability",
    "DirectStatistics",
    "Ended",
    "Enrol",
    "Enrolment",
    "GraphError",
    "Health",
    "Host",
    "HostConfig",
    "HostDependency",
    "HostStatistics",
    "HostStoppedError",
    "Identity",
    "Impact",
    "Keys",
    "LaunchError",
    "Launcher",
    "LeaseConfig",
    "LimitError",
    "Limits",
    "ManageError",
    "ManagedPlugins",
    "NoProviderError",
    "OutdatedPlanError",
    "Peer",
    "Phase",
    "Plan",
    "PluginRules",
    "PluginSpec",
    "Policy",
    "Rate",
    "RateLimits",
    "Ready",
    "Registration",
    "Registry",
    "RemovalRefusedError",
    "Replica",
    "Restart",
    "RestartPolicy",
    "RouterStatistics",
    "Rules",
    "Running",
    "Selection",
    "ServiceRules",
    "Stage",
    "UnknownPluginError",
    "UnknownRegistrationError",
    "check_store",
    "from_settings",
    "host_binds",
    "host_config",
    "host_logger",
]
