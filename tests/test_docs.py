"""The documentation: its Python parses, its links lead to something, its commands are those that CI runs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio

from cpg_trio import Plugin, wire
from cpg_trio.host import Limits, Rate, RateLimits
from cpg_trio.host.access.memory import OTHER_BYTES, estimate
from cpg_trio.host.access.rate_limiting import Kind
from cpg_trio.host.cluster import Stand
from cpg_trio.host.directory import leases
from cpg_trio.http import ServeConfig
from cpg_trio.rpc import Context
from cpg_trio.scaffold import Names, NewProject, new_project
from tests._gen.echo.v1.echo_pb2 import EchoRequest, EchoResponse
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.rpc.echo import Echo

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def python_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


@EACH_PAGE
def test_python_in_a_page_is_python(page: Path) -> None:
    for block in python_of(page.read_text()):
        ast.parse(block)


def anchors_of(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    without_code = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@EACH_PAGE
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        if "://" not in target:
            file = page.parent / name if name else page
            assert file.exists(), target
            assert not anchor or anchor in anchors_of(file.read_text()), target


def test_names_that_pages_import_from_the_package_exist() -> None:
    for page in PAGES:
        for module, names in re.findall(
            r"^from (cpg_trio[\w.]*) import (.+)$", page.read_text(), re.MULTILINE
        ):
            for name in names.split(","):
                assert hasattr(__import__(module, fromlist=[name.strip()]), name.strip()), (page, name)


PUBLIC = {f"cpg_trio{room}" for room in ("", ".rpc", ".http", ".process", ".host", ".plugin", ".launch")}
PUBLIC |= {"cpg_trio.http.client.httpx_transport", "cpg_trio.capabilities", "cpg_trio.logs"}
PUBLIC |= {"cpg_trio.call_context", "cpg_trio.statistics", "cpg_trio.store", "cpg_trio.testing"}


@EACH_PAGE
def test_pages_import_from_the_package_only_what_is_public(page: Path) -> None:
    for block in python_of(page.read_text()):
        for node in ast.walk(ast.parse(block)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                is_ours = module.partition(".")[0] == "cpg_trio"
                assert not is_ours or module in PUBLIC or module.startswith("cpg_trio.protos."), module
                assert not any(part.startswith("_") for part in module.split(".")), module


def test_no_page_shows_others_what_a_registration_tells_the_host_alone() -> None:
    page = (ROOT / "docs" / "guides" / "watching-services.md").read_text()
    for key in (wire.BASE_URL_KEY, wire.SOCKET_KEY, wire.CONTROL_URL_KEY):
        assert f'"{key}"' not in page


@pytest.mark.parametrize("secret", ["state.db.key", "host.key", "ca.pem", "storage.token", "enrolment"])
def test_files_with_secrets_that_the_guides_make_are_not_committed_by_accident(secret: str) -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert any(fnmatch(f"/{secret}", pattern) or fnmatch(secret, pattern) for pattern in ignored)


@pytest.fixture(scope="module")
def greeter_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that `cpg-trio new greeter` writes."""
    folder = tmp_path_factory.mktemp("new") / "greeter"
    new_project(NewProject(Names.of("greeter")), None, folder)
    return folder


def test_the_tutorial_shows_what_a_greeter_project_has(greeter_project: Path) -> None:
    page = (ROOT / "docs/guides/writing-a-plugin.md").read_text()
    assert re.findall(r"^```proto\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) == [
        (greeter_project / "proto/greeter/v1/greeter.proto").read_text()
    ]
    plugin, *tests = python_of(page)
    assert plugin == (greeter_project / "src/greeter/plugin.py").read_text()
    test_file = (greeter_project / "tests/test_greeter.py").read_text().split("\n\n\n")
    assert len(tests) == 2
    for part in "\n\n".join(tests).split("\n\n\n"):
        assert part.strip() in map(str.strip, test_file), part
    for name in re.findall(r"^\| `([\w./]+)` \|", page, re.MULTILINE):
        assert name == "vendor/" or (greeter_project / name).exists(), name


GREETING = """
import trio
from cpg_trio import HealthState
from cpg_trio.protos.logger.v1.logger_pb2 import LogResponse
from cpg_trio.protos.logger.v1.logger_trio import LoggerService
from cpg_trio.testing import open_host
from greeter.plugin import GreetRequest, plugin
from greeter.protos.greeter.v1.greeter_trio import GreeterClient

class Log(LoggerService):
    async def log(self, request, ctx, /):
        print(request.message)
        return LogResponse(success=True)

async def main():
    async with open_host() as host:
        started = await host.start(plugin, until=HealthState.DEGRADED)
        await host.fake("logger", Log())
        await started.until(HealthState.HEALTHY)
        client = await host.client("greeter", GreeterClient)
        print((await client.greet(GreetRequest(name="Ada"))).text)

trio.run(main)
"""


