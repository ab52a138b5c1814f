"""Who calls, and what the caller may do.

Its modules:

    access_check                one check for every way into the host, made of the following
    refusal                     what it raises, for each edge to write in its protocol
    identity, keys              identities and the tokens that prove them
    ended_identities            identities that have expired or were revoked
    enrolment                   which plugins get an identity
    started_runs                plugins that the host has started, which do in any case
    peers                       the address and the certificate of a connection
    policy                      what plugins may do
    rate_limiting               how often they may call
    audit                       the record of decisions
    limits, shares, memory      how much is kept, for whom, and how much memory that takes
    listening                   where a host may listen

The access check and the policy do no I/O, except that files are read again when they change.
"""

from cpg_trio.host.access.access_check import AccessCheck as AccessCheck
from cpg_trio.host.access.audit import Action as Action, Audit as Audit, AuditEvent as AuditEvent
from cpg_trio.host.access.ended_identities import Ended as Ended
from cpg_trio.host.access.enrolment import Enrolment as Enrolment, parse_tokens as parse_tokens
from cpg_trio.host.access.identity import (
    EXPIRED as EXPIRED,
    SKEW_S as SKEW_S,
    Entry as Entry,
    Identities as Identities,
    Identity as Identity,
    TokenLifetimes as TokenLifetimes,
)
from cpg_trio.host.access.keys import Keys as Keys, secret_lines as secret_lines
from cpg_trio.host.access.limits import (
    LimitError as LimitError,
    Limits as Limits,
    check_held_request as check_held_request,
    held_bytes as held_bytes,
)
from cpg_trio.host.access.listening import check_listening as check_listening
from cpg_trio.host.access.memory import (
    Fitted as Fitted,
    fitted as fitted,
    room_for_messages as room_for_messages,
)
from cpg_trio.host.access.peers import Peer as Peer
from cpg_trio.host.access.policy import (
    PluginRules as PluginRules,
    Policy as Policy,
    Rules as Rules,
    ServiceRules as ServiceRules,
)
from cpg_trio.host.access.rate_limiting import (
    Kind as Kind,
    Rate as Rate,
    RateLimiter as RateLimiter,
    RateLimits as RateLimits,
)
from cpg_trio.host.access.refusal import (
    RefusedError as RefusedError,
    marks as marks,
    retry_fields as retry_fields,
)
from cpg_trio.host.access.shares import Budget as Budget, Shares as Shares
from cpg_trio.host.access.started_runs import StartedRun as StartedRun, StartedRuns as StartedRuns
