"""A plugin sends its host to itself, and nowhere else."""

from __future__ import annotations

import socket

import pytest

from cpg_trio.host import BaseUrls, HostConfig
from tests.host.calls import (
    REGISTER,
    running,
)


@pytest.mark.parametrize(
    ("base_url", "status"),
    [
        ("http://192.0.2.7:8082", 200),
        ("http://[::ffff:192.0.2.7]:8082", 200),
        ("", 200),
        ("no url", 200),
        ("http://127.0.0.1:8080", 403),
        ("http://localhost:8080", 403),
        ("http://169.254.169.254/latest/meta-data/", 403),
        ("http://192.0.2.8:8082", 403),
        ("http://no-such-name.invalid:1", 503),
        (f"http://{'x' * 70}.invalid:1", 503),
        ("http://a..b:1", 503),
    ],
)
async def test_a_plugin_elsewhere_sends_the_host_to_its_own_address_only(base_url: str, status: int) -> None:
    body = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/", "metadata": {"base_url": base_url}}
    async with running(client=("192.0.2.7", 40000)) as host:
        answer = await host.post(REGISTER, body, await host.plugin("p"))
        assert answer[0] == status
        assert host.host.registry.available("t") == (status == 200)
        if status == 403:
            assert (
                "not at the address that this plugin's handshake came from: 192.0.2.7" in answer[1]["message"]
            )


async def test_a_network_that_needs_it_can_let_plugins_name_any_url() -> None:
    body = {
        "serviceType": "t",
        "version": "1.0.0",
        "endpointPath": "/",
        "metadata": {"base_url": "http://192.0.2.8"},
    }
    async with running(HostConfig(base_urls=BaseUrls.ANY), ("192.0.2.7", 1)) as host:
        assert (await host.post(REGISTER, body, await host.plugin("p")))[0] == 200


async def test_what_was_checked_is_what_is_kept() -> None:
    body = {
        "serviceType": "t",
        "version": "1.0.0",
        "endpointPath": "/",
        "metadata": {"base_url": f"http://{socket.gethostname()}:1"},
    }
    async with running() as host:
        assert (await host.post(REGISTER, body, await host.plugin("p")))[0] == 200
        address = host.host.registry.discover("t")[0].address
        assert address in {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), 1)}


async def test_a_bad_registration_is_refused_before_any_name_is_looked_up() -> None:
    body = {"serviceType": "", "metadata": {"base_url": "http://no-such-name.invalid"}}
    async with running(client=("192.0.2.7", 40000)) as host:
        assert (await host.post(REGISTER, body, await host.plugin("p")))[0] == 400
