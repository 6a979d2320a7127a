"""Figures of docs/results trace to records: what a page names exists, and no record lies there unnamed."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs" / "results.md", *sorted((ROOT / "docs" / "results").glob("*.md"))]
NAMED = re.compile(r"benchmarks/[\w./-]*\w")


def test_what_a_page_names_exists() -> None:
    missing = {
        (page.name, name)
        for page in PAGES
        for name in NAMED.findall(page.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    }
    assert missing == set()


def test_every_record_is_named_by_a_page() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in [*PAGES, *(ROOT / "docs").glob("*.md")])
    named = set(NAMED.findall(text))
    records = {f"benchmarks/records/{path.name}" for path in (ROOT / "benchmarks" / "records").iterdir()}
    assert records - named == set()
