"""The parsers of what strangers send that are ours, apart from HTTP's: what they may do with any bytes.

Each takes what it is given, or raises the one error for what makes no sense; and what it takes means the same
to whoever reads it next. The functions here raise AssertionError if that does not hold.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote_to_bytes

import trio

from cpg_trio import wire
from cpg_trio._addresses import parse_address
from cpg_trio.assertions import Assertion, InvalidAssertionError, Purpose, sign, verify
from cpg_trio.call_record import Calls
from cpg_trio.host import Enrolment, host_config
from cpg_trio.host.access import LimitError
from cpg_trio.host.access.access_check import AccessCheck
from cpg_trio.host.access.identity import Identities
from cpg_trio.host.access.keys import Claims, Keys
from cpg_trio.host.access.peers import Peer
from cpg_trio.host.access.policy import Policy, read_rules
from cpg_trio.host.access.rate_limiting import RateLimiter, RateLimits
from cpg_trio.host.access.refusal import RefusedError
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.watch_hub import WatchHub
from cpg_trio.host.routing.headers import RequestHeaderRules, forwarded_in_request, forwarded_in_response
from cpg_trio.host.routing.router import Router
from cpg_trio.host.routing.routes import PREFIX, Routes
from cpg_trio.host.services.websocket import CODECS, UnreadableError
from cpg_trio.http import Origin, ServeConfig, StartError
from cpg_trio.http.server.browsers import BrowserGuard
from cpg_trio.plugin import PluginConfig
from cpg_trio.plugin._retry import retry_after_s
from cpg_trio.plugin._session import _seconds
from cpg_trio.process import bind_from_environment
from cpg_trio.protos.connectplugin.v1.connectplugin_pb2 import WatchRequest
from cpg_trio.rpc import ConnectError
from cpg_trio.rpc.envelope import unwrap, wrap
from cpg_trio.rpc.errors import error_from_http, error_from_json
from cpg_trio.versions import Version, VersionRange, satisfies

_KEYS = Keys(["k" * 32])
_DIGEST = wire.token_digest("a token")
_CLAIMS = Claims("p-0123456789abcdef", "p", 4e9, ("a",), ("b",), "192.0.2.7", uses=("b",))
TOKEN = _KEYS.sign(_CLAIMS)
ASSERTION = sign(_DIGEST, Purpose.CALLER, Assertion("p-1", "p", "q-1", "/q.v1.Q/M", 4e9))
MAX_MESSAGE = 1000
_LONG = 8  # characters: enough that no message has them by chance


def check_token(data: bytes) -> None:
    """Nothing but what was signed is a token, to the bit."""
    shown = data.decode("latin-1")
    claims = _KEYS.verify(shown)
    assert claims is None or (claims == _CLAIMS and shown.rpartition(".")[0] == TOKEN.rpartition(".")[0])
    identities = Identities(_KEYS, clock=lambda: 0.0)
    identity = identities.authenticate(_CLAIMS.runtime_id, shown)
    assert (identity is None) == (claims is None)


def check_assertion(data: bytes) -> None:
    """Nothing but what was signed is an assertion, and only for its purpose, its audience and its time."""
    shown = data.decode("latin-1")
    with suppress(InvalidAssertionError):
        said = verify(shown, [_DIGEST], Purpose.CALLER, "q-1", 0.0)
        assert said == Assertion("p-1", "p", "q-1", "/q.v1.Q/M", 4e9)
        assert shown.rpartition(".")[0] == ASSERTION.rpartition(".")[0]
    for purpose, audience, now in (
        (Purpose.CONTROL, "q-1", 0.0),
        (Purpose.CALLER, "q-2", 0.0),
        (Purpose.CALLER, "q-1", 4e9 + 31),
    ):
        try:
            verify(shown, [_DIGEST], purpose, audience, now)
        except InvalidAssertionError:
            continue
        raise AssertionError("it is good for something else as well")


class _Routed:
    """A router with a provider at `/p/`, and the caller's credentials."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.identities = Identities(clock=lambda: 0.0)
        limiter = RateLimiter(RateLimits(router=None, failed_authentication=None))
        self.router = Router(
            AccessCheck(self.identities, limiter=limiter),
            Routes(self.identities, self.registry),
            self.registry,
            Calls(),
            suspect=print,
            browsers=BrowserGuard(ServeConfig()),
            rules=RequestHeaderRules(),
        )
        self.caller, token = self.identities.issue("caller")
        self.authorization = f"Bearer {token}".encode()
        self.registry.register("p-1", "t", "1.0.0", "/p/", {wire.BASE_URL_KEY: "http://127.0.0.1:1"})

    def target(self, path: bytes) -> bytes | None:
        runtime_id = self.caller.runtime_id.encode()
        try:
            _, route = self.router.route(path, runtime_id, self.authorization, Peer())
        except RefusedError as error:
            refused = error
        else:
            return route.target
        assert refused.status in {400, 404}
        assert refused.log.isprintable()
        return None


