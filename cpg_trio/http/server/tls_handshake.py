"""The TLS handshake of one accepted connection."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress

import trio

from cpg_trio.http.channel import SocketChannel
from cpg_trio.http.outgoing import plain_response
from cpg_trio.http.schemes import TLS_IS_SPOKEN
from cpg_trio.http.server.connection_limit import Activity
from cpg_trio.http.server.errors import logger
from cpg_trio.http.tls import NotTlsError, TlsChannel

_CLOSE = (b"connection", b"close")


class Handshake:
    """A TLS handshake with a timeout. Its failure ends its own connection, and no other."""

    activity = Activity.WAITING

    def __init__(
        self,
        raw: SocketChannel,
        context: ssl.SSLContext,
        timeout_s: float,
        on_plain: Callable[[], None],
    ) -> None:
        """Take `raw`, and close it unless there is a `channel` at the end of `run`.

        A client that speaks plain HTTP gets an answer that says so, and `on_plain` is called.
        """
        self.channel: TlsChannel | None = None
        """The connection, once the handshake has succeeded."""
        self._raw = raw
        self._context = context
        self._timeout_s = timeout_s
        self._on_plain = on_plain
        self._life = trio.CancelScope()

    async def run(self) -> None:
        """Shake hands."""
        self._life.deadline = trio.current_time() + self._timeout_s
        try:
            with self._life:
                channel = TlsChannel(self._raw, self._context)
                await channel.shake_hands()
                self.channel = channel
        except NotTlsError:
            with suppress(trio.BrokenResourceError):
                self._raw.send_nowait(plain_response(400, f"{TLS_IS_SPOKEN}\n", [_CLOSE]))
            self._on_plain()
        except trio.BrokenResourceError as error:
            logger.debug("a client did not get through its TLS handshake: %s", error.__cause__ or error)
        finally:
            if self.channel is None:
                self._raw.close()

    async def drain(self) -> None:
        """End: no call is in flight."""
        self._life.cancel()

    def evict(self) -> None:
        """End, to make room for another."""
        self._life.cancel()

    def abort(self) -> None:
        """End at once."""
        self._life.cancel()
