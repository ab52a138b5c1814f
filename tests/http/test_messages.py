"""Messages: what is read does not depend on how it was cut, ends where it ends, and has one reading.

The corpus of attacks is in `corpus`, the comparison with h11 in `reading`.
"""

from __future__ import annotations

import gc
import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st

from cpg_trio.http import heads
from cpg_trio.http.heads import Framing, MalformedError, RequestHeads, ResponseHeads
from cpg_trio.http.messages import MAX_HEAD_BYTES, Incoming, IncomingRequest, IncomingResponse
from tests.http import corpus
from tests.http.corpus import Bad, Good, GoodResponse, chunked, get, padded, post, response
from tests.http.mutations import mutations
from tests.http.reading import (
    assert_read_in_one_way,
    assert_response_read_in_one_way,
    feed,
    read_request,
    read_response,
)

UPGRADE = (b"Connection: upgrade", b"Upgrade: x")
WEBSOCKET = (b"Connection: Upgrade", b"Upgrade: WebSocket")
LAST = b"0\r\n\r\n"
REQUESTS: tuple[Bad | Good, ...] = (*corpus.REFUSED, *corpus.ACCEPTED, corpus.TUNNEL, *corpus.UNFINISHED)
RESPONSES: tuple[Bad | GoodResponse, ...] = (*corpus.REFUSED_RESPONSES, *corpus.ACCEPTED_RESPONSES)


