"""`platform.toml`: a host and its plugins. Reading it finds all that is wrong in it at once.

It only reads files. What the plugins of Python modules say of themselves is added in `specs`.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from cpg_trio import wire
from cpg_trio._admin_socket import OFF
from cpg_trio._human import size
from cpg_trio._reload import reason
from cpg_trio._toml_lines import lines_of
from cpg_trio.launch.kinds import Table, keys_of, shown
from cpg_trio.launch.places import Place, PlatformFileError, Report
from cpg_trio.launch.tables import EXTERNAL, PROCESS, TASK, PluginTable
from cpg_trio.settings import PUBLIC, FileSettings, Settings, setting_name, setting_text, settle
from cpg_trio.variables import HOST, PATHS, SECRETS, SERVING

DEFAULT_NAME = "platform.toml"
SETTINGS: Mapping[str, str] = SERVING | HOST
"""Those of `[host]`, with the meaning of each."""

_TABLES = {"host": "{ port = 8080 }", "plugins": "[plugins.greeter]"}
_MOST_BYTES = 1024 * 1024
_OTHERS_READ = 0o007
_OTHERS_WRITE = 0o002
_AT = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKENS?|SECRETS?|PASSWORD|PASSWD|CREDENTIALS?|(?:API|PRIVATE|HOST)_KEY)$"
)
_SECRET_VALUE = re.compile(r"://[^/@:\s]*:[^/@\s]+@")
_PLUGIN = Table(PluginTable, '[plugins.greeter]\nplugin = "greeter:plugin"')


@attrs.frozen(kw_only=True)
class PlatformFile:
    """What a platform file says, which is right as far as it can be seen in it."""

    path: Path
    report: Report = attrs.field(repr=False)
    """Takes what is found wrong with it later."""
    host: FileSettings
    plugins: tuple[PluginTable, ...]

    @property
    def directory(self) -> Path:
        """The absolute directory that its relative paths begin in."""
        return self.path.absolute().parent

    def settings(self, environment: Mapping[str, str]) -> Settings:
        """Return the settings of the host: those of the environment come before those of the file."""
        return settle(SETTINGS, {}, environment, self.host)

    def place(self, plugin: str, *keys: str) -> Place:
        """Return where the table of a plugin is, or a key in it."""
        return Place(self.report, ("plugins", plugin, *keys))


def read_platform(path: Path) -> PlatformFile:
    """Read a platform file. Raises: PlatformFileError with all that is wrong in it."""
    text, mode = _text_of(path)
    content, report = _parsed(str(path), text)
    top = Place(report)
    for name in content.keys() - _TABLES.keys():
        top.at(name).unknown(_TABLES, "is no table of a platform file")
    host = _host(content.get("host", {}), top.at("host"), path)
    plugins = _plugins(content.get("plugins", {}), top.at("plugins"))
    _check_ports(host, plugins, top)
    _check_mode(mode, host, plugins, top)
    report.check()
    return PlatformFile(path=path, report=report, host=host, plugins=plugins)


def _text_of(path: Path) -> tuple[str, int]:
    """Return the text of a file, and its mode. Raises: PlatformFileError."""
    content = b""
    try:
        with open(path, "rb", opener=_opened_at_once) as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
                raise PlatformFileError([f"{path}: it is no regular file"])
            content = opened.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise PlatformFileError(
                [f"{path}: it is larger than {size(_MOST_BYTES)}: no platform needs that"]
            )
        text = content.decode()
    except IsADirectoryError:
        raise PlatformFileError(
            [f"{path}: it is a directory: name a file, as in {path / DEFAULT_NAME}"]
        ) from None
    except FileNotFoundError:
        raise PlatformFileError(
            [f"{path}: no such file: name the platform file, as in cpg-trio up FILE, or write one"]
        ) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PlatformFileError([f"{path}:{line}: it is not text in UTF-8: save it as that"]) from None
    except OSError as error:
        raise PlatformFileError([f"{path}: {reason(error)}"]) from None
    return text.replace("\r\n", "\n"), status.st_mode


def _opened_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for whoever is at the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _parsed(name: str, text: str) -> tuple[dict[str, object], Report]:
    """Return the content of a file, with its lines. Raises: PlatformFileError for what is not TOML."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        at = _AT.search(said)
        line = int(at[1]) if at and at[1] else text.count("\n") + 1
        what = said[: at.start()] if at else said
        raise PlatformFileError([f"{name}:{line}: it is not TOML: {what[:1].lower()}{what[1:]}"]) from None
    except RecursionError:
        raise PlatformFileError([f"{name}: its lists or tables are nested too deep"]) from None
    return content, Report(name, lines_of(text))


def _host(value: object, at: Place, path: Path) -> FileSettings:
    """Return the settings of `[host]`."""
    values, lines = dict[str, str](), dict[str, int]()
    if not isinstance(value, dict):
        at.problem(f"must be a table, as in {_TABLES['host']}, not {shown(value)}")
        return FileSettings(str(path), {})
    for key, each in value.items():
        try:
            name = setting_name(key, SETTINGS)
            values[name] = _from(path, name, setting_text(key, each))
        except ValueError as error:
            at.at(key).problem(str(error).removeprefix(f"{key!r:.100} ").removeprefix(f"{key}: "))
            continue
        lines[name] = at.report.line(at.at(key).path)
    return FileSettings(str(path), values, lines)


