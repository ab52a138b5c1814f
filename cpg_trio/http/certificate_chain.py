"""The certificates that are sent with ours: found once, and not in each handshake.

If a certificate's file has no other ones, OpenSSL completes the chain by the authorities that it knows, and
verifies it. It does so in each handshake, which took a quarter of a server's time for one (50 of 190 µs). So
the chain that it would send is asked for once, and then loaded as if it had been in the file.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_HANDSHAKE, _CERTIFICATE = 22, 11  # a type of record, and one of message (RFC 5246, 6.2.1 and 7.4)


def load_certificate(
    context: ssl.SSLContext,
    cert_file: Path,
    key_file: Path | None,
    ca_file: Path | None,
    password: Callable[[], str],
) -> None:
    """Have a context show a certificate, completed by the authorities in `ca_file`.

    Raises: OSError or ssl.SSLError for files that cannot be used; what `password` raises.
    """
    context.load_cert_chain(cert_file, key_file, password)
    if ca_file is None or not hasattr(os, "memfd_create"):
        return
    chain = _chain_sent(cert_file, key_file, ca_file, password)
    if len(chain) > 1:  # else nobody is known who has issued it, or there is nothing to be sent with it
        with _file_of("".join(map(ssl.DER_cert_to_PEM_cert, chain))) as path:
            context.load_cert_chain(path, key_file or cert_file, password)


def _chain_sent(
    cert_file: Path, key_file: Path | None, ca_file: Path, password: Callable[[], str]
) -> list[bytes]:
    """Return the certificates that OpenSSL sends, ours first; none if it cannot be asked."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert_file, key_file, password)
    server.load_verify_locations(ca_file)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.maximum_version = ssl.TLSVersion.TLSv1_2  # in which certificates are not encrypted
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    for end in (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ):
        with suppress(ssl.SSLError):  # it wants more, or the two have nothing in common
            end.do_handshake()
    for kind, message in _messages(to_client.read()):
        if kind == _CERTIFICATE:
            return list(_in_threes(message[3:]))
    return []


def _messages(records: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of the handshake messages in some records."""
    stream = b""
    while records and records[0] == _HANDSHAKE:
        end = 5 + int.from_bytes(records[3:5], "big")
        stream, records = stream + records[5:end], records[end:]
    while stream:
        end = 4 + int.from_bytes(stream[1:4], "big")
        yield stream[0], stream[4:end]
        stream = stream[end:]


def _in_threes(content: bytes) -> Iterator[bytes]:
    """Yield parts that each follow their length, in three bytes."""
    while content:
        end = 3 + int.from_bytes(content[:3], "big")
        yield content[3:end]
        content = content[end:]


@contextmanager
def _file_of(text: str) -> Iterator[str]:
    """Yield the path of a file in memory: the folder for temporary files may be read-only."""
    file = os.memfd_create("certificates")
    try:
        os.write(file, text.encode())
        yield f"/proc/self/fd/{file}"
    finally:
        os.close(file)