def test_the_plugin_of_the_readme_does_what_the_readme_says(greeter_project: Path, tmp_path: Path) -> None:
    shutil.copytree(greeter_project, tmp_path / "greeter")
    (plugin,) = [block for block in python_of((ROOT / "README.md").read_text()) if "class Greeter(" in block]
    (tmp_path / "greeter/src/greeter/plugin.py").write_text(plugin)
    (tmp_path / "greeting.py").write_text(GREETING)
    done = subprocess.run(
        [sys.executable, "greeting.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["greeter/src", str(ROOT)])},
    )
    assert done.stdout == "greeting Ada\nHello, Ada!\n", done.stderr


async def test_the_program_in_the_guide_to_embedding_a_host_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Greeter(Echo):
        async def echo(self, request: EchoRequest, ctx: Context, /) -> EchoResponse:
            assert ctx.caller is not None
            return EchoResponse(text=f"Hello, {request.text}, from {ctx.caller.name}!")

    class GreeterClient(EchoServiceClient):
        greet = EchoServiceClient.echo

    plugin = Plugin("greeter-plugin", version="0.1.0")
    plugin.provide("greeter", Greeter())
    protos = "greeter.protos.greeter.v1.greeter"
    modules = {
        "greeter.plugin": SimpleNamespace(make_plugin=lambda: plugin),
        f"{protos}_pb2": SimpleNamespace(GreetRequest=lambda name: EchoRequest(text=name)),
        f"{protos}_trio": SimpleNamespace(GreeterClient=GreeterClient),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    page = (ROOT / "docs" / "guides" / "embedding-a-host.md").read_text()
    (program,) = [block for block in python_of(page) if "async def main" in block]
    names: dict[str, Any] = {}
    exec(program, names)
    with trio.fail_after(10):
        await names["main"]()
    assert capsys.readouterr().out == "Hello, Ada, from _host!\n"


def test_each_threat_is_held_by_tests_that_there_are() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    threats = page.partition("## Threats")[2].partition("## ")[0]
    rows = [row for row in threats.splitlines() if row.startswith("| ") and not row.startswith("| threat")]
    assert rows
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)`", row)
        assert named, row
        for name in named:
            assert (ROOT / name).is_file(), name


def test_the_tables_of_limits_have_the_defaults_of_the_code() -> None:
    page = (ROOT / "docs/security.md").read_text()
    limits = {f"Limits.{field.name}": _shown(field.default) for field in attrs.fields(Limits)}
    rates = {str(kind): _shown_rate(RateLimits().of(kind)) for kind in Kind}
    for name, default in {**limits, **rates}.items():
        assert f"| `{name}` | {default} |" in page, name


def _shown(default: int | None) -> str:
    if default is None:
        return "none"
    for unit, name in ((2**20, "MiB"), (2**10, "KiB")):
        if not default % unit:
            return f"{default // unit} {name}"
    return f"{default:,}"


def _shown_rate(rate: Rate | None) -> str:
    assert rate is not None
    return f"{rate.per_s:,.0f} / {rate.burst:,}"


def test_the_total_of_what_is_kept_is_the_sum_of_its_prices() -> None:
    page = (ROOT / "docs/security.md").read_text()
    total = sum(estimate(Limits(), ServeConfig().max_connections).values()) + OTHER_BYTES
    found = re.search(r"\| \*\*all of it\*\* \| \| \| \*\*([\d,]+) MiB\*\* \|", page)
    assert found
    assert int(found[1].replace(",", "")) == round(total / 2**20)


@pytest.mark.skipif(not (ROOT / ".ci").exists(), reason="this is an sdist, which has no CI")
def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = re.findall(r"^\$ (python3 -m venv .+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_table_of_the_standing_of_a_host_has_each_state() -> None:
    page = (ROOT / "docs/design/cluster.md").read_text()
    assert re.findall(r"^\| ([A-Z_]{4,}) \|", page, re.MULTILINE) == [stand.name for stand in Stand]


def test_the_table_of_a_lease_has_the_transitions_of_the_code() -> None:
    page = (ROOT / "docs/design/liveness.md").read_text().partition("## Leases")[2]
    for state, transitions in leases.TRANSITIONS.items():
        targets = [
            transitions[event].name.lower() if event in transitions else "no change" for event in leases.Event
        ]
        assert not transitions or f"| {state.name.lower()} | {' | '.join(targets)} |" in page
