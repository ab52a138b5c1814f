"""What is kept of plugins in a store, as JSON: pure functions.

    plugins/{runtime_id}             a document: who owns the plugin, its identity, what it has registered
    services/{type}/{runtime_id}     the plugin's own name; in a store that hosts share
    ended/{runtime_id}               an identity that has ended
    drained/{runtime_id}             why a plugin gets no calls; in a store that hosts share
    not_before                       see `Identities`

Hosts of several releases may have one store: a field that is not known is ignored, and one that is not there
has a default. Times are in seconds since 1970.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import attrs

from cpg_trio import wire
from cpg_trio._health_states import health_number, health_state
from cpg_trio.host.access import Ended, Identity
from cpg_trio.host.directory.registration import Health, Registration

_T = TypeVar("_T")

PLUGINS, SERVICES, ENDED, DRAINED = "plugins/", "services/", "ended/", "drained/"
NOT_BEFORE = "not_before"


class Seals(Protocol):
    """Keeps what is secret from those who can read a store; see `store.Sealer`."""

    @property
    def key_id(self) -> str:
        """The id of the key that seals now."""

    def seal(self, entry_key: str, data: bytes, /) -> str:
        """Return some data as a text, for the entry of a key."""

    def unseal(self, entry_key: str, text: str, /) -> bytes:
        """Return the data of a text. Raises: ValueError or StoreError."""


class Unsealed:
    """Seals nothing: for a store that nobody else reads."""

    key_id = ""

    def seal(self, _: str, data: bytes) -> str:
        """See `Seals`."""
        return data.hex()

    def unseal(self, _: str, text: str) -> bytes:
        """See `Seals`."""
        return bytes.fromhex(text)


@attrs.frozen(kw_only=True)
class Document:
    """All that is kept of one plugin."""

    owner: str = ""
    """The id of the host that owns it; empty in a store that hosts do not share."""
    identity: Identity
    digest: bytes = attrs.field(repr=False)
    """Of its token; see `Entry` of the identities."""
    expires_at: float
    saved_at: float
    registrations: tuple[Registration, ...] = ()
    health: Health | None = None
    """What it last reported; None if it has reported nothing, and in a store that hosts do not share."""
    lapsed: str = ""
    """Why it is not believed to be alive, likewise; empty if it is."""


def plugin_key(runtime_id: str) -> str:
    """Return the key of a plugin's document."""
    return PLUGINS + runtime_id


def service_key(service_type: str, runtime_id: str) -> str:
    """Return the key that says that a plugin provides a service."""
    return f"{SERVICES}{service_type}/{runtime_id}"


def ended_key(runtime_id: str) -> str:
    """Return the key of an identity that has ended."""
    return ENDED + runtime_id


def drained_key(runtime_id: str) -> str:
    """Return the key of the drain of a plugin."""
    return DRAINED + runtime_id


def runtime_id_of(key: str) -> str:
    """Return whose key of one of these it is."""
    return key.split("/", 2 if key.startswith(SERVICES) else 1)[-1]


def encode(document: Document, sealed_digest: str) -> bytes:
    """Return the value of a plugin's entry; its digest has been sealed for that entry."""
    identity = document.identity
    return _dumped(
        {
            "owner": document.owner,
            "self_id": identity.self_id,
            "provides": identity.provides,
            "requires": identity.requires,
            "address": identity.address,
            "answers": identity.answers,
            **({"uses": identity.uses} if identity.uses else {}),
            "digest": sealed_digest,
            "expires_at": document.expires_at,
            "saved_at": document.saved_at,
            "registrations": [_registration_fields(each) for each in document.registrations],
            **({"health": _health_fields(document.health)} if document.health is not None else {}),
            **({"lapsed": document.lapsed} if document.lapsed else {}),
        }
    )


