"""Runs the suite: `python -m tests.conformance --runner PATH [--protos FOLDER] [-- OPTIONS]`.

The runner starts `server` and `client` as processes. The stubs that these import are generated from the
suite's protos into a temporary folder. What follows `--` goes to the runner, such as `--run 'Basic/**'`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cpg_trio.codegen import GenerationError
from cpg_trio.codegen.project import Project

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STUBS = "conformance_stubs"
"""The package of the generated code. The suite's own, `connectrpc`, is the name of a library that we use."""
SERVICE = "connectrpc/conformance/v1/service.proto"
FOLDERS = 4  # from the runner's own upwards, in which its protos are looked for
RUNS = ("server", "server-hypercorn", "client", "client-httpx")
"""The mode of the runner, and the argument of our program if it has one. What each claims is in a file."""
_USUAL = ("--max-servers", "2")  # at once: each has ten seconds to start in, also on a busy machine


def main() -> int:
    """Run the suite; return 0 if no case has failed."""
    given = _arguments()
    if not (given.runner.is_file() and os.access(given.runner, os.X_OK)):
        raise SystemExit(f"{given.runner}: there is no such program")
    protos = given.protos or _beside(given.runner)
    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
        _generate(protos, Path(scratch))
        statuses = [_run(given.runner, run, Path(scratch), given.options) for run in given.only or RUNS]
    return int(any(statuses))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s conformance --", description=__doc__)
    parser.add_argument("--runner", type=Path, required=True, help="the suite's program `connectconformance`")
    parser.add_argument("--protos", type=Path, help="the suite's folder `proto`; sought near the runner")
    parser.add_argument("--only", choices=RUNS, action="append", help="one of the runs, not all")
    parser.add_argument("options", nargs="*", help="options of the runner")
    return parser.parse_args()


def _beside(runner: Path) -> Path:
    """Return the protos of the checkout in which the runner was built."""
    for folder in runner.resolve().parents[:FOLDERS]:
        if (folder / "proto" / SERVICE).is_file():
            return folder / "proto"
    raise SystemExit(f"{runner}: the suite's protos are not beside it: name their folder with --protos")


def _generate(protos: Path, scratch: Path) -> None:
    project = Project(protos, scratch / STUBS, STUBS)
    try:
        project.write(project.generate())
    except GenerationError as error:
        raise SystemExit(f"{protos}: {error}") from None


def _run(runner: Path, run: str, scratch: Path, options: Sequence[str]) -> int:
    places = [str(ROOT), str(scratch), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    mode, _, argument = run.partition("-")
    command = [str(runner), "--mode", mode, "--conf", str(HERE / f"{run}.yaml"), *_USUAL, *options]
    command += ["--", sys.executable, "-m", f"{__package__}.{mode}", *filter(None, [argument])]
    print(f"{run}: {' '.join(command)}", flush=True)
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
