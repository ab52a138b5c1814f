"""What MkDocs calls: https://www.mkdocs.org/user-guide/plugins/#events."""

from __future__ import annotations

import os

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from website import api, links, source
from website.versions import VERSIONED


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Have anchors be those of forges, and a switch of versions in a site that is one of several."""
    config.mdx_configs["toc"]["slugify"] = links.slug
    if os.environ.get(VERSIONED):
        config.extra["version"] = {"provider": "mike", "default": "latest"}
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are not in `docs/`."""
    for page, place in source.pages().items():
        if not page.startswith("docs/"):
            files.append(File.generated(config, place, content=(source.ROOT / page).read_text()))
    for file in source.shown_files():
        files.append(File.generated(config, source.place_of(file), content=source.source_page(file)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Change the links of a page, and put the reference of names in the place of their table."""
    del config, files
    for name, place in source.pages().items():
        if place == page.file.src_uri:
            if place == "README.md":
                page.meta["hide"] = ["navigation"]
            if place.startswith("reference/api/"):  # guides and tables come first in what is found
                page.meta["search"] = {"boost": 0.3}
            text = api.with_reference(source.for_site(name, markdown))
            return api.with_links(text) if place == "reference/errors.md" else text
    return markdown
