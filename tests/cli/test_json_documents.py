"""JSON documents one after the other: each is there as soon as it is whole."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from cpg_trio.cli._json_documents import InvalidJsonError, JsonDocuments, documents_in

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


async def pieces(*chunks: bytes) -> AsyncGenerator[bytes, None]:
    for chunk in chunks:
        yield chunk


async def documents(*chunks: bytes) -> list[Any]:
    async with aclosing(pieces(*chunks)) as given_pieces, aclosing(documents_in(given_pieces)) as found:
        return [document async for document in found]


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=3), max_size=3), st.data())
def test_documents_are_the_same_however_the_text_is_cut(values: list[Any], data: st.DataObject) -> None:
    indent = data.draw(st.sampled_from([None, 1]))
    text = "\n".join(json.dumps(value, indent=indent) for value in values)
    reader, found = JsonDocuments(), list[Any]()
    while text:
        cut = data.draw(st.integers(1, len(text)))
        found += reader.feed(text[:cut])
        text = text[cut:]
    assert [*found, *reader.end()] == values


def test_a_document_is_there_before_the_next_one_has_begun() -> None:
    reader = JsonDocuments()
    assert list(reader.feed('{"a": 1}{"b"')) == [{"a": 1}]
    assert list(reader.feed(": 2}")) == [{"b": 2}]
    assert list(reader.feed(" 12")) == []
    assert list(reader.feed("3\n")) == [123]


@pytest.mark.parametrize("text", ['{"a" 1}\n', '{"a": "b\n', "nonsense\n", "}\n", "[1 2]\n"])
def test_what_cannot_become_json_is_refused_at_the_end_of_its_line(text: str) -> None:
    with pytest.raises(InvalidJsonError, match=r"^not JSON: ") as refused:
        list(JsonDocuments().feed(text))
    assert "\n" not in str(refused.value)


async def test_what_is_not_whole_at_the_end_is_refused() -> None:
    with pytest.raises(InvalidJsonError, match=r"^not JSON: "):
        await documents(b'{"a": 1} {"b"')
    with pytest.raises(InvalidJsonError, match=r"not UTF-8"):
        await documents(b'"\xff"')
    with pytest.raises(InvalidJsonError, match="nested too deeply"):
        await documents(b"[" * 100_000)


async def test_a_letter_may_be_cut_in_two() -> None:
    assert await documents('"ä"'.encode()[:2], '"ä"'.encode()[2:]) == ["ä"]
    assert await documents() == []
