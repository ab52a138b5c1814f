"""The names and rules of the wire protocol: headers, cookie, metadata keys, limits, validation.

Pure functions and constants; no I/O. Both sides stand on it. Each message that a rule answers with is part
of the protocol: implementations in other languages answer with the same words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from cpg_trio.errors import CpgTrioError

RUNTIME_ID_HEADER = "X-Plugin-Runtime-ID"
CALLER_ID_HEADER = "X-Plugin-Caller-ID"  # set by the router: the runtime id of who calls a provider
CALLER_HEADER = "X-Plugin-Caller"  # set by the router: the same, signed for that provider (see `assertions`)
# Set by a host on its own answers to calls, and on no answer that it passes on: "true" if the call has been
# seen by nobody, "false" if it may have been. A plugin's guard sets it on its refusals.
UNDELIVERED_HEADER = "X-Plugin-Undelivered"
# Set by a host beside it: whose failure it is (`rpc.Fault`): caller, host, provider, or the provider's guard.
FAULT_HEADER = "X-Plugin-Fault"
CLOCK_HEADER = "X-Plugin-Clock"  # set by a guard that refuses a call for its time: the plugin's, since 1970
HOST_ID_HEADER = "X-Plugin-Host-ID"  # set by the host on its answers to reports: which host it is
# Between the hosts of one directory: on a call of a plugin that one of them forwards to the plugin's owner,
# what it signs (`host.cluster.statements`); on an answer, why it was not taken: `refused`, or `not-owner`.
FORWARDED_BY_HOST_HEADER = "X-Plugin-Forwarded"
# Set by a host on its answers to reports: "true" if the plugin is to call another one.
ELSEWHERE_HEADER = "X-Plugin-Elsewhere"
ENROLMENT_HEADER = "X-Plugin-Enrolment"  # of a handshake: what lets a plugin of this name in
AUTHORIZATION_HEADER = "Authorization"

# The name of a host where it calls a plugin's services itself: no plugin can have it. As a runtime id, with a
# dash and the id of the host.
HOST_NAME = "_host"

BROKER_PATH = "/broker"  # the host's broker, where handshakes announce it
DIRECT_PREFIX = "service:"  # before the type of a service that is asked for as a capability

WATCH_PATH = "/watch"  # the websocket on which a host tells of services
WATCH_PROTO = "cpg-trio.watch.v1.proto"  # its subprotocols: how its frames are written
WATCH_JSON = "cpg-trio.watch.v1.json"
WATCH_BEHIND_CODE = 1013  # closes one whose watcher has been told of later changes than this host knows

COOKIE_KEY = "CONNECT_PLUGIN"
COOKIE_VALUE = "d3f40b3c2e1a5f8b9c4d7e6a1b2c3d4e"  # tells programs apart; it is public and protects nothing
CORE_VERSION = 1
APP_VERSION = 1

BASE_URL_KEY = "base_url"  # registration metadata: the plugin's own URL, as the host sees it
CONTROL_URL_KEY = "control_url"  # registration metadata: where its control services are, if not there
SERVER_VERSION_KEY = "server_version"
HEARTBEAT_KEY = "heartbeat_interval_ms"  # server metadata: how often the host asks plugins to report
LEASE_KEY = "lease_ms"  # server metadata: how long after a report the host believes that a plugin is there
HOST_ID_KEY = "host_id"  # server metadata: tells one host's registry from another's
TOKEN_TTL_KEY = "token_ttl_ms"  # noqa: S105 - server metadata: how long the token is good
SOCKET_KEY = "socket"  # server and registration metadata: its Unix socket, by its name in a shared directory
DIRECT_KEY = "direct"  # registration metadata: "true" if callers may come without the host, and prove it
CLIENT_VERSION_KEY = "client_version"
RENEWS_KEY = "renews"  # client and GetPluginInfo metadata: "true" if it will ask for another token in time
PROVIDES_KEY = "provides"  # client metadata: the service types that it will provide, with commas between
REQUIRES_KEY = "requires"  # client metadata: those that it will call
USES_KEY = "uses"  # client metadata: those of them that it does without, if it has to
RUNTIME_ID_KEY = "runtime_id"  # metadata of GetPluginInfo: as whom the plugin's host knows it

MAX_NAME_BYTES = 128  # of a self_id, of a service type, and of a socket
MAX_RUNTIME_ID_BYTES = MAX_NAME_BYTES + 17  # a self_id, a dash, and 16 hex digits
MAX_VERSION_BYTES = 64
MAX_VERSION_RANGE_BYTES = 256
MAX_PATH_BYTES = 256
MAX_REQUESTED_PLUGINS = 100
MAX_METADATA_ENTRIES = 100
MAX_DECLARED_TYPES = 100  # that a plugin provides, and that it requires: hosts keep them with its identity
MAX_METADATA_KEY_BYTES = 256
MAX_METADATA_VALUE_BYTES = 4096

_BEARER = "Bearer "  # compared with its case, as the other implementations do
_NAME_PATTERN = r"^[a-zA-Z][a-zA-Z0-9_.\-]*$"
_NAME = re.compile(_NAME_PATTERN.removesuffix("$") + r"\Z")
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(-[a-zA-Z0-9.\-]+)?\Z")


def bearer_token(authorization: str) -> str | None:
    """Return the token of an Authorization header, None for one that has none."""
    return authorization[len(_BEARER) :] if authorization.startswith(_BEARER) else None


def bearer(token: str) -> str:
    """Return the Authorization header of a token."""
    return f"{_BEARER}{token}"


def token_digest(token: str) -> bytes:
    """Return what a host keeps of a runtime token: 32 bytes that open nothing."""
    return hashlib.sha256(token.encode()).digest()


def parse_service_types(text: str) -> tuple[str, ...]:
    """Return the service types of a list with commas between; none of an empty one. Raises: InvalidError."""
    types = tuple(text.split(",")) if text else ()
    if len(types) > MAX_DECLARED_TYPES:
        raise InvalidError(f"too many service types: {len(types)} (max: {MAX_DECLARED_TYPES})")
    for service_type in types:
        validate_service_type(service_type)
    return types


class InvalidError(CpgTrioError, ValueError):
    """A value that breaks a rule of the protocol; the message says which. The sender's fault."""


