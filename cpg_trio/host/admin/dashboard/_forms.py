"""What an operator can do on pages. Each action is confirmed on a page that says what it means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import quote

import attrs

from cpg_trio._human import span
from cpg_trio.host.admin.actions import Actions
from cpg_trio.host.admin.dashboard._query import Query
from cpg_trio.host.admin.managed_actions import ManagedActions
from cpg_trio.rpc import Code, ConnectError

_MOST_DIGITS = 9


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
    asks: Sequence[str] = ("reason",)
    """The fields of the form: reason, grace, level, replicas, force."""
    page: str = ""
    """Where one comes from. Empty: the page of what it is about."""
    of: str = "plugins"
    """What it is about: one of `plugins`, or of those that are `managed`."""
    ends: bool = False
    """What it is about has no page after it."""

    def back(self, subject: str, *, done: bool = False) -> str:
        """Return the address of the page that it is about."""
        if done and self.ends:
            return f"/{'plugins' if self.of == 'managed' else self.of}"
        return self.page or f"/{self.of}/{quote(subject, safe='')}"


class Forms:
    """The actions by the last segment of their addresses."""

    def __init__(self, actions: Actions, managed: ManagedActions) -> None:
        self._actions = actions
        self._managed = managed
        self.of_plugin: Mapping[str, Form] = self._of_plugin()
        self.of_managed: Mapping[str, Form] = self._of_managed()
        self.revoke_grant: Form = self._of_grant()
        self.of_host: Mapping[str, Form] = self._of_host()

    def _of_plugin(self) -> Mapping[str, Form]:
        return {
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
                asks=("reason", "grace"),
            ),
            "revoke": Form(
                "Revoke",
                "Its identity ends at once, and with it its registrations, grants and calls in flight."
                " Its process keeps running, and can come back only with a new handshake.",
                self._revoke,
                severe=True,
            ),
        }

    def _of_managed(self) -> Mapping[str, Form]:
        return {
            "replace": Form(
                "Replace",
                "It is started anew, as the platform file says now. When the new one is healthy, calls move"
                " to it, and the old one is stopped. If it does not get healthy, all stays as it is.",
                self._replace,
                of="managed",
            ),
            "restart": Form(
                "Restart",
                "It is stopped and started again, one replica after the other. Without another replica it is"
                " missing for that time.",
                self._restart,
                of="managed",
                severe=True,
            ),
            "scale": Form(
                "Scale",
                "Replicas are started, or those with the highest numbers are stopped.",
                self._scale,
                of="managed",
                asks=("reason", "replicas"),
            ),
            "remove": Form(
                "Remove",
                "It is stopped, and this host runs it no more. The platform file stays as it is.",
                self._remove,
                of="managed",
                severe=True,
                asks=("reason", "force"),
                ends=True,
            ),
        }

    def _of_grant(self) -> Form:
        return Form(
            "Revoke grant",
            "The grant ends at once, and so do the calls that use it.",
            self._revoke_grant,
            severe=True,
            page="/capabilities",
        )

    def _of_host(self) -> Mapping[str, Form]:
        return {
            "reload": Form(
                "Reload files",
                "The policy, enrolment tokens, keys and certificates are read from their files now."
                " A file that cannot be used changes nothing.",
                self._reload,
                asks=(),
                page="/configuration",
            ),
            "log-level": Form(
                "Set log level",
                "The level holds for a while, and then is what it was.",
                self._set_log_level,
                asks=("level",),
                page="/configuration",
            ),
        }

    async def _drain(self, plugin: str, form: Query, actor: str) -> str:
        record, in_flight = await self._actions.drain(plugin, reason=form.get("reason"), actor=actor)
        calls = f"{in_flight} call{'' if in_flight == 1 else 's'} in flight"
        return f"{record.runtime_id} gets no new calls. There {'is' if in_flight == 1 else 'are'} {calls}."

    async def _undrain(self, plugin: str, form: Query, actor: str) -> str:
        record, _ = await self._actions.drain(plugin, undo=True, reason=form.get("reason"), actor=actor)
        return f"{record.runtime_id} gets calls again."

    async def _shut_down(self, plugin: str, form: Query, actor: str) -> str:
        grace_s = _number(form.get("grace", "30"), "the grace period")
        record = await self._actions.shut_down(
            plugin, grace_s=grace_s, reason=form.get("reason"), actor=actor
        )
        return f"{record.runtime_id} was asked to stop, and has {grace_s} s for its calls in flight."

    async def _revoke(self, plugin: str, form: Query, actor: str) -> str:
        record = await self._actions.revoke(plugin, reason=form.get("reason"), actor=actor)
        return f"The identity of {record.runtime_id} has ended."

    async def _replace(self, plugin: str, form: Query, actor: str) -> str:
        spec = await self._managed.replace(plugin, reason=form.get("reason"), actor=actor)
        return f"{spec.name} is replaced, and healthy."

    async def _restart(self, plugin: str, form: Query, actor: str) -> str:
        spec = await self._managed.restart(plugin, reason=form.get("reason"), actor=actor)
        return f"{spec.name} is restarted, and healthy."

    async def _scale(self, plugin: str, form: Query, actor: str) -> str:
        replicas = _number(form.get("replicas"), "the number of replicas")
        spec = await self._managed.scale(plugin, replicas, reason=form.get("reason"), actor=actor)
        return f"{spec.name} has {spec.replicas} replica{'' if spec.replicas == 1 else 's'}."

    async def _remove(self, plugin: str, form: Query, actor: str) -> str:
        force = form.get("force") == "yes"
        impact = await self._managed.remove(plugin, force=force, reason=form.get("reason"), actor=actor)
        return f"{impact.plugin} is removed."

    async def _revoke_grant(self, grant_id: str, form: Query, actor: str) -> str:
        await self._actions.revoke_grant(grant_id, reason=form.get("reason"), actor=actor)
        return f"The grant {grant_id} has ended."

    async def _reload(self, _host: str, _form: Query, actor: str) -> str:
        files = await self._actions.reload(actor=actor)
        bad = [f"{file.name} ({file.path}) cannot be used: {file.error}" for file in files if file.error]
        if bad:
            raise ConnectError(Code.FAILED_PRECONDITION, "; ".join(bad))
        names = ", ".join(file.name for file in files)
        return f"Read: {names}." if names else "This host has no files that are read anew."

    async def _set_log_level(self, _host: str, form: Query, actor: str) -> str:
        logger, level = form.get("logger"), form.get("level")
        minutes = _number(form.get("minutes", "10"), "the number of minutes")
        holds_s = await self._actions.set_log_level(logger, level, for_s=60.0 * minutes, actor=actor)
        which = f"The level of {logger}" if logger else "The level of all loggers"
        return f"{which} is {level} for {span(holds_s)}." if level else f"{which} is what it was."


def _number(text: str, what: str) -> int:
    """Return a whole number. Raises: ConnectError `invalid_argument`; the action checks its range."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise ConnectError(Code.INVALID_ARGUMENT, f"{what} must be a whole number")
    return int(text)