def check_path(data: bytes) -> None:
    """A path that is let through leads below its provider's, byte for byte, and never out of it.

    The provider is named, or any one.
    """
    if not data or any(byte <= 0x20 or byte >= 0x7F for byte in data) or b"?" in data:
        return  # which the reader of HTTP lets nobody send
    for path in (PREFIX + data, PREFIX + b"t/p-1/" + data, PREFIX + b"t/-/" + data):
        target = _routed().target(path)
        if target is None:
            continue
        named = next(each for each in (PREFIX + b"t/p-1/", PREFIX + b"t/-/") if path.startswith(each))
        method = path.removeprefix(named).removeprefix(b"p/")
        assert target == b"/p/" + method
        for path_read in (target, unquote_to_bytes(target), unquote_to_bytes(unquote_to_bytes(target))):
            segments = [segment.partition(b";")[0] for segment in path_read.replace(b"\\", b"/").split(b"/")]
            assert not {b".", b".."} & set(segments)
        assert b"//" not in target


def _routed(made: list[_Routed] = []) -> _Routed:  # noqa: B006 - made once, when it is needed
    if not made:
        made.append(_Routed())
    return made[0]


_NEVER = {"authorization", "cookie", "forwarded", "host", "proxy-authorization", "te", "transfer-encoding"}


def check_fields(data: bytes) -> None:
    """No credential, no claim of origin and nothing for one connection goes on, however it is spelled."""
    fields = [(name, value.strip()) for name, _, value in (f.partition(b":") for f in data.split(b"\n"))]
    for rules in (RequestHeaderRules(), RequestHeaderRules(["x-app-*"])):
        passed, *_ = forwarded_in_request(fields, rules)
        for name in (name.lower().decode("latin-1").replace("_", "-") for name, _ in passed):
            assert name not in _NEVER
            assert not name.startswith(("x-plugin-", "x-forwarded-"))
        all_of_them = iter(fields)
        assert all(field in all_of_them for field in passed)  # in their order
    for name in (name.lower().decode("latin-1") for name, _ in forwarded_in_response(fields)):
        assert not name.startswith("x-plugin-")
        assert name not in {"set-cookie", "connection", "transfer-encoding"}


def check_origin(data: bytes) -> None:
    """A base URL that is taken is written in one way, which is taken for the same."""
    text = data.decode("latin-1")
    try:
        origin, path = Origin.parse(text)
    except ValueError as error:
        said = str(error)
    else:
        again = f"{origin.scheme}://{origin.host_header.decode()}{path.decode()}"
        assert Origin.parse(again) == (origin, path)
        return
    assert len(text) < _LONG or text not in said  # it may hold a password


def check_names(data: bytes) -> None:
    """A name, a version or a list is taken, or refused with words that can be logged."""
    text = data.decode("utf-8", "replace")
    for rule in (
        wire.validate_self_id,
        wire.validate_service_type,
        wire.validate_socket,
        wire.validate_endpoint_path,
        wire.parse_service_types,
        Version.parse,
        VersionRange.parse,
        lambda value: wire.validate_metadata({value: value}),
    ):
        _refused_or_taken(rule, text)
    with suppress(wire.InvalidError):
        assert ",".join(wire.parse_service_types(text)) == text
    with suppress(wire.InvalidError):
        version = Version.parse(text)
        assert not version < version  # noqa: PLR0124 - that is what is asked
        assert satisfies(text, text)
        assert text in VersionRange.parse(f"=={text}")
    with suppress(wire.InvalidError):
        accepted = VersionRange.parse(text)
        assert VersionRange.parse(str(accepted)) == accepted
        for version_text in ("0.0.0", "1.2.3", "1.2.3-rc.1"):
            assert (version_text in accepted) in {True, False}


def _refused_or_taken(rule: Callable[[str], object], text: str) -> None:
    with suppress(wire.InvalidError):
        rule(text)


def check_envelopes(data: bytes) -> None:
    """Frames are the same however they are cut; what is none ends with the one error, within the bound."""

    async def frames(*chunks: bytes) -> tuple[list[object], str]:
        async def feed() -> AsyncGenerator[bytes, None]:
            for chunk in chunks:
                yield chunk

        found: list[object] = []
        async with aclosing(feed()) as fed, aclosing(unwrap(fed, MAX_MESSAGE)) as unwrapped:
            try:
                async for frame in unwrapped:
                    assert len(frame.content) <= MAX_MESSAGE
                    found.append((frame.ends_stream, frame.content))
            except ConnectError as error:
                return found, error.code.value
        return found, ""

    async def run() -> None:
        middle = len(data) // 2
        assert await frames(data) == await frames(data[:middle], data[middle:])

    trio.run(run)


