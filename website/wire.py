"""What travels, as the protos say: services, messages and enums, with the comments that stand beside them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodOptions,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

ROOT = Path(__file__).parents[1] / "proto"
_TYPES = {number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()}
_SERVICE, _MESSAGE, _ENUM = 6, 4, 5  # the numbers of these fields in a FileDescriptorProto,
_METHOD, _FIELD, _NESTED, _NESTED_ENUM, _VALUE = (
    2,
    2,
    3,
    4,
    2,
)  # in what is in these, as paths of locations have them

_Place = tuple[int, ...]


def described(*names: str) -> str:
    """Return the services, messages and enums of some protos in Markdown."""
    return "\n".join(line for file in _read(names) for line in _Page(file).lines())


def _read(names: tuple[str, ...]) -> list[FileDescriptorProto]:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "set")
        well_known = Path(protoc.__file__).parent / "_proto"
        options = [f"--proto_path={ROOT}", f"--proto_path={well_known}", f"--descriptor_set_out={target}"]
        if protoc.main(["protoc", *options, "--include_source_info", *names]):
            raise RuntimeError("protoc has failed")
        return list(FileDescriptorSet.FromString(target.read_bytes()).file)


class _Page:
    """One proto as Markdown."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(each.path): (each.leading_comments + each.trailing_comments).strip()
            for each in file.source_code_info.location
        }
        names = [*(each.name for each in file.message_type), *(each.name for each in file.enum_type)]
        self._own = {f".{file.package}.{name}" for name in names}

    def lines(self) -> Iterator[str]:
        yield f"## {self._file.package}\n\n`{self._file.name}`\n"
        for number, service in enumerate(self._file.service):
            yield from self._service(service, (_SERVICE, number))
        for number, message in enumerate(self._file.message_type):
            yield from self._message(message, (_MESSAGE, number), "")
        for number, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, (_ENUM, number), "")

    def _service(self, service: ServiceDescriptorProto, place: _Place) -> Iterator[str]:
        yield f"### {service.name}\n"
        yield from self._comment(place)
        yield "| method | takes | returns | |\n|---|---|---|---|"
        for index, method in enumerate(service.method):
            level = MethodOptions.IdempotencyLevel.Name(method.options.idempotency_level)
            notes = [self._cell((*place, _METHOD, index))]
            notes += [f"`{level}`"] if level != "IDEMPOTENCY_UNKNOWN" else []
            given = ("stream of " if method.client_streaming else "") + self._type(method.input_type)
            returned = ("stream of " if method.server_streaming else "") + self._type(method.output_type)
            yield f"| `{method.name}` | {given} | {returned} | {' '.join(filter(None, notes))} |"
        yield ""

    def _message(self, message: DescriptorProto, place: _Place, outer: str) -> Iterator[str]:
        if message.options.map_entry:
            return
        name = f"{outer}{message.name}"
        yield f"### {name}\n"
        yield from self._comment(place)
        if message.field:
            yield "| | field | type | |\n|---:|---|---|---|"
            for index, field in enumerate(message.field):
                comment = self._cell((*place, _FIELD, index))
                yield f"| {field.number} | `{field.name}` | {self._of_field(message, field)} | {comment} |"
            yield ""
        else:
            yield "No fields.\n"
        for index, nested in enumerate(message.nested_type):
            yield from self._message(nested, (*place, _NESTED, index), f"{name}.")
        for index, enum in enumerate(message.enum_type):
            yield from self._enum(enum, (*place, _NESTED_ENUM, index), f"{name}.")

    def _enum(self, enum: EnumDescriptorProto, place: _Place, outer: str) -> Iterator[str]:
        yield f"### {outer}{enum.name}\n"
        yield from self._comment(place)
        yield "| | value | |\n|---:|---|---|"
        for index, value in enumerate(enum.value):
            yield f"| {value.number} | `{value.name}` | {self._cell((*place, _VALUE, index))} |"
        yield ""

    def _of_field(self, message: DescriptorProto, field: FieldDescriptorProto) -> str:
        entry = next(
            (each for each in message.nested_type if field.type_name.endswith(f".{each.name}")), None
        )
        if entry is not None and entry.options.map_entry:
            return f"map of {self._plain(entry.field[0])} to {self._plain(entry.field[1])}"
        repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
        optional = field.proto3_optional
        return ("list of " if repeated else "optional " if optional else "") + self._plain(field)

    def _plain(self, field: FieldDescriptorProto) -> str:
        return self._type(field.type_name) if field.type_name else f"`{_TYPES[field.type]}`"

    def _type(self, full_name: str) -> str:
        name = full_name.removeprefix(f".{self._file.package}.").removeprefix(".")
        return f"[`{name}`](#{name.lower()})" if full_name in self._own else f"`{name}`"

    def _comment(self, place: _Place) -> Iterator[str]:
        if text := self._comments.get(place):
            yield f"{text}\n"

    def _cell(self, place: _Place) -> str:
        return " ".join(self._comments.get(place, "").split()).replace("|", "\\|")
