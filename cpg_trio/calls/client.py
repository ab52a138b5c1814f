"""A client of a service with several providers: who gets a call, and what is done about one that fails.

    a place ─▶ choose a member ─▶ send ─▶ verdict ─▶ done
                     ▲                       │ no provider has seen it, or its method may run twice
                     └── wait for a moment ◀─┘ and there is time, and the budget allows it

What no provider has seen is sent until its deadline. What one may have seen is sent again only if its method
is idempotent, a few times, and within the retry budget. A stream counts as answered when its first message
has come, and is not sent again after that.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.calls.backoff import wait_s
from cpg_trio.calls.budget import RetryBudget
from cpg_trio.calls.concurrency import InFlight
from cpg_trio.calls.group import Group, Member
from cpg_trio.calls.outcome import Outcome
from cpg_trio.calls.policy import CallPolicy, Retry
from cpg_trio.calls.replay import Replay
from cpg_trio.calls.statistics import CallCounts
from cpg_trio.calls.verdict import (
    CANCELLED,
    SUCCEEDED,
    TIMED_OUT,
    Verdict,
    verdict_of_answer,
    verdict_of_error,
)
from cpg_trio.rpc import (
    CallError,
    Code,
    ConnectError,
    Duplex,
    Fault,
    HttpClient,
    HttpRequest,
    HttpResponse,
    WholeResponse,
)
from cpg_trio.rpc.http_client import send_duplex

P = TypeVar("P")

_OK = 200
_TIMEOUT = "connect-timeout-ms"
_LONGEST_S = 10.0  # for which a call without a deadline is tried that no provider has seen
_LOOK_S = 0.25  # between two looks at whether somebody can be called
_SAME_DEADLINE_S = 0.05  # by which a provider that keeps the same deadline may be faster to tell of it
_LONGEST_HELD_S = 60.0  # for which a provider without room is avoided, whatever it asks for
_LEAST_S = 0.01  # the failure is told, and not that the deadline is over
_END_OF_STREAM = 0x02
_PREFIX = 5  # bytes of an envelope: flags and length
_MOST_PEEKED = 64 * 1024  # bytes of a first message, before it counts as begun


class Service(Protocol[P]):
    """What the clients of a service share: its providers, how it is called, and what is counted."""

    policy: CallPolicy
    group: Group[P]
    in_flight: InFlight
    budget: RetryBudget
    counts: CallCounts

    def check_callable(self) -> None:
        """Raise ConnectError `unavailable` if no call can be sent to anybody now."""

    def note_answered(self) -> None:
        """Note that a provider has answered a call."""

    def note_failed(self) -> None:
        """Note that a call has failed, after all its attempts."""

    async def wait_changed(self) -> None:
        """Wait until there may be other providers."""


class BalancedClient(Generic[P]):
    """An `HttpClient` that sends each call to one of the providers of a service.

    `send_to` returns what sends requests to a provider.
    """

    def __init__(self, service: Service[P], send_to: Callable[[P], HttpClient]) -> None:
        self._service = service
        self._send_to = send_to

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        """See `HttpClient.unary`."""
        service = self._service
        await service.in_flight.take()
        try:
            tries = _Tries(service, request)
            while True:
                attempt = tries.begin()
                try:
                    response = await self._attempt(attempt, max_bytes)
                except ConnectError:
                    if not await tries.again(attempt):
                        raise
                else:
                    if attempt.verdict is SUCCEEDED:
                        service.note_answered()
                        return response
                    if not await tries.again(attempt):
                        return response
        finally:
            service.in_flight.give_back()

    async def _attempt(self, attempt: _Attempt[P], max_bytes: int | None) -> WholeResponse:
        request = attempt.request
        with attempt:
            try:
                response = await self._send_to(attempt.member.provider).unary(request, max_bytes)
            except ConnectError as error:
                attempt.verdict = verdict_of_error(error)
                raise
            is_ok = response.status == _OK
            attempt.verdict = SUCCEEDED if is_ok else verdict_of_answer(response, response.body)
            return response

    @asynccontextmanager
    async def stream(self, request: HttpRequest) -> AsyncIterator[HttpResponse]:
        """See `HttpClient.stream`. The block begins when the first message has come, or the end."""
        async with self._streaming(request, _open_stream) as (call, _), call:
            yield await call.answer()

    @asynccontextmanager
    async def duplex(self, request: HttpRequest) -> AsyncIterator[Duplex]:
        """See `DuplexClient.duplex`."""
        async with self._streaming(request, _open_duplex) as (call, nursery):
            duplex = _BalancedDuplex(call)
            await nursery.start(duplex.run)
            try:
                yield duplex
            finally:
                duplex.left.set()

    @asynccontextmanager
    async def _streaming(
        self, request: HttpRequest, opens: _Opens
    ) -> AsyncIterator[tuple[_StreamCall[P], trio.Nursery]]:
        """Have a place for a call, and a nursery that ends with it."""
        async with self._service.in_flight, open_plain_nursery() as nursery:
            replay: Replay | None = None
            if not isinstance(request.body, bytes):
                replay = Replay(request.body)
                nursery.start_soon(replay.pump)
            tries = _Tries(self._service, request, replay)
            try:
                yield _StreamCall(tries, self._send_to, opens), nursery
            finally:
                nursery.cancel_scope.cancel()


class _Attempt(Generic[P]):
    """One attempt of a call at a member, for as long as its block lasts."""

    __slots__ = ("_began_at", "_usual_s", "member", "request", "token", "verdict", "was_answered")

    def __init__(self, member: Member[P], request: HttpRequest, usual_s: float) -> None:
        self.member = member
        self.request = request
        self.verdict = CANCELLED
        self.was_answered = False
        self._usual_s = usual_s
        self._began_at = trio.current_time()
        self.token = member.begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        took_s = trio.current_time() - self._began_at
        is_late = (
            error is not None and isinstance(error, trio.Cancelled)
        ) or self.verdict.why == TIMED_OUT.why
        if is_late and not self.was_answered and took_s >= self._usual_s - _SAME_DEADLINE_S:
            self.verdict = TIMED_OUT
        verdict = self.verdict
        latency_s = None if self.was_answered else took_s
        self.member.end(self.token, verdict.outcome, latency_s, verdict.why)

    def answered(self) -> None:
        """Note that the first message has come."""
        self.was_answered = True
        self.member.answered(self.token, trio.current_time() - self._began_at)


class _Tries(Generic[P]):
    """The attempts of one call."""

    __slots__ = (
        *("_deadline", "_may_run_twice", "_replay", "_request", "_retry", "_service"),
        *("_sent", "_tried", "_undelivered"),
    )

    def __init__(self, service: Service[P], request: HttpRequest, replay: Replay | None = None) -> None:
        self._service = service
        self._request = request
        self._replay = replay
        self._tried: set[str] = set()
        self._sent = 0  # attempts that a provider may have seen
        self._undelivered = 0
        self._deadline = math.inf
        said, policy = request.call.retry, service.policy.retry
        self._retry = said if isinstance(said, Retry) else policy
        self._may_run_twice = said is True or (
            said is not False and (request.call.idempotent or self._retry.idempotent)
        )
        service.counts.calls += 1
        service.budget.note_call()

    def begin(self) -> _Attempt[P]:
        """Begin an attempt. Raises: ConnectError if there is nobody to call."""
        service, request = self._service, self._request
        try:
            service.check_callable()
        except ConnectError:
            self._fail()
            raise
        key = request.call.key or (service.policy.key_of(request) if service.policy.balance_key else "")
        member = service.group.choose(key, self._tried)
        if member is None:
            self._fail()
            why = service.group.ejections.why_none()
            raise CallError(Code.UNAVAILABLE, why or "nobody may be called", fault=Fault.PROVIDER)
        if self._tried or self._undelivered or self._sent:
            request = self._again_request()
        elif self._replay is not None:
            request = attrs.evolve(request, body=self._replay.pieces())
        usual_s = service.policy.timeout_s
        return _Attempt(member, request, math.inf if usual_s is None else usual_s)

    async def again(self, attempt: _Attempt[P]) -> bool:
        """Wait for the next attempt, after one that has failed; return whether there is one."""
        verdict = attempt.verdict
        if verdict.full and verdict.asked_s:
            self._service.group.hold_off(attempt.member, min(verdict.asked_s, _LONGEST_HELD_S))
        if not self.may_again(verdict):
            self.end(verdict, failed=verdict is not SUCCEEDED)
            return False
        count = self._undelivered if verdict.undelivered else self._sent
        self._tried.add(attempt.member.id)
        others = any(
            member.id not in self._tried and member.breaker.admits() for member in self._service.group.members
        )
        wait = wait_s(self._retry, count, 0.0 if others else verdict.asked_s)
        if verdict.undelivered and others:
            wait = 0.0
        now = trio.current_time()
        if now + wait >= self._until(now) - _LEAST_S:
            self.end(verdict, failed=True)
            return False
        if not verdict.undelivered and not self._service.budget.take():
            self.end(verdict, failed=True)
            return False
        if verdict.undelivered:
            self._undelivered += 1
        else:
            self._sent += 1
        self._service.counts.retries += 1
        await self._wait(now + wait, others=others)
        return await self._somebody_is_there(verdict)

    def end(self, verdict: Verdict, *, failed: bool) -> None:
        """Note how the call has ended."""
        self._service.counts.failures += failed
        if verdict.outcome is Outcome.SUCCESS:
            self._service.note_answered()
        elif verdict is not CANCELLED:
            self._service.note_failed()

    def _fail(self) -> None:
        """Note that there was nobody to call."""
        self._service.counts.failures += 1
        self._service.note_failed()

    def may_again(self, verdict: Verdict) -> bool:
        """Whether another attempt may be made, if there is time."""
        if not verdict.repeatable or (self._replay is not None and not self._replay.is_whole):
            return False
        if verdict.undelivered:
            return self._request.call.retry is not False
        return self._may_run_twice and self._sent + 1 < self._retry.attempts

    def _until(self, now: float) -> float:
        """Return when it is too late for another attempt."""
        deadline = trio.current_effective_deadline()
        if deadline == math.inf:
            if self._deadline == math.inf:
                self._deadline = now + _LONGEST_S
            return self._deadline
        return deadline

    async def _wait(self, until: float, *, others: bool) -> None:
        """Wait before an attempt. One that goes to the same member need not wait once others are there."""
        if others:
            await trio.sleep_until(until)
            return
        with trio.move_on_at(until):
            await self._service.wait_changed()

    async def _somebody_is_there(self, verdict: Verdict) -> bool:
        """Wait for somebody to call, until it is too late; return whether there is one."""
        while True:
            now = trio.current_time()
            until = self._until(now)
            if self._is_callable() and self._service.group.available:
                return True
            admits_at = self._service.group.admits_at
            if now >= until - _LEAST_S:
                self.end(verdict, failed=True)
                return False
            wait = until if admits_at is None else max(admits_at, now + _LEAST_S)
            with trio.move_on_at(min(wait, now + _LOOK_S, until - _LEAST_S / 2)):
                await self._service.wait_changed()

    def _is_callable(self) -> bool:
        try:
            self._service.check_callable()
        except ConnectError:
            return False
        return True

    def _again_request(self) -> HttpRequest:
        """Return the request as it is sent again: from its beginning, and with the time that is left."""
        request, headers = self._request, self._request.headers
        if any(name == _TIMEOUT for name, _ in headers):
            left_s = max(0.0, trio.current_effective_deadline() - trio.current_time())
            if left_s != math.inf:
                headers = [field for field in headers if field[0] != _TIMEOUT]
                headers.append((_TIMEOUT, str(int(left_s * 1000))))
        body = request.body if self._replay is None else self._replay.pieces()
        return attrs.evolve(request, headers=headers, body=body)

    def forget(self) -> None:
        """Keep nothing of the request any more."""
        if self._replay is not None:
            self._replay.forget()


class _Opens(Protocol):
    async def __call__(
        self, stack: AsyncExitStack, http: HttpClient, request: HttpRequest, /
    ) -> Callable[[], Awaitable[HttpResponse]]:
        """Begin to send a request, for as long as the stack lasts; return what waits for its response."""
        ...


async def _open_stream(
    stack: AsyncExitStack, http: HttpClient, request: HttpRequest, /
) -> Callable[[], Awaitable[HttpResponse]]:
    return lambda: stack.enter_async_context(http.stream(request))


async def _open_duplex(
    stack: AsyncExitStack, http: HttpClient, request: HttpRequest, /
) -> Callable[[], Awaitable[HttpResponse]]:
    duplex = await stack.enter_async_context(send_duplex(http, request))
    return duplex.response


class _StreamCall(Generic[P]):
    """A call whose request or response is streamed."""

    def __init__(self, tries: _Tries[P], send_to: Callable[[P], HttpClient], opens: _Opens) -> None:
        self._tries = tries
        self._send_to = send_to
        self._opens = opens
        self._stack = AsyncExitStack()
        self._attempt: _Attempt[P] | None = None
        self._response: Callable[[], Awaitable[HttpResponse]] | None = None
        self._ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return await self._stack.__aexit__(kind, error, traceback)
        finally:
            if not self._ended and self._attempt is not None:
                self._ended = True
                self._tries.end(self._attempt.verdict, failed=isinstance(error, ConnectError))

    async def begin(self) -> None:
        """Begin to send the request."""
        while True:
            attempt = self._attempt = self._tries.begin()
            self._stack.enter_context(attempt)
            http = self._send_to(attempt.member.provider)
            try:
                self._response = await self._opens(self._stack, http, attempt.request)
            except ConnectError as error:
                if not await self._again(verdict_of_error(error)):
                    raise
            else:
                return

    async def answer(self) -> HttpResponse:
        """Return the response that counts, once its first message has come, or its end."""
        while True:
            if self._response is None:
                await self.begin()
            assert self._attempt is not None and self._response is not None  # noqa: S101, PT018 - begun
            attempt, wait_for = self._attempt, self._response
            try:
                response = await wait_for()
                first, verdict = await _first(response)
            except ConnectError as error:
                if not await self._again(verdict_of_error(error)):
                    raise
                continue
            if verdict is None:
                attempt.answered()
                self._tries.forget()
                attempt.request.on_begun()
            elif verdict is not SUCCEEDED and await self._again(verdict):
                continue
            return attrs.evolve(response, body=_Body(attempt, response, first, verdict))

    async def _again(self, verdict: Verdict) -> bool:
        attempt = self._attempt
        assert attempt is not None  # noqa: S101 - there is one that has failed
        attempt.verdict = verdict
        if not self._tries.may_again(verdict):
            return False
        await self._stack.aclose()
        self._stack, self._response, self._attempt = AsyncExitStack(), None, None
        if await self._tries.again(attempt):
            return True
        self._ended = True
        return False


class _BalancedDuplex(Generic[P]):
    """A request that is being sent, maybe for the second time.

    Attempts are made by a task of its own: the response is waited for within blocks of the caller, which may
    end before the attempt. It ends the one that is answered after the caller's block (`left`), even if both
    are cancelled: the caller may be reading the body.
    """

    def __init__(self, call: _StreamCall[P]) -> None:
        self.left = trio.Event()
        self._call = call
        self._answered = trio.Event()
        self._response: HttpResponse | None = None
        self._error: Exception | None = None

    async def response(self) -> HttpResponse:
        """See `Duplex`."""
        await self._answered.wait()
        if self._error is not None:
            raise self._error
        assert self._response is not None  # noqa: S101 - there is one or the other
        return self._response

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Make the attempts, and hold the one that is answered until the caller has left."""
        async with self._call as call:
            await call.begin()
            task_status.started()
            try:
                self._response = await call.answer()
            except Exception as error:  # noqa: BLE001 - it is raised to whoever waits for the response
                self._error = error
            self._answered.set()
            with trio.CancelScope(shield=True):
                await self.left.wait()


