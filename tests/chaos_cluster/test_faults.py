"""Random faults, one of each tier at a time, under load.

CLUSTER_SECONDS says for how long (60 by default), CLUSTER_SEED which faults come.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import trio

from tests.chaos.trial import tell
from tests.chaos_cluster.faults import FAULTS, HELD_S
from tests.chaos_cluster.platform import LEASE_S, SLACK_S, calling, platform

SECONDS = float(os.environ.get("CLUSTER_SECONDS", "60"))
SEED = os.environ.get("CLUSTER_SEED", "")
SERVICES = [f"echo-{number}" for number in range(11)]
REPLICAS, CALLERS = 4, 6  # 44 providers and 6 callers: fifty plugins
MOST_UNCERTAIN = 0.01  # the share of calls that may be lost on the way in one fault, without a trace


async def test_nothing_is_lost_doubled_or_misrouted_through_faults_of_each_tier(tmp_path: Path) -> None:
    seed = SEED or str(random.SystemRandom().randrange(10**6))
    rng = random.Random(seed)
    expected = len(SERVICES) * REPLICAS
    async with platform(tmp_path, SERVICES, replicas=REPLICAS, callers=CALLERS) as it:
        tell(f"seed {seed}")
        async with calling(it):
            end = trio.current_time() + SECONDS
            while trio.current_time() < end:
                name = rng.choice(list(FAULTS))
                tell(f"--- {name}")
                async with FAULTS[name](it, rng) as away:
                    if away or name.startswith("member"):
                        await trio.sleep(HELD_S)
                        await it.agree(expected, but=away, within_s=LEASE_S + SLACK_S)
                await it.agree(expected, within_s=2 * LEASE_S + SLACK_S)
        it.ledger.check(uncertain=int(MOST_UNCERTAIN * len(it.ledger.ended)))
        for process in [*(host.process for host in it.hosts), *it.workers]:
            for run in process.runs:
                assert "Traceback" not in run.output, f"a traceback in the log of {process.name}"
