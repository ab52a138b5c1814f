"""A folder of sites, one a version: `python -m website.versions build/site FOLDER`.

    FOLDER/0.2.0/         the site of that version
    FOLDER/latest/        that of the highest version which is no pre-release
    FOLDER/versions.json  what the switch of versions in the head of each page reads
    FOLDER/index.html     leads to latest/

This is what mike makes on a branch of Git, in a plain folder, which any server of files can serve. The site
has the switch if it was built with `DOCS_VERSIONED=1`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from packaging.version import InvalidVersion, Version

from cpg_trio._version import __version__

VERSIONED = "DOCS_VERSIONED"
LATEST = "latest"
_INDEX = f"""<!doctype html>
<meta charset="utf-8">
<title>cpg_trio</title>
<meta http-equiv="refresh" content="0; url={LATEST}/index.html">
<a href="{LATEST}/index.html">The documentation of the latest version</a>
"""


def versions_in(folder: Path) -> list[Version]:
    """Return the versions that a folder has sites of, the highest first."""
    found = []
    for path in folder.iterdir():
        try:
            found += [Version(path.name)] if path.is_dir() else []
        except InvalidVersion:
            continue
    return sorted(found, reverse=True)


def publish(site: Path, folder: Path, version: str = __version__) -> None:
    """Put a built site into a folder of versions, in the place of one of the same version."""
    folder.mkdir(parents=True, exist_ok=True)
    _copy(site, folder / version)
    found = versions_in(folder)
    latest = next((each for each in found if not each.is_prerelease), found[0])
    _copy(folder / str(latest), folder / LATEST)
    listed = [
        {"version": str(each), "title": str(each), "aliases": [LATEST] if each == latest else []}
        for each in found
    ]
    (folder / "versions.json").write_text(json.dumps(listed, indent=2) + "\n")
    (folder / "index.html").write_text(_INDEX)


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path(sys.argv[2]))
