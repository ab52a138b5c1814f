"""A PostgreSQL server of one's own, on a free port, that can be stopped and started."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.plugin.running import unused_port

PASSWORD = "s3cret/of:the@tests"
QUOTED = "s3cret%2Fof%3Athe%40tests"


def binaries() -> Path | None:
    """Return the folder of the newest server that is installed, as Debian or as anybody installs it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else found[-1] if found else None


@attrs.frozen
class Postgres:
    """A server; `url` is its DATABASE_URL."""

    binaries: Path
    folder: Path
    port: int
    address: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"postgresql://shortener:{QUOTED}@{self.address}:{self.port}/postgres"

    def make(self) -> None:
        (self.folder / "password").write_text(PASSWORD)
        self._run(
            "initdb",
            *("-D", "data", "-U", "shortener", "-A", "scram-sha-256", "--pwfile=password"),
            *("-E", "UTF8", "--locale=C.UTF-8", "--no-sync"),
        )
        with (self.folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all all scram-sha-256\n")

    def start(self) -> None:
        options = (
            f"-p {self.port} -c listen_addresses={self.address} -c unix_socket_directories={self.folder}"
        )
        self._run("pg_ctl", "start", "-w", "-D", "data", "-l", "log", "-o", options)

    def stop(self, how: str = "immediate") -> None:
        """Stop it; `immediate` is a crash."""
        self._run("pg_ctl", "stop", "-w", "-D", "data", "-m", how)

    def _run(self, program: str, *arguments: str) -> None:
        # The server refuses to be root, and so becomes whoever the folder belongs to.
        owner = self.folder.stat()
        subprocess.run(
            [self.binaries / program, *arguments],
            cwd=self.folder,
            user=owner.st_uid,
            group=owner.st_gid,
            extra_groups=[],
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )


@contextmanager
def postgres_server(address: str = "127.0.0.1") -> Iterator[Postgres]:
    """Yield a server that runs, and may be stopped and started."""
    where = binaries()
    assert where
    with tempfile.TemporaryDirectory(prefix="cpg-postgres-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        server = Postgres(where, folder, unused_port(), address)
        server.make()
        server.start()
        try:
            yield server
        finally:
            if (folder / "data" / "postmaster.pid").exists():
                server.stop()
