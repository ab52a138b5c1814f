"""The example: a URL shortener of three plugins. `api` requires `storage`, `storage` requires `logger`.

Each module is a plugin that runs alone (`python -m cpg_trio.demo.storage`); `python -m cpg_trio.demo` runs
them and a host in one process.
"""
