"""The example's command-line client."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cpg_trio import rpc
from cpg_trio.demo import client
from cpg_trio.protos.api.v1 import api_pb2 as pb
from cpg_trio.protos.api.v1.api_trio import APIService
from tests.demo.shortener import shortener
from tests.http.apps import served
from tests.plugin.running import unused_port


async def test_the_client_shortens_and_resolves(tmp_path: Path) -> None:
    async with shortener(tmp_path / "urls") as system:
        told = await client.shorten(system.api, "https://e.x/?a=1&b=2")
        match = re.fullmatch(
            r"✓ Shortened URL\n"
            r"  Original: https://e.x/\?a=1&b=2\n"
            r"  Code:     ([0-9a-f]{8})\n"
            r"  Resolve:  (\S+)",
            told,
        )
        assert match
        assert (await system.http.get(match[2])).json() == {"url": "https://e.x/?a=1&b=2"}
        resolved = await client.resolve(system.api, match[1])
        assert resolved == f"✓ Resolved short code: {match[1]}\n  URL: https://e.x/?a=1&b=2"


async def test_the_client_checks_the_way_to_storage_and_back(tmp_path: Path) -> None:
    async with shortener(tmp_path / "urls") as system:
        told = await client.check(system.api)
    assert re.fullmatch(
        r"✓ Shortened and resolved https://example.com/[0-9a-f]{16} \([0-9a-f]{8}\)\n"
        r"✓ An unknown code is not found",
        told,
    )


@pytest.mark.parametrize(
    "answers", [{}, {"resolve": "https://another.example"}, {"resolve_unknown": "https://example.com"}]
)
async def test_a_check_of_an_api_that_answers_wrongly_fails(answers: dict[str, str]) -> None:
    class Wrong(APIService):
        url = ""

        async def shorten(self, request: pb.ShortenRequest, _ctx: rpc.Context, /) -> pb.ShortenResponse:
            self.url = request.url
            return pb.ShortenResponse(short_code="c", url=request.url)

        async def resolve(self, request: pb.ResolveRequest, _ctx: rpc.Context, /) -> pb.ResolveResponse:
            if request.code == "c":
                return pb.ResolveResponse(url=answers.get("resolve", self.url))
            if "resolve_unknown" not in answers:
                raise rpc.ConnectError(rpc.Code.UNAVAILABLE, "storage is not available")
            return pb.ResolveResponse(url=answers["resolve_unknown"])

    async with served(rpc.application([Wrong()])) as url:
        with pytest.raises(rpc.ConnectError, match=r"resolves to|storage is not available"):
            await client.check(url)


def test_a_client_that_reaches_nobody_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_URL", f"http://127.0.0.1:{unused_port()}/")
    assert client.main(["resolve", "c"]) == 1
    assert client.main(["shorten", "https://e.x"]) == 1
    assert client.main(["check"]) == 1
    assert capsys.readouterr().err.startswith("✗ resolve failed: unavailable: ")


def test_a_client_that_is_asked_for_nothing_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        client.main([])
    assert "shorten" in capsys.readouterr().err
