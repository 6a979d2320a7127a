"""`semseg data next`: the list, the page, the tasks, and what it says where something cannot be had."""

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from semseg_app.cli.main import app
from semseg_app.data.dataset import open_folder


@pytest.fixture
def few_labels(tiny_dataset: Path, tmp_path: Path) -> Path:
    """12 photos, 4 with a mask, one of the others unreadable, and one that is a copy of another."""
    root = shutil.copytree(tiny_dataset, tmp_path / "few")
    for index in range(4, 12):
        (root / "labels" / "train" / f"train{index:02d}.png").unlink()
    (root / "images" / "train" / "train11.png").write_bytes(b"no photo")
    shutil.copy(root / "images" / "train" / "train04.png", root / "images" / "train" / "train05.png")
    return root


@pytest.fixture
def next_labels() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(app, ["data", "next", *map(str, arguments)])


def answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


class Pictures(HTMLParser):
    """What a page shows: headings, and the kinds of its pictures."""

    def __init__(self, page: str):
        super().__init__()
        self.headings: list[str] = []
        self.sources: list[str] = []
        self._tag = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        values = dict(attrs)
        assert not values.keys() & {"onload", "onerror"}
        if tag == "img":
            assert values["alt"]
            self.sources.append((values["src"] or "")[:22])

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag == "h2":
            self.headings.append(data)


def test_the_list_the_page_and_the_tasks(
    few_labels: Path, network_folder: Path, tmp_path: Path, next_labels: Callable[..., Result]
) -> None:
    tasks = tmp_path / "tasks"
    arguments = (network_folder, few_labels, "--count", 3, "--json")
    report = answer(next_labels(*arguments, "--tasks", "cvat", "-o", tasks, "--threads", 1))
    stems = [photo["stem"] for photo in report["photos"]]
    data = open_folder(few_labels)
    assert [sample.stem for sample in data.samples("next-3")] == stems
    assert all(data.by_entry[f"train/{stem}"][0].label is None for stem in stems)
    assert not {"train04", "train05"} <= set(stems)
    assert (report["considered"], report["labeled"], report["near_duplicates"]) == (7, 4, 1)
    (unreadable,) = report["unreadable"]
    assert "train11.png: unreadable image" in unreadable

    page = Pictures((few_labels / "splits" / "next-3.html").read_text())
    assert page.headings == [f"{number}. {stem}" for number, stem in enumerate(stems, 1)]
    assert page.sources == ["data:image/jpeg;base64"] * 6

    back = CliRunner().invoke(app, ["data", "import", str(tasks), "-o", str(tmp_path / "back"), "--no-check"])
    assert back.exit_code == 0, back.output
    assert {sample.stem for sample in open_folder(tmp_path / "back").samples("train")} == set(stems)

    # Any number of threads, to the last digit; the list says the same already, so nothing refuses.
    assert answer(next_labels(*arguments, "--threads", 3))["photos"] == report["photos"]
    # The two lists together are what a recipe's data.labeled takes in the next round.
    assert len(data.samples("few-labeled + next-3")) == 7


def test_a_list_is_never_overwritten_unasked(
    few_labels: Path, make_graph: Callable[..., Path], next_labels: Callable[..., Result]
) -> None:
    listing = few_labels / "splits" / "next-2.txt"
    listing.write_text("train09\n")
    arguments = (make_graph(), few_labels, "--count", 2, "--strategy", "random")
    result = next_labels(*arguments)
    assert (result.exit_code, listing.read_text()) == (1, "train09\n")
    assert str(result.exception).startswith(f"{listing}: exists and lists other images; --force overwrites it, --name")
    assert not listing.with_suffix(".html").exists()
    assert next_labels(*arguments, "--name", "mine").exit_code == 0
    assert next_labels(*arguments, "--force").exit_code == 0
    chosen = listing.read_text()
    assert chosen == (few_labels / "splits" / "mine.txt").read_text()
    assert next_labels(*arguments, "--force", "--seed", 1).exit_code == 0
    assert listing.read_text() != chosen


def test_what_an_exported_graph_gives(
    few_labels: Path, make_graph: Callable[..., Path], next_labels: Callable[..., Result]
) -> None:
    graph = make_graph()
    report = answer(next_labels(graph, few_labels, "--count", 2, "--json"))
    assert ["class areas" in report["remarks"][0], "1 minus it" in report["remarks"][1]] == [True, True]
    mirrored = answer(next_labels(graph, few_labels, "--count", 2, "--strategy", "disagreement", "--force", "--json"))
    # The graph sees each pixel alone: the mirror image gets the same classes.
    assert [photo["uncertainty"] for photo in mirrored["photos"]] == [0, 0]
    refused = next_labels(graph, few_labels, "--count", 2, "--strategy", "margin")
    assert "--strategy margin needs the probabilities of all classes, which onnxruntime" in str(refused.exception)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--count", 9), "only 8 photos are without a label"),
        (("--count", 7), "ask for at most 6"),
        (("--count", 1, "--list", "few-labeled", "--labeled", "few-labeled"), "no photo of 'few-labeled' is without"),
        (("--count", 1, "--url-prefix", "/x"), "are for --tasks"),
        (("--count", 1, "--tasks", "cvat", "--url-prefix", "/x"), "--url-prefix is for --tasks label-studio"),
        (("--count", 1, "--name", "val"), "is a split of the dataset"),
    ],
)
def test_mistakes(
    few_labels: Path,
    make_graph: Callable[..., Path],
    next_labels: Callable[..., Result],
    options: tuple[object, ...],
    line: str,
) -> None:
    result = next_labels(make_graph(), few_labels, *options)
    assert line in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not list((few_labels / "splits").glob("*.html"))
