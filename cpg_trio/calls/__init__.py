"""Calls to a service with several providers: each goes where there is room, and survives what fails.

What a plugin's dependency and a host's own clients share. Knows nothing of plugins and hosts: a provider is
an id, and something that sends requests to it. What stands on what:

    policy      what the author says of the calls of a dependency
    outcome     what the end of a call says of its provider
    load        how busy, slow and reliable a provider is
    balancing   who of several gets a call
    breaker     whether a provider gets calls, and how many may be without at once
    group       the providers of a service: who is there, and who is called next
    budget      how many calls may be sent again
    concurrency how many calls may be in flight
    statistics  what all of that comes to, for people
    backoff     how long to wait before a call is sent again
    verdict     what a failed attempt means
    replay      requests that are streamed, so that they can be sent again
    client      sends each call to one of the providers, and again if it may
    pace        how long to wait before the next call, after calls that have failed
    reason_log  what the log says of a service: who provides it, and why it cannot be called
    called_service  all of this for one service: who provides it, and whether it can be called
    dependency  that service, as its author sees it
"""

from cpg_trio.calls.breaker import BreakerState
from cpg_trio.calls.called_service import DependencyState, Provider
from cpg_trio.calls.policy import Breaking, CallPolicy, Concurrency, Retry
from cpg_trio.calls.statistics import CallCounts, DependencyStatistics, ProviderStatistics
from cpg_trio.calls.verdict import UndeliveredError

__all__ = [
    "BreakerState",
    "Breaking",
    "CallCounts",
    "CallPolicy",
    "Concurrency",
    "DependencyState",
    "DependencyStatistics",
    "Provider",
    "ProviderStatistics",
    "Retry",
    "UndeliveredError",
]
