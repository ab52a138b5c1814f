"""Calls between plugins without the host in between: who may make them, and what they come to.

The host gives a caller a statement that its provider can check by itself (see `cpg_trio.assertions`). It
names the caller, the provider and the service, and is good for a short time: the host cannot take it back.
What is called so the callers report, so that the host knows how busy a provider is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable
from typing import TypeAlias

import attrs

from cpg_trio import wire
from cpg_trio._addresses import is_loopback
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.assertions import LONGEST_S, Assertion, Purpose, sign
from cpg_trio.host.access.identity import Identities, Identity
from cpg_trio.host.access.limits import Limits
from cpg_trio.host.access.policy import Policy
from cpg_trio.host.directory.registry import NoProviderError, Registration, Registry
from cpg_trio.host.routing.routes import encoded_endpoint
from cpg_trio.http import Origin
from cpg_trio.logs import LineLog

GRANT_S = LONGEST_S
"""How long a caller may call a provider directly before it has to ask again, in seconds."""

_MOST_REPORTED = 100  # entries at once
_MOST_AT_ONCE = 1000  # calls of one plugin to another, that count: as many connections does it open
_MOST_LINES = 10  # of the log, for one report
_MOST_PAIRS = 1000  # of providers and services of one caller, that are counted
_calls = LineLog("cpg_trio.router")


class NotDirectlyError(Exception):
    """A service that cannot be called directly now; the message says why. It can be called by the router."""


@attrs.frozen
class DirectGrant:
    """Leave to call one provider directly."""

    provider: Registration
    endpoint_url: str
    """The provider's own URL and the service's path there."""
    token: str = attrs.field(repr=False)


class DirectGrants:
    """Gives leave to call providers directly. It is not asked whether the caller may."""

    def __init__(self, identities: Identities, registry: Registry) -> None:
        self._identities = identities
        self._registry = registry

    def issue(
        self, caller: Identity, service_type: str, min_version: str = "", provider_id: str = ""
    ) -> DirectGrant:
        """Return a grant for the provider that is wanted, or for whom discovery offers.

        Raises: NotDirectlyError; wire.InvalidError for a minimum that is no version.
        """
        provider = self._provider(service_type, min_version, provider_id)
        entry = self._identities.entry(provider.runtime_id)
        if entry is None or provider.metadata.get(wire.DIRECT_KEY) != "true":
            raise NotDirectlyError(f"{provider.runtime_id} does not take calls but through the host")
        origin, path = _place(provider)
        if _is_local(origin.host) and not (_is_local(caller.address) or not caller.address):
            raise NotDirectlyError(f"{provider.runtime_id} is reached on the host's own machine only")
        url = f"{origin.scheme}://{origin.host_header.decode()}{path}"
        statement = Assertion(
            caller.runtime_id, caller.self_id, provider.runtime_id, path, time.time() + GRANT_S
        )
        return DirectGrant(provider, url, sign(entry.digest, Purpose.DIRECT, statement))

    def _provider(self, service_type: str, min_version: str, provider_id: str) -> Registration:
        if not provider_id:
            try:
                return self._registry.discover(service_type, min_version)[0]
            except NoProviderError as error:
                raise NotDirectlyError(str(error)) from None
        provider = self._registry.provider(service_type, provider_id)
        if provider is None or not wire.satisfies(provider.version, min_version):
            raise NotDirectlyError(f"{provider_id} does not provide {service_type} {min_version}".rstrip())
        if not self._registry.health(provider_id).callable:
            raise NotDirectlyError(f"{provider_id} gets no calls now")
        return provider


def _place(provider: Registration) -> tuple[Origin, str]:
    """Return where a provider is, and the path of its service there, as it is encoded."""
    try:
        origin, prefix = Origin.parse(provider.base_url)
    except ValueError:
        raise NotDirectlyError(f"{provider.runtime_id} has registered no URL that it is reached at") from None
    if provider.address and origin.scheme == "http":
        # What was checked is what the caller gets: a name may lead it elsewhere. Certificates have names.
        origin = attrs.evolve(origin, host=provider.address)
    return origin, prefix.decode() + encoded_endpoint(provider)


def _is_local(host: str) -> bool:
    return host == "localhost" or is_loopback(host)


@attrs.frozen
class DirectStatistics:
    """What plugins have reported of their direct calls since the host began.

    `calls` were begun, of which `in_flight` had not ended at the last report, and `failed` have ended without
    the whole answer of a provider.
    """

    calls: int
    in_flight: int
    failed: int


@attrs.frozen
class _Said:
    """What a caller has last reported of its calls to a provider of a service."""

    series: int = 0
    calls: int = 0
    failed: int = 0
    in_flight: int = 0


Report: TypeAlias = Iterable[pb.DirectCalls]


class DirectTally:
    """Adds up what callers report, each report once, however often it comes.

    A report has the numbers since its series began, so that one that is lost is made good by the next. What
    is said of more than `most` pairs of a caller and a provider of a service, and of more than `_MOST_PAIRS`
    of one caller, is not counted.
    """

    def __init__(self, most: int = Limits().max_direct_reports) -> None:
        self._most = most
        self._pairs = 0
        self._said: dict[str, dict[tuple[str, str], _Said]] = {}  # by caller, then by provider and service
        self._callers: dict[str, Counter[str]] = {}  # by provider: how many services of it each calls
        self._in_flight = Counter[str]()  # by provider
        self._calls = self._failed = 0

    def report(self, caller: str, report: Report) -> None:
        """Take a report, which has been validated."""
        lines = [line for said in report if (line := self._take(caller, said))]
        for line in lines[:_MOST_LINES]:
            _calls.info(f"[DIRECT] {caller} → {line}")
        if len(lines) > _MOST_LINES:
            _calls.info(f"[DIRECT] {caller} → {len(lines) - _MOST_LINES} more providers of services")

    def in_flight(self, provider: str) -> int:
        """Return how many direct calls a provider was busy with, by what their callers reported last."""
        return self._in_flight[provider]

    def forget(self, runtime_id: str) -> None:
        """Expect no more of a plugin that is gone, nor of calls to it. The sums stay."""
        pairs = [(runtime_id, pair) for pair in self._said.get(runtime_id, ())]
        for caller in self._callers.get(runtime_id, ()):
            pairs += [(caller, pair) for pair in self._said[caller] if pair[0] == runtime_id]
        for caller, pair in dict.fromkeys(pairs):
            self._drop(caller, pair)

    def statistics(self) -> DirectStatistics:
        """Return the numbers of this moment."""
        return DirectStatistics(self._calls, self._in_flight.total(), self._failed)

    def _drop(self, caller: str, pair: tuple[str, str]) -> None:
        said = self._said[caller].pop(pair)
        if not self._said[caller]:
            del self._said[caller]
        self._pairs -= 1
        _subtract(self._in_flight, pair[0], said.in_flight)
        _subtract(self._callers[pair[0]], caller, 1)
        if not self._callers[pair[0]]:
            del self._callers[pair[0]]

    def _has_room(self, caller: str) -> bool:
        return self._pairs < self._most and len(self._said.get(caller, ())) < _MOST_PAIRS

    def _take(self, caller: str, said: pb.DirectCalls) -> str:
        """Take what is said of one provider of a service; return what the log says of it, if it is news."""
        pair = said.provider_id, said.service_type
        before = self._said.get(caller, {}).get(pair)
        if before is None:
            if not self._has_room(caller):
                return ""
            self._pairs += 1
            self._callers.setdefault(said.provider_id, Counter())[caller] += 1
            before = _Said()
        in_flight = min(said.in_flight, _MOST_AT_ONCE)
        _subtract(self._in_flight, said.provider_id, before.in_flight - in_flight)
        if before.series != said.series:
            before = _Said(said.series)
        calls, failed = max(before.calls, said.calls), max(before.failed, said.failed)
        self._said.setdefault(caller, {})[pair] = _Said(said.series, calls, failed, in_flight)
        self._calls += calls - before.calls
        self._failed += failed - before.failed
        if calls <= before.calls:
            return ""
        return (
            f"{said.provider_id} {calls - before.calls} calls, {failed - before.failed} failed,"
            f" {in_flight} in flight (service: {said.service_type})"
        )


def _subtract(counter: Counter[str], key: str, count: int) -> None:
    """Subtract from a count, of which nothing is kept when it is 0."""
    counter[key] -= count
    if not counter[key]:
        del counter[key]


class DirectReports:
    """Takes what plugins report of their direct calls, as far as it is theirs to say."""

    def __init__(self, registry: Registry, policy: Policy, tally: DirectTally) -> None:
        self._registry = registry
        self._policy = policy
        self._tally = tally

    def take(self, caller: Identity, report: Collection[pb.DirectCalls]) -> None:
        """Take a report. What it says of providers that there are not, or not for the caller, is left out.

        Raises: wire.InvalidError for one that makes no sense, and then nothing has changed.
        """
        if len(report) > _MOST_REPORTED:
            raise wire.InvalidError(
                f"too many entries of direct calls: {len(report)} (max: {_MOST_REPORTED})"
            )
        for said in report:
            if said.failed + said.in_flight > said.calls:
                raise wire.InvalidError("more direct calls failed or are in flight than were begun")
        self._tally.report(caller.runtime_id, [said for said in report if self._is_of_caller(caller, said)])

    def _is_of_caller(self, caller: Identity, said: pb.DirectCalls) -> bool:
        provided = self._registry.provider(said.service_type, said.provider_id) is not None
        return provided and self._policy.may_call_directly(caller, said.service_type)
