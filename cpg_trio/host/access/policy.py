"""What plugins may do: the policy file, and the rules without one.

    # plugins that do not declare what they provide and require: those in other languages
    undeclared = "allow"

    [plugins.storage-plugin]
    provides = ["storage"]             # instead of what it declares itself
    calls = ["logger"]
    direct = ["logger"]                # what it may call without the host in between
    capabilities = ["logger"]          # of the host
    certificate = "spiffe://example.org/storage"

    [services.storage]
    providers = ["storage-plugin", "storage2-plugin"]

Without an entry a plugin may do what it has declared in its handshake. With an entry it may do what stands
there. A service without an entry belongs to the first plugin name that provides it, for as long as a plugin
of that name does. A service with an entry belongs to the names in it.

A file without a rule is refused, since somebody may be writing it. `rules = "none"` is a file without rules.

Plain state; reads one file, again when it changes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import attrs

from cpg_trio import wire
from cpg_trio._bounded import BoundedCache
from cpg_trio._reload import Reloaded, ReloadedFiles
from cpg_trio.host.access.identity import Identity
from cpg_trio.host.access.peers import Peer

_R = TypeVar("_R", bound=attrs.AttrsInstance)

_ALLOW, _DENY = "allow", "deny"
_NO_RULES_MEANT = {"rules": "none"}
_MAX_DECISIONS = 10_000
_MAX_BYTES = 4 * 1024 * 1024
_DECISION_BYTES = 200  # that a decision takes, beside its texts


# ValueErrors throughout, also for wrong types: they are about the text of a file.
def _check_names(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{attribute.name} has to be a list of names")


def _check_name(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{attribute.name} has to be a name")


def _check_undeclared(_: object, __: object, value: object) -> None:
    if value not in (_ALLOW, _DENY):
        raise ValueError(f"undeclared has to be {_ALLOW!r} or {_DENY!r}")


_NAMES = attrs.validators.optional(_check_names)


@attrs.frozen(kw_only=True)
class PluginRules:
    """What plugins of one name may do. None: what they declare."""

    provides: list[str] | None = attrs.field(default=None, validator=_NAMES)
    calls: list[str] | None = attrs.field(default=None, validator=_NAMES)
    direct: list[str] | None = attrs.field(default=None, validator=_NAMES)
    """None: all that it may call."""
    capabilities: list[str] | None = attrs.field(default=None, validator=_NAMES)
    """None: all capabilities of the host."""
    certificate: str | None = attrs.field(default=None, validator=attrs.validators.optional(_check_name))
    """A name that its certificate must have; None: the rule of `why_not_certified`."""


_NO_RULES = PluginRules()


@attrs.frozen(kw_only=True)
class ServiceRules:
    """The plugin names that may provide a service, also at the same time."""

    providers: list[str] = attrs.field(validator=_check_names)


@attrs.frozen(kw_only=True)
class Rules:
    """The content of a policy file."""

    undeclared: str = attrs.field(default=_ALLOW, validator=_check_undeclared)
    """Whether plugins that declare nothing may provide and call everything (`allow`) or nothing."""
    plugins: Mapping[str, PluginRules] = attrs.field(factory=dict)
    services: Mapping[str, ServiceRules] = attrs.field(factory=dict)


class Policy:
    """Decides what plugins may do. Subclass it to decide in another way."""

    def __init__(self, rules: Rules | Reloaded[Rules] | None = None) -> None:
        self._rules = rules or Rules()

    @classmethod
    def from_file(cls, path: Path) -> Policy:
        """Return the policy of a file. Raises: OSError or ValueError for one that cannot be used."""
        return cls(Reloaded([path], partial(read_rules, path)))

    @property
    def file(self) -> ReloadedFiles | None:
        """The file that has the rules, if one has."""
        return self._rules if isinstance(self._rules, Reloaded) else None

    @property
    def rules(self) -> Rules:
        """The rules that hold now. Another object when they have changed."""
        return self._rules.value if isinstance(self._rules, Reloaded) else self._rules

    @cached_property
    def decides_by_rules(self) -> bool:
        """Whether the rules alone decide about calls. If not, `may_call` is asked for each call."""
        own = type(self)
        return (own.may_call, own.why_not_certified) == (Policy.may_call, Policy.why_not_certified)

    def may_provide(self, plugin: Identity, service_type: str, /) -> bool:
        """Whether a plugin may provide a service; see `may_join` if others provide it already."""
        service = self.rules.services.get(service_type)
        if service is not None and plugin.self_id not in service.providers:
            return False
        return self._among(service_type, self._of(plugin).provides, plugin.provides)

    def may_join(self, plugin: Identity, service_type: str, holders: Iterable[str], /) -> bool:
        """Whether a plugin may provide a service that plugins of these names provide already."""
        service = self.rules.services.get(service_type)
        return service is not None or all(holder == plugin.self_id for holder in holders)

    def may_call(self, plugin: Identity, service_type: str, /) -> bool:
        """Whether a plugin may call the providers of a service, and learn who they are."""
        return self._among(service_type, self._of(plugin).calls, plugin.requires)

    def may_call_directly(self, plugin: Identity, service_type: str, /) -> bool:
        """Whether a plugin may call the providers of a service without the host in between."""
        direct = self._of(plugin).direct
        return self.may_call(plugin, service_type) and (direct is None or service_type in direct)

    def may_use(self, plugin: Identity, capability_type: str, /) -> bool:
        """Whether a plugin may use a capability of the host."""
        capabilities = self._of(plugin).capabilities
        return capabilities is None or capability_type in capabilities

    def why_not_certified(self, peer: Peer, self_id: str, /) -> str:
        """Return why a peer cannot be a plugin, by its certificate; empty if it can.

        A peer without a certificate can be any plugin that needs none. There are no certificates at a Unix
        socket: only those have access to it whom the operator has given its directory. A certificate is a
        plugin's if the plugin's name is the last part of the path of a SPIFFE id in it (https://spiffe.io,
        `spiffe://trust-domain/path`), or a DNS name in it, or the first label of one.
        """
        rules = self.rules.plugins.get(self_id)
        needed = rules.certificate if rules else None
        if not peer.address or (needed is None and not peer.names):
            return ""
        if needed is None:
            good = any(_stands_for(name, self_id) for name in peer.names)
        else:
            good = needed in peer.names
        return "" if good else f"its certificate is not that of {self_id}"

    def _of(self, plugin: Identity) -> PluginRules:
        return self.rules.plugins.get(plugin.self_id, _NO_RULES)

    def _among(self, what: str, ruled: Iterable[str] | None, declared: Iterable[str] | None) -> bool:
        if ruled is not None:
            return what in ruled
        if declared is not None:
            return what in declared
        return self.rules.undeclared == _ALLOW


class Permitted(BoundedCache[tuple[str, ...], None]):
    """Decisions to permit something, for as long as the rules hold. Each is the texts that identify it."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(_MAX_DECISIONS, _MAX_BYTES)
        self._policy = policy
        self._rules = policy.rules

    def __contains__(self, decision: object) -> bool:
        if self._rules is not (rules := self._policy.rules):
            self._rules = rules
            self.clear()
        return super().__contains__(decision)

    def add(self, decision: tuple[str, ...]) -> None:
        self.keep(decision, None, sum(map(len, decision)) + _DECISION_BYTES)


