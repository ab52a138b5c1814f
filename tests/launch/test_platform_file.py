"""What a platform file may say, and what is said of one that is wrong: what, where, and what to do."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from cpg_trio.launch.places import PlatformFileError
from cpg_trio.launch.platform_file import PlatformFile, read_platform
from cpg_trio.launch.tables import LimitsTable, RestartTable, SecretTable

WHOLE = """\
[host]
port = 9000
state_path = "state/host.sqlite3"
policy_file = "/etc/policy.toml"
admin_socket = "off"

[plugins.logger]
plugin = "cpg_trio.demo.logger:logger_plugin"

[plugins.storage]
plugin = "cpg_trio.demo.storage:storage_plugin"
launcher = "process"
environment = { STORAGE_PATH = "urls.sqlite3", TRIES = 3, FAST = true }
files = { RULES = "rules.toml" }
secrets = { DATABASE_URL = { file = "secrets/url" }, OTHER = { environment = "NAME" } }
restart = { when = "on-failure", first = "0.5s", most = 5 }
replicas = 2
start = "1m"
stop = 0
after = ["logger"]

[plugins.thumbs]
command = ["./thumbs", "--fast", "--fast"]
directory = "thumbs"
user = "nobody"
limits = { memory = "512MiB", processes = 64, files = 1024 }
provides = ["thumbs"]
requires = ["storage"]
uses = ["logger"]
id = "thumbs-plugin"
port = 8085
ready = "running"
enrol = "name"

[plugins.billing]
launcher = "external"
url = "http://127.0.0.1:9001"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "platform.toml"


def read(file: Path, text: str, mode: int = 0o600) -> PlatformFile:
    file.write_text(text)
    file.chmod(mode)
    return read_platform(file)


def problems(file: Path, text: str, mode: int = 0o600) -> list[str]:
    """Return what is wrong, each without the directory of the file."""
    with pytest.raises(PlatformFileError) as raised:
        read(file, text, mode)
    assert str(raised.value).split("\n") == list(raised.value.problems)
    return [each.removeprefix(f"{file.parent}/") for each in raised.value.problems]


def test_each_key_of_a_file_has_its_value(file: Path) -> None:
    platform = read(file, WHOLE)
    logger, storage, thumbs, billing = platform.plugins
    assert (logger.name, logger.kind, logger.source) == ("logger", "task", f"{file}:7")
    assert storage.kind == "process"
    assert storage.environment == {"STORAGE_PATH": "urls.sqlite3", "TRIES": "3", "FAST": "true"}
    assert storage.files == {"RULES": Path("rules.toml")}
    assert storage.secrets == {
        "DATABASE_URL": SecretTable(file=Path("secrets/url")),
        "OTHER": SecretTable(environment="NAME"),
    }
    assert storage.restart == RestartTable(when="on-failure", first=0.5, most=5)
    assert (storage.replicas, storage.start, storage.stop, storage.after) == (2, 60, 0, ("logger",))
    assert thumbs.command == ("./thumbs", "--fast", "--fast")
    assert thumbs.limits == LimitsTable(memory=512 * 2**20, processes=64, files=1024)
    assert (thumbs.kind, thumbs.provides, thumbs.uses) == ("process", ("thumbs",), ("logger",))
    assert (billing.kind, billing.url) == ("external", "http://127.0.0.1:9001")
    assert platform.report.all_warnings() == []


def test_settings_of_the_host_are_those_of_its_file_with_paths_from_the_directory(file: Path) -> None:
    settings = read(file, WHOLE).settings({"PORT": "1", "LEASE_S": "2"})
    assert settings.environment["PORT"] == "1"
    assert settings.environment["STATE_PATH"] == str(file.parent / "state/host.sqlite3")
    assert settings.environment["POLICY_FILE"] == "/etc/policy.toml"
    assert settings.environment["ADMIN_SOCKET"] == "off"
    assert settings.explained("STATE_PATH is x") == f"STATE_PATH is x (STATE_PATH is state_path in {file}:3)"


