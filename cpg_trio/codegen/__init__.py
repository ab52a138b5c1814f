"""`protoc-gen-cpg-trio`: typed Trio stubs for the services of .proto files.

A plugin of protoc and buf. Beside `storage_pb2.py`, which is protoc's, it writes `storage_pb2.pyi`, the types
of its messages, and `storage_trio.py` with, for each service,

- `StorageService`: the base class of an implementation (for a service that is called `StorageService`
  already, the same);
- `StorageClient`: a typed client, one method for each RPC.

Option (`--cpg-trio_opt`): `package=shop._gen` says in which Python package the output is, of all that is
generated in one run (with buf: `strategy: all`). Without it, files of other folders are imported from the
top, as by protoc's own output.

What stands on what:

    names       names of Python for names of protos
    bundled     the protos that come with this package
    refusals    what no code can be made of
    messages    which module a message is in, and how it is written there
    stubs       the text of a module
    project     all protos of a project (imported by who generates)
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from google.protobuf.compiler import plugin_pb2
from google.protobuf.descriptor_pb2 import Edition

from cpg_trio.codegen import refusals
from cpg_trio.codegen.message_types import message_types
from cpg_trio.codegen.messages import Messages
from cpg_trio.codegen.names import (
    GenerationError as GenerationError,
    snake_case as snake_case,
    stub_path,
    types_path,
)
from cpg_trio.codegen.stubs import stubs

_FEATURES = (
    plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    | plugin_pb2.CodeGeneratorResponse.FEATURE_SUPPORTS_EDITIONS
)


def generate(request: plugin_pb2.CodeGeneratorRequest) -> plugin_pb2.CodeGeneratorResponse:
    """Answer protoc: one file for each .proto file that declares a service."""
    response = plugin_pb2.CodeGeneratorResponse(
        supported_features=_FEATURES,
        minimum_edition=Edition.EDITION_PROTO2,
        maximum_edition=refusals.NEWEST,
    )
    try:
        refusals.check_modules(request.file_to_generate)
        messages = Messages(request.proto_file, request.file_to_generate, _package(request.parameter))
        for path, content in files(messages):
            response.file.add(name=path, content=content)
    except GenerationError as error:
        response.error = str(error)
        del response.file[:]
    return response


def files(messages: Messages) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each file. Raises: GenerationError."""
    for file in messages.generated:
        types = message_types(messages.descriptor(file.name), file, messages.imports_for(file.name))
        yield types_path(file.name), _text(types)
        if file.service:
            yield stub_path(file.name), _text(stubs(file, messages))


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


def _package(parameter: str) -> str:
    """Return the package of the output, empty if it is not said. Raises: GenerationError."""
    package = ""
    for option in filter(None, parameter.split(",")):
        name, _, package = option.partition("=")
        if name != "package" or not all(part.isidentifier() for part in package.split(".")):
            raise GenerationError(f"there is no option {option!r}; there is package=my_project._gen")
    return package


def main() -> None:
    """Speak protoc's plugin protocol on standard input and output."""
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(generate(request).SerializeToString())
