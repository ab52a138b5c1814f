"""What an operator can do on pages. Each action is confirmed on a page that says what it means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote

import attrs

from cpg_trio.host.admin.actions import Actions
from cpg_trio.host.admin.dashboard._query import Query
from cpg_trio.rpc import Code, ConnectError

_LONGEST_GRACE_S = 24 * 60 * 60


@attrs.frozen
class Form:
    """An action. `run` gets what it is about, the values of the form and the actor."""

    verb: str
    """On the button and in the title."""
    means: str
    """What happens, in a sentence or two."""
    run: Callable[[str, Query, str], Awaitable[str]]
    """Returns what was done, in a sentence."""
    severe: bool = False
    """It cannot be undone."""
    asks_grace: bool = False
    of_plugin: bool = True

    def back(self, subject: str) -> str:
        """Return the address of what it is about."""
        return f"/plugins/{quote(subject, safe='')}" if self.of_plugin else "/capabilities"


class Forms:
    """The actions by the last segment of their addresses."""

    def __init__(self, actions: Actions) -> None:
        self._actions = actions
        self.of_plugin: Mapping[str, Form] = {
            "drain": Form(
                "Drain",
                "It gets no new calls. The calls in flight finish, and it keeps running."
                " This can be undone at any time.",
                self._drain,
            ),
            "undrain": Form("Undo the drain of", "It gets calls again at once.", self._undrain),
            "shutdown": Form(
                "Shut down",
                "It is asked to stop: it unregisters, finishes the calls in flight and ends."
                " Whatever started it may start it again.",
                self._shut_down,
                severe=True,
                asks_grace=True,
            ),
            "revoke": Form(
                "Revoke",
                "Its identity ends at once, and with it its registrations, grants and calls in flight."
                " Its process keeps running, and can come back only with a new handshake.",
                self._revoke,
                severe=True,
            ),
        }
        self.revoke_grant = Form(
            "Revoke grant",
            "The grant ends at once, and so do the calls that use it.",
            self._revoke_grant,
            severe=True,
            of_plugin=False,
        )

    async def _drain(self, plugin: str, form: Query, actor: str) -> str:
        record, in_flight = await self._actions.drain(plugin, reason=form.get("reason"), actor=actor)
        calls = f"{in_flight} call{'' if in_flight == 1 else 's'} in flight"
        return f"{record.runtime_id} gets no new calls. There {'is' if in_flight == 1 else 'are'} {calls}."

    async def _undrain(self, plugin: str, form: Query, actor: str) -> str:
        record, _ = await self._actions.drain(plugin, undo=True, reason=form.get("reason"), actor=actor)
        return f"{record.runtime_id} gets calls again."

    async def _shut_down(self, plugin: str, form: Query, actor: str) -> str:
        grace_s = form.get("grace", "30")
        if not (grace_s.isascii() and grace_s.isdigit() and int(grace_s[:7]) <= _LONGEST_GRACE_S):
            raise ConnectError(
                Code.INVALID_ARGUMENT, f"the grace period must be 0 to {_LONGEST_GRACE_S} seconds"
            )
        record = await self._actions.shut_down(
            plugin, grace_s=float(grace_s), reason=form.get("reason"), actor=actor
        )
        return f"{record.runtime_id} was asked to stop, and has {grace_s} s for its calls in flight."

    async def _revoke(self, plugin: str, form: Query, actor: str) -> str:
        record = await self._actions.revoke(plugin, reason=form.get("reason"), actor=actor)
        return f"The identity of {record.runtime_id} has ended."

    async def _revoke_grant(self, grant_id: str, form: Query, actor: str) -> str:
        await self._actions.revoke_grant(grant_id, reason=form.get("reason"), actor=actor)
        return f"The grant {grant_id} has ended."
