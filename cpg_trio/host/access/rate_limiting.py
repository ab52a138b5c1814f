"""Calls are counted against their rates, and beyond them refused with the time to wait.

The refusal of an RPC is `resource_exhausted`, with a `Retry-After` among its headers. Other refusals that
pass with time have one as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cpg_trio.host.access.rates import Kind, Rates
from cpg_trio.rpc import Code, ConnectError, Context

_RETRY_AFTER = "retry-after"


class TryAgainError(ConnectError):
    """A refusal that passes with time, and says when to ask again. Nothing has changed."""

    def __init__(self, code: Code, message: str, retry_after_s: int) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s
        """Whole seconds, at least 1."""


class RateExceededError(TryAgainError):
    """A caller calls too often."""

    def __init__(self, kind: Kind, retry_after_s: int) -> None:
        message = f"rate limit exceeded for {kind}: try again in {retry_after_s} s"
        super().__init__(Code.RESOURCE_EXHAUSTED, message, retry_after_s)


def retry_after(seconds: int) -> tuple[bytes, bytes]:
    """Return the header field that says when to try again."""
    return _RETRY_AFTER.encode(), b"%d" % seconds


def charge(rates: Rates, kind: Kind, key: str) -> None:
    """Count a call. Raises: RateExceededError."""
    if retry_after_s := rates.take(kind, key):
        raise RateExceededError(kind, retry_after_s)


@contextmanager
def retry_told(ctx: Context) -> Iterator[None]:
    """Tell a caller in the headers of its answer when to try again, if that is why the block ends."""
    try:
        yield
    except TryAgainError as error:
        ctx.response_headers[_RETRY_AFTER] = str(error.retry_after_s)
        raise
