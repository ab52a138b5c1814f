"""Hosts with one directory, a balancer and plugins, each at an address of its own, in a network namespace.

It writes what each host knows of a plugin: the address that it came from, and its URL.
"""

from __future__ import annotations

import sys

import trio

from cpg_trio.host import HostConfig, Keys
from cpg_trio.plugin import Plugin
from cpg_trio.store import MemoryStore
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.host.cluster.balancers import round_robin
from tests.host.cluster.serving import KEYS, until
from tests.plugin.running import echo_plugin, hosting, plugged

HOSTS, BALANCER, PROVIDER = ("10.9.0.1", "10.9.0.2"), "10.9.0.9", "10.9.0.3"
ADDRESSES = (*HOSTS, BALANCER, PROVIDER)


def config(store: MemoryStore) -> HostConfig:
    return HostConfig(store=store, keys=Keys(KEYS), allow_plaintext=True)


async def main() -> None:
    store = MemoryStore()
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    async with (
        hosting(config(store), f"{HOSTS[0]}:8080") as (one, _),
        hosting(config(store), f"{HOSTS[1]}:8080") as (other, _),
        round_robin([(host, 8080) for host in HOSTS], BALANCER) as url,
        plugged(echo_plugin(), url, heartbeat_s=0.1, hostname=PROVIDER, bind=f"{PROVIDER}:0"),
        plugged(caller, url, heartbeat_s=0.1),
    ):
        await echo.wait_available()
        for _ in range(20):
            assert (await client.echo(pb.EchoRequest(text="balanced"), timeout_s=10)).text == "balanced"
        for host in (one, other):
            await until(lambda host=host: host.registry.available("echo"))
            (provider,) = host.registry.providers("echo")
            entry = host.identities.entry(provider.runtime_id)
            assert entry is not None
            sys.stdout.write(f"{entry.identity.address} {provider.base_url.rpartition(':')[0]}\n")


if __name__ == "__main__":
    trio.run(main)
