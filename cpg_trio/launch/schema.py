"""The JSON schema of platform files, made of the tables that the reader reads."""

from __future__ import annotations

from typing import Any

from cpg_trio.launch.kinds import Table
from cpg_trio.launch.platform_file import SETTINGS
from cpg_trio.launch.tables import PluginTable
from cpg_trio.variables import SECRETS


def schema() -> dict[str, Any]:
    """Return the schema, of JSON Schema draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "platform.toml of cpg-trio",
        "description": "A host, and the plugins that it starts.",
        "type": "object",
        "properties": {
            "host": {
                "description": "The settings of the host.",
                "type": "object",
                "properties": {name.lower(): _setting(name, text) for name, text in SETTINGS.items()},
                "additionalProperties": False,
            },
            "plugins": {
                "description": "The plugins, by name.",
                "type": "object",
                "additionalProperties": {
                    **Table(PluginTable, "").schema,
                    "anyOf": [{"required": [each]} for each in ("plugin", "command", "launcher")],
                },
            },
        },
        "additionalProperties": False,
    }


def _setting(name: str, text: str) -> dict[str, Any]:
    scalar = ["string", "number", "boolean"]
    several = [
        {"type": "array", "items": {"type": scalar}},
        {"type": "object", "additionalProperties": {"type": scalar}},
    ]
    secret = " A secret: the file must be readable for its owner alone." if name in SECRETS else ""
    return {"description": f"{text}.{secret}", "anyOf": [{"type": scalar}, *several]}
