"""What is in a store that hosts share: no secret that is not sealed, and nothing that is lost with a key."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cpg_trio.host import Keys
from cpg_trio.host.cluster import check_fit
from cpg_trio.http import StartError
from cpg_trio.store import Sealer
from cpg_trio.wire import token_digest
from tests.host.capabilities.brokering import BROKER
from tests.host.cluster.hosts import hosts, id_of, settled
from tests.host.rpcs import renewed

A, B = "a" * 32, "b" * 32


def spellings(secret: bytes) -> Iterable[bytes]:
    """Yield a secret as it may be written."""
    yield from (secret, secret.hex().encode(), repr(secret)[2:-1].encode())
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(secret).rstrip(b"=")


async def test_no_token_no_digest_and_no_key_is_in_the_store(autojump_clock: MockClock) -> None:
    async with hosts(keys=Keys([A])) as group:
        a, b = await group.start(), await group.start()
        plugin = await a.calls.provider("t")
        name, again = await renewed(a.calls, plugin, "t-plugin")
        assert name == id_of(plugin)
        await a.report(again)
        _, granted = await b.calls.post(BROKER, {"capabilityType": "logger"}, again)
        b.host.revoke_grant(granted["grant"]["grantId"])
        await b.host.admin.actions.drain(id_of(plugin), actor="me")
        other = await b.calls.provider("u")
        await b.host.revoke_identity(id_of(other))
        await settled()
        tokens = [each["Authorization"].removeprefix("Bearer ") for each in (plugin, again, other)]
        tokens.append(granted["grant"]["bearerToken"])
        secrets = [A.encode(), *(t.encode() for t in tokens), *map(token_digest, tokens)]
        entries = (await group.store.load()).entries
        written = b"\n".join(entry.key.encode() + b" " + entry.value for entry in entries)
        prefixes = {entry.key.partition("/")[0] for entry in entries}
        assert {"meta", "hosts", "plugins", "services", "ended", "drained", "grants-ended"} <= prefixes
        for secret in secrets:
            assert not [spelling for spelling in spellings(secret) if spelling in written]
        assert f"v1.{Sealer(lambda: Keys([A]).all, 'x').key_id}.".encode() in written


async def test_the_key_of_a_directory_is_changed_while_hosts_run_and_nothing_is_lost(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]

    async def put(*keys: str) -> None:
        for path in paths:
            path.write_text("\n".join(keys))
            path.chmod(0o600)
        await trio.sleep(10)

    async with hosts() as group:
        await put(A)
        a, b = [await group.start(keys=Keys(path=path)) for path in paths]
        plugin = await a.calls.provider("t")
        await settled()
        await put(A, B)
        await put(B, A)
        _, plugin = await renewed(a.calls, plugin, "t-plugin")
        assert await a.report(plugin) == 200
        await settled()
        await put(B)
        late = await group.start(keys=Keys([B]))
        await settled()
        assert late.is_callable(plugin)
        token = plugin["Authorization"].removeprefix("Bearer ")
        entry = late.host.identities.entry(id_of(plugin))
        assert entry is not None
        assert entry.digest == token_digest(token)
        for member in (a, b, late):
            assert member.host.identities.authenticate(id_of(plugin), token) is not None
        with pytest.raises(StartError, match="does not fit"):
            await check_fit(group.store, Keys([A]))
