"""The text of a proto: lines for messages about it, and comments, which become docstrings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf.descriptor_pb2 import FileDescriptorProto, SourceCodeInfo


class Locations:
    """Where things are in a file, and the comments before them. Things are named by paths of descriptors."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._name = file.name
        self._by_path: dict[tuple[int, ...], SourceCodeInfo.Location] = {
            tuple(location.path): location for location in file.source_code_info.location
        }

    def place(self, *path: int) -> str:
        """Return the file with the line, from 1, of what is at a path."""
        location = self._by_path.get(path)
        return f"{self._name}:{location.span[0] + 1}" if location is not None else self._name

    def comment(self, *path: int) -> list[str]:
        """Return the lines of the comment before what is at a path, or else of the one behind it."""
        location = self._by_path.get(path)
        text = (location.leading_comments or location.trailing_comments) if location is not None else ""
        lines = [line.removeprefix(" ").rstrip() for line in text.strip("\n").splitlines()]
        while lines and not lines[-1]:
            lines.pop()
        return lines


def docstring(lines: Sequence[str], depth: int) -> Iterator[str]:
    """Yield a docstring of lines that may have anything in them."""
    indent = "    " * depth
    escaped = [line.replace("\\", "\\\\").replace('"""', '\\"\\"\\"') for line in lines]
    if escaped[-1].endswith('"'):
        escaped[-1] = f'{escaped[-1][:-1]}\\"'
    if len(escaped) == 1:
        yield f'{indent}"""{escaped[0]}"""'
        return
    yield f'{indent}"""{escaped[0]}'
    yield from (f"{indent}{line}" if line else "" for line in escaped[1:])
    yield f'{indent}"""'
