"""A certificate for servers on this machine, and the authority that vouches for it."""

from __future__ import annotations

from pathlib import Path

import attrs
import trustme


@attrs.frozen
class Certificate:
    """The files of a certificate, as PEM."""

    file: Path
    """The certificate and its key (ECDSA, P-256)."""
    ca_file: Path

    @classmethod
    def made(cls, folder: Path) -> Certificate:
        """Make one for 127.0.0.1, in a folder."""
        ca, files = trustme.CA(), cls(folder / "own.pem", folder / "ca.pem")
        ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(files.file)
        ca.cert_pem.write_to_path(files.ca_file)
        return files

    @property
    def env(self) -> dict[str, str]:
        """The environment of a host that uses it, and trusts its authority."""
        return {"TLS_CERT": str(self.file), "TLS_CA": str(self.ca_file)}
