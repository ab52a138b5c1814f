"""A session of a plugin with its host: the handshake, the addresses of the host, and calls with an identity.

With a socket directory, the host is asked at its Unix socket first, and by TCP otherwise.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import trio

from cpg_trio import _clock, wire
from cpg_trio._version import __version__
from cpg_trio.http.client.origin import UNIX
from cpg_trio.plugin._host_time import HostTime
from cpg_trio.plugin._hosts import HostAddress, Hosts
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import (
    CapabilityBrokerClient,
    HandshakeServiceClient,
    PluginLifecycleClient,
    ServiceRegistryClient,
)
from cpg_trio.rpc import (
    ClientConfig,
    ConnectError,
    HttpClient,
    HttpRequest,
    PoolClient,
    ResponseMetadata,
)
from cpg_trio.states import HealthState

_log = logging.getLogger("cpg_trio.plugin")

CALL_TIMEOUT_S = 5.0  # of one call to the host
# Of a registration: the host may resolve two names (3 s each), ask at a socket (1 s), and write a file.
REGISTER_TIMEOUT_S = 12.0

DEFAULT_HEARTBEAT_S = 5.0
DEFAULT_LEASE_S = 15.0

_MAX_SELF_ID = 32  # characters: the path of a socket has room for 107 bytes

_NO_METHOD = "/services/-/-/-"  # a routed path of no service and no provider
_MILLISECONDS = re.compile(r"[0-9]{1,18}")
_SHORT = 1024  # bytes: a router's refusal is shorter
_UNAUTHORIZED = 401
_TOKENS_KEPT = 4  # more than are valid at the same time


def own_socket(self_id: str, hostname: str, binds: Sequence[str]) -> str:
    """Return the name of a plugin's socket: the same at its next start, unless its port is any free one.

    Replicas have different names, since each has another host name or port.
    """
    any_port = any(bind.endswith(":0") for bind in binds)
    place = secrets.token_bytes(8) if any_port else " ".join([self_id, hostname, *binds]).encode()
    return f"{self_id[:_MAX_SELF_ID]}-{hashlib.sha256(place).hexdigest()[:8]}.sock"


async def _socket_of(
    folder: Path | None, server_metadata: Mapping[str, str], at: HostAddress, hosts: Hosts
) -> str | None:
    """Return the address of a host's socket, if that is in this directory.

    `server_metadata` is that of the handshake. A socket that is not the host's is named in the log.
    """
    name, host_id = server_metadata.get(wire.SOCKET_KEY, ""), server_metadata.get(wire.HOST_ID_KEY, "")
    if folder is None or not (name and host_id):
        return None
    address, why = f"{UNIX}{folder / name}", "another host answers there"
    try:
        wire.validate_socket(name)
        answer = await shake_hands(at.url, PoolClient(hosts.pool, (address,)))
        if answer.server_metadata.get(wire.HOST_ID_KEY) == host_id:
            return address
    except (ConnectError, wire.InvalidError) as error:
        why = str(error)
    _log.warning("the host is called by TCP, not at its socket %.256r: %s", str(folder / name), why)
    return None


@attrs.frozen
class Introduction:
    """What a plugin tells of itself. The default tells nothing, and gets no identity."""

    self_id: str = ""
    version: str = ""
    provides: Sequence[str] | None = None
    """The only service types that it will register. None allows all."""
    requires: Sequence[str] | None = None
    """The only service types that it will call. None allows all."""
    enrolment_token: str = attrs.field(default="", repr=False)
    """The token that hosts may ask for."""
    uses: Sequence[str] = ()
    """Those of `requires` that it does without, if it has to."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The client metadata of the handshake."""
        declared = {
            wire.PROVIDES_KEY: self.provides,
            wire.REQUIRES_KEY: self.requires,
            wire.USES_KEY: self.uses or None,
        }
        return {
            wire.CLIENT_VERSION_KEY: __version__,
            wire.RENEWS_KEY: "true",
            **{key: ",".join(types) for key, types in declared.items() if types is not None},
        }


NOBODY = Introduction()


