"""Who provides a service to a plugin, as its host has said."""

from __future__ import annotations

from functools import cached_property

import attrs

from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.plugin._session import Session


@attrs.frozen
class Provider:
    """Who provides a dependency now."""

    runtime_id: str
    version: str
    degraded: bool
    session: Session = attrs.field(repr=False)
    endpoint_url: str

    @cached_property
    def base_url(self) -> str:
        """Where the host takes calls to it."""
        return f"{self.session.host_url}{self.endpoint_url}"

    @classmethod
    def at(cls, session: Session, endpoint: pb.ServiceEndpoint, *, degraded: bool) -> Provider:
        """Return the provider that a host tells of in a session."""
        return cls(endpoint.provider_id, endpoint.version, degraded, session, endpoint.endpoint_url)
