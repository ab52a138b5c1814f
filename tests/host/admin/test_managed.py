"""The plugins that a host runs, for an operator: what waits, ends and loops, and what is done with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import httpx
import pytest
import trio
from google.protobuf.message import Message
from trio.testing import MockClock

from cpg_trio.host import Action, AuditEvent, Host
from cpg_trio.host.admin import EventLog, acting_as, current_actor, messages
from cpg_trio.host.admin.late_loop import LateLoop
from cpg_trio.host.supervision import Assignment, Phase, PluginSpec, Restart, RestartPolicy
from cpg_trio.launch import ProcessLauncher
from cpg_trio.plugin import Plugin
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient
from cpg_trio.rpc import AsgiTransport, Code, ConnectError
from tests.host.supervision.launching import Launches, hosting, provider, spec, until

SOON = RestartPolicy(first_s=1.0, most_s=64.0, loop_after=3)


class File:
    """A platform file."""

    def __init__(self, *specs: PluginSpec) -> None:
        self.specs: Sequence[PluginSpec] = specs
        self.error = ""

    @property
    def name(self) -> str:
        return "platform.toml"

    async def read(self) -> Sequence[PluginSpec]:
        if self.error:
            raise ValueError(self.error)
        return self.specs


@asynccontextmanager
async def operating() -> AsyncIterator[tuple[Host, AdminServiceClient]]:
    async with hosting() as host:
        transport = AsgiTransport(host.admin.service())
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as http:
            with acting_as("uid 1000"):
                yield host, AdminServiceClient("http://admin", http)


def phase(host: Host, name: str) -> Phase:
    return host.plugins.replicas(name)[0].phase


def texts(host: Host, *kinds: pb.EventKind) -> list[str]:
    return [event.text for event in host.admin.events if event.kind in kinds]


async def problems(client: AdminServiceClient) -> list[pb.Problem]:
    return list((await client.get_status(pb.GetStatusRequest())).problems)


def dying(why: str = "exit status 3: No module named 'PIL'") -> Launches:
    launches = provider("thumbs")
    launches.dies = why
    return launches


async def test_a_plugin_that_waits_is_listed_as_waiting_and_is_a_problem(virtual_time: MockClock) -> None:
    async with operating() as (host, client):
        await host.plugins.add(
            spec("logger", Launches(), provides=("logger",)),
            spec(
                "storage", Launches(), self_id="storage-plugin", provides=("storage",), requires=("logger",)
            ),
            wait=False,
        )
        await trio.sleep(1)
        found = {each.name: each for each in (await client.list_plugins(pb.ListPluginsRequest())).plugins}
        storage = found["storage-plugin"]
        assert (storage.state, storage.reason) == (pb.PLUGIN_STATE_WAITING, "waits for logger")
        assert (storage.runtime_id, storage.replica.plugin) == ("", "storage")
        assert [each.service_type for each in storage.requires if not each.available] == ["logger"]
        assert found["logger"].state == pb.PLUGIN_STATE_STARTING
        status = await client.get_status(pb.GetStatusRequest())
        assert status.state == pb.PLUGIN_STATE_DEGRADED
        assert [each.summary for each in status.problems] == ["storage waits for logger"]
        assert {each.state: each.count for each in status.plugins} == {
            pb.PLUGIN_STATE_WAITING: 1,
            pb.PLUGIN_STATE_STARTING: 1,
        }
        only = pb.ListPluginsRequest(states=[pb.PLUGIN_STATE_WAITING], filter="stor")
        assert [each.name for each in (await client.list_plugins(only)).plugins] == ["storage-plugin"]


async def test_a_service_that_a_plugin_of_the_host_is_to_provide_is_missing_for_its_reason(
    virtual_time: MockClock,
) -> None:
    async with operating() as (host, client):
        await host.plugins.add(
            spec("logger", Launches(), provides=("logger",)),
            spec("storage", Launches(), provides=("storage",), requires=("logger",)),
            wait=False,
        )
        await trio.sleep(1)
        graph = await client.get_graph(pb.GetGraphRequest())
        nodes = {node.name: node for node in graph.nodes}
        assert nodes["storage"].state == pb.PLUGIN_STATE_WAITING
        assert nodes["storage"].managed == "storage"
        (edge,) = graph.edges
        assert (edge.caller, edge.provider, edge.available) == ("storage", "logger", False)
        assert edge.reason == "logger, which provides it, is starting: it has not come for its identity"


async def test_a_crash_loop_is_a_problem_that_says_what_to_do(virtual_time: MockClock) -> None:
    async with operating() as (host, client):
        await host.plugins.add(spec("thumbs", dying(), restart=SOON), wait=False)
        await until(host, lambda: host.plugins.replicas("thumbs")[0].looping)
        (problem,) = await problems(client)
        assert problem.state == pb.PLUGIN_STATE_DEGRADED
        assert problem.managed == "thumbs"
        assert problem.what_to_do == "cpg-trio logs thumbs"
        begin, end = (
            "thumbs is in a crash loop: exit status 3: No module named 'PIL' (3 times in ",
            ", again in ",
        )
        assert problem.summary.startswith(begin)
        assert end in problem.summary
        (plugin,) = (await client.list_plugins(pb.ListPluginsRequest())).plugins
        assert plugin.state == pb.PLUGIN_STATE_BACKING_OFF
        assert plugin.reason.startswith("crash loop: exit status 3")
        assert plugin.replica.looping
        (told,) = texts(host, pb.EVENT_KIND_LOOPING)
        assert told.startswith("crash loop: exit status 3: No module named 'PIL' (3 times in ")
        assert len(texts(host, pb.EVENT_KIND_ENDED)) == 3


async def test_while_a_crash_loop_starts_again_it_is_still_one(virtual_time: MockClock) -> None:
    launches = dying()
    async with operating() as (host, client):
        await host.plugins.add(spec("thumbs", launches, restart=SOON), wait=False)
        await until(host, lambda: host.plugins.replicas("thumbs")[0].looping)
        launches.dies, launches.plugin = "", lambda _: None
        await until(host, lambda: phase(host, "thumbs") is Phase.STARTING)
        (problem,) = await problems(client)
        assert problem.summary.startswith("thumbs is in a crash loop: exit status 3")
        assert problem.summary.endswith("now again")


async def test_one_that_has_failed_for_good_is_a_problem_and_one_that_was_not_to_go_on_is_none(
    virtual_time: MockClock,
) -> None:
    done = provider("once")
    never = RestartPolicy(when=Restart.ON_FAILURE)
    async with operating() as (host, client):
        refused = Launches(refuses="no such file: ./thumbs")
        await host.plugins.add(spec("thumbs", refused, restart=RestartPolicy(when=Restart.NEVER)), wait=False)
        await host.plugins.add(spec("once", done, restart=never))
        done.runs[0].dies("exit status 0", failed=False)
        await until(host, lambda: phase(host, "once") is Phase.STOPPED)
        assert [each.summary for each in await problems(client)] == [
            "thumbs has failed, and is not started again: no such file: ./thumbs"
        ]
        states = {
            each.name: each.state for each in (await client.list_plugins(pb.ListPluginsRequest())).plugins
        }
        assert states == {"thumbs": pb.PLUGIN_STATE_FAILED, "once": pb.PLUGIN_STATE_STOPPED}


async def test_a_plugin_that_is_ready_is_as_it_reports_with_how_the_host_runs_it() -> None:
    async with operating() as (host, client):
        await host.plugins.add(spec("logger", provider("logger"), self_id="logger-plugin", source="p.toml:3"))
        (plugin,) = (await client.list_plugins(pb.ListPluginsRequest())).plugins
        assert (plugin.state, plugin.replica.phase) == (pb.PLUGIN_STATE_HEALTHY, pb.REPLICA_PHASE_READY)
        assert plugin.runtime_id == plugin.replica.runtime_id
        assert not await problems(client)
        for name in ("logger", "logger-plugin", plugin.runtime_id, plugin.runtime_id[:-4]):
            story = await client.get_plugin(pb.GetPluginRequest(plugin=name))
            assert story.plugin.runtime_id == plugin.runtime_id
            assert (story.managed.name, story.managed.source) == ("logger", "p.toml:3")
            (managed,) = (
                await client.list_managed_plugins(pb.ListManagedPluginsRequest(plugin=name))
            ).plugins
            assert managed.state == pb.PLUGIN_STATE_HEALTHY
        assert texts(host, pb.EVENT_KIND_STARTED) == ["a task"]
        assert len(texts(host, pb.EVENT_KIND_READY)) == 1


async def test_a_plugin_with_several_replicas_has_one_story() -> None:
    async with operating() as (host, client):
        await host.plugins.add(spec("logger", provider("logger"), replicas=2))
        story = await client.get_plugin(pb.GetPluginRequest(plugin="logger"))
        assert not story.HasField("plugin")
        assert len(story.managed.replicas) == 2
        with pytest.raises(ConnectError, match="may be any of 2 plugins"):
            await client.drain_plugin(pb.DrainPluginRequest(plugin="logger"))


async def test_the_impact_of_a_plugin_that_somebody_else_runs_is_told_as_well() -> None:
    async with operating() as (host, client):
        identity, _ = host.identities.issue("other-plugin", provides=("other",))
        host.registry.register(identity.runtime_id, "other", "1.0.0", "/", {})
        for name in ("other-plugin", identity.runtime_id):
            impact = (await client.get_impact(pb.GetImpactRequest(plugin=name))).impact
            assert [each.service_type for each in impact.services] == ["other"]
        with pytest.raises(ConnectError, match="no plugin is called 'nobody'") as caught:
            await client.get_impact(pb.GetImpactRequest(plugin="nobody"))
        assert caught.value.code is Code.NOT_FOUND


async def test_a_run_that_is_started_again_is_an_event_and_is_counted(virtual_time: MockClock) -> None:
    launches = provider("logger")
    async with operating() as (host, client):
        await host.plugins.add(spec("logger", launches, restart=SOON))
        launches.runs[0].dies()
        await until(host, lambda: phase(host, "logger") is Phase.BACKING_OFF)
        (problem,) = await problems(client)
        assert problem.summary.startswith("logger has ended, and is started again in ")
        await until(host, lambda: phase(host, "logger") is Phase.READY)
        assert texts(host, pb.EVENT_KIND_STARTED) == ["a task", "a task, run 2"]
        assert host.admin.managed.restarts["logger"] == 1
        story = await client.get_plugin(pb.GetPluginRequest(plugin="logger"))
        assert story.managed.replicas[0].runs == 2
        assert not await problems(client)


async def test_the_story_of_one_that_has_not_come_has_its_lines_and_events(virtual_time: MockClock) -> None:
    async with operating() as (host, client):
        await host.plugins.add(spec("thumbs", dying(), self_id="thumbs-plugin", restart=SOON), wait=False)
        await until(host, lambda: phase(host, "thumbs") is Phase.BACKING_OFF)
        host.plugins.output.add("thumbs", 1, "Traceback: \x1b[31mred\x07")
        for name in ("thumbs", "thumbs-plugin"):
            story = await client.get_plugin(pb.GetPluginRequest(plugin=name))
            assert story.plugin.state == pb.PLUGIN_STATE_BACKING_OFF
            assert [line.text for line in story.lines] == ["Traceback: red\\x07"]
            assert [event.kind for event in story.events][-1] == pb.EVENT_KIND_ENDED
        with pytest.raises(ConnectError, match="thumbs has no identity now: it is backing off") as caught:
            await client.drain_plugin(pb.DrainPluginRequest(plugin="thumbs"))
        assert caught.value.code is Code.FAILED_PRECONDITION


async def test_lines_are_read_from_the_last_ones_on_and_followed() -> None:
    async with operating() as (host, client):
        await host.plugins.add(spec("logger", provider("logger"), replicas=2))
        book, got = host.plugins.output, list[str]()
        for number in range(5):
            book.add("logger", 1 + number % 2, f"line {number}")
        request = pb.WatchLogsRequest(plugin="logger", lines=2, follow=True)
        async with client.watch_logs(request) as stream:
            async for message in stream:
                got += [line.text for line in message.lines]
                if len(got) == 2:
                    book.add("other", 1, "not this one")
                    book.add("logger", 1, "a new one")
                elif len(got) == 3:
                    break
        assert got == ["line 3", "line 4", "a new one"]
        one = pb.WatchLogsRequest(plugin="logger", replica=2)
        async with client.watch_logs(one) as stream:
            assert [line.text async for message in stream for line in message.lines] == ["line 1", "line 3"]


async def test_a_reader_of_lines_that_is_slow_is_told_how_many_it_has_missed() -> None:
    async with operating() as (host, client):
        await host.plugins.add(spec("logger", provider("logger")))
        host.plugins.output.add("logger", 1, "first")
        missed, last = 0, ""
        async with client.watch_logs(pb.WatchLogsRequest(plugin="logger", follow=True)) as stream:
            await anext(stream.__aiter__())
            for number in range(3_000):
                host.plugins.output.add("logger", 1, f"{number}")
            async for message in stream:
                missed, last = missed + message.missed, message.lines[-1].text
                if last == "2999":
                    break
        assert missed > 1_000


async def test_an_action_is_an_event_and_in_the_audit_trail_with_who_and_why() -> None:
    audited: list[AuditEvent] = []
    async with operating() as (host, client):
        host.audit.subscribe(audited.append)
        await host.plugins.add(spec("logger", provider("logger")))
        answer = await client.restart_plugin(pb.RestartPluginRequest(plugin="logger", reason="new disk"))
        assert answer.plugin.replicas[0].runs == 2
        assert texts(host, pb.EVENT_KIND_ACTION) == ["restart, by uid 1000: new disk"]
        (done,) = [e for e in audited if e.action is Action.MANAGE and e.target == "restart"]
        assert (done.subject, done.actor, done.reason) == ("logger", "uid 1000", "new disk")


async def test_a_run_that_is_replaced_is_an_event() -> None:
    async with operating() as (host, client):
        await host.plugins.add(spec("logger", provider("logger")))
        answer = await client.replace_plugin(pb.ReplacePluginRequest(plugin="logger"))
        assert len(answer.plugin.replicas) == 1
        assert texts(host, pb.EVENT_KIND_REPLACED) == ["a task has taken the place of a task"]
        assert texts(host, pb.EVENT_KIND_STARTED) == ["a task", "a task"]
        assert host.admin.managed.restarts["logger"] == 0


async def test_a_run_that_an_operator_starts_has_nothing_of_the_call_that_has_asked_for_it() -> None:
    actors: list[str] = []
    launches = provider("logger")
    make = launches.plugin

    def plugin(assignment: Assignment) -> Plugin | None:
        actors.append(current_actor())
        return make(assignment)

    launches.plugin = plugin
    async with operating() as (host, client):
        host.plugins.source = File(spec("logger", launches))
        await client.add_plugin(pb.AddPluginRequest(plugin="logger"))
        await client.replace_plugin(pb.ReplacePluginRequest(plugin="logger"))
        await client.scale_plugin(pb.ScalePluginRequest(plugin="logger", replicas=2))
    assert actors == ["", "", ""]


async def test_nothing_tells_how_a_plugin_is_launched() -> None:
    secret = "hunter2"
    launcher = ProcessLauncher(("false", f"--password={secret}"), environment={"API_KEY": secret})
    old = PluginSpec(name="thumbs", launcher=launcher)
    new = attrs.evolve(old, launcher=attrs.evolve(launcher, environment={"API_KEY": "x"}))
    shown: list[Message] = []
    async with operating() as (host, client):
        await host.plugins.add(old, wait=False)
        host.plugins.source = File(new)
        shown += [
            await client.list_managed_plugins(pb.ListManagedPluginsRequest()),
            await client.list_plugins(pb.ListPluginsRequest()),
            await client.get_plugin(pb.GetPluginRequest(plugin="thumbs")),
            await client.get_status(pb.GetStatusRequest()),
            await client.get_impact(pb.GetImpactRequest(plugin="thumbs")),
            plan := await client.get_plan(pb.GetPlanRequest()),
        ]
        await host.plugins.remove("thumbs")
        shown += [pb.WatchEventsResponse(events=map(messages.event, host.admin.events))]
    assert list(plan.changes[0].differences) == ["launcher.environment.API_KEY"]
    assert secret not in str(shown)


async def test_what_cannot_be_done_is_refused_with_the_reason_and_is_an_event() -> None:
    async with operating() as (host, client):
        await host.plugins.add(spec("logger", provider("logger")))
        host.plugins.source = file = File(
            spec("thumbs", Launches(refuses="no such file: ./thumbs"), source="p:7")
        )
        for call, code, text in (
            (
                client.restart_plugin(pb.RestartPluginRequest(plugin="x")),
                Code.NOT_FOUND,
                "runs no plugin 'x': it runs logger",
            ),
            (
                client.add_plugin(pb.AddPluginRequest(plugin="thumb")),
                Code.NOT_FOUND,
                "platform.toml has no plugin 'thumb': did you mean 'thumbs'",
            ),
            (
                client.add_plugin(pb.AddPluginRequest(plugin="thumbs")),
                Code.FAILED_PRECONDITION,
                "p:7: thumbs: no such file: ./thumbs",
            ),
            (
                client.scale_plugin(pb.ScalePluginRequest(plugin="logger", replicas=10**6)),
                Code.INVALID_ARGUMENT,
                "must be 0 to 1000",
            ),
            (
                client.restart_plugin(pb.RestartPluginRequest(plugin="logger", reason="x" * 999)),
                Code.INVALID_ARGUMENT,
                "too long",
            ),
            (
                client.apply_plan(pb.ApplyPlanRequest(plan_id="x")),
                Code.FAILED_PRECONDITION,
                "look at a new one",
            ),
        ):
            with pytest.raises(ConnectError, match=text) as caught:
                await call
            assert caught.value.code is code
        assert texts(host, pb.EVENT_KIND_ACTION)[-1] == "add has failed: p:7: thumbs: no such file: ./thumbs"
        assert list(host.plugins.specs()) == ["logger"]
        file.error = "platform.toml:3: what\nplatform.toml:4: else"
        with pytest.raises(ConnectError, match=r"platform\.toml:3: what; platform\.toml:4: else"):
            await client.get_plan(pb.GetPlanRequest())
        host.plugins.source = None
        with pytest.raises(ConnectError, match="has no platform file"):
            await client.get_plan(pb.GetPlanRequest())


async def test_a_loop_that_is_late_is_an_event_that_names_the_plugins_that_can_block_it() -> None:
    async with operating() as (host, _client):
        launches = provider("api")
        launches.kind = "task"
        await host.plugins.add(spec("api", launches))
        now, log = [0.0], EventLog()
        with LateLoop(host.admin.loop_lag, host.admin.managed, log, lambda: now[0]).following():
            for at, lag_s in ((0.0, 0.1), (1.0, 1.2), (2.0, 1.3), (30.0, 0.9)):
                now[0] = at
                host.admin.loop_lag.measured.tell(lag_s)
        blame = "; plugins that run as tasks in it, and can block it: api"
        assert [event.text for event in log] == [
            f"the event loop of the host was 1.2 s late{blame}",
            f"the event loop of the host was 900 ms late{blame}",
        ]


async def test_a_plugin_that_runs_its_former_code_is_a_problem_until_it_is_replaced(
    virtual_time: MockClock,
) -> None:
    async with operating() as (host, client):
        await host.plugins.add(spec("greeter", provider("greeter")))
        assert not await problems(client)
        host.plugins.note_outdated("greeter", "plugin.py, line 3: '(' was never closed")
        [problem] = await problems(client)
        assert (problem.state, problem.managed) == (pb.PLUGIN_STATE_DEGRADED, "greeter")
        assert "greeter runs its former code" in problem.summary
        assert "line 3: '(' was never closed" in problem.summary
        assert problem.HasField("since")
        since = problem.since
        host.plugins.note_outdated("greeter", "plugin.py, line 4: it is still not closed")
        [problem] = await problems(client)
        assert (problem.since, "line 4" in problem.summary) == (since, True)
        await host.plugins.replace("greeter")
        assert not await problems(client)


async def test_a_plugin_that_was_replaced_does_not_count_as_gone(virtual_time: MockClock) -> None:
    async with operating() as (host, client):
        await host.plugins.add(spec("greeter", provider("greeter")), spec("other", provider("other")))
        for _ in range(3):
            await host.plugins.replace("greeter")
        status = await client.get_status(pb.GetStatusRequest())
        assert {each.state: each.count for each in status.plugins} == {pb.PLUGIN_STATE_HEALTHY: 2}
        await host.plugins.remove("greeter")
        status = await client.get_status(pb.GetStatusRequest())
        assert {each.state: each.count for each in status.plugins} == {
            pb.PLUGIN_STATE_HEALTHY: 1,
            pb.PLUGIN_STATE_GONE: 1,
        }
