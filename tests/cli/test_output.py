"""What people see: fixed answers of a host, on terminals and without one."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from cpg_trio._gen.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.cli._events import event_line
from cpg_trio.cli._graph import show_graph
from cpg_trio.cli._output import Output, shortened
from cpg_trio.cli._plugins import show_plugins
from cpg_trio.cli._screen import picture
from cpg_trio.cli._status import show_status

NOW = 1_800_000_000
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: float(NOW))


def _ago(seconds: int) -> Timestamp:
    return Timestamp(seconds=NOW - seconds)


def _plugin(name: str, number: int, state: pb.PluginState, reason: str = "") -> pb.Plugin:
    return pb.Plugin(
        runtime_id=f"{name}-{number:016x}",
        name=name,
        version="1.0.0",
        state=state,
        state_since=_ago(12),
        reason=reason,
        provides=[pb.ProvidedService(service_type=name, version="1.0.0")],
        calls_in=pb.CallStatistics(calls=6360, calls_per_second=106),
    )


LOGGER_IS_AWAY = "nobody provides it; the last one, logger, lapsed 12 s ago"
PLUGINS = [
    _plugin("api", 0x39E5 << 48, pb.PLUGIN_STATE_HEALTHY),
    _plugin("storage", 0x8A1B << 48, pb.PLUGIN_STATE_DEGRADED, "waiting for logger"),
    _plugin("logger", 0xF739 << 48, pb.PLUGIN_STATE_LAPSED, "no heartbeat for 12 s"),
]
PLUGINS[1].requires.add(service_type="logger", reason=LOGGER_IS_AWAY)
PLUGINS[0].requires.add(service_type="storage", available=True)
STATUS = pb.GetStatusResponse(
    state=pb.PLUGIN_STATE_DEGRADED,
    problems=[
        pb.Problem(
            state=pb.PLUGIN_STATE_DEGRADED,
            summary="storage waits for logger (nobody provides it)",
            since=_ago(12),
            what_to_do="cpg-trio plugins logger",
        )
    ],
    host=pb.HostInfo(urls=["http://127.0.0.1:8080"], started_at=_ago(3 * 3600), memory_bytes=41 << 20),
    plugins=[pb.StateCount(state=each.state, count=1) for each in PLUGINS],
    calls=pb.CallStatistics(calls=1000, failed=3, calls_per_second=212),
)
GRAPH = pb.GetGraphResponse(
    nodes=[pb.GraphNode(name=each.name, state=each.state, reason=each.reason) for each in PLUGINS[:2]],
    edges=[
        pb.Edge(
            caller="api",
            provider="storage",
            service_type="storage",
            calls=pb.CallStatistics(calls=6360, calls_per_second=106),
        ),
        pb.Edge(caller="storage", service_type="logger", required=True, reason=LOGGER_IS_AWAY),
        pb.Edge(caller="storage", provider="api", service_type="api"),
    ],
)


def _shown(
    show: Callable[[Output], None],
    *,
    width: int = 0,
    terminal: bool = False,
    plain: bool = False,
    ascii_only: bool = False,
) -> str:
    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii" if ascii_only else "utf-8", errors="replace")
    show(Output(written, terminal=terminal, width=width, plain=plain))
    written.seek(0)
    return written.read()


def _status(out: Output) -> None:
    show_status(STATUS, out)


def _plugins(out: Output) -> None:
    show_plugins(PLUGINS, out)


def test_the_first_line_says_what_is_wrong_since_when_and_why() -> None:
    assert _shown(_status) == (
        "degraded for 12 s: storage waits for logger (nobody provides it)\n"
        "\n"
        "  host      http://127.0.0.1:8080   up 3 h   0 µs loop lag   41 MiB\n"
        "  plugins   3   1 healthy   1 degraded   1 lapsed\n"
        "  calls     212/s   p50 -   p95 -   0.3 % failed\n"
        "\n"
        "  what to do  cpg-trio plugins logger\n"
    )


def test_plugins_that_are_gone_are_not_counted_among_those_that_are_there() -> None:
    counts = [
        pb.StateCount(state=pb.PLUGIN_STATE_HEALTHY, count=3),
        pb.StateCount(state=pb.PLUGIN_STATE_GONE, count=2),
    ]
    answer = pb.GetStatusResponse(state=pb.PLUGIN_STATE_HEALTHY, plugins=counts, services=1)
    shown = _shown(lambda out: show_status(answer, out))
    assert shown.startswith("healthy: 3 plugins, 1 service\n")
    assert "plugins   3   3 healthy   2 gone\n" in shown


def test_a_loop_that_was_late_is_told() -> None:
    host = pb.HostInfo(loop_lag=Duration(nanos=1_100_000), loop_lag_most=Duration(nanos=503_000_000))
    shown = _shown(lambda out: show_status(pb.GetStatusResponse(host=host), out))
    assert "   1.1 ms loop lag, at most 503 ms   " in shown


def test_people_see_the_time_of_day_and_the_date_of_what_is_long_ago() -> None:
    out = Output(io.StringIO(), terminal=True, width=80)
    assert re.fullmatch(r"\d\d:\d\d:\d\d", out.when(_ago(60)))
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", out.when(_ago(100_000)))
    assert Output(io.StringIO()).when(_ago(60)) == "2027-01-15T07:59:00Z"


def test_a_state_has_a_sign_and_a_colour_on_a_terminal_and_words_alone_without_colours() -> None:
    coloured = _shown(_status, width=200, terminal=True)
    assert coloured.startswith("\x1b[33m◐ degraded\x1b[0m for 12 s")
    assert _shown(_status, width=200, terminal=True, plain=True) == _shown(_status)


def test_a_terminal_without_the_signs_gets_others() -> None:
    shown = _shown(_plugins, width=200, terminal=True, ascii_only=True)
    assert "~ degraded" in shown
    assert "storage ok" in shown
    assert "logger missing" in shown
    assert shown.isascii()


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("show", [_status, _plugins, lambda out: show_graph(GRAPH, out)])
def test_no_line_is_wider_than_the_terminal(show: Callable[[Output], None], width: int) -> None:
    lines = _COLOUR.sub("", _shown(show, width=width, terminal=True)).splitlines()
    assert max(map(len, lines)) <= width


def test_a_narrow_terminal_shows_the_reason_and_fewer_columns_and_short_ids() -> None:
    narrow, wide = (_COLOUR.sub("", _shown(_plugins, width=w, terminal=True)) for w in (80, 200))
    assert "storage-8a1b  ◐ degraded   12 s" in narrow
    assert "waiting for logger" in narrow
    assert "OUT/S" not in narrow
    assert re.search(r"storage-8a1b  ◐ degraded   12 s  1.0.0    storage   logger ✗ +106 ", wide)
    assert wide.startswith("3 plugins   ● 1 healthy   ◐ 1 degraded   ◌ 1 lapsed\n")


def test_without_a_terminal_each_row_is_one_line_with_whole_ids() -> None:
    lines = _shown(_plugins).splitlines()
    assert [line.split()[0] for line in lines] == ["PLUGIN", *(each.runtime_id for each in PLUGINS)]
    whole = "storage-8a1b000000000000 degraded 12 s 1.0.0 storage logger ✗ 106 0 waiting for logger"
    assert " ".join(lines[2].split()) == whole


def test_a_graph_is_a_tree_that_tells_each_plugin_once() -> None:
    shown = _COLOUR.sub("", _shown(lambda out: show_graph(GRAPH, out), width=200, terminal=True))
    assert shown == (
        "● api\n"
        "└── 106/s p95 - ──▶ ◐ storage: waiting for logger\n"
        f"    ├── 0/s ──▶ ✗ logger: {LOGGER_IS_AWAY}\n"
        "    └── 0/s ──▶ ● api (see above)\n"
    )


def test_the_screen_of_top_has_the_worst_of_many_plugins_first_and_fits() -> None:
    many = [_plugin("worker", number << 48, pb.PLUGIN_STATE_HEALTHY) for number in range(200)]

    def show(out: Output) -> None:
        out.console.height = 24
        out.console.print(picture(STATUS, [*many, *PLUGINS], out))

    lines = _COLOUR.sub("", _shown(show, width=80, terminal=True)).splitlines()
    assert len(lines) == 24
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[7:10]] == ["logger-f739", "storage-8a1b", "worker-0000"]
    assert lines[-1] == "and 187 more; q ends"


def test_what_plugins_say_of_themselves_does_nothing_to_the_terminal() -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\nhost  all is well"
    plugins = [_plugin("storage", 1, pb.PLUGIN_STATE_DEGRADED, hostile)]
    status = pb.GetStatusResponse(problems=[pb.Problem(state=pb.PLUGIN_STATE_DEGRADED, summary=hostile)])
    event = pb.Event(kind=pb.EVENT_KIND_DEGRADED, text=hostile)

    def show(out: Output) -> None:
        show_plugins(plugins, out)
        show_status(status, out)
        out.line(event_line(event, out))
        out.console.print(picture(status, plugins, out))

    shown = _COLOUR.sub("", _shown(show, width=200, terminal=True))
    assert "\\x1b]0;owned" in shown
    assert not set("\x1b\x07\r") & set(shown)
    assert "\nhost  all is well" not in shown


def test_ids_are_as_short_as_they_are_unique() -> None:
    ids = ["api-39e50000", "api-39e51111", "api-77770000", "logger"]
    assert shortened(ids) == {
        "api-39e50000": "api-39e50",
        "api-39e51111": "api-39e51",
        "api-77770000": "api-7777",
        "logger": "logger",
    }
