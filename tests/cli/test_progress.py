"""What long work says where stderr is no terminal, and what it says in one."""

import io
import sys

import pytest

from semseg_app import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_line_every_ten_seconds_on_stderr_alone(clock, capsys):
    with progress.progress_bar("reading") as update:
        for done in range(1, 41):
            clock[0] += 1
            update(done, 40)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"reading: {done} of 40 ({done / 40:.0%})" for done in (10, 20, 30, 40)]


def test_quick_work_says_nothing(clock, capsys):
    for _ in progress.tracked(range(50), "reading", 50):
        clock[0] += 0.1
    assert capsys.readouterr() == ("", "")


def test_what_has_no_total_is_counted(clock, capsys):
    with progress.progress_bar("reading rows") as update:
        clock[0] += 11
        update(1200, None)
    assert capsys.readouterr().err == "reading rows: 1200\n"


def test_a_part_of_a_large_item_counts(clock, capsys):
    with progress.progress_bar("segmenting") as update:
        clock[0] += 11
        update(2.5, 4)
    assert capsys.readouterr().err == "segmenting: 2 of 4 (62%)\n"


def test_tracked_gives_the_items(clock, capsys):
    items = []
    for item in progress.tracked("abc", "reading", 3):
        clock[0] += 10
        items.append(item)
    assert items == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines() == [f"reading: {n} of 3 ({n / 3:.0%})" for n in (1, 2, 3)]


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress_bar("reading") as update:
        update(3, 7)
    assert "reading" in terminal.getvalue()
    assert "3/7" in terminal.getvalue()
    assert terminal.getvalue().rstrip().endswith("\x1b[2K"), "the line was cleared"
