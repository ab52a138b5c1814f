"""Protos that no code can be made of. They are refused before anything is written, by file and line."""

from __future__ import annotations

import keyword
from collections.abc import Iterable

from google.protobuf.descriptor_pb2 import Edition, FileDescriptorProto, ServiceDescriptorProto

from cpg_trio.codegen import bundled
from cpg_trio.codegen.names import GenerationError, module_of, well_known
from cpg_trio.codegen.source import Locations

NEWEST = Edition.EDITION_2024
"""The newest edition whose files are understood."""
_MESSAGE = FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER
_SERVICE = FileDescriptorProto.SERVICE_FIELD_NUMBER
_METHOD = ServiceDescriptorProto.METHOD_FIELD_NUMBER
_ENUM = FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER
# What protoc's modules use themselves. A message or enum of the name would take its place.
_OF_MODULES = frozenset(
    {
        *("DESCRIPTOR", "_builder", "_descriptor", "_descriptor_pool", "_globals", "_runtime_version"),
        *("_sym_db", "_symbol_database", "importlib"),
    }
)


def check_modules(protos: Iterable[str]) -> None:
    """Check that the code of files can be imported, and that of each is its own. Raises: GenerationError."""
    by_module: dict[str, str] = {}
    for proto in protos:
        module = module_of(proto)
        other = by_module.setdefault(module, proto)
        if other != proto:
            raise GenerationError(
                f"{proto}: its code would be {module}, as that of {other}: rename one of them"
            )
        for part in module.split("."):
            # Keywords are imported by importlib, also by protoc's own code.
            if not (part.isascii() and (part.isidentifier() or keyword.iskeyword(part))):
                raise GenerationError(
                    f"{proto}: its code would be {module}, and {part!r} is no name of Python: files and"
                    " folders have letters, digits, - and _, and do not begin with a digit"
                )


def check(files: Iterable[FileDescriptorProto], package: str) -> None:
    """Check what is in files that code is to be made of, for a package. Raises: GenerationError."""
    for file in files:
        _check_edition(file)
        _check_imports(file)
        _check_names(file)
        _check_methods(file)
        if package != bundled.PACKAGE:
            bundled.check(file)


def _check_edition(file: FileDescriptorProto) -> None:
    if file.edition > NEWEST:
        place = Locations(file).place(FileDescriptorProto.EDITION_FIELD_NUMBER)
        edition, newest = (Edition.Name(each).removeprefix("EDITION_") for each in (file.edition, NEWEST))
        raise GenerationError(f"{place}: edition {edition}: the newest that can be read is {newest}")


def _check_imports(file: FileDescriptorProto) -> None:
    for number, proto in enumerate(file.dependency):
        if proto.startswith("google/protobuf/") and proto not in well_known():
            place = Locations(file).place(FileDescriptorProto.DEPENDENCY_FIELD_NUMBER, number)
            raise GenerationError(
                f"{place}: protobuf has no code for Python of {proto}: where it is for options alone,"
                " import it by `import option` of edition 2024"
            )


def _check_names(file: FileDescriptorProto) -> None:
    messages = [(_MESSAGE, number, each.name) for number, each in enumerate(file.message_type)]
    enums = [(_ENUM, number, each.name) for number, each in enumerate(file.enum_type)]
    for kind, number, name in (*messages, *enums):
        if name in _OF_MODULES:
            place = Locations(file).place(kind, number)
            raise GenerationError(f"{place}: each module of protobuf has another {name}: rename it")


def _check_methods(file: FileDescriptorProto) -> None:
    for number, service in enumerate(file.service):
        for index, method in enumerate(service.method):
            if "DESCRIPTOR" in (*method.input_type.split("."), *method.output_type.split(".")):
                place = Locations(file).place(_SERVICE, number, _METHOD, index)
                raise GenerationError(
                    f"{place}: {service.name}/{method.name} has a message DESCRIPTOR, and each message has"
                    " another one in Python: rename it"
                )
