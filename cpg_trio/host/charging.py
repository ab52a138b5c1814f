"""Calls are counted against their rates, and beyond them refused with the time to wait.

The refusal of an RPC is `resource_exhausted`, with a `Retry-After` among its headers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cpg_trio.rpc import Code, ConnectError, Context

from .rates import Kind, Rates

RETRY_AFTER = "retry-after"


class RateExceededError(ConnectError):
    """A caller calls too often, and is told when it may call again. Nothing has changed."""

    def __init__(self, kind: Kind, retry_after_s: int) -> None:
        message = f"rate limit exceeded for {kind}: try again in {retry_after_s} s"
        super().__init__(Code.RESOURCE_EXHAUSTED, message)
        self.retry_after_s = retry_after_s
        """Whole seconds, at least 1."""


def charge(rates: Rates, kind: Kind, key: str) -> None:
    """Count a call. Raises: RateExceededError."""
    if retry_after_s := rates.take(kind, key):
        raise RateExceededError(kind, retry_after_s)


@contextmanager
def retry_told(ctx: Context) -> Iterator[None]:
    """Tell a caller in the headers of its answer when to try again, if that is why the block ends."""
    try:
        yield
    except RateExceededError as error:
        ctx.response_headers[RETRY_AFTER] = str(error.retry_after_s)
        raise
