"""Processes and threads behind `convert` and `validate`: what they load, read ahead and leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from dataset_tools.cli.errors import describe
from dataset_tools.convert.workers import one_ahead
from dataset_tools.dataset.parquet import ShardWriter
from tests.support.sources import rlaif_v


def test_no_process_of_a_conversion_imports_pandas(tmp_path):
    """pyarrow would, in every process, for a second and more."""
    rlaif_v(tmp_path / "source", rows=300, defects=False)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "pandas.py").write_text(
        "import os, pathlib\n"
        "(pathlib.Path(__file__).parent / str(os.getpid())).touch()\n"
        "__version__ = '2.0.0'\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "path"), *sys.path])}
    command = [sys.executable, "-c", "from dataset_tools.cli import main; main()"]
    arguments = ["convert", str(tmp_path / "source"), str(tmp_path / "out"), "--workers", "2"]
    subprocess.run([*command, *arguments], check=True, capture_output=True, env=environment)
    assert [path.name for path in (tmp_path / "path").glob("*[0-9]")] == []


def test_pandas_is_left_to_those_who_import_it_themselves():
    code = (
        "from dataset_tools.dataset.arrow import settle_pandas\n"
        "settle_pandas(without=True)\n"
        "import sys, pyarrow as pa\n"
        "pa.array(['a'])\n"
        "assert 'pandas' not in sys.modules\n"
        "import pandas\n"
        "assert pandas.Series([1]).sum() == 1\n"
        "assert len(sys.meta_path) == len(set(map(id, sys.meta_path)))\n"
    )
    pytest.importorskip("pandas")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_ahead_makes_the_next_item_meanwhile_and_no_more():
    made = threading.Semaphore(0)
    seen = []

    def items():
        for number in range(5):
            seen.append(number)
            made.release()
            yield number

    found = one_ahead(items())
    assert next(found) == 0
    assert made.acquire(timeout=60) and made.acquire(timeout=60)
    assert not made.acquire(timeout=0.2) and seen == [0, 1]
    assert list(found) == [1, 2, 3, 4]


def test_one_ahead_raises_what_the_items_raise_and_leaves_no_thread():
    def items():
        yield 1
        raise OSError("gone")

    before = threading.active_count()
    found = one_ahead(items())
    assert next(found) == 1
    with pytest.raises(OSError, match="gone"):
        next(found)
    stopped = one_ahead(range(100))
    next(stopped)
    stopped.close()
    assert threading.active_count() == before


def test_what_fails_in_the_writing_thread_is_raised(tmp_path):
    writer = ShardWriter(tmp_path / "a.parquet")
    writer.write(pa.table({"id": ["wrong schema"]}), [1])
    with pytest.raises(ValueError, match="[Ss]chema"):
        writer.close()
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_met_by_its_name(tmp_path):
    (tmp_path / ".a.parquet.partial").symlink_to("/dev/full")
    with pytest.raises(OSError) as error:
        ShardWriter(tmp_path / "a.parquet").close()
    assert describe(error.value, "convert")[1].startswith("the disk is full")
