"""A declaration is checked where it is made."""

from __future__ import annotations

import pytest

from cpg_trio.plugin import Plugin
from tests.plugin.running import (
    echo_plugin,
)
from tests.rpc.echo import Echo


def test_a_declaration_is_checked_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="self_id"):
        Plugin("my plugin", version="1.0.0")
    with pytest.raises(ValueError, match="semantic version"):
        Plugin("p", version="1")
    plugin = echo_plugin()
    with pytest.raises(ValueError, match="provides echo already"):
        plugin.provide("echo", Echo())
    with pytest.raises(ValueError, match="service type"):
        plugin.provide("a/b", Echo())
    plugin.require("t")
    with pytest.raises(ValueError, match="requires t already"):
        plugin.require("t")
    with pytest.raises(ValueError, match="semantic version"):
        plugin.require("u", min_version="latest")
