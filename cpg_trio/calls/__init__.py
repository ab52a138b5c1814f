"""Calls to a service with several providers: each goes where there is room, and survives what fails.

What a plugin's dependency and a host's own clients share. Knows nothing of plugins and hosts: a provider is
an id, and something that sends requests to it. What stands on what:

    policy      what the author says of the calls of a dependency
    outcome     what the end of a call says of its provider
"""

from cpg_trio.calls.outcome import Outcome as Outcome
from cpg_trio.calls.policy import (
    Breaking as Breaking,
    CallPolicy as CallPolicy,
    Concurrency as Concurrency,
    Retry as Retry,
)
