"""Which addresses are this machine's, whatever its settings say of sockets."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from cpg_trio.host.directory.own_addresses import is_own
from tests.namespaces import in_namespace

NETWORK = [
    "ip link set lo up",
    "ip link add first type veth peer name second",
    "ip address add 10.9.8.7/24 dev first",
    "ip address add 10.9.8.6/24 dev first",
    "ip address add 198.51.100.7/32 dev lo",
    "ip address add fd00:1::7/64 dev first nodad",
    "ip link set first up",
    "ip link set second up",
    "ip route add default via 10.9.8.1",
]
ANY_BIND = ["sysctl -qw net.ipv4.ip_nonlocal_bind=1", "sysctl -qw net.ipv6.ip_nonlocal_bind=1"]
OWN = ["127.0.0.1", "127.1.2.3", "::1", "10.9.8.7", "10.9.8.6", "198.51.100.7", "fd00:1::7"]
NOT_OWN = ["10.9.8.1", "10.9.8.255", "169.254.169.254", "192.0.2.1", "0.0.0.0", "224.0.0.1"]
NOT_OWN_6 = ["fd00:1::8", "2001:db8::1", "::", "ff02::1"]


@pytest.mark.parametrize("settings", [[], ANY_BIND], ids=["as-usual", "nonlocal-bind"])
def test_what_is_an_own_address_no_setting_of_the_kernel_changes(settings: list[str]) -> None:
    everything = [*OWN, *NOT_OWN, *NOT_OWN_6]
    own = in_namespace(NETWORK + settings, lambda: [a for a in everything if is_own(ip_address(a))])
    assert own == OWN


def test_where_nothing_can_be_asked_no_address_is_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("cpg_trio.host.directory.own_addresses.socket.socket", refuse)
    assert not is_own(ip_address("192.0.2.1"))
    assert is_own(ip_address("127.0.0.1"))
