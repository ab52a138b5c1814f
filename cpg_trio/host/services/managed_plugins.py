"""Managed plugins: the host calls a plugin first, which was started without a `HOST_URL`.

The host asks the plugin who it is, gives it an identity, and tells it its runtime id, its token and the
host's URL. From then on the plugin is like any other. Only the program that runs the host names such plugins.

Plugins of connect-plugin-go take the identity and do not come: their client makes no connection in this mode.
So the host registers for a plugin of another SDK what that says it provides, if it does not do so itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection

import attrs
import trio

from cpg_trio import wire
from cpg_trio.assertions import Purpose
from cpg_trio.host.access import (
    Action,
    Audit,
    Enrolment,
    Identities,
    Identity,
    LimitError,
    StartedRuns,
    TokenLifetimes,
)
from cpg_trio.host.directory import Proof, RegistrationPolicy, Registry, Saved, client_at, resolve
from cpg_trio.http import Origin, Pool
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import PluginIdentityClient
from cpg_trio.rpc import Code, ConnectError

_log = logging.getLogger("cpg_trio.host")

_CALL_S = 5.0
_ITSELF_S = 2.0  # for a plugin of another SDK to register by itself; those in Go would after 0.1 s


@attrs.frozen(kw_only=True)
class Adoption:
    """Gives an identity to a plugin that has not asked for one."""

    identities: Identities
    registry: Registry
    policy: RegistrationPolicy
    enrolment: Enrolment
    started: StartedRuns
    audit: Audit
    pool: Pool
    lifetimes: TokenLifetimes
    saved: Saved
    probe: Callable[[str], Awaitable[object]]
    """Asks a plugin how it is; called with its runtime id."""
    end: Callable[[str, str], object]
    """Ends an identity at once, with all that it has; called with its runtime id, and why."""
    token: str = attrs.field(default="", repr=False)
    """The enrolment token of a plugin that the host has started, by which it proves itself; else empty."""
    issued: Callable[[Identity], object] = lambda _: None
    """Told the identity that it gives, before the plugin knows it."""

    async def add(self, url: str, host_url: str, self_id: str) -> str:
        """Adopt the plugin at a URL. See `Host.add_plugin`."""
        origin, _ = _parsed(url)
        address = (await resolve(self.pool.resolver, origin, "the plugin's URL"))[0]
        # All calls go to the address that was looked up: from there the plugin may register.
        proof = self._proof(self_id)
        client = client_at(PluginIdentityClient, url, (str(address),), self.pool, proof)
        info = await client.get_plugin_info(pb.GetPluginInfoRequest(), timeout_s=_CALL_S)
        if self._proof(self_id) != proof:
            raise ConnectError(Code.ABORTED, f"the enrolment token of {self_id} has changed: try again")
        identity, token = self._issue(info, self_id, str(address))
        try:
            await self.saved(identity.runtime_id, lambda: None)  # first: its next call may reach another host
            await client.set_runtime_identity(
                pb.SetRuntimeIdentityRequest(
                    runtime_id=identity.runtime_id, runtime_token=token, host_url=host_url
                ),
                timeout_s=_CALL_S,
            )
            with trio.move_on_after(math.inf if identity.answers else _ITSELF_S):
                await self._registered(identity)
            await self._register_rest(identity, info, url, str(address))
        except BaseException:
            self.end(identity.runtime_id, "it was not taken into service")
            raise
        return identity.runtime_id

    def _proof(self, self_id: str) -> Proof | None:
        """Return how the host proves itself to a plugin that does not know it, None without enrolment.

        Raises: ConnectError.
        """
        digest = wire.token_digest(self.token) if self.token else self.enrolment.digest(self_id)
        if digest is not None:
            return Proof(digest, self_id, Purpose.ENROL)
        if self.enrolment.why_not(self_id, ""):
            name = self_id or "a plugin whose name is not given"
            raise ConnectError(Code.FAILED_PRECONDITION, f"this host has no enrolment token of {name}")
        return None

    def _issue(self, info: pb.GetPluginInfoResponse, self_id: str, address: str) -> tuple[Identity, str]:
        """Issue an identity for the plugin that has answered, and its token. Raises: ConnectError."""
        if self_id and info.self_id != self_id:
            raise ConnectError(
                Code.FAILED_PRECONDITION, f"there is another plugin: {info.self_id[: wire.MAX_NAME_BYTES]!r}"
            )
        try:
            wire.validate_self_id(info.self_id)
            provides = tuple(each.type for each in info.provides)
            requires = tuple(each.type for each in info.requires)
            uses = tuple(each.type for each in info.requires if not each.required_for_startup)
            for service_type in provides + requires:
                wire.validate_service_type(service_type)
        except wire.InvalidError as error:
            raise ConnectError(Code.FAILED_PRECONDITION, f"what answers there says: {error}") from error
        if why_not := self.started.why_not(info.self_id, self.token):
            self.audit.denied(Action.HANDSHAKE, info.self_id, reason=why_not, address=address)
            raise ConnectError(Code.PERMISSION_DENIED, f"{info.self_id} is not let in: {why_not}")
        renews = info.metadata.get(wire.RENEWS_KEY) == "true"
        identity, token = self.identities.issue(
            info.self_id,
            ttl_s=self.lifetimes.of(renews=renews),
            provides=provides,
            requires=requires,
            uses=uses,
            address=address,
            answers=renews,
        )
        self.issued(identity)
        self.audit.allowed(Action.HANDSHAKE, identity.runtime_id, info.self_id, address=address)
        _log.info("%s is %s", identity.self_id, identity.runtime_id)
        return identity, token

    async def _registered(self, identity: Identity) -> None:
        """Wait until a plugin has registered all that it provides."""
        changed = trio.Event()
        with self.registry.changes.added(lambda _: changed.set()):
            while self._missing(identity):
                await changed.wait()
                changed = trio.Event()

    def _missing(self, identity: Identity) -> Collection[str]:
        """Return what a plugin provides and has not registered. Raises: ConnectError if it has ended."""
        if self.identities.entry(identity.runtime_id) is None:
            raise ConnectError(Code.UNAVAILABLE, f"{identity.runtime_id} has not come")
        registered = {each.service_type for each in self.registry.registrations(identity.runtime_id)}
        return set(identity.provides or ()) - registered

    async def _register_rest(
        self, identity: Identity, info: pb.GetPluginInfoResponse, url: str, address: str
    ) -> None:
        """Register what a plugin provides and does not register. Raises: ConnectError."""
        runtime_id, missing = identity.runtime_id, self._missing(identity)
        for each in (declared for declared in info.provides if declared.type in missing):
            self.policy.check(identity, each.type)
            metadata, version = {wire.BASE_URL_KEY: url}, each.version or info.self_version
            try:
                self.registry.register(
                    runtime_id, each.type, version, each.path, metadata, addresses=(address,)
                )
            except (ValueError, LimitError) as error:
                raise ConnectError(Code.FAILED_PRECONDITION, f"{identity.self_id} says: {error}") from error
            self.audit.allowed(Action.REGISTER, runtime_id, each.type, reason="by the host, for the plugin")
            _log.info(
                "Registered service: %s v%s of %s, which has not done so itself",
                *(each.type, version, runtime_id),
            )
        if missing:
            await self.saved(runtime_id, lambda: None)
            await self.probe(runtime_id)
            self._missing(identity)


def _parsed(url: str) -> tuple[Origin, bytes]:
    try:
        return Origin.parse(url)
    except ValueError as error:
        raise ConnectError(Code.INVALID_ARGUMENT, f"the plugin's URL is none: {error}") from error
