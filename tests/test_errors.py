"""One tree of errors: what is public has one base, and is on the page that says whose fault it is."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from cpg_trio import CallError, Code, ConnectError, CpgTrioError, Fault, Plugin
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from website import api

PAGE = (Path(__file__).parents[1] / "docs/reference/errors.md").read_text()
AMBIGUOUS = {"cpg_trio.calls.UndeliveredError", "cpg_trio.http.UndeliveredError"}


def public_errors() -> dict[str, type[BaseException]]:
    """Return the exceptions of this package that are public, by the name that the page has for them."""
    found = {}
    for module in api.modules():
        for name in api.names_of(module):
            value = getattr(importlib.import_module(module), name)
            is_own = isinstance(value, type) and value.__module__.startswith("cpg_trio")
            if is_own and issubclass(value, BaseException):
                is_ambiguous = f"{module}.{name}" in AMBIGUOUS
                found[f"{module}.{name}".removeprefix("cpg_trio.") if is_ambiguous else name] = value
    return found


ERRORS = public_errors()


@pytest.mark.parametrize("name", ERRORS)
def test_each_public_error_derives_from_the_one_base_and_is_on_the_page(name: str) -> None:
    assert issubclass(ERRORS[name], CpgTrioError)
    assert ERRORS[name].__doc__
    if name != "CpgTrioError":
        rows = [row for row in PAGE.splitlines() if row.startswith(f"| `{name}` |")]
        assert len(rows) == 1, f"{name} has no row, or several, in docs/reference/errors.md"
        assert rows[0].count("|") == 5


def test_the_page_has_no_error_that_there_is_not() -> None:
    assert set(re.findall(r"^\| `([\w.]+Error)` \|", PAGE, re.MULTILINE)) == set(ERRORS) - {"CpgTrioError"}


def test_the_tree_on_the_page_is_that_of_the_classes() -> None:
    (tree,) = re.findall(r"^```\n(CpgTrioError\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    parents: list[str] = []
    shown = []
    for line in tree.splitlines():
        indent, name, also = re.fullmatch(r"([│├└─ ]*)([\w.]+) *(?:also an? (\w+))?.*", line).groups()  # type: ignore[union-attr]
        depth = len(indent) // 3
        parents = [*parents[:depth], name]
        shown.append(name)
        bases = [each.__name__ for each in ERRORS[name].__bases__]
        expected = [parents[depth - 1].rpartition(".")[2] if depth else "Exception", *filter(None, [also])]
        assert bases == expected, name
    assert sorted(shown) == sorted(ERRORS)


def test_the_page_has_each_code_and_each_fault() -> None:
    codes = PAGE.partition("The **code**")[2].partition("The **fault**")[0]
    assert {code.value for code in Code} == set(re.findall(r"`([a-z_]+)`", codes)) - {
        "concurrency",
        "timeout_s",
    }
    assert [f"Fault.{fault.name}" for fault in Fault] == re.findall(r"^\| `(Fault\.\w+)`", PAGE, re.MULTILINE)


async def test_what_a_client_raises_is_of_both_trees() -> None:
    plugin = Plugin("p", version="1.0.0")
    for client in (
        plugin.require("echo").client(EchoServiceClient),
        plugin.capability("echo").client(EchoServiceClient),
    ):
        with pytest.raises(CallError) as caught:
            await client.echo(EchoRequest())
        assert isinstance(caught.value, ConnectError)
        assert isinstance(caught.value, CpgTrioError)
        assert caught.value.code is Code.UNAVAILABLE
        assert caught.value.fault in {Fault.PROVIDER, Fault.HOST}
