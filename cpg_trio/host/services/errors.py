"""What the errors of the host's state mean to a caller: each becomes a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cpg_trio import wire
from cpg_trio.host.access.limits import LimitError
from cpg_trio.host.access.refusal import RefusedError
from cpg_trio.host.directory.registration import NoProviderError, UnknownRegistrationError
from cpg_trio.rpc import Code


@contextmanager
def state_errors() -> Iterator[None]:
    """Within the block, raise errors of the state as RefusedError."""
    try:
        yield
    except wire.InvalidError as error:
        raise RefusedError(Code.INVALID_ARGUMENT, str(error)) from error
    except (NoProviderError, UnknownRegistrationError) as error:
        raise RefusedError(Code.NOT_FOUND, str(error)) from error
    except LimitError as error:
        raise RefusedError(Code.RESOURCE_EXHAUSTED, str(error)) from error
