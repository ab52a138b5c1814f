"""Whose failure it is that a call has failed: what its error carries, and what an answer tells of it.

A failure counts against whoever caused it, and nobody else. So an error that a client makes of what the
network does, or of an answer, says where the failure happened, as far as that is known:

    caller ──▶ host ──▶ guard ──▶ handler
      │    way    │  (the provider's)  │
      └─ caller   └─ host              └─ provider, guard, handler

A host tells it on its own answers (`X-Plugin-Fault`), which have no other way to say so.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Protocol

from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail

from cpg_trio import wire
from cpg_trio.errors import CpgTrioError

_UNDELIVERED = wire.UNDELIVERED_HEADER.lower()
_FAULT = wire.FAULT_HEADER.lower()
_UNAUTHORIZED = 401
_JSON = "application/json"
# What routers answer with by themselves, so that it is not known whose answer it is.
_OF_ROUTERS = frozenset({401, 403, 404, 429, 502, 503, 504})


class Fault(StrEnum):
    """Where a call has failed."""

    CALLER = "caller"
    """The caller: wrong arguments, or its own shortage of descriptors, connections, memory or rights."""
    HOST = "host"
    """The host: it cannot be reached, or is short of something, or does not know the provider."""
    WAY = "way"
    """The network, or it is not known whose failure it is."""
    PROVIDER = "provider"
    """The provider, but not its code: it cannot be connected to, broke off, or does not speak HTTP."""
    GUARD = "guard"
    """The provider's guard: it does not accept what is said of the caller, or their clocks differ."""
    HANDLER = "handler"
    """The provider's code, or its server: it has answered so."""

    @property
    def is_providers(self) -> bool:
        """Whether the failure may count against the provider."""
        return self in _PROVIDERS


_PROVIDERS = frozenset({Fault.PROVIDER, Fault.GUARD, Fault.HANDLER})


class CallError(CpgTrioError, ConnectError):
    """The error of a call, with where the call has failed. Raised by clients, for answers and the network."""

    def __init__(
        self, code: Code, message: str, details: Iterable[ErrorDetail] = (), *, fault: Fault
    ) -> None:
        super().__init__(code, message, details)
        self.fault = fault


def fault_of(error: BaseException) -> Fault | None:
    """Return where a call has failed. None for an error that is no client's."""
    return error.fault if isinstance(error, CallError) else None


class Head(Protocol):
    """The head of an answer."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    def header(self, name: str) -> str:
        """Return the first value of a header (`name` in lower case), or an empty string."""


def fault_of_answer(head: Head, content_type: str) -> Fault:
    """Return whose failure an answer is that is no success. `content_type` has no parameters.

    Answers of a host itself say so (`X-Plugin-Fault`). Of the marked ones that do not, a 401 in JSON is of a
    guard, others are of an older host. Unmarked ones are the provider's if they speak Connect, or have a
    status that routers have no use for.
    """
    if told := head.header(_FAULT):
        return Fault(told) if told in _TOLD else Fault.WAY
    speaks_connect = content_type == _JSON
    if head.header(_UNDELIVERED):
        return Fault.GUARD if head.status == _UNAUTHORIZED and speaks_connect else Fault.WAY
    return Fault.HANDLER if speaks_connect or head.status not in _OF_ROUTERS else Fault.WAY


_TOLD = frozenset({Fault.CALLER, Fault.HOST, Fault.PROVIDER, Fault.GUARD})
