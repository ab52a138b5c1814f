"""How long to wait before a call is sent again: exponential backoff with full jitter, or what is asked for.

Full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/): the wait is anything
between nothing and the longest, so that callers that failed at the same moment do not return together. An
answer may ask for a wait: `Retry-After` in seconds (RFC 9110, section 10.2.3), or a detail of the error
(https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto, `RetryInfo`).
"""

from __future__ import annotations

import json
import random
import re
from base64 import b64decode
from collections.abc import Iterable

from connectrpc.errors import ErrorDetail
from google.protobuf.duration_pb2 import Duration

from cpg_trio.calls.policy import Retry
from cpg_trio.rpc import HttpResponseHead

_RETRY_INFO = "google.rpc.RetryInfo"
_RETRY_DELAY = b"\x0a"  # its only field: a message, which is shorter than 128 bytes
_DIGITS = re.compile(r"[0-9]{1,18}")
_LONGEST_ASKED_S = 3600
_MOST_BYTES = 16 * 1024  # of an error that is read


def wait_s(retry: Retry, attempt: int, asked_s: float = 0.0) -> float:
    """Return how long to wait after an attempt, of which the first is 0: at least `asked_s`."""
    longest_s = min(retry.wait_max_s, retry.wait_initial_s * 2.0 ** min(attempt, 64))
    return asked_s + random.uniform(0.0, longest_s)  # noqa: S311 - spreads load, no secret


def asked_by_field(value: str) -> float:
    """Return the seconds that a value of `Retry-After` asks for, at most an hour; 0 if it has none."""
    return float(min(int(value), _LONGEST_ASKED_S)) if _DIGITS.fullmatch(value) else 0.0


def asked_by_head(response: HttpResponseHead) -> float:
    """Return the seconds that the `Retry-After` of a response asks for; 0 without one, or for a date."""
    return asked_by_field(response.header("retry-after"))


def asked_by_body(body: bytes) -> float:
    """Return the seconds that an error of Connect asks for in its details; 0 if it does not."""
    if _RETRY_INFO.encode() not in body or len(body) > _MOST_BYTES:
        return 0.0
    try:
        error = json.loads(body)
        details = error.get("error", error)["details"]
        for detail in details:
            if detail["type"] == _RETRY_INFO:
                return _delay_s(b64decode(detail["value"] + "==="))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return 0.0


def asked_by_details(details: Iterable[ErrorDetail]) -> float:
    """Return the seconds that the details of an error ask for; 0 if they do not."""
    return next((_delay_s(d.message_bytes) for d in details if d.type_name == _RETRY_INFO), 0.0)


def _delay_s(info: bytes) -> float:
    if info[:1] != _RETRY_DELAY or len(info) < 2 or len(info) < 2 + info[1]:  # noqa: PLR2004 - tag and length
        return 0.0
    try:
        delay = Duration.FromString(info[2 : 2 + info[1]])
    except Exception:  # noqa: BLE001 - whatever the parser raises, nothing is asked for
        return 0.0
    return max(0.0, delay.seconds + delay.nanos / 1e9)
