"""The example: a URL shortener of three plugins. `api` requires `storage`, `storage` requires `logger`.

    logger, storage, api    the plugins; each runs alone, as in `python -m cpg_trio.demo.storage`
    client                  a command-line client of the api plugin
    __main__                a host and the three plugins in one process, in one nursery

A reader who wants to write a plugin starts with `logger`, then reads `api`. The other modules are machinery
of the example: `_plain_http` lets curl call the methods, and `_store`, `_batching` and `_database` keep the
pairs.
"""
