"""`python -m cpg_trio`."""

from .cli import main

main()
