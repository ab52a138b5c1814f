"""Where the admin service of a host is, as the command line and the environment say it.

In this order: `--admin`, `ADMIN_URL`, `ADMIN_SOCKET`, the usual socket of the host at `HOST_URL`, if that is
on this machine, or on `PORT` (default: 8080), and the only one in the directory of those sockets. Each error
says what was tried.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from cpg_trio._addresses import is_loopback
from cpg_trio._admin_socket import OFF, check_directory, socket_directory, socket_path
from cpg_trio.cli._errors import CommandError

DEFAULT_PORT = "8080"
_CONNECT_S = 3.0
_SCHEMES = ("http://", "https://")
_HOW = "name the host with --admin PATH or URL, or with HOST_URL, PORT, ADMIN_SOCKET or ADMIN_URL"


@attrs.frozen
class AdminAddress:
    """Where the admin service of a host is: a base URL, or the path of a Unix socket."""

    url: str = ""
    socket: Path | None = None

    def __str__(self) -> str:
        """Return it as errors name it."""
        return self.url if self.socket is None else str(self.socket)


def find_admin(given: str, environment: Mapping[str, str]) -> AdminAddress:
    """Return where the admin service is. Raises: CommandError if there is no host, or there are several."""
    url, path = (environment.get(name, "") for name in ("ADMIN_URL", "ADMIN_SOCKET"))
    port = _port_here(environment.get("HOST_URL", "")) or environment.get("PORT", "")
    if named := given or url:
        return _named(named)
    if path and path != OFF:
        return AdminAddress(socket=Path(path.replace("{port}", port or DEFAULT_PORT)))
    usual = socket_path(port or DEFAULT_PORT, environment)
    _check_folder(usual.parent)
    if port or not why_not(usual):
        return AdminAddress(socket=usual)
    return AdminAddress(socket=_only_socket(usual, environment))


def _port_here(host_url: str) -> str:
    """Return the port of a host on this machine; empty if it is another one, or several."""
    try:
        parts = urlsplit(host_url)
        here = parts.hostname == "localhost" or is_loopback(parts.hostname or "")
        return str(parts.port or "") if here else ""
    except ValueError:
        return ""


def why_not(path: Path) -> str:
    """Return why a Unix socket cannot be connected to, and what to do; empty if it can."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_CONNECT_S)
            probe.connect(str(path))
    except FileNotFoundError:
        return f"there is no such socket; start a host with cpg-trio host, or {_HOW}"
    except ConnectionRefusedError:
        if not path.is_socket():
            return f"it is not a socket; {_HOW}"
        return "the host that made this socket has ended; start it again"
    except PermissionError:
        return "permission denied; only the user of the host and root may use its socket"
    except OSError as error:
        return f"{(error.strerror or str(error)).lower()}; {_HOW}"
    return ""


def _named(address: str) -> AdminAddress:
    if address.startswith(_SCHEMES):
        return AdminAddress(url=address.rstrip("/"))
    return AdminAddress(socket=Path(address.removeprefix("unix:")).expanduser())


def _check_folder(folder: Path) -> None:
    """Check that the sockets in a directory are those of the user's hosts. Raises: CommandError."""
    try:
        check_directory(folder)
    except FileNotFoundError:
        pass  # no host has made it yet
    except OSError as error:
        raise CommandError(f"the admin sockets in {folder} are not trusted: {error}; {_HOW}") from None


def _only_socket(usual: Path, environment: Mapping[str, str]) -> Path:
    """Return the socket of the only host that runs. Raises: CommandError if it is not one."""
    folder = socket_directory(environment)
    found = [path for path in sorted(folder.glob("*.sock")) if not why_not(path)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandError(
            f"no host answers: tried {usual} and the other sockets in {folder}; start a host with"
            f" cpg-trio host, or {_HOW}"
        )
    raise CommandError(f"several hosts run here: {', '.join(map(str, found))}; {_HOW}")
