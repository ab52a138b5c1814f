"""The documentation site: its pages say of the code what the code says, and each page can be found."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

import cpg_trio
from cpg_trio.cli._app import COMMANDS, application
from cpg_trio.variables import KNOWN
from tests.test_docs import PUBLIC
from website import api, check, commands, generate, links, source, versions

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="a union describes itself in other words there")
def test_what_is_generated_is_as_the_code_is() -> None:
    found = [str(path) for path, _ in (*generate.stale(), *generate.stale_pictures())]
    assert found == [], "python -m website.generate"


def test_each_public_module_has_its_names_in_the_reference() -> None:
    rooms = {f"cpg_trio.{room}" for room in cpg_trio._ROOMS}
    assert set(api.modules()) == rooms | PUBLIC
    for page, modules in api.PAGES.items():
        text = (ROOT / f"docs/reference/api/{page}.md").read_text()
        assert re.findall(r"<!-- api: ([\w.]+) -->", text) == list(modules)
        for module in modules:
            assert all(f"| `{name}` |" in text for name in api.names_of(module)), module


def test_each_variable_and_each_flag_is_in_one_table() -> None:
    table = commands.settings()
    labels = [line.split("|")[1] for line in table.splitlines()]
    listed = {name for label in labels for name in re.findall(r"`([A-Z_]+)`", label)}
    assert listed == KNOWN | set(commands.OF_OTHERS)
    flags = {name for label in labels for name in re.findall(r"`(--?[\w-]+)", label)}
    taken = {
        name
        for command in COMMANDS
        for each in application()[command.name].assemble_argument_collection()
        for name in each.names
        if name.startswith("-") and not name.startswith(("--no-", "--empty-"))
    }
    assert flags == taken


def test_the_page_of_the_command_line_says_of_each_command_what_it_does() -> None:
    overview = (ROOT / "docs/reference/command-line.md").read_text().partition("\n## ")[0]
    assert [command.name for command in COMMANDS if f"`{command.name}`" not in overview] == []


def test_each_page_is_in_the_navigation_once() -> None:
    listed = re.findall(r": ([\w./-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(each for each in listed if not each.startswith("source/")) == sorted(
        source.pages().values()
    )


def test_each_part_that_can_be_generated_stands_in_one_page() -> None:
    pages = [path.read_text() for path in (ROOT / "docs").rglob("*.md")]
    for name in generate.PARTS:
        assert sum(f"<!-- generated: {name} -->" in page for page in pages) == 1, name


def test_a_name_is_explained_once_and_elsewhere_there_is_a_link() -> None:
    homes = api.homes()
    assert homes["cpg_trio.plugin.Plugin"] == "cpg_trio.Plugin" == homes["cpg_trio.Plugin"]
    assert "| `Plugin` | [`cpg_trio.Plugin`](cpg_trio.md) |" in api.table("cpg_trio.plugin")
    reference = api.with_reference("<!-- api: cpg_trio.plugin -->\nx\n<!-- /api -->")
    assert "::: cpg_trio.Plugin" not in reference


def test_each_public_name_has_a_docstring() -> None:
    without = []
    for path in sorted(set(api.homes().values())):
        module, _, name = path.rpartition(".")
        value = getattr(importlib.import_module(module), name)
        origin = getattr(value, "__module__", "cpg_trio")
        is_ours = origin.startswith("cpg_trio") and not origin.startswith("cpg_trio.protos.")
        is_message = hasattr(value, "DESCRIPTOR")  # its comments are in the proto
        if is_ours and not is_message and not api.docstring(module, name):
            without.append(path)
    assert without == []


def test_names_that_a_table_begins_with_lead_to_the_reference() -> None:
    page = "| error | |\n|---|---|\n| `StartError` | a |\n| `calls.UndeliveredError` | b |\n| `Else` | c |\n"
    linked = api.with_links(page)
    assert "| [`StartError`][cpg_trio.StartError] | a |" in linked
    assert "| [`calls.UndeliveredError`][cpg_trio.calls.UndeliveredError] | b |" in linked
    assert "| `Else` | c |" in linked


def test_links_in_code_are_no_links() -> None:
    page = "[a](b.md#c) `[x](y.md)`\n\n```text\n[d](e.md)\n```\n\n![f](g.png)\n"
    assert list(links.links(page)) == ["b.md#c", "g.png"]
    assert links.with_links(page, lambda _: "new") == page.replace("b.md#c", "new").replace("g.png", "new")


@pytest.mark.parametrize(
    ("page", "link", "on_the_site"),
    [
        ("docs/guides/kubernetes.md", "../../chart/README.md#values", "../reference/chart.md#values"),
        ("docs/architecture.md", "../cpg_trio/http/relay.py", "source/cpg_trio/http/relay.py.md"),
        ("docs/guides/dashboard.md", "../images/dashboard-plugin.png", "../images/dashboard-plugin.png"),
        ("CHANGELOG.md", "docs/guides/logging.md", "../guides/logging.md"),
        ("CONTRIBUTING.md", "README.md", "../README.md"),
        ("docs/security.md", "#limits", "#limits"),
        ("docs/security.md", "https://example.com/x.md", "https://example.com/x.md"),
    ],
)
def test_a_link_of_a_page_leads_on_the_site_to_what_it_names(page: str, link: str, on_the_site: str) -> None:
    assert source.for_site(page, f"[x]({link})") == f"[x]({on_the_site})"


def test_a_file_is_shown_whole_whatever_is_in_it() -> None:
    page = source.source_page("CONTRIBUTING.md")  # it has fences of its own
    assert "\n````text\n" in page
    assert page.endswith("\n````\n")


def test_a_link_that_leads_nowhere_and_what_is_fetched_from_elsewhere_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="here"></h1><a href="#here"></a><a href="b.html#there"></a><a href="c.html"></a>'
        '<a href="https://example.com/"></a><img src="b.png"><script src="https://example.com/x.js"></script>'
    )
    (tmp_path / "b.html").write_text("")
    assert set(check.problems(tmp_path)) == {
        "a.html links to b.html#there, which has no such anchor",
        "a.html links to c.html, which is not there",
        "a.html links to b.png, which is not there",
        "a.html fetches https://example.com/x.js",
    }


def test_a_folder_of_versions_leads_to_the_latest_and_lists_all(tmp_path: Path) -> None:
    site, folder = tmp_path / "site", tmp_path / "versions"
    site.mkdir()
    for version in ("0.9.0", "0.10.0", "0.11.0rc1", "0.9.0"):
        (site / "index.html").write_text(version)
        versions.publish(site, folder, version)
    listed = json.loads((folder / "versions.json").read_text())
    assert [(each["version"], each["aliases"]) for each in listed] == [
        ("0.11.0rc1", []),
        ("0.10.0", ["latest"]),
        ("0.9.0", []),
    ]
    assert (folder / "latest/index.html").read_text() == "0.10.0"
    assert "latest/index.html" in (folder / "index.html").read_text()
