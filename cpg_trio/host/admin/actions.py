"""What an operator does with a host. Each action is an event, and in the audit trail with who has done it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Protocol

import attrs

from cpg_trio._human import span
from cpg_trio.host.access import Action, Audit
from cpg_trio.host.admin.events import Event, EventLog
from cpg_trio.host.admin.files import Files, FileState
from cpg_trio.host.admin.plugins import Record
from cpg_trio.host.admin.reasons import checked_reason, done_by, with_reason
from cpg_trio.host.directory import Registry, Saved
from cpg_trio.logs import TemporaryLevels
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.rpc import Code, ConnectError
from cpg_trio.states import State

_LONGEST_GRACE_S = 24 * 60 * 60
_LONGEST_LEVEL_S = 24 * 60 * 60.0


class Steering(Protocol):
    """What a host can do to its plugins. `actor` is for the audit trail."""

    async def shut_down_plugin(self, runtime_id: str, *, grace_s: int, reason: str, actor: str) -> None:
        """Tell a plugin to stop. Raises: ConnectError, also the plugin's own."""

    def revoke_identity(self, runtime_id: str, why: str, *, actor: str) -> Coroutine[object, object, None]:
        """End an identity; wait until that is written. Raises, when awaited: ConnectError `unavailable`."""

    def revoke_grant(self, grant_id: str, why: str, *, actor: str) -> bool:
        """End a grant; return whether there was one."""

    async def grants_ended(self) -> None:
        """Wait until that is written for other hosts. Raises: ConnectError `unavailable`."""

    def enforce_policy(self) -> None:
        """Remove what the rules of now do not permit."""


@attrs.frozen(kw_only=True)
class Actions:
    """The actions. `find` returns a plugin, and raises a ConnectError if none or several are meant.

    Each raises ConnectError; `failed_precondition` for a plugin that is gone.
    """

    find: Callable[[str], Record]
    registry: Registry
    files: Files
    audit: Audit
    events: EventLog
    host: Steering
    saved: Saved
    """Waits until a drain is in the store, where hosts share one."""
    levels: TemporaryLevels = attrs.field(factory=TemporaryLevels)

    async def drain(
        self, plugin: str, *, reason: str = "", undo: bool = False, actor: str
    ) -> tuple[Record, int]:
        """Give a plugin no new calls, or calls again; return also how many calls to it are in flight."""
        record = self._there(plugin)
        why, runtime_id = checked_reason(reason), record.runtime_id
        before = self.registry.why_drained(runtime_id)
        if undo and not before:
            raise ConnectError(Code.FAILED_PRECONDITION, f"{runtime_id} is not drained")
        self._set_drained(
            runtime_id, "" if undo else with_reason(f"drained by {actor or 'an operator'}", why)
        )
        await self.saved(runtime_id, partial(self._set_drained, runtime_id, before))
        self.audit.allowed(Action.DRAIN, record.runtime_id, "undo" if undo else "", reason=why, actor=actor)
        self._tell(record, "gets calls again" if undo else "drained", why, actor)
        return record, len(self.registry.calls.of_provider(record.runtime_id))

    def _set_drained(self, runtime_id: str, why: str) -> None:
        if why:
            self.registry.drain(runtime_id, why)
        else:
            self.registry.undrain(runtime_id)

    async def shut_down(self, plugin: str, *, grace_s: float = 30.0, reason: str = "", actor: str) -> Record:
        """Ask a plugin to stop. The calls to it that are in flight have `grace_s` seconds to finish."""
        record = self._there(plugin)
        why = checked_reason(reason)
        if not 0 <= grace_s <= _LONGEST_GRACE_S:
            raise ConnectError(Code.INVALID_ARGUMENT, f"grace must be 0 to {_LONGEST_GRACE_S} seconds")
        if not self.registry.has_registered(record.runtime_id):
            raise ConnectError(
                Code.FAILED_PRECONDITION,
                f"{record.runtime_id} has registered nothing, so the host cannot reach it: stop its process",
            )
        await self.host.shut_down_plugin(record.runtime_id, grace_s=round(grace_s), reason=why, actor=actor)
        self._tell(record, "told to stop", why, actor)
        return record

    async def revoke(self, plugin: str, *, reason: str = "", actor: str) -> Record:
        """End the identity of a plugin, and all that it has with it, at once."""
        record = self._there(plugin)
        why = checked_reason(reason)
        ended = self.host.revoke_identity(
            record.runtime_id, with_reason(f"revoked by {actor or 'an operator'}", why), actor=actor
        )
        self._tell(record, "revoked", why, actor, kind=pb.EVENT_KIND_REVOKED)
        await ended
        return record

    async def revoke_grant(self, grant_id: str, *, reason: str = "", actor: str) -> None:
        """End a grant of a capability, and the calls that use it."""
        why = checked_reason(reason)
        if not self.host.revoke_grant(
            grant_id, with_reason(f"revoked by {actor or 'an operator'}", why), actor=actor
        ):
            raise ConnectError(Code.NOT_FOUND, f"there is no grant {grant_id!r}")
        text = with_reason(done_by(f"the grant {grant_id} is revoked", actor), why)
        self.events.add(Event(kind=pb.EVENT_KIND_ACTION, text=text))
        await self.host.grants_ended()

    async def reload(self, *, actor: str) -> Sequence[FileState]:
        """Read the files anew that have changed, and apply the policy; return all files with their errors."""
        self.audit.allowed(Action.RELOAD, "host", actor=actor)
        self.events.add(Event(kind=pb.EVENT_KIND_ACTION, text=done_by("files are reloaded", actor)))
        self.files.look()
        self.host.enforce_policy()
        return list(self.files)

    async def set_log_level(self, logger: str, level: str, *, for_s: float, actor: str) -> float:
        """Change the level of a logger (empty: all) for some seconds; an empty level is what it was.

        Return how long it holds, in seconds; 0 for a level that is restored.
        """
        try:
            if level:
                self.levels.set(logger, level, min(for_s, _LONGEST_LEVEL_S))
            else:
                self.levels.restore(logger)
        except ValueError as error:
            raise ConnectError(Code.INVALID_ARGUMENT, str(error)) from None
        self.audit.allowed(Action.LOG_LEVEL, "host", logger, reason=level or "restored", actor=actor)
        holds_s = min(for_s, _LONGEST_LEVEL_S) if level else 0.0
        what = f"at {level} for {span(holds_s)}" if level else "at the level that it was configured for"
        text = done_by(f"{logger or 'the host'} logs {what}", actor)
        self.events.add(Event(kind=pb.EVENT_KIND_ACTION, text=text))
        return holds_s

    def _there(self, plugin: str) -> Record:
        """Return a plugin that is there."""
        record = self.find(plugin)
        if record.state is State.GONE:
            raise ConnectError(
                Code.FAILED_PRECONDITION, f"{record.runtime_id} is gone already: {record.reason}"
            )
        return record

    def _tell(
        self,
        record: Record,
        what: str,
        why: str,
        actor: str,
        *,
        kind: pb.EventKind = pb.EVENT_KIND_ACTION,
    ) -> None:
        self.events.add(
            Event(
                kind=kind,
                text=with_reason(done_by(what, actor), why),
                runtime_id=record.runtime_id,
                name=record.name,
            )
        )
