"""The lines of `up`: one for each change of a replica, in words."""

from __future__ import annotations

import io
import re
import time

from cpg_trio.cli._up_lines import UpLines
from cpg_trio.host.supervision import Phase, Replica


def written(*changes: tuple[Replica, dict[str, object]]) -> list[str]:
    """Return the lines of replicas that are changed so."""
    stream = io.StringIO()
    lines = UpLines(stream, json=False)
    for replica, change in changes:
        for name, value in change.items():
            setattr(replica, name, value)
        lines.changed(replica)
    lines.stopping()
    lines._handler.close()
    return [re.sub(r"\(\d+\.\d s\)", "(T)", line) for line in stream.getvalue().splitlines()][:-1]


def test_each_change_is_a_line_and_the_steps_of_a_start_are_none() -> None:
    it = Replica("thumbs", 1)
    assert written(
        (it, {"why": "waits for logger"}),
        (it, {"phase": Phase.STARTING, "why": ""}),
        (it, {"where": "pid 7"}),
        (it, {"why": "it has not come for its identity"}),
        (it, {"why": "waits for storage"}),
        (it, {"phase": Phase.READY, "why": ""}),
        (it, {"runtime_id": "thumbs-1"}),
    ) == [
        "thumbs    waiting for logger",
        "thumbs    starting",
        "thumbs    starting, pid 7: waits for storage",
        "thumbs    ready, pid 7 (T)",
    ]


def test_one_that_fails_is_told_with_the_time_the_count_and_the_reason() -> None:
    it = Replica("thumbs", 2, phase=Phase.BACKING_OFF, why="exit status 3: no\x1b[31m luck", failures=1)
    it.again_at = time.time() + 3.5
    assert written(
        (it, {}),
        (it, {"failures": 12, "looping": True, "why": "exit status 4"}),
        (it, {"phase": Phase.FAILED, "why": "exit status 5"}),
    ) == [
        "thumbs/2  backing off, again in 4 s: exit status 3: no\\x1b[31m luck",
        "thumbs/2  crash loop, backing off, again in 4 s (12th time): exit status 4",
        "thumbs/2  failed: exit status 5",
    ]


def test_two_that_have_one_number_while_one_is_replaced_are_told_apart() -> None:
    old, new = Replica("a", 1, phase=Phase.READY, where="pid 1"), Replica("a", 1, phase=Phase.STARTING)
    assert written(
        (old, {}),
        (new, {}),
        (new, {"phase": Phase.READY, "where": "pid 2"}),
        (old, {"phase": Phase.STOPPING}),
        (old, {"phase": Phase.STOPPED, "where": ""}),
    ) == [
        "a         ready, pid 1",
        "a         starting",
        "a         ready, pid 2 (T)",
        "a         stopping, pid 1",
        "a         stopped, pid 1",
    ]
