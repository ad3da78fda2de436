"""The progress line on a terminal: rewritten in place, and still while a bar of the Hub is up."""

from __future__ import annotations

import io
from contextlib import redirect_stderr

from tqdm import tqdm

from dataset_tools.cli.output import Progress, note, warn


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def advance(progress: Progress) -> None:
    progress._shown -= 1  # as if a second had passed
    progress.advance(5)


def test_one_line_is_rewritten_and_closed():
    terminal = Terminal()
    with redirect_stderr(terminal), Progress("convert", total=20) as progress:
        advance(progress)
        advance(progress)
    lines = terminal.getvalue().split("\r\x1b[K")
    assert [line.partition(",")[0] for line in lines[1:]] == [
        "convert: 5 of 20 rows (25%)", "convert: 10 of 20 rows (50%)", "convert: 10 of 20 rows (50%)",
    ]  # fmt: skip
    assert terminal.getvalue().endswith("\n")


def test_a_slow_run_in_a_log_has_one_line_of_the_whole():
    log = io.StringIO()
    with redirect_stderr(log), Progress("score", total=10) as progress:
        for _ in range(2):
            progress._shown -= 11  # a line every ten seconds
            progress.advance(5)
    lines = [line.partition(",")[0] for line in log.getvalue().splitlines()]
    assert lines == ["score: 5 of 10 rows (50%)", "score: 10 of 10 rows (100%)"]


def test_a_warning_takes_the_place_of_the_line():
    terminal = Terminal()
    with redirect_stderr(terminal), Progress("convert", total=20) as progress:
        advance(progress)
        warn("an image is odd")
        note("and so is another")
        advance(progress)
    shown = terminal.getvalue().split("\n")
    assert [line.rpartition("\r\x1b[K")[2].partition(",")[0] for line in shown] == [
        "warning: an image is odd", "and so is another", "convert: 10 of 20 rows (50%)", "",
    ]  # fmt: skip


def test_it_waits_while_a_bar_of_the_hub_is_up():
    terminal = Terminal()
    with redirect_stderr(terminal), Progress("convert", total=20) as progress:
        with tqdm(total=3, file=terminal, desc="part.parquet") as bar:
            advance(progress)
            bar.update(3)
            assert "convert" not in terminal.getvalue()
        advance(progress)
        assert "convert: 10 of 20 rows" in terminal.getvalue().splitlines()[-1]


def test_a_process_beside_the_first_says_nothing():
    terminal = Terminal()
    with redirect_stderr(terminal), Progress("score", total=20, silent=True) as progress:
        advance(progress)
    assert terminal.getvalue() == ""


def test_what_an_earlier_run_had_done_is_not_its_speed(monkeypatch):
    seconds = iter([0.0, 30.0, 31.0, 31.0])
    monkeypatch.setattr("dataset_tools.cli.output.time.monotonic", lambda: next(seconds))
    progress = Progress("convert", total=2_000_000, silent=True)
    progress.advance(1_000_000)  # taken up, after 30 seconds
    progress.advance(100)
    assert progress.line() == "convert: 1,000,100 of 2,000,000 rows (50%), 100/s, 2:46:39 left"


def test_a_line_never_wraps(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    with redirect_stderr(terminal), Progress("a long name of a command", total=2_000_000) as progress:
        advance(progress)
    shown = terminal.getvalue().rstrip().split("\r\x1b[K")[1:]
    assert [len(line) for line in shown] == [39, 39]
