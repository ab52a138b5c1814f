"""Enrolment: who is let in, and what nobody learns from being kept out."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from cpg_trio.host import Enrolment, HostConfig
from cpg_trio.host.access.enrolment import parse_tokens
from cpg_trio.plugin import RefusedError
from tests.host.calls import COOKIE, HANDSHAKE, VERSIONS, running
from tests.plugin.running import echo_plugin, hosting, plugged, until

SECRET, OTHER = "s" * 16, "t" * 20
HEADER = "X-Plugin-Enrolment"
CONFIG = HostConfig(enrolment=Enrolment({"mine": SECRET, "other": OTHER}))


@pytest.mark.parametrize(
    ("self_id", "headers", "why"),
    [
        ("mine", {}, "an enrolment token is needed"),
        ("mine", {HEADER: ""}, "an enrolment token is needed"),
        ("mine", {HEADER: SECRET[:-1]}, "the enrolment token is wrong"),
        ("mine", {HEADER: SECRET + "s"}, "the enrolment token is wrong"),
        ("mine", {HEADER: OTHER}, "the enrolment token is wrong"),
        ("Mine", {HEADER: SECRET}, "the enrolment token is wrong"),
        ("stranger", {HEADER: SECRET}, "the enrolment token is wrong"),
        ("stranger", {}, "an enrolment token is needed"),
    ],
)
async def test_who_does_not_know_the_token_of_its_name_gets_no_identity(
    self_id: str, headers: dict[str, str], why: str
) -> None:
    async with running(CONFIG) as host:
        answer = await host.post(HANDSHAKE, {**COOKIE, **VERSIONS, "selfId": self_id}, headers)
        assert answer == (403, {"code": "permission_denied", "message": f"{self_id} is not let in: {why}"})
        assert len(host.host.identities) == 0


async def test_who_knows_it_gets_one_and_a_handshake_without_a_name_needs_none() -> None:
    async with running(CONFIG) as host:
        body = {**COOKIE, **VERSIONS, "selfId": "mine"}
        assert (await host.post(HANDSHAKE, body, {HEADER: SECRET}))[0] == 200
        assert (await host.post(HANDSHAKE, {**COOKIE, **VERSIONS}))[0] == 200


async def test_a_token_that_is_taken_away_ends_the_renewals(tmp_path: Path, autojump_clock: object) -> None:
    path = written(tmp_path, f"mine {SECRET}\n")
    async with running(HostConfig(enrolment=Enrolment(path))) as host:
        body, proof = {**COOKIE, **VERSIONS, "selfId": "mine"}, {HEADER: SECRET}
        _, answer = await host.post(HANDSHAKE, body, proof)
        proof |= {
            "X-Plugin-Runtime-ID": answer["runtimeId"],
            "Authorization": f"Bearer {answer['runtimeToken']}",
        }
        _, renewed = await host.post(HANDSHAKE, body, proof)
        assert renewed["runtimeId"] == answer["runtimeId"]
        written(tmp_path, f"another {SECRET}\n")
        await trio.sleep(1)
        assert (await host.post(HANDSHAKE, body, proof))[0] == 403


async def test_a_plugin_on_the_sdk_shows_its_token_and_one_without_says_why_it_ends() -> None:
    config = HostConfig(enrolment=Enrolment({"echo-plugin": SECRET}))
    async with hosting(config) as (host, url):
        with pytest.RaisesGroup(pytest.RaisesExc(RefusedError, match="an enrolment token is needed")):
            async with plugged(echo_plugin(), url):
                await trio.sleep_forever()
        async with plugged(echo_plugin(), url, enrolment_token=SECRET):
            await until(host, lambda: host.registry.available("echo"))


def test_tokens_are_read_from_a_variable() -> None:
    assert parse_tokens("") == {}
    assert parse_tokens(f"a={SECRET}, b={OTHER}=,") == {"a": SECRET, "b": f"{OTHER}="}


@pytest.mark.parametrize("tokens", [{"a": "short"}, {"a/b": SECRET}, {"a": "ä" * 20}, {"a": "x" * 15 + "\n"}])
def test_tokens_that_protect_nothing_are_refused_without_a_word_of_them(tokens: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"token of a must be|self_id") as caught:
        Enrolment(tokens)
    assert not any(token in str(caught.value) for token in tokens.values())


def test_a_file_that_everybody_may_read_or_that_names_a_plugin_twice_is_not_used(tmp_path: Path) -> None:
    path = written(tmp_path, f"a {SECRET}\na {OTHER}\n")
    with pytest.raises(ValueError, match="line 2 names a for a second time"):
        Enrolment(path)
    path.chmod(0o644)
    with pytest.raises(ValueError, match="everybody may read it"):
        Enrolment(path)


def written(folder: Path, text: str) -> Path:
    path = folder / "tokens"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_line_that_makes_no_sense_is_named_by_its_number_alone(tmp_path: Path) -> None:
    path = written(tmp_path, f"# names\n\na {SECRET}\nb {SECRET} {OTHER}\n")
    with pytest.raises(ValueError, match="line 4 is not a plugin's name and its token") as caught:
        Enrolment(path)
    assert SECRET not in str(caught.value)
