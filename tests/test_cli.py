"""The command line, and what `import cpg_trio` shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_origin

import attrs
import pytest

import cpg_trio
from cpg_trio import Limits, PluginConfig, Rate, RateLimits, Selection, cli
from cpg_trio.host import host_config
from cpg_trio.http import StartError
from cpg_trio.process import config_from_environment
from cpg_trio.variables import HOST, SERVING


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"cpg-trio {cpg_trio.__version__}\n"


def test_the_help_names_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["host", "--help-all"])
    told = capsys.readouterr().out
    assert not [name for name in SERVING | HOST if not re.search(rf"\b{name}\b", told)]


@pytest.mark.parametrize(
    ("environment", "path"),
    [({}, None), ({"STATE_PATH": ""}, None), ({"STATE_PATH": "a/host.sqlite3"}, Path("a/host.sqlite3"))],
)
def test_a_host_keeps_its_state_where_it_is_told_to_and_nowhere_else(
    environment: dict[str, str], path: Path | None
) -> None:
    assert str(host_config(environment).store) == str(path and path.resolve())


@pytest.mark.parametrize(
    ("environment", "path"),
    [({}, None), ({"SOCKET_DIR": ""}, None), ({"SOCKET_DIR": "/s"}, Path("/s"))],
)
def test_a_host_has_sockets_only_where_it_is_told_to(environment: dict[str, str], path: Path | None) -> None:
    assert host_config(environment).socket_dir == path


def test_one_number_says_how_soon_a_silent_plugin_is_gone() -> None:
    leases = host_config({"LEASE_S": "1.5"}).leases
    assert (leases.lease_s, leases.heartbeat_s, leases.probe_timeout_s) == (1.5, 0.5, 0.5)


@pytest.mark.parametrize("lease", ["0", "-1", "soon", "inf", "nan"])
def test_a_lease_that_makes_no_sense_is_refused_with_what_to_write_instead(lease: str) -> None:
    with pytest.raises(StartError, match="LEASE_S must be a number of seconds above 0, not '"):
        host_config({"LEASE_S": lease})


def test_each_service_type_has_the_selection_that_is_said_of_it() -> None:
    assert host_config({"SELECTION": "storage=round-robin, logger=random"}).selection == {
        "storage": Selection.ROUND_ROBIN,
        "logger": Selection.RANDOM,
    }
    assert host_config({"SELECTION": ""}).selection == {}


@pytest.mark.parametrize("selection", ["storage", "storage=", "storage=best", "=random", "a b=random"])
def test_a_selection_that_makes_no_sense_is_refused_with_what_to_write_instead(selection: str) -> None:
    with pytest.raises(StartError, match="SELECTION must be like 'storage=round-robin'") as refused:
        host_config({"SELECTION": f"logger=first,{selection}"})
    assert f"not '{selection}'" in str(refused.value)


def test_each_kind_of_call_has_the_rate_that_is_said_of_it_and_the_others_what_is_usual() -> None:
    rates = host_config({"RATE_LIMITS": "handshake=0.5/20, health-report=off"}).rates
    assert rates == attrs.evolve(RateLimits(), handshake=Rate(0.5, 20), health_report=None)
    assert host_config({"RATE_LIMITS": ""}).rates == RateLimits()


@pytest.mark.parametrize(
    "rate",
    [
        "watch",
        "watch=",
        "watch=5",
        "watch=5/0",
        "watch=0/5",
        "watch=inf/5",
        "watch=5/x",
        "wach=5/20",
        "=5/20",
    ],
)
def test_a_rate_that_makes_no_sense_is_refused_with_what_to_write_instead(rate: str) -> None:
    with pytest.raises(
        StartError, match="RATE_LIMITS must be like 'handshake=10/20,discover=off'"
    ) as refused:
        host_config({"RATE_LIMITS": f"discover=1/1,{rate}"})
    assert f"not {rate!r}" in str(refused.value)
    assert "failed-authentication" in str(refused.value)


def test_each_limit_is_what_is_said_of_it_and_the_others_are_what_is_usual() -> None:
    config = host_config({"LIMITS": "max_identities=1000, max_watches=5", "MAX_CONNECTIONS": "300"})
    assert config.limits == Limits(max_identities=1000, max_watches=5)
    assert config.serve.max_connections == 300
    assert host_config({"LIMITS": "", "MAX_CONNECTIONS": ""}).limits == Limits()
    assert host_config({"LIMITS": "max_routed_body_bytes=1000"}).limits.max_routed_body_bytes == 1000
    assert PluginConfig.from_environment(0, {"MAX_CONNECTIONS": "300"}).serve.max_connections == 300


@pytest.mark.parametrize(
    "limit",
    ["max_watches", "max_watches=", "max_watches=0", "max_watches=5.5", "max_watches=off", "watches=5"],
)
def test_a_limit_that_makes_no_sense_is_refused_with_what_to_write_instead(limit: str) -> None:
    with pytest.raises(
        StartError, match="LIMITS must be like 'max_identities=1000,max_watches=500'"
    ) as refused:
        host_config({"LIMITS": f"max_plugins=1,{limit}"})
    assert f"not {limit!r}" in str(refused.value)
    assert "max_all_subscriptions" in str(refused.value)


@pytest.mark.parametrize("number", ["0", "-1", "many", "1e3", "1000000", "9" * 5000])
def test_a_number_of_connections_that_makes_no_sense_is_refused(number: str) -> None:
    with pytest.raises(StartError, match="MAX_CONNECTIONS must be a number from 1 to 999999"):
        config_from_environment({"MAX_CONNECTIONS": number})


def test_how_plugins_reach_a_host_is_said_in_its_environment() -> None:
    assert host_config({"PUBLIC_URL": "https://host.example"}).public_url == "https://host.example"
    assert not host_config({}).public_url
    with pytest.raises(StartError, match="PUBLIC_URL"):
        host_config({"PUBLIC_URL": "host.example"})


def test_every_public_name_is_documented() -> None:
    public = [name for name in dir(cpg_trio) if not name.startswith("_")]
    assert {"Host", "Plugin", "run", "rpc"} <= set(public)
    for name in public:
        value = getattr(cpg_trio, name)
        assert value.__doc__ or get_origin(value) is not None, name  # an alias has none


def test_what_type_checkers_see_of_the_package_is_what_there_is() -> None:
    tree = ast.parse(Path(cpg_trio.__file__).read_text())
    told = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told - {"TYPE_CHECKING"} == set(dir(cpg_trio)) - set(cpg_trio._ROOMS)
    with pytest.raises(AttributeError, match="module 'cpg_trio' has no attribute 'Hsot'"):
        cpg_trio.Hsot  # type: ignore[attr-defined]  # noqa: B018