async def shake_hands(
    host_url: str,
    http: HttpClient,
    introduction: Introduction = NOBODY,
    proof: Mapping[str, str] | None = None,
    metadata: ResponseMetadata | None = None,
    timeout_s: float = CALL_TIMEOUT_S,
) -> pb.HandshakeResponse:
    """Request an identity, or another token for the identity that `proof` proves, if it is still valid.

    Without a `self_id`, request only what the host tells of itself. `metadata` receives the headers of the
    answer, also those of an error. Raises: ConnectError.
    """
    headers = dict(proof or {})
    if introduction.enrolment_token:
        headers[wire.ENROLMENT_HEADER] = introduction.enrolment_token
    return await HandshakeServiceClient(host_url, http).handshake(
        pb.HandshakeRequest(
            core_protocol_version=wire.CORE_VERSION,
            app_protocol_version=wire.APP_VERSION,
            magic_cookie_key=wire.COOKIE_KEY,
            magic_cookie_value=wire.COOKIE_VALUE,
            client_metadata=introduction.metadata,
            self_id=introduction.self_id,
            self_version=introduction.version,
        ),
        headers=headers,
        timeout_s=timeout_s,
        metadata=metadata or ResponseMetadata(),
    )


@attrs.define(eq=False)
class Session:
    """An identity on a host, or on all that share its directory.

    It lasts until the host forgets it; its token changes before it expires.
    """

    hosts: Hosts = attrs.field(repr=False)
    runtime_id: str
    token: str = attrs.field(repr=False)
    heartbeat_s: float = DEFAULT_HEARTBEAT_S
    """Seconds between the health reports that the host asks for."""
    lease_s: float = DEFAULT_LEASE_S
    """Seconds after a health report for which the host believes that the plugin is there."""
    token_ttl_s: float = math.inf
    """Seconds for which a token is good; without end if the host does not say."""
    host_id: str = ""
    """Which directory it is registered in; empty if the host does not say."""
    seen_revision: int = 0
    """The highest revision of that which a watch has told of."""
    managed: bool = False
    """Whether the host has given the identity by itself, to a plugin without a `HOST_URL`."""
    lease_ends: float = -math.inf
    """Until when the last report to reach the host keeps the plugin registered, on `_clock.current_time`."""
    time: HostTime = attrs.field(factory=HostTime, repr=False)
    """The time by the clock of the host, which dates what it signs."""
    void: trio.Event = attrs.field(factory=trio.Event, repr=False)
    """Set when it turns out that the host does not know the identity any more."""
    headers: Mapping[str, str] = attrs.field(init=False, repr=False)
    """The header fields that prove the identity to the host, in lower case. A new object for each token."""
    digests: Sequence[bytes] = attrs.field(init=False, repr=False, default=())
    """The digests of its tokens, the newest first. The host signs with one of them."""

    def __attrs_post_init__(self) -> None:
        self.take_token(self.token)

    @property
    def host_url(self) -> str:
        """The URL of the host that is used now."""
        return self.hosts.current.url

    @property
    def calls(self) -> HttpClient:
        """For calls to other plugins through the host."""
        return self.hosts.calls

    @property
    def registry(self) -> ServiceRegistryClient:
        """The host's registry, called as this plugin."""
        return ServiceRegistryClient("", self.hosts.http, ClientConfig(headers=self.headers))

    @property
    def lifecycle(self) -> PluginLifecycleClient:
        """The host's lifecycle service, called as this plugin."""
        return PluginLifecycleClient("", self.hosts.http, ClientConfig(headers=self.headers))

    def lifecycle_at(self, at: HostAddress) -> PluginLifecycleClient:
        """Return the lifecycle service of one host, called as this plugin."""
        return PluginLifecycleClient(at.url, at.http, ClientConfig(headers=self.headers))

    @property
    def broker(self) -> CapabilityBrokerClient:
        """The host's capability broker, called as this plugin."""
        return CapabilityBrokerClient("", self.hosts.http, ClientConfig(headers=self.headers))

    def heard(self, at: HostAddress, *, welcome: bool = False) -> None:
        """Note that something has come from a host. See `HostAddress.answered`."""
        at.answered(welcome=welcome)
        self.hosts.link.heard()

    def take_token(self, token: str) -> None:
        """Use a new token. What was sent with the one before stays valid."""
        self.token = token
        self.digests = (wire.token_digest(token), *self.digests)[:_TOKENS_KEPT]
        self.headers = {
            wire.RUNTIME_ID_HEADER.lower(): self.runtime_id,
            wire.AUTHORIZATION_HEADER.lower(): wire.bearer(token),
        }

    def take_digests(self, before: Session) -> None:
        """Also accept what was signed with the tokens of the session before, if the identity is the same."""
        if before.runtime_id == self.runtime_id:
            self.digests = tuple(dict.fromkeys((*self.digests, *before.digests)))[:_TOKENS_KEPT]

    def apply(self, server_metadata: Mapping[str, str]) -> None:
        """Take the host's id and intervals from the server metadata of a handshake."""
        self.check_host(host_id := server_metadata.get(wire.HOST_ID_KEY, ""))
        self.host_id = self.host_id or host_id
        self.heartbeat_s = _seconds(server_metadata.get(wire.HEARTBEAT_KEY, ""), DEFAULT_HEARTBEAT_S)
        self.lease_s = _seconds(server_metadata.get(wire.LEASE_KEY, ""), DEFAULT_LEASE_S)
        self.token_ttl_s = _seconds(server_metadata.get(wire.TOKEN_TTL_KEY, ""), math.inf)

    def check_host(self, host_id: str) -> None:
        """Set `void` if an answer comes from another registry: this plugin is not registered there."""
        if host_id and self.host_id and host_id != self.host_id:
            self.void.set()

    async def check_token(self) -> None:
        """Ask a host that sends no host id whether it knows the token; set `void` if it does not.

        Such a host may accept a health report without a check, also after a restart that has lost its state.
        Its router checks the token, so this calls a provider that cannot exist: only the host itself can
        answer. Raises: ConnectError.
        """
        request = HttpRequest("GET", _NO_METHOD, list(self.headers.items()), b"")
        answer = await self.hosts.http.unary(request, _SHORT)
        if answer.status == _UNAUTHORIZED and answer.header("content-type").startswith("text/plain"):
            self.void.set()


