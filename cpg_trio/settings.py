"""The settings of a program: from flags, the environment and a file, in this order, and then the defaults.

All have one name, that of the environment: `LEASE_S` is the flag `--lease-s`, and `lease_s` in the file. All
become the text that the environment would have, so that there is one reader for them. An empty text is the
same as none.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import attrs

from cpg_trio._reload import reason
from cpg_trio.variables import SECRETS, default_of, flag_of, meaning_of

_SECRET = "(secret)"  # noqa: S105 - what is shown in place of one
_OTHERS = 0o007
PUBLIC = "everybody may read {}: take that away (chmod o= …)"
"""What is said of a secret in a file."""
_PASSWORD = re.compile(r"(://[^/@:\s]*:)[^/@\s]+@")


@attrs.frozen
class Setting:
    """One setting, and where its value comes from."""

    name: str
    """As the environment names it."""
    value: str
    """`(secret)` in place of a secret that is set, and of a password in a URL."""
    source: str
    """`flag`, `environment`, `file` or `default`."""
    meaning: str


@attrs.frozen
class FileSettings:
    """The settings of a file."""

    path: str
    values: Mapping[str, str] = attrs.field(repr=False)
    """By the name that the environment has for each."""
    lines: Mapping[str, int] = attrs.field(factory=dict, repr=False)
    """In which line of the file each of them is, as far as that is known."""

    def place(self, name: str) -> str:
        """Return where a setting is written, for a message."""
        line = f":{self.lines[name]}" if name in self.lines else ""
        return f"{name.lower()} in {self.path}{line}"


@attrs.frozen
class Settings:
    """What a program reads in place of its environment, and where each value comes from."""

    environment: Mapping[str, str] = attrs.field(repr=False)
    """The environment, with the values of flags and of the file in it."""
    listed: Sequence[Setting] = ()
    file: FileSettings | None = None
    """Those of the file; None without one."""

    def origin(self, name: str) -> str:
        """Return where the value of a setting is written, for a message; empty for the environment."""
        source = next((each.source for each in self.listed if each.name == name), "")
        in_file = self.file.place(name) if self.file else ""
        return {"flag": flag_of(name), "file": in_file}.get(source, "")

    def named_in(self, message: str) -> list[str]:
        """Return the settings with a value that a message names."""
        names = {each.name for each in self.listed if each.source != "default"}
        return [name for name in dict.fromkeys(re.findall(r"\b[A-Z][A-Z0-9_]+\b", message)) if name in names]

    def explained(self, message: str) -> str:
        """Return a message with the places where the settings that it names are written."""
        origins = [f"{name} is {origin}" for name in self.named_in(message) if (origin := self.origin(name))]
        return f"{message} ({', '.join(origins)})" if origins else message

    def without(self, names: Sequence[str]) -> Settings:
        """Return these settings with the default for some."""
        kept = {name: value for name, value in self.environment.items() if name not in names}
        return attrs.evolve(self, environment=kept)


def settle(
    table: Mapping[str, str],
    flags: Mapping[str, str],
    environment: Mapping[str, str],
    file: Path | FileSettings | None = None,
) -> Settings:
    """Return the settings of a program; `table` has the meaning of each.

    Raises: ValueError for a file that cannot be read, or has something in it that is not a setting.
    """
    of_file = _read(file, table) if isinstance(file, Path) else file
    sources = {"flag": flags, "environment": environment, "file": of_file.values if of_file else {}}
    values, listed = dict(environment), []
    for name, text in table.items():
        found = ((source, given[name]) for source, given in sources.items() if given.get(name))
        source, value = next(found, ("default", ""))
        values[name] = value
        shown = (_SECRET if name in SECRETS else _without_password(value)) if value else default_of(text)
        listed.append(Setting(name, shown, source, meaning_of(text)))
    return Settings(values, listed, of_file)


def _without_password(value: str) -> str:
    """Return a value with `(secret)` in place of the password of a URL in it."""
    return _PASSWORD.sub(rf"\1{_SECRET}@", value)


def _read(path: Path, table: Mapping[str, str]) -> FileSettings:
    """Return the settings in a file. Raises: ValueError."""
    try:
        with path.open("rb") as opened:
            public = os.fstat(opened.fileno()).st_mode & _OTHERS
            content = tomllib.load(opened)
        values = {setting_name(key, table): setting_text(key, value) for key, value in content.items()}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {reason(error)}") from None
    if public and (secret := next(iter(SECRETS & values.keys()), "")):
        raise ValueError(f"{path}: {PUBLIC.format(f'{secret.lower()} in it')}")
    return FileSettings(str(path), values)


def setting_name(key: str, table: Mapping[str, str]) -> str:
    """Return the setting that a key names. Raises: ValueError for none."""
    known = {name.lower(): name for name in table}
    if key in known:
        return known[key]
    near = get_close_matches(key.lower().replace("-", "_"), known, n=1)
    hint = f"; {near[0]} is: is that meant?" if near else ""
    raise ValueError(f"{key!r:.100} is not a setting{hint}")


def setting_text(key: str, value: object) -> str:
    """Return a value of TOML as the environment has it. Raises: ValueError for one that it cannot have."""
    match value:
        case list():
            return ",".join(_item(key, item) for item in value)
        case dict():
            return ",".join(f"{name}={_item(key, item)}" for name, item in value.items())
        case _:
            return _scalar(key, value)


def _item(key: str, value: object) -> str:
    text = _scalar(key, value)
    if "," in text:
        raise ValueError(f"{key}: one of its values has a comma in it, which separates values")
    return text


def _scalar(key: str, value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str() | int() | float():
            return str(value)
        case _:
            kind = type(value).__name__
            raise ValueError(f"{key}: a value is a text, a number, true or false, or several; not a {kind}")
