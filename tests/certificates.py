"""Certificates for tests: trustme's, and those that it does not make."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import attrs
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from cpg_trio.http import Clients, TlsConfig

_NAMES = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
WORKLOAD = "spiffe://test/own"
LOCAL = ("localhost", "127.0.0.1", "::1", "rebound.invalid")


@attrs.frozen
class Files:
    """A certificate with its key, and who vouches for it and for its peers."""

    cert: Path
    key: Path
    ca: Path

    @classmethod
    def write(cls, folder: Path, ca: trustme.CA, *names: str, name: str = "own", days: int = 1) -> Files:
        files = cls(folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem")
        files.issue(ca, *names, days=days)
        ca.cert_pem.write_to_path(files.ca)
        return files

    def issue(self, ca: trustme.CA, *names: str, days: int = 1) -> None:
        """Put a new certificate and its key in the place of those that are there."""
        cert, key = issue(ca, *names, days=days)
        self.key.write_bytes(key)
        self.cert.write_bytes(cert)

    def encrypt_key(self) -> None:
        """Put a password on the key."""
        key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        self.key.write_bytes(key.private_bytes(pem, pkcs8, serialization.BestAvailableEncryption(b"x")))

    @property
    def environment(self) -> dict[str, str]:
        return {"TLS_CERT": str(self.cert), "TLS_KEY": str(self.key), "TLS_CA": str(self.ca)}

    def config(self, clients: Clients = Clients.OPTIONAL) -> TlsConfig:
        return TlsConfig(cert_file=self.cert, key_file=self.key, ca_file=self.ca, clients=clients)

    def server_context(self) -> ssl.SSLContext:
        """Another's server: it asks for no certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        return context

    def client_context(self, *, show: bool = True) -> ssl.SSLContext:
        """Another's client, which shows its certificate unless it is not to."""
        context = ssl.create_default_context(cafile=self.ca)
        if show:
            context.load_cert_chain(self.cert, self.key)
        return context


def issue(ca: trustme.CA, *names: str | bytes, days: int = 1) -> tuple[bytes, bytes]:
    """Return a certificate without a subject, for names, addresses and URIs, and its key; both are PEM.

    It is valid for so many days from yesterday on. Bytes are the extension that has the names, as it is.
    """
    issuer = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    signing_key = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
    assert isinstance(signing_key, ec.EllipticCurvePrivateKey)
    key, yesterday = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC) - timedelta(days=1)
    builder = (
        x509.CertificateBuilder(issuer.subject, x509.Name([]), key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(yesterday)
        .not_valid_after(yesterday + timedelta(days=days, hours=1))
    )
    vouching = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(vouching)
    builder = builder.add_extension(authority, critical=False)
    known = [_general_name(name) for name in names if isinstance(name, str)]
    raw = [name for name in names if isinstance(name, bytes)]
    if names:
        named = x509.UnrecognizedExtension(_NAMES, raw[0]) if raw else x509.SubjectAlternativeName(known)
        builder = builder.add_extension(named, critical=True)
    cert = builder.sign(signing_key, hashes.SHA256())
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return cert.public_bytes(pem), key.private_bytes(pem, pkcs8, serialization.NoEncryption())


def _general_name(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
