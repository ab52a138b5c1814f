"""The system as containers: what it does, what it survives, and that it ends in order."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping

import httpx
import pytest
import trio

from tests.e2e.project import PLUGINS, SERVICES, Project, load, resolve, shorten
from tests.processes import assert_no_traceback

URL = 'https://example.com/?a=1&b="two"#3'


async def test_everything_is_ready_15_seconds_after_it_is_started(project: Project) -> None:
    await project.compose("down", "--volumes")
    began = time.monotonic()
    await project.up()
    assert time.monotonic() - began < 15
    assert {c.health for c in await project.containers()} == {"healthy"}


async def test_a_stop_takes_a_few_seconds_and_every_container_ends_with_status_0(project: Project) -> None:
    began = time.monotonic()
    await project.compose("stop")
    assert time.monotonic() - began < 5
    ended = {c.service: c.exit_status for c in await project.containers()}
    assert ended == dict.fromkeys(SERVICES, 0)
    for name in SERVICES:
        assert_no_traceback(await project.log(name), name)


CONFINEMENT = """
import json, os, shutil
status = dict(line.split(":\\t") for line in open("/proc/1/status").read().splitlines() if ":\\t" in line)
def writable(path):
    try:
        open(path + "/probe", "w").close()
    except OSError:
        return False
    os.remove(path + "/probe")
    return True
