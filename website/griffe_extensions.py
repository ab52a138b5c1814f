"""What the reference shows beside what griffe reads by itself.

What constructors of attrs classes take, as griffe shows it of dataclasses alone; and, in docstrings, links to
the names in backticks that are public.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from griffe import (
    Attribute,
    Class,
    Expr,
    ExprCall,
    ExprKeyword,
    Extension,
    Function,
    Module,
    Object,
    Parameter,
    ParameterKind,
    Parameters,
)

from website import api

_NAME = re.compile(r"(?<![`\[])`([A-Z]\w*(?:\.\w+)*)`(?!`)")  # a function may have the name of a method
_DECORATORS = {"attrs.frozen", "attrs.define", "attrs.mutable"}


class AttrsExtension(Extension):
    """Gives attrs classes their `__init__`, and attributes their defaults in place of `attrs.field(...)`."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Go through a package that has been read."""
        classes = list(_classes(pkg))
        inits = {class_.path: _parameters(class_) for class_ in classes if _options(class_) is not None}
        for class_ in classes:
            if class_.path in inits and "__init__" not in class_.members:
                parents = [inits.get(parent.path, []) for parent in reversed(class_.mro())]
                _set_init(class_, [each for own in (*parents, inits[class_.path]) for each in own])
        for class_ in classes:
            for attribute in _fields(class_) if class_.path in inits else ():
                attribute.value = _default(attribute)


def _classes(module: Module | Class) -> Iterator[Class]:
    for member in list(module.members.values()):
        if member.is_alias:
            continue
        if isinstance(member, Class):
            yield member
        if isinstance(member, Module | Class):
            yield from _classes(member)


def _options(class_: Class) -> dict[str, str] | None:
    """Return the arguments of the decorator of an attrs class; None for another class."""
    for decorator in class_.decorators:
        if isinstance(decorator.value, Expr) and decorator.value.canonical_path in _DECORATORS:
            return {name: str(value) for name, value in _arguments(decorator.value).items()}
    return None


def _arguments(expression: object) -> dict[str, Any]:
    if not isinstance(expression, ExprCall):
        return {}
    return {each.name: each.value for each in expression.arguments if isinstance(each, ExprKeyword)}


def _fields(class_: Class) -> Iterator[Attribute]:
    for member in class_.members.values():
        if not isinstance(member, Attribute) or member.annotation is None or "property" in member.labels:
            continue
        if "ClassVar" not in str(member.annotation):
            yield member


def _field(attribute: Attribute) -> dict[str, Any] | None:
    """Return the arguments of `attrs.field(...)`; None where there is another default, or none."""
    value = attribute.value
    is_field = isinstance(value, ExprCall) and value.function.canonical_path == "attrs.field"
    return _arguments(value) if is_field else None


def _default(attribute: Attribute) -> Any:
    field = _field(attribute)
    if field is None:
        return attribute.value
    if "factory" in field:
        return ExprCall(function=field["factory"], arguments=[])
    return field.get("default")


def _parameters(class_: Class) -> list[Parameter]:
    all_by_keyword = (_options(class_) or {}).get("kw_only") == "True"
    found = []
    for attribute in _fields(class_):
        field = _field(attribute) or {}
        if str(field.get("init")) == "False":
            continue
        by_keyword = all_by_keyword or str(field.get("kw_only")) == "True"
        kind = ParameterKind.keyword_only if by_keyword else ParameterKind.positional_or_keyword
        name = str(field.get("alias", attribute.name)).strip("'\"").lstrip("_")
        found.append(Parameter(name, annotation=attribute.annotation, kind=kind, default=_default(attribute)))
    return found


def _set_init(class_: Class, parameters: list[Parameter]) -> None:
    last = {each.name: each for each in parameters}.values()
    by_position = [each for each in last if each.kind is not ParameterKind.keyword_only]
    by_keyword = [each for each in last if each.kind is ParameterKind.keyword_only]
    own = Parameter("self", kind=ParameterKind.positional_or_keyword)
    init = Function(
        "__init__", parent=class_, parameters=Parameters(own, *by_position, *by_keyword), lineno=0
    )
    class_.set_member("__init__", init)


class LinksExtension(Extension):
    """Makes links of the public names in backticks in docstrings, and shows what is raised in bold."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Go through a package that has been read."""
        public = api.by_name()
        for each in _objects(pkg):
            if each.docstring is not None:
                each.docstring.value = _linked(each.docstring.value, public)


def _objects(module: Object) -> Iterator[Object]:
    for member in list(module.members.values()):
        if not member.is_alias and isinstance(member, Object):
            yield member
            yield from _objects(member)


def _linked(text: str, public: Mapping[str, str]) -> str:
    def link(found: re.Match[str]) -> str:
        first, _, rest = found[1].partition(".")
        if first not in public or rest.startswith("_"):
            return found[0]
        return f"[`{found[1]}`][{public[first]}]"

    text = re.sub(r"\[([^]]+)\]\[\]", r"\1", text)  # connectrpc's own links, to names as it calls them
    text = _NAME.sub(link, text)
    return re.sub(r"(^|(?<=\. ))(Raises|Returns|Yields): ", r"**\2:** ", text, flags=re.MULTILINE)
