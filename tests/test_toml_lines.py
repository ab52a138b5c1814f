"""The lines of a TOML file: each table, key and value has that in which it is written."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from cpg_trio._toml_lines import Path, lines_of

SCALARS = (
    *("1", "-0.5e3", "true", "inf", "1979-05-27 07:32:00", "1979-05-27T07:32:00Z", "07:32:00", "0xff"),
    *('"a # ] } , = [x]"', "'\\'", '"\\""', '""', "''", '"""a\n[b]\n# "" c"""', "'''\n'a' ''c'''", '""""""'),
    *('"""\\\n   x\\""""""', "'''it''s'''''", '"é\\u0041"'),
)


class Writer:
    """Writes a document in which each key has a name of its own."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._count = 0

    def key(self) -> str:
        self._count += 1
        name = f"k{self._count}k"
        return self._draw(st.sampled_from([name, f'"{name}"', f"'{name}'", f'"{name} .#]"']))

    def dotted(self) -> str:
        return self._draw(st.sampled_from([".", " . "])).join(self.key() for _ in range(self._int(1, 2)))

    def document(self) -> str:
        parts = [self.pairs()]
        for _ in range(self._int(0, 4)):
            header, is_array = self.dotted(), self._draw(st.booleans())
            for _ in range(self._int(1, 3) if is_array else 1):
                parts.append(f"[[ {header} ]]" if is_array else f"[{header}]  # [no]")
                parts.append(self.pairs())
                if self._draw(st.booleans()):
                    parts += [f"[{header}.{self.key()}]", self.pairs()]
        return self._draw(st.sampled_from(["\n", "\n\n# c = 1\n\n"])).join(parts)

    def pairs(self) -> str:
        return "\n".join(f"{self.dotted()} = {self.value(2)} # x = 1" for _ in range(self._int(0, 3)))

    def value(self, depth: int) -> str:
        kind = self._int(0, 3) if depth else 0
        if kind == 1:
            between = self._draw(st.sampled_from([", ", ",\n  # ]\n  "]))
            return f"[ {between.join(self.value(depth - 1) for _ in range(self._int(0, 3)))} ]"
        if kind == 2:
            pairs = (f"{self.dotted()} = {self.value(depth - 1)}" for _ in range(self._int(0, 3)))
            return f"{{ {', '.join(pairs)} }}"
        return self._draw(st.sampled_from(SCALARS))

    def _int(self, least: int, most: int) -> int:
        return self._draw(st.integers(least, most))


@st.composite
def documents(draw: st.DrawFn) -> str:
    return Writer(draw).document()


def paths_of(value: Any, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in pairs:
        yield from paths_of(each, (*path, key))


@settings(max_examples=150)
@given(documents())
def test_each_key_of_any_document_has_the_line_that_it_is_in(text: str) -> None:
    lines = lines_of(text)
    paths = list(paths_of(tomllib.loads(text)))
    assert set(lines) == set(paths)
    for path in paths:
        if isinstance(key := path[-1], str):
            assert key in text.split("\n")[lines[path] - 1], path


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 1),
        (("b", "c"), 2),
        (("plugins",), 5),
        (("plugins", "x.y"), 5),
        (("plugins", "x.y", "list", 1), 8),
        (("plugins", "x.y", "list", 1, "z"), 8),
        (("more", 1, "e"), 13),
    ],
)
def test_each_has_the_line_that_an_editor_shows(path: Path, line: int) -> None:
    text = 'a = 1\nb.c = """x\n[y]\n""" # c\n[plugins."x.y"]\nlist = [ 1,\n# no\n { z = 1 }]\n\n'
    assert lines_of(text + "[[more]]\nd = 1\n[[more]]\ne = 1")[path] == line
