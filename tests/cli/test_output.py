"""What people see: fixed answers of a host, on terminals and without one."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from cpg_trio.cli._apply import show_plan
from cpg_trio.cli._events import event_line
from cpg_trio.cli._graph import show_graph
from cpg_trio.cli._impact import show_impact, why_refused
from cpg_trio.cli._logs import log_line
from cpg_trio.cli._output import Output, shortened
from cpg_trio.cli._plugins import show_plugin, show_plugins
from cpg_trio.cli._screen import picture
from cpg_trio.cli._status import show_status
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

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


THUMBS = pb.Replica(
    plugin="thumbs",
    number=1,
    phase=pb.REPLICA_PHASE_BACKING_OFF,
    since=_ago(3),
    why="exit status 3: No module named 'PIL'",
    runs=5,
    failures=5,
    again_at=Timestamp(seconds=NOW + 32),
    looping=True,
)


def test_a_plugin_without_an_identity_has_its_name_its_state_and_when_it_is_started_again() -> None:
    waiting = pb.Plugin(name="api-plugin", state=pb.PLUGIN_STATE_WAITING, reason="waits for storage")
    thumbs = pb.Plugin(
        name="thumbs-plugin",
        state=pb.PLUGIN_STATE_BACKING_OFF,
        state_since=_ago(3),
        reason="crash loop: exit status 3 (5 times in 40 s)",
        replica=THUMBS,
    )
    lines = _shown(lambda out: show_plugins([waiting, thumbs], out)).splitlines()
    assert " ".join(lines[1].split()) == "api-plugin waiting - - - - 0 0 waits for storage"
    assert lines[2].startswith("thumbs-plugin  backing off")
    assert lines[2].endswith("crash loop: exit status 3 (5 times in 40 s); again in 32 s")
    assert "↻ backing off" in _shown(lambda out: show_plugins([thumbs], out), terminal=True, width=120)


def test_the_story_of_a_plugin_that_the_host_runs_has_its_replicas_and_its_last_lines() -> None:
    managed = pb.ManagedPlugin(
        name="thumbs", launcher="process", source="platform.toml:12", wanted=1, replicas=[THUMBS]
    )
    plugin = pb.Plugin(name="thumbs-plugin", state=pb.PLUGIN_STATE_BACKING_OFF, state_since=_ago(3))
    line = pb.LogLine(sequence=1, at=_ago(3), plugin="thumbs", replica=1, text="Traceback\x1b[2J:")
    story = pb.GetPluginResponse(plugin=plugin, managed=managed, lines=[line])
    shown = _shown(lambda out: show_plugin(story, out))
    assert shown.startswith("backing off for 3 s: thumbs-plugin\n")
    assert "  managed    thumbs, launched as process, written in platform.toml:12\n" in shown
    assert (
        "  replica    backing off for 3 s, run 5, exit status 3: No module named 'PIL'; crash loop," in shown
    )
    assert "last lines (more: cpg-trio logs thumbs)" in shown
    assert "Traceback\\x1b[2J:" in shown
    assert _shown(lambda out: out.line(log_line(line, out))) == "2027-01-15T07:59:57Z  Traceback\\x1b[2J:\n"


def test_a_plan_has_the_names_of_what_differs_and_says_what_stays() -> None:
    plan = pb.GetPlanResponse(
        source="platform.toml",
        changes=[
            pb.PlannedChange(
                kind=pb.PlannedChange.KIND_REPLACE,
                plugin="storage",
                differences=["launcher.command", "launcher.environment.STORAGE_PATH"],
                source="platform.toml:7",
            ),
            pb.PlannedChange(
                kind=pb.PlannedChange.KIND_SCALE,
                plugin="api",
                replicas_before=1,
                replicas_after=3,
                differences=["replicas"],
            ),
        ],
        unchanged=["logger"],
    )
    lines = _shown(lambda out: show_plan(plan, out)).splitlines()
    assert lines[0] == "platform.toml: 2 changes, 1 plugin stays as it is"
    assert " ".join(lines[2].split()) == (
        "storage ~ replace launcher.command, launcher.environment.STORAGE_PATH platform.toml:7"
    )
    assert " ".join(lines[3].split()) == "api ~ scale 1 to 3 replicas"
    nothing = pb.GetPlanResponse(source="platform.toml", unchanged=["a", "b"])
    shown = _shown(lambda out: show_plan(nothing, out))
    assert shown == "platform.toml: nothing has to be done, 2 plugins stay as they are\n"


def test_an_impact_says_who_would_lose_what_and_in_which_order_things_go_down() -> None:
    impact = pb.Impact(
        plugin="logger",
        losers=[pb.PluginImpact(plugin="storage", requires=["logger"], step=1)],
        order=["logger", "storage", "api"],
        refused=True,
        lines=["logger: nobody is left who provides it"],
    )
    assert _shown(lambda out: show_impact(impact, out)) == (
        "logger: nobody is left who provides it\nin this order they would go down: logger, storage, api\n"
    )
    assert why_refused(impact) == (
        "logger is not removed, as storage would be left without a service that it requires: say --force if"
        " that is meant"
    )
    assert _shown(lambda out: show_impact(pb.Impact(plugin="x"), out)) == "without x nobody loses anything\n"
