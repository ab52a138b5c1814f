"""The audit trail: one event for each decision about who calls and what the caller may do.

An event has names, and never a secret. Each goes to the listeners, and to the log `cpg_trio.audit` as one
line of JSON. A permission holds until the rules change, so it is one event however many calls follow. A
refusal is one event each time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum

import attrs

from cpg_trio._listeners import Listeners
from cpg_trio.logs import JSON_FIELDS

_log = logging.getLogger("cpg_trio.audit")

_MAX_CHARACTERS = 256
_TEXTS = ("subject", "target", "reason", "address", "actor")
_to_json = json.JSONEncoder(ensure_ascii=True).encode  # a text cannot break or forge a line


def _cut(text: str) -> str:
    """Return what is kept of a text: strangers choose most of it, and a listener may keep it."""
    return text[:_MAX_CHARACTERS]


class Action(Enum):
    """The kind of a decision."""

    HANDSHAKE = "handshake"
    """Whether a plugin gets an identity."""
    RENEW = "renew"
    """Whether it gets another token for the one that it has."""
    AUTHENTICATE = "authenticate"
    """Whether a token proves an identity. One that is accepted is recorded when it is first seen."""
    REGISTER = "register"
    """Whether a plugin may provide a service."""
    UNREGISTER = "unregister"
    DISCOVER = "discover"
    """Whether a plugin may learn who provides a service."""
    CALL = "call"
    """Whether a plugin may call a service through the host."""
    GRANT = "grant"
    """Whether a plugin may use a capability, or call a service directly."""
    USE = "use"
    """Whether a grant is valid."""
    CONTROL = "control"
    """The host tells a plugin to do something."""
    DRAIN = "drain"
    """An operator gives a plugin no new calls, or calls again."""
    MANAGE = "manage"
    """A plugin that the host starts is added, removed, restarted, or changed otherwise."""
    RELOAD = "reload"
    """An operator has files read anew."""
    LOG_LEVEL = "log-level"
    """An operator changes a level of the log."""
    REVOKE = "revoke"
    """An identity, a token or a grant ends before its time."""
    ADMIN = "admin"
    """Whether somebody may use the admin service. A way in that is used again is recorded once."""
    EXPIRE = "expire"
    """An identity ends because its time is over."""


@attrs.frozen(kw_only=True)
class AuditEvent:
    """One decision."""

    action: Action
    allowed: bool
    subject: str = attrs.field(converter=_cut)
    """The plugin: a runtime id, or the name that it claimed."""
    target: str = attrs.field(default="", converter=_cut)
    """A service type, a plugin, a capability or a path."""
    reason: str = attrs.field(default="", converter=_cut)
    """Why it was refused, or why something has ended."""
    address: str = attrs.field(default="", converter=_cut)
    """The address that the subject called from, without a port."""
    actor: str = attrs.field(default="", converter=_cut)
    """The operator who has done it; empty if no operator has."""

    def as_json(self) -> str:
        """Return the event as one line, without empty texts."""
        return _to_json(self.fields())

    def fields(self) -> dict[str, str | bool]:
        """Return the event without empty texts."""
        texts = {name: text for name in _TEXTS if (text := getattr(self, name))}
        return {"action": self.action.value, "allowed": self.allowed, **texts}


class Audit:
    """Sends decisions to listeners and the log. A listener that raises is logged; the others are called."""

    def __init__(self) -> None:
        self._listeners = Listeners[AuditEvent]("the audit trail")

    def subscribe(self, listener: Callable[[AuditEvent], object]) -> None:
        """Call `listener` with each event from now on."""
        self._listeners.add(listener)

    def subscribed(self, listener: Callable[[AuditEvent], object]) -> AbstractContextManager[None]:
        """Call `listener` with each event within the block."""
        return self._listeners.added(listener)

    def allowed(
        self,
        action: Action,
        subject: str,
        target: str = "",
        *,
        reason: str = "",
        address: str = "",
        actor: str = "",
    ) -> None:
        """Record that something is permitted, or has been done."""
        self._record(
            AuditEvent(
                action=action,
                allowed=True,
                subject=subject,
                target=target,
                reason=reason,
                address=address,
                actor=actor,
            )
        )

    def denied(
        self, action: Action, subject: str, target: str = "", *, reason: str, address: str = ""
    ) -> None:
        """Record that something is refused."""
        self._record(
            AuditEvent(
                action=action, allowed=False, subject=subject, target=target, reason=reason, address=address
            )
        )

    def _record(self, event: AuditEvent) -> None:
        self._listeners.tell(event)
        level = logging.INFO if event.allowed else logging.WARNING
        if _log.isEnabledFor(level):
            _log.log(level, "[AUDIT] %s", event.as_json(), extra={JSON_FIELDS: event.fields()})