def validate_self_id(self_id: str) -> None:
    """Check a plugin's name for itself. Raises: InvalidError."""
    _validate_name(self_id, "self_id")


def validate_service_type(service_type: str) -> None:
    """Check a service type. Raises: InvalidError."""
    if len(service_type) <= MAX_NAME_BYTES and _NAME.match(service_type) and ".." not in service_type:
        return  # its characters are bytes each
    _validate_name(service_type, "service type")
    if ".." in service_type:
        raise InvalidError(f"service type contains path traversal characters: {service_type}")


def validate_socket(name: str) -> None:
    """Check the name of a Unix socket in a directory. Raises: InvalidError."""
    _validate_name(name, "socket name")


def validate_version(version: str) -> None:
    """Check a version: three numbers and an optional pre-release. Raises: InvalidError."""
    if not version:
        raise InvalidError("version cannot be empty")
    _validate_length(version, "version", MAX_VERSION_BYTES)
    if not _VERSION.match(version):
        raise InvalidError(f"version {quote(version)} must be semantic version (e.g., 1.0.0, 2.1.3-beta)")


def validate_endpoint_path(path: str) -> None:
    """Check the path that a service is at on its plugin. Raises: InvalidError."""
    if not path:
        raise InvalidError("endpoint path cannot be empty")
    if not path.startswith("/"):
        raise InvalidError(f"endpoint path must start with /: {path}")
    _validate_length(path, "endpoint path", MAX_PATH_BYTES)
    if "\0" in path:
        raise InvalidError("endpoint path contains null bytes")


def validate_metadata(metadata: Mapping[str, str]) -> None:
    """Check what a registration says about itself. Raises: InvalidError."""
    if len(metadata) > MAX_METADATA_ENTRIES:
        raise InvalidError(f"too many metadata entries: {len(metadata)} (max: {MAX_METADATA_ENTRIES})")
    for key, value in metadata.items():
        _validate_metadata_entry(key, value)


def validate_handshake(
    self_version: str, requested_plugins: Sequence[str], client_metadata: Mapping[str, str]
) -> None:
    """Check what a handshake says beside who shakes hands; a version may be empty. Raises: InvalidError."""
    if self_version:
        validate_version(self_version)
    if len(requested_plugins) > MAX_REQUESTED_PLUGINS:
        most = MAX_REQUESTED_PLUGINS
        raise InvalidError(f"too many requested plugins: {len(requested_plugins)} (max: {most})")
    for name in requested_plugins:
        _validate_length(name, "requested plugin", MAX_NAME_BYTES)
    validate_metadata(client_metadata)


def validate_registration(
    service_type: str, version: str, endpoint_path: str, metadata: Mapping[str, str]
) -> None:
    """Check a registration, in the order in which the protocol's implementations do. Raises: InvalidError."""
    validate_service_type(service_type)
    validate_version(version)
    validate_endpoint_path(endpoint_path)
    validate_metadata(metadata)


def _validate_name(name: str, what: str) -> None:
    if not name:
        raise InvalidError(f"{what} cannot be empty")
    _validate_length(name, what, MAX_NAME_BYTES)
    _validate_characters(name, what)


def _validate_metadata_entry(key: str, value: str) -> None:
    if not key:
        raise InvalidError("metadata key cannot be empty")
    _validate_length(key, "metadata key", MAX_METADATA_KEY_BYTES)
    _validate_characters(key, "metadata key")
    _validate_length(value, f"metadata value for key {quote(key)}", MAX_METADATA_VALUE_BYTES)
    if "\0" in value:
        raise InvalidError("metadata contains null bytes (potential injection)")


def _validate_length(text: str, what: str, most: int) -> None:
    if (length := len(text.encode())) > most:
        raise InvalidError(f"{what} too long: {length} bytes (max: {most})")


def _validate_characters(text: str, what: str) -> None:
    if not _NAME.match(text):
        raise InvalidError(f"{what} {quote(text)} contains invalid characters (must match: {_NAME_PATTERN})")


def quote(text: str) -> str:
    """Quote a value as the protocol's messages do: in double quotes, with control characters escaped."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in escaped) + '"'
