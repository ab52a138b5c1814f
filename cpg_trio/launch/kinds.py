"""The kinds of values of a platform file: how each is read, and what the JSON schema says of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import attrs

from cpg_trio import wire
from cpg_trio._units import SIZE, TIME, parse_size, parse_time
from cpg_trio.http import Origin
from cpg_trio.launch.places import Place, nearest

Schema = Mapping[str, Any]

_MOST = 2**53  # up to which JSON and TOML have the same numbers
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TARGET = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


class Kind(Protocol):
    """A kind of value."""

    def read(self, value: object, at: Place) -> Any:
        """Return the value as the program has it. What is wrong with it is noted at the place."""
        ...

    @property
    def schema(self) -> Schema:
        """What the JSON schema says of it."""
        ...


def shown(value: object) -> str:
    """Return a value as a message has it."""
    match value:
        case bool():
            return str(value).lower()
        case str() | int() | float():
            return f"{value!r:.100}"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return f"a {type(value).__name__}"


@attrs.frozen
class Text:
    """A text that a function reads, which raises ValueError `must be …` for what is none."""

    parse: Callable[[str], Any] = str
    pattern: str = ""
    example: str = "a text"

    def read(self, value: object, at: Place) -> Any:
        """Return what the function makes of the text."""
        if not isinstance(value, str) or not value:
            at.problem(f"must be {self.example}, not {shown(value)}")
            return None
        try:
            return self.parse(value)
        except ValueError as error:
            text = str(error)
            at.problem(text if text.startswith("must ") else f"must be {self.example}: {text}")
            return None

    @property
    def schema(self) -> Schema:
        """A text that matches the pattern."""
        return {"type": "string", "minLength": 1} | ({"pattern": self.pattern} if self.pattern else {})


@attrs.frozen
class Switch:
    """True or false."""

    def read(self, value: object, at: Place) -> bool | None:
        """Return it."""
        if isinstance(value, bool):
            return value
        at.problem(f"must be true or false, not {shown(value)}")
        return None

    @property
    def schema(self) -> Schema:
        """True or false."""
        return {"type": "boolean"}


@attrs.frozen
class Count:
    """A whole number."""

    least: int = 0
    most: int = _MOST

    def read(self, value: object, at: Place) -> int | None:
        """Return the number."""
        if isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most:
            return value
        most = f" to {self.most}" if self.most < _MOST else " on"
        at.problem(f"must be a whole number from {self.least}{most}, not {shown(value)}")
        return None

    @property
    def schema(self) -> Schema:
        """A whole number in its bounds."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@attrs.frozen
class Quantity:
    """A text with a unit, or a plain number: seconds, bytes."""

    parse: Callable[[str], float]
    pattern: str
    example: str
    above: bool = True
    """Whether it has to be more than nothing."""

    def read(self, value: object, at: Place) -> Any:
        """Return the quantity in its unit without a prefix."""
        found: float | None = None
        if isinstance(value, str):
            try:
                found = self.parse(value)
            except ValueError as error:
                at.problem(str(error))
                return None
        elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST:
            found = value
        if found is None or (not found and self.above):
            above = " above nothing" if found is not None else ""
            at.problem(f"must be {self.example}{above}, not {shown(value)}")
            return None
        return found

    @property
    def schema(self) -> Schema:
        """A text of the pattern, or a number."""
        bound = {"exclusiveMinimum": 0} if self.above else {"minimum": 0}
        return {"anyOf": [{"type": "string", "pattern": self.pattern}, {"type": "number", **bound}]}


@attrs.frozen
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def read(self, value: object, at: Place) -> str | None:
        """Return the word."""
        if value in self.words:
            return str(value)
        near = nearest(value, self.words) if isinstance(value, str) else ""
        at.problem(f"must be one of {', '.join(self.words)}, not {shown(value)}{near}")
        return None

    @property
    def schema(self) -> Schema:
        """The words."""
        return {"enum": list(self.words)}


@attrs.frozen
class ListOf:
    """Several of a kind."""

    kind: Kind
    example: str
    least: int = 0
    unique: bool = True

    def read(self, value: object, at: Place) -> tuple[Any, ...] | None:
        """Return them."""
        if not isinstance(value, list):
            at.problem(f"must be a list, as in {self.example}, not {shown(value)}")
            return None
        if len(value) < self.least:
            at.problem(f"must not be empty, as in {self.example}")
        if self.unique:
            for each in sorted({str(each) for each in value if value.count(each) > 1}):
                at.problem(f"has {each!r:.100} twice")
        found = (self.kind.read(each, at.at(index)) for index, each in enumerate(value))
        return tuple(each for each in found if each is not None)

    @property
    def schema(self) -> Schema:
        """A list of them."""
        return {
            "type": "array",
            "items": self.kind.schema,
            "minItems": self.least,
            "uniqueItems": self.unique,
        }


