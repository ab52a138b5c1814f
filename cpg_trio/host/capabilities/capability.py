"""Capabilities: services that a host itself offers. Plugins ask the broker for a grant of one."""

from __future__ import annotations

from typing import Self

import attrs

from cpg_trio import wire
from cpg_trio.asgi import App
from cpg_trio.host.access import room_for_messages
from cpg_trio.rpc import Service, application


@attrs.frozen
class Capability:
    """A service of the host. Raises: wire.InvalidError for an invalid type or version.

    The application gets each call at the path behind the grant's, `/package.Service/Method`, with the caller
    in `scope["state"]["caller"]`: methods have it as `Context.caller`. Calls may run at the same time, and
    may call the host.
    """

    type: str = attrs.field(validator=lambda _, __, name: wire.validate_service_type(name))
    version: str = attrs.field(validator=lambda _, __, version: wire.validate_version(version))
    application: App = attrs.field(repr=False)

    @classmethod
    def of(cls, capability_type: str, version: str, *services: Service) -> Self:
        """Return a capability of RPC services."""
        return cls(capability_type, version, application(services, room=room_for_messages()))
