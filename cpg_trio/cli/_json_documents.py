"""JSON documents that come one after the other, in pieces: with white space between them, or nothing."""

from __future__ import annotations

import codecs
import json
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from typing import Any

from cpg_trio._lines import one_line


class InvalidJsonError(ValueError):
    """The text is not JSON. The message is one line."""


class JsonDocuments:
    """Takes pieces of text, and gives each document as soon as it is whole."""

    def __init__(self) -> None:
        self._decode = json.JSONDecoder().raw_decode
        self._text = ""

    def feed(self, text: str) -> Iterator[Any]:
        """Yield the documents that have come to their end. Raises: InvalidJsonError."""
        self._text = (self._text + text).lstrip()
        while self._text:
            try:
                document, end = self._decode(self._text)
            except json.JSONDecodeError as error:
                if "\n" in self._text[error.pos :]:  # no token goes over a line: more text would not help
                    raise _invalid(error) from None
                return
            except RecursionError:
                raise InvalidJsonError("the JSON is nested too deeply") from None
            if end == len(self._text) and self._text[-1] not in '}]"':
                return  # a number may go on
            yield document
            self._text = self._text[end:].lstrip()

    def end(self) -> Iterator[Any]:
        """Yield the last document. Raises: InvalidJsonError for one that is not whole."""
        text, self._text = self._text, ""
        if text:
            try:
                yield self._decode(text)[0]
            except json.JSONDecodeError as error:
                raise _invalid(error) from None


async def documents_in(chunks: AsyncIterable[bytes]) -> AsyncGenerator[Any, None]:
    """Yield the documents in UTF-8 text. Raises: InvalidJsonError."""
    decoder, documents = codecs.getincrementaldecoder("utf-8")(), JsonDocuments()
    try:
        async for chunk in chunks:
            for document in documents.feed(decoder.decode(chunk)):
                yield document
        for document in documents.feed(decoder.decode(b"", final=True)):
            yield document
    except UnicodeDecodeError:
        raise InvalidJsonError("the JSON is not UTF-8") from None
    for document in documents.end():
        yield document


def _invalid(error: json.JSONDecodeError) -> InvalidJsonError:
    return InvalidJsonError(f"not JSON: {one_line(str(error))}")