@attrs.frozen
class Variables:
    """A table of environment variables: names, and values of a kind."""

    kind: Kind
    example: str

    def read(self, value: object, at: Place) -> Mapping[str, Any] | None:
        """Return them."""
        if not isinstance(value, dict):
            at.problem(f"must be a table, as in {self.example}, not {shown(value)}")
            return None
        for name in value:
            if not _VARIABLE.fullmatch(name):
                at.at(name).problem("is no name of a variable: those are letters, digits and _")
        found = {name: self.kind.read(each, at.at(name)) for name, each in value.items()}
        return {name: each for name, each in found.items() if each is not None}

    @property
    def schema(self) -> Schema:
        """A table whose keys are names of variables."""
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^{_VARIABLE.pattern}$"},
            "additionalProperties": self.kind.schema,
        }


@attrs.frozen
class Scalar:
    """What a variable has: a text, a number, true or false."""

    def read(self, value: object, at: Place) -> str | None:
        """Return its text."""
        match value:
            case bool():
                return str(value).lower()
            case str() if "\0" in value:
                at.problem("must not have the character NUL in it")
            case str() | int() | float():
                return str(value)
            case _:
                at.problem(f"must be a text, a number, true or false, not {shown(value)}")
        return None

    @property
    def schema(self) -> Schema:
        """Those types."""
        return {"type": ["string", "number", "boolean"]}


@attrs.frozen
class Key:
    """A key of a table."""

    kind: Kind
    meaning: str
    """With its default, as in `seconds (default: 15)`."""
    launchers: tuple[str, ...] = ()
    """The launchers that use it; none for all."""


@attrs.frozen
class Table:
    """A table whose keys are the fields of a class."""

    cls: type[Any]
    example: str

    def read(self, value: object, at: Place, **more: object) -> Any:
        """Return an object of the class, whose other fields are given."""
        if not isinstance(value, dict):
            at.problem(f"must be a table, as in {self.example}, not {shown(value)}")
            return None
        keys = keys_of(self.cls)
        for name in value.keys() - keys.keys():
            at.at(name).unknown(keys)
        found = {
            name: keys[name].kind.read(each, at.at(name)) for name, each in value.items() if name in keys
        }
        return self.cls(**found, **more)

    @property
    def schema(self) -> Schema:
        """A table of these keys, and no others."""
        keys = keys_of(self.cls).items()
        return {
            "type": "object",
            "properties": {name: {"description": key.meaning, **key.kind.schema} for name, key in keys},
            "additionalProperties": False,
        }


def key(kind: Kind, meaning: str, *launchers: str) -> Any:
    """Return the field of a class that is a key of a table; None if the table does not have it."""
    return attrs.field(default=None, metadata={"key": Key(kind, meaning, launchers)})


def keys_of(cls: type[Any]) -> dict[str, Key]:
    """Return the keys that the fields of a class are, by name."""
    return {field.name: field.metadata["key"] for field in attrs.fields(cls) if "key" in field.metadata}


def _whole(pattern: re.Pattern[str]) -> str:
    return f"^{pattern.pattern}$"


def _checked(check: Callable[[str], object]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        check(text)
        return text

    return parse


def _target(text: str) -> str:
    if not _TARGET.fullmatch(text):
        raise ValueError(f"must be module:attribute, as in 'greeter.plugin:plugin', not {text!r:.100}")
    return text


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not have the character NUL in it")
    return text


def _variable(text: str) -> str:
    if not _VARIABLE.fullmatch(text):
        raise ValueError(f"must be the name of a variable, as in 'DATABASE_URL', not {text!r:.100}")
    return text


TIME_KIND = Quantity(parse_time, _whole(TIME), "a time such as '30s', '10m' or '1.5h'")
TIME_OR_NONE = Quantity(parse_time, _whole(TIME), "a time such as '30s', '10m' or '1.5h'", above=False)
SIZE_KIND = Quantity(parse_size, _whole(SIZE), "a size such as '512MiB' or '2GiB'")
NAME = Text(_checked(wire.validate_self_id), example="a name of a plugin")
SERVICE = Text(_checked(wire.validate_service_type), example="a service type")
TARGET = Text(_target, _whole(_TARGET), "module:attribute, as in 'greeter.plugin:plugin'")
WORD = Text(_without_nul)
PATH = Text(lambda text: Path(_without_nul(text)), example="a path")
URL = Text(_checked(Origin.parse), example="a URL, as in 'http://127.0.0.1:8081'")
VARIABLE = Text(_variable, _whole(_VARIABLE), "the name of a variable")


def names(words: Iterable[Any]) -> tuple[str, ...]:
    """Return the words of an enumeration."""
    return tuple(each.value for each in words)
