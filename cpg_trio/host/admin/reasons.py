"""Why an operator does something, and who it is, as events say it."""

from __future__ import annotations

from cpg_trio.rpc import Code, ConnectError

_MOST_REASON = 256  # characters


def done_by(what: str, actor: str) -> str:
    """Return what is done, and by whom."""
    return f"{what}, by {actor}" if actor else what


def with_reason(what: str, why: str) -> str:
    """Return what is done, and why."""
    return f"{what}: {why}" if why else what


def checked_reason(reason: str) -> str:
    """Return a reason that is short enough to be kept. Raises: ConnectError `invalid_argument`."""
    if len(reason) > _MOST_REASON:
        raise ConnectError(Code.INVALID_ARGUMENT, f"the reason is too long (max: {_MOST_REASON} characters)")
    return reason
