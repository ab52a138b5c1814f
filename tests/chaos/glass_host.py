"""A host that tells what it holds, in a line of JSON for each SIGUSR1. Its log has milliseconds.

`python -m tests.chaos.glass_host`, configured as any host, and by SERVE, a JSON object of `ServeConfig`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys

import attrs
import trio

from cpg_trio.host import Host, host_config
from cpg_trio.http import ServeConfig
from cpg_trio.logs import use_handler
from cpg_trio.process import run
from tests.processes import Running

GLASS_HOST = {"host": ("tests.chaos.glass_host",)}  # instead of the real one

_log = logging.getLogger("cpg_trio.host")


async def holdings(part: Running) -> dict[str, int]:
    """Return what a glass host holds now, by what it is."""
    number = part.output.count(" holds ") + 1
    part.process.send_signal(signal.SIGUSR1)
    held = await part.until(rf" holds {number}: (.*)\n")
    return {"file descriptors": part.open_files(), **json.loads(held[1])}


async def main(stop: trio.Event) -> None:
    serve = ServeConfig(**json.loads(os.environ.get("SERVE", "{}")))
    host = Host(attrs.evolve(host_config(os.environ), serve=serve))
    async with trio.open_nursery() as nursery:
        await nursery.start(_tell, host)
        await host.serve(stop, bind=f"127.0.0.1:{os.environ['PORT']}")
        nursery.cancel_scope.cancel()


async def _tell(host: Host, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        task_status.started()
        number = 0
        async for _ in signals:
            number += 1
            _log.info("holds %d: %s", number, json.dumps(_holdings(host)))


def _holdings(host: Host) -> dict[str, int]:
    registry = host.registry
    root = trio.lowlevel.current_root_task()
    assert root
    return {
        "tasks": _descendants(root),
        "identities": len(host.identities),
        "registrations": len(registry._by_id),
        "reports of health": len(registry._reports),
        "leases": len(host._liveness._leases),
        "calls": len(registry.calls._of_provider),
        "watches": len(host.watches),
    }


def _descendants(task: trio.lowlevel.Task) -> int:
    children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return len(children) + sum(map(_descendants, children))


if __name__ == "__main__":
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(created).3f %(message)s"))
    use_handler(handler)
    sys.exit(run(main))
