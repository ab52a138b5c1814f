"""`python -m cpg_trio`."""

from cpg_trio.cli import main

main()
