"""Output on terminals whose encoding lacks some characters."""

from __future__ import annotations

import io
from typing import TextIO


def tolerant(stream: TextIO) -> TextIO:
    """Have a stream write `?` for a character that its encoding lacks; return the stream.

    Without this, an arrow or a tick in a message would raise after the work that the message reports.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream
