"""The process of a hostile client: `python -m tests.abuse.attacker ATTACK SECONDS ADDRESS`.

ATTACK is the name of one, or `everything`: each flood at once, by few tasks.

It is told whom to attack by its environment: HOST_URL, PLUGIN_URL, PROVIDER_ID. At its end it writes what it
was answered, as one line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys

import attrs
import trio

from tests.abuse.floods import FLOODS
from tests.abuse.hoards import HOARDS
from tests.abuse.hostile import Attack, Hostile, besiege

_FEW = 2


async def main(name: str, seconds: float, address: str) -> None:
    """Attack."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    environment = os.environ
    hostile = Hostile(environment["HOST_URL"], environment["PLUGIN_URL"], environment["PROVIDER_ID"], address)
    sys.stdout.write("attacking\n")
    sys.stdout.flush()
    await besiege(hostile, _attacks(name), seconds)
    sys.stdout.write(f"answered {json.dumps(hostile.counts)}\n")


def _attacks(name: str) -> list[Attack]:
    if name == "everything":
        return [attrs.evolve(attack, at_once=_FEW) for attack in FLOODS.values()]
    return [(FLOODS | HOARDS)[name]]


if __name__ == "__main__":
    trio.run(main, sys.argv[1], float(sys.argv[2]), sys.argv[3])
