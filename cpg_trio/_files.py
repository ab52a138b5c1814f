"""Whether a file can be made, without making it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def check_writable(folder: Path) -> None:
    """Check that this process may make files in a directory. Raises: OSError."""
    if not stat.S_ISDIR(folder.stat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
