"""What `cpg-trio up` writes where there is no terminal: one line for each change."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

import attrs
import trio

from cpg_trio._lines import one_line, printable_json
from cpg_trio.cli._up_view import doing
from cpg_trio.host.supervision import Phase, Replica, replica_title
from cpg_trio.logs import LineHandler

_MOST_OF_REASON = 500  # characters
_NAME_COLUMNS = 9
_MOST_OF_LINE = 4096  # characters
_HOST = "host"
_log = logging.getLogger("cpg_trio.output")


@attrs.frozen
class _Shown:
    """What was written last of a replica."""

    replica: Replica
    """It is kept, so that no other one has its place in memory: two have one number while one is replaced."""
    phase: Phase
    why: str
    began: float
    """Since when it is in that phase."""
    where: str
    """Where it was when it was somewhere."""


def _matters(replica: Replica) -> bool:
    """Whether another reason is a change: the steps of a start are none, what it waits for is one."""
    return replica.phase is not Phase.STARTING or replica.why.startswith("waits ")


class UpLines:
    """Writes lines for people, or JSON documents for programs. A thread writes: nothing waits for it."""

    def __init__(self, file: TextIO, *, json: bool) -> None:
        self._json = json
        self._handler = LineHandler(file)
        self._began = time.monotonic()
        self._last: dict[int, _Shown] = {}

    def listening(self, urls: Sequence[str]) -> None:
        """Write where the host listens."""
        took = time.monotonic() - self._began
        self._write(
            _HOST, f"listening on {', '.join(urls)} ({took:.1f} s)", state="listening", urls=list(urls)
        )

    def changed(self, replica: Replica) -> None:
        """Write what a replica does now, if that is not what it has done before."""
        now, before = time.monotonic(), self._last.get(id(replica))
        began, where = now, replica.where
        if before is not None:
            began = before.began if before.phase is replica.phase else now
            where = where or before.where
        why = replica.why if _matters(replica) else ""
        shown = _Shown(replica, replica.phase, why, began, where)
        if before is not None and (before.phase, before.why) == (shown.phase, shown.why):
            return
        self._last[id(replica)] = shown
        text = doing(replica, time.time())
        if replica.phase is Phase.READY and before is not None:
            text = f"{text} ({now - before.began:.1f} s)"
        elif replica.phase is Phase.STOPPED:
            text = ", ".join(filter(None, (text, where)))
            del self._last[id(replica)]
        self._write(
            replica_title(replica.plugin, replica.number),
            text,
            plugin=replica.plugin,
            replica=replica.number,
            state=replica.phase.value,
            why=replica.why,
            where=replica.where,
            pid=replica.pid,
            runs=replica.runs,
            failures=replica.failures,
            crash_loop=replica.looping,
        )

    def stopping(self) -> None:
        """Write that the platform stops."""
        self._write(_HOST, "stopping the plugins, then the host", state="stopping")

    def line(self, text: str) -> None:
        """Write a line that the program has printed: to the log, as those of plugins are."""
        _log.info("%s | %s", _HOST, one_line(text, _MOST_OF_LINE))

    def make_room(self) -> None:
        """Write what there is."""
        self._handler.flush()

    def end(self) -> None:
        """Write what is left."""
        self._handler.flush()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do nothing: a thread writes."""
        task_status.started()
        await trio.sleep_forever()

    def _write(self, name: str, text: str, **fields: object) -> None:
        if not self._json:
            self._handler.append(f"{name:<{_NAME_COLUMNS}} {one_line(text, _MOST_OF_REASON)}\n")
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told: Mapping[str, Any] = {"time": now, "name": name, **fields}
        self._handler.append(printable_json(json.dumps(told, ensure_ascii=False)) + "\n")
