"""Simulated plugins, many in a process: `python -m benchmarks.scale_plugins PORTS FIRST COUNT LEASE_S`.

Each is at the host of the first port, and moves to another one when that is gone. Says `joined` when all have
joined, and then answers each line of stdin with a line of JSON.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence

import attrs
import trio

from cpg_trio import wire
from cpg_trio.http import Pool
from cpg_trio.plugin._hosts import Hosts
from cpg_trio.plugin._session import Introduction, Session, handshake
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import ConnectError

from .processes import raise_file_limit
from .watchers import Watcher

REPLICAS = 10  # providers of a service
SUBSCRIPTIONS = 10  # of a plugin
ALL_WATCH = "watched"  # a service that each of them follows
_BINARY, _CLOSE, _PING, _PONG = 2, 8, 9, 10  # opcodes: RFC 6455, section 5.2
_AT_ONCE = 8  # that join
_TRIES = 20
_PAUSE_S = 0.5  # the longest, before a watch is begun again


@attrs.define
class Simulation:
    """The plugins of this process."""

    ports: Sequence[int]
    lease_s: float
    pool: Pool
    heartbeats: int = 0
    failures: int = 0
    moved: int = 0
    gone: int = 0
    """How often a watcher was told that a provider gets no calls any more."""
    heard: dict[str, int] = attrs.field(factory=dict)
    """How many watchers have heard of the service that all watch, since `forget`."""
    last_s: float = 0.0
    """When the last of them did, on the monotonic clock of the machine."""

    async def join(
        self, number: int, limit: trio.CapacityLimiter, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Be a plugin, until cancelled."""
        async with limit:
            plugin = _Plugin(self, number, self.ports[0], await self._session(number))
            watcher = await plugin.open()
            task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plugin.beat)
            await plugin.follow(watcher)

    async def _session(self, number: int) -> Session:
        """Shake hands and register; where the host cannot write that now, again, as plugins do."""
        name = number // REPLICAS
        request = pb.RegisterServiceRequest(
            service_type=f"service-{name}", version="1.0.0", endpoint_path="/x/"
        )
        while True:
            hosts = Hosts([f"http://127.0.0.1:{self.ports[0]}"], self.pool)
            try:
                session = await handshake(hosts, Introduction(f"plugin-{name}", "1.0.0"))
                await session.registry.register_service(request, timeout_s=30.0)
            except ConnectError:
                self.failures += 1
                await trio.sleep(random.uniform(0.5, 1.5))
            else:
                return session

    def note(self, update: pb.WatchUpdate) -> None:
        """Note what a watcher has been told."""
        self.gone += len(update.gone) + sum(len(changes.removed) for changes in update.providers)
        if any(changes.service_type == ALL_WATCH for changes in update.providers):
            self.heard["watchers"] = self.heard.get("watchers", 0) + 1
            self.last_s = time.monotonic()

    def forget(self) -> None:
        """Count from now on."""
        self.heard.clear()
        self.heartbeats = self.failures = self.moved = self.gone = 0


@attrs.define
class _Plugin:
    it: Simulation
    number: int
    port: int
    session: Session

    @property
    def services(self) -> list[str]:
        first, count = self.number // REPLICAS, SUBSCRIPTIONS - 1
        return [ALL_WATCH, *(f"service-{max(0, first - number)}" for number in range(count))]

    def move(self) -> None:
        """Go to another host."""
        self.it.moved += 1
        self.port = random.choice([port for port in self.it.ports if port != self.port])
        before = self.session
        hosts = Hosts([f"http://127.0.0.1:{self.port}"], self.it.pool)
        self.session = Session(hosts, before.runtime_id, before.token)

    async def beat(self) -> None:
        while True:
            await trio.sleep(random.uniform(0.9, 1.0) * self.it.lease_s / 3)
            for _ in range(_TRIES):
                try:
                    report = pb.ReportHealthRequest(state=pb.HEALTH_STATE_HEALTHY)
                    await self.session.lifecycle.report_health(report, timeout_s=5.0)
                except ConnectError:
                    self.it.failures += 1
                    self.move()
                    await trio.sleep(random.uniform(0.0, _PAUSE_S))
                else:
                    self.it.heartbeats += 1
                    break

    async def open(self) -> _Following:
        """Begin to watch."""
        headers = {**self.session.headers, "Sec-WebSocket-Protocol": wire.WATCH_PROTO}
        watcher = await Watcher.open(self.port, wire.WATCH_PATH, headers)
        subscriptions = [
            pb.WatchSubscription(service_type=each, max_providers=20) for each in dict.fromkeys(self.services)
        ]
        following = _Following(watcher.stream, self.it)
        await following.say(pb.WatchRequest(subscribe=subscriptions).SerializeToString())
        return following

    async def follow(self, watcher: _Following) -> None:
        """Watch, at another host when this one is gone."""
        while True:
            try:
                async with watcher.stream:
                    await watcher.read()
            except trio.BrokenResourceError:
                pass
            self.move()
            for _ in range(_TRIES):
                await trio.sleep(random.uniform(0.0, _PAUSE_S))
                try:
                    watcher = await self.open()
                except (OSError, RuntimeError, trio.BrokenResourceError):
                    self.move()
                else:
                    break


class _Following(Watcher):
    """A websocket whose frames are read."""

    def __init__(self, stream: trio.SocketStream, it: Simulation) -> None:
        super().__init__(stream)
        self._it = it

    async def say(self, data: bytes, opcode: int = _BINARY) -> None:
        """Send one frame of less than 64 KiB."""
        mask = b"\0\0\0\0"  # which changes nothing
        length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
        await self.stream.send_all(bytes([0x80 | opcode]) + length + mask + data)

    async def read(self) -> None:
        """Read frames until the connection ends."""
        buffer = b""
        async for data in self.stream:
            buffer += data
            while (frame := _frame(buffer)) is not None:
                opcode, payload, size = frame
                buffer = buffer[size:]
                if opcode == _CLOSE:
                    return
                if opcode == _PING:
                    await self.say(payload, _PONG)
                elif opcode == _BINARY:
                    self._it.note(pb.WatchUpdate.FromString(payload))


def _frame(buffer: bytes) -> tuple[int, bytes, int] | None:
    """Return the opcode and the payload of the first frame, and its length; None if it is not all there."""
    if len(buffer) < 2:
        return None
    length, begin = buffer[1] & 0x7F, 2
    if length >= 126:
        begin = 4 if length == 126 else 10
        length = int.from_bytes(buffer[2:begin], "big")
    if len(buffer) < begin + length:
        return None
    return buffer[0] & 0x0F, buffer[begin : begin + length], begin + length


async def main(ports: Sequence[int], first: int, count: int, lease_s: float) -> None:
    """Run plugins until stdin ends."""
    async with Pool() as pool, trio.open_nursery() as nursery:
        it = Simulation(ports, lease_s, pool)
        limit = trio.CapacityLimiter(_AT_ONCE)
        async with trio.open_nursery() as joining:
            for number in range(first, first + count):
                joining.start_soon(nursery.start, it.join, number, limit)
        _say({"joined": count})
        async for _ in trio.wrap_file(sys.stdin):
            _say({**attrs.asdict(it, filter=_is_a_number), **it.heard})
            it.forget()
        nursery.cancel_scope.cancel()


def _is_a_number(field: attrs.Attribute[object], _: object) -> bool:
    return field.name in {"heartbeats", "failures", "moved", "gone", "last_s"}


def _say(answer: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise_file_limit()
    where, first, count, lease_s = sys.argv[1:]
    trio.run(main, [int(port) for port in where.split(",")], int(first), int(count), float(lease_s))
