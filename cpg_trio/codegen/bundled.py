"""The protos that come with this package: the wire contract, the host's logger, and those of the example.

A user's proto imports them by the names that they have here (`import "logger/v1/logger.proto"`), without a
copy. Their code is in `cpg_trio.protos`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

from cpg_trio.codegen.names import GenerationError, module_of
from cpg_trio.codegen.source import Locations

PACKAGE = "cpg_trio.protos"
_EXAMPLES = ("api/", "logger/", "storage/")  # which only a process that runs the example loads


@cache
def folder() -> Path:
    """Return the folder that imports of these protos begin at."""
    package = Path(__file__).parents[1]
    installed = package / "protos"
    if (installed / "connectplugin/v1/connectplugin.proto").exists():
        return installed
    return package.parent / "proto"  # of a checkout: it is a wheel that has the protos beside their code


def provides(file: FileDescriptorProto) -> bool:
    """Whether a file is one of these: by its name, and by what is in it."""
    if not (folder() / file.name).is_file():
        return False
    own = FileDescriptorProto.FromString(import_module(module(file.name)).DESCRIPTOR.serialized_pb)
    return own == _as_compiled(file)


def module(proto: str) -> str:
    """Return the module of the messages of a file."""
    return f"{PACKAGE}.{module_of(proto)}"


def check(file: FileDescriptorProto) -> None:
    """Check that code for a file can be loaded beside this package's own. Raises: GenerationError.

    A process has one set of protobuf's descriptors. A second file or message of a name is an error in it,
    unless it is the same.
    """
    packages = {".".join(path.parts[:-1]) for path in _platform()}
    if Path(file.name) in _platform() and not provides(file):
        raise GenerationError(
            f"{file.name}: cpg_trio has another file of this name, and no process can load both:"
            " rename it, or delete it and import the one of cpg_trio"
        )
    if file.package in packages and not provides(file):
        place = Locations(file).place(FileDescriptorProto.PACKAGE_FIELD_NUMBER)
        raise GenerationError(
            f"{place}: the package {file.package} is one of cpg_trio, and no process can load both:"
            " rename it, or import what cpg_trio has"
        )


@cache
def _platform() -> frozenset[Path]:
    """Return the files whose code is in each process that uses this package."""
    found = (path.relative_to(folder()) for path in folder().rglob("*.proto"))
    return frozenset(path for path in found if not path.as_posix().startswith(_EXAMPLES))


def _as_compiled(file: FileDescriptorProto) -> FileDescriptorProto:
    """Return a file as protoc puts it into Python code: without comments, lines and names in JSON."""
    out = FileDescriptorProto()
    out.CopyFrom(file)
    out.ClearField("source_code_info")
    for field in out.extension:
        field.ClearField("json_name")
    for message in out.message_type:
        _without_json_names(message)
    return out


def _without_json_names(message: DescriptorProto) -> None:
    for field in (*message.field, *message.extension):
        field.ClearField("json_name")
    for inner in message.nested_type:
        _without_json_names(inner)