@attrs.frozen
class SessionProvider:
    """A provider of a service, as the host tells of it in a session, and how it is reached there."""

    runtime_id: str
    version: str
    health: HealthState
    session: Session = attrs.field(repr=False)
    endpoint_url: str

    @property
    def base_url(self) -> str:
        """The URL at which the host takes calls to it now."""
        return f"{self.session.host_url}{self.endpoint_url}"

    @classmethod
    def at(cls, session: Session, endpoint: pb.ServiceEndpoint, *, degraded: bool = False) -> SessionProvider:
        """Return the provider at an endpoint."""
        health = HealthState.DEGRADED if degraded else HealthState.HEALTHY
        return cls(endpoint.provider_id, endpoint.version, health, session, endpoint.endpoint_url)


@attrs.frozen
class ProviderSet:
    """The providers of a service that get calls, as the host tells of them in a session."""

    providers: Mapping[str, SessionProvider] = attrs.field(factory=dict)
    """By runtime id, in the host's order."""
    reason: str = ""
    """Why there is none, in the host's words; empty if it does not say."""

    @classmethod
    def of(cls, *providers: SessionProvider) -> ProviderSet:
        """Return the set of these providers."""
        return cls({provider.runtime_id: provider for provider in providers})


async def handshake(
    hosts: Hosts,
    introduction: Introduction,
    before: Session | None = None,
    socket_dir: Path | None = None,
    metadata: ResponseMetadata | None = None,
) -> Session:
    """Shake hands with the current host, and find out how to connect to it. Raises: ConnectError.

    A host that still accepts the token of the session `before` gives the same identity again. `socket_dir` is
    the directory in which its Unix socket would be. `metadata` receives the headers of its answer.
    """
    proof = before.headers if before is not None else None
    metadata = metadata or ResponseMetadata()
    asked_at = _clock.current_time()
    hosts.use_socket(None)  # the host looks where a handshake comes from
    at = hosts.current
    timeout_s = hosts.patience_s(CALL_TIMEOUT_S)
    response = await shake_hands(at.url, at.http, introduction, proof, metadata, timeout_s)
    host_time = HostTime()
    host_time.update(metadata.headers.get("date", ""), asked_at)
    server_metadata = response.server_metadata
    socket = await _socket_of(socket_dir, server_metadata, at, hosts)
    if hosts.current is at:
        hosts.use_socket(socket)
        hosts.current.answered()
    session = Session(hosts, response.runtime_id, response.runtime_token, time=host_time)
    session.apply(server_metadata)
    if before is not None:
        session.take_digests(before)
    return session


def _seconds(milliseconds: str, usual: float) -> float:
    """Return an interval of the host in seconds; `usual` if it gives none."""
    if _MILLISECONDS.fullmatch(milliseconds) and int(milliseconds):
        return int(milliseconds) / 1000
    return usual