class _Body(Generic[P]):
    """The body of a response: what has been read of it, and the rest. Its end is noted for the attempt."""

    def __init__(
        self, attempt: _Attempt[P], response: HttpResponse, first: list[bytes], verdict: Verdict | None
    ) -> None:
        self._attempt = attempt
        self._response = response
        self._first = first[::-1]
        self._is_whole = verdict is not None
        self._last = first[-1] if first else b""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            return self._first.pop()
        if self._is_whole:
            raise StopAsyncIteration
        try:
            chunk = await anext(self._response.body)
        except StopAsyncIteration:
            self._attempt.verdict = verdict_of_answer(self._response, self._last)
            self._is_whole = True
            raise
        except ConnectError as error:
            self._attempt.verdict = verdict_of_error(error)
            raise
        self._last = chunk or self._last
        return chunk


async def _first(response: HttpResponse) -> tuple[list[bytes], Verdict | None]:
    """Read a response until its first message; return what was read.

    Also what the response means if it has ended before, and all of it was read; otherwise None.
    """
    pieces: list[bytes] = []
    read = bytearray()
    async for chunk in response.body:
        pieces.append(chunk)
        read += chunk
        if len(read) > _MOST_PEEKED or (response.status == _OK and _has_begun(response, read)):
            return pieces, None
    return pieces, verdict_of_answer(response, bytes(read)) if read else _EMPTY


_EMPTY = Verdict(Outcome.FAILURE, Code.INTERNAL.value, repeatable=True)


def _has_begun(response: HttpResponse, read: bytearray) -> bool:
    """Whether what was read has a message, and not only the end of a stream."""
    if not response.header("content-type").startswith("application/connect+"):
        return True
    if len(read) < _PREFIX or read[0] & _END_OF_STREAM:
        return False
    return len(read) >= _PREFIX + int.from_bytes(read[1:_PREFIX], "big")
