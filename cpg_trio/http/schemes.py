"""Plain HTTP where TLS is expected, and TLS where plain HTTP is: how to detect it, and the texts for it.

May touch: the log.
"""

from __future__ import annotations

import logging

from cpg_trio._throttle import LogThrottle
from cpg_trio.http.channel import Address

#: Texts for a client, with what to do.
TLS_IS_SPOKEN = "TLS is spoken here, not plain HTTP: use https://"
PLAIN_IS_SPOKEN = "plain HTTP is spoken here, not TLS: use http://"

_HANDSHAKE, _ALERT, _MAJOR = 0x16, 0x15, 0x03  # RFC 8446, section 5.1

_log = logging.getLogger("cpg_trio.http")  # the same that the rest of the serving side writes to


def is_tls(data: bytes) -> bool:
    """Whether a peer's first bytes are a TLS record."""
    return len(data) > 1 and data[0] in {_HANDSHAKE, _ALERT} and data[1] == _MAJOR


def is_text(data: bytes) -> bool:
    """Whether a peer's first bytes are a word, as HTTP begins in both directions."""
    return data[:1].isalpha()


class WrongSchemes:
    """Logs clients that use the wrong scheme; not each one, but now and then with their number."""

    def __init__(self) -> None:
        self._throttle = LogThrottle()

    def note(self, client: Address, what: str) -> None:
        """Note a client that got the text `what`."""
        if (more := self._throttle.suffix()) is not None:
            place = client[0] if client else "a Unix socket"
            _log.warning("a client at %s was told: %s%s", place, what, more)
