"""The context of a call: what is taken of what comes, what is dropped, and what goes on."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, strategies as st

from cpg_trio.call_context import (
    NO_CALL,
    CallContext,
    current,
    new_request_id,
    received,
    serving,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def parent_of(*values: str) -> str:
    return received([(b"traceparent", value.encode("latin-1")) for value in values]).traceparent


def state_of(*values: str) -> str:
    fields = [(b"tracestate", value.encode("latin-1")) for value in values]
    return received([(b"traceparent", PARENT.encode()), *fields]).tracestate


def baggage_of(*values: str) -> str:
    return received([(b"baggage", value.encode("latin-1")) for value in values]).baggage


# What is received


def test_a_call_has_its_trace_and_its_request_id() -> None:
    context = received(
        [(b"Traceparent", PARENT.encode()), (b"X-Request-ID", b"abc-1"), (b"accept", b"application/json")]
    )
    assert (context.trace_id, context.span_id, context.is_sampled) == (TRACE, SPAN, True)
    assert context.request_id == "abc-1"


@pytest.mark.parametrize(("flags", "is_sampled"), [("00", False), ("01", True), ("02", False), ("03", True)])
def test_the_first_flag_says_whether_a_trace_is_sampled(flags: str, *, is_sampled: bool) -> None:
    assert CallContext("", f"{PARENT[:-2]}{flags}").is_sampled is is_sampled


def test_without_a_trace_nothing_is_sampled() -> None:
    assert not NO_CALL.is_sampled
    assert (NO_CALL.trace_id, NO_CALL.span_id) == ("", "")


@pytest.mark.parametrize(
    "value",
    [
        "",
        PARENT.upper(),
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01more",
        f"00-{TRACE}-{SPAN}-0x",
        f"00_{TRACE}_{SPAN}_01",
        f"{PARENT}\n",
    ],
)
def test_an_invalid_traceparent_is_dropped_and_the_tracestate_with_it(value: str) -> None:
    context = received([(b"traceparent", value.encode()), (b"tracestate", b"a=1"), (b"baggage", b"b=2")])
    assert (context.traceparent, context.tracestate, context.baggage) == ("", "", "b=2")


def test_two_traceparents_are_none() -> None:
    assert parent_of(PARENT, PARENT) == ""


@pytest.mark.parametrize(("flags", "known"), [("01", "01"), ("ff", "03"), ("fe", "02")])
@pytest.mark.parametrize("more", ["", "-", "-what-will-be"])
def test_of_a_later_version_that_is_taken_which_is_known(more: str, flags: str, known: str) -> None:
    assert parent_of(f"cc-{TRACE}-{SPAN}-{flags}{more}") == f"00-{TRACE}-{SPAN}-{known}"


@pytest.mark.parametrize(
    ("values", "result"),
    [
        (["a=1"], "a=1"),
        (["a=1 , ,b=2,"], "a=1,b=2"),
        (["a=1", "b=2"], "a=1,b=2"),
        (["fw529a3039@dt=FfIAVxM4;a~ b"], "fw529a3039@dt=FfIAVxM4;a~ b"),
        (["1a-_*/=x"], "1a-_*/=x"),
        (["a=1,a=2"], ""),
        (["A=1"], ""),
        (["a=1=2"], ""),
        (["a"], ""),
        (["=1"], ""),
        (["a="], ""),
        ([f"{'k' * 257}=1"], ""),
        ([f"a={'v' * 257}"], ""),
        (["a=\x7f"], ""),
        (["a=1\tb"], ""),
        (["a=\xe9"], ""),
        ([",".join(f"k{i}=1" for i in range(32))], ",".join(f"k{i}=1" for i in range(32))),
        ([",".join(f"k{i}=1" for i in range(33))], ""),
    ],
)
def test_a_tracestate_is_a_list_of_known_form(values: list[str], result: str) -> None:
    assert state_of(*values) == result


def test_of_a_long_tracestate_the_long_members_are_dropped_first_and_then_the_last() -> None:
    short, long = [f"k{i}={'v' * 60}" for i in range(10)], [f"l{i}={'v' * 200}" for i in range(2)]
    assert state_of(",".join([*long, *short])) == ",".join(short[:8])
    assert len(state_of(",".join([*long, *short]))) <= 512


@pytest.mark.parametrize(
    ("values", "result"),
    [
        (["a=1"], "a=1"),
        (["a=1;p;q=2 , b=%20"], "a=1;p;q=2,b=%20"),
        (["a=1", "a=2"], "a=1,a=2"),
        (["a = 1 ; p = x"], "a = 1 ; p = x"),
        (["a="], "a="),
        (["a=b=c"], "a=b=c"),
        (["a"], ""),
        (["a=1;"], ""),
        (['a="1"'], ""),
        (["a=\\"], ""),
        (["a=\xe9"], ""),
        (["a b=1"], ""),
        ([",".join(f"k{i}=1" for i in range(70))], ",".join(f"k{i}=1" for i in range(64))),
        ([f"a={'v' * 8000},b={'v' * 8000}"], f"a={'v' * 8000}"),
        ([f"a={'v' * 9000}"], ""),
    ],
)
def test_baggage_is_a_list_of_known_form_and_size(values: list[str], result: str) -> None:
    assert baggage_of(*values) == result


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"traceparent", b"tracestate", b"baggage", b"x-request-id"]),
            st.binary(max_size=200),
        )
    )
)
def test_whatever_comes_what_goes_on_is_ascii_and_bounded(fields: list[tuple[bytes, bytes]]) -> None:
    context = received([(b"traceparent", PARENT.encode()), *fields])
    assert len(context.traceparent) in {0, 55}
    assert len(context.tracestate) <= 512
    assert len(context.baggage) <= 8192
    assert 1 <= len(context.request_id) <= 128
    assert all(value.isascii() and value.isprintable() for _, value in context.fields())


@given(st.binary())
def test_what_is_valid_stays_the_same(value: bytes) -> None:
    once = received([(b"traceparent", PARENT.encode()), (b"tracestate", value), (b"baggage", value)])
    again = received([(name.encode(), text.encode()) for name, text in once.fields()])
    assert again.fields() == once.fields()


# Request ids


@pytest.mark.parametrize(
    "given_id", ["a", "x" * 128, "7f3c/1+2=@host:80", "550e8400-e29b-41d4-a716-446655440000"]
)
def test_a_request_id_is_kept(given_id: str) -> None:
    assert received([(b"x-request-id", given_id.encode())]).request_id == given_id


@pytest.mark.parametrize(
    "value", [b"", b"x" * 129, b"a b", b'a"b', b"a'b", b"a\\b", b"a,b", b"\xe9", b"a\tb", b"a\n"]
)
def test_an_invalid_request_id_is_replaced(value: bytes) -> None:
    made = received([(b"x-request-id", value)]).request_id
    assert made
    assert made.encode() != value


def test_two_request_ids_are_none() -> None:
    assert received([(b"x-request-id", b"a"), (b"x-request-id", b"b")]).request_id not in {"a", "b", "a,b"}


def test_no_two_made_request_ids_are_the_same() -> None:
    assert len({new_request_id() for _ in range(1000)}) == 1000
    assert received([]).request_id != received([]).request_id


# What goes on


def test_all_of_it_goes_on() -> None:
    assert CallContext("r", PARENT, "a=1", "b=2").fields() == [
        ("x-request-id", "r"),
        ("traceparent", PARENT),
        ("tracestate", "a=1"),
        ("baggage", "b=2"),
    ]
    assert NO_CALL.fields() == []


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"x-request-id"}, ["traceparent", "tracestate", "baggage"]),
        ({"traceparent"}, ["x-request-id", "baggage"]),
        ({"tracestate"}, ["x-request-id", "traceparent", "baggage"]),
        ({"baggage", "accept"}, ["x-request-id", "traceparent", "tracestate"]),
    ],
)
def test_what_a_call_has_itself_wins(given: set[str], names: list[str]) -> None:
    assert [name for name, _ in CallContext("r", PARENT, "a=1", "b=2").fields(given)] == names


async def test_the_tasks_of_a_handler_have_its_context_and_no_other_task_does() -> None:
    seen = {}

    async def look(name: str) -> None:
        seen[name] = current()

    context = CallContext("r")
    async with trio.open_nursery() as nursery:
        with serving(context):
            await look("handler")
            nursery.start_soon(look, "its task")
            seen["its thread"] = await trio.to_thread.run_sync(current)
        nursery.start_soon(look, "another")
    assert seen == {"handler": context, "its task": context, "its thread": context, "another": NO_CALL}
