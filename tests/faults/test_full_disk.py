"""A full disk: one message, and the advice that it gives works"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import converted, data

ROOM = 256 << 10


def limited() -> None:
    """No file may be longer: what a full disk is where nothing can be mounted."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM // 4, ROOM // 4))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None] | None]]:
    """A file system that is nearly full, and what a process on it must call first."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        yield folder, limited
        return
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        yield folder, limited
        return
    try:
        yield folder, None
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def run(*arguments: Any, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dataset_tools", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, preexec_fn=before,
    )  # fmt: skip


@pytest.mark.parametrize("layout", ["llamafactory", "trl"])
def test_an_export_is_begun_anew_where_its_message_says_so(layout: str, disk: Any, tmp_path: Path) -> None:
    folder, before = disk
    rows = data.rows(12, 1, size=(160, 160))
    for index, row in enumerate(rows):  # incompressible, and longer than what the disk has room for
        row["images"][0]["bytes"] += os.urandom(40_000 if index else 80_000)
    dataset = converted.write(tmp_path / "set", [rows])
    out = folder / "out"
    command = ("export", dataset, out, "--to", layout)
    told = run(*command, before=before)
    assert told.returncode == 1 and "Traceback" not in told.stderr
    said = told.stderr.strip().splitlines()[-1]
    if before is None:
        assert "the disk is full" in said and said.endswith("then run the same command again.")
    assert not out.exists()
    if before is None:
        subprocess.run(["mount", "-o", "remount,size=8m", str(folder)], check=True)
    assert run(*command).returncode == 0
    run("export", dataset, tmp_path / "elsewhere", "--to", layout)
    files = [path for path in sorted((tmp_path / "elsewhere").rglob("*")) if path.is_file()]
    names = [path.relative_to(tmp_path / "elsewhere") for path in files]
    assert names == [path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file()]
    assert all(
        (out / name).read_bytes() == file.read_bytes() for name, file in zip(names, files, strict=True)
    )
    assert sorted(path.name for path in folder.iterdir()) == ["out"]
