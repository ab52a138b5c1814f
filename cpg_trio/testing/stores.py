"""Checks of a `Store`: whatever keeps a directory has to pass them."""

from __future__ import annotations

import secrets

import trio

from cpg_trio.store import MAX_OPERATIONS, Commit
from cpg_trio.testing import _shared_store_checks, _store_checks
from cpg_trio.testing._checks import checks_of, run_check
from cpg_trio.testing._store_check import Check, MakeStore, Tested

_TIMEOUT_S = 30.0  # of one check, real time


async def check_store(make_store: MakeStore) -> None:
    """Put a store through its paces, in a Trio task.

    `make_store` returns the store, not opened yet: each time the same data, and where several hosts may have
    it open, several at once. The checks use keys of their own, below `check/`, and leave none behind. Those
    of changes and of presence concern stores that hosts share.

    Raises: AssertionError, which says which check has failed, and why. What a store raises that it may not
    raise is the cause of one.
    """
    async with make_store() as store:
        shared = store.shared
    modules = (_store_checks, _shared_store_checks) if shared else (_store_checks,)
    for check in (each for module in modules for each in checks_of(module, Tested)):
        await _run(check, make_store)


async def _run(check: Check, make_store: MakeStore) -> None:
    tested = Tested(make_store, f"check/{secrets.token_hex(8)}/")
    try:
        await run_check(check, tested, _TIMEOUT_S)
    finally:
        with trio.CancelScope(shield=True):
            await _clear(tested)


async def _clear(tested: Tested) -> None:
    """Delete what a check has left behind."""
    async with tested.open_store() as store:
        keys = [entry.key for entry in (await store.load(tested.prefix)).entries]
        for begin in range(0, len(keys), MAX_OPERATIONS):
            await store.commit(Commit(deletes=keys[begin : begin + MAX_OPERATIONS]))