def check_error(data: bytes) -> None:
    """Any answer that is an error is one of the protocol's."""
    error_from_http(500, "text/plain", data).code  # noqa: B018 - that it has one
    with suppress(ValueError, RecursionError):
        error_from_json(json.loads(data), 500).code  # noqa: B018


def check_watch_frame(data: bytes) -> None:
    """A frame of a watch is a request, or is refused."""
    for codec in CODECS.values():
        for frame in ({"bytes": data}, {"text": data.decode("utf-8", "replace")}):
            with suppress(UnreadableError):
                request = codec.read(frame)
                assert isinstance(request, WatchRequest)
                _subscribe(request)


def _subscribe(request: WatchRequest) -> None:
    """Take the subscriptions of a request, or refuse each with one of the two errors."""
    hub = WatchHub(Registry())
    with hub.watch("fuzzed") as watch:
        for one in request.subscribe:
            with suppress(wire.InvalidError, LimitError):
                watch.subscribe(one.service_type, one.min_version, one.version_range, one.max_providers)
    assert not hub.subscriptions.total
    assert not hub.range_bytes.total


def check_peer(data: bytes) -> None:
    """What is no address counts as none; a certificate is that of one plugin at most."""
    text = data.decode("utf-8", "replace")
    is_address = parse_address(text) is not None
    assert Peer.of((text, 1)).key.startswith("address:" if is_address else "unix:")
    names = ("p", "q", "storage-plugin")
    policy = Policy()
    good = [name for name in names if not policy.why_not_certified(Peer("192.0.2.7", (text,)), name)]
    assert len(good) <= 1


_HOUR_S = 3600


def check_times(data: bytes) -> None:
    """What the other side says of times is so many seconds, within reason, or nothing."""
    text = data.decode("latin-1")
    assert 0 <= retry_after_s({"retry-after": text}) <= _HOUR_S
    assert _seconds(text, 1.0) > 0


@cache
def _folder() -> Path:
    folder = TemporaryDirectory(prefix="cpg-fuzz-")
    _KEPT.append(folder)
    return Path(folder.name)


_KEPT: list[TemporaryDirectory[str]] = []  # until the process ends


def check_files(data: bytes) -> None:
    """A file of rules, of enrolment tokens or of keys is taken, or refused with words that can be logged."""
    path = _folder() / "file"
    path.touch(mode=0o600)
    path.write_bytes(data)
    for reader in (read_rules, Enrolment, lambda file: Keys(path=file).open()):
        try:
            reader(path)
        except (ValueError, StartError) as error:
            said = str(error)
            assert said
            assert len(data) < _LONG or data.decode("latin-1") not in said  # there may be secrets in it


# A variable that names a file is another's to fuzz: it may name any.
HOST_VARIABLES = (
    *("ALLOW_PLAINTEXT", "BASE_URLS", "CPG_HOST_KEY", "ENROLMENT_TOKENS", "HTTP_SERVER", "LEASE_S", "LIMITS"),
    *("MAX_CONNECTIONS", "PASS_HEADERS", "PUBLIC_URL", "RATE_LIMITS", "SELECTION", "TLS_CLIENTS"),
)
PLUGIN_VARIABLES = (
    *("ACCEPT_UNSIGNED", "BIND", "CONTROL_BIND", "CONTROL_PORT", "DIRECT_CALLS", "ENROLMENT_TOKEN"),
    *("HANDSHAKE_CLIENTS", "HOSTNAME", "HOST_URL", "HTTP_SERVER", "PORT", "REFLECTION", "TLS_CLIENTS"),
)


def _bind(environment: Mapping[str, str]) -> list[str]:
    return bind_from_environment("127.0.0.1", 8080, environment)


def check_environment(data: bytes) -> None:
    """Each variable is understood, or named as the one that makes no sense, without a secret in it."""
    text = data.decode("utf-8", "surrogateescape").replace("\0", "")
    for reader, names in (
        (host_config, HOST_VARIABLES),
        (lambda environment: PluginConfig.from_environment(0, environment), PLUGIN_VARIABLES),
        (_bind, ("BIND", "PORT")),
    ):
        for name in names:
            try:
                reader({name: text})
            except StartError as error:
                said = str(error)
                assert name in said
                assert "KEY" not in name or len(text) < _LONG or text not in said


FRAMES = (wrap(b"{}"), wrap(b"x" * 100, compress=True), b"\2" + wrap(b"{}")[1:])
