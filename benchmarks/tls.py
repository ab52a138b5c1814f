"""What TLS on both sides of a router costs, for calls on kept connections and for new connections.

Each proxy runs twice, plain and with TLS, and both take turns. A new connection for each call, with TLS and
without, shows what a handshake costs the proxy; beside it is what OpenSSL alone needs for its half.
"""

from __future__ import annotations

import ssl
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from time import thread_time

import attrs

from cpg_trio.http import Clients, TlsConfig
from cpg_trio.http.tls import client_context

from .bench import Bench, Report, median
from .certificates import Certificate
from .comparison import Figure, figures
from .load import Call, Load, wrk
from .peers import Peer, Proxy, started, with_tls
from .processes import cpu_seconds
from .report import table
from .upstream import upstream

_CONNECTIONS = 16
_KEPT, _NEW = "kept connections", "a new connection for each call"
_CASES: Mapping[str, Mapping[str, str]] = {_KEPT: {}, _NEW: {"Connection": "close"}}
_HANDSHAKES = 200


@attrs.frozen
class _Subject:
    """One of the two that each proxy runs as."""

    peer: Peer
    encrypted: bool


@attrs.frozen
class Sample:
    """One run of wrk through a proxy."""

    load: Load
    cpu_us: float
    """What the proxy has run for each call, in microseconds."""


_Samples = Mapping[_Subject, Sequence[Sample]]


async def measure(bench: Bench) -> Report:
    """Measure the proxies that are set up for TLS here: ours, and Envoy."""
    certificate = Certificate.made(bench.subfolder("tls"))
    async with AsyncExitStack() as stack:
        proxies = await _started(bench, certificate, stack)
        samples = {
            case: await bench.take_turns(list(proxies), partial(_sample, bench, proxies, headers))
            for case, headers in _CASES.items()
        }
    alone = _openssl_alone(certificate)
    compared = [figure for case, of in samples.items() for figure in _compared(bench, case, of)]
    tables = "\n\n".join(
        [
            f"CPU time of the proxy for one call, µs ({_CONNECTIONS} connections)",
            _costs(samples),
            "Calls a second",
            _rates(samples),
            "CPU time that OpenSSL alone needs for its half of a handshake, µs",
            table(
                "", list(alone), [[half, *(f"{of[half]:.0f}" for of in alone.values())] for half in _HALVES]
            ),
        ]
    )
    return Report("tls", tables, {**_figures(samples), "openssl_us": alone}, compared=compared)


async def _started(bench: Bench, certificate: Certificate, stack: AsyncExitStack) -> dict[_Subject, Proxy]:
    """Run the provider, plain and with TLS, and each proxy in front of both."""
    proxies = {}
    for encrypted in (False, True):
        kind = "tls" if encrypted else "plain"
        folder = bench.subfolder("tls", kind, "provider")
        provider = await stack.enter_async_context(
            upstream(folder, bench.load_core, certificate if encrypted else None)
        )
        for peer in bench.peers:
            if (with_it := with_tls(peer, certificate)) is None:
                continue
            proxy = started(
                with_it if encrypted else peer,
                provider,
                bench.subfolder("tls", kind, peer.name),
                bench.proxy_core,
            )
            proxies[_Subject(peer, encrypted)] = await stack.enter_async_context(proxy)
    return proxies


async def _sample(
    bench: Bench, proxies: Mapping[_Subject, Proxy], headers: Mapping[str, str], subject: _Subject
) -> Sample:
    proxy = proxies[subject]
    call: Call = proxy.call()
    before = cpu_seconds(proxy.pid)
    load = await wrk(
        attrs.evolve(call, headers={**call.headers, **headers}),
        _CONNECTIONS,
        bench.seconds,
        [bench.load_core],
    )
    return Sample(load, 1e6 * (cpu_seconds(proxy.pid) - before) / load.requests)


def _pairs(samples: _Samples) -> Iterator[tuple[Peer, Sequence[Sample], Sequence[Sample]]]:
    """Yield each proxy with its samples, plain and with TLS."""
    for subject, plain in samples.items():
        if not subject.encrypted:
            yield subject.peer, plain, samples[_Subject(subject.peer, encrypted=True)]


def ratio(plain: Sequence[Sample], encrypted: Sequence[Sample]) -> float:
    """Return the CPU time with TLS as a multiple of that without: the median of the ratios within a round."""
    pairs = zip(plain, encrypted, strict=True)
    return statistics.median(with_it.cpu_us / without.cpu_us for without, with_it in pairs)


