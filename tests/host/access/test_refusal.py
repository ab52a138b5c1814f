"""A refusal has all that an edge needs to write it in its protocol."""

from __future__ import annotations

import pytest

from cpg_trio.host.access.refusal import RefusedError, marks
from cpg_trio.rpc import Code, ConnectError, Fault


@pytest.mark.parametrize(
    ("code", "status", "fault"),
    [
        (Code.INVALID_ARGUMENT, 400, b"caller"),
        (Code.UNAUTHENTICATED, 401, b"caller"),
        (Code.PERMISSION_DENIED, 403, b"caller"),
        (Code.NOT_FOUND, 404, b"host"),
        (Code.RESOURCE_EXHAUSTED, 429, b"caller"),
        (Code.INTERNAL, 500, b"host"),
        (Code.UNAVAILABLE, 503, b"host"),
    ],
)
def test_a_refusal_is_an_error_of_an_rpc_and_a_plain_response_that_no_provider_has_seen(
    code: Code, status: int, fault: bytes
) -> None:
    refused = RefusedError(code, "no")
    assert isinstance(refused, ConnectError)
    assert (refused.code, refused.message) == (code, "no")
    assert (refused.status, refused.plain) == (status, "no")
    assert refused.fields == [(b"x-plugin-undelivered", b"true"), (b"x-plugin-fault", fault)]


def test_a_refusal_that_passes_with_time_says_when_to_try_again() -> None:
    refused = RefusedError(Code.RESOURCE_EXHAUSTED, "no", status=413, plain="too much", retry_after_s=7)
    assert (refused.status, refused.plain, refused.message) == (413, "too much", "no")
    assert refused.fields == [*marks(Fault.CALLER, undelivered=True), (b"retry-after", b"7")]
