"""The command `status`: whether all is well, and if not, what is wrong, since when, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cpg_trio._human import duration, rate, seconds_of, share, size
from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._output import JsonFlag, Output, show_json, since, took
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.text import Text

NOT_WELL = 3
"""The exit status if something is wrong."""
_MOST_PROBLEMS = 10
_MUCH_LAG_S = 0.1
_MOST_HOSTS = 10


def status(*, json: JsonFlag = False, options: AdminOptions = HERE) -> int:
    """Show whether all is well."""
    answer = call_admin(options, lambda host: host.get_status(pb.GetStatusRequest()))
    if json:
        show_json(answer)
    else:
        show_status(answer, Output())
    return 0 if answer.state == pb.PLUGIN_STATE_HEALTHY else NOT_WELL


def show_status(answer: pb.GetStatusResponse, out: Output) -> None:
    """Write the status of a host."""
    out.line(headline(answer, out))
    for problem in answer.problems[1:_MOST_PROBLEMS]:
        out.line(_problem(problem, out))
    if (more := len(answer.problems) - _MOST_PROBLEMS) > 0:
        out.line(f"and {more} more: cpg-trio plugins")
    out.line("")
    for name, text in facts(answer, out):
        out.line(out.label(f"  {name}", 11), text)
    todo = list(dict.fromkeys(each.what_to_do for each in answer.problems if each.what_to_do))
    if todo:
        out.line("")
    for number, each in enumerate(todo[:3]):
        out.line(out.label("" if number else "  what to do", 13), each)


def headline(answer: pb.GetStatusResponse, out: Output) -> Text:
    """Return the line that answers whether all is well."""
    if answer.problems:
        return _problem(answer.problems[0], out)
    return (
        out.state(answer.state)
        + f": {_number(_present(answer), 'plugin')}, {_number(answer.services, 'service')}"
    )


def facts(answer: pb.GetStatusResponse, out: Output) -> list[tuple[str, str | Text]]:
    """Return what is known of a host, each with its name."""
    host, calls = answer.host, answer.calls
    up = f"up {since(host.started_at)}" if not host.stopping else "stopping"
    lag = f"{duration(seconds_of(host.loop_lag))} loop lag"
    if (most := seconds_of(host.loop_lag_most)) >= _MUCH_LAG_S:
        lag += f", at most {duration(most)}"
    counted = out.joined(
        [str(_present(answer))],
        (
            out.state(each.state, f"{each.count} {out.word(each.state)}")
            for each in answer.plugins
            if each.count
        ),
    )
    pace = f"{rate(calls.calls_per_second)}   p50 {took(calls, 'p50')}   p95 {took(calls, 'p95')}"
    told: list[tuple[str, str | Text]] = [
        ("host", "   ".join([host.urls[0] if host.urls else "-", up, lag, size(host.memory_bytes)])),
        ("plugins", counted),
        ("calls", f"{pace}   {share(calls.failed, calls.calls)} failed"),
    ]
    if answer.refused:
        told.append(("refused", f"{answer.refused} in the last minute: cpg-trio events --kind refused"))
    if answer.HasField("directory"):
        told += _directory(answer.directory)
    elif host.unsaved:
        told.append(("state", f"not saved: {host.unsaved}"))
    return told


def _directory(directory: pb.SharedDirectory) -> Iterator[tuple[str, str | Text]]:
    """Yield the hosts that share a directory, and how the one that answers stands with its store."""
    for number, host in enumerate(directory.hosts[:_MOST_HOSTS]):
        told = [host.url or host.host_id, host.version, _number(host.plugins, "plugin")]
        told += [f"for {since(host.since)}"] if host.HasField("since") else []
        told += ["answers"] if host.answers else []
        yield "" if number else "hosts", "   ".join(told)
    if (more := len(directory.hosts) - _MOST_HOSTS) > 0:
        yield "", f"and {more} more"
    if directory.orphans:
        yield "", f"{_number(directory.orphans, 'plugin')} without a host"
    store = directory.store
    in_touch = f"in touch, revision {store.revision}"
    yield "store", f"{store.store}   {in_touch if store.in_touch else _out_of_touch(store)}"


def _out_of_touch(store: pb.StoreStanding) -> str:
    lasting = f" for {since(store.since)}" if store.HasField("since") else ""
    return f"not in touch{lasting}{f': {store.reason}' if store.reason else ''}"


def _problem(problem: pb.Problem, out: Output) -> Text:
    lasting = f" for {since(problem.since)}" if problem.HasField("since") else ""
    return out.state(problem.state) + f"{lasting}: {problem.summary}"


def _present(answer: pb.GetStatusResponse) -> int:
    """Return how many plugins there are, without those that are gone."""
    return sum(each.count for each in answer.plugins if each.state != pb.PLUGIN_STATE_GONE)


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
