"""What lasts as long as a plugin's identity, in every room of the host, and what an end of one ends.

An identity ends when its time is over, when its plugin is gone, and when it is revoked. With it end the
plugin's registrations, the calls to it and of it, its watches, its grants and what it has reported.
"""

from __future__ import annotations

import logging

import attrs

from cpg_trio.host.access import EXPIRED, Action, Audit, Ended, Identities, Identity, StartedRuns
from cpg_trio.host.capabilities.grants import Grants
from cpg_trio.host.directory import LEFT, Journal, Liveness, Registry, WatchHub
from cpg_trio.host.routing import DirectCounter
from cpg_trio.rpc import Code, ConnectError

_log = logging.getLogger("cpg_trio.host")

_WITH_ITS_CALLS = (EXPIRED, LEFT)  # why an identity ends whose plugin may finish the calls to it


@attrs.frozen(kw_only=True)
class Lifetimes:
    """Ends what plugins have together with their identities."""

    identities: Identities
    registry: Registry
    liveness: Liveness
    watches: WatchHub
    grants: Grants
    direct: DirectCounter
    journal: Journal
    started: StartedRuns
    audit: Audit

    def is_in_use(self, runtime_id: str) -> bool:
        """Whether a plugin has something that lasts only as long as its identity is kept."""
        return (
            self.registry.has_registered(runtime_id)
            or self.registry.calls.has_called(runtime_id)
            or self.liveness.is_leaving(runtime_id)
            or self.watches.has(runtime_id)
            or self.grants.has(runtime_id)
            or self.registry.is_drained(runtime_id)
            or self.started.run_of(runtime_id) is not None
        )

    def end(self, runtime_id: str, why: str, actor: str = "") -> None:
        """End an identity at once, with what the plugin provides. One that has ended is no error."""
        self.end_identity(runtime_id, why, actor)
        self.registry.remove_plugin(runtime_id)
        self.registry.cancel_calls(runtime_id)

    def end_identity(self, runtime_id: str, why: str, actor: str = "", *, by_owner: bool = False) -> None:
        """End an identity. `identity_changed` ends what the plugin has."""
        if self.identities.revoke(runtime_id, why, by_owner=by_owner):
            self.audit.allowed(Action.REVOKE, runtime_id, reason=why, actor=actor)

    def ended_elsewhere(self, ended: Ended) -> None:
        """End what a plugin has whose identity another host has ended."""
        runtime_id = ended.runtime_id
        self.identities.end(ended)
        self.registry.remove_plugin(runtime_id)
        if ended.why not in _WITH_ITS_CALLS:
            self.registry.cancel_calls(runtime_id)

    async def written(self, runtime_id: str) -> None:
        """Wait until the end of an identity is in the state file. Raises: ConnectError `unavailable`."""
        try:
            await self.journal.saved(runtime_id, lambda: None)
        except ConnectError as error:
            raise ConnectError(
                Code.UNAVAILABLE,
                f"the identity {runtime_id} has ended, but that is not in the store yet: the host cannot"
                " write it, and tries on",
            ) from error

    def identity_changed(self, runtime_id: str) -> None:
        """End what a plugin has, if its identity has ended."""
        if self.identities.entry(runtime_id) is None:
            self.grants.owner_ended(runtime_id, "the identity of its owner has ended")
            self.registry.calls.cancel_of_caller(runtime_id)
            self.watches.close_of(runtime_id)
            self.direct.forget(runtime_id)
            self.registry.forget_drain(runtime_id)
            self.registry.forget_health(runtime_id)

    def expired(self, identity: Identity) -> None:
        """Remove what a plugin provides whose identity has expired."""
        _log.info("the identity of %s has expired", identity.runtime_id)
        self.audit.allowed(Action.EXPIRE, identity.runtime_id)
        self.registry.remove_plugin(identity.runtime_id)