@contextmanager
def named(entry: Bad | Good | GoodResponse) -> Iterator[None]:
    """Have a failure name the entry that it is about."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"the entry: {entry.name}")
        raise


def every_cut(data: bytes) -> Iterator[list[int]]:
    """Give every cut into two; of what is large, those near its ends. And every byte by itself."""
    size = len(data)
    if size > 2000:
        yield from ([at] for at in (*range(1, 60), size // 2, *range(size - 60, size)))
        return
    yield from ([at] for at in range(1, size))
    yield list(range(size))


def refusal(message: Incoming[Any], data: bytes) -> MalformedError:
    with pytest.raises(MalformedError) as caught:
        feed(message, data)
    return caught.value


# The corpus


def test_a_request_that_attacks_is_refused_with_a_status_that_says_so() -> None:
    for bad in corpus.REFUSED:
        with named(bad):
            assert refusal(IncomingRequest(), bad.data).status in {400, 431, 501, 505}


def test_a_good_request_is_read_and_ends_where_it_ends() -> None:
    for good in (*corpus.ACCEPTED, corpus.TUNNEL):
        with named(good):
            request = IncomingRequest()
            assert feed(request, good.data) == (good.body, good.rest)
            assert request.complete


def test_an_unfinished_request_is_waited_for() -> None:
    for unfinished in corpus.UNFINISHED:
        with named(unfinished):
            request = IncomingRequest()
            _, rest = feed(request, unfinished.data)
            assert not rest
            assert not request.complete


def test_a_response_that_attacks_is_refused() -> None:
    for bad in corpus.REFUSED_RESPONSES:
        with named(bad):
            refusal(IncomingResponse(), bad.data)


def test_a_good_response_is_read_and_ends_where_it_ends() -> None:
    for good in corpus.ACCEPTED_RESPONSES:
        with named(good):
            message = IncomingResponse()
            message.to_head = good.to_head
            assert feed(message, good.data) == (good.body, good.rest)
            assert message.complete is not good.closed


def test_what_h11_refuses_is_refused_and_what_both_accept_is_the_same() -> None:
    for entry in REQUESTS:
        with named(entry):
            assert_read_in_one_way(entry.data)


def test_the_same_holds_for_responses() -> None:
    for entry in RESPONSES:
        with named(entry):
            to_head = isinstance(entry, GoodResponse) and entry.to_head
            assert_response_read_in_one_way(entry.data, to_head=to_head)


def test_no_cut_changes_what_a_request_is() -> None:
    for entry in REQUESTS:
        with named(entry):
            whole = read_request(entry.data)
            assert all(read_request(entry.data, cuts) == whole for cuts in every_cut(entry.data))


def test_no_cut_changes_what_a_response_is() -> None:
    for entry in RESPONSES:
        with named(entry):
            to_head = isinstance(entry, GoodResponse) and entry.to_head
            whole = read_response(entry.data, to_head=to_head)
            assert all(
                read_response(entry.data, cuts, to_head=to_head) == whole for cuts in every_cut(entry.data)
            )


def test_there_is_enough_of_everything() -> None:
    assert len(corpus.REFUSED) > 200
    assert len(corpus.REFUSED_RESPONSES) >= 40
    for entries in (REQUESTS, RESPONSES):
        names = [entry.name for entry in entries]
        assert len(set(names)) == len(names)


# Every byte that there is


def test_a_name_is_a_token_and_nothing_else() -> None:
    token = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    accepted = [byte for byte in range(256) if read_request(get(b"X%cY: a" % byte))]
    assert bytes(byte for byte in accepted if byte != ord(":")) == bytes(sorted(token))


def test_a_value_has_no_control_characters_but_the_tab() -> None:
    accepted = {byte for byte in range(256) if read_request(get(b"X: a%cb" % byte))}
    assert accepted == {0x09, *range(0x20, 0x7F), *range(0x80, 0x100)}


def test_a_target_has_no_space_no_fragment_and_no_control_characters() -> None:
    accepted = {byte for byte in range(256) if read_request(get(target=b"/a%cb" % byte))}
    assert accepted == {*range(0x21, 0x7F), *range(0x80, 0x100)} - {ord("#")}


IN_A_HOST = b"!$%&'()*+-.:;=[]_~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(("line", "allowed"), [
    (b"%cHost: h", b""),
    (b"Host%c: h", b""),
    (b"Host:%ch", b" \t" + IN_A_HOST),
    (b"Host: h%c", b" \t" + IN_A_HOST),
])  # fmt: skip
def test_no_byte_is_passed_over_in_or_beside_a_host(line: bytes, allowed: bytes) -> None:
    def read(byte: int) -> bool:
        return read_request(b"GET / HTTP/1.1\r\n%s\r\n\r\n" % (line % byte)) is not None

    assert bytes(byte for byte in range(256) if read(byte)) == bytes(sorted(allowed))


def test_a_response_s_reason_has_no_control_characters_but_the_tab() -> None:
    accepted = {byte for byte in range(256) if read_response(response(status=b"HTTP/1.1 200 a%cb" % byte))}
    assert accepted == {0x09, *range(0x20, 0x7F), *range(0x80, 0x100)}


def test_a_target_beyond_ascii_is_percent_encoded_and_the_head_kept_as_it_came() -> None:
    data = get(target="/\u00fc#".encode()[:-1])
    request = IncomingRequest()
    request.feed(data)
    assert request.target == b"/%C3%BC"
    assert request.head_bytes == data


# Heads


def test_headers_are_kept_in_order_and_in_their_spelling_without_the_spaces_around() -> None:
    request = IncomingRequest()
    request.feed(get(b"B: \t 1 2 \t", b"a:3", b"B:", b"A: 4"))
    assert request.headers == [(b"Host", b"h"), (b"B", b"1 2"), (b"a", b"3"), (b"B", b""), (b"A", b"4")]


def test_nothing_is_known_of_a_head_before_it_has_ended() -> None:
    request = IncomingRequest()
    request.feed(get()[:-1])
    assert (request.begun, request.has_head, request.headers) == (True, False, [])
    request.feed(b"\n")
    assert (request.has_head, request.headers) == (True, [(b"Host", b"h")])


def test_an_empty_line_is_not_the_beginning_of_a_request_nor_a_part_of_it() -> None:
    request = IncomingRequest()
    stages = []
    for piece in (b"", b"\r\n", get()):
        request.feed(piece)
        stages.append((request.begun, request.head_bytes))
    assert stages == [(False, b""), (False, b"\r\n"), (True, get())]


@pytest.mark.parametrize(("head", "stays"), [
    (get(), True),
    (get(b"Connection: keep-alive"), True),
    (get(b"Connection: x, Close"), False),
    (get(b"Connection: keep-alive", b"connection: close"), False),
    (get(b"Connection: closed"), True),
    (b"GET / HTTP/1.0\r\n\r\n", False),
    (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False),
])  # fmt: skip
def test_a_connection_is_kept_by_http_1_1_unless_somebody_asks_to_close_it(head: bytes, stays: bool) -> None:  # noqa: FBT001
    request = IncomingRequest()
    request.feed(head)
    assert request.keep_alive is stays


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES, 200])
def test_the_limit_of_a_head_holds_to_the_byte_however_it_comes(size: int) -> None:
    for cuts in ([], [size // 2], [size - 4], [size - 1]):
        feed(IncomingRequest(size), padded(size), cuts)
        with pytest.raises(MalformedError) as caught:
            feed(IncomingRequest(size), padded(size + 1), cuts)
        assert caught.value.status == 431


def test_a_head_that_has_reached_the_limit_without_its_end_is_refused_at_once() -> None:
    request = IncomingRequest(100)
    request.feed(padded(200)[:99])
    assert refusal(request, b"x").status == 431


@pytest.mark.parametrize("data", [b"\x16\x03\x01", b" ", b"{", b"get /", b"\nGET /", b"GET / HTTP/1.1\nHost"])
def test_what_can_never_become_a_request_is_refused_at_once(data: bytes) -> None:
    refusal(IncomingRequest(), data)


@pytest.mark.parametrize("data", [b"GET", b"\r\n", b"HTTP/2", b"HTTPS", b"SSH-2.0-x\r\n"])
def test_what_can_never_become_a_response_is_refused_at_once(data: bytes) -> None:
    refusal(IncomingResponse(), data)


@pytest.mark.parametrize(("data", "status"), [
    (b"GTE / HTTP/1.1\r\nHost: h\r\n\r\n", 501),
    (post(b"Transfer-Encoding: gzip"), 400),
    (post(b"Transfer-Encoding: gzip, chunked"), 501),
    (b"GET / HTTP/2.0\r\n\r\n", 505),
    (b"GET / HTTP/0.9\r\n\r\n", 505),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (get(target=b"/a#b"), 400),
    (padded(MAX_HEAD_BYTES + 1), 431),
])  # fmt: skip
def test_a_status_says_what_was_wrong(data: bytes, status: int) -> None:
    assert refusal(IncomingRequest(), data).status == status


@pytest.mark.parametrize(("data", "wanted"), [
    (get(*WEBSOCKET), True),
    (get(*WEBSOCKET, b"Content-Length: 0"), True),
    (get(*WEBSOCKET, b"Content-Length: 5"), False),
    (post(*WEBSOCKET, b"Content-Length: 0"), False),
    (chunked(b"", *WEBSOCKET), False),
    (get(*UPGRADE), False),
    (get(b"Upgrade: websocket"), False),
    (get(b"Connection: upgrade"), False),
    (corpus.TUNNEL.data, False),
])  # fmt: skip
def test_a_wish_for_a_websocket_is_known_with_the_head_and_no_other_upgrade_is_granted(
    data: bytes,
    wanted: bool,  # noqa: FBT001
) -> None:
    request = IncomingRequest()
    request.feed(data)
    assert request.wants_websocket is wanted


def test_what_else_a_head_tells_is_known_with_it() -> None:
    request = IncomingRequest()
    request.feed(post(b"Expect: 100-Continue", b"TE: gzip, Trailers", b"Content-Length: 7"))
    assert (request.expects_continue, request.accepts_trailers) == (True, True)
    assert (request.head.declares_body, request.remaining) == (True, 7)
    other = IncomingRequest()
    other.feed(get(b"Expect: 200", b"TE: x-trailers"))
    assert (other.expects_continue, other.accepts_trailers, other.head.declares_body) == (False, False, False)


def test_a_body_behind_the_wish_for_an_upgrade_is_never_read_as_another_request() -> None:
    request = IncomingRequest()
    request.feed(chunked(b"", b"Connection: upgrade", b"Upgrade: h2c"))
    refusal(request, corpus.HIDDEN)
    assert (request.method, request.target, request.trailers) == (b"POST", b"/", [])


# Bodies


def test_a_body_is_there_as_it_comes_and_is_taken_once() -> None:
    request = IncomingRequest()
    assert request.feed(post(b"Content-Length: 6", body=b"ab")) == b""
    assert (request.take(), request.take(), request.remaining) == (b"ab", b"", 4)
    request.feed(b"c")
    request.feed(b"d")
    assert request.take() == b"cd"
    assert request.feed(b"ef" + get()) == get()
    assert request.complete


def test_a_chunk_is_there_before_it_is_complete() -> None:
    request = IncomingRequest()
    request.feed(chunked(b"ff\r\nhel"))
    assert request.framing is Framing.CHUNKED
    assert request.take() == b"hel"


def test_pipelined_requests_are_parted_at_every_cut() -> None:
    first, second, third = chunked(b"3\r\na\r\n\r\n" + LAST), post(b"Content-Length: 4", body=LAST[:4]), get()
    stream = first + second + third
    for cut in range(len(stream)):
        waiting, requests = b"", [IncomingRequest()]
        for piece in (stream[:cut], stream[cut:]):
            waiting += piece
            while waiting and not (requests[-1].complete and len(requests) == 3):
                if requests[-1].complete:
                    requests.append(IncomingRequest())
                waiting = requests[-1].feed(waiting)
        assert [request.take() for request in requests] == [b"a\r\n", b"0\r\n\r", b""]
        assert requests[-1].complete


def test_trailers_are_kept_apart_from_headers() -> None:
    request = IncomingRequest()
    rest = request.feed(chunked(b"0\r\nX: a \r\nx:\r\nY: \xff\r\n\r\n" + get()))
    assert request.trailers == [(b"X", b"a"), (b"x", b""), (b"Y", b"\xff")]
    assert [name for name, _ in request.headers] == [b"Host", b"Transfer-Encoding"]
    assert rest == get()


@pytest.mark.parametrize("pieces", [1, 2, 50])
def test_the_limit_of_trailers_holds_to_the_byte_however_they_come(pieces: int) -> None:
    size = 300
    for more, fits in ((0, True), (1, False)):
        trailers = b"X: " + b"x" * (size - 7 + more) + b"\r\n\r\n"
        data = b"3\r\nabc\r\n0\r\n" + trailers
        request = IncomingRequest(size)
        request.feed(chunked(b""))
        cuts = range(0, len(data), len(data) // pieces)
        if fits:
            feed(request, data, cuts)
            assert request.complete
            continue
        with pytest.raises(MalformedError) as caught:
            feed(request, data, cuts)
        assert caught.value.status == 431


@pytest.mark.parametrize("size", [1000, 1001])
def test_the_limit_of_an_extension_holds_to_the_byte_however_it_comes(size: int) -> None:
    data = chunked(b"1\r\na\r\n1;" + b"e" * size + b"\r\nb\r\n" + LAST)
    for cuts in ([], [100], [len(data) - 15], range(len(data))):
        assert (read_request(data, cuts) is not None) is (size == 1000)


def test_many_small_chunks_in_one_piece_take_no_time_that_grows_with_their_number() -> None:
    """It would, if what is left were copied for each; then this takes minutes."""
    body, _ = feed(IncomingRequest(), chunked(b"1\r\na\r\n" * 200_000 + LAST))
    assert len(body) == 200_000


# Responses


@pytest.mark.parametrize("status", [100, 103, 101, 204])
def test_a_response_that_has_no_body_by_its_status_leaves_what_follows(status: int) -> None:
    message = IncomingResponse()
    data = response(b"Connection: upgrade", b"Upgrade: x", status=b"HTTP/1.1 %d x" % status, body=b"next")
    assert message.feed(data) == b"next"
    assert message.complete


def test_what_ends_with_its_connection_ends_there_and_nothing_follows() -> None:
    message = IncomingResponse()
    assert message.feed(response(body=b"some")) == b""
    assert (message.framing, message.keep_alive, message.complete) == (Framing.CLOSE, False, False)
    assert message.feed(b"thing") == b""
    message.end_of_stream()
    assert message.complete
    assert message.take() == b"something"


@pytest.mark.parametrize("data", [
    b"",
    b"HTTP/1.1 200",
    response(b"Content-Length: 2", body=b"a"),
    response(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n"),
    response(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n0\r\n"),
])  # fmt: skip
def test_a_response_that_is_cut_short_is_never_taken_for_whole(data: bytes) -> None:
    message = IncomingResponse()
    message.feed(data)
    with pytest.raises(MalformedError, match="cut short"):
        message.end_of_stream()


def test_the_end_of_the_connection_after_a_whole_response_is_no_news() -> None:
    message = IncomingResponse()
    message.feed(response(b"Content-Length: 0"))
    message.end_of_stream()


@pytest.mark.parametrize(("line", "reason"), [
    (b"HTTP/1.1 200 All is well", b"All is well"),
    (b"HTTP/1.1 200 ", b""),
    (b"HTTP/1.1 200", b""),
])  # fmt: skip
def test_a_reason_is_kept(line: bytes, reason: bytes) -> None:
    message = IncomingResponse()
    message.feed(response(status=line))
    assert (message.status, message.reason) == (200, reason)


# What is left behind


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("data", [
    get(),
    get(b"Connection: upgrade", b"Upgrade: x"),
    chunked(b"1\r\na\r\n0\r\nX: a\r\n\r\n"),
    chunked(b"1\r\na"),
    get()[:-1],
    get(b"X"),
    chunked(b"0\r\nX\r\n\r\n"),
])  # fmt: skip
def test_nothing_is_left_for_the_garbage_collector(data: bytes, no_garbage_collection: None) -> None:
    request = IncomingRequest()
    with suppress(MalformedError):
        request.feed(data)
    gone = weakref.ref(request)
    del request
    assert gone() is None


@pytest.mark.parametrize("data", [
    b"GET /Hunter2 x HTTP/1.1\r\nHost: h\r\n\r\n",
    b"HUNTER2 / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: Hunter2/\r\n\r\n",
    b"GET http://Hunter2@h/ HTTP/1.1\r\nHost: h\r\n\r\n",
    get(b"Hunter2 : x"),
    get(b"X: Hunter2\x00"),
    post(b"Content-Length: Hunter2"),
    post(b"Content-Length: 5", b"Content-Length: 6", b"X: Hunter2"),
    post(b"Transfer-Encoding: Hunter2"),
    get(b"Connection: host, Hunter2"),
    chunked(b"Hunter2\r\n"),
    chunked(b"1;Hunter2\x00\r\n"),
    chunked(b"0\r\nHunter2\r\n\r\n"),
    chunked(b"0\r\nHost: Hunter2\r\n\r\n"),
    get(b"X: Hunter2" + b"x" * MAX_HEAD_BYTES),
])  # fmt: skip
def test_an_error_repeats_nothing_of_what_came(data: bytes) -> None:
    error = refusal(IncomingRequest(), data)
    told = "".join(traceback.format_exception(error, chain=True)) + repr(error.__context__)
    assert "hunter2" not in told.lower()


# Anything at all


@settings(max_examples=400)
@given(mutations([entry.data for entry in REQUESTS]), st.lists(st.integers(0, 400), max_size=8))
@example(b"\r\n\r\n" + get(), [2])
@example(chunked(corpus.HIDDEN, b"Connection: upgrade", b"Upgrade: h2c"), [90])
def test_any_request_is_refused_or_has_one_reading(data: bytes, cuts: list[int]) -> None:
    assert_read_in_one_way(data, cuts)


@settings(max_examples=200)
@given(
    mutations([entry.data for entry in RESPONSES]), st.lists(st.integers(0, 400), max_size=8), st.booleans()
)
def test_any_response_is_refused_or_has_one_reading(data: bytes, cuts: list[int], to_head: bool) -> None:  # noqa: FBT001
    assert_response_read_in_one_way(data, cuts, to_head=to_head)


@settings(max_examples=100)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_any_bytes_are_refused_or_have_one_reading(data: bytes, cuts: list[int]) -> None:
    assert_read_in_one_way(data, cuts)
    assert_read_in_one_way(chunked(data), cuts)
    assert_response_read_in_one_way(data, cuts)


# What is kept of heads


TOKEN = b"Bearer c2VjcmV0LXRva2Vu="


METADATA = b"\r\nX-Tenant: a b\r\nmy_key:1"
CUTS = (b"Authorization: " + TOKEN, b"Authorization: " + TOKEN + METADATA, b"x-plugin-caller: " + TOKEN)
"""Lines that are cut out: a token, one with metadata, and one that only a host may write."""


def with_lines_at(data: bytes, place: int, cut: bytes) -> bytes | None:
    """Return a request with lines that are cut out before its header line number `place`."""
    head, end, rest = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    if place > len(lines) - 1 or not lines[0]:
        return None
    lines.insert(place + 1, cut)
    return b"\r\n".join(lines) + end + rest


@pytest.mark.parametrize("good", corpus.ACCEPTED, ids=lambda good: good.name)
def test_a_head_is_read_alike_the_first_time_and_again_with_a_token_anywhere_in_it(good: Good) -> None:
    for place, cut in product(range(3), CUTS):
        data = with_lines_at(good.data, place, cut)
        if data is not None and len(data) < MAX_HEAD_BYTES:
            assert_read_in_one_way(data)
            assert_read_in_one_way(data.replace(TOKEN, b"another").replace(b"a b", b"c"))
            assert read_request(data) == read_request(data)


@pytest.mark.parametrize("bad", corpus.REFUSED, ids=lambda bad: bad.name)
def test_no_attack_gets_by_because_a_token_is_cut_out_of_it(bad: Bad) -> None:
    for place, cut in product(range(3), CUTS):
        data = with_lines_at(bad.data, place, cut)
        if data is not None:
            assert_read_in_one_way(data)


def kept_request(data: bytes, heads: RequestHeads) -> IncomingRequest:
    """Read a request whose sender proves who it is."""
    request = IncomingRequest()
    request.heads = heads
    request.feed(data)
    request.keep_head()
    return request


def test_requests_that_differ_in_their_token_only_share_a_head_that_was_kept() -> None:
    heads = RequestHeads()
    first = kept_request(get(b"Accept: 1", b"authorization: Bearer a"), heads)
    second = kept_request(get(b"Accept: 1", b"authorization: Bearer b"), heads)
    other = kept_request(get(b"Accept: 2", b"authorization: Bearer b"), heads)
    assert first.head is second.head
    assert first.head is not other.head
    assert (first.authorization, second.authorization) == (b"Bearer a", b"Bearer b")
    assert second.headers == [(b"Host", b"h"), (b"Accept", b"1"), (b"authorization", b"Bearer b")]


def test_calls_of_a_plugin_share_a_head_that_differ_in_what_its_host_says_of_the_caller_only() -> None:
    heads = RequestHeads()
    first, second = (
        kept_request(get(b"Accept: 1", b"X-Plugin-Caller: %b" % signed, b"x-request-id: r"), heads)
        for signed in (b"hush.1", b"hush.2")
    )
    assert first.head is second.head
    assert second.authorization == b""
    assert second.headers[1:] == [
        *((b"Accept", b"1"), (b"X-Plugin-Caller", b"hush.2"), (b"x-request-id", b"r"))
    ]
    assert b"hush" not in repr([(head, each.fields) for head, each in heads.items()]).encode()


def test_a_head_that_says_twice_who_the_caller_is_is_kept_by_nobody() -> None:
    heads = RequestHeads()
    request = kept_request(get(b"x-plugin-caller: a", b"X-Plugin-Caller: b"), heads)
    assert not heads
    assert [value for _, value in request.headers[1:]] == [b"a", b"b"]


def test_a_response_has_its_fields_as_texts_also_those_that_its_head_is_read_apart_from() -> None:
    heads = ResponseHeads()
    for n in (b"1", b"2"):
        response = IncomingResponse()
        response.heads = heads
        lines = (b"Vary: a", b"Content-Length: 0", b"Server: \xe9", b"X-Request-ID: r" + n)
        response.feed(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % b"\r\n".join(lines))
        texts = response.texts()
        assert texts == [
            *(("vary", "a"), ("server", "\xe9"), ("content-length", "0")),
            ("x-request-id", f"r{n.decode()}"),
        ]
        texts.clear()  # it is the caller's own


def test_fields_of_one_name_keep_their_order_as_texts() -> None:
    response = IncomingResponse()
    response.heads = ResponseHeads()
    response.feed(b"HTTP/1.1 200 OK\r\nx-a: \xe9\r\nx-a: b\r\nx-a: \xe8\r\ncontent-length: 0\r\n\r\n")
    assert [value for name, value in response.texts() if name == "x-a"] == ["\xe9", "b", "\xe8"]


def test_requests_that_differ_in_their_metadata_only_share_a_head_and_none_of_it_is_kept() -> None:
    heads, read = RequestHeads(), list[IncomingRequest]()
    for n in (b"1", b"2"):
        lines = (b"X-Tenant: t" + n, b"my_key: hush", b"Authorization: x", b"Accept: a", b"x-tenant:  u" + n)
        read.append(kept_request(get(*lines, b"baggage: b=" + n), heads))
    first, second = read
    assert first.head is second.head
    assert second.head.fields == [(b"Host", b"h"), (b"Accept", b"a")]
    assert second.metadata == [(b"X-Tenant", b"t2"), (b"my_key", b"hush"), (b"x-tenant", b"u2")]
    assert second.context == [(b"baggage", b"b=2")]
    assert [name for name, _ in second.headers] == [
        *(b"Host", b"X-Tenant", b"my_key", b"Authorization", b"Accept", b"x-tenant", b"baggage")
    ]
    kept = repr([(head, each.fields, each.remembered) for head, each in heads.items()]).encode()
    assert not [secret for secret in (b"hush", b"t1", b"u2") if secret in kept]


@pytest.mark.parametrize(
    "lines",
    [(b"X-Hop: 1", b"Connection: keep-alive, X-Hop"), (b"X: \xe9",), (b"X: a\tb",), (b"X:",), (b"$x: 1",)],
)
def test_a_head_whose_metadata_cannot_be_cut_out_is_kept_by_nobody(lines: tuple[bytes, ...]) -> None:
    heads = RequestHeads()
    request = kept_request(get(b"Authorization: x", *lines), heads)
    assert not heads
    assert request.metadata == []
    assert len(request.headers) == 2 + len(lines)


def test_what_matters_to_the_server_is_never_taken_for_metadata() -> None:
    heads = RequestHeads()
    lines = (b"TE: trailers", b"Origin: http://a", b"Expect: 100-continue", b"Content-Length: 1", b"X: 1")
    request = kept_request(get(b"Authorization: x", *lines), heads)
    assert request.metadata == [(b"X", b"1")]
    assert (request.remaining, request.head.origin) == (1, b"http://a")
    assert (request.accepts_trailers, request.expects_continue) == (True, True)


CONTEXTS = (b"traceparent: 00-%d", b"TraceState: a=%d", b"baggage: b=%d", b"X-Request-ID: r%d")


def test_requests_that_differ_in_their_context_only_share_a_head_that_was_kept() -> None:
    heads, read = RequestHeads(), list[IncomingRequest]()
    for n in (1, 2):
        lines = [line % n for line in CONTEXTS]
        read.append(
            kept_request(get(b"Accept: 1", *lines[:2], b"Authorization: x", b"TE: 2", *lines[2:]), heads)
        )
    first, second = read
    assert first.head is second.head
    assert second.context == [
        (b"traceparent", b"00-2"),
        (b"tracestate", b"a=2"),
        (b"baggage", b"b=2"),
        (b"x-request-id", b"r2"),
    ]
    assert [name for name, _ in second.headers] == [
        *(b"Host", b"Accept", b"traceparent", b"TraceState", b"Authorization"),
        *(b"TE", b"baggage", b"X-Request-ID"),
    ]
    assert [name for name, _ in second.head.fields] == [b"Host", b"Accept", b"TE"]


@pytest.mark.parametrize(
    "lines",
    [
        (b"traceparent: a",),  # of nobody who has proved who it is
        (b"Authorization: x", b"traceparent:  "),
        (b"Authorization: x", b"baggage: a\tb"),
        (b"Authorization: x", b"x-request-id: \xe9"),
        (b"Authorization: x", b"x-request-id: a", b"Connection: X-Request-ID"),
    ],
)
def test_a_head_whose_context_cannot_be_cut_out_is_kept_by_nobody(lines: tuple[bytes, ...]) -> None:
    heads = RequestHeads()
    request = kept_request(get(*lines), heads)
    assert not heads
    assert request.context == []
    assert request.headers == request.head.fields
    assert len(request.headers) == 1 + len(lines)


def read_responses(heads: ResponseHeads, *answers: bytes) -> list[IncomingResponse]:
    read = list[IncomingResponse]()
    for data in answers:
        answer = IncomingResponse()
        answer.heads = heads
        answer.feed(data)
        read.append(answer)
    return read


def test_requests_that_differ_in_their_length_and_deadline_only_share_a_head() -> None:
    heads, read = RequestHeads(), list[IncomingRequest]()
    for n in (1, 2):
        lines = (b"Content-Length: %d" % n, b"Authorization: x", b"connect-timeout-ms: %d" % n, b"TE: 2")
        read.append(kept_request(b"POST" + get(*lines)[3:] + b"ab", heads))
    first, second = read
    assert first.head is second.head
    assert second.metadata == [(b"connect-timeout-ms", b"2")]
    assert (second.declared, second.declares_body, second.take(), second.complete) == (
        b"2",
        True,
        b"ab",
        True,
    )
    assert (first.take(), first.complete) == (b"a", True)
    assert [name for name, _ in second.headers] == [
        *(b"Host", b"Content-Length", b"Authorization", b"connect-timeout-ms", b"TE")
    ]


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: 1", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Content-Length: 1"),
        (b"Content-Length: 1", b"content-length: 1"),
        (b"Content-Length: 1", b"Content-Length: 2"),
        (b"Content-Length: 1", b"Content-Length:\t1"),
        (b"Content-Length: 1, 1",),
        (b"Content-Length: +1",),
        (b"Content-Length: 0x1",),
        (b"Content-Length: 1 1",),
        (b"Content-Length: 1000000000000000000",),
    ],
)
def test_a_length_that_is_cut_out_is_judged_like_one_that_is_not(lines: tuple[bytes, ...]) -> None:
    heads = RequestHeads()
    known = (b"Content-Length: 1", b"Transfer-Encoding: chunked")
    for line in known:  # so that what is left of the head is known
        kept_request(b"POST" + get(b"Authorization: x", line)[3:], heads)
    for others in ((), (b"Authorization: x",)):
        with pytest.raises(MalformedError):
            kept_request(b"POST" + get(*others, *lines)[3:], heads)


def test_a_request_for_a_websocket_that_has_a_body_is_none_also_where_its_head_is_known() -> None:
    heads = RequestHeads()
    lines = (b"Authorization: x", b"Upgrade: websocket", b"Connection: upgrade")
    assert kept_request(get(*lines), heads).wants_websocket
    request = kept_request(get(*lines, b"Content-Length: 1"), heads)
    assert not request.wants_websocket
    assert request.remaining == 1


def test_answers_that_differ_in_length_and_request_id_only_share_a_head() -> None:
    texts = [b"A: 1\r\nContent-Length: %d\r\nX-Request-Id: r%d" % (n, n) for n in (0, 2)]
    answers = [response(text) + b"ab" for text in texts]
    first, second = read_responses(ResponseHeads(), answers[0][:-2], answers[1])
    assert first.head is second.head
    assert second.headers == [(b"A", b"1"), (b"Content-Length", b"2"), (b"X-Request-Id", b"r2")]
    assert (first.complete, second.declared, second.take()) == (True, b"2", b"ab")
    assert second.metadata == [(b"A", b"1")]


def test_an_answer_with_a_length_and_one_that_ends_with_its_connection_may_share_a_head() -> None:
    endless, short = read_responses(ResponseHeads(), response(), response(b"content-length: 1") + b"a")
    assert endless.head is short.head
    assert (endless.complete, endless.keep_alive) == (False, False)
    assert (short.complete, short.keep_alive) == (True, True)


@pytest.mark.parametrize(
    "lines",
    [
        (b"Transfer-Encoding: chunked", b"Content-Length: 1"),
        (b"Content-Length: 1", b"Content-Length: 1"),
        (b"Content-Length: -1",),
    ],
)
def test_an_answer_whose_length_is_ambiguous_is_refused_also_where_its_head_is_known(
    lines: tuple[bytes, ...],
) -> None:
    heads = ResponseHeads()
    read_responses(heads, response(), response(b"Transfer-Encoding: chunked"))
    with pytest.raises(MalformedError):
        read_responses(heads, response(*lines))


def test_an_answer_without_a_body_has_none_whatever_length_it_declares() -> None:
    (answer,) = read_responses(ResponseHeads(), b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n")
    assert (answer.complete, answer.headers) == (True, [(b"content-length", b"5")])


def test_what_another_field_names_is_seen_with_it() -> None:
    lines = (b"X-Hop: 1", b"Connection: X-Hop", b"content-length: 0")
    (answer,) = read_responses(ResponseHeads(), response(*lines))
    assert answer.metadata == []
    assert len(answer.head.fields) == len(lines)


def test_a_head_that_nobody_has_kept_is_in_no_cache() -> None:
    heads = RequestHeads()
    for data in (get(b"X: 1", b"authorization: Bearer a"), get(b"X: 1")):
        request = IncomingRequest()
        request.heads = heads
        request.feed(data)
    assert not heads


@pytest.mark.parametrize(
    "lines",
    [
        (b"Authorization: Bearer hush",),
        (b"Authorization: Bearer hush", b"AUTHORIZATION: Bearer hush"),
        (b"authorization:Bearer hush  ",),
        (b"Authorization: x", b"Cookie: hush"),
        (b"Authorization: x", b"Proxy-Authorization: hush"),
        (b"Authorization: x", b"X-Api-Key: hush"),
        (b"Cookie: hush",),
    ],
)
def test_no_secret_of_a_request_is_kept(lines: tuple[bytes, ...]) -> None:
    heads = RequestHeads()
    request = kept_request(get(*lines), heads)
    assert b"hush" not in repr([(head, read.fields) for head, read in heads.items()]).encode()
    assert [value for _, value in request.headers if b"hush" in value]


@pytest.mark.parametrize("name", [b"Set-Cookie", b"x-auth-token", b"X-Api-Key", b"x-session", b"My-Secret"])
def test_no_secret_of_an_answer_is_kept(name: bytes) -> None:
    heads = ResponseHeads()
    answer = IncomingResponse()
    answer.heads = heads
    answer.feed(response(b"X: 1", name + b": hush"))
    assert answer.headers[-1][1] == b"hush"
    assert b"hush" not in repr([(head, read.fields) for head, read in heads.items()]).encode()


def test_the_heads_that_are_kept_are_bounded_in_entries_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "_MOST_KEPT_HEADS", 20)
    monkeypatch.setattr(heads, "_MOST_KEPT_BYTES", 50_000)
    requests, responses = RequestHeads(), ResponseHeads()
    for number in range(100):
        line = b"X: %d %b" % (number, b"x" * 10 * number)
        kept_request(get(line.replace(b"X", b"Accept"), b"Authorization: x"), requests)
        answer = IncomingResponse()
        answer.heads = responses
        answer.feed(response(line))
        for kept in (requests, responses):
            assert len(kept) <= 20
            assert sum(map(len, kept)) < kept.kept_bytes <= 50_000
    for kept in (requests, responses):
        assert kept
        assert all(len(head) <= 1024 for head in kept)
