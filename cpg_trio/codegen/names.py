"""Names of Python for names of protos. Those of modules are protoc's, as its own output is imported."""

from __future__ import annotations

import keyword
from pathlib import PurePosixPath

from google.protobuf.descriptor_pb2 import FileDescriptorProto, SourceCodeInfo

from cpg_trio.rpc import Service, ServiceClient

_RESERVED = frozenset({*dir(Service), *dir(ServiceClient), *Service.__annotations__, *keyword.kwlist})


class GenerationError(Exception):
    """Something in a proto has no stub. The message has the file and the line."""


def snake_case(name: str) -> str:
    """Return a proto name as Python spells it: `GetHealth` is `get_health`, `HTTPGet` is `http_get`."""
    out: list[str] = []
    for i, char in enumerate(name):
        starts_word = char.isupper() and i > 0 and name[i - 1] != "_"
        if starts_word and (not name[i - 1].isupper() or name[i + 1 : i + 2].islower()):
            out.append("_")
        out.append(char.lower())
    return "".join(out)


def method_name(name: str) -> str:
    """Return the name of a method. One that stubs have a use for, or Python, gets an underscore."""
    snake = snake_case(name)
    return f"{snake}_" if snake in _RESERVED else snake


def module_of(proto: str) -> str:
    """Return the module that protoc's Python output for a file is: `a/my-file.proto` is `a.my_file_pb2`."""
    return _stem(proto).replace("/", ".") + "_pb2"


def stub_path(proto: str) -> str:
    """Return the path of the stubs of a file: `a/my-file.proto` has `a/my_file_trio.py`."""
    return f"{_stem(proto)}_trio.py"


def folder_of(proto: str) -> str:
    """Return the folder of a file."""
    return str(PurePosixPath(_stem(proto)).parent)


def _stem(proto: str) -> str:
    return proto.removesuffix(".proto").replace("-", "_")


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
        """Return the lines of the comment before what is at a path, without those that protoc adds."""
        location = self._by_path.get(path)
        text = location.leading_comments if location is not None else ""
        lines = [line.removeprefix(" ").rstrip() for line in text.strip("\n").splitlines()]
        while lines and not lines[-1]:
            lines.pop()
        return lines
