"""Where plugins may have the host send traffic: to themselves.

A plugin says at which URL the host finds it, and the host then sends other plugins' calls there. Unchecked,
that would let any plugin aim the host at whatever the host can reach and the plugin cannot.
"""

from __future__ import annotations

import socket
from enum import Enum

import trio

from cpg_trio import wire
from cpg_trio.http1 import Origin
from cpg_trio.rpc import Code, ConnectError

from .charging import TryAgainError
from .own_addresses import is_own
from .peers import Address, parse_address
from .registry import same_host

_RESOLVE_S = 3.0
_NAME_S = 1  # after which a name may lead elsewhere


class BaseUrls(Enum):
    """Which base URLs a plugin may register."""

    CALLER = "caller"
    """Those whose name is the address that the plugin's handshake came from. Of a plugin on the host's own
    machine, which came from loopback or through the host's Unix socket, those at an address of this
    machine."""
    ANY = "any"
    """All. For networks where plugins call from another address than they listen on."""


async def check_base_url(
    base_url: str, handshake_address: str, policy: BaseUrls, key: str = wire.BASE_URL_KEY
) -> str:
    """Check a base URL that a plugin wants to register; its handshake came from `handshake_address`.

    That is an address without a port, empty for the host's Unix socket. Return the address that the URL was
    checked for, to connect to, or an empty string if it may lead anywhere. What is no URL at all passes: it
    leads nowhere. Raises: ConnectError `permission_denied` for a URL that is not the plugin's own,
    with the time after which to try again if it may become that;
    `unavailable` for a name that cannot be resolved, or not yet. `key` is what the errors call it.
    """
    if policy is BaseUrls.ANY or not base_url:
        return ""
    try:
        origin, _ = Origin.parse(base_url)
    except ValueError:
        return ""
    caller = parse_address(handshake_address)
    is_local = not handshake_address or (caller is not None and caller.is_loopback)
    found = await resolve(origin.host, origin.port, key)
    good = [address for address in found if address == caller or (is_local and is_own(address))]
    if not good:
        why = (
            f"{key} {base_url} is not at the address that this plugin's handshake came from:"
            f" {handshake_address or 'this machine'} (a host with BASE_URLS=any takes any)"
        )
        if parse_address(origin.host):
            raise ConnectError(Code.PERMISSION_DENIED, why)
        raise TryAgainError(Code.PERMISSION_DENIED, why, _NAME_S)  # a name may lead there soon
    # What tells the host where to go is not the plugin's, so it needs no second look when that is done.
    return "" if origin.host == "localhost" or parse_address(origin.host) else str(good[0])


async def check_control_url(
    control_url: str, base_url: str, handshake_address: str, policy: BaseUrls
) -> None:
    """Check where a plugin wants its host's own calls: at the name of its base URL, or at an address.

    Raises: ConnectError `invalid_argument` for what is neither, and as `check_base_url`.
    """
    try:
        Origin.parse(control_url)
    except ValueError as error:
        raise ConnectError(Code.INVALID_ARGUMENT, f"{wire.CONTROL_URL_KEY} is none: {error}") from error
    checked_name = await check_base_url(control_url, handshake_address, policy, wire.CONTROL_URL_KEY)
    if checked_name and not same_host(control_url, base_url):
        raise ConnectError(
            Code.INVALID_ARGUMENT,
            f"{wire.CONTROL_URL_KEY} {control_url} must be at an address, or at the name of the base_url",
        )


async def resolve(host: str, port: int, key: str) -> list[Address]:
    """Return the addresses of a name. Raises: ConnectError `unavailable`, in which `key` is what it is of."""
    try:
        with trio.fail_after(_RESOLVE_S):
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, trio.TooSlowError) as error:
        raise ConnectError(Code.UNAVAILABLE, f"the name {host} of {key} cannot be resolved") from error
    return [address for *_, sockaddr in found if (address := parse_address(str(sockaddr[0]))) is not None]
