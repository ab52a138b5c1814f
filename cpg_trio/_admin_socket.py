"""Where the admin socket of a host is, for the host and for the programs that look for it.

A command imports this module, and has to start fast: it imports nothing of the project.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_FOLDER = "cpg-trio"
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
OFF = "off"
"""What `ADMIN_SOCKET` is for a host without an admin socket."""


def socket_directory(environment: Mapping[str, str]) -> Path:
    """Return the directory of admin sockets that nobody has named: one for each user."""
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    return Path(runtime, _FOLDER) if runtime else Path("/tmp", f"{_FOLDER}-{os.geteuid()}")  # noqa: S108 - checked


def socket_path(port: int | str, environment: Mapping[str, str]) -> Path:
    """Return where the admin socket of the host on a port is, unless `ADMIN_SOCKET` says another place."""
    return socket_directory(environment) / f"{port}.sock"


def make_directory(folder: Path) -> None:
    """Make a directory that is the user's alone, unless it is there; check that nobody else may change it.

    Raises: OSError.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    check_directory(folder)


def check_directory(folder: Path) -> None:
    """Check that a directory is the user's or root's, and that nobody else may change it. Raises: OSError."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(f"{folder} is not a directory (a link to one does not do)")
    if found.st_uid not in {0, os.geteuid()}:
        raise OSError(f"{folder} belongs to user {found.st_uid}, and not to the one of this process")
    if found.st_mode & _OTHERS_MAY_WRITE:
        raise OSError(f"others may write in {folder} (chmod go-w …)")
