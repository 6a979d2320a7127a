"""The documentation as a site. `make docs` builds it, with warnings as errors; here is what mkdocs does not check."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def pages(entry: object) -> list[str]:
    """The files of an entry of the navigation, and of all below it."""
    if isinstance(entry, str):
        return [entry]
    inside = entry.values() if isinstance(entry, dict) else entry
    return [page for part in inside for page in pages(part)]


def test_every_page_is_in_the_navigation_once():
    written = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    named = pages(SITE["nav"])
    assert sorted(named) == sorted(written | {"index.md", "contributing.md"})


def test_nothing_is_fetched_from_elsewhere():
    """The pages name no other host for what a browser loads by itself."""
    assert SITE["theme"]["font"] is False
    for page in (ROOT / "docs").rglob("*.md"):
        assert not re.search(r"!\[[^\]]*\]\(https?:", page.read_text()), page.name


def test_warnings_are_errors():
    assert SITE["strict"] is True
    assert SITE["validation"]["nav"]["omitted_files"] == "warn"
