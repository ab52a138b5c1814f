"""What a server and its clients need for TLS: which files, and contexts that are made of them.

Certificates are short-lived, and are renewed by replacing their files. So a context is made anew when its
files have changed; a connection keeps the one that it began with. Files that cannot be used (one that is
half-written, a key of another certificate) change nothing, and are logged once.

Sessions are not resumed: each connection proves its identity anew, with a certificate that is valid then.
Only clients of TLS 1.2 may resume one, as Python cannot have OpenSSL not keep them; not with a certificate
that has expired since, and not after the files have changed.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import attrs

from cpg_trio._reload import Reloaded, ReloadedFiles, reason
from cpg_trio.http.certificate_chain import load_certificate
from cpg_trio.http.server.errors import StartError
from cpg_trio.http.tls import client_context


class Clients(Enum):
    """Whether clients are asked for a certificate of their own."""

    NONE = "none"
    OPTIONAL = "optional"
    """They are, and may have none. One that is shown has to be valid."""
    REQUIRED = "required"


_VERIFY = {
    Clients.NONE: ssl.CERT_NONE,
    Clients.OPTIONAL: ssl.CERT_OPTIONAL,
    Clients.REQUIRED: ssl.CERT_REQUIRED,
}


@attrs.frozen(kw_only=True)
class TlsConfig:
    """Which certificate is ours, and whose are trusted. All files are PEM, and may be replaced at any time.

    Raises: ValueError for a key without a certificate, or clients that are asked for a certificate without an
    authority that vouches for it.
    """

    cert_file: Path | None = None
    """Our certificate, and those between it and its authority. Without one, TCP is served plain."""
    key_file: Path | None = None
    """Its key, if that is not in the same file."""
    ca_file: Path | None = None
    """The authorities that vouch for peers; without it, for servers, those that the system trusts."""
    clients: Clients = Clients.NONE
    """Whether our clients are asked for a certificate."""

    def __attrs_post_init__(self) -> None:
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("a key needs its certificate")
        if self.clients is not Clients.NONE and (self.ca_file is None or self.cert_file is None):
            raise ValueError("certificates of clients need a CA that vouches for them, and one of the server")

    @property
    def serves(self) -> bool:
        """Whether what is served on TCP is served with TLS."""
        return self.cert_file is not None

    def server_contexts(self) -> Contexts:
        """Return the contexts of the servers."""
        return Contexts(self, self._server_context)

    def client_contexts(self) -> Contexts:
        """Return the contexts of calls to others: they verify the server, and show our certificate."""
        return Contexts(self, self._client_context)

    def _server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.verify_mode = _VERIFY[self.clients]
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return self._with_certificate(context)

    def _client_context(self) -> ssl.SSLContext:
        context = client_context(self.ca_file)
        context.hostname_checks_common_name = False  # which anything may be written in (RFC 9525, section 2)
        context.set_alpn_protocols(["http/1.1"])
        return self._with_certificate(context)

    def _with_certificate(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert_file is not None:
            load_certificate(context, self.cert_file, self.key_file, self.ca_file, _no_password)
        return context


def _no_password() -> str:
    # OpenSSL would ask for it at the terminal.
    raise ValueError("the key has a password; write it down without one, in a file of mode 0600")


class Contexts:
    """Contexts of one kind: the latest that could be made. Called for each connection, in a Trio task."""

    def __init__(self, config: TlsConfig, make: Callable[[], ssl.SSLContext]) -> None:
        """Make them with `make`, again whenever a file of `config` has changed."""
        files = (config.cert_file, config.key_file, config.ca_file)
        self._files = tuple(dict.fromkeys(file for file in files if file is not None))
        self._make = make
        self._made: Reloaded[ssl.SSLContext] | None = None

    @property
    def file(self) -> ReloadedFiles | None:
        """The files of the certificate, its key and the authorities, once they have been read."""
        return self._made if self._files else None

    def check(self) -> None:
        """Make a context if there are files for it. Raises: StartError for files that are of no use."""
        if self._files:
            self()

    def __call__(self) -> ssl.SSLContext:
        """Return the context for a new connection. Raises: StartError if there has never been one."""
        if self._made is None:
            try:
                self._made = Reloaded(self._files, self._usable)
            except (OSError, ValueError) as error:
                files = " and ".join(map(str, self._files)) or "the authorities of the system"
                raise StartError(f"cannot use {files} for TLS: {reason(error)}") from error
        return self._made.value

    def _usable(self) -> ssl.SSLContext:
        with _openssl_errors():
            return self._make()


@contextmanager
def _openssl_errors() -> Iterator[None]:
    """Raise errors of OpenSSL as a ValueError with a message for operators."""
    try:
        yield
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError("the key is not the certificate's") from error
        found = f" ({error.reason})" if error.reason else ""
        raise ValueError(
            f"a certificate and its key, or an authority's certificate, is not there in PEM{found}"
        ) from error


def tls_from_environment(environment: Mapping[str, str]) -> TlsConfig:
    """Return what `TLS_CERT`, `TLS_KEY`, `TLS_CA` and `TLS_CLIENTS` say.

    Raises: StartError for what makes no sense.
    """
    cert, key, ca = (_path(environment, name) for name in ("TLS_CERT", "TLS_KEY", "TLS_CA"))
    usual = Clients.OPTIONAL if cert and ca else Clients.NONE
    chosen = environment.get("TLS_CLIENTS") or usual.value
    if chosen not in [each.value for each in Clients]:
        known = ", ".join(each.value for each in Clients)
        raise StartError(f"TLS_CLIENTS must be one of {known}, not {chosen!r}")
    if key and not cert:
        raise StartError("TLS_KEY needs TLS_CERT, the file of the key's certificate")
    if Clients(chosen) is not Clients.NONE and not (cert and ca):
        raise StartError(f"TLS_CLIENTS={chosen} needs TLS_CERT, and TLS_CA, which vouches for clients")
    return TlsConfig(cert_file=cert, key_file=key, ca_file=ca, clients=Clients(chosen))


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    return Path(environment[name]) if environment.get(name) else None
