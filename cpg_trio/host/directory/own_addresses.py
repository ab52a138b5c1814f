"""Which addresses are this machine's own. Reads the routing table of the kernel, and changes nothing."""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys

from cpg_trio._addresses import Address

# rtnetlink(7): one question, about the route to one address.
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, length of the destination, ..., type of the route, flags
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_GET_ROUTE, _NEW_ROUTE = 26, 24  # types of messages
_REQUEST = 1  # a flag of messages
_DESTINATION = 1  # a type of attributes
_LOCAL = 2  # a type of routes: to this machine
_TYPE_AT = _HEADER.size + 7
_ANSWER_BYTES = 4096


def is_own(address: Address) -> bool:
    """Whether an address is one of this machine.

    It is if the kernel's route to it is local. Two other ways fail: a socket can be bound to any address
    where `net.ipv4.ip_nonlocal_bind` allows that, and a connected socket does not show the second address of
    an interface. False if the kernel cannot be asked.
    """
    if address.is_loopback:
        return True
    if address.is_unspecified or address.is_multicast:
        return False
    return _has_local_route(address) if sys.platform == "linux" else _can_bind(address)


def _has_local_route(address: Address) -> bool:
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address.packed), _DESTINATION) + address.packed
    route = _ROUTE.pack(_family(address), address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + attribute
    question = _HEADER.pack(_HEADER.size + len(route), _GET_ROUTE, _REQUEST, 1, 0) + route
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
            kernel.sendto(question, (0, 0))
            answer = kernel.recv(_ANSWER_BYTES)  # which is there when the question has been sent
    except OSError:
        return False
    _, kind, *_ = _HEADER.unpack_from(answer)
    return kind == _NEW_ROUTE and answer[_TYPE_AT] == _LOCAL


def _can_bind(address: Address) -> bool:
    """Whether a socket can be bound to an address: other systems allow no foreign one."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((str(address), 0))
        except OSError:
            return False
    return True


def _family(address: Address) -> int:
    return socket.AF_INET if isinstance(address, ipaddress.IPv4Address) else socket.AF_INET6
