"""Blocks of fields that come again are not unpacked again, and mean what they meant to a plain decoder."""

from __future__ import annotations

from typing import Any

import hpack
import pytest
from hypothesis import example, given, strategies as st

from cpg_trio.http.server.http2_hpack import BlockDecoder, BlockEncoder

NAMES = st.sampled_from([b":status", b"content-type", b"x-a", b"x-b", b"date"])
FIELDS = st.lists(st.tuples(NAMES, st.sampled_from([b"", b"1", b"200", b"x" * 40, b"y" * 250])), max_size=6)
SIZES = st.sampled_from([None, 0, 60, 256, 4096])  # the longest field alone fills 256


@example(
    [([], 0, False), ([], 4096, True)]
)  # a block that also tells the size of the table, which is as it was
@given(st.lists(st.tuples(FIELDS, SIZES, st.booleans()), max_size=30))
def test_what_is_written_and_read_is_what_plain_hpack_writes_and_reads(steps: list[Any]) -> None:
    encoder, plain_encoder = BlockEncoder(), hpack.Encoder()
    decoder, plain_decoder = BlockDecoder(2**16), hpack.Decoder(2**16)
    for fields, size, again in steps:
        for each in (encoder, plain_encoder):
            if size is not None:
                each.header_table_size = size
        for _ in range(3 if again else 1):
            block = encoder.encode(fields)
            assert block == plain_encoder.encode(fields)
            assert list(decoder.decode(block, raw=True)) == list(plain_decoder.decode(block, raw=True))


def test_a_block_that_comes_again_is_unpacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[bytes] = []
    decode = hpack.Decoder.decode

    def noting(self: hpack.Decoder, data: bytes, raw: bool = False) -> Any:  # noqa: FBT001, FBT002 - hpack's
        unpacked.append(data)
        return decode(self, data, raw)

    monkeypatch.setattr(hpack.Decoder, "decode", noting)
    encoder, decoder = hpack.Encoder(), BlockDecoder(2**16)
    for _ in range(10):
        decoder.decode(encoder.encode([(b":status", b"200"), (b"x-a", b"1")]), raw=True)
    assert len(unpacked) == 2  # the first has changed the table


def test_what_is_remembered_is_bounded() -> None:
    encoder, decoder = hpack.Encoder(), BlockDecoder(2**16)
    for number in range(100):
        fields = [(b"x-a", b"%d" % number, True)]
        decoder.decode(encoder.encode(fields), raw=True)
    assert len(decoder._blocks._known) <= 8


def test_a_request_id_changes_neither_the_table_nor_what_is_known_of_the_other_fields() -> None:
    encoder, decoder = BlockEncoder(), hpack.Decoder()
    rest = [(b":status", b"200"), (b"x-a", b"1")]
    for _ in range(2):  # the table has them then
        decoder.decode(encoder.encode(rest))
    blocks = []
    for n in range(3):
        fields = [*rest, (b"x-request-id", b"%d" % n * 128)]
        blocks.append(encoder.encode(fields))
        assert [(bytes(k), bytes(v)) for k, v in decoder.decode(blocks[-1], raw=True)] == fields
    assert len({block[:-144] for block in blocks}) == 1
    assert len(encoder.header_table.dynamic_entries) == 1