print(json.dumps({
    "uids": status["Uid"].split(),
    "capabilities": {status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == {""},
    "no new privileges": status["NoNewPrivs"],
    "command": open("/proc/1/cmdline").read().rstrip("\\0").split("\\0"),
    "writable": [path for path in ("", "/tmp", "/opt/cpg", "/var/tmp", "/data") if writable(path)],
    "tools": [tool for tool in ("curl", "wget", "gcc", "git") if shutil.which(tool)],
}))
"""


def _confined(*command: str, writable: tuple[str, ...] = ()) -> Mapping[str, object]:
    return {
        "uids": ["10001"] * 4,
        "capabilities": True,
        "no new privileges": "1",
        "command": list(command),
        "writable": [*writable],
        "tools": [],
    }


async def test_each_container_is_our_own_process_with_no_rights_that_it_does_not_need(
    project: Project,
) -> None:
    found = {name: json.loads(await project.python(name, CONFINEMENT)) for name in SERVICES}
    host = found["host"]["command"]
    assert host[1:] == ["/opt/cpg/bin/cpg-trio", "host"]
    assert found["host"] == _confined(*host, writable=("/data",))
    for name in PLUGINS:
        own = ("/data",) if name == "storage" else ()
        assert found[name] == _confined("python", "-m", f"cpg_trio.demo.{name}", writable=own)
    client = await project.compose("run", "--rm", "-T", "--entrypoint", "python", "client", "-c", CONFINEMENT)
    assert json.loads(client) == _confined("python", "-c", CONFINEMENT)


async def test_a_health_check_means_what_it_says(project: Project) -> None:
    async def checks() -> list[tuple[int, str]]:
        command = ("docker", "compose", "exec", "-T", "logger", "cpg-trio", "check")
        done = [
            await project.run(*command, f"--{what}", check=False) for what in ("startup", "live", "ready")
        ]
        return [(d.returncode, (d.stdout + d.stderr).splitlines()[0]) for d in done]

    assert await checks() == [(0, "OK"), (0, "ok"), (0, "ready")]
    await project.compose("stop", "host")
    await project.until_health("logger", "unhealthy")
    stale = "not ready: no heartbeat has reached the host in the last 15 s"
    assert await checks() == [(0, "OK"), (0, "ok"), (1, stale)]
    await project.compose("up", "--detach", "--no-deps", "--force-recreate", "logger")
    await project.until("logger", "listening on")
    never = "not ready: no handshake with a host yet"
    assert await checks() == [(1, never), (0, "ok"), (1, never)]
    await project.bring_up()
    assert await checks() == [(0, "OK"), (0, "ok"), (0, "ready")]


async def test_what_curl_shortens_the_client_resolves_and_the_other_way_round(project: Project) -> None:
    (api,) = await project.api_urls()

    async def curl(method: str, **parameter: str) -> dict[str, str]:
        ((name, value),) = parameter.items()
        request = ("-G", "-X", "POST", "--data-urlencode", f"{name}={value}")
        done = await project.run("curl", "-fsS", *request, f"{api}/api.v1.API/{method}")
        return dict(json.loads(done.stdout))

    async def client(*arguments: str) -> str:
        return await project.compose("run", "--rm", "-T", "client", *arguments)

    code = (await curl("Shorten", url=URL))["short_code"]
    assert f"URL: {URL}\n" in await client("resolve", code)
    shortened = re.search(r"Code: +([0-9a-f]+)", await client("shorten", URL))
    assert shortened
    assert await curl("Resolve", code=shortened[1]) == {"url": URL}


async def test_every_call_between_plugins_passes_the_host(project: Project) -> None:
    logs = {name: await project.log(name) for name in SERVICES}
    async with project.http() as http:
        code = await shorten(http, URL)
        await resolve(http, code)
    for caller, provider, method, service in (
        ("api", "storage", "Store", "storage"),
        ("storage", "logger", "Log", "logger"),
        ("api", "storage", "Get", "storage"),
    ):
        route = rf"\[ROUTER\] {caller}-plugin-\w+ → {provider}-plugin-\w+ /{method}"
        await project.until("host", rf"{route} \(service: {service}\)", after=logs["host"])
        await project.until("host", rf"{route} 200 \(duration: ", after=logs["host"])
    for verb in ("STORE", "GET"):
        await project.until("logger", re.escape(f"[LOG] {verb} {code} → {URL}"), after=logs["logger"])


async def test_an_operator_sees_the_system_from_the_container_of_the_host(project: Project) -> None:
    await project.compose("up", "--detach", "--wait")
    status = ("docker", "compose", "exec", "-T", "host", "cpg-trio", "status")
    with trio.fail_after(60):  # containers that other tests have ended may be missed for two leases
        while True:
            seen = await project.run(*status, check=False)
            if seen.stdout.startswith("healthy: 3 plugins"):
                break
            await trio.sleep(1)
    listed = await project.compose("exec", "-T", "host", "cpg-trio", "plugins", "--json")
    found = {each["name"]: each["state"] for each in json.loads(listed)["plugins"]}
    assert found == dict.fromkeys((f"{name}-plugin" for name in PLUGINS), "PLUGIN_STATE_HEALTHY")
    for name in SERVICES:
        read = f"import urllib.request as r; print(r.urlopen('http://{name}:9464/metrics').read().decode())"
        assert "cpg_trio_build_info{" in await project.python("host", read)


async def test_the_scripts_say_whether_the_system_works(project: Project) -> None:
    ready = await project.run("./run.sh")
    assert ready.stdout.count("(healthy)") == len(SERVICES)
    passed = await project.run("./test.sh")
    assert "✓ the calls went through the host" in passed.stdout
    await project.compose("stop", "logger")
    failed = await project.run("./test.sh", check=False)
    assert (failed.returncode, failed.stderr[:31]) == (1, "✗ the log of logger has no line")
    await project.compose("stop", "api")
    failed = await project.run("./test.sh", check=False)
    assert failed.returncode == 1
    assert "✗ the api is not running" in failed.stderr


@pytest.mark.parametrize("last", SERVICES)
async def test_whichever_is_started_last_the_system_arrives_at_the_same_state(
    project: Project, last: str
) -> None:
    await project.compose("down")
    others = [name for name in SERVICES if name != last]
    await project.compose("up", "--detach", "--no-deps", *others)
    for name in others:
        await project.until(name, "listening on")
    await project.up("--no-deps", last)
    await project.bring_up()
    async with project.http() as http:
        assert await resolve(http, await shorten(http, URL)) == URL
    assert await project.health_of_storage() == "HEALTHY"


@pytest.mark.parametrize("name", PLUGINS)
async def test_a_plugin_that_is_killed_comes_back_and_nothing_is_lost(project: Project, name: str) -> None:
    async with project.http() as http:
        codes = [await shorten(http, f"{URL}{index}") for index in range(10)]
    await project.compose("kill", name)
    await project.up("--no-deps", name)
    async with project.http() as http:
        assert [await resolve(http, code) for code in codes] == [f"{URL}{index}" for index in range(10)]
        await shorten(http, URL)


async def test_a_container_that_ends_by_itself_is_started_again(project: Project) -> None:
    log = await project.log("logger")
    await project.python("logger", "import os, signal; os.kill(1, signal.SIGTERM)")
    await project.until("logger", "Registered service: logger", after=log)


async def test_a_host_that_is_killed_under_load_comes_back_and_so_does_everything(project: Project) -> None:
    async with load(await project.api_urls()) as calls:
        await calls.until_good(20)
        await project.compose("kill", "host")
        await calls.until_it_fails()
        await project.compose("start", "host")
        await calls.until_good(100)
    assert {failure.split()[0] for failure in calls.failures} <= {"503", "504"}
    async with project.http() as http:
        for code, url in calls.shortened.items():
            assert await resolve(http, code) == url


async def test_without_a_logger_storage_is_degraded_and_goes_on_storing(project: Project) -> None:
    await project.until_storage_is_healthy()
    log = await project.log("host")
    await project.compose("stop", "logger")
    await project.until("host", r"storage-plugin-\w+ reports DEGRADED: waiting for logger\b", after=log)
    async with project.http() as http:
        code = await shorten(http, URL)
        assert await resolve(http, code) == URL
    assert await project.health_of_storage() == "DEGRADED"
    log = await project.log("host")
    await project.compose("start", "logger")
    await project.until("host", r"storage-plugin-\w+ reports HEALTHY", after=log)
    async with project.http() as http:
        code = await shorten(http, URL)
    await project.until("logger", re.escape(f"[LOG] STORE {code} → {URL}"))


async def test_a_storage_that_is_made_anew_resolves_every_code(project: Project) -> None:
    async with project.http() as http:
        codes = [await shorten(http, f"{URL}{index}") for index in range(10)]
        await project.up("--no-deps", "--force-recreate", "storage")
        assert [await resolve(http, code) for code in codes] == [f"{URL}{index}" for index in range(10)]


async def test_two_storages_share_the_load_and_one_is_removed_without_a_failed_call(project: Project) -> None:
    # A caller keeps its provider, so what is shared is the load of several callers, who come one by one.
    await project.compose("down", "--volumes")
    await project.up("--scale=api=0", "--scale=storage=2")
    await project.up("--scale=api=2", "--scale=storage=2")
    before = await project.log("host")
    async with load(await project.api_urls()) as calls:
        await calls.until_good(100)
        routed = re.findall(
            r"→ (storage-plugin-\w+) /Store 200", (await project.log("host")).removeprefix(before)
        )
        assert len(set(routed)) == 2
        # As the guide says it: storage alone, or an api that is published elsewhere would be made anew.
        await project.compose("up", "--detach", "--no-deps", "--scale", "storage=1", "storage")
        await calls.until_good(100)
    assert calls.failures == []
    async with trio.open_nursery() as nursery:
        for url in await project.api_urls():
            nursery.start_soon(_all_resolve, url, calls.shortened)


async def test_a_plugin_is_updated_without_a_failed_call(project: Project) -> None:
    async with load(await project.api_urls()) as calls:
        await project.compose("build", "--build-arg", "VERSION=0.0.0-next", "storage")
        await project.up("--no-deps", "--no-recreate", "--scale=storage=2", "storage")
        await project.up("--no-deps", "--scale=storage=1", "storage")
        await calls.until_good(100)
    assert calls.failures == []
    (storage,) = [c for c in await project.containers() if c.service == "storage"]
    assert storage.index == "2"


async def _all_resolve(url: str, shortened: Mapping[str, str]) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        for code, long in shortened.items():
            assert await resolve(http, code) == long
