"""The package that a project depends on: a range of versions from an index, or a wheel within the project."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import attrs

from cpg_trio._reload import reason
from cpg_trio._version import __version__

FOLDER = "vendor"
"""The folder of a project that has its wheel."""
_WHEEL = re.compile(r"cpg_trio-([^-]+)-py3-none-any\.whl")
_BUILD_S = 300


class PackageError(Exception):
    """There is no package to depend on where it was said to be. The message says why."""


@attrs.frozen
class Package:
    """The package that a project depends on."""

    wheel: Path | None = None
    """The wheel, which is copied into the project. None: the project depends on a range of versions."""

    @classmethod
    def found(cls, path: Path, scratch: Path) -> Package:
        """Return the package of a wheel, or of a checkout, which is built in `scratch`.

        Raises: PackageError.
        """
        if path.is_dir():
            path = _built(path, scratch)
        _check_wheel(path)
        return cls(path)

    def requirement(self, *extras: str) -> str:
        """Return how the project requires it, with extras."""
        name = f"cpg-trio[{','.join(extras)}]" if extras else "cpg-trio"
        if self.wheel is not None:
            return f"{name} @ {{root:uri}}/{FOLDER}/{self.wheel.name}"
        major, minor, _ = __version__.split(".", 2)
        return f"{name}>={__version__},<{f'0.{int(minor) + 1}' if major == '0' else int(major) + 1}"

    def copy_into(self, project: Path) -> None:
        """Put the wheel, if there is one, where the requirement says that it is."""
        if self.wheel is not None:
            (project / FOLDER).mkdir()
            shutil.copyfile(self.wheel, project / FOLDER / self.wheel.name)


def _check_wheel(path: Path) -> None:
    match = _WHEEL.fullmatch(path.name)
    if match is None:
        raise PackageError(
            f"{path} is neither a wheel of cpg-trio (cpg_trio-…-py3-none-any.whl) nor a checkout of it"
        )
    try:
        with ZipFile(path) as wheel:
            wheel.getinfo("cpg_trio/__init__.py")
    except (OSError, BadZipFile, KeyError) as error:
        raise PackageError(f"{path} is no wheel of cpg-trio: {reason(error)}") from None
    if match[1] != __version__:
        raise PackageError(
            f"{path} is version {match[1]}, and this command is {__version__}: generate the project with"
            " the version that it depends on"
        )


def _built(checkout: Path, scratch: Path) -> Path:
    """Return the wheel of a checkout, built in a folder. Raises: PackageError."""
    if not (checkout / "cpg_trio" / "_version.py").is_file():
        raise PackageError(f"{checkout} is no checkout of cpg-trio")
    if find_spec("pip") is None:
        raise PackageError("a checkout is built with pip, which is not installed here: name a wheel instead")
    command = [*(sys.executable, "-m", "pip", "wheel"), "--quiet", "--no-deps", f"--wheel-dir={scratch}"]
    done = subprocess.run(  # noqa: S603 - our own
        [*command, str(checkout.resolve())], capture_output=True, text=True, check=False, timeout=_BUILD_S
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        *_, last = ["pip has said nothing", *(line for line in done.stderr.splitlines() if line.strip())]
        raise PackageError(f"{checkout} cannot be built: {last}")
    return wheels[0]
