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

from cpg_trio.call_record import Call as Call, CallKind as CallKind, Calls as Calls, Stage as Stage
from cpg_trio.host._config import HostConfig as HostConfig
from cpg_trio.host._dependency import (
    HostDependency as HostDependency,
    HostStoppedError as HostStoppedError,
    PluginProvider as PluginProvider,
)
from cpg_trio.host._environment import (
    DEFAULT_PORT as DEFAULT_PORT,
    from_settings as from_settings,
    host_binds as host_binds,
    host_config as host_config,
)
from cpg_trio.host._host import Host as Host, HostStatistics as HostStatistics
from cpg_trio.host._state import check_store as check_store
from cpg_trio.host.access import (
    Action as Action,
    Audit as Audit,
    AuditEvent as AuditEvent,
    Enrolment as Enrolment,
    Identity as Identity,
    Keys as Keys,
    Limits as Limits,
    Peer as Peer,
    PluginRules as PluginRules,
    Policy as Policy,
    Rate as Rate,
    RateLimits as RateLimits,
    Rules as Rules,
    ServiceRules as ServiceRules,
)
from cpg_trio.host.admin import AdminConfig as AdminConfig, AdminTokens as AdminTokens
from cpg_trio.host.capabilities.capability import Capability as Capability
from cpg_trio.host.capabilities.logger import host_logger as host_logger
from cpg_trio.host.directory import (
    BaseUrls as BaseUrls,
    Health as Health,
    LeaseConfig as LeaseConfig,
    Registration as Registration,
    Registry as Registry,
    Selection as Selection,
)
from cpg_trio.host.routing import DirectStatistics as DirectStatistics, RouterStatistics as RouterStatistics
from cpg_trio.host.supervision import (
    ApplyError as ApplyError,
    Assignment as Assignment,
    Ended as Ended,
    Enrol as Enrol,
    GraphError as GraphError,
    Impact as Impact,
    Launcher as Launcher,
    LaunchError as LaunchError,
    ManagedPlugins as ManagedPlugins,
    ManageError as ManageError,
    OutdatedPlanError as OutdatedPlanError,
    Phase as Phase,
    Plan as Plan,
    PluginSpec as PluginSpec,
    Ready as Ready,
    RefusedRemoval as RefusedRemoval,
    Replica as Replica,
    Restart as Restart,
    RestartPolicy as RestartPolicy,
    Running as Running,
    UnknownPluginError as UnknownPluginError,
)
