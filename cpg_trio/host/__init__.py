"""The host's side: identity, registry, health, watches and the router.

What stands on what:

    secret_file       a file with secrets in it, line by line
    keys              what runtime tokens are signed with, and what they say
    peers             who is at the other end of a connection
    limits            how much a host takes in and keeps
    shares            how much of a limit one address may have
    ended             identities that have ended, and what is remembered of them
    listeners         those who are told of changes, and harm nobody
    identity          who a plugin is, and the tokens that prove it
    enrolment         who gets an identity
    policy            what plugins may
    audit             what has been decided
    rates             how often who may call what
    memory            what limits come to in memory, and limits that fit it
    charging          calls counted against their rates, and refused beyond
    registry          who provides what, how healthy they are, which of them a caller gets
    succession        who has taken whose place
    control           the host's own calls to its plugins
    own_addresses     which addresses are this machine's
    egress            where plugins may have the host send traffic
    exposure          where the host may listen without TLS
    sockets           which Unix sockets the host uses, where it shares a directory with plugins
    stalls            how long the host itself was held up
    liveness          leases: who is alive, and what follows when not
    watch             the hub that fans the registry's changes out
    store             what is kept on the disk, and put back at the next start
    capability        what the host itself offers
    host_logger       one of those: its log
    grants            who may use which of them, and until when
    gate              who is calling a service, and whether it may
    health            the host's own health, as a service
    handshakes        the service that gives identities
    base_url          how a caller reaches the host
    managed           the way in for plugins that wait for their host
    statistics        what the router has done, in numbers
    admission         who makes a routed call, and whether it may
    headers           which header fields the router forwards
    routes            where a path leads, and the statement about the caller
    failures          what a failed call means, and whose fault it is
    gateway           the router: all of that, for the relay
    call_log          the lines [ROUTER] of the log
    direct_grants     who may call a provider without the host in between
    direct_statistics what callers report of such calls
    services          the services of plugins' lives and of the registry
    watch_socket      the websocket on which plugins follow many services at once
    broker            the service that gives leave
    router            the router for calls that do not come through the relay
    capability_calls  the way to what the host offers
    dispatch          which application answers a request, by its path
    _config           how a host behaves
    _pools            the connections to plugins
    _lifetimes        what ends with an identity
    _host             all of it on its paths, in one nursery
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
