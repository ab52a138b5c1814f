"""`up --check`: what a platform file would start, in which order, and what is wrong with it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from cpg_trio.cli._config import show_settings
from cpg_trio.cli._host_check import find
from cpg_trio.cli._output import NOTHING, Column, Output
from cpg_trio.host import Host, from_settings
from cpg_trio.host.supervision import Graph, GraphError, PluginSpec
from cpg_trio.http import StartError
from cpg_trio.launch.places import PlatformFileError
from cpg_trio.launch.platform_file import PlatformFile, read_platform
from cpg_trio.launch.specs import specs_of
from cpg_trio.settings import Settings

_COLUMNS = (
    Column("PLUGIN"),
    Column("LAUNCHER"),
    Column("REPLICAS", right=True),
    Column("PROVIDES"),
    Column("REQUIRES"),
    Column("WAITS FOR"),
    Column("WRITTEN IN", optional=True),
)


@attrs.define
class _Checked:
    """What is known of a platform, and what is wrong with it."""

    errors: list[str] = attrs.field(factory=list)
    warnings: list[str] = attrs.field(factory=list)
    settings: Settings | None = None
    graph: Graph = attrs.field(factory=lambda: Graph(()))
    order: Sequence[Sequence[str]] = ()
    """Those that start at once, one group after the other."""


def check_platform(path: Path, *, processes: bool, json: bool) -> int:
    """Print what a platform file would start, and what is wrong with it; return 1 if something is, else 0."""
    checked = _Checked()
    trio.run(partial(_check, checked, path, processes=processes))
    if json:
        print(_as_json(checked))
    else:
        _show(checked)
    return 1 if checked.errors else 0


async def _check(checked: _Checked, path: Path, *, processes: bool) -> None:
    try:
        file = read_platform(path)
        checked.settings = file.settings(os.environ)
        findings = await find(checked.settings)
        checked.errors += findings.errors
        checked.warnings += [*findings.warnings, *file.report.all_warnings()]
        specs = await specs_of(file, processes=processes, apart=True)
        checked.warnings += [each for each in file.report.all_warnings() if each not in checked.warnings]
        if not findings.errors:
            _check_graph(checked, file, specs)
    except PlatformFileError as error:
        checked.errors += error.problems


def _check_graph(checked: _Checked, file: PlatformFile, specs: Sequence[PluginSpec]) -> None:
    try:
        config, _ = from_settings(file.settings(os.environ))
        checked.graph = Host(config).plugins.check(*specs)
        checked.order = _waves(checked.graph)
    except GraphError as error:
        checked.errors += error.problems
    except StartError as error:
        checked.errors.append(str(error))


def _waves(graph: Graph) -> Sequence[Sequence[str]]:
    """Return the plugins that can start at once, one group after the other."""
    wave: dict[str, int] = {}
    for name in graph.start_order():
        wave[name] = 1 + max((wave[other] for other in graph.waits_for(name)), default=-1)
    return [
        [name for name in graph.specs if wave[name] == number] for number in range(len(set(wave.values())))
    ]


def _as_json(checked: _Checked) -> str:
    settings = checked.settings.listed if checked.settings else ()
    told = {
        "ok": not checked.errors,
        "errors": checked.errors,
        "warnings": checked.warnings,
        "plugins": [_plugin(checked.graph, spec) for spec in checked.graph.specs.values()],
        "order": checked.order,
        "settings": [attrs.asdict(setting) for setting in settings],
    }
    return json.dumps(told, indent=2, ensure_ascii=False)


def _plugin(graph: Graph, spec: PluginSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "id": spec.self_id,
        "launcher": spec.launcher.kind,
        "replicas": spec.replicas,
        "provides": spec.provides,
        "requires": spec.requires,
        "uses": spec.uses,
        "waits_for": graph.waits_for(spec.name),
        "source": spec.source,
    }


def _show(checked: _Checked) -> None:
    print("a platform does not start with this" if checked.errors else "a platform would start with this")
    for text in checked.errors:
        print(f"error: {text}")
    for text in checked.warnings:
        print(f"warning: {text}")
    if checked.order:
        print(f"order: the host, then {', then '.join(' and '.join(wave) for wave in checked.order)}\n")
        graph = checked.graph
        Output().table(_COLUMNS, [_row(graph, spec) for spec in graph.specs.values()])
    if checked.settings is not None:
        print()
        show_settings(checked.settings.listed)


def _row(graph: Graph, spec: PluginSpec) -> Sequence[str]:
    def several(names: Sequence[str] | None) -> str:
        return "?" if names is None else ", ".join(names) or NOTHING

    return (
        spec.name,
        spec.launcher.kind,
        str(spec.replicas),
        several(spec.provides),
        several(spec.requires),
        several(graph.waits_for(spec.name)),
        spec.source,
    )
