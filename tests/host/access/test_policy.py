"""The policy: what plugins may by default, what a file says instead, and files that make no sense."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

from cpg_trio.host import Identity, PluginRules, Policy, Rules, ServiceRules
from cpg_trio.host.access.peers import Peer
from cpg_trio.host.access.policy import read_rules

FOREIGN = Identity("foreign-1", "foreign")
DECLARED = Identity("p-1", "p", provides=("a",), requires=("b",))


def test_a_plugin_may_do_what_it_has_declared_and_one_that_has_declared_nothing_everything() -> None:
    policy = Policy()
    assert policy.may_provide(DECLARED, "a")
    assert not policy.may_provide(DECLARED, "b")
    assert policy.may_call(DECLARED, "b")
    assert not policy.may_call(DECLARED, "a")
    assert policy.may_call_directly(DECLARED, "b")
    assert not policy.may_call_directly(DECLARED, "a")
    assert policy.may_provide(FOREIGN, "a")
    assert policy.may_call(FOREIGN, "a")
    assert policy.may_use(DECLARED, "logger")


def test_those_that_declare_nothing_can_be_denied_everything() -> None:
    policy = Policy(Rules(undeclared="deny"))
    assert not policy.may_provide(FOREIGN, "a")
    assert not policy.may_call(FOREIGN, "a")
    assert policy.may_call(DECLARED, "b")


def test_what_a_rule_says_stands_instead_of_what_is_declared() -> None:
    rules = PluginRules(provides=["b"], calls=["a", "c"], direct=["c"], capabilities=[])
    policy = Policy(Rules(plugins={"p": rules}))
    assert not policy.may_provide(DECLARED, "a")
    assert policy.may_provide(DECLARED, "b")
    assert policy.may_call(DECLARED, "a")
    assert not policy.may_call(DECLARED, "b")
    assert policy.may_call_directly(DECLARED, "c")
    assert not policy.may_call_directly(DECLARED, "a")
    assert not policy.may_use(DECLARED, "logger")


def test_a_service_belongs_to_who_provides_it_first_unless_a_rule_names_others() -> None:
    policy = Policy()
    assert policy.may_join(DECLARED, "a", ["p", "p"])
    assert not policy.may_join(DECLARED, "a", ["p", "other"])
    policy = Policy(Rules(services={"a": ServiceRules(providers=["p", "other"])}))
    assert policy.may_join(DECLARED, "a", ["other"])
    assert not policy.may_provide(FOREIGN, "a")
    assert policy.may_provide(DECLARED, "a")


@pytest.mark.parametrize(
    ("names", "good"),
    [
        ((), True),
        (("spiffe://example.org/ns/x/p",), True),
        (("spiffe://example.org/p",), True),
        (("p",), True),
        (("p.plugins.example.org",), True),
        (("other.example.org", "spiffe://example.org/p"), True),
        (("spiffe://p",), False),
        (("spiffe://example.org/p/other",), False),
        (("https://example.org/p",), False),
        (("example.p",), False),
        (("",), False),
        (("*.example.org",), False),
    ],
)
def test_a_certificate_is_that_of_the_plugin_whose_name_it_has(names: tuple[str, ...], good: bool) -> None:  # noqa: FBT001
    assert (Policy().why_not_certified(Peer("192.0.2.7", names), "p") == "") == good


def test_a_certificate_that_a_rule_names_is_needed_but_at_a_unix_socket() -> None:
    policy = Policy(Rules(plugins={"p": PluginRules(certificate="spiffe://example.org/it")}))
    for names in ((), ("p",), ("spiffe://example.org/p",)):
        assert policy.why_not_certified(Peer("192.0.2.7", names), "p") == "its certificate is not that of p"
    assert not policy.why_not_certified(Peer("192.0.2.7", ("x", "spiffe://example.org/it")), "p")
    assert not policy.why_not_certified(Peer("", ()), "p")


def written(path: Path, text: str) -> Path:
    file = path / "policy.toml"
    file.write_text(text)
    return file


def test_a_file_says_all_of_it(tmp_path: Path) -> None:
    text = """
        undeclared = "deny"
        [plugins.storage-plugin]
        provides = ["storage"]
        calls = ["logger"]
        direct = []
        capabilities = ["logger"]
        certificate = "spiffe://example.org/storage"
        [services.storage]
        providers = ["storage-plugin", "other"]
    """
    assert read_rules(written(tmp_path, text)) == Rules(
        undeclared="deny",
        plugins={
            "storage-plugin": PluginRules(
                provides=["storage"],
                calls=["logger"],
                direct=[],
                capabilities=["logger"],
                certificate="spiffe://example.org/storage",
            )
        },
        services={"storage": ServiceRules(providers=["storage-plugin", "other"])},
    )
    assert read_rules(written(tmp_path, "rules = 'none'")) == Rules()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("plugins = 1", "plugins has to be tables, as in [plugins.storage]"),
        ("[plugins]\nx = 1", "plugins has to be tables"),
        ("[plugins.x]\nprovide = []", "[plugins.x] says provide, and may say provides, calls, direct, capab"),
        ("[plugins.x]\nprovides = 'a'", "[plugins.x]: provides has to be a list of names"),
        ("[plugins.x]\nprovides = [1]", "[plugins.x]: provides has to be a list of names"),
        ("[plugins.x]\ncertificate = 1", "[plugins.x]: certificate has to be a name"),
        ("[plugins.x]\ncertificate = ''", "[plugins.x]: certificate has to be a name"),
        ("[plugins.'a/b']", 'self_id "a/b"'),
        ("[services.x]", "[services.x] does not say providers"),
        ("[services.'a b']\nproviders = []", "a b"),
        ("undeclared = 'maybe'", "the file: undeclared has to be 'allow' or 'deny'"),
        ("undeclared = []", "the file: undeclared has to be 'allow' or 'deny'"),
        ("rules = 'some'", 'rules may only be "none"'),
        ("rules = 'none'\nundeclared = 'deny'", 'rules may only be "none"'),
        ("unknown = 1", "the file says unknown, and may say undeclared, plugins, services"),
        ("no toml at all", "line 1"),
        ("x = '\0'", "line 1"),
        ("x = " + "[" * 5000, "it is nested too deeply"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_and_the_error_says_what_and_where(
    tmp_path: Path, text: str, why: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        read_rules(written(tmp_path, text))


async def test_a_file_that_changes_is_read_anew_and_one_that_makes_no_sense_changes_nothing(
    tmp_path: Path, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, "rules = 'none'")
    policy = Policy.from_file(path)
    assert policy.may_call(FOREIGN, "a")
    written(tmp_path, "undeclared = 'deny'")
    await trio.sleep(1)
    assert not policy.may_call(FOREIGN, "a")
    written(tmp_path, "undeclared = 'dunno'")
    await trio.sleep(1)
    assert not policy.may_call(FOREIGN, "a")
    path.unlink()
    await trio.sleep(1)
    assert not policy.may_call(FOREIGN, "a")
    assert caplog.text.count("cannot be used, and what was there before goes on") == 2
