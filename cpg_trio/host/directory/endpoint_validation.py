"""Checks the URLs that plugins register: a plugin may have the host send traffic only to itself.

The host sends the calls of other plugins to the URL that a plugin registers. Unchecked, any plugin could aim
the host at whatever the host can reach and the plugin cannot.

A name is looked up once, when it is registered, and never for a call: the host connects to the address that
was found. So a name server that is slow, or a stranger's, delays only the registration that names it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from enum import Enum

import trio

from cpg_trio import wire
from cpg_trio._addresses import Address, address_key, is_loopback, parse_address
from cpg_trio._lines import one_line
from cpg_trio.host.access import Identity, RefusedError
from cpg_trio.host.directory.address_proof import AddressProof
from cpg_trio.host.directory.local_plugins import LocalPlugin, is_local
from cpg_trio.host.directory.own_addresses import is_own
from cpg_trio.host.directory.registration import same_host
from cpg_trio.http import Origin, Resolver
from cpg_trio.http.client.resolver import LookUpError
from cpg_trio.rpc import Code, ConnectError

_RESOLVE_S = 3.0
_RETRY_AFTER_S = 1  # a name may lead elsewhere by then
_MAX_LOOKUPS_PER_PLUGIN = 2  # at once; more wait
_MAX_LOOKUPS_PER_ADDRESS = 8  # of all plugins there: half of the threads for look-ups
_MAX_ASKED = 8  # addresses of a name at which the host asks


class BaseUrls(Enum):
    """Which base URLs a plugin may register."""

    CALLER = "caller"
    """Those at the address that the plugin's handshake came from. A plugin on the host's own machine (its
    handshake came from loopback or through the host's Unix socket) may register any of its addresses."""
    PROVED = "proved"
    """Those, and others at which the plugin answers the host: for plugins that come through a balancer."""
    ANY = "any"
    """All: for networks where plugins call from another address than they listen on."""


class EndpointValidator:
    """Checks the URLs that plugins register, by a policy.

    `proof` asks at a URL which plugin is there. In a directory that is `shared` with other hosts, an address
    that means something on one machine only is refused, unless the policy takes any.
    """

    def __init__(self, policy: BaseUrls, proof: AddressProof | None = None, *, shared: bool = False) -> None:
        self._policy = policy
        self._proof = proof if policy is BaseUrls.PROVED else None
        self._shared = shared
        self._refuses_local = shared and policy is not BaseUrls.ANY
        self._resolver = Resolver()

    async def check(self, base_url: str, control_url: str, caller: Identity, local: object = None) -> str:
        """Check the URLs of a registration, of which either may be empty.

        `local` is the run of a plugin in this process that registers, if it is one (`LocalPlugin`).

        Return the address to connect to. Raises: as `check_base_url` and `check_control_url`.
        """
        if is_local(base_url) or is_local(control_url):
            self._check_local(base_url, control_url, local)
            return ""
        asked_at = control_url if same_host(control_url, base_url) else base_url
        address = await self.check_base_url(base_url, caller, asked_at=asked_at)
        if control_url:
            await self.check_control_url(control_url, base_url, caller)
        return address

    def _check_local(self, base_url: str, control_url: str, local: object) -> None:
        """Check the URL of a plugin in this process.

        Raises: RefusedError `permission_denied`; `unavailable` for one whose task is ending.
        """
        if not (isinstance(local, LocalPlugin) and local.owns(base_url) and control_url in ("", base_url)):
            why = f"{wire.BASE_URL_KEY} {one_line(base_url)} is that of a task, and not of this plugin"
            raise RefusedError(Code.PERMISSION_DENIED, why)
        if not local.serves(base_url):
            raise RefusedError(Code.UNAVAILABLE, "the task of this plugin has ended")
        if self._shared:
            why = (
                "this plugin runs as a task of its host, which no other host can call, and this host shares"
                " its directory with others: run the plugin as a process, or give it an address that"
                " they reach (port, and BIND and HOSTNAME among its variables)"
            )
            raise RefusedError(Code.PERMISSION_DENIED, why)

    async def check_base_url(
        self, base_url: str, caller: Identity, key: str = wire.BASE_URL_KEY, *, asked_at: str = ""
    ) -> str:
        """Check a base URL that a plugin wants to register.

        Return the address to connect to, which was found for the URL's name; empty if there is no name to
        look up. A text that is no URL passes, as nothing can be sent there. `key` is what the errors call the
        URL. `asked_at` is a URL of the same name at which the plugin answers the host, if not at this one.
        Raises: RefusedError `permission_denied` for a URL that is not the plugin's own, with the time after
        which to try again if that may change by itself; ConnectError `unavailable` for a name that cannot be
        looked up.
        """
        if not base_url:
            return ""
        try:
            origin, _ = Origin.parse(base_url)
        except ValueError:
            return ""
        shares = {
            f"plugin {caller.runtime_id}": _MAX_LOOKUPS_PER_PLUGIN,
            address_key(caller.address): _MAX_LOOKUPS_PER_ADDRESS,
        }
        found = await resolve(self._resolver, origin, key, shares)
        if self._refuses_local and not (found := [each for each in found if not _is_of_one_machine(each)]):
            raise _of_one_machine(key, base_url)
        good = [address for address in found if self._may_be_at(caller, address)]
        if not good and self._proof is not None:
            good = [await self._proved(self._proof, key, asked_at or base_url, found, caller)]
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

    async def _proved(
        self, proof: AddressProof, key: str, url: str, found: list[Address], caller: Identity
    ) -> Address:
        """Return the address of a URL at which a plugin answers. Raises: RefusedError `permission_denied`."""
        address, why_not = await proof.find(caller, url, found[:_MAX_ASKED])
        if address is None:
            why = (
                f"{key} {url} is not at the address that this plugin's handshake came from, and the plugin"
                f" has not answered this host there ({why_not}): let it answer GetPluginInfo with its"
                " runtime_id there, or have the host take any base_url (BASE_URLS=any)"
            )
            raise RefusedError(Code.PERMISSION_DENIED, why, retry_after_s=_RETRY_AFTER_S)
        return address

    async def check_control_url(self, control_url: str, base_url: str, caller: Identity) -> None:
        """Check the URL at which a plugin wants the host's own calls.

        It has to have the name of the base URL, or an address. Raises: ConnectError `invalid_argument` for
        another one, and as `check_base_url`.
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


def _is_of_one_machine(address: Address) -> bool:
    return address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast


def _of_one_machine(key: str, base_url: str) -> RefusedError:
    return RefusedError(
        Code.PERMISSION_DENIED,
        f"{key} {base_url} is an address that only one machine reaches, and this host shares its directory"
        " with others: the plugin has to listen at an address that all hosts reach (BIND, HOSTNAME), or all"
        " hosts are on this machine (BASE_URLS=any)",
    )


def _not_its_own(key: str, base_url: str, origin: Origin, caller: Identity) -> RefusedError:
    why = (
        f"{key} {base_url} is not at the address that this plugin's handshake came from:"
        f" {caller.address or 'this machine'} (a host with BASE_URLS=proved asks there, and one with"
        " BASE_URLS=any takes any)"
    )
    retry_after_s = 0 if parse_address(origin.host) else _RETRY_AFTER_S
    return RefusedError(Code.PERMISSION_DENIED, why, retry_after_s=retry_after_s)


def _best(found: list[Address], caller: Identity) -> Address:
    """Return where to connect: the address that the plugin came from, or else the first IPv4 address.

    A server that listens on all IPv6 addresses usually accepts IPv4 as well, but not the other way round.
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
