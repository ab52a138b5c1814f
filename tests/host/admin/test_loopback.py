"""Whose program is at the other end of a loopback connection."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cpg_trio.host.admin import loopback
from cpg_trio.host.admin.loopback import why_not_ours


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_connection_of_our_own_is_found_in_either_table(family: socket.AddressFamily) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(family) as client:
        host = "127.0.0.1" if family == socket.AF_INET else "::ffff:127.0.0.1"
        client.connect((host, server.getsockname()[1]))
        accepted, (address, port) = server.accept()
        with accepted:
            assert why_not_ours((address, port), server.getsockname()) == ""


def test_a_connection_that_is_nobodys_is_not_taken() -> None:
    assert "for programs of the user" in why_not_ours(("127.0.0.1", 1), ("127.0.0.1", 2))


def test_a_connection_of_another_user_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    word = loopback._word("127.0.0.1")
    line = f"   0: {word}:0001 {word}:0002 01 00000000:00000000 00:00000000 00000000  {{}}        0 1 1\n"
    table, empty = tmp_path / "tcp", tmp_path / "tcp6"
    empty.write_text("header\n")
    monkeypatch.setattr(loopback, "_TABLES", (table, empty))
    for users, is_ours in (
        ((os.geteuid(),), True),
        ((0,), True),
        ((4242,), False),
        ((os.geteuid(), 4242), False),
    ):
        table.write_text("header\n" + "".join(line.format(user) for user in users))
        assert (why_not_ours(("127.0.0.1", 1), ("127.0.0.1", 2)) == "") is is_ours


def test_a_system_without_tables_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "_TABLES", (Path("/none"), Path("/none")))
    assert why_not_ours(("127.0.0.1", 1), ("127.0.0.1", 2)) == ""
    assert why_not_ours(None, None) == ""