def _stands_for(name: str, self_id: str) -> bool:
    if name.startswith("spiffe://"):
        return name.count("/") > 2 and name.rpartition("/")[2] == self_id  # noqa: PLR2004 - there is a path
    return self_id in (name, name.partition(".")[0])


def read_rules(path: Path) -> Rules:
    """Return the rules of a policy file. Raises: OSError; ValueError that tells what is wrong in it."""
    with path.open("rb") as file:
        try:
            content = tomllib.load(file)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
    if content == _NO_RULES_MEANT:
        return Rules()
    _check_has_rules(content)
    plugins, services = (_tables(content.pop(name, {}), name) for name in ("plugins", "services"))
    for self_id in plugins:
        wire.validate_self_id(self_id)
    for service_type in services:
        wire.validate_service_type(service_type)
    return _made(
        Rules,
        {
            "plugins": {n: _made(PluginRules, rules, f"[plugins.{n}]") for n, rules in plugins.items()},
            "services": {n: _made(ServiceRules, rules, f"[services.{n}]") for n, rules in services.items()},
            **content,
        },
        "the file",
    )


def _check_has_rules(content: Mapping[str, Any]) -> None:
    """Refuse a file that is empty, and one that has rules and says that it has none. Raises: ValueError."""
    if not content:
        raise ValueError('it has no rules; if that is meant, write: rules = "none"')
    if "rules" in content:
        raise ValueError('rules may only be "none", and then nothing else may be in the file')


def _tables(content: Any, name: str) -> dict[str, dict[str, Any]]:
    if not isinstance(content, dict) or not all(isinstance(table, dict) for table in content.values()):
        raise ValueError(f"{name} has to be tables, as in [{name}.storage]")
    return content


def _made(kind: type[_R], content: Mapping[str, Any], where: str) -> _R:
    """Return rules of a kind. Raises: ValueError that tells what is wrong, and where in the file."""
    known = {field.name: field for field in attrs.fields(kind)}
    if unknown := content.keys() - known.keys():
        raise ValueError(f"{where} says {', '.join(sorted(unknown))}, and may say {', '.join(known)}")
    if missing := {name for name, field in known.items() if field.default is attrs.NOTHING} - content.keys():
        raise ValueError(f"{where} does not say {', '.join(missing)}")
    try:
        return kind(**content)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
