"""What an author logs appears, in real processes: by `logging`, by structlog, whatever was there before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.test_log_formats import CALL, IDS

START = """
import logging, sys
import trio
from cpg_trio import call_context, logs, run
log = logging.getLogger(__name__)

async def main(stop):
    with call_context.serving(call_context.CallContext("r-1", "{traceparent}")), logs.log_source("shop"):
        await serve()

async def serve():
    log.info("sold %d", 3)
""".replace("{traceparent}", CALL.traceparent)


def program(code: str, **environment: str) -> tuple[int, str, str]:
    """Run an author's program; return its status, and what it wrote to stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", START + code + "\nsys.exit(run(main))"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def entries(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    "before",
    [
        "",
        "logging.warning('early')",  # adds a handler of its own, at WARNING
        "logging.basicConfig()",
        "logging.getLogger().addHandler(logging.StreamHandler(sys.stderr))",  # as libraries do
        "logging.basicConfig(level=logging.INFO, format='%(message)s')",
        "logs.configure_logging()",
    ],
)
def test_what_an_author_logs_appears_once_whatever_was_there_before(before: str) -> None:
    status, _, errors = program(before)
    assert status == 0
    assert errors.count("sold 3") == 1


def test_a_program_that_has_configured_its_log_keeps_it_unless_a_level_is_named() -> None:
    before = "logging.basicConfig(level=logging.ERROR, format='own %(message)s')"
    assert program(before)[2] == ""
    assert program(before, LOG_LEVEL="info")[2] == "own sold 3\n"
    assert "own LOG_FORMAT is not used" in program(before, LOG_FORMAT="json", LOG_LEVEL="info")[2]


def test_a_level_of_one_logger_is_its_own() -> None:
    code = "async def serve():\n    log.debug('a'); logging.getLogger('b').debug('b'); log.info('c')"
    assert program(code, LOG_LEVEL="__main__=debug")[2].count("id=r-1") == 2
    assert program(code, LOG_LEVEL="warning,__main__=info")[2].endswith(" c id=r-1\n")


def test_a_level_that_does_not_exist_ends_the_program_with_a_line() -> None:
    status, _, errors = program("", LOG_LEVEL="loud")
    assert status == 1
    assert errors.startswith("LOG_LEVEL must be like")
    assert errors.count("\n") == 1


def test_all_that_a_program_writes_to_standard_error_is_json() -> None:
    code = (
        "import warnings\n"
        "async def serve():\n"
        "    log.info('sold', extra={'count': 3}); warnings.warn('old\\nthing'); raise KeyError('a\\nb')"
    )
    status, _, errors = program(code, LOG_FORMAT="json")
    assert status == 1
    sold, warned, ended = entries(errors)
    assert (
        sold.items() >= {"message": "sold", "count": 3, "plugin": "shop", "logger": "__main__", **IDS}.items()
    )
    assert warned["logger"] == "py.warnings"
    assert ended["level"] == "critical"
    assert "KeyError" in ended["exception"]


def test_the_reason_for_which_a_program_does_not_start_is_json_as_well() -> None:
    code = "from cpg_trio import StartError\nasync def serve():\n    raise StartError('no port')"
    status, _, errors = program(code, LOG_FORMAT="json")
    assert status == 1
    [only] = entries(errors)
    assert (only["level"], only["message"]) == ("critical", "no port")


STRUCTLOG = """
import structlog
async def serve():
    structlog.get_logger().info("sold", count=3)
"""
TO_LOGGING = """
structlog.configure(
    processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
)
"""
PRINTED = """
structlog.configure(
    processors=[logs.add_call_context, structlog.processors.JSONRenderer()],
    logger_factory=structlog.PrintLoggerFactory(sys.stderr),
)
"""


def test_what_structlog_prints_by_default_appears() -> None:
    status, printed, _ = program(STRUCTLOG)
    assert status == 0
    assert "sold" in printed


def test_what_structlog_hands_to_logging_has_its_fields_in_both_formats() -> None:
    _, _, text = program(STRUCTLOG + TO_LOGGING)
    assert text.endswith(" sold count=3 id=r-1\n")
    _, _, errors = program(STRUCTLOG + TO_LOGGING, LOG_FORMAT="json")
    [only] = entries(errors)
    assert only.items() >= {"message": "sold", "count": 3, "level": "info", "plugin": "shop", **IDS}.items()


def test_what_structlog_prints_itself_can_have_the_ids_of_the_call() -> None:
    [only] = entries(program(STRUCTLOG + PRINTED)[2])
    assert only == {"event": "sold", "count": 3, **IDS}
