"""The screen of the command `top`."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import trio
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from cpg_trio.cli._admin import AdminOptions
from cpg_trio.cli._admin_address import find_admin
from cpg_trio.cli._admin_client import admin_client
from cpg_trio.cli._errors import CommandError
from cpg_trio.cli._output import Output, printable
from cpg_trio.cli._plugins import COLUMNS, plugin_rows
from cpg_trio.cli._status import facts, headline
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.states import State

_OTHER_LINES = 3  # a blank one, the titles, and the last
_WORST_FIRST = [state.number for state in reversed(State)]
_ENDS = {b"q", b"Q", b""}


def show_screen(options: AdminOptions, every: float) -> None:
    """Show the screen until q; Ctrl-C leaves it as KeyboardInterrupt. The terminal is as before after it."""
    trio.run(_run, options, every)


async def _run(options: AdminOptions, every: float) -> None:
    out = Output()
    with (
        _keys_at_once(),
        Live(console=out.console, screen=True, auto_refresh=False, redirect_stderr=False) as live,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wait_for_q, nursery.cancel_scope)
            while True:
                live.update(await _next_picture(options, out), refresh=True)
                await trio.sleep(every)


async def _next_picture(options: AdminOptions, out: Output) -> RenderableType:
    """Return what the screen shows now. A host that is away is shown as such."""
    try:
        async with admin_client(find_admin(options.admin, os.environ)) as host:
            status = await host.get_status(pb.GetStatusRequest())
            plugins = await host.list_plugins(pb.ListPluginsRequest())
    except CommandError as error:
        return Group(Text(str(error), style="red"), Text("q ends", style="bright_black"))
    return picture(status, list(plugins.plugins), out)


def picture(status: pb.GetStatusResponse, plugins: list[pb.Plugin], out: Output) -> RenderableType:
    """Return a screen: the status, and as many plugins as there is room for, the worst first."""
    head = [headline(status, out), Text("")]
    head += [out.label(f"  {name}", 11) + text for name, text in facts(status, out)]
    head = [Text() + printable(line) for line in head]
    for line in head:
        line.truncate(out.console.width, overflow="ellipsis")
    worst_first = sorted(plugins, key=lambda each: _rank(each.state))
    room = max(out.console.height - len(head) - _OTHER_LINES, 1)
    table = out.as_table(COLUMNS[:-1], plugin_rows(worst_first[:room], out))  # one line each
    more = len(plugins) - room
    last = Text(f"and {more} more; q ends" if more > 0 else "q ends", style="bright_black")
    return Group(*head, Text(""), table, last)


def _rank(state: int) -> int:
    return _WORST_FIRST.index(state) if state in _WORST_FIRST else -1


@contextmanager
def _keys_at_once() -> Iterator[None]:
    """Have keys come without the end of a line, and unseen, until the end of the block."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


async def _wait_for_q(screen: trio.CancelScope) -> None:
    while True:
        await trio.lowlevel.wait_readable(sys.stdin)
        if os.read(sys.stdin.fileno(), 1) in _ENDS:
            screen.cancel()
            return
