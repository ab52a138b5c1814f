"""A capability: something that the plugin's host offers, as the author of the plugin sees it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from cpg_trio.plugin._used_capability import UsedCapability
from cpg_trio.rpc import ClientConfig, Interceptor, ServiceClient
from cpg_trio.rpc.given import check_client_class

_C = TypeVar("_C", bound=ServiceClient)


class Capability:
    """Something that the plugin's host offers. Made by `Plugin.capability`.

    It can be called once the plugin has registered. The grant is requested when it is first needed, kept, and
    renewed before it expires.
    """

    def __init__(self, used: UsedCapability) -> None:
        self._used = used

    @property
    def capability_type(self) -> str:
        """Which it is, such as `logger`."""
        return self._used.type

    @property
    def min_version(self) -> str:
        """The lowest version that will do; empty for any."""
        return self._used.min_version

    def client(
        self,
        client_class: type[_C],
        config: ClientConfig | None = None,
        *,
        interceptors: Iterable[Interceptor] = (),
    ) -> _C:
        """Return a typed client of the capability. Its calls pass the interceptors, the first one first.

        Its calls raise CallError `unavailable` while the plugin has no host, and the host's error if it gives
        no grant: `not_found` for what it does not offer, `permission_denied`.
        """
        check_client_class(client_class)
        return client_class("", self._used.http, config, interceptors=interceptors)