def _costs(samples: Mapping[str, _Samples]) -> str:
    rows: dict[str, list[str]] = {}
    for case in _CASES:
        for peer, plain, encrypted in _pairs(samples[case]):
            cost, cost_encrypted = median(plain, _cpu), median(encrypted, _cpu)
            last = f"{ratio(plain, encrypted):.2f}" if case == _KEPT else _handshake(cost_encrypted - cost)
            rows.setdefault(peer.title, []).extend((f"{cost:.0f}", f"{cost_encrypted:.0f}", last))
    heads = [_KEPT, "with TLS", "ratio", _NEW, "with TLS", "a handshake (a second, on one core)"]
    return table("proxy", heads, [[title, *cells] for title, cells in rows.items()])


def _handshake(cost_us: float) -> str:
    return f"{cost_us:.0f} ({1e6 / cost_us:,.0f})" if cost_us > 0 else "0"


def _rates(samples: Mapping[str, _Samples]) -> str:
    rows: dict[str, list[str]] = {}
    for case in _CASES:
        for peer, *kinds in _pairs(samples[case]):
            rows.setdefault(peer.title, []).extend(f"{median(of, _rate):,.0f}" for of in kinds)
    heads = [_KEPT, "with TLS", _NEW, "with TLS"]
    return table("proxy", heads, [[title, *cells] for title, cells in rows.items()])


def _cpu(sample: Sample) -> float:
    return sample.cpu_us


def _rate(sample: Sample) -> float:
    return sample.load.rate


def _figures(samples: Mapping[str, _Samples]) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for case, of in samples.items():
        for peer, plain, encrypted in _pairs(of):
            found.setdefault(peer.name, {})[case] = {
                "cpu_us": median(plain, _cpu),
                "cpu_us_tls": median(encrypted, _cpu),
                "cpu_ratio": ratio(plain, encrypted),
                "calls_per_s": median(plain, _rate),
                "calls_per_s_tls": median(encrypted, _rate),
            }
    return found


def _compared(bench: Bench, case: str, samples: _Samples) -> list[Figure]:
    with_tls_only = {subject.peer: of for subject, of in samples.items() if subject.encrypted}
    measures = (("calls a second", _rate, True), ("CPU of a call, µs", _cpu, False))
    return figures(f"TLS, {case}", with_tls_only, bench.pair, *measures)


# OpenSSL alone

_HALVES = "server", "client"


def _openssl_alone(certificate: Certificate) -> dict[str, dict[str, float]]:
    """Return the CPU time of each half of a handshake in memory, in microseconds: the least of many."""
    config = TlsConfig(cert_file=certificate.file, ca_file=certificate.ca_file, clients=Clients.OPTIONAL)
    server, ours = config.server_contexts()(), config.client_contexts()()
    offering = config.server_contexts()()
    offering.options &= ~ssl.OP_NO_TICKET
    offering.num_tickets = 1
    stranger = client_context(certificate.ca_file)
    return {
        "full": _halves(server, stranger),
        "full, with a client's certificate": _halves(server, ours),
        "resumed": _halves(offering, stranger, resume=True),
        "resumed, with a client's certificate": _halves(offering, ours, resume=True),
    }


def _halves(server: ssl.SSLContext, client: ssl.SSLContext, *, resume: bool = False) -> dict[str, float]:
    best = dict.fromkeys(_HALVES, float("inf"))
    session = None
    for _ in range(_HANDSHAKES):
        handshake = _Handshake(server, client, session)
        handshake.run()
        if resume:
            session = handshake.ticket()
        for half, took_s in handshake.took_s.items():
            best[half] = min(best[half], 1e6 * took_s)
    return best


class _Handshake:
    """A handshake between two contexts in memory."""

    def __init__(
        self, server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None
    ) -> None:
        one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ends = {
            "client": client.wrap_bio(other, one, server_hostname="127.0.0.1", session=session),
            "server": server.wrap_bio(one, other, server_side=True),
        }
        self.took_s = dict.fromkeys(_HALVES, 0.0)

    def run(self) -> None:
        """Shake hands, and note how long each end has run."""
        left = dict(self._ends)
        while left:
            for half, end in list(left.items()):
                began = thread_time()
                try:
                    end.do_handshake()
                    del left[half]
                except ssl.SSLWantReadError:
                    pass
                self.took_s[half] += thread_time() - began

    def ticket(self) -> ssl.SSLSession | None:
        """Return what the client may resume its session with."""
        self._ends["server"].write(b"x")
        self._ends["client"].read(1)
        return self._ends["client"].session
