"""Check what is in a wheel and in an sdist: all that belongs there, nothing else, and the same for both.

`python -m release.contents dist` is a part of `nox -s release`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from release.versions import ROOT

PACKAGE = PurePosixPath("cpg_trio")
#: Without these an installed package has no types, no dashboard, or no contract to import.
NEEDED = ("py.typed", "protos/logger/v1/logger.proto", "host/admin/dashboard/templates/base.html")
#: What is about the place where the project is kept, and not about the package.
UNPACKED = {".ci", ".github"}


def main(folder: Path) -> None:
    """Check the wheel and the sdist of a folder. Raises: SystemExit with all that is wrong."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    wrong = [*_wrong_in_wheel(wheel), *_wrong_in_sdist(sdist)]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{wheel.name} and {sdist.name} have what is committed, and nothing else")


def _wrong_in_wheel(path: Path) -> Iterator[str]:
    with ZipFile(path) as wheel:
        names = {PurePosixPath(name) for name in wheel.namelist()}
        (info,) = {name.parents[-2] for name in names if name.parents[-2].suffix == ".dist-info"}
        yield from _wrong_in_metadata(wheel.read(f"{info}/METADATA").decode())
    installed = {name for name in names if info not in name.parents}
    expected = {name for name in _committed() if PACKAGE in name.parents}
    expected |= {
        PACKAGE / "protos" / name.relative_to("proto") for name in _committed() if name.parts[0] == "proto"
    }
    yield from _differences("the wheel", installed, expected)
    yield from (f"the wheel lacks {name}" for name in NEEDED if PACKAGE / name not in names)
    if info / "licenses" / "LICENSE" not in names:
        yield "the wheel has no licence"


def _wrong_in_metadata(text: str) -> Iterator[str]:
    metadata = Parser().parsestr(text)
    # Newer ones are refused by indexes and installers that are not as new.
    if metadata["Metadata-Version"] != "2.4":
        yield f"the metadata are of version {metadata['Metadata-Version']}, and not 2.4"
    if metadata["License-Expression"] != "MIT":
        yield f"the licence is {metadata['License-Expression']}"
    # The page of an index has no folder that a link could be relative to.
    for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)]+)\)", str(metadata.get_payload())):
        yield f"the description links to {target}, which is not there where it is shown"


def _wrong_in_sdist(path: Path) -> Iterator[str]:
    with tarfile.open(path) as sdist:
        files = [PurePosixPath(member.name) for member in sdist.getmembers() if member.isfile()]
        owners = {(member.uid, member.gid, member.uname, member.gname) for member in sdist.getmembers()}
    names = {name.relative_to(name.parts[0]) for name in files} - {PurePosixPath("PKG-INFO")}
    yield from _differences(
        "the sdist", names, {name for name in _committed() if name.parts[0] not in UNPACKED}
    )
    if owners != {(0, 0, "", "")}:
        yield f"the sdist says who built it: {owners}"


def _differences(what: str, there: set[PurePosixPath], expected: set[PurePosixPath]) -> Iterator[str]:
    yield from (f"{what} has {name}, which is not committed" for name in sorted(there - expected))
    yield from (f"{what} lacks {name}" for name in sorted(expected - there))


def _committed() -> set[PurePosixPath]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {PurePosixPath(name) for name in listed.stdout.split("\0") if name}


if __name__ == "__main__":
    main(Path(*sys.argv[1:]))
