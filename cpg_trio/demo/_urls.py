"""Which URLs the shortener accepts."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from cpg_trio.rpc import Code, ConnectError

MAX_URL_BYTES = 32 * 1024

_NOT_IN_A_HOST = re.compile(r"[\s<>\\^|`{}\"]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_START = re.compile(r"https?://", re.IGNORECASE)


def check_url(url: str) -> None:
    """Raise ConnectError `invalid_argument` unless this is an absolute http or https URL."""
    try:
        parts = urlsplit(url)
        has_host = parts.hostname and not _NOT_IN_A_HOST.search(parts.netloc) and parts.port != 0
        good = _START.match(url) and has_host
    except ValueError:
        good = False
    if not good or _CONTROL.search(url):
        raise ConnectError(Code.INVALID_ARGUMENT, "url must be an absolute http or https URL")
    if len(url.encode()) > MAX_URL_BYTES:
        raise ConnectError(Code.INVALID_ARGUMENT, f"url is longer than {MAX_URL_BYTES} bytes")
