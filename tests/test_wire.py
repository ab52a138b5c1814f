"""The rules of the wire protocol: what is valid, in which words it is refused, how versions compare."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from cpg_trio import wire

NAME_RULE = r"contains invalid characters (must match: ^[a-zA-Z][a-zA-Z0-9_.\-]*$)"


@pytest.mark.parametrize("name", ["a", "My_Probe", "storage.v1", "x-9", "A" * 128])
def test_a_good_self_id_is_accepted(name: str) -> None:
    wire.validate_self_id(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "self_id cannot be empty"),
        ("a" * 129, "self_id too long: 129 bytes (max: 128)"),
        ("é" * 65, "self_id too long: 130 bytes (max: 128)"),
        ("my plugin", f'self_id "my plugin" {NAME_RULE}'),
        ("1x", f'self_id "1x" {NAME_RULE}'),
        ("x\n", f'self_id "x\\n" {NAME_RULE}'),
        ('x"y', f'self_id "x\\"y" {NAME_RULE}'),
    ],
)
def test_a_bad_self_id_is_refused_in_the_protocols_words(name: str, message: str) -> None:
    with pytest.raises(wire.InvalidError) as caught:
        wire.validate_self_id(name)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("service_type", "message"),
    [
        ("", "service type cannot be empty"),
        ("a" * 129, "service type too long: 129 bytes (max: 128)"),
        ("a/b", f'service type "a/b" {NAME_RULE}'),
        ("a..b", "service type contains path traversal characters: a..b"),
    ],
)
def test_a_bad_service_type_is_refused_in_the_protocols_words(service_type: str, message: str) -> None:
    with pytest.raises(wire.InvalidError) as caught:
        wire.validate_service_type(service_type)
    assert str(caught.value) == message


@pytest.mark.parametrize("version", ["1.0.0", "0.0.0", "2.1.3-beta", "1.0.0-rc.1", "10.20.30-a-b"])
def test_a_good_version_is_accepted(version: str) -> None:
    wire.validate_version(version)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("", "version cannot be empty"),
        ("1" * 65, "version too long: 65 bytes (max: 64)"),
        *(
            (bad, f'version "{bad}" must be semantic version (e.g., 1.0.0, 2.1.3-beta)')
            for bad in ["v1", "v1.0.0", "1.0", "1.0.0.0", "1.0.0+build", "1.0.0-", "1.0.x", "1.0.0-ä"]
        ),
    ],
)
def test_a_bad_version_is_refused_in_the_protocols_words(version: str, message: str) -> None:
    with pytest.raises(wire.InvalidError) as caught:
        wire.validate_version(version)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "endpoint path cannot be empty"),
        ("demo", "endpoint path must start with /: demo"),
        ("/" + "a" * 256, "endpoint path too long: 257 bytes (max: 256)"),
        ("/a\0b", "endpoint path contains null bytes"),
    ],
)
def test_a_bad_endpoint_path_is_refused_in_the_protocols_words(path: str, message: str) -> None:
    with pytest.raises(wire.InvalidError) as caught:
        wire.validate_endpoint_path(path)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({f"k{i}": "" for i in range(101)}, "too many metadata entries: 101 (max: 100)"),
        ({"": "x"}, "metadata key cannot be empty"),
        ({"k" * 257: "x"}, "metadata key too long: 257 bytes (max: 256)"),
        ({"1x": "y"}, f'metadata key "1x" {NAME_RULE}'),
        ({"k": "v" * 4097}, 'metadata value for key "k" too long: 4097 bytes (max: 4096)'),
        ({"k": "a\0b"}, "metadata contains null bytes (potential injection)"),
    ],
)
def test_bad_metadata_is_refused_in_the_protocols_words(metadata: dict[str, str], message: str) -> None:
    with pytest.raises(wire.InvalidError) as caught:
        wire.validate_metadata(metadata)
    assert str(caught.value) == message


def test_the_largest_metadata_is_accepted() -> None:
    wire.validate_metadata({f"k{i}".ljust(256, "x"): "v" * 4096 for i in range(100)})


def test_a_registration_is_checked_type_first_then_version_path_and_metadata() -> None:
    bad: list[tuple[str, str, str, dict[str, str]]] = [
        ("", "", "", {"": ""}),
        ("t", "", "", {"": ""}),
        ("t", "1.0.0", "", {"": ""}),
        ("t", "1.0.0", "/", {"": ""}),
    ]
    messages: list[str] = []
    for registration in bad:
        with pytest.raises(wire.InvalidError) as caught:
            wire.validate_registration(*registration)
        messages.append(str(caught.value))
    assert messages == [
        "service type cannot be empty",
        "version cannot be empty",
        "endpoint path cannot be empty",
        "metadata key cannot be empty",
    ]


@given(st.text())
def test_any_text_is_a_good_name_or_refused_with_the_one_error(text: str) -> None:
    try:
        wire.validate_service_type(text)
    except wire.InvalidError:
        return
    assert text.isascii()
    assert "/" not in text


def test_a_digest_tells_tokens_apart_and_has_nothing_of_them() -> None:
    assert wire.token_digest("a") == wire.token_digest("a") != wire.token_digest("b")
    assert len(wire.token_digest("a")) == 32
