"""Where the version of the package is written: in one place that counts, and in files that cannot read it.

`cpg_trio/_version.py` is the one that counts: the distribution, the handshake and the command line read it.
The chart, the Dockerfile, compose files and pages have copies. `python -m release.versions 0.3.0` writes them
all, and with `--check` compares them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = Path("cpg_trio/_version.py")
VERSION = r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?"
PLACES = {
    SOURCE: r'^__version__ = "(<version>)"$',
    # The chart is released with what it installs, under the same version.
    Path("chart/Chart.yaml"): r'^(?:version: |appVersion: ")(<version>)"?$',
    Path("containers/Dockerfile"): r"^ARG VERSION=(<version>)$",
    Path("containers/compose.yaml"): r"\$\{CPG_TAG:-(<version>)\}",
    Path("containers/compose.one.yaml"): r"\$\{CPG_TAG:-(<version>)\}",
    Path("tests/chart/default.snapshot.yaml"): (
        r'(?:app\.kubernetes\.io/version: "|helm\.sh/chart: "url-shortener-|image: "cpg-[a-z-]+:)(<version>)"'
    ),
    Path("docs/guides/calling-by-hand.md"): r'"server_version":"(<version>)"',
    Path("docs/guides/kubernetes.md"): r"^(?:Building |  )cpg-[a-z-]+:(<version>)$",
    Path("docs/guides/operating-a-host.md"): r"^  (?:hosts|     ) +http://\S+ +(<version>) ",
}
"""A pattern for each file: its only group is the version, and it is there at least once."""


def find(root: Path = ROOT) -> Iterator[tuple[Path, str]]:
    """Find each version that is written in a place. Raises: ValueError if a place has none."""
    for place, pattern in PLACES.items():
        found = re.findall(_expression(pattern), (root / place).read_text(), re.MULTILINE)
        if not found:
            raise ValueError(f"{place} has no version any more: see PLACES in {__file__}")
        yield from ((place, version) for version in found)


def write(version: str, root: Path = ROOT) -> None:
    """Write a version in each place. Raises: ValueError if it is none."""
    if not re.fullmatch(VERSION, version):
        raise ValueError(f"{version!r} is no version: it is like 0.3.0 or 0.3.0rc1")
    for place, pattern in PLACES.items():
        path = root / place
        path.write_text(
            re.sub(
                _expression(pattern),
                lambda match: _replaced(match, version),
                path.read_text(),
                flags=re.MULTILINE,
            )
        )


def _expression(pattern: str) -> str:
    return pattern.replace("<version>", VERSION)


def _replaced(match: re.Match[str], version: str) -> str:
    whole, offset = match[0], match.start()
    return whole[: match.start(1) - offset] + version + whole[match.end(1) - offset :]


def check(version: str) -> None:
    """Check that each place has a version. Raises: SystemExit with those that have another."""
    others = sorted({f"{place} has {found}" for place, found in find() if found != version})
    if others:
        sys.exit(f"this is not {version}:\n" + "\n".join(others))


if __name__ == "__main__":
    *_options, _version = sys.argv[1:]
    (check if _options == ["--check"] else write)(_version)
