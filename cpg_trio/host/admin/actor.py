"""Who acts: the operator behind a call of the admin application, for the audit trail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_actor: ContextVar[str] = ContextVar("the operator behind a call", default="")


def current_actor() -> str:
    """Return who is behind the call that is served; empty for a call within the process."""
    return _actor.get()


@contextmanager
def acting_as(actor: str) -> Iterator[None]:
    """Within the block, `actor` is behind all calls."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)
