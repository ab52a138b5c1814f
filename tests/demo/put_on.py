"""A process that puts pairs into a file's store for ever, and says so of each that is kept."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import trio

from cpg_trio.demo._store import Store, open_store


async def put_on(store: Store, name: int) -> None:
    for number in itertools.count():
        await store.put(f"{name}-{number}", f"u{number}")
        os.write(1, f"{name}-{number} u{number}\n".encode())


async def main() -> None:
    async with open_store(Path(sys.argv[1])) as store, trio.open_nursery() as nursery:
        for name in range(16):
            nursery.start_soon(put_on, store, name)


if __name__ == "__main__":
    trio.run(main)
