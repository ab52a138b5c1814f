"""`python -m cpg_trio.codegen` is `protoc-gen-cpg-trio`."""

from cpg_trio.codegen import main

main()
