"""What a host itself offers its plugins: services of its own, for which they ask the broker."""

from __future__ import annotations

from typing import Self

import attrs

from cpg_trio import wire
from cpg_trio.asgi import App
from cpg_trio.host.access.memory import room_for_messages
from cpg_trio.rpc import Service, application


def _check_type(_: Capability, __: object, capability_type: str) -> None:
    wire.validate_service_type(capability_type)


def _check_version(_: Capability, __: object, version: str) -> None:
    wire.validate_version(version)


@attrs.frozen
class Capability:
    """Something that a host offers. Raises: wire.InvalidError for a type or version that is none.

    Its application gets each call at the path that follows the grant's, `/package.Service/Method`, and has
    who calls in `scope["state"]["caller"]`: methods see it as `Context.caller`. It may be called many times
    at once, and may call the host itself.
    """

    type: str = attrs.field(validator=_check_type)
    version: str = attrs.field(validator=_check_version)
    application: App = attrs.field(repr=False)

    @classmethod
    def of(cls, capability_type: str, version: str, *services: Service) -> Self:
        """Return a capability that is made of RPC services."""
        return cls(capability_type, version, application(services, room=room_for_messages()))
