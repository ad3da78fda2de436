"""The folder `OUT.incomplete` in which a command works until OUT is whole; it says whose it is.

Nothing is deleted in it but what this module's own commands wrote: a folder that is not marked as theirs, or
holds something they do not write, or leads elsewhere by a symbolic link, is refused and left alone.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from dataset_tools.dataset.lock import locked
from dataset_tools.dataset.record import on_this_machine
from dataset_tools.errors import UsageError

MARK = "lock"
"""The file that is locked; its content says which command the folder belongs to."""


def settled(out: Path, source: Path | None = None) -> Path:
    """OUT as a path to make: absolute, symbolic links followed.

    Raises `UsageError` where nothing can be made there: it is the working folder, it holds something, or it
    lies where it would be read as part of SOURCE.
    """
    on_this_machine(out, made=True)
    try:
        whole = Path(os.path.realpath(out.expanduser()))
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{out} is no path for a folder: {error}") from None
    if whole.is_symlink():
        raise UsageError(f"{out} is a symbolic link that leads in a circle: choose another OUT.")
    here = Path.cwd()
    if whole == here or whole in here.parents:
        raise UsageError(
            f"{out} is the folder this command runs in: give a new folder, for example {out}/out."
        )
    if source is not None:
        source = Path(os.path.realpath(source))
        places = (whole, working_folder(whole))
        if source in places:
            raise UsageError(f"SOURCE and OUT are the same folder, {source}: choose another OUT.")
        if source.is_dir() and source in whole.parents:
            raise UsageError(
                f"OUT {out} lies inside SOURCE {source} and would be read as part of it: choose one outside."
            )
    return whole


def working_folder(out: Path) -> Path:
    """Where a command works until `out` is whole."""
    return out.with_name(out.name + ".incomplete")


class WorkFolder:
    """The working folder of one command, locked against a second process while used as a context manager.

    `known`: patterns of the paths (relative, with `/`) that the command writes there.
    """

    def __init__(self, out: Path, command: str, known: tuple[str, ...]):
        self.out, self.command = out, command
        self.folder = working_folder(out)
        self._known = re.compile("|".join((MARK, r"\.[\w.-]+\.partial", *known)))
        self._held = ExitStack()
        self._named = False

    def begun(self) -> bool:
        """Whether the same command began it. Raises `UsageError` where the folder is another's."""
        if not os.path.lexists(self.folder):
            return False
        if self.folder.is_symlink() or not self.folder.is_dir():
            raise UsageError(f"{self.folder} is in the way, which aspo-data would work in: move it away.")
        names = [path.name for path in self.folder.iterdir()]
        owner = self._owner()
        if not names or (names == [MARK] and (owner or _is_empty(self.folder / MARK))):
            return False  # killed before it did anything
        if owner is None and self.is_whole():
            owner = self.command
        if owner is None:
            raise UsageError(
                f"{self.folder}, which aspo-data would work in, holds {min(names)!r} and was not made by "
                f"aspo-data {self.command}: move it away, or choose another OUT."
            )
        if owner != self.command:
            raise UsageError(
                f"{self.folder} is of an unfinished `aspo-data {owner}`: run that again to finish it, remove "
                "the folder, or choose another OUT."
            )
        self._refuse_foreign()
        return True

    def _owner(self) -> str | None:
        path = self.folder / MARK
        try:
            if path.is_symlink():
                return None
            found = json.loads(path.read_bytes())
            return str(found["aspo-data"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _refuse_foreign(self) -> None:
        for root, folders, files in os.walk(self.folder):
            for name in (*folders, *files):
                path = Path(root, name)
                inside = path.relative_to(self.folder).as_posix()
                if path.is_symlink() or not (name in folders or self._known.fullmatch(inside)):
                    what = "a symbolic link" if path.is_symlink() else "not written by aspo-data"
                    raise UsageError(
                        f"{path} is {what}: move it out of the working folder, then run the command again."
                    )

    def __enter__(self) -> Any:
        self.begun()
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = self.folder / MARK
        mark.touch()
        with ExitStack() as held:
            held.enter_context(locked(mark, f"another aspo-data is at work in {self.folder}."))
            if _is_empty(mark) or os.listdir(self.folder) == [MARK]:
                mark.write_text(json.dumps({"aspo-data": self.command}), encoding="utf-8")
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._remove_unused()
        self._held.close()

    def _remove_unused(self) -> None:
        """Remove the folder where nothing was done in it, so that it is in no other command's way."""
        if self._named or any(name != MARK for _, _, names in os.walk(self.folder) for name in names):
            return
        with suppress(OSError):  # a worker that was given up may still write
            (self.folder / MARK).unlink(missing_ok=True)
            for place, _, _ in os.walk(self.folder, topdown=False):
                os.rmdir(place)

    def is_whole(self) -> bool:
        """Whether all is written and only the final name is missing."""
        return False

    def name_for_good(self) -> None:
        """Rename the whole folder to OUT."""
        (self.folder / MARK).unlink(missing_ok=True)
        sync_folder(self.folder)
        if self.out.is_dir():
            self.out.rmdir()  # it was found empty
        os.rename(self.folder, self.out)
        self._named = True
        sync_folder(self.out.parent)


def _is_empty(path: Path) -> bool:
    """Whether a file of ours has no content; a symbolic link is none of ours."""
    return not path.is_symlink() and path.is_file() and not path.stat().st_size


def sync_folder(folder: Path) -> None:
    """Make renames within a folder survive a power cut."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder cannot be opened on Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
