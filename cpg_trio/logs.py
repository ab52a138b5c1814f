"""What a process of this project writes to standard error: one line for each event, newest last.

Libraries only log; whoever runs a process calls `configure_logging`. The prefix is that of the other
implementations, so that what reads their logs reads ours.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

FORMAT = "%(asctime)s %(message)s"
DATE_FORMAT = "%Y/%m/%d %H:%M:%S"


def configure_logging(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Write the log to `stream`, standard error by default. What stood there before is replaced."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(logging.Formatter(FORMAT, DATE_FORMAT))
    use_handler(handler, level)


def use_handler(handler: logging.Handler, level: int = logging.INFO) -> None:
    """Send this project's log to `handler`, and other libraries' warnings with it."""
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("cpg_trio").setLevel(level)
