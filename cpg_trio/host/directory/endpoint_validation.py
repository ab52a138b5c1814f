"""Where plugins may have the host send traffic: to themselves.

A plugin says at which URL the host finds it, and the host then sends other plugins' calls there. Unchecked,
that would let any plugin aim the host at whatever the host can reach and the plugin cannot.

A name is looked up here, once, and never for a call: where the host connects is the address that was found.
So a name server that is slow, or a stranger's, holds up the registration that names it, and no call.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from enum import Enum

import trio

from cpg_trio import wire
from cpg_trio._addresses import Address, address_key, is_loopback, parse_address
from cpg_trio.host.access.identity import Identity
from cpg_trio.host.access.refusal import RefusedError
from cpg_trio.host.directory.own_addresses import is_own
from cpg_trio.host.directory.registration import same_host
from cpg_trio.http import LookUpError, Origin, Resolver
from cpg_trio.rpc import Code, ConnectError

_RESOLVE_S = 3.0
_NAME_S = 1  # after which a name may lead elsewhere
_LOOK_UPS_OF_A_PLUGIN = 2  # at once; the others wait
_LOOK_UPS_OF_AN_ADDRESS = 8  # of all plugins there, which is half of what there are


class BaseUrls(Enum):
    """Which base URLs a plugin may register."""

    CALLER = "caller"
    """Those whose name is the address that the plugin's handshake came from. Of a plugin on the host's own
    machine, which came from loopback or through the host's Unix socket, those at an address of this
    machine."""
    ANY = "any"
    """All. For networks where plugins call from another address than they listen on."""


class EndpointValidator:
    """Checks the URLs that plugins register, by a policy."""

    def __init__(self, policy: BaseUrls) -> None:
        self._policy = policy
        self._resolver = Resolver()

    async def check_base_url(self, base_url: str, caller: Identity, key: str = wire.BASE_URL_KEY) -> str:
        """Check a base URL that a plugin wants to register.

        Return the address that was found for its name, to connect to, or an empty string if it has no name to
        look up. What is no URL at all passes: it leads nowhere. `key` is what the errors call it.
        Raises: ConnectError `permission_denied` for a URL that is not the plugin's own, with the time after
        which to try again if it may become that; `unavailable` for a name that cannot be looked up.
        """
        if not base_url:
            return ""
        try:
            origin, _ = Origin.parse(base_url)
        except ValueError:
            return ""
        found = await resolve(self._resolver, origin, key, _shares(caller))
        good = [address for address in found if self._may_be_at(caller, address)]
        if not good:
            raise _not_its_own(key, base_url, origin, caller)
        if origin.host == "localhost" or parse_address(origin.host):
            return ""
        return str(_best(good, caller))

    def _may_be_at(self, caller: Identity, address: Address) -> bool:
        if self._policy is BaseUrls.ANY:
            return True
        is_local = not caller.address or is_loopback(caller.address)
        return address == parse_address(caller.address) or (is_local and is_own(address))

    async def check_control_url(self, control_url: str, base_url: str, caller: Identity) -> None:
        """Check where a plugin wants its host's own calls: at the name of its base URL, or at an address.

        Raises: ConnectError `invalid_argument` for what is neither, and as `check_base_url`.
        """
        try:
            Origin.parse(control_url)
        except ValueError as error:
            raise ConnectError(Code.INVALID_ARGUMENT, f"{wire.CONTROL_URL_KEY} is none: {error}") from error
        named = await self.check_base_url(control_url, caller, wire.CONTROL_URL_KEY)
        if named and not same_host(control_url, base_url):
            raise ConnectError(
                Code.INVALID_ARGUMENT,
                f"{wire.CONTROL_URL_KEY} {control_url} must be at an address, or at the name of the base_url",
            )


def _not_its_own(key: str, base_url: str, origin: Origin, caller: Identity) -> RefusedError:
    why = (
        f"{key} {base_url} is not at the address that this plugin's handshake came from:"
        f" {caller.address or 'this machine'} (a host with BASE_URLS=any takes any)"
    )
    retry_after_s = 0 if parse_address(origin.host) else _NAME_S  # a name may lead there soon
    return RefusedError(Code.PERMISSION_DENIED, why, retry_after_s=retry_after_s)


def _shares(caller: Identity) -> Mapping[str, int]:
    """Return which look-ups count together: those of a plugin, and those of all plugins at its address."""
    return {
        f"plugin {caller.runtime_id}": _LOOK_UPS_OF_A_PLUGIN,
        address_key(caller.address): _LOOK_UPS_OF_AN_ADDRESS,
    }


def _best(found: list[Address], caller: Identity) -> Address:
    """Return where to connect: where the plugin came from, or else the first IPv4 address.

    What listens for all IPv6 connections usually takes those of IPv4 as well, but not the other way round.
    """
    if (came_from := parse_address(caller.address)) in found and came_from is not None:
        return came_from
    return next((address for address in found if isinstance(address, ipaddress.IPv4Address)), found[0])


async def resolve(
    resolver: Resolver, origin: Origin, key: str, shares: Mapping[str, int] | None = None
) -> list[Address]:
    """Return the addresses of an origin's name.

    Raises: ConnectError `unavailable`, in which `key` is what the name is of.
    """
    why = f"the name {origin.host} of {key} cannot be resolved"
    try:
        with trio.fail_after(_RESOLVE_S):
            found = await resolver.addresses(origin.host, origin.port, shares)
    except (LookUpError, trio.TooSlowError) as error:
        raise ConnectError(Code.UNAVAILABLE, why) from error
    return [address for text in found if (address := parse_address(text)) is not None]
