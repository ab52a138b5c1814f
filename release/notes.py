"""Print the notes of a version, as CHANGELOG.md has them: `python -m release.notes 0.3.0`."""

from __future__ import annotations

import re
import sys

from release.versions import ROOT


def notes_of(version: str, changelog: str) -> str:
    """Return the section of a version, without its heading. Raises: ValueError if there is none."""
    heading = rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)\n"
    found = re.search(rf"{heading}(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        raise ValueError(f"CHANGELOG.md has no notes of {version}: `nox -s cut -- {version}` writes them")
    return found[1].strip() + "\n"


if __name__ == "__main__":
    (_version,) = sys.argv[1:]
    sys.stdout.write(notes_of(_version, (ROOT / "CHANGELOG.md").read_text()))