def test_an_empty_file_is_a_host_without_plugins(file: Path) -> None:
    assert read(file, "").plugins == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[hots]", "1: hots: is no table of a platform file; host is: is that meant?"),
        ("host = 1", "1: host: must be a table, as in { port = 8080 }, not 1"),
        ("plugins = 1", "1: plugins: must be a table of tables, as in [plugins.greeter], not 1"),
        ("[plugins]\nx = 1", "2: plugins.x: must be a table, as in [plugins.greeter]"),
        ("[host]\nprot = 1", "2: host.prot: is not a setting; port is: is that meant?"),
        ("[host]\nport = 1979-05-27", "2: host.port: a value is a text, a number, "),
        ('[plugins."a b"]\nlauncher = "external"', '1: plugins.a b: self_id "a b" contains'),
        ("[plugins.x]", "1: plugins.x: needs `plugin` or `command`, or launcher = "),
        ('[plugins.x]\nplugin = "a"', "2: plugins.x.plugin: must be module:attribute, as in "),
        ('[plugins.x]\nplugin = ""', "2: plugins.x.plugin: must be module:attribute, as in "),
        ('[plugins.x]\nplugn = "a:b"', "2: plugins.x.plugn: is not a key here; plugin is: is that meant?"),
        ("[plugins.x]\ncommand = []", "2: plugins.x.command: must not be empty, as in ["),
        ('[plugins.x]\ncommand = "a b"', "2: plugins.x.command: must be a list, as in ["),
        ('[plugins.x]\ncommand = ["a", 1]', "2: plugins.x.command[1]: must be a text, not 1"),
        ('[plugins.x]\ncommand = ["a\\u0000"]', "2: plugins.x.command[0]: must not have the character NUL"),
        (
            '[plugins.x]\nlauncher = "proces"',
            "2: plugins.x.launcher: must be one of task, process, external, not",
        ),
        ('[plugins.x]\nplugin = "a:b"\ncommand = ["a"]', "3: plugins.x.command: has a `plugin` beside it"),
        (
            '[plugins.x]\ncommand = ["a"]\nlauncher = "task"',
            "3: plugins.x.launcher: a command runs in a process",
        ),
        ('[plugins.x]\nlauncher = "task"', "2: plugins.x.launcher: needs plugin, which says what is started"),
        ('[plugins.x]\nlauncher = "process"', "2: plugins.x.launcher: needs plugin or command, which"),
        (
            '[plugins.x]\nplugin = "a:b"\nuser = "me"',
            "3: plugins.x.user: a plugin with the launcher task does not",
        ),
        (
            '[plugins.x]\nlauncher = "external"\nstop = 1',
            "3: plugins.x.stop: a plugin with the launcher external",
        ),
        (
            '[plugins.x]\ncommand = ["a"]\nurl = "http://x"',
            "3: plugins.x.url: a plugin with the launcher process",
        ),
        ('[plugins.x]\nlauncher = "external"\nurl = "x"', "3: plugins.x.url: must be a URL, as in "),
        (
            '[plugins.x]\ncommand = ["a"]\nport = -1',
            "3: plugins.x.port: must be a whole number from 0 to 65535, not -1",
        ),
        (
            '[plugins.x]\ncommand = ["a"]\nport = 1\nreplicas = 2',
            "3: plugins.x.port: cannot be that of 2 replicas",
        ),
        (
            '[plugins.x]\ncommand = ["a"]\nreplicas = true',
            "3: plugins.x.replicas: must be a whole number from 0 to",
        ),
        (
            '[plugins.x]\ncommand = ["a"]\nstart = "soon"',
            "3: plugins.x.start: must be a time such as 30s, 10m or 1.5h",
        ),
        ('[plugins.x]\ncommand = ["a"]\nstart = 0', "3: plugins.x.start: must be a time such as "),
        ('[plugins.x]\ncommand = ["a"]\nstop = -1', "3: plugins.x.stop: must be a time such as "),
        (
            '[plugins.x]\ncommand = ["a"]\nrestart = "never"',
            "3: plugins.x.restart: must be a table, as in { when =",
        ),
        (
            '[plugins.x]\ncommand = ["a"]\nrestart.when = "no"',
            "3: plugins.x.restart.when: must be one of always,",
        ),
        (
            '[plugins.x]\ncommand = ["a"]\nlimits.memory = "1"',
            "3: plugins.x.limits.memory: must be a size such as",
        ),
        (
            '[plugins.x]\ncommand = ["a"]\nafter = ["x"]',
            "3: plugins.x.after: 'x' is not a plugin of this file",
        ),
        ('[plugins.x]\ncommand = ["a"]\nprovides = ["a", "a"]', "3: plugins.x.provides: has 'a' twice"),
        (
            '[plugins.x]\ncommand = ["a"]\nprovides = ["a b"]',
            "3: plugins.x.provides[0]: must be a service type: ",
        ),
        (
            '[plugins.x]\ncommand = ["a"]\nenvironment = 1',
            "3: plugins.x.environment: must be a table, as in { STO",
        ),
        (
            '[plugins.x]\ncommand = ["a"]\nenvironment.A = []',
            "3: plugins.x.environment.A: must be a text, a number",
        ),
        (
            '[plugins.x]\ncommand = ["a"]\nenvironment."A B" = 1',
            "3: plugins.x.environment.A B: is no name of a var",
        ),
        (
            '[plugins.x]\ncommand = ["a"]\nsecrets.A = "s"',
            "3: plugins.x.secrets.A: must be a table, as in { file =",
        ),
        ('[plugins.x]\ncommand = ["a"]\nsecrets.A = {}', "3: plugins.x.secrets.A: must be { file = "),
        (
            '[plugins.x]\ncommand = ["a"]\nsecrets.A.environment = "A"\nenvironment.A = 1',
            "3: plugins.x.secrets.A: is in environment, too: leave one of them out",
        ),
        (
            '[plugins.x]\ncommand = ["a"]\nport = 81\n[plugins.y]\ncommand = ["a"]\nport = 81',
            "6: plugins.y.port: 81 is that of x as well (platform.toml:3)",
        ),
        (
            '[host]\nport = 81\n[plugins.y]\ncommand = ["a"]\nport = 81',
            "5: plugins.y.port: 81 is that of the host as well (platform.toml:2)",
        ),
        ("[host\n", "1: it is not TOML: expected ']' at the end of a table declaration"),
        ("a = ", "1: it is not TOML: invalid value"),
        ("[host]\nport = 1\nport = 2", "3: it is not TOML: cannot overwrite a value"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_what_to_do(file: Path, text: str, said: str) -> None:
    [problem] = problems(file, text)
    assert problem.replace(f"{file.parent}/", "").startswith(f"platform.toml:{said}")


def test_all_that_is_wrong_is_named_at_once_in_the_order_of_the_file(file: Path) -> None:
    text = WHOLE.replace("port =", "prot =").replace("replicas = 2", "replica = 2").replace("512MiB", "lots")
    found = problems(file, text)
    assert [re.sub(r"^platform.toml:(\d+): ([\w.]+):.*", r"\1 \2", each) for each in found] == [
        "2 host.prot",
        "17 plugins.storage.replica",
        "26 plugins.thumbs.limits.memory",
        "31 plugins.thumbs.prot",
    ]


@pytest.mark.parametrize("text", ["[" * 5000, "a = " + "[" * 5000])
def test_what_is_nested_too_deep_is_an_error_and_no_crash(file: Path, text: str) -> None:
    assert problems(file, text)


def test_a_file_that_cannot_be_read_is_named_with_what_to_do(file: Path) -> None:
    for path, said in (
        (file, "no such file: name the platform file, as in cpg-trio up FILE, or write one"),
        (file.parent, f"it is a directory: name a file, as in {file}"),
    ):
        with pytest.raises(PlatformFileError, match=re.escape(f"{path}: {said}")):
            read_platform(path)
    os.mkfifo(file.parent / "pipe")
    for path in (file.parent / "pipe", Path("/dev/zero")):
        with pytest.raises(PlatformFileError, match=f"{path}: it is no regular file"):
            read_platform(path)
    file.write_text("#" * 2**21)
    with pytest.raises(PlatformFileError, match="it is larger than 1 MiB"):
        read_platform(file)
    file.write_bytes(b"[host]\n# \xff\n")
    with pytest.raises(PlatformFileError, match=re.escape(f"{file}:2: it is not text in UTF-8")):
        read_platform(file)


@pytest.mark.parametrize(
    ("name", "value", "secrets"),
    [
        ("DATABASE_PASSWORD", "x", 1),
        ("API_TOKEN", "x", 1),
        ("URL", "postgresql://me:secret@host/db", 1),
        ("URL", "postgresql://me@host/db", 0),
        ("TOKENIZER", "x", 0),
        ("API_TOKEN", "", 0),
    ],
)
def test_a_secret_in_plain_is_refused_where_others_read_it_and_warned_of_otherwise(
    file: Path, name: str, value: str, secrets: int
) -> None:
    text = f'[plugins.x]\ncommand = ["a"]\nenvironment = {{ {name} = "{value}" }}'
    told = read(file, text).report.all_warnings()
    assert len(told) == secrets
    if not secrets:
        read(file, text, 0o644)
        return
    [problem] = problems(file, text, 0o644)
    for each in (*told, problem):
        assert f"plugins.x.environment.{name}: looks like a secret: put it in a file" in each
        assert "secret@" not in each


def test_a_secret_of_the_host_in_a_file_that_others_read_is_refused(file: Path) -> None:
    text = f'[host]\ncpg_host_key = "{"s3cret-" * 6}"'
    assert read(file, text).host.values
    [problem] = problems(file, text, 0o604)
    assert problem == "platform.toml:2: host.cpg_host_key: everybody may read it: take that away (chmod o= …)"


def test_a_file_that_others_may_change_is_warned_of(file: Path) -> None:
    [warning] = read(file, "", 0o602).report.all_warnings()
    assert "everybody may change it, and so what it starts" in warning


def test_line_ends_of_windows_are_line_ends(file: Path) -> None:
    [problem] = problems(file, "[host]\r\n\r\nprot = 1\r\n")
    assert problem.startswith("platform.toml:3: host.prot")
