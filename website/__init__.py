"""What makes the documentation site of `docs/`, and the parts of its pages that follow from the code.

    links     links in Markdown, and the anchors of headings, as forges make them
    source    which files of the project are pages of the site, and where
    hooks     what MkDocs calls
    griffe_extensions  what the reference shows of attrs classes, and links in docstrings
    api       the public names, and their pages
    commands  the options of all commands, and all settings
    wire      services, messages and enums of the protos
    diagrams  pictures of tables of the code
    generate  what is written into pages: `python -m website.generate`
    check     what a built site must be
    versions  a folder of sites, one a version

Not a part of the package. `nox -s docs` runs it.
"""
