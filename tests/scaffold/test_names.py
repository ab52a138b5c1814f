"""Names of projects: what is called by them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpg_trio.scaffold import NameRefusedError, Names


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("greeter", Names("greeter", "greeter", "greeter", "Greeter", "greeter", "greeter-plugin")),
        (
            "my-greeter",
            Names("my-greeter", "my_greeter", "my_greeter", "MyGreeter", "my-greeter", "my-greeter-plugin"),
        ),
        (
            "my_greeter",
            Names("my-greeter", "my_greeter", "my_greeter", "MyGreeter", "my-greeter", "my-greeter-plugin"),
        ),
        (
            "email-plugin",  # the standard library has a module of that name; the package has another one
            Names("email-plugin", "email_plugin", "email", "Email", "email", "email-plugin"),
        ),
        ("hello2", Names("hello2", "hello2", "hello2", "Hello2", "hello2", "hello2-plugin")),
        ("match", Names("match", "match", "match", "Match", "match", "match-plugin")),  # a keyword at times
    ],
)
def test_what_is_called_by_a_name(name: str, names: Names) -> None:
    assert Names.of(name) == names


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Greeter", "lower-case letters, digits, .* begins with a letter; greeter would be one"),
        ("MyGreeter", "; my-greeter would be one"),
        ("my greeter", "; my-greeter would be one"),
        ("my--greeter", "; my-greeter would be one"),
        ("-greeter", "; greeter would be one"),
        ("../greeter", "; greeter would be one"),
        ("2greeters", "begins with a letter$"),
        ("grüßer", "begins with a letter"),
        ("", "'' is no name for a project"),
        ("x" * 41, "it may have 40 characters"),
        ("class", "'class' is a keyword of Python, .*: my-class would be a name"),
        ("none", "a service None would be a keyword of Python: my-none would be a name"),
        ("true-plugin", "a service True would be a keyword of Python"),
        ("mail-service", "MailService would be the class and its generated base class: mail would be"),
        ("service", "Service would be the class and its generated base class: choose another name"),
        ("google", "'google' would hide the one that is at .*google: google-plugin would be a name"),
        ("class-plugin", "'class' is a keyword of Python"),
        ("email", "'email' would hide that of Python's standard library: email-plugin would be a name"),
        ("types", "would hide that of Python's standard library"),
        ("trio", "'trio' would hide the one that is at .*trio/__init__.py: trio-plugin would be"),
        ("cpg-trio", "'cpg_trio' would hide one that the project needs"),
        ("pytest", "would hide one that the project needs"),
        ("logger", "the protos of cpg-trio itself are in packages 'api', 'capability', .*'logger'"),
        ("logger-plugin", "the protos of cpg-trio itself are in packages"),
        ("plugin", "a service Plugin would hide a class that the plugin uses"),
        ("greet-request", "a service GreetRequest would hide a class"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_why_and_what_could_be(name: str, told: str) -> None:
    with pytest.raises(NameRefusedError, match=told):
        Names.of(name)


def test_a_folder_without_code_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hallo").mkdir()
    assert Names.of("hallo").package == "hallo"
    (tmp_path / "hallo.py").touch()
    with pytest.raises(NameRefusedError, match=r"'hallo' would hide the one that is at .*hallo\.py"):
        Names.of("hallo")
