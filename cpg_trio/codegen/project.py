"""Generates the Python code of a project's protos: messages by protoc, types by mypy-protobuf, and stubs.

protoc comes with `grpcio-tools` (extra `codegen`). What both write imports from the top (`from shop.v1 import
...`), which is not where the output is in a package, so these imports are changed to those of the package.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import attrs
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from cpg_trio._reload import reason
from cpg_trio.codegen import bundled, stub_files
from cpg_trio.codegen.messages import Messages
from cpg_trio.codegen.names import GenerationError

TABLE = "tool.cpg-trio"
_KEYS = frozenset({"protos", "output", "package", "include"})
_OF_FOLDER = re.compile(r"^from (\S+) import (\w+_pb2)\b", re.MULTILINE)
_OF_TOP = re.compile(r"^import (\w+_pb2) as ", re.MULTILINE)
_NAMED = re.compile(r"(^from |import_module\('|DESCRIPTOR, ')(\w+(?:\.\w+)*_pb2)( import |')", re.MULTILINE)
_OURS = re.compile(r"_(?:pb2\.pyi?|trio\.py)$")
_OF_PROTOC = re.compile(r"^(?:--[\w-]+_out: )+")


@attrs.frozen
class Project:
    """Where the protos of a project are, and where the code goes."""

    protos: Path
    """The folder that imports in protos begin at."""
    output: Path
    """The folder of the package of generated code. What is in it and was not generated is left alone."""
    package: str = ""
    """The name of that package; empty if the folder is on `sys.path` itself."""
    include: Sequence[Path] = ()
    """More folders that protos import from. No code is generated for those."""

    @classmethod
    def from_file(cls, pyproject: Path) -> Project:
        """Return what the table `[tool.cpg-trio]` of a file says. Raises: GenerationError."""
        table = _table(pyproject)
        if unknown := sorted(table.keys() - _KEYS):
            known = ", ".join(sorted(_KEYS))
            raise GenerationError(f"{pyproject}: [{TABLE}] has no {unknown[0]!r}; it has {known}")
        protos, output = _text(pyproject, table, "protos", "proto"), _text(pyproject, table, "output", "")
        if not output:
            raise GenerationError(
                f'{pyproject}: [{TABLE}] has to say where the code goes: output = "src/greeter/_gen"'
            )
        include = table.get("include", [])
        if not (isinstance(include, list) and all(isinstance(each, str) for each in include)):
            raise GenerationError(f"{pyproject}: include is a list of folders")
        folder = pyproject.parent
        return cls(
            folder / protos,
            folder / output,
            _text(pyproject, table, "package", _package_of(output)),
            [folder / each for each in include],
        )

    def generate(self) -> Mapping[PurePosixPath, str]:
        """Return the text of each generated file, by its path in the output. Raises: GenerationError."""
        names = sorted(path.relative_to(self.protos).as_posix() for path in self.protos.rglob("*.proto"))
        if not names:
            raise GenerationError(f"{self.protos}: there are no .proto files")
        with tempfile.TemporaryDirectory() as scratch:
            files = _run_protoc(self, names, Path(scratch))
            messages = Messages(files, names, self.package)
            texts = dict(stub_files(messages))
            modules = messages.modules()
            for path in _files(Path(scratch)):
                text = path.read_text(encoding="utf-8")
                texts[path.relative_to(scratch).as_posix()] = _moved(text, modules)
        return {PurePosixPath(path): text for path, text in sorted(texts.items())}

    def changes(self, texts: Mapping[PurePosixPath, str]) -> Sequence[Path]:
        """Return the files that would be written, or deleted as their proto is gone."""
        written = [path for name, text in texts.items() if _content(path := self.output / name) != text]
        kept = {self.output / name for name in texts}
        return sorted([*written, *(path for path in _files(self.output) if _is_left(path, kept))])

    def write(self, texts: Mapping[PurePosixPath, str]) -> Sequence[Path]:
        """Write what has changed, and delete what has no proto any more; return these files."""
        changed = self.changes(texts)
        wanted = {self.output / name: text for name, text in texts.items()}
        for path in changed:
            if path in wanted:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(wanted[path], encoding="utf-8")
            else:
                path.unlink()
        return changed


def _moved(text: str, modules: Mapping[str, str]) -> str:
    """Return a module of protoc's with the names of other modules as they are where the code goes."""

    def of_folder(match: re.Match[str]) -> str:
        folder, name = match.groups()
        return f"from {_there(f'{folder}.{name}').rpartition('.')[0]} import {name}"

    def of_top(match: re.Match[str]) -> str:
        folder, _, name = _there(match[1]).rpartition(".")
        return f"from {folder} import {name} as " if folder else match[0]

    def named(match: re.Match[str]) -> str:
        return f"{match[1]}{_there(match[2])}{match[3]}"

    def _there(module: str) -> str:
        return modules.get(module, module)

    return _NAMED.sub(named, _OF_TOP.sub(of_top, _OF_FOLDER.sub(of_folder, text)))


def _table(pyproject: Path) -> Mapping[str, Any]:
    try:
        content = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GenerationError(f"{pyproject}: {reason(error)}") from None
    table = content.get("tool", {}).get("cpg-trio")
    if not isinstance(table, dict):
        raise GenerationError(
            f"{pyproject}: there is no table [{TABLE}]; it is like"
            ' protos = "proto", output = "src/greeter/_gen"'
        )
    return table


def _text(pyproject: Path, table: Mapping[str, Any], key: str, default: str) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        raise GenerationError(f"{pyproject}: {key} in [{TABLE}] is a text, and not {value!r}")
    return value


def _package_of(output: str) -> str:
    """Return the package of a folder, of which `src` is the usual beginning."""
    return ".".join(part for part in PurePosixPath(output).parts if part not in {"src", "."})


def _run_protoc(project: Project, names: Sequence[str], out: Path) -> Sequence[FileDescriptorProto]:
    """Let protoc and mypy-protobuf write, and return what protoc has read. Raises: GenerationError."""
    if find_spec("grpc_tools") is None or find_spec("mypy_protobuf") is None:
        raise GenerationError("protoc is not installed: pip install 'cpg-trio[codegen]'")
    read = out / "read.binpb"
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        *(f"--proto_path={folder}" for folder in (project.protos, *project.include, bundled.folder())),
        *("--include_imports", "--include_source_info", f"--descriptor_set_out={read}"),
        *(f"--plugin=protoc-gen-mypy={_types_plugin(out)}", f"--mypy_out={out}", "--mypy_opt=quiet"),
        f"--python_out={out}",
        *names,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if done.returncode:
        lines = [_OF_PROTOC.sub("", line) for line in done.stderr.splitlines() if line.strip()]
        raise GenerationError("\n".join(lines) or f"protoc ended with {done.returncode}")
    return FileDescriptorSet.FromString(read.read_bytes()).file


def _types_plugin(folder: Path) -> Path:
    """Return a program for protoc that runs mypy-protobuf with this interpreter."""
    plugin = folder / "protoc-gen-mypy"
    plugin.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mypy_protobuf.main\n')
    plugin.chmod(0o700)
    return plugin


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*.py*") if path.suffix in {".py", ".pyi"} and path.is_file())


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _is_left(path: Path, kept: set[Path]) -> bool:
    """Whether a file of the output was generated of a proto that is gone."""
    if path in kept or not _OURS.search(path.name):
        return False
    return "enerated by " in (_content(path) or "")[:200]
