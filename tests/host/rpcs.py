"""RPCs of a host, and how it refuses them."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.host.calls import (
    COOKIE,
    HANDSHAKE,
    VERSIONS,
    WATCH,
    Headers,
    WireCaller,
)


async def refused(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], headers: Headers
) -> dict[str, str]:
    """Return the error that a call is refused with."""
    if path != WATCH:
        error: dict[str, str] = (await http.post(path, json=body, headers=headers)).json()
        return error
    content = httpx.Request("POST", "http://x", json=body).content
    stream = {**headers, "content-type": "application/connect+json"}
    response = await http.post(
        path, content=b"\0" + len(content).to_bytes(4, "big") + content, headers=stream
    )
    assert response.content[0] == 2  # the end of the stream, with nothing before it
    return dict(json.loads(response.content[5:])["error"])


ENDED = "the identity {} has ended ({}): shake hands again"


async def introduced(host: WireCaller, self_id: str, metadata: dict[str, str]) -> Headers:
    body = {**COOKIE, **VERSIONS, "selfId": self_id, "clientMetadata": metadata}
    status, answer = await host.post(HANDSHAKE, body)
    assert status == 200
    return {
        "X-Plugin-Runtime-ID": answer["runtimeId"],
        "Authorization": f"Bearer {answer['runtimeToken']}",
    }


async def renewed(host: WireCaller, me: Headers, self_id: str = "p") -> tuple[str, Headers]:
    status, answer = await host.post(HANDSHAKE, {**COOKIE, **VERSIONS, "selfId": self_id}, me)
    assert status == 200
    name, token = answer["runtimeId"], answer["runtimeToken"]
    return name, {"X-Plugin-Runtime-ID": name, "Authorization": f"Bearer {token}"}
