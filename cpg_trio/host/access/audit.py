"""The audit trail: one event for every decision about who somebody is and what they may do.

An event has names, never what proves them. Each goes to the listeners, and to the log `cpg_trio.audit` as one
line of JSON. A decision is made once and then holds (that a plugin may call a service, say, for as long as
the policy stays as it is), so it is one event however many calls follow from it; a refusal is one each time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from enum import Enum

import attrs

from cpg_trio._listeners import Listeners

_log = logging.getLogger("cpg_trio.audit")

_MAX_CHARACTERS = 256
_to_json = json.JSONEncoder(ensure_ascii=True).encode  # so nothing in it can break or forge a line


class Action(Enum):
    """What was decided about."""

    HANDSHAKE = "handshake"
    """Whether a plugin gets an identity."""
    RENEW = "renew"
    """Whether it gets another token for the one that it has."""
    AUTHENTICATE = "authenticate"
    """Whether a token proves an identity; of one that is accepted, when it is first seen."""
    REGISTER = "register"
    """Whether a plugin may provide a service."""
    UNREGISTER = "unregister"
    DISCOVER = "discover"
    """Whether a plugin may be told who provides a service."""
    CALL = "call"
    """Whether a plugin may call a service through the host."""
    GRANT = "grant"
    """Whether a plugin may use a capability, or call a service directly."""
    USE = "use"
    """Whether a grant is good."""
    CONTROL = "control"
    """The host tells a plugin to do something."""
    REVOKE = "revoke"
    """An identity, a token or a grant ends before its time."""
    EXPIRE = "expire"
    """An identity ends because its time is over."""


@attrs.frozen(kw_only=True)
class AuditEvent:
    """One decision."""

    action: Action
    allowed: bool
    subject: str
    """Whom it is about: a runtime id, or the name that was claimed."""
    target: str = ""
    """What it is about: a service type, a plugin, a capability, a path."""
    reason: str = ""
    """Why it was refused, or why something has ended."""
    address: str = ""
    """Where the subject called from, without a port."""


class Audit:
    """Where decisions are told. A listener that raises is logged, and keeps nobody else from hearing."""

    def __init__(self) -> None:
        self._listeners = Listeners[[AuditEvent]]("the audit trail")

    def subscribe(self, listener: Callable[[AuditEvent], object]) -> None:
        """Call `listener` with each event from now on."""
        self._listeners.add(listener)

    def allowed(
        self, action: Action, subject: str, target: str = "", *, reason: str = "", address: str = ""
    ) -> None:
        """Tell that something is permitted, or has been done."""
        self._tell(action, allowed=True, subject=subject, target=target, reason=reason, address=address)

    def denied(
        self, action: Action, subject: str, target: str = "", *, reason: str, address: str = ""
    ) -> None:
        """Tell that something is refused."""
        self._tell(action, allowed=False, subject=subject, target=target, reason=reason, address=address)

    def _tell(self, action: Action, *, allowed: bool, **said: str) -> None:
        # Cut before it is told: a listener may keep it, and most of it may be a stranger's.
        event = AuditEvent(
            action=action, allowed=allowed, **{name: text[:_MAX_CHARACTERS] for name, text in said.items()}
        )
        self._listeners.tell(event)
        level = logging.INFO if event.allowed else logging.WARNING
        if _log.isEnabledFor(level):
            _log.log(level, "[AUDIT] %s", as_json(event))


def as_json(event: AuditEvent) -> str:
    """Return an event as one line, without what is empty."""
    said = {
        name: value for name in ("subject", "target", "reason", "address") if (value := getattr(event, name))
    }
    return _to_json({"action": event.action.value, "allowed": event.allowed, **said})
