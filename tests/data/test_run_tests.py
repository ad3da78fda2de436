"""`tools/run_tests.py` says of every suite what became of it."""

from __future__ import annotations

import signal
import threading

import pytest

from tools import run_tests
from tools.run_tests import Result


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_tests, "_stopped", threading.Event())
    monkeypatch.setattr(run_tests, "TARGETS", {"all": [["one", "two"], ["three"]]})


def test_a_suite_that_cannot_be_run_has_failed_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str) -> Result:
        if name == "one":
            raise OSError("no room")
        return Result(name, "3 passed", 1.0, [])

    monkeypatch.setattr(run_tests, "run_suite", run)
    assert run_tests.main("all") == 1
    told = capsys.readouterr().out
    assert "FAILED: OSError: no room" in told and "2 suites passed, 1 failed" in told


def test_ctrl_c_begins_no_further_suite(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main, ran, both = threading.main_thread().ident, [], threading.Barrier(2)

    def run(name: str) -> Result:
        ran.append(name)
        both.wait(60)
        if name == "one":
            signal.pthread_kill(main, signal.SIGINT)
        assert run_tests._stopped.wait(60)
        return Result(name, "FAILED (exit code 2): interrupted", 1.0, [])

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(run_tests, "run_suite", run)
    try:
        assert run_tests.main("all") == 1
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(ran) == ["one", "three"]
    assert "FAILED: not run" in capsys.readouterr().out
