"""Name servers that fail, or are silent: in place of the system's resolver, which is asked for all else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest


class Names:
    """Answers for names below `.test` and `.invalid`, as it is told; silent for what it is not told of.

    No name leads to it: `getaddrinfo` asks it, in the threads of whoever looks names up.
    """

    def __init__(self) -> None:
        self.known: dict[str, Sequence[str]] = {}
        """Addresses, by name."""
        self.fails: Exception | None = None
        """What it answers to every name that is not known."""
        self.asked: list[str] = []
        self._real = socket.getaddrinfo
        self._ended = threading.Event()

    def getaddrinfo(self, host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if not str(host).endswith((".test", ".invalid")):
            return self._real(host, port, *arguments, **options)
        if options.get("flags"):  # it is not an address
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        self.asked.append(host)
        if (known := self.known.get(host)) is not None:
            return [found for each in known for found in self._real(each, port, *arguments, **options)]
        if self.fails is not None:
            raise self.fails
        self._ended.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def end(self) -> None:
        """Let everybody go who waits."""
        self._ended.set()


@contextmanager
def names_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    try:
        yield names
    finally:
        names.end()