def _from(path: Path, name: str, value: str) -> str:
    """Return the value of a setting; a relative path from the directory of the file."""
    is_path = name in PATHS and value and not (name == "ADMIN_SOCKET" and value == OFF)
    return str(path.absolute().parent / value) if is_path else value


def _plugins(value: object, at: Place) -> tuple[PluginTable, ...]:
    if not isinstance(value, dict):
        at.problem(f"must be a table of tables, as in {_TABLES['plugins']}, not {shown(value)}")
        return ()
    tables = [_plugin(name, each, at.at(name)) for name, each in value.items()]
    found = tuple(table for table in tables if table is not None)
    names = {str(name) for name in value}
    for table in found:
        for other in table.after or ():
            if other not in names or other == table.name:
                at.at(table.name, "after").unknown_value(other, names - {table.name}, "a plugin of this file")
    return found


def _plugin(name: str, value: object, at: Place) -> PluginTable | None:
    """Return a table of a plugin; None if it is none."""
    try:
        wire.validate_self_id(name)
    except ValueError as error:
        at.problem(str(error))
    known = len(at.report.problems)
    table: PluginTable | None = _PLUGIN.read(value, at, name=name, source=at.source)
    if table is not None and len(at.report.problems) == known:
        _check_launcher(table, at)
        _check_secrets(table, at)
    return table


def _check_launcher(table: PluginTable, at: Place) -> None:
    """Note what does not go together in the table of a plugin."""
    match table:
        case PluginTable(plugin=None, command=None, launcher=None):
            at.problem('needs `plugin` or `command`, or launcher = "external": what is to be started')
        case PluginTable(plugin=str(), command=tuple()):
            at.at("command").problem("has a `plugin` beside it: a plugin is one of the two")
        case PluginTable(launcher="task", command=tuple()):
            at.at("launcher").problem(
                'a command runs in a process: write launcher = "process", or leave it out'
            )
        case PluginTable(launcher="task" | "process", plugin=None, command=None):
            needs = "plugin" if table.launcher == TASK else "plugin or command"
            at.at("launcher").problem(f"needs {needs}, which says what is started")
        case _:
            _check_keys(table, at)
    if table.port and (table.replicas or 0) > 1:
        at.at("port").problem(
            f"cannot be that of {table.replicas} replicas: leave it out, and each gets a free one"
        )


def _check_keys(table: PluginTable, at: Place) -> None:
    """Note the keys that the launcher of a plugin does not use."""
    for name, key in keys_of(PluginTable).items():
        if getattr(table, name) is not None and key.launchers and table.kind not in key.launchers:
            hint = f'; launcher = "{PROCESS}" does' if table.kind == TASK and PROCESS in key.launchers else ""
            at.at(name).problem(f"a plugin with the launcher {table.kind} does not use it{hint}")


def _check_secrets(table: PluginTable, at: Place) -> None:
    groups = {name: set(getattr(table, name) or ()) for name in ("environment", "files", "secrets")}
    for one, other in (("environment", "files"), ("environment", "secrets"), ("files", "secrets")):
        for name in groups[one] & groups[other]:
            at.at(other, name).problem(f"is in {one}, too: leave one of them out")
    for name, secret in (table.secrets or {}).items():
        if (secret.file is None) == (secret.environment is None):
            at.at("secrets", name).problem('must be { file = "…" } or { environment = "NAME" }')


def _check_ports(host: FileSettings, tables: Iterable[PluginTable], top: Place) -> None:
    """Note the ports that two are to listen on."""
    first = {host.values.get("PORT", ""): ("the host", top.at("host", "port").source)}
    for table in tables:
        if table.port:
            at = top.at("plugins", table.name, "port")
            name, source = first.setdefault(str(table.port), (table.name, at.source))
            if name != table.name:
                at.problem(f"{table.port} is that of {name} as well ({source})")


def _check_mode(mode: int, host: FileSettings, plugins: Iterable[PluginTable], top: Place) -> None:
    """Note what others may do with the file that they must not."""
    if mode & _OTHERS_WRITE:
        top.warning("everybody may change it, and so what it starts: take that away (chmod o-w …)")
    public = mode & _OTHERS_READ
    for name in sorted(SECRETS & host.values.keys()):
        if public:
            top.at("host", name.lower()).problem(PUBLIC.format("it"))
    for table in plugins:
        for name, value in (table.environment or {}).items():
            if value and (_SECRET_NAME.search(name) or _SECRET_VALUE.search(value)):
                _plain_secret(top.at("plugins", table.name, "environment", name), public=bool(public))


def _plain_secret(at: Place, *, public: bool) -> None:
    what = "looks like a secret: put it in a file, and that into `secrets`"
    if public:
        at.problem(f"{what}; everybody may read this one")
    else:
        at.warning(what)


def default_launcher(table: PluginTable, *, processes: bool) -> str:
    """Return the launcher of a plugin; with `processes` each runs in one, but those that others run."""
    return PROCESS if processes and table.kind != EXTERNAL else table.kind
