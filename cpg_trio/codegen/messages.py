"""Which module a message is in, and how it is written there."""

from __future__ import annotations

import keyword
from collections.abc import Collection, Iterable, Iterator, Mapping

import attrs
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from cpg_trio.codegen import bundled, refusals
from cpg_trio.codegen.names import OF_MESSAGES, folder_of, is_hidden, module_of


@attrs.frozen
class Place:
    """Where a message is."""

    proto: str
    """The file that declares it."""
    path: tuple[str, ...]
    """Its name within the module, with the names of the messages around it."""


class Messages:
    """All messages of some files. Those of `generated` are in a package, if one is named.

    Raises: GenerationError for files that no code can be made of.
    """

    def __init__(
        self, files: Iterable[FileDescriptorProto], generated: Collection[str], package: str = ""
    ) -> None:
        self.package = package
        self._files = {file.name: file for file in files}
        refusals.check((self._files[name] for name in generated), package)
        self._generated = generated
        self._modules: dict[str, str] = {}
        self._places: dict[str, Place] = {}
        self._pool = DescriptorPool()
        for file in self._files.values():
            self._pool.AddSerializedFile(file.SerializeToString())
            prefix = f".{file.package}" if file.package else ""
            self._places.update(_places(file.name, prefix, (), file))

    @property
    def generated(self) -> Iterator[FileDescriptorProto]:
        """The files that code is generated for."""
        return (self._files[name] for name in self._generated)

    def descriptor(self, proto: str) -> FileDescriptor:
        """Return what protobuf makes of a file."""
        return self._pool.FindFileByName(proto)

    def modules(self) -> Mapping[str, str]:
        """Return where the module of each file is, by where protoc takes it to be."""
        return {module_of(name): self.module(name) for name in self._files}

    def place(self, type_name: str) -> Place:
        """Return where a message is that is named as descriptors do, with a dot at the beginning."""
        return self._places[type_name]

    def are_beside(self, proto: str, other: str) -> bool:
        """Whether the modules of two files are in one package, and so import each other relatively."""
        folder = folder_of(proto)
        return (
            folder == folder_of(other)
            and other in self._generated
            and (bool(self.package) or folder != ".")  # which is no package, as far as is known
        )

    def imports_for(self, proto: str) -> Imports:
        """Return what the stubs of a file import."""
        return Imports(self, proto)

    def module(self, proto: str) -> str:
        """Return the full name of the module of a file, from the top."""
        if proto not in self._modules:
            self._modules[proto] = self._find(proto)
        return self._modules[proto]

    def _find(self, proto: str) -> str:
        module = module_of(proto)
        if proto in self._generated:
            return f"{self.package}.{module}" if self.package else module
        return bundled.module(proto) if bundled.provides(self._files[proto]) else module


class Imports:
    """The modules that the stubs of one file import, as they are needed."""

    def __init__(self, messages: Messages, proto: str) -> None:
        self._messages = messages
        self._proto = proto
        self._aliases: dict[str, str] = {}  # by proto

    def message(self, type_name: str) -> str:
        """Return the expression for a message, whose module is imported."""
        place = self._messages.place(type_name)
        expression = self._alias(place.proto)
        for depth, name in enumerate(place.path):
            hidden = is_hidden(name, OF_MESSAGES if depth else ())
            expression = f'getattr({expression}, "{name}")' if hidden else f"{expression}.{name}"
        return expression

    def annotation(self, type_name: str) -> str:
        """Return the type of a message for annotations."""
        expression = self.message(type_name)
        return "Any" if "getattr(" in expression or self._is_dynamic(type_name) else expression

    def module(self, proto: str) -> str:
        """Return the full name of the module of a file, from the top."""
        return self._messages.module(proto)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the imports."""
        dynamic, usual = [], []
        for proto, alias in self._aliases.items():
            module = self._module(proto)
            if any(keyword.iskeyword(part) for part in module.split(".")):
                dynamic.append(f'{alias}: Any = import_module("{module}")')
                continue
            folder, _, name = module.rpartition(".")
            from_ = "from . " if self._is_beside(proto) else f"from {folder} " if folder else ""
            usual.append(f"{from_}import {name} as {alias}")
        yield from sorted(usual)
        if dynamic:
            yield ""
            yield from sorted(dynamic)

    def _module(self, proto: str) -> str:
        """Return the module to import for a file; that of one beside is named without its folder."""
        module = self._messages.module(proto)
        return module.rpartition(".")[2] if self._is_beside(proto) else module

    def _is_beside(self, proto: str) -> bool:
        return self._messages.are_beside(self._proto, proto)

    def _is_dynamic(self, type_name: str) -> bool:
        module = self._module(self._messages.place(type_name).proto)
        return any(keyword.iskeyword(part) for part in module.split("."))

    def _alias(self, proto: str) -> str:
        """Return the name under which the module of a file is imported."""
        if proto not in self._aliases:
            alias = "_pb2" if proto == self._proto else f"_{module_of(proto).replace('.', '_').lstrip('_')}"
            while alias in self._aliases.values():
                alias += "_"
            self._aliases[proto] = alias
        return self._aliases[proto]


def _places(
    proto: str, prefix: str, path: tuple[str, ...], around: FileDescriptorProto | DescriptorProto
) -> Iterator[tuple[str, Place]]:
    """Yield the messages and enums in a file or a message."""
    for enum in around.enum_type:
        yield f"{prefix}.{enum.name}", Place(proto, (*path, enum.name))
    for message in around.message_type if isinstance(around, FileDescriptorProto) else around.nested_type:
        name, inner = f"{prefix}.{message.name}", (*path, message.name)
        yield name, Place(proto, inner)
        yield from _places(proto, name, inner, message)
