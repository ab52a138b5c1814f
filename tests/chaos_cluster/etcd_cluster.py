"""Real members of etcd, which can be killed, stopped, cut off, and started again.

Each member is a process with a data directory of its own. To cut members off, each is in a network namespace
of its own, on a bridge that is in a namespace as well, so that no rule of this machine is in its way:

    tests ── hub (bridge) ── member 0, member 1, member 2
"""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from tests.certificates import Files

_READY_S = 20.0
_PEER_PORT, _CLIENT_PORT = 2380, 2379
_MEMORY = Path("/dev/shm")

ROOT_PASSWORD, USER, PASSWORD = "r00t/secret", "directory", "s3cret/of:the@tests"


def etcd_is_installed() -> bool:
    return shutil.which("etcd") is not None and shutil.which("etcdctl") is not None


def need_etcd() -> None:
    """Skip the test where there is no etcd."""
    if not etcd_is_installed():
        pytest.skip("there is no etcd: install etcd-server and etcd-client")


@attrs.define
class Member:
    """A member, and how to reach it."""

    name: str
    address: str
    client_port: int
    peer_port: int
    namespace: str = ""
    """Empty for one that is where the tests are."""
    process: subprocess.Popen[bytes] | None = None


class EtcdCluster:
    """Members of one cluster, all of which run at first."""

    def __init__(self, folder: Path, members: list[Member], timing_ms: tuple[int, int]) -> None:
        self.folder = folder
        self.members = members
        self.tls: Files | None = None
        """The certificate of all members, which is the one that clients have to show as well."""
        self.authority = trustme.CA()
        """Who has signed it."""
        self.with_users = False
        self.token = "tests"
        self._timing_ms = timing_ms

    @property
    def endpoints(self) -> list[str]:
        """The URLs at which clients reach the members."""
        scheme = "https" if self.tls else "http"
        return [f"{scheme}://{member.address}:{member.client_port}" for member in self.members]

    def url(self, prefix: str = "/cpg/tests", *, members: list[int] | None = None) -> str:
        """Return the URL of a store, whose password (`PASSWORD`) is not in it."""
        chosen = self.members if members is None else [self.members[i] for i in members]
        hosts = ",".join(f"{member.address}:{member.client_port}" for member in chosen)
        user = f"{USER}@" if self.with_users else ""
        if self.tls is None:
            return f"etcd://{user}{hosts}{prefix}"
        return f"etcds://{user}{hosts}{prefix}?ca={self.tls.ca}&cert={self.tls.cert}&key={self.tls.key}"

    # What can be done to a member

    def start(self, i: int, *options: str) -> None:
        """Start a member that does not run, on the data that it has; `ready` waits for it."""
        member, (heartbeat_ms, election_ms) = self.members[i], self._timing_ms
        scheme, command = "https" if self.tls else "http", ["etcd"]
        client = f"{scheme}://{member.address}:{member.client_port}"
        peers = [f"{each.name}=http://{each.address}:{each.peer_port}" for each in self.members]
        if member.namespace:
            command = ["ip", "netns", "exec", member.namespace, *command]
        command += [f"--name={member.name}", f"--data-dir={self.folder / member.name}"]
        command += ["--logger=zap", "--log-outputs=stderr"]
        command += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
        peer = f"http://{member.address}:{member.peer_port}"
        command += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
        command += [f"--initial-cluster={','.join(peers)}", f"--initial-cluster-token={self.token}"]
        command += [f"--heartbeat-interval={heartbeat_ms}", f"--election-timeout={election_ms}"]
        if self.tls:
            command += [f"--cert-file={self.tls.cert}", f"--key-file={self.tls.key}"]
            command += [f"--trusted-ca-file={self.tls.ca}", "--client-cert-auth"]
        with (self.folder / f"{member.name}.log").open("ab") as log:
            member.process = subprocess.Popen([*command, *options], stdout=log, stderr=log)

    def kill(self, i: int) -> None:
        """Kill a member; its data stays."""
        self._end(i, signal.SIGKILL)

    def terminate(self, i: int) -> None:
        """Have a member end in order."""
        self._end(i, signal.SIGTERM)

    def stop(self, i: int) -> None:
        """Stop a member: it is there, and silent."""
        self._signal(i, signal.SIGSTOP)
        process = self.members[i].process
        assert process
        while "State:\tT" not in Path(f"/proc/{process.pid}/status").read_text():
            time.sleep(0.001)  # each of its threads stops by itself

    def cont(self, i: int) -> None:
        """Let a stopped member go on."""
        self._signal(i, signal.SIGCONT)

    def cut(self, i: int, *, clients: bool = True) -> None:
        """Cut a member off from the others, and from its clients unless they are to reach it."""
        member = self._in_namespace(i)
        if clients:
            _run(f"ip -n {member.namespace} link set eth0 down")
            return
        for ports in (f"--dport {_PEER_PORT}", f"--sport {_PEER_PORT}"):
            for chain in ("INPUT", "OUTPUT"):
                _run(f"ip netns exec {member.namespace} iptables -A {chain} -p tcp {ports} -j DROP")

    def heal(self, i: int) -> None:
        """Connect a member again."""
        member = self._in_namespace(i)
        _run(f"ip -n {member.namespace} link set eth0 up")
        _run(f"ip netns exec {member.namespace} iptables -F")

    def _in_namespace(self, i: int) -> Member:
        if not self.members[i].namespace:
            raise AssertionError("only members of a cluster with `namespaces` can be cut off")
        return self.members[i]

    def _signal(self, i: int, number: signal.Signals) -> None:
        process = self.members[i].process
        assert process
        process.send_signal(number)

    def _end(self, i: int, number: signal.Signals) -> None:
        process = self.members[i].process
        if process is not None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            process.wait(timeout=30)
        self.members[i].process = None

    def close(self) -> None:
        for i in range(len(self.members)):
            self.kill(i)

    # What can be asked

    def etcdctl(self, *arguments: str, user: str = "", i: int | None = None) -> str:
        """Run a command with all endpoints, or with one; return what it prints."""
        endpoints = self.endpoints if i is None else [self.endpoints[i]]
        command = [
            "etcdctl",
            f"--endpoints={','.join(endpoints)}",
            "--command-timeout=10s",
            "--dial-timeout=2s",
        ]
        if self.tls:
            command += [f"--cacert={self.tls.ca}", f"--cert={self.tls.cert}", f"--key={self.tls.key}"]
        if user:
            command.append(f"--user={user}")
        elif self.with_users:
            command.append(f"--user=root:{ROOT_PASSWORD}")
        done = subprocess.run(
            [*command, *arguments],
            env={**os.environ, "ETCDCTL_API": "3"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def snapshot(self, file: Path) -> None:
        """Write a backup, of one member, as all have the same."""
        self.etcdctl("snapshot", "save", str(file), i=0)

    def restore(self, file: Path, *, token: str) -> None:
        """Put a backup in the place of what all members have; none of them runs. `start` begins with it."""
        self.token = token
        peers = ",".join(f"{each.name}=http://{each.address}:{each.peer_port}" for each in self.members)
        for member in self.members:
            shutil.rmtree(self.folder / member.name, ignore_errors=True)
            command = ["etcdctl", "snapshot", "restore", str(file), f"--name={member.name}"]
            command += [f"--data-dir={self.folder / member.name}", f"--initial-cluster={peers}"]
            command += [f"--initial-advertise-peer-urls=http://{member.address}:{member.peer_port}"]
            command += [f"--initial-cluster-token={token}"]
            env = {**os.environ, "ETCDCTL_API": "3"}
            subprocess.run(command, env=env, check=True, capture_output=True)

    def forget(self) -> None:
        """Delete what all members have; none of them runs."""
        for member in self.members:
            shutil.rmtree(self.folder / member.name, ignore_errors=True)

    def leader(self) -> int:
        """Return which member leads; the others have to agree."""
        for i, member in enumerate(self.members):
            if member.process is None:
                continue
            fields = self.etcdctl("endpoint", "status", i=i).split(", ")
            if fields[4] == "true":
                return i
        raise AssertionError("no member leads")

    def add_user(self, prefix: str = "/cpg/tests") -> None:
        """Have the cluster ask for users, one of which may do everything below a prefix."""
        for command in (
            ["user", "add", f"root:{ROOT_PASSWORD}"],
            ["user", "grant-role", "root", "root"],
            ["role", "add", USER],
            ["role", "grant-permission", USER, "--prefix=true", "readwrite", f"{prefix}/"],
            ["user", "add", f"{USER}:{PASSWORD}"],
            ["user", "grant-role", USER, USER],
            ["auth", "enable"],
        ):
            self.etcdctl(*command)
        self.with_users = True

    def is_ready(self) -> bool:
        """Whether all members that run answer reads that all of them have to agree on."""
        running = [i for i, member in enumerate(self.members) if member.process is not None]
        try:
            return all("is healthy" in self._health(i) for i in running)
        except AssertionError:
            return False

    def _health(self, i: int) -> str:
        command = [
            "etcdctl",
            f"--endpoints={self.endpoints[i]}",
            "endpoint",
            "health",
            "--command-timeout=1s",
        ]
        if self.tls:
            command += [f"--cacert={self.tls.ca}", f"--cert={self.tls.cert}", f"--key={self.tls.key}"]
        if self.with_users:
            command.append(f"--user=root:{ROOT_PASSWORD}")
        done = subprocess.run(
            command, env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    def wait_ready(self) -> None:
        """Wait in this thread until it is ready."""
        until = time.monotonic() + _READY_S
        while not self.is_ready():
            assert time.monotonic() < until, self.logs()
            time.sleep(0.02)

    async def ready(self) -> None:
        """Wait until it is ready."""
        await trio.to_thread.run_sync(self.wait_ready)

    def logs(self) -> str:
        """Return the ends of the members' logs."""
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("*.log")))


@contextmanager
def etcd_members(
    members: int = 1, *, tls: bool = False, namespaces: bool = False, timing_ms: tuple[int, int] = (10, 100)
) -> Iterator[EtcdCluster]:
    """Start a cluster, and end it with the block. `timing_ms`: heartbeat and election timeout.

    With `namespaces` members can be cut off; that takes root.
    """
    need_etcd()
    with ExitStack() as stack:
        where = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cpg-etcd-", dir=where)))
        found = stack.enter_context(_namespaces(members)) if namespaces else list(_on_this_machine(members))
        cluster = EtcdCluster(folder, found, timing_ms)
        if tls:
            cluster.tls = Files.write(folder, cluster.authority, *{each.address for each in found})
        stack.callback(cluster.close)
        for i in range(members):
            cluster.start(i)
        cluster.wait_ready()
        yield cluster


@asynccontextmanager
async def etcd_cluster(
    members: int = 3,
    *,
    tls: bool = False,
    users: bool = False,
    namespaces: bool = False,
    timing_ms: tuple[int, int] = (100, 1000),
) -> AsyncIterator[EtcdCluster]:
    """Start a cluster with etcd's own timing, and end it with the block. See `etcd_members`."""
    opened = etcd_members(members, tls=tls, namespaces=namespaces, timing_ms=timing_ms)
    cluster = await trio.to_thread.run_sync(opened.__enter__)
    try:
        if users:
            await trio.to_thread.run_sync(cluster.add_user)
        yield cluster
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(opened.__exit__, None, None, None)


def _on_this_machine(members: int) -> Iterator[Member]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2 * members)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [int(each.getsockname()[1]) for each in sockets]
    for i in range(members):
        yield Member(f"m{i}", "127.0.0.1", ports[2 * i], ports[2 * i + 1])


