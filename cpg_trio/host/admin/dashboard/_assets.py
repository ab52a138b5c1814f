"""The files that pages need: read once, so that no path of a request ever reaches the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files

import attrs

_TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}


@attrs.frozen
class Asset:
    """A file, with its content type and the validator of caches (RFC 9110, section 8.8.3)."""

    body: bytes
    content_type: bytes
    etag: bytes


def load_assets() -> Mapping[str, Asset]:
    """Return the static files by name."""
    assets = {}
    for file in (files(__package__) / "static").iterdir():
        kind = _TYPES.get(file.name[file.name.rfind(".") :])
        if kind is not None:
            body = file.read_bytes()
            assets[file.name] = Asset(body, kind, f'"{hashlib.sha256(body).hexdigest()[:16]}"'.encode())
    return assets
