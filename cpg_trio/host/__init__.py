"""The host: it gives plugins an identity, a place in a directory, supervision and a router.

Its rooms, each of which imports only from those above it:

    access        who calls, and what the caller may do
    directory     who provides what, who is alive, and who is told of changes
    routing       calls from plugin to plugin
    services      the RPC services, and the websocket `/watch`
    capabilities  what the host itself offers

    _config, _pools, _lifetimes, _host    the host that is made of them
"""

from cpg_trio.calls import Call as Call, CallKind as CallKind, Calls as Calls, Stage as Stage
from cpg_trio.host._config import HostConfig as HostConfig
from cpg_trio.host._host import DEFAULT_PORT as DEFAULT_PORT, Host as Host, HostStatistics as HostStatistics
from cpg_trio.host.access.audit import Action as Action, Audit as Audit, AuditEvent as AuditEvent
from cpg_trio.host.access.enrolment import Enrolment as Enrolment
from cpg_trio.host.access.identity import Identity as Identity
from cpg_trio.host.access.keys import Keys as Keys
from cpg_trio.host.access.limits import Limits as Limits
from cpg_trio.host.access.peers import Peer as Peer
from cpg_trio.host.access.policy import (
    PluginRules as PluginRules,
    Policy as Policy,
    Rules as Rules,
    ServiceRules as ServiceRules,
)
from cpg_trio.host.access.rate_limiting import Rate as Rate, RateLimits as RateLimits
from cpg_trio.host.capabilities.capability import Capability as Capability
from cpg_trio.host.capabilities.logger import host_logger as host_logger
from cpg_trio.host.directory.endpoint_validation import BaseUrls as BaseUrls
from cpg_trio.host.directory.leases import LeaseConfig as LeaseConfig
from cpg_trio.host.directory.registration import Health as Health, Registration as Registration
from cpg_trio.host.directory.registry import Registry as Registry
from cpg_trio.host.directory.selection import Selection as Selection
from cpg_trio.host.routing.direct_statistics import DirectStatistics as DirectStatistics
from cpg_trio.host.routing.statistics import RouterStatistics as RouterStatistics
