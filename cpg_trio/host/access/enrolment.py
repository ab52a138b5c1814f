"""Enrolment: which plugins get an identity at all.

Without enrolment tokens every plugin does. With them, a plugin needs the token of its name: a secret that the
operator gives to the plugin and to the host.

    # a file of enrolment tokens: a plugin's name, and its token
    storage-plugin  1f0a…
    logger-plugin   77be…

A file without a token is refused, since somebody may be writing it. A file with the single line `none` lets
no plugin in.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from cpg_trio import wire
from cpg_trio._reload import Reloaded, ReloadedFiles
from cpg_trio.host.access.keys import secret_lines

_MIN_LENGTH = 16
_NOBODY_MEANT = "none"


class Enrolment:
    """The enrolment tokens, kept as digests. Without any, every plugin is let in."""

    def __init__(self, tokens: Mapping[str, str] | Path | None = None) -> None:
        """Take tokens by plugin name, or the file that has them, which is read again when it changes.

        Raises: ValueError for tokens, OSError or ValueError for a file, that cannot be used.
        """
        self._file: Reloaded[Mapping[str, bytes]] | None = None
        self._digests: Mapping[str, bytes] | None = None
        if isinstance(tokens, Path):
            self._file = Reloaded([tokens], partial(_read, tokens))
        elif tokens is not None:
            self._digests = _digests(tokens)

    @property
    def file(self) -> ReloadedFiles | None:
        """The file that has the tokens, if one has."""
        return self._file

    def why_not(self, self_id: str, shown: str) -> str:
        """Return why a plugin with a token (empty for none) is not let in; empty if it is."""
        digests = self._file.value if self._file else self._digests
        if digests is None:
            return ""
        digest = digests.get(self_id, _NOBODY)
        if hmac.compare_digest(digest, wire.token_digest(shown)):
            return ""
        return "the enrolment token is wrong" if shown else "an enrolment token is needed"

    def digest(self, self_id: str) -> bytes | None:
        """Return the digest of a plugin's enrolment token, with which the host proves itself to it."""
        digests = self._file.value if self._file else self._digests
        return (digests or {}).get(self_id)


def parse_tokens(pairs: str) -> dict[str, str]:
    """Return the tokens of `storage-plugin=1f0a…,logger-plugin=77be…`. Raises: ValueError."""
    tokens = {}
    for pair in filter(None, map(str.strip, pairs.split(","))):
        self_id, is_pair, token = pair.partition("=")
        if not is_pair:  # it may be a token, which no error names
            raise ValueError("they must be like 'storage-plugin=1f0a…', a plugin's name and its token")
        tokens[self_id] = token
    return tokens


def _read(path: Path) -> Mapping[str, bytes]:
    tokens: dict[str, str] = {}
    lines = list(secret_lines(path))
    if not lines:
        raise ValueError("it has no enrolment tokens; if nobody is to be let in, write: none")
    if [line for _, line in lines] == [_NOBODY_MEANT]:
        return {}
    for number, line in lines:
        words = line.split()
        if len(words) != 2:  # noqa: PLR2004 - a name and a token
            raise ValueError(f"line {number} is not a plugin's name and its token")
        if words[0] in tokens:
            raise ValueError(f"line {number} names {words[0]} for a second time")
        tokens[words[0]] = words[1]
    return _digests(tokens)


def _digests(tokens: Mapping[str, str]) -> Mapping[str, bytes]:
    for self_id, token in tokens.items():
        wire.validate_self_id(self_id)
        if len(token) < _MIN_LENGTH or not (token.isascii() and token.isprintable()):
            raise ValueError(f"the token of {self_id} must be {_MIN_LENGTH} printable characters or more")
    return {self_id: wire.token_digest(token) for self_id, token in tokens.items()}


_NOBODY = bytes(32)  # no token has this digest
