"""Where a host may listen: on addresses that other machines reach only with TLS."""

from __future__ import annotations

from collections.abc import Sequence

from cpg_trio.http import StartError
from cpg_trio.http.server.listen import is_private


def check_listening(binds: Sequence[str], *, encrypted: bool, variable: str = "BIND") -> None:
    """Check that plaintext stays on this machine: it has tokens in it, and all that plugins send.

    `variable` is the one that names the addresses. Raises: StartError.
    """
    public = [] if encrypted else [bind for bind in binds if not is_private(bind)]
    if public:
        raise StartError(
            f"the host would listen on {', '.join(public)} without TLS, and whoever is on the way could read"
            " the tokens: give it a certificate (TLS_CERT and TLS_KEY), or have it listen on this machine"
            f" only ({variable}=127.0.0.1), or, on a network where nobody reads along, say"
            " ALLOW_PLAINTEXT=true"
        )
