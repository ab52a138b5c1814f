"""Descriptors as text for people: methods and messages as a .proto file has them. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor

_OF_PROTOBUF = "google.protobuf."
_TYPES = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def signature(method: MethodDescriptor) -> str:
    """Return a method with its messages: `Greet(GreetRequest) returns (GreetResponse)`."""
    given, returned = method.input_type.name, method.output_type.name
    given = f"stream {given}" if method.client_streaming else given
    returned = f"stream {returned}" if method.server_streaming else returned
    return f"{method.name}({given}) returns ({returned})"


def shape(message: Descriptor) -> str:
    """Return the fields of a message as its JSON has them, with types for values: `{"name": string}`."""
    return "{" + ", ".join(f'"{field.json_name}": {_json_type(field)}' for field in message.fields) + "}"


def definitions(methods: Iterable[MethodDescriptor]) -> str:
    """Return the messages and enums of some methods, and those within them, but for protobuf's own."""
    messages: dict[str, Descriptor | EnumDescriptor] = {}
    left: list[Descriptor | EnumDescriptor] = []
    for method in methods:
        left += [method.input_type, method.output_type]
    while left:
        each = left.pop(0)
        if each.full_name in messages or each.full_name.startswith(_OF_PROTOBUF):
            continue
        if isinstance(each, Descriptor):
            left += _types_in(each)
            if each.GetOptions().map_entry:
                continue
        messages[each.full_name] = each
    return "\n\n".join("\n".join(_definition(each)) for each in messages.values())


def _types_in(message: Descriptor) -> Iterator[Descriptor | EnumDescriptor]:
    for field in message.fields:
        found = field.message_type or field.enum_type
        if found is not None:
            yield found


def _definition(each: Descriptor | EnumDescriptor) -> Iterator[str]:
    if isinstance(each, EnumDescriptor):
        yield f"enum {each.full_name} {{"
        yield from (f"  {value.name} = {value.number};" for value in each.values)
    else:
        yield f"message {each.full_name} {{"
        yield from (f"  {_proto_type(field)} {field.name} = {field.number};" for field in each.fields)
    yield "}"


def _entry(field: FieldDescriptor) -> Descriptor | None:
    """Return the entry of a map field; None for any other field."""
    message = field.message_type
    return message if message is not None and message.GetOptions().map_entry else None


def _proto_type(field: FieldDescriptor) -> str:
    if (entry := _entry(field)) is not None:
        key, value = (_type_name(entry.fields_by_name[name]) for name in ("key", "value"))
        return f"map<{key}, {value}>"
    return f"repeated {_type_name(field)}" if field.is_repeated else _type_name(field)


def _json_type(field: FieldDescriptor) -> str:
    if (entry := _entry(field)) is not None:
        key, value = (_type_name(entry.fields_by_name[name]) for name in ("key", "value"))
        return f"{{{key}: {value}}}"
    return f"[{_type_name(field)}]" if field.is_repeated else _type_name(field)


def _type_name(field: FieldDescriptor) -> str:
    found = field.message_type or field.enum_type
    return found.name if found is not None else _TYPES[field.type]
