"""The JSON schema and the reference of platform files: both say what the reader reads."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import attrs
import pytest
from hypothesis import given, settings, strategies as st
from jsonschema import Draft202012Validator

from cpg_trio import cli
from cpg_trio.launch.kinds import Key, Table, keys_of
from cpg_trio.launch.places import PlatformFileError
from cpg_trio.launch.platform_file import read_platform
from cpg_trio.launch.schema import schema
from cpg_trio.launch.tables import LimitsTable, PluginTable, RestartTable, SecretTable
from cpg_trio.variables import default_of, meaning_of
from tests.launch.test_platform_file import WHOLE

PAGE = Path(__file__).parents[2] / "docs/reference/platform-file.md"
TABLES = (PluginTable, RestartTable, LimitsTable, SecretTable)


def row(name: str, key: Key) -> str:
    """Return what the reference says of a key."""
    launchers = ", ".join(key.launchers) or "all"
    return f"| `{name}` | {meaning_of(key.meaning)} | {default_of(key.meaning) or '-'} | {launchers} |"


def test_the_reference_has_each_key_and_no_other() -> None:
    page = PAGE.read_text()
    rows = [line for line in page.splitlines() if re.match(r"\| `\w+` \|", line)]
    assert rows == [row(name, key) for table in TABLES for name, key in keys_of(table).items()]


def test_each_example_of_the_reference_can_be_read(tmp_path: Path) -> None:
    for number, text in enumerate(re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        file.chmod(0o600)
        read_platform(file)


def test_the_command_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["up", "--schema"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == schema()


def test_the_schema_is_one_and_takes_what_the_reader_takes() -> None:
    Draft202012Validator.check_schema(schema())
    Draft202012Validator(schema()).validate(tomllib.loads(WHOLE))


@pytest.mark.parametrize(
    "text",
    [
        "[hots]",
        "host.prot = 1",
        "host.port = [[1]]",
        "[plugins.x]",
        '[plugins.x]\nplugn = "a:b"',
        '[plugins.x]\nplugin = "a"',
        "[plugins.x]\ncommand = []",
        '[plugins.x]\ncommand = "a"',
        '[plugins.x]\nlauncher = "proces"',
        '[plugins.x]\nlauncher = "external"\nstart = "soon"',
        '[plugins.x]\nlauncher = "external"\nstart = 0',
        '[plugins.x]\ncommand = ["a"]\nport = 70000',
        '[plugins.x]\ncommand = ["a"]\nwaits_for_host = 1',
        '[plugins.x]\ncommand = ["a"]\nlimits.memory = "1"',
        '[plugins.x]\ncommand = ["a"]\nrestart = "never"',
        '[plugins.x]\ncommand = ["a"]\nsecrets.A = "s"',
        '[plugins.x]\ncommand = ["a"]\nsecrets.A.fil = "s"',
        '[plugins.x]\ncommand = ["a"]\nenvironment.A = []',
        '[plugins.x]\ncommand = ["a"]\nenvironment."A B" = 1',
        '[plugins.x]\ncommand = ["a"]\nprovides = ["a", "a"]',
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(tmp_path: Path, text: str) -> None:
    file = tmp_path / "platform.toml"
    file.write_text(text)
    with pytest.raises(PlatformFileError):
        read_platform(file)
    assert list(Draft202012Validator(schema()).iter_errors(tomllib.loads(text)))


def test_each_key_has_its_description_in_the_schema() -> None:
    plugin = schema()["properties"]["plugins"]["additionalProperties"]["properties"]
    for table, found in ((PluginTable, plugin), (RestartTable, plugin["restart"]["properties"])):
        assert {name: each["description"] for name, each in found.items()} == {
            name: key.meaning for name, key in keys_of(table).items()
        }


def test_each_field_of_a_table_is_a_key_or_known_from_elsewhere() -> None:
    for table in TABLES:
        others: set[Any] = {"name", "source"} if table is PluginTable else set()
        assert {field.name for field in attrs.fields(table)} == keys_of(table).keys() | others
        assert isinstance(Table(table, "").schema, dict)


VALUES = st.sampled_from(
    [
        *(
            '""',
            '"a"',
            '"a:b"',
            '"task"',
            '"process"',
            '"external"',
            '"always"',
            '"token"',
            '"30s"',
            '"0s"',
            '"1MiB"',
        ),
        *(
            '"http://127.0.0.1:1"',
            '"\\u0000"',
            "0",
            "1",
            "-1",
            "1.5",
            "inf",
            "nan",
            "99999999999999999999",
            "true",
        ),
        *(
            "1979-05-27",
            "[]",
            '["a"]',
            '["a", "a"]',
            "[1]",
            "[[]]",
            "{}",
            '{ A = "a" }',
            "{ A = [] }",
            '{ "a b" = 1 }',
        ),
        *(
            '{ A = { file = "a" } }',
            '{ when = "never" }',
            "{ first = 0 }",
            '{ memory = "1" }',
            "{ files = 1 }",
        ),
    ]
)


@settings(max_examples=100)
@given(
    st.dictionaries(st.sampled_from([*keys_of(PluginTable), "unknown"]), VALUES, max_size=4),
    st.dictionaries(st.sampled_from(["port", "lease_s", "selection", "unknown"]), VALUES, max_size=1),
)
def test_any_file_is_accepted_or_refused_with_its_lines_and_the_schema_accepts_no_less(
    plugin: dict[str, str], host: dict[str, str]
) -> None:
    pairs = [[f"{key} = {value}" for key, value in each.items()] for each in (host, plugin)]
    text = "\n".join(["[host]", *pairs[0], "[plugins.x]", *pairs[1]])
    with NamedTemporaryFile(suffix=".toml") as file:  # only its owner may read it
        file.write(text.encode())
        file.flush()
        problems: Sequence[str] = ()
        try:
            read_platform(Path(file.name))
        except PlatformFileError as error:
            problems = error.problems
    assert all(re.match(rf"{file.name}:\d+: ", each) for each in problems)
    assert problems or not list(Draft202012Validator(schema()).iter_errors(tomllib.loads(text)))
