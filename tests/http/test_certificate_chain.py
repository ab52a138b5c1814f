"""Which certificates are sent with ours: those that OpenSSL would send, found when the files are read."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trustme

from cpg_trio.http import Clients, TlsConfig
from tests.certificates import LOCAL, Files, issue

_BOTH = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@attrs.frozen
class Case:
    """A certificate, and what of those above it is in which file."""

    cert: bytes
    key: bytes
    with_it: bytes = b""
    authorities: bytes = b""

    def config(self, folder: Path) -> TlsConfig:
        files = Files(folder / "own.pem", folder / "own.key", folder / "ca.pem")
        files.cert.write_bytes(self.cert + self.with_it)
        files.key.write_bytes(self.key)
        files.ca.write_bytes(self.authorities)
        return files.config()


def below_the_root() -> Case:
    ca = trustme.CA()
    return Case(*issue(ca, *LOCAL), authorities=ca.cert_pem.bytes())


def below_an_intermediate_in_its_file() -> Case:
    root = trustme.CA()
    middle = root.create_child_ca()
    return Case(*issue(middle, *LOCAL), middle.cert_pem.bytes(), root.cert_pem.bytes())


def below_an_intermediate_among_the_authorities() -> Case:
    root = trustme.CA()
    middle = root.create_child_ca()
    return Case(*issue(middle, *LOCAL), authorities=root.cert_pem.bytes() + middle.cert_pem.bytes())


def below_an_intermediate_without_its_root() -> Case:
    middle = trustme.CA().create_child_ca()
    return Case(*issue(middle, *LOCAL), authorities=middle.cert_pem.bytes())


def of_a_stranger() -> Case:
    return Case(*issue(trustme.CA(), *LOCAL), authorities=trustme.CA().cert_pem.bytes())


def of_rsa() -> Case:
    ca = trustme.CA(key_type=trustme.KeyType.RSA)
    issued = ca.issue_cert(*LOCAL, key_type=trustme.KeyType.RSA)
    cert, key = issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes()
    return Case(cert, key, authorities=ca.cert_pem.bytes())


CASES: list[Callable[[], Case]] = [
    below_the_root,
    below_an_intermediate_in_its_file,
    below_an_intermediate_among_the_authorities,
    below_an_intermediate_without_its_root,
    of_a_stranger,
    of_rsa,
]


def by_openssl(config: TlsConfig, protocol: int) -> ssl.SSLContext:
    """Return a context that is given the files, and nothing else."""
    context = ssl.SSLContext(protocol)
    assert config.cert_file
    assert config.ca_file
    context.load_cert_chain(config.cert_file, config.key_file)
    context.load_verify_locations(config.ca_file)
    return context


def trusting() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return contexts of a server and of a client that verifies nothing."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), client


def sent_by(shown: ssl.SSLContext, other: ssl.SSLContext, *, server_side: bool) -> list[bytes]:
    """Return the certificates that one side sends in a handshake, whatever becomes of that."""
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        shown.wrap_bio(one, two, server_side=server_side),
        other.wrap_bio(two, one, server_side=not server_side),
    ]
    for _ in range(4):
        for end in ends:
            with suppress(ssl.SSLError):
                end.do_handshake()
    chain = getattr(ends[1], "_sslobj").get_unverified_chain()  # noqa: B009 - it is public from 3.13 on
    return [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in chain or []]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", _BOTH)
def test_a_server_sends_what_openssl_would_send(
    tmp_path: Path, case: Callable[[], Case], version: ssl.TLSVersion
) -> None:
    config = case().config(tmp_path)
    _, client = trusting()
    client.maximum_version = version
    sent = [
        sent_by(context, client, server_side=True)
        for context in (config._server_context(), by_openssl(config, ssl.PROTOCOL_TLS_SERVER))
    ]
    assert sent[0] == sent[1] != []


@pytest.mark.parametrize("case", [below_the_root, below_an_intermediate_among_the_authorities])
def test_so_does_a_client(tmp_path: Path, case: Callable[[], Case]) -> None:
    config = case().config(tmp_path)
    server = by_openssl(config, ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    by_itself = by_openssl(config, ssl.PROTOCOL_TLS_CLIENT)
    by_itself.check_hostname = False
    ours = config._client_context()
    ours.check_hostname = False
    sent = [sent_by(context, server, server_side=False) for context in (ours, by_itself)]
    assert sent[0] == sent[1]
    assert len(sent[0]) > 1


def test_what_is_sent_is_found_when_the_files_are_read_and_not_in_each_handshake(tmp_path: Path) -> None:
    root = trustme.CA()
    middle = root.create_child_ca()
    config = Case(*issue(middle, *LOCAL), authorities=middle.cert_pem.bytes()).config(tmp_path)
    _, client = trusting()
    ours, by_itself = config._server_context(), by_openssl(config, ssl.PROTOCOL_TLS_SERVER)
    for context in (ours, by_itself):  # as if the file had had it
        context.load_verify_locations(cadata=root.cert_pem.bytes().decode())
    assert len(sent_by(by_itself, client, server_side=True)) == 3
    assert len(sent_by(ours, client, server_side=True)) == 2


@pytest.mark.parametrize("clients", list(Clients))
def test_no_file_is_left_open(tmp_path: Path, clients: Clients) -> None:
    config = attrs.evolve(below_the_root().config(tmp_path), clients=clients)
    open_files = set(Path("/proc/self/fd").iterdir())
    config._server_context()
    config._client_context()
    assert len(set(Path("/proc/self/fd").iterdir())) <= len(open_files)
