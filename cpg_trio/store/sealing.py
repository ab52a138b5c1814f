"""Sealing of the secrets that leave a host for a store which others read: AES-256-GCM, by `cryptography`.

A key is derived from each of the hosts' keys by HKDF-SHA-256 (RFC 5869), and so is its id, which tells
nothing of either. What is sealed says by which key, and opens only under the key of the entry that it was
sealed for, and in the directory that it was sealed in: these are its associated data.

A nonce is 96 random bits. NIST SP 800-38D, 8.3, permits 2**32 of them for a key: what has not changed is not
to be sealed again.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from cpg_trio.http import StartError
from cpg_trio.store._store import StoreError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = "v1"
_NONCE_BYTES = 12
_KEY_BYTES, _KEY_ID_BYTES = 32, 8
_FOR_KEY, _FOR_KEY_ID = b"cpg_trio store v1 key", b"cpg_trio store v1 key id"


class UnsealError(StoreError):
    """What is sealed cannot be opened; the message says why, and what to do."""


@attrs.frozen
class _Ciphers:
    """What is derived from the keys of a moment."""

    keys: Sequence[bytes] = attrs.field(repr=False)
    first: str
    """The id of the key that seals."""
    by_id: Mapping[str, AESGCM]


class Sealer:
    """Seals texts for the store of one directory.

    `keys` returns the hosts' keys of now: the first one seals, and each opens. `directory` is the id of the
    directory. Raises: StartError without the package `cryptography`.
    """

    def __init__(self, keys: Callable[[], Sequence[bytes]], directory: str) -> None:
        self.directory = directory
        self._keys = keys
        self._derived = _derived(keys())

    @property
    def key_id(self) -> str:
        """The id of the key that seals now."""
        return self._ciphers().first

    @property
    def key_ids(self) -> Sequence[str]:
        """The ids of all keys that open now, that which seals first."""
        return list(self._ciphers().by_id)

    def seal(self, entry_key: str, data: bytes) -> str:
        """Return some data as a text that opens only with one of the keys, under the key of its entry."""
        ciphers, nonce = self._ciphers(), secrets.token_bytes(_NONCE_BYTES)
        sealed = ciphers.by_id[ciphers.first].encrypt(nonce, data, self._associated(entry_key))
        return f"{_VERSION}.{ciphers.first}.{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def unseal(self, entry_key: str, text: str) -> bytes:
        """Return the data of a sealed text. Raises: UnsealError."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an extra

        key_id, sealed = _parts(entry_key, text)
        cipher = self._ciphers().by_id.get(key_id)
        if cipher is None:
            raise UnsealError(
                f"{entry_key} is sealed by the key {key_id}, which is none of the hosts' keys here"
                f" ({', '.join(self.key_ids)}): give all hosts of a directory the same CPG_HOST_KEY, and keep"
                " an old key behind the new one while there is something that it has sealed"
            )
        try:
            return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], self._associated(entry_key))
        except (InvalidTag, ValueError):  # it is too short to have a nonce
            raise UnsealError(
                f"{entry_key} does not open with the key {key_id} that it names: it has been altered, or"
                " sealed for another entry or in another directory"
            ) from None

    def sealed_by_first(self, text: str) -> bool:
        """Whether a sealed text is by the key that seals now."""
        return text.startswith(f"{_VERSION}.{self.key_id}.")

    def _ciphers(self) -> _Ciphers:
        if (keys := self._keys()) is not self._derived.keys:
            self._derived = _derived(keys)
        return self._derived

    def _associated(self, entry_key: str) -> bytes:
        return f"{self.directory}\0{entry_key}".encode()


def _parts(entry_key: str, text: str) -> tuple[str, bytes]:
    """Return the id of the key of a sealed text, and what is sealed with its nonce. Raises: UnsealError."""
    version, _, rest = text.partition(".")
    if version != _VERSION:
        raise UnsealError(
            f"{entry_key} is not sealed in a form that this release reads ({version!r:.20}, not {_VERSION}):"
            " run the release that has written it, or a newer one"
        )
    key_id, _, encoded = rest.partition(".")
    try:
        return key_id, base64.b64decode(encoded.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeError, binascii.Error):
        raise UnsealError(f"{entry_key} has been altered: what is sealed in it is no Base64") from None


def _derived(keys: Sequence[bytes]) -> _Ciphers:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise StartError(
            "a store that several hosts share needs the package cryptography, as secrets are sealed in it:"
            " pip install 'cpg-trio[etcd]'"
        ) from error
    ids = [_derive(key, _FOR_KEY_ID, _KEY_ID_BYTES).hex() for key in keys]
    ciphers = (AESGCM(_derive(key, _FOR_KEY, _KEY_BYTES)) for key in keys)
    return _Ciphers(keys, ids[0], dict(zip(ids, ciphers, strict=True)))


def _derive(key: bytes, purpose: bytes, length: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

    return HKDF(SHA256(), length, salt=None, info=purpose).derive(key)
