"""The tokens that open the admin addresses other than the Unix socket, kept as digests.

There may be several, so that one can be replaced without a moment at which none is valid.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from cpg_trio import wire
from cpg_trio._reload import Reloaded, ReloadedFiles
from cpg_trio.host.access import secret_lines

MIN_LENGTH = 32
_MOST = 10
_MAX_LENGTH = 1024


class AdminTokens:
    """The tokens that let operators in by `AdminConfig.bind`. Kept as digests."""

    def __init__(self, tokens: Sequence[str] | Path) -> None:
        """Take tokens, or the file that has one a line, which is read again when it changes.

        Raises: ValueError for tokens, OSError or ValueError for a file, that cannot be used.
        """
        self._file: Reloaded[tuple[bytes, ...]] | None = None
        self._digests: tuple[bytes, ...] = ()
        if isinstance(tokens, Path):
            self._file = Reloaded([tokens], partial(_read, tokens))
        else:
            self._digests = _checked(tokens)

    @property
    def file(self) -> ReloadedFiles | None:
        """The file that has the tokens, if one has."""
        return self._file

    def proof(self, shown: str) -> bytes | None:
        """Return what is kept of a token that is valid, None for any other text."""
        digest = wire.token_digest(shown[: _MAX_LENGTH + 1])
        return digest if self.holds(digest) else None

    def holds(self, proof: bytes) -> bool:
        """Whether the token of a proof is valid now. Each comparison takes the same time."""
        digests = self._digests if self._file is None else self._file.value
        return sum(hmac.compare_digest(proof, digest) for digest in digests) > 0  # all are compared


def _read(path: Path) -> tuple[bytes, ...]:
    return _checked([line for _, line in secret_lines(path)])


def _checked(tokens: Iterable[str]) -> tuple[bytes, ...]:
    found = list(tokens)
    if not 0 < len(found) <= _MOST or not all(map(_is_token, found)):
        raise ValueError(
            f"1 to {_MOST} tokens are needed, each of {MIN_LENGTH} to {_MAX_LENGTH} printable characters"
            " without spaces"
        )
    return tuple(map(wire.token_digest, found))


def _is_token(text: str) -> bool:
    printable = text.isascii() and text.isprintable() and " " not in text
    return printable and MIN_LENGTH <= len(text) <= _MAX_LENGTH