def decode(runtime_id: str, value: bytes, seals: Seals) -> Document:
    """Return the document of a plugin. Raises: ValueError; what `seals` raises."""
    fields = _loaded(value)
    health = _field(fields, "health", dict, None)
    return Document(
        owner=_field(fields, "owner", str, ""),
        identity=Identity(
            runtime_id,
            _field(fields, "self_id", str, ""),
            _texts(fields, "provides"),
            _texts(fields, "requires"),
            _field(fields, "address", str, ""),
            _field(fields, "answers", bool, False),  # noqa: FBT003 - the default of a field
            _texts(fields, "uses") or (),
        ),
        digest=seals.unseal(plugin_key(runtime_id), _field(fields, "digest", str, "")),
        expires_at=_number(fields, "expires_at"),
        saved_at=_number(fields, "saved_at"),
        registrations=tuple(
            _registration(runtime_id, each) for each in _field(fields, "registrations", list, [])
        ),
        health=_health(health) if health is not None else None,
        lapsed=_field(fields, "lapsed", str, ""),
    )


def encode_ended(ended: Ended, until: float) -> bytes:
    """Return the value of the entry of an identity that has ended; `until` as of 1970."""
    return _dumped({"self_id": ended.self_id, "why": ended.why, "until": until})


def decode_ended(runtime_id: str, value: bytes) -> Ended:
    """Return an identity that has ended, whose `until` is as of 1970. Raises: ValueError."""
    fields = _loaded(value)
    self_id, why = _field(fields, "self_id", str, ""), _field(fields, "why", str, "")
    return Ended(runtime_id, self_id, why, _number(fields, "until"))


def encode_drained(why: str) -> bytes:
    """Return the value of the entry of a drain."""
    return _dumped({"why": why})


def decode_drained(value: bytes) -> str:
    """Return why a plugin is drained. Raises: ValueError."""
    return _field(_loaded(value), "why", str, "")


def encode_not_before(not_before: float) -> bytes:
    """Return the value of that entry."""
    return json.dumps(not_before).encode()


def decode_not_before(value: bytes) -> float:
    """Return the time of that entry. Raises: ValueError."""
    return _number({NOT_BEFORE: json.loads(value)}, NOT_BEFORE)


def _registration_fields(registration: Registration) -> Mapping[str, object]:
    return {
        "id": registration.id,
        "service_type": registration.service_type,
        "version": registration.version,
        "endpoint_path": registration.endpoint_path,
        "metadata": registration.metadata,
        "sequence": registration.sequence,
        "address": registration.address,
    }


def _registration(runtime_id: str, value: object) -> Registration:
    fields = _mapping(value)
    metadata: Mapping[str, Any] = _field(fields, "metadata", dict, {})
    return Registration(
        runtime_id=runtime_id,
        **{
            name: _field(fields, name, str, "") for name in ("id", "service_type", "version", "endpoint_path")
        },
        metadata={name: _field(metadata, name, str, "") for name in metadata},
        sequence=_field(fields, "sequence", int, 0),
        addresses=(_field(fields, "address", str, ""),),
    )


def _health_fields(health: Health) -> Mapping[str, object]:
    return {**attrs.asdict(health), "state": health_number(health.state)}


def _health(fields: Mapping[str, Any]) -> Health:
    try:
        state = health_state(_field(fields, "state", int, 0))
    except wire.InvalidError:  # of a host of another version
        state = None
    return Health(
        state,
        _field(fields, "reason", str, ""),
        _texts(fields, "unavailable_dependencies") or (),
    )


def _dumped(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _loaded(value: bytes) -> Mapping[str, Any]:
    return _mapping(json.loads(value))


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - of a value that was read
    return value


def _field(
    fields: Mapping[str, Any], name: str, kind: type[Any] | tuple[type[Any], ...], default: _T
) -> _T | Any:
    """Return a field of one kind of JSON value; the default if it is not there, or null."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise ValueError(f"{name} is not what it should be: {str(value)!r:.40}")
    return value


def _number(fields: Mapping[str, Any], name: str) -> float:
    return float(_field(fields, name, (int, float), 0.0))


def _texts(fields: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    texts = _field(fields, name, list, None)
    if texts is None:
        return None
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} is not a list of texts")
    return tuple(texts)
