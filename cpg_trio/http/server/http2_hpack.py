"""HPACK that reads and writes a block of fields once, if the same one comes again. No I/O.

A client that calls one method again and again sends the same block from its third call on, and gets the same
back. To read one costs about as much as to route the call. What a block means depends on the dynamic table
(RFC 7541, section 2.3.2). So a block is remembered only if it left the table as it was, and all blocks are
forgotten as soon as the table changes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from hpack import Decoder, Encoder, HeaderTuple
from hpack.hpack import encode_integer
from hpack.table import HeaderTable

_MOST_BLOCKS = 8  # of one connection
_LONGEST_BLOCK = 512  # bytes
_MOST_FIELDS = 64
_DIFFERING = frozenset({b"content-length", b"x-request-id"})  # of fields that are last in a head


def _is_no_field(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


# The library logs each field at DEBUG, and fields have tokens: whoever sets that level is not to have them.
for _name in ("hpack.hpack", "hpack.table"):
    logging.getLogger(_name).addFilter(_is_no_field)

_K = TypeVar("_K")
_V = TypeVar("_V")


class Table(HeaderTable):
    """A dynamic table that tells whether it has changed."""

    _added = 0

    def add(self, name: bytes, value: bytes) -> None:
        self._added += 1
        super().add(name, value)

    @property
    def state(self) -> tuple[int, int, int]:
        """Another one after each change. Entries go only when others are added, or the size changes."""
        return self._added, self.maxsize, len(self.dynamic_entries)


class Remembered(Generic[_K, _V]):
    """What is known of blocks as long as a table stays as it is."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._state = table.state
        self._known: dict[_K, _V] = {}

    def get(self, key: _K) -> _V | None:
        """Return what is known, None if that is nothing."""
        state = self._table.state
        if state != self._state:
            self._state = state
            self._known.clear()
        return self._known.get(key)

    def add(self, key: _K, value: _V) -> None:
        """Add what was found out after `get` returned None, unless finding it out changed the table."""
        if self._table.state == self._state:
            if len(self._known) == _MOST_BLOCKS:
                self._known.clear()
            self._known[key] = value


class BlockDecoder(Decoder):
    """Reads blocks of fields."""

    def __init__(self, max_header_list_size: int) -> None:
        super().__init__(max_header_list_size)
        self.header_table = self.table = Table()
        self._blocks = Remembered[bytes, list[HeaderTuple]](self.table)

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:  # noqa: FBT001, FBT002 - hpack's
        """Return the fields of a block, in bytes."""
        fields = self._blocks.get(data)
        if fields is None:
            fields = list(super().decode(data, raw))
            if len(data) <= _LONGEST_BLOCK and len(fields) <= _MOST_FIELDS:
                self._blocks.add(data, fields)
        return fields


class BlockEncoder(Encoder):
    """Writes blocks of fields."""

    def __init__(self) -> None:
        super().__init__()
        self.header_table = table = Table()
        self._blocks = Remembered[tuple[Any, ...], bytes](table)

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:  # noqa: FBT001, FBT002 - hpack's
        """Return the block of fields that are given in bytes."""
        fields, rest = tuple(headers), b""
        while fields and fields[-1][0] in _DIFFERING:
            fields, rest = fields[:-1], _literal(*fields[-1]) + rest
        if self.header_table.resized:  # the block also tells the new size, once
            return super().encode(fields, huffman) + rest
        block = self._blocks.get(fields)
        if block is None:
            block = super().encode(fields, huffman)
            if len(block) <= _LONGEST_BLOCK and len(fields) <= _MOST_FIELDS:
                self._blocks.add(fields, block)
        return block + rest


def _literal(name: bytes, value: bytes) -> bytes:
    """Return a field that no table keeps, as its value never comes again (RFC 7541, section 6.2.2)."""
    return b"".join([b"\0", encode_integer(len(name), 7), name, encode_integer(len(value), 7), value])
