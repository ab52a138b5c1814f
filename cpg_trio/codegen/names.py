"""Names of Python for names of protos. Those of modules are protoc's, as its own output is imported."""

from __future__ import annotations

import keyword
from collections.abc import Collection
from functools import cache
from pathlib import Path, PurePosixPath

from google import protobuf
from google.protobuf.message import Message

from cpg_trio.rpc import Service, ServiceClient

_IN_CLASSES = {"rpc", "str", "tuple"}  # names that the classes of stubs use
_RESERVED = frozenset(
    {*dir(Service), *dir(ServiceClient), *Service.__annotations__, *keyword.kwlist, *_IN_CLASSES}
)


OF_MESSAGES = frozenset(dir(Message))
"""What each message has."""


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
    if is_hidden(snake) and snake.startswith("__"):
        snake = f"_{snake.lstrip('_')}"
    return f"{snake}_" if snake in _RESERVED else snake


def is_hidden(name: str, others: Collection[str] = ()) -> bool:
    """Whether a name cannot be written after a dot in a class, or is one of others that mean something else.

    Only `getattr` has what is called so.
    """
    return keyword.iskeyword(name) or (name.startswith("__") and not name.endswith("__")) or name in others


def module_of(proto: str) -> str:
    """Return the module that protoc's code for a file is: of `a/my-file.proto` and `a.my-file.proto` alike.

    It is `a.my_file_pb2`.
    """
    return f"{_stem(proto).replace('/', '.')}_pb2"


@cache
def well_known() -> frozenset[str]:
    """Return the files whose code comes with protobuf."""
    package = Path(str(protobuf.__file__)).parent
    modules = (path.relative_to(package).as_posix() for path in package.rglob("*_pb2.py"))
    return frozenset(f"google/protobuf/{module.removesuffix('_pb2.py')}.proto" for module in modules)


def stub_path(proto: str) -> str:
    """Return the path of the stubs of a file: `a/my-file.proto` has `a/my_file_trio.py`."""
    return f"{_stem(proto)}_trio.py"


def types_path(proto: str) -> str:
    """Return the path of the types of the messages of a file."""
    return f"{_stem(proto)}_pb2.pyi"


def folder_of(proto: str) -> str:
    """Return the folder of a file."""
    return str(PurePosixPath(_stem(proto)).parent)


def _stem(proto: str) -> str:
    return proto.removesuffix(".proto").replace("-", "_").replace(".", "/")
