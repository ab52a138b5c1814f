"""What the errors of the host's state mean to the caller of a service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cpg_trio import wire
from cpg_trio.host.access.limits import LimitError
from cpg_trio.host.directory.registry import NoProviderError, UnknownRegistrationError
from cpg_trio.rpc import Code, ConnectError


@contextmanager
def state_errors() -> Iterator[None]:
    """Give the errors of the state their codes. Raises: ConnectError."""
    try:
        yield
    except wire.InvalidError as error:
        raise ConnectError(Code.INVALID_ARGUMENT, str(error)) from error
    except (NoProviderError, UnknownRegistrationError) as error:
        raise ConnectError(Code.NOT_FOUND, str(error)) from error
    except LimitError as error:
        raise ConnectError(Code.RESOURCE_EXHAUSTED, str(error)) from error
