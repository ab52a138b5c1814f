"""Documents of plugins: read as they were written, also by hosts of another release."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from cpg_trio import HealthState
from cpg_trio.host.access import Ended, Identity
from cpg_trio.host.directory import Health, Registration
from cpg_trio.host.directory.documents import (
    Document,
    Unsealed,
    decode,
    decode_drained,
    decode_ended,
    decode_not_before,
    drained_key,
    encode,
    encode_drained,
    encode_ended,
    encode_not_before,
    ended_key,
    plugin_key,
    runtime_id_of,
    service_key,
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
TYPES = st.none() | st.lists(TEXTS, max_size=3).map(tuple)
TIMES = st.floats(0, 4e9)
HEALTHS = st.builds(
    Health,
    st.none() | st.sampled_from(HealthState),
    TEXTS,
    st.lists(TEXTS, max_size=3).map(tuple),
)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    registrations = [
        Registration(
            draw(TEXTS),
            "p-1",
            draw(TEXTS),
            draw(TEXTS),
            draw(TEXTS),
            draw(st.dictionaries(TEXTS, TEXTS, max_size=3)),
            draw(st.integers(0, 2**53)),
            (draw(TEXTS),),
        )
        for _ in range(draw(st.integers(0, 3)))
    ]
    return Document(
        owner=draw(TEXTS),
        identity=Identity(
            *("p-1", draw(TEXTS), draw(TYPES), draw(TYPES), draw(TEXTS), draw(st.booleans())),
            uses=tuple(draw(st.lists(TEXTS, max_size=3))),
        ),
        digest=draw(st.binary(max_size=32)),
        expires_at=draw(TIMES),
        saved_at=draw(TIMES),
        registrations=tuple(registrations),
        health=draw(st.none() | HEALTHS),
        lapsed=draw(TEXTS),
    )


def parts(document: Document) -> list[Any]:
    """Return what two documents have alike that are the same; registrations are compared by identity."""
    fields = ("id", "runtime_id", "service_type", "version", "endpoint_path", "metadata", "sequence")
    of = [[*(getattr(each, name) for name in fields), each.addresses] for each in document.registrations]
    identity, health = document.identity, document.health
    return [document.owner, identity, document.digest, document.expires_at, document.saved_at, of, health]


@given(documents())
@settings(max_examples=60)
def test_a_document_is_read_as_it_was_written(document: Document) -> None:
    seals = Unsealed()
    read = decode("p-1", encode(document, seals.seal("", document.digest)), seals)
    assert parts(read) == parts(document)
    assert read.lapsed == document.lapsed


def test_what_a_release_does_not_know_is_ignored_and_what_is_missing_has_a_default() -> None:
    value = b'{"future": [1], "registrations": [{"future": {}}], "health": {"state": 99}}'
    read = decode("p-1", value, Unsealed())
    assert read.identity == Identity("p-1", "")
    assert (read.owner, read.lapsed, read.digest, read.expires_at) == ("", "", b"", 0.0)
    assert read.health == Health()
    (registration,) = read.registrations
    assert (registration.id, registration.metadata, registration.addresses) == ("", {}, ("",))
    assert decode_ended("p-1", b'{"future": 1}') == Ended("p-1", "", "", 0.0)
    assert decode_drained(b"{}") == ""


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x",
        b"\xff",
        b"[]",
        b'{"owner": 1}',
        b'{"answers": 1}',
        b'{"expires_at": true}',
        b'{"expires_at": "1"}',
        b'{"provides": "t"}',
        b'{"provides": [1]}',
        b'{"registrations": [1]}',
        b'{"registrations": [{"metadata": {"a": 1}}]}',
        b'{"digest": "no hex"}',
    ],
)
def test_what_is_no_document_is_one_kind_of_error(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode("p-1", value, Unsealed())


def test_the_other_entries_are_read_as_they_were_written_and_keys_say_whose_they_are() -> None:
    ended = Ended("p-1", "p", "of a reason", 5.0)
    assert decode_ended("p-1", encode_ended(ended, 5.0)) == ended
    assert decode_drained(encode_drained("ä")) == "ä"
    assert decode_not_before(encode_not_before(1795000000.125)) == 1795000000.125
    for runtime_id in ("p-1", "a/b"):  # an operator may end anything
        for key in (plugin_key, ended_key, drained_key):
            assert runtime_id_of(key(runtime_id)) == runtime_id
        assert runtime_id_of(service_key("t", runtime_id)) == runtime_id
