"""Whose fault it is that there is no connection."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cpg_trio.http import (
    ConnectFailedError,
    LocalFailureError,
    NotSentError,
    Origin,
    Resolver,
    StartError,
    UnknownNameError,
)
from cpg_trio.http.client.connect import connect
from tests.descriptors import none_left
from tests.host.routed import silent_address
from tests.http.peers import answer_ok, serving
from tests.names import Names
from tests.namespaces import in_namespace


async def error_of(origin: Origin, *, timeout_s: float = 5.0) -> NotSentError:
    with pytest.raises(NotSentError) as caught:
        await connect(origin, timeout_s=timeout_s)
    return caught.value


# This machine's


async def test_a_lack_of_file_descriptors_is_this_machines(short_path: Path) -> None:
    async with serving(answer_ok) as origin:
        with none_left():
            error = await error_of(origin)
            by_socket = await error_of(origin.at((f"unix:{short_path}/s", "")))
        assert type(error) is type(by_socket) is LocalFailureError
        assert "too many open files" in str(error)
        (await connect(origin)).close()


def test_a_lack_of_ports_is_this_machines() -> None:
    async def use_up_ports() -> NotSentError:
        async with serving(answer_ok) as origin:
            taken = [await connect(origin)]
            try:
                while True:
                    taken.append(await connect(origin))
            except NotSentError as error:
                return error
            finally:
                for channel in taken:
                    channel.close()

    few_ports = ["ip link set lo up", "sysctl -qw net.ipv4.ip_local_port_range='40000 40003'"]
    error = in_namespace(few_ports, lambda: trio.run(use_up_ports))
    assert type(error) is LocalFailureError
    assert "cannot assign requested address" in str(error)


def test_a_network_to_which_there_is_no_route_is_this_machines() -> None:
    elsewhere = Origin("http", "192.0.2.1", 80)
    error = in_namespace(["ip link set lo up"], lambda: trio.run(error_of, elsewhere))
    assert type(error) is LocalFailureError
    assert "network is unreachable" in str(error)


@pytest.mark.parametrize(
    "error", [socket.gaierror(socket.EAI_NONAME, "not known"), UnicodeError("not known")]
)
async def test_a_name_that_is_not_known_is_this_machines(names: Names, error: Exception) -> None:
    names.fails = error
    said = await error_of(Origin("http", "peer.test", 80))
    assert type(said) is UnknownNameError
    assert str(said) == "cannot connect to http://peer.test: its name cannot be looked up: not known"


async def test_a_name_server_that_is_silent_is_this_machines(names: Names, autojump_clock: MockClock) -> None:
    said = await error_of(Origin("http", "peer.test", 80))
    assert type(said) is UnknownNameError
    assert "its name was not looked up within the time allowed" in str(said)


async def test_tls_that_cannot_be_spoken_is_this_machines() -> None:
    def no_context() -> None:
        raise StartError("cannot use a.pem for TLS")

    with pytest.raises(
        LocalFailureError, match=r"cannot connect to https://127\.0\.0\.1:1: cannot use a\.pem"
    ):
        await connect(Origin("https", "127.0.0.1", 1), no_context)  # type: ignore[arg-type] # it returns nothing


# The peer's


async def test_a_peer_that_refuses_is_at_fault() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert type(await error_of(Origin("http", *closed.getsockname()))) is ConnectFailedError


async def test_a_peer_that_is_silent_is_at_fault() -> None:
    async with silent_address() as url:
        origin, _ = Origin.parse(url)
        assert type(await error_of(origin, timeout_s=0.05)) is ConnectFailedError


async def test_where_one_address_is_the_peers_fault_so_is_all_of_it(names: Names) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        error = await error_of(Origin("http", "localhost", closed.getsockname()[1]))
    assert type(error) is ConnectFailedError
    assert "refused" in str(error)


# Several addresses


async def test_a_peer_at_one_of_several_addresses_is_found_behind_one_that_is_silent(names: Names) -> None:
    names.known["peer.test"] = ["127.0.0.2", "127.0.0.1"]
    async with serving(answer_ok) as origin, silent_address("127.0.0.2", origin.port):
        channel = await connect(Origin("http", "peer.test", origin.port), timeout_s=60)
        assert channel.socket.getpeername() == ("127.0.0.1", origin.port)
        channel.close()


async def test_who_stops_connecting_leaves_no_connection(names: Names) -> None:
    names.known["peer.test"] = ["127.0.0.2", "127.0.0.3"]
    async with silent_address("127.0.0.2") as url:
        port = Origin.parse(url)[0].port
        async with silent_address("127.0.0.3", port):
            error = await error_of(Origin("http", "peer.test", port), timeout_s=0.5)  # also for the names
    assert type(error) is ConnectFailedError
    assert "no connection within the time allowed" in str(error)


async def test_localhost_is_this_machine_by_either_family_and_is_not_looked_up(names: Names) -> None:
    assert await Resolver().addresses("localhost", 1) == ["127.0.0.1", "::1"]
    assert await Resolver().addresses("127.1", 1) == ["127.0.0.1"]
    assert await Resolver().addresses("::1", 1) == ["::1"]
    async with serving(answer_ok) as origin:
        (await connect(Origin("http", "localhost", origin.port))).close()
