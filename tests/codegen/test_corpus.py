"""Protos as people have them: generated, imported, and each method called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cpg_trio.codegen.project import Project

CORPUS = Path(__file__).parent / "corpus"
CALLS = Path(__file__).with_name("calls.py")


@pytest.fixture(scope="module", params=["made.here", ""], ids=["in_a_package", "at_the_top"])
def called(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Return what a program tells that has called each method of each service of the corpus."""
    package: str = request.param
    top = tmp_path_factory.mktemp("top")
    project = Project(CORPUS, top.joinpath(*filter(None, package.split("."))), package)
    project.write(project.generate())
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(CALLS), str(project.output), package],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(top), str(root)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert not done.stderr, done.stderr
    told: Mapping[str, Any] = json.loads(done.stdout)
    return told


def test_each_method_of_each_kind_is_called_and_answers(called: Mapping[str, Any]) -> None:
    assert called["answered"] == [
        *(f"Plain/{name}" for name in ("Dash", "Greet", "Keyword", "Under")),
        *(f"beside.{name}/Do" for name in ("Service", "X", "XService")),
        "builtins.Types/Int",
        "dots.Dots/Dot",
        "edition.Editions/Edit",
        *(f"kinds.Kind/{name}" for name in ("Rpc", "Str", "Tuple", "__mangled")),
        *(
            f"lambda.v1.global/{name}"
            for name in (
                *("Application", "Class", "Lambda", "Options", "Rpcs", "Self", "ServiceName", "_Unary"),
                *("_server_stream", "import"),
            )
        ),
        "my.Dashes/Dash",
        *(f"shop.v1.Shop/{name}" for name in ("Buy", "Fill", "Hidden", "Talk", "Watch")),
        *(
            f"shop.v1.WellKnown/{name}"
            for name in ("Durations", "Masks", "Sources", "Strings", "Types", "Values")
        ),
        "two.Two/Old",
    ]


def test_names_that_python_or_stubs_have_get_an_underscore(called: Mapping[str, Any]) -> None:
    names = called["python_names"]["lambda.v1.global"]
    assert names["import"] == "import_"
    assert names["Application"] == "application_"
    assert names["Rpcs"] == "rpcs_"
    assert names["Options"] == "options"
    names = called["python_names"]["kinds.Kind"]
    assert list(names.values()) == ["rpc_", "tuple_", "str_", "_mangled"]


def test_a_service_beside_one_of_its_name_has_a_base_class_of_its_own(called: Mapping[str, Any]) -> None:
    bases = called["bases"]
    assert bases["beside.X"] == "XBaseService"
    assert bases["beside.XService"] == "XService"
    assert bases["beside.Service"] == "Service"
    assert bases["beside.Nothing"] == "NothingService"


def test_comments_are_docstrings_whatever_is_in_them(called: Mapping[str, Any]) -> None:
    documented = called["documented"]
    assert documented["shop.v1.Shop"].strip().splitlines()[-1].strip() == (
        'Its comment has several lines, a \\ and """ quotes """, and ends with a "quote"'
    )
    assert documented["shop.v1.Shop/Buy"] == "Ends with a backslash \\"
    assert documented["kinds.Kind/Tuple"] == "Its comment is behind it."


def test_what_methods_promise_is_kept_on_both_sides(called: Mapping[str, Any]) -> None:
    assert called["idempotency"] == {
        "edition.Editions/Edit": "IDEMPOTENT",
        "shop.v1.Shop/Watch": "NO_SIDE_EFFECTS",
    }


def test_types_describe_what_is_there_once_it_is_loaded(called: Mapping[str, Any]) -> None:
    assert called["described"] > 150
    assert called["not_there"] == []
    # Names that no class can have, or that have another meaning in it.
    assert called["not_described"] == [
        "dots.Outer.Clear.clear_name",
        *(f"kinds.Kinds.{name}" for name in ("Clear", "DESCRIPTOR", "__hidden", "from")),
        "lambda.v1.class.from",
    ]
