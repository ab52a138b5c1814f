"""Where a host keeps its state, as its settings say: in a file, in a store that hosts share, or nowhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from cpg_trio._reload import reason
from cpg_trio.host.access import Keys
from cpg_trio.host.cluster import check_fit, check_given
from cpg_trio.http import StartError
from cpg_trio.process import list_from_environment, secret_from_environment
from cpg_trio.store import EtcdStore, EtcdUrl, SqliteStore, Store


def keys_of(environment: Mapping[str, str]) -> Keys:
    """Return the keys: in `CPG_HOST_KEY`, in `CPG_HOST_KEY_FILE`, or in the file beside the state file.

    Raises: StartError.
    """
    if keys := list_from_environment("CPG_HOST_KEY", environment):
        try:
            return Keys(keys)
        except ValueError as error:
            raise StartError(f"CPG_HOST_KEY: {error}") from error
    path, state = environment.get("CPG_HOST_KEY_FILE"), environment.get("STATE_PATH")
    return Keys(path=Path(path) if path else Path(f"{state}.key") if state else None)


def store_of(environment: Mapping[str, str], keys: Keys) -> Store | None:
    """Return what the state is kept in, which is not opened; None for nothing. Raises: StartError."""
    path, url = environment.get("STATE_PATH"), environment.get("STATE_URL")
    if path and url:
        raise StartError("STATE_PATH and STATE_URL are two places for one state: set one of them")
    if url:
        check_given(keys)
        return _shared(url, _password(environment))
    return SqliteStore(Path(path)) if path else None


async def check_store(store: Store, keys: Keys) -> None:
    """Check that a host with some keys could use a store; change nothing. Raises: StartError."""
    if await store.check() and store.shared:
        keys.open(make=False)
        async with store:
            await check_fit(store, keys)


def _shared(url: str, password: Callable[[], str] | None) -> Store:
    try:
        parsed = EtcdUrl.parse(url)
    except ValueError as error:
        raise StartError(f"STATE_URL: {reason(error)}") from None
    if parsed.password:
        raise StartError(
            "STATE_URL has a password in it, which others may see: put it in STATE_PASSWORD, or in a file"
            " that STATE_PASSWORD_FILE names"
        )
    if parsed.user and password is None:
        raise StartError(
            f"STATE_URL names the user {parsed.user!r}: set STATE_PASSWORD or STATE_PASSWORD_FILE"
        )
    if password is not None and not parsed.user:
        raise StartError(
            "STATE_PASSWORD needs the user whose it is: name it in STATE_URL, as in etcd://user@…"
        )
    return EtcdStore(parsed, password)


def _password(environment: Mapping[str, str]) -> Callable[[], str] | None:
    """Return what reads the password of the store's user; None without one. Raises: StartError."""
    if not secret_from_environment("STATE_PASSWORD", environment):
        return None

    def read() -> str:
        try:  # the file may have been replaced
            return secret_from_environment("STATE_PASSWORD", environment)
        except StartError as error:
            raise ValueError(str(error)) from None

    return read
