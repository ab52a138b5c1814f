"""What a user does first with an installed package, run by its interpreter in isolated mode.

`python -I release/smoke.py VERSION`. It imports nothing of this folder, as it is not installed.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

#: What is not installed with the package: extras, and pytest, which those have who use its fixtures.
MAY_LACK = {"cryptography", "opentelemetry", "pytest", "watchfiles"}
PROGRAMS = Path(sys.executable).parent


def main(version: str) -> None:
    """Try the package. Raises: whatever goes wrong."""
    import cpg_trio  # noqa: PLC0415 - that it can be imported is what is tried

    assert "site-packages" in cpg_trio.__file__, cpg_trio.__file__
    assert cpg_trio.__version__ == distribution("cpg-trio").version == version
    names = [name for name in dir(cpg_trio) if getattr(cpg_trio, name) is not None]
    print(f"{len(names)} public names")
    print(f"{_import_all(cpg_trio.__path__)} modules")
    assert run("cpg-trio", "--version") == f"cpg-trio {version}\n"
    assert run("cpg-trio", "host", "--check", BIND="127.0.0.1", PORT="0")
    for how in ((), ("--processes",)):
        print(run("python", "-m", "cpg_trio.demo", "--once", *how).splitlines()[-1])


def _import_all(paths: list[str]) -> int:
    """Import each module, except those that need what is not there. Return their number."""
    number = 0
    for module in pkgutil.walk_packages(paths, "cpg_trio."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert (error.name or "").partition(".")[0] in MAY_LACK, module.name
        number += 1
    return number


def run(program: str, *arguments: str, **environment: str) -> str:
    """Run a program of the environment. Returns what it prints. Raises: CalledProcessError."""
    path = shutil.which(program, path=str(PROGRAMS))
    assert path, program
    env = {**os.environ, **environment, "PYTHONPATH": ""}
    return subprocess.run([path, *arguments], env=env, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
