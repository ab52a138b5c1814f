"""The other end of a connection, as the connection itself shows it."""

from __future__ import annotations

import pytest

from cpg_trio.host.access.peers import Peer


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (("192.0.2.7", 49152), "192.0.2.7"),
        (("2001:db8::1", 49152), "2001:db8::1"),
        (None, ""),
    ],
)
def test_an_rpc_comes_from_an_address_or_from_a_unix_socket(
    client: tuple[str, int] | None, address: str
) -> None:
    assert Peer.of(client, ("p.example",)) == Peer(address, ("p.example",))


def test_an_asgi_call_comes_from_its_client_with_the_names_of_its_certificate() -> None:
    scope = {"client": ("192.0.2.7", 5), "state": {"peer_names": ("p.example",)}}
    assert Peer.of_scope(scope) == Peer("192.0.2.7", ("p.example",))
    assert Peer.of_scope({"client": None}) == Peer()


def test_addresses_of_one_ipv6_network_count_together_and_others_do_not() -> None:
    keys = [
        Peer(address).key for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "192.0.2.7", "")
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
