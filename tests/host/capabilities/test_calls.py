"""The record of a capability's call: what its listeners are told of it."""

from __future__ import annotations

import pytest

from cpg_trio.call_record import Call, CallKind, Stage
from cpg_trio.rpc import ConnectError
from tests._gen.echo.v1 import echo_pb2
from tests.host.calls import runtime_id
from tests.host.capabilities.brokering import brokering
from tests.plugin.running import eventually


async def test_a_call_of_a_capability_is_one_record_and_no_routed_call() -> None:
    async with brokering() as setting:
        plugin, calls = await setting.plugin("app"), list[Call]()
        setting.host.calls.ended.add(calls.append)
        await setting.client(await setting.granted(plugin)).echo(echo_pb2.EchoRequest(text="hi"))
        await eventually(lambda: calls)
        assert setting.host.statistics().router.calls == 0
    (call,) = calls
    assert (call.kind, call.caller, call.service) == (CallKind.CAPABILITY, runtime_id(plugin), "echo")
    assert (call.method, call.protocol, call.status) == ("echo.v1.EchoService/Echo", "1.1", 200)
    assert (call.failure, call.stage) == ("", Stage.RESPONSE)
    assert call.request_bytes == len(echo_pb2.EchoRequest(text="hi").SerializeToString())
    assert call.response_bytes > 0


async def test_a_call_whose_grant_ends_has_failed() -> None:
    async with brokering() as setting:
        plugin, calls = await setting.plugin("app"), list[Call]()
        setting.host.calls.ended.add(calls.append)
        grant = await setting.granted(plugin)
        with pytest.raises(ConnectError):
            async with setting.client(grant).count(echo_pb2.CountRequest(to=99)) as stream:
                async for message in stream:
                    if message.number == 98:
                        assert setting.host.revoke_grant(grant["grantId"])
        await eventually(lambda: calls)
    (call,) = calls
    assert (call.failure, call.stage) == ("the grant has ended", Stage.RESPONSE)


async def test_a_refused_call_has_its_status() -> None:
    async with brokering() as setting:
        refused = list[Call]()
        setting.host.calls.refused.add(refused.append)
        assert (await setting.http.post("/capabilities/echo")).status_code == 400
    (call,) = refused
    assert (call.kind, call.status, call.undelivered) == (CallKind.CAPABILITY, 400, True)
