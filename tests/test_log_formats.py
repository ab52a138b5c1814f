"""The formats of the log: what a line has, and that JSON is JSON whatever anybody writes."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from cpg_trio._log_formats import LONGEST_LINE, JsonFormatter
from cpg_trio.call_context import CallContext, serving
from cpg_trio.logs import (
    LineLog,
    LogConfig,
    LogFormat,
    configure_logging,
    dropped_lines,
    flush,
    identify,
    ids,
    log_source,
)

AUTHOR = logging.getLogger("shop.orders")
CALL = CallContext("r-1", "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
IDS = {"request_id": "r-1", "trace_id": "0123456789abcdef0123456789abcdef", "span_id": "0123456789abcdef"}


def written(log: Callable[[], object], form: LogFormat = LogFormat.JSON) -> str:
    """Return what the log has of what is logged."""
    stream = StringIO()
    configure_logging(stream=stream, config=LogConfig(form))
    log()
    flush()
    return stream.getvalue()


def read(log: Callable[[], object]) -> list[dict[str, Any]]:
    text = written(log)
    assert len(text.splitlines()) == text.count("\n")  # no reader sees more lines
    return [json.loads(line) for line in text.splitlines()]


def entry(log: Callable[[], object]) -> dict[str, Any]:
    [only] = read(log)
    return only


def test_a_line_of_json_tells_when_what_and_who() -> None:
    told = entry(lambda: AUTHOR.warning("%d sold", 3))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", told.pop("time"))
    assert told == {"level": "warning", "logger": "shop.orders", "message": "3 sold"}


def test_both_ways_to_a_line_lead_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_790_000_000.250_000_5)
    monkeypatch.setattr("time.time_ns", lambda: 1_790_000_000_250_000_500)  # which newer Pythons ask

    def both() -> None:
        with log_source("shop"), serving(CALL):
            identify("shop-1")
            LineLog("cpg_trio.x").info('a "b" → c')
            logging.getLogger("cpg_trio.x").info('a "b" → c')

    first, second = read(both)
    expected = {"level": "info", "logger": "cpg_trio.x", "message": 'a "b" → c', **IDS}
    expected |= {"time": "2026-09-21T14:13:20.250000Z", "plugin": "shop", "runtime_id": "shop-1"}
    assert first == second == expected
    first_line, second_line = written(both, LogFormat.TEXT).splitlines()
    assert first_line == second_line
    assert first_line.endswith(' a "b" → c id=r-1')


def test_a_line_names_the_call_that_it_is_given_before_the_one_that_is_served() -> None:
    with serving(CallContext("other")):
        assert entry(lambda: LineLog("cpg_trio.x").info("x", CALL)).items() >= IDS.items()
        assert entry(lambda: AUTHOR.info("x", extra=ids(CALL))).items() >= IDS.items()
        assert entry(lambda: AUTHOR.info("x"))["request_id"] == "other"


def test_a_line_outside_a_call_has_no_ids() -> None:
    assert "request_id" not in entry(lambda: AUTHOR.info("x"))
    assert "id=" not in written(lambda: AUTHOR.info("x"), LogFormat.TEXT)


def test_a_thread_of_an_author_s_logs_as_the_only_plugin_and_as_none_of_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cpg_trio._log_formats._sources", [])  # other tests leave hosts behind

    def in_a_thread() -> None:
        thread = threading.Thread(target=AUTHOR.info, args=("x",))
        thread.start()
        thread.join()

    with log_source("shop"):
        assert entry(in_a_thread)["plugin"] == "shop"
        with log_source("host"):
            assert "plugin" not in entry(in_a_thread)
            assert entry(lambda: AUTHOR.info("x"))["plugin"] == "host"


def test_the_fields_of_a_record_are_in_its_line() -> None:
    def log() -> None:
        AUTHOR.info("sold", extra={"count": 3, "to": {"name": "Ada Lovelace"}, "level": "x", "who": 'a "b"'})

    told = entry(log)
    assert (told["count"], told["to"], told["level"], told["level_"]) == (
        3,
        {"name": "Ada Lovelace"},
        "info",
        "x",
    )
    text = written(log, LogFormat.TEXT)
    fields = 'sold count=3 to="{\'name\': \'Ada Lovelace\'}" level=x who="a \\"b\\""'
    assert text.endswith(f" {fields}\n")


class Nasty:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


LOOP: list[object] = []
LOOP.append(LOOP)
HOSTILE = 'a\nb\r\x00\x1b[2J\u2028\u2029\x85\ud800"\\é→\U0001f600' + '","level":"critical"}\n{"a":"'


@pytest.mark.parametrize("value", [HOSTILE, Nasty(), LOOP, float("nan"), b"\xff", {1: {2}}, "x" * 10**6])
def test_each_line_is_one_object_whatever_is_in_it(value: object) -> None:
    def log() -> None:
        with log_source("shop\n"):
            AUTHOR.info("%.2000000s", str(value) if isinstance(value, str) else "x", extra={"value": value})

    told = entry(log)
    assert told["level"] == "info"
    assert "value" in told
    assert len(json.dumps(told)) < 2 * LONGEST_LINE + 2000
    if value is HOSTILE:
        assert told["message"] == HOSTILE.replace("\ud800", "\ufffd") == told["value"]


@pytest.mark.parametrize("form", LogFormat)
def test_a_message_that_its_arguments_do_not_fit_is_a_line_that_says_so(form: LogFormat) -> None:
    text = written(lambda: AUTHOR.info("%d sold", "three"), form)
    assert "'%d sold' (its arguments do not fit: TypeError(" in text


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=30)
@given(st.text(), st.text(), st.text(), st.dictionaries(st.text(min_size=1), ANYTHING, max_size=5))
def test_any_record_is_one_line_and_one_object(
    message: str, name: str, level: str, fields: dict[str, Any]
) -> None:
    record = logging.makeLogRecord({"msg": message, "name": name, "levelname": level, "created": 0.0})
    record.__dict__.update({f"x{key}": value for key, value in fields.items()})
    line = JsonFormatter().format(record)
    assert line.isprintable()
    told = json.loads(line, parse_constant=pytest.fail)
    assert told["message"].encode("utf-8") == message.encode("utf-8", "surrogatepass")  # none is drawn
    assert len(told) >= 4 + len(fields)


def test_an_exception_is_a_field_and_so_is_a_stack() -> None:
    def log() -> None:
        try:
            dict[str, int]()[HOSTILE]
        except KeyError:
            AUTHOR.exception("no", stack_info=True)

    told = entry(log)
    assert told["exception"].startswith("Traceback (most recent call last):\n")
    assert "KeyError" in told["exception"]
    assert told["stack"].startswith("Stack (most recent call last):\n")


def test_lines_that_are_dropped_are_counted_and_told_in_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpg_trio._log_writer._MAX_WAITING", 0)
    before = dropped_lines()
    told = entry(lambda: AUTHOR.info("x"))
    assert told["message"].startswith("1 lines are missing here")
    assert dropped_lines() == before + 1
