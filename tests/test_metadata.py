"""Which header fields are metadata, in any spelling."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from cpg_trio.metadata import is_claim, is_metadata
from tests.metadata import FOR_ONE_CONNECTION, METADATA, NEVER, spelled

TOKEN = "!#$%&'*+-.^_`|~" + "0123456789" + "abcdefghijklmnopqrstuvwxyz" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SEPARATORS = [letter for letter in TOKEN if not letter.isalnum()]


@pytest.mark.parametrize("name", METADATA)
def test_an_applications_own_fields_are_metadata(name: str) -> None:
    assert is_metadata(name.encode())
    assert not is_claim(name.encode())


@pytest.mark.parametrize("name", NEVER)
def test_credentials_and_claims_are_none_in_any_spelling_and_as_a_trailer(name: str) -> None:
    for spelling in spelled(name):
        for sent in (spelling, f"trailer-{spelling}", f"Trailer_{spelling}"):
            assert is_claim(sent.encode())
            assert not is_metadata(sent.encode())


@pytest.mark.parametrize("name", FOR_ONE_CONNECTION)
def test_fields_of_one_connection_are_none(name: str) -> None:
    assert not any(is_metadata(spelling.encode()) for spelling in spelled(name))


@pytest.mark.parametrize(
    "name", ["Content_Length", "content.type", "Transfer_Encoding", "x_request_id", "grpc_timeout"]
)
def test_a_name_that_some_reader_takes_for_one_of_a_protocol_is_none(name: str) -> None:
    assert not is_metadata(name.encode())


@given(st.data())
def test_no_choice_of_case_and_separators_makes_metadata_of_a_claim(data: st.DataObject) -> None:
    letters = data.draw(st.sampled_from(NEVER))
    spelling = "".join(
        data.draw(st.sampled_from([letter.upper(), letter] if letter.isalnum() else SEPARATORS))
        for letter in letters
    )
    assert not is_metadata(spelling.encode())
