"""`python -m tests.fuzz [target] [seconds]`: fuzz until something is found, or time is over.

The targets are those of `targets`; without one it is `request`.

What is found is printed as a Python literal: it belongs into tests/http/corpus.py. The seeds are made anew
from there for each run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["cpg_trio", "h11"]):
    from tests.fuzz.costs import traced
    from tests.fuzz.targets import TARGETS, Target
    from tests.http.mutations import MAX_BYTES, SNIPPETS


def main(name: str = "request", seconds: str = "60") -> int:
    """Fuzz one target; return 0 if nothing was found."""
    target = TARGETS[name]
    with TemporaryDirectory() as folder:
        options = [f"-max_total_time={int(seconds)}", f"-max_len={MAX_BYTES}", "-timeout=5"]
        options += [f"-artifact_prefix={folder}/", *_written(target, Path(folder))]
        if child := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        atheris.Setup([sys.argv[0], *options], _telling(target.check))
        with traced() if name == "costs" else nullcontext():  # once for all inputs, as it takes a while
            atheris.Fuzz()  # which ends the process, and would leave the folder behind
    return 0


def _written(target: Target, folder: Path) -> list[str]:
    """Write what to begin with, and what to put in; return the options that name it."""
    seeds, words = folder / "seeds", folder / "words"
    seeds.mkdir()
    for number, seed in enumerate(target.seeds):
        if len(seed) <= MAX_BYTES:
            (seeds / str(number)).write_bytes(seed)
    words.write_text("".join(f'"{_escaped(snippet)}"\n' for snippet in SNIPPETS))
    return [f"-dict={words}", str(seeds)]


def _escaped(snippet: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in snippet)


def _telling(check: Callable[[bytes], None]) -> Callable[[bytes], None]:
    def told(data: bytes) -> None:
        try:
            check(data)
        except BaseException:
            sys.stderr.write(f"\nFound: {data!r}\n")
            raise

    return told


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
