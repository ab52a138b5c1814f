"""Looking up names, in threads of their own.

The system's resolver blocks its thread for as long as a name server takes, which a stranger may run. So
look-ups do not use Trio's threads, and each name has a share of theirs: a slow name delays only look-ups of
itself.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import trio

_THREADS_OF_A_NAME = 2
_LOCALHOST = "localhost"
_LOOPBACK = ("127.0.0.1", "::1")


class LookUpError(Exception):
    """A name could not be looked up; the message says why."""


class _Share:
    """A limit on threads. It exists while a look-up holds it, or waits for it."""

    def __init__(self, most: float) -> None:
        self.limiter = trio.CapacityLimiter(most)
        self.users = 0


class _Thread:
    """The limits of one look-up's thread, from the narrowest share to all threads.

    Trio takes it as the limiter of the thread: it is acquired before the thread begins, and released when the
    thread has ended.
    """

    def __init__(self, shares: dict[str, _Share], wanted: Mapping[str, int], every: _Share) -> None:
        self._shares = shares
        self._wanted = wanted
        self._every = every

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        mine = [self._shares.setdefault(name, _Share(most)) for name, most in self._wanted.items()]
        taken: list[_Share] = []
        for share in mine:
            share.users += 1
        try:
            for share in (*mine, self._every):
                await share.limiter.acquire_on_behalf_of(borrower)
                taken.append(share)
        except BaseException:
            self._give_back(taken, borrower)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        mine = [self._shares[name] for name in self._wanted]
        self._give_back([*mine, self._every], borrower)

    def _give_back(self, taken: Sequence[_Share], borrower: object) -> None:
        for share in taken:
            share.limiter.release_on_behalf_of(borrower)
        for name in self._wanted:
            share = self._shares[name]
            share.users -= 1
            if not share.users:
                del self._shares[name]


class Resolver:
    """Looks up names in `threads` threads at most. Look-ups that find none free wait in order.

    A look-up whose caller is cancelled keeps its thread, and its place in its shares, until the system's
    resolver gives up.
    """

    def __init__(self, threads: int = 16) -> None:
        self._every = _Share(threads)
        self._shares: dict[str, _Share] = {}  # by name, those that are held or waited for

    async def addresses(self, host: str, port: int, shares: Mapping[str, int] | None = None) -> list[str]:
        """Return the addresses of a name, the best first; an address is its own.

        The look-up counts against each of `shares`, which has so many threads at most; by default against one
        of the name's own. For an address, and for `localhost` (RFC 6761, section 6.3), nothing is looked up.
        Raises: LookUpError.
        """
        if (known := _without_look_up(host, port)) is not None:
            await trio.lowlevel.checkpoint()
            return known
        shares = {host: _THREADS_OF_A_NAME} if shares is None else shares
        try:
            found = await trio.to_thread.run_sync(
                partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM),
                limiter=_Thread(self._shares, shares, self._every),  # type: ignore[arg-type] # as Trio documents it
                abandon_on_cancel=True,
            )
        except (OSError, UnicodeError) as error:
            raise LookUpError(_reason(error)) from error
        except RuntimeError as error:  # no thread could be started
            raise LookUpError(os.strerror(errno.EAGAIN).lower()) from error
        return _distinct(found)


def _without_look_up(host: str, port: int) -> list[str] | None:
    if host.removesuffix(".") == _LOCALHOST:
        return list(_LOOPBACK)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return _distinct(found)


def _distinct(found: Sequence[tuple[Any, ...]]) -> list[str]:
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
