"""Environment variables: each is documented, and a misspelt one is named."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpg_trio.check import check
from cpg_trio.variables import (
    COMMANDS,
    EXAMPLE,
    HOST,
    KNOWN,
    PATHS,
    PLUGIN,
    SERVING,
    TRACING,
    misspelt,
)
from tests.processes import running
from website.commands import OF_OTHERS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HOST_ULR", "HOST_URL"),
        ("HOST_URI", "HOST_URL"),
        ("host_url", "HOST_URL"),
        ("PROT", "PORT"),
        ("STORAGE_PAHT", "STORAGE_PATH"),
        ("ENROLLMENT_TOKEN", "ENROLMENT_TOKEN"),
        ("TLS_CERTS", "TLS_CERT"),
        ("ALLOWED_ORIGIN", "ALLOWED_ORIGINS"),
    ],
)
def test_a_variable_that_is_nearly_one_of_ours_is_named(name: str, meant: str) -> None:
    (said,) = misspelt({name: "x", "PATH": "/bin"})
    assert said.startswith(f"{name} in the environment")
    assert f"{meant} is: is that meant?" in said
    assert not list(misspelt({name: "x", meant: "y"})) or name.startswith(("ENROL", "TLS"))


def test_a_variable_with_a_prefix_of_ours_is_named() -> None:
    assert list(misspelt({"CPG_LOG_LEVEL": "debug"})) == [
        "CPG_LOG_LEVEL in the environment is not a variable that is read here"
    ]


def test_variables_of_others_are_not_named() -> None:
    usual = "HOME PATH LANG LC_ALL PWD SHELL TERM USER LOGNAME MAIL TZ EDITOR PYTHONPATH VIRTUAL_ENV HOSTTYPE"
    usual += (
        " KUBERNETES_PORT KUBERNETES_SERVICE_HOST API_PORT STORAGE_PORT LOGGER_PORT_8081_TCP_ADDR POST SORT"
    )
    assert not list(misspelt(dict.fromkeys([*usual.split(), *KNOWN], "x")))
    assert not list(misspelt(dict.fromkeys(usual.split(), "x")))


async def test_a_misspelt_variable_is_named_at_the_start_and_so_is_what_is_waited_for() -> None:
    misspelt_url = {"PORT": "0", "HOST_ULR": "http://host:8080"}
    async with running("cpg_trio.demo.logger", environment=misspelt_url) as plugin:
        await plugin.until("HOST_ULR in the environment is not a variable that is read here; HOST_URL is")
        await plugin.until(
            "logger-plugin has no HOST_URL, and waits for a managing host to call it on http://"
        )
    async with running("cpg_trio", "host", environment={"PORT": "0", "STATE_PAHT": "x"}) as host:
        await host.until("STATE_PAHT in the environment is not .* STATE_PATH is")
        await host.url()
    async with running("cpg_trio.demo.client", "check", environment={"API_ULR": "x"}) as client:
        await client.until("API_ULR in the environment is not .* API_URL is")


def test_a_check_that_fails_names_what_is_misspelt(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("live", {"PROT": "8080"}) == 1
    assert "PROT in the environment is not a variable that is read here; PORT is" in capsys.readouterr().err


def test_each_variable_that_is_read_is_known_and_each_that_is_known_is_read() -> None:
    read = set()
    for path in (ROOT / "cpg_trio").rglob("*.py"):
        source = path.read_text()
        if path.name != "variables.py" and ("environ" in source or "prefix=" in source):
            read |= set(_read(ast.parse(source)))
            if "bind_from_environment" in source:
                read |= {"PORT", "BIND"}
    assert read - set(OF_OTHERS) == KNOWN


def _read(tree: ast.Module) -> Iterator[str]:
    """Yield the variables that a module reads: the constants that stand beside an environment."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and _is_environment(node.value):
            yield from _constants([node.slice])
        if isinstance(node, ast.GeneratorExp) and "environment" in ast.unparse(node.elt):
            for names in (each.iter for each in node.generators):
                yield from _constants(names.elts if isinstance(names, ast.Tuple) else [])
        if not isinstance(node, ast.Call):
            continue
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        if any(map(_is_environment, values)) or (
            isinstance(node.func, ast.Attribute) and _is_environment(node.func.value)
        ):
            yield from _constants(values)
        named = [keyword.value for keyword in node.keywords if keyword.arg == "prefix"]
        prefix = [value for value in named if isinstance(value, ast.Constant)]
        for each in map(ast.literal_eval, prefix):
            yield from (f"{each}PORT", f"{each}BIND") if each.isupper() else ()  # others are of files
        if isinstance(node.func, ast.Name) and node.func.id == "secret_from_environment":
            yield from (f"{each}_FILE" for each in _constants(node.args))


def _is_environment(node: ast.expr) -> bool:
    match node:
        case ast.Name("environment") | ast.Attribute(ast.Name("os"), "environ"):
            return True
    return False


def _constants(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and re.fullmatch(r"[A-Z][A-Z0-9_]*[A-Z0-9]", str(node.value)):
            yield str(node.value)


def test_the_reference_page_has_each_variable_with_its_meaning_and_default() -> None:
    page = (ROOT / "docs/reference/variables.md").read_text()
    rows = []
    for name, text in {**SERVING, **HOST, **PLUGIN, **TRACING, **EXAMPLE, **COMMANDS}.items():
        meaning, default = text.removesuffix(")").split(" (default: ")
        rows.append(f"| `{name}` | {meaning} | {default} |")
    assert re.findall(r"^\| `[A-Z].*", page, re.MULTILINE) == rows


def test_the_settings_of_a_host_that_are_paths_are_known_as_such() -> None:
    words = ("file ", "directory ", "Unix socket ")
    assert {name for name, text in (SERVING | HOST).items() if text.startswith(words)} == PATHS
