"""Calls of the services that a plugin serves for its host."""

from __future__ import annotations

import httpx

from cpg_trio.host import Host

INFO = "/connectplugin.v1.PluginIdentity/GetPluginInfo"
SET_IDENTITY = "/connectplugin.v1.PluginIdentity/SetRuntimeIdentity"
GET_HEALTH = "/connectplugin.v1.PluginControl/GetHealth"
SHUTDOWN = "/connectplugin.v1.PluginControl/Shutdown"


async def post(url: str, path: str, body: dict[str, object], **headers: str) -> tuple[int, dict[str, object]]:
    async with httpx.AsyncClient() as http:
        response = await http.post(url + path, json=body, headers=headers)
        return response.status_code, response.json()


async def adopt(host: Host, host_url: str, plugin_url: str) -> None:
    identity, token = host.identities.issue("echo-plugin")
    body: dict[str, object] = {"runtimeId": identity.runtime_id, "runtimeToken": token, "hostUrl": host_url}
    assert await post(plugin_url, SET_IDENTITY, body) == (200, {"acknowledged": True})
