"""TLS as a channel, over the channel of a socket.

    send     plain ──▶ OpenSSL ──▶ records ──▶ socket
    receive  plain ◀── OpenSSL ◀── records ◀── socket

OpenSSL never sees the socket: it is given what has been received, and what it makes is sent. So one read of
the socket takes all records that have come, and what is left undone is in plain sight.

- What the socket does not take at once of a piece's records is kept, and the piece counts as sent when it is.
  Until then the caller must send the same bytes again, as on every channel.
- TLS has messages of its own (tickets, new keys, alerts). They do not wake a task that waits for bytes.
- Only the peer's close_notify is its end. A connection that ends without it was cut, perhaps by somebody in
  between, and is broken.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import trio

from cpg_trio.http.channel import Channel, SocketChannel
from cpg_trio.http.reactor import Reactor, Watcher
from cpg_trio.http.schemes import PLAIN_IS_SPOKEN, is_text

_RECORD_BYTES = 16 * 1024  # the most that is in one
_PIECE_BYTES = 4 * _RECORD_BYTES
_SLICE_BYTES = 65 * 1024  # of records: what OpenSSL is given at a time, as its buffers never shrink
_NAMED = ("URI", "DNS")
_NOBODY = ("",)
_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


def client_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """Return a context that verifies servers by the authorities in a file, or by those of the system.

    Raises: OSError or ssl.SSLError for a file that cannot be used. Where the system's cannot be opened (there
    is no file descriptor left, say), OpenSSL would raise no error, and trust no server.
    """
    if ca_file is None and (of_the_system := ssl.get_default_verify_paths().cafile):
        with Path(of_the_system).open():
            pass
    return ssl.create_default_context(cafile=ca_file)


class NotTlsError(trio.BrokenResourceError):
    """The other side speaks plain HTTP."""


class TlsChannel(Channel):
    """TLS over the channel of a socket, which it owns. Nothing is sent or received before `shake_hands`."""

    def __init__(
        self, raw: SocketChannel, context: ssl.SSLContext, *, server_hostname: str | None = None
    ) -> None:
        """Be the client of `server_hostname`, which its certificate is to name; without it be a server.

        Raises: ValueError for a name that is none.
        """
        self._raw = raw
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
        )
        self._unsent = b""  # records that the socket has not taken
        self._owed = 0  # bytes of the piece that is in them, and has not been counted as sent
        self._early: bytes | None = None  # what has been read to see whether something has come
        self._buffered = False  # the last read left something on this side of the socket
        self._sent_close_notify = False
        self._reactor: Reactor | None = None  # that has watched it last

    async def shake_hands(self) -> None:
        """Agree with the other side who both are. Raises: trio.BrokenResourceError; NotTlsError."""
        begun = False
        while not self._have_shaken_hands():
            await self._send_rest()
            data = await self._raw.receive()
            if not data:
                raise trio.BrokenResourceError("the other side ended the connection within the TLS handshake")
            if not begun and is_text(data):
                raise NotTlsError(PLAIN_IS_SPOKEN)
            begun = True
            self._incoming.write(data)
        if self._tls.session_reused:
            self._check_not_expired()
        self._buffered = bool(self._incoming.pending)
        await self._send_rest()

    def _check_not_expired(self) -> None:
        """Raise trio.BrokenResourceError if the other side's certificate has expired.

        A client of TLS 1.2 may resume a session, for two hours at most: OpenSSL keeps them, and Python cannot
        have it not to. The certificate is not verified again then. New authorities are a new context, which
        knows no sessions.
        """
        try:
            certificate = self._tls.getpeercert() or {}
        except (ValueError, ssl.SSLError) as error:
            raise trio.BrokenResourceError("the certificate of a resumed session cannot be read") from error
        expires = certificate.get("notAfter")
        if isinstance(expires, str) and ssl.cert_time_to_seconds(expires) < time.time():
            raise trio.BrokenResourceError("the certificate of a resumed session has expired")

    def _have_shaken_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            with suppress(*_GONE):
                self._flush()  # an alert says why
            raise trio.BrokenResourceError("no TLS handshake came about") from error
        return True

    async def _send_rest(self) -> None:
        while not self._flush():
            await self._raw.wait_writable()

    # What it says of the other side

    @property
    def protocol(self) -> str | None:
        """The protocol that both sides have agreed on; None if they have not."""
        return self._tls.selected_alpn_protocol()

    @cached_property
    def peer_names(self) -> tuple[str, ...]:
        """The URIs and DNS names of the certificate that was verified; none without one.

        A certificate without names differs from no certificate: its one name is empty, and matches no rule.
        """
        try:
            certificate = self._tls.getpeercert()
        except (ValueError, ssl.SSLError):  # no text, where there should be some
            return _NOBODY
        if not certificate:
            return ()
        names: Any = certificate.get("subjectAltName", ())
        good = [name for kind, name in names if kind in _NAMED and name.isascii() and name.isprintable()]
        return tuple(good) or _NOBODY

    @property
    def tls(self) -> dict[str, Any]:
        return dict(self._extension, client_cert_chain=list(self._extension["client_cert_chain"]))

    @cached_property
    def _extension(self) -> dict[str, Any]:
        # What is None, Python does not say, or not without a parser of certificates.
        certificate = self._tls.getpeercert(binary_form=True)
        return {
            "server_cert": None,
            "client_cert_chain": [ssl.DER_cert_to_PEM_cert(certificate)] if certificate else [],
            "client_cert_name": None,
            "client_cert_error": None,
            "tls_version": _VERSIONS.get(self._tls.version() or ""),
            "cipher_suite": None,
        }

    # Receiving

    @property
    def socket(self) -> socket.socket:
        return self._raw.socket

    @property
    def may_have_more(self) -> bool:
        return self._early is not None or self._buffered or self._raw.may_have_more

    @property
    def drained(self) -> bool:
        return self._raw.drained and not self.may_have_more

    async def wait_readable(self) -> None:
        await self._raw.wait_readable()

    def receive_nowait(self) -> bytes | None:
        if self._early is not None:
            data, self._early = self._early, None
            return data
        while True:
            if not self._buffered:
                records = self._raw.receive_nowait()
                if records is None:
                    return None
                if not records:
                    self._raise_cut()
                self._incoming.write(records)
            try:
                data = self._tls.read(_RECORD_BYTES)  # all of a record, so nothing is left of this one
            except ssl.SSLError as error:
                if self._wants_more(error):
                    continue
                return b""
            if self._incoming.pending:
                data = self._read_on(data)
            else:  # the usual case: one record
                self._buffered = not data  # at the other side's end, the next read says so again
            if self._outgoing.pending:
                self._answer()
            return data

    def receive_shared_nowait(self, *, much: bool) -> bytes | memoryview | None:
        if self._reactor is None or self._early is not None or self._buffered:
            return self.receive_nowait()
        records = self._raw.receive_shared_nowait(much=much)
        if records is None:
            return None
        if not records:
            self._raise_cut()
        plain = self._reactor.plain_buffer
        size = self._open(memoryview(records), plain)
        return plain[:size] if size else self.receive_nowait()

    def _raise_cut(self) -> NoReturn:
        raise trio.BrokenResourceError("the connection was cut: it ended without the end of TLS")

    def is_readable(self) -> bool:
        if self._early is None and (self.may_have_more or self._raw.is_readable()):
            try:
                self._early = self.receive_nowait()  # it may have been TLS's own
            except _GONE:
                return True
        return self._early is not None

    def _read_on(self, data: bytes) -> bytes:
        """Return it with what is in the further records that are here whole."""
        self._buffered = True
        parts = [data]
        try:
            while parts[-1]:
                parts.append(self._tls.read(_RECORD_BYTES))
        except ssl.SSLWantReadError:
            self._buffered = False
        except ssl.SSLError:
            pass  # the next read says it again
        return b"".join(parts)

    def _open(self, records: memoryview, plain: memoryview) -> int:
        """Read many records into a buffer, which is larger by one; return how many bytes those are."""
        read: Any = self._tls.read  # into a buffer, it returns a length
        size = 0
        for begin in range(0, len(records), _SLICE_BYTES):
            self._incoming.write(records[begin : begin + _SLICE_BYTES])
            self._buffered = True
            try:
                while length := read(_RECORD_BYTES, plain[size:]):
                    size += length
            except ssl.SSLWantReadError:
                self._buffered = False
            except ssl.SSLError:
                pass
            if self._buffered:  # the end, or an error: the next read says so again
                break
        if self._outgoing.pending:
            self._answer()
        return size

    def _wants_more(self, error: ssl.SSLError) -> bool:
        """Whether OpenSSL wants more records; if not, it is the other side's end.

        Raises: trio.BrokenResourceError for what is neither.
        """
        self._answer()
        if isinstance(error, ssl.SSLWantReadError):
            self._buffered = False
            return True
        if isinstance(error, ssl.SSLZeroReturnError):
            self._buffered = True  # the next read says so again
            return False
        raise self._broken(error) from error

    def _answer(self) -> None:
        """Send what TLS says to what has been read; what does not go at once goes before what follows."""
        with suppress(*_GONE):
            self._flush()

    # Sending

    async def wait_writable(self) -> None:
        await self._raw.wait_writable()

    def send_nowait(self, data: bytes | memoryview) -> int:
        if self._unsent or self._owed or not 0 < len(data) <= _PIECE_BYTES:
            return self._send_pieces(data)
        try:
            size = self._tls.write(data)
        except ssl.SSLError as error:
            raise self._broken(error) from error
        records = self._outgoing.read()
        sent = self._raw.send_nowait(records)
        if sent == len(records):
            return size
        self._unsent, self._owed = records[sent:], size
        return 0

    def _send_pieces(self, data: bytes | memoryview) -> int:
        """Send what is left of the last piece, which `data` begins with, and what follows, in pieces."""
        if not self._flush():
            return 0
        sent, self._owed = self._owed, 0
        with memoryview(data) as whole:
            while sent < len(whole) and (size := self.send_nowait(whole[sent : sent + _PIECE_BYTES])):
                sent += size
        return sent

    def _broken(self, error: ssl.SSLError) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self.socket.fileno() < 0:
            return trio.ClosedResourceError("this channel is closed")
        return trio.BrokenResourceError(f"TLS broke: {error.reason or error}")

    def _flush(self) -> bool:
        """Send what OpenSSL has made, as far as that goes; return whether it is all."""
        if self._outgoing.pending:
            self._unsent += self._outgoing.read()
        if self._unsent:
            self._unsent = self._unsent[self._raw.send_nowait(self._unsent) :]
        return not self._unsent

    # Watching, and the end

    def watch(self, reactor: Reactor, watcher: Watcher) -> None:
        self._reactor = reactor
        self._raw.watch(reactor, watcher)

    def ignore(self, *, for_good: bool = False) -> None:
        self._raw.ignore(for_good=for_good)

    def call_again(self) -> bool:
        # The reactor knows of what is in the socket alone.
        return self._early is None and not self._buffered and self._raw.call_again()

    def when_writable(self, call: Callable[[], None]) -> None:
        self._raw.when_writable(call)

    def shut_down(self, *, sending_only: bool = False) -> None:
        if sending_only:
            self._send_close_notify()
        self._raw.shut_down(sending_only=sending_only)

    def close(self, *, reset: bool = False) -> None:
        if not reset:
            self._send_close_notify()
        self._raw.close(reset=reset)

    def _send_close_notify(self) -> None:
        """Send close_notify, if that goes without waiting."""
        if self._sent_close_notify:
            return
        self._sent_close_notify = True
        with suppress(ssl.SSLError):  # it wants the other side's goodbye, or there was no handshake
            self._tls.unwrap()
        with suppress(*_GONE):
            self._flush()
