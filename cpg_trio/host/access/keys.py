"""The keys that a host signs runtime tokens with, and the tokens.

Hosts with a key in common accept each other's tokens, and a host that is restarted accepts its own. The
first key signs, and all of them verify. To change keys, put the new one first, and remove the old one when
all tokens that it has signed have expired.

A token is a JSON Web Token (RFC 7519) under HMAC-SHA-256. Only hosts read it; to plugins it is opaque.
`secret_lines` reads the files of keys and of other secrets.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import jwt

from cpg_trio._files import check_writable
from cpg_trio._reload import Reloaded, ReloadedFiles, reason
from cpg_trio.assertions import ALGORITHM, Purpose, is_time, shared_key, signed_claims
from cpg_trio.http import StartError

_OTHERS = 0o007

_MIN_KEY_LENGTH = 32
_MOST_KEYS = 10
_MAX_LENGTH = 8192


def secret_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file with their numbers, except empty lines and those that begin with `#`.

    Raises: OSError; ValueError for a file that is not text, or that every user may read or write.
    """
    with path.open(encoding="utf-8") as file:
        if os.fstat(file.fileno()).st_mode & _OTHERS:
            raise ValueError("everybody may read it or write to it: take that away (chmod o= …)")
        text = file.read()
    for number, line in enumerate(text.splitlines(), 1):
        if (content := line.strip()) and not content.startswith("#"):
            yield number, content


@attrs.frozen
class Claims:
    """The content of a runtime token."""

    runtime_id: str
    self_id: str
    expires_at: float
    """In seconds since 1970."""
    provides: tuple[str, ...] | None = None
    """The service types that the plugin has declared to provide; None if it has declared nothing."""
    requires: tuple[str, ...] | None = None
    address: str = ""
    """The address that the handshake came from, without a port; empty for a Unix socket."""
    issued_at: float | None = None
    """In seconds since 1970; None in tokens of older versions, which do not have it."""
    uses: tuple[str, ...] = ()


class Keys:
    """Signs and verifies runtime tokens. Without keys it makes one, which is lost with the process."""

    def __init__(self, keys: Sequence[str] = (), path: Path | None = None) -> None:
        """Take `keys`, or the file at `path`. Raises: ValueError for keys that cannot be used."""
        self.given = bool(keys) or path is not None
        """Whether other hosts can have them, too. A key that is made here is of this process alone."""
        self._path = path
        self._file: Reloaded[tuple[bytes, ...]] | None = None
        self._keys = _checked(keys) if keys else (_new_key(),)

    def open(self, *, make: bool = True) -> None:
        """Read the file of keys if there is a path; `make` it if it is missing. To be called first.

        Raises: StartError for a file that cannot be used.
        """
        if self._path is None or self._file is not None:
            return
        with self._start_errors():
            if make:
                _make(self._path)
            self._file = Reloaded([self._path], partial(_read, self._path))

    def check(self) -> None:
        """Read the file of keys if it is there, and make nothing. Raises: StartError."""
        with self._start_errors():
            if self._path is not None and self._path.exists():
                _read(self._path)
            elif self._path is not None:
                check_writable(self._path.parent)

    @contextmanager
    def _start_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise StartError(
                f"cannot keep the host's key in {self._path}: {reason(error)}; mend it, or choose"
                " another file with CPG_HOST_KEY_FILE"
            ) from error

    @property
    def file(self) -> ReloadedFiles | None:
        """The file that has the keys, if one has, once it is open."""
        return self._file

    def sign(self, claims: Claims) -> str:
        """Return a token, a different one each time."""
        payload: dict[str, Any] = {
            "sub": claims.runtime_id,
            "name": claims.self_id,
            "exp": round(claims.expires_at, 3),
            "adr": claims.address,
            "jti": secrets.token_urlsafe(9),
        }
        if claims.issued_at is not None:
            payload["iat"] = round(claims.issued_at, 3)
        for name, types in (("prv", claims.provides), ("req", claims.requires), ("use", claims.uses or None)):
            if types is not None:
                payload[name] = list(types)
        return jwt.encode(payload, self.all[0], ALGORITHM)

    def verify(self, token: str) -> Claims | None:
        """Return the content of a token, None if no key has signed it. Its times are not checked."""
        if len(token) > _MAX_LENGTH:
            return None
        for key in self.all:
            with suppress(jwt.InvalidTokenError):
                return _claims(signed_claims(token, key, ("sub", "name", "adr")))
        return None

    @property
    def all(self) -> tuple[bytes, ...]:
        """The keys of now, that which signs first. The same object for as long as they are the same."""
        return self._keys if self._file is None else self._file.value

    def derived(self, purpose: Purpose) -> tuple[bytes, ...]:
        """Return a key of a purpose for each of the keys, in their order. It tells nothing of them."""
        return tuple(shared_key(key, purpose) for key in self.all)


def _claims(payload: dict[str, Any]) -> Claims:
    return Claims(
        payload["sub"],
        payload["name"],
        float(payload["exp"]),
        _types(payload, "prv"),
        _types(payload, "req"),
        payload["adr"],
        _issued_at(payload),
        _types(payload, "use") or (),
    )


def _issued_at(payload: dict[str, Any]) -> float | None:
    issued_at = payload.get("iat")
    if issued_at is not None and not is_time(issued_at):
        raise jwt.InvalidTokenError("iat is no time")
    return None if issued_at is None else float(issued_at)


def _types(payload: dict[str, Any], name: str) -> tuple[str, ...] | None:
    types = payload.get(name)
    if types is None:
        return None
    if not isinstance(types, list) or not all(isinstance(each, str) for each in types):
        raise jwt.InvalidTokenError(f"{name} is not a list of service types")
    return tuple(types)


def _new_key() -> bytes:
    return secrets.token_urlsafe(32).encode()


def _make(path: Path) -> None:
    """Make a file with a new key unless there is one. It appears whole, as another host may make it, too."""
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    file = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(file, "wb") as new:
            new.write(_new_key() + b"\n")
            new.flush()
            os.fsync(new.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()


def _read(path: Path) -> tuple[bytes, ...]:
    return _checked([line for _, line in secret_lines(path)])


def _checked(keys: Iterable[str]) -> tuple[bytes, ...]:
    found = tuple(key.encode() for key in keys)
    if not found or len(found) > _MOST_KEYS or min(map(len, found)) < _MIN_KEY_LENGTH:
        raise ValueError(f"1 to {_MOST_KEYS} keys are needed, each of {_MIN_KEY_LENGTH} characters or more")
    return found
