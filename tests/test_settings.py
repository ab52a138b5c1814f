"""Settings from flags, the environment and a file: which one holds, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpg_trio.settings import Setting, settle
from cpg_trio.variables import SECRETS

TABLE = {
    "LEASE_S": "seconds (default: 15)",
    "SELECTION": "strategies (default: first)",
    "ADMIN_TOKEN": "secret (default: none)",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "host.toml"


def test_the_flag_holds_before_the_environment_the_file_and_the_default(file: Path) -> None:
    file.write_text("lease_s = 3")
    flags, environment = {"LEASE_S": "1"}, {"LEASE_S": "2", "HOME": "/root"}
    for given, path, found in (
        ((flags, environment), file, ("1", "flag", "1")),
        (({"LEASE_S": ""}, environment), file, ("2", "environment", "2")),
        (({}, {"LEASE_S": ""}), file, ("3", "file", "3")),
        (({}, {}), None, ("15", "default", "")),
    ):
        settings = settle(TABLE, *given, path)
        setting = settings.listed[0]
        assert (setting.value, setting.source, settings.environment["LEASE_S"]) == found
        assert (setting.name, setting.meaning) == ("LEASE_S", "seconds")
    assert settle(TABLE, flags, environment).environment["HOME"] == "/root"


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("true", "true"),
        ("1.5", "1.5"),
        ('["a", 2, false]', "a,2,false"),
        ('{ storage = "random", x-y = "first" }', "storage=random,x-y=first"),
        ("[]", ""),
    ],
)
def test_a_value_of_the_file_is_the_text_that_the_environment_would_have(
    file: Path, written: str, text: str
) -> None:
    file.write_text(f"selection = {written}")
    assert settle(TABLE, {}, {}, file).environment["SELECTION"] == text


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("lease = 1", r"'lease' is not a setting; lease_s is: is that meant\?"),
        ("LEASE_S = 1", r"'LEASE_S' is not a setting; lease_s is: is that meant\?"),
        ("colour = 1", "'colour' is not a setting$"),
        ("lease_s = ]", r"Invalid value \(at line 1"),
        ("lease_s = 1\nlease_s = 2", "Cannot overwrite a value"),
        ("lease_s = 2026-11-27", "lease_s: a value is a text, a number, .*; not a date"),
        ("selection = [[1]]", "selection: a value is .*; not a list"),
        ('selection = ["a,b"]', "selection: one of its values has a comma in it"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_in_one_line(file: Path, written: str, said: str) -> None:
    file.write_text(written)
    with pytest.raises(ValueError, match=f"^{file}: {said}") as raised:
        settle(TABLE, {}, {}, file)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_or_is_not_text_is_an_error(file: Path) -> None:
    with pytest.raises(ValueError, match="no such file or directory"):
        settle(TABLE, {}, {}, file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="it is not text"):
        settle(TABLE, {}, {}, file)


def test_a_secret_is_not_shown_and_is_not_in_a_file_that_everybody_may_read(file: Path) -> None:
    file.write_text('admin_token = "s3cret"')
    file.chmod(0o644)
    with pytest.raises(ValueError, match="everybody may read admin_token in it") as raised:
        settle(TABLE, {}, {}, file)
    assert "s3cret" not in str(raised.value)
    file.chmod(0o600)
    settings = settle(TABLE, {}, {}, file)
    assert settings.environment["ADMIN_TOKEN"] == "s3cret"
    assert settings.listed[2] == Setting("ADMIN_TOKEN", "(secret)", "file", "secret")
    assert "s3cret" not in repr(settings)
    assert settle(TABLE, {}, {}).listed[2].value == "none"
    assert "ADMIN_TOKEN" in SECRETS


def test_a_message_says_where_the_settings_that_it_names_are_written(file: Path) -> None:
    file.write_text("lease_s = 1")
    settings = settle(TABLE, {"SELECTION": "x"}, {"ADMIN_TOKEN": "y"}, file)
    assert settings.explained("LEASE_S and SELECTION and ADMIN_TOKEN and OTHER") == (
        "LEASE_S and SELECTION and ADMIN_TOKEN and OTHER"
        f" (LEASE_S is lease_s in {file}, SELECTION is --selection)"
    )
    assert settings.explained("nothing") == "nothing"
    assert settings.without(["LEASE_S"]).environment.keys() == {"SELECTION", "ADMIN_TOKEN"}