@contextmanager
def _namespaces(members: int) -> Iterator[list[Member]]:
    """Make a namespace for each member, and one with the bridge between them and the tests."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("iptables") is None:
        pytest.skip("members can be cut off in network namespaces only: root, ip and iptables are needed")
    name = f"cpg{random.randrange(16**6):06x}"
    net = f"10.{random.randrange(200, 250)}.{random.randrange(256)}"
    hub = f"{name}-hub"
    spaces = [f"{name}-{i}" for i in range(members)]
    try:
        _run(f"ip netns add {hub}")
        _run(f"ip -n {hub} link add br0 type bridge")
        _run(f"ip -n {hub} link set br0 up")
        _run(f"ip link add {name} type veth peer name tests netns {hub}")
        _run(f"ip addr add {net}.254/24 dev {name}")
        _run(f"ip link set {name} up")
        _run(f"ip -n {hub} link set tests master br0 up")
        for i, space in enumerate(spaces):
            _run(f"ip netns add {space}")
            _run(f"ip -n {space} link add eth0 type veth peer name m{i} netns {hub}")
            _run(f"ip -n {hub} link set m{i} master br0 up")
            _run(f"ip -n {space} addr add {net}.{i + 1}/24 dev eth0")
            _run(f"ip -n {space} link set eth0 up")
            _run(f"ip -n {space} link set lo up")
        yield [
            Member(f"m{i}", f"{net}.{i + 1}", _CLIENT_PORT, _PEER_PORT, space)
            for i, space in enumerate(spaces)
        ]
    finally:
        for space in (*spaces, hub):
            _run(f"ip netns del {space}", check=False)
        _run(f"ip link del {name}", check=False)


def _run(command: str, *, check: bool = True) -> None:
    subprocess.run(shlex.split(command), check=check, capture_output=True)
