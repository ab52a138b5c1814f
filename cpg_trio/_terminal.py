"""What a program prints, on a terminal that may not have all letters."""

from __future__ import annotations

import io
from typing import TextIO


def tolerant(stream: TextIO) -> TextIO:
    """Have a stream write `?` for what its encoding lacks, rather than raise; return it.

    By then the work that is told of has been done, and its news are worth more than an arrow or a tick.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream
