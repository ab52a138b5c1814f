"""`python -m tests.limited FILES MODULE ARGUMENTS` becomes `python -m MODULE ARGUMENTS`, with few files.

FILES is how many files the process may have open, as a soft and a hard limit: `64:256`.
"""

from __future__ import annotations

import resource
import runpy
import sys

if __name__ == "__main__":
    soft, _, hard = sys.argv[1].partition(":")
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), int(hard)))
    del sys.argv[1]
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
