"""When coverage traces a thread, and when it does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def is_of_coverage(tracer: object) -> bool:
    """Return whether a trace function is the one of coverage, and not that of a debugger."""
    return type(tracer).__module__.partition(".")[0] == "coverage"


def is_traced() -> bool:
    """Return whether coverage traces this thread."""
    return is_of_coverage(sys.gettrace())


def stop_tracing() -> None:
    """Have coverage, if it is there, trace nothing more in this thread.

    No function of the package may be on the stack. Coverage is not told when those that are return, and would
    take what runs once it traces again for lines of them.
    """
    if is_traced():
        sys.settrace(None)


@contextmanager
def tracing_as_it_was() -> Iterator[None]:
    """Have coverage, if it traces this thread now, do so again after the block."""
    tracer = sys.gettrace()
    try:
        yield
    finally:
        if is_of_coverage(tracer) and sys.gettrace() is not tracer:
            sys.settrace(tracer)
