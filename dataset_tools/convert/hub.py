"""What `convert` asks of the Hub: a dataset's files, their ranges, downloads; or the cache, offline."""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from dataset_tools.errors import DataError, UsageError

Result = TypeVar("Result")
ATTEMPTS = 6
BUSY = (408, 429, 500, 502, 503, 504)
_CUT = "the download was cut off. Run the same command again: it goes on where it was"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})(?P<rest>[^/]*)")


@dataclass
class Listing:
    """A Hub dataset at one commit: its files with their sizes, and the header of its card."""

    repo: str
    revision: str
    sizes: dict[str, int]
    card: dict[str, Any] = field(default_factory=dict)
    offline: Path | None = None
    """The folder of the cache, where the Hub is not asked."""


def look_up(repo: str, revision: str | None) -> Listing:
    """The files of a dataset. With `HF_HUB_OFFLINE`, those that the Hub's cache holds."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return _from_cache(repo, revision)
    api = HfApi(endpoint=constants.ENDPOINT)
    with cut_off(f"the Hub cannot be reached to look up {repo}"):
        info = patiently(lambda: api.dataset_info(repo, revision=revision))
        tree = patiently(
            lambda: list(api.list_repo_tree(repo, recursive=True, revision=info.sha, repo_type="dataset"))
        )
    sizes = {entry.path: entry.size for entry in tree if hasattr(entry, "size")}
    return Listing(repo, info.sha, sizes, info.card_data.to_dict() if info.card_data else {})


def _from_cache(repo: str, revision: str | None) -> Listing:
    folder = _snapshot(repo, revision)
    sizes = {
        item.relative_to(folder).as_posix(): item.stat().st_size
        for item in sorted(folder.rglob("*"))
        if item.is_file()
    }
    for name in sizes:
        match = _SHARD.fullmatch(name)
        if not match:
            continue
        count = len([other for other in sizes if other.startswith(f"{match['stem']}-")])
        if count < int(match["count"]):
            raise DataError(
                f"the cache holds {count} of the {int(match['count'])} files {match['stem']}-*: without the "
                "Hub the others cannot be had. Unset HF_HUB_OFFLINE once, to fetch them."
            )
    from dataset_tools.sources.origin import CARD, card_header

    return Listing(repo, folder.name, sizes, card_header(folder / CARD), folder)


def _snapshot(repo: str, revision: str | None) -> Path:
    """The folder of a dataset in the cache, at a revision, or at the only commit that is there."""
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.file_download import repo_folder_name

    place = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="dataset")
    commits = sorted(item.name for item in place.glob("snapshots/*") if item.is_dir())
    reference = place / "refs" / (revision or "main")
    commit = revision
    if reference.is_file():
        commit = reference.read_text(encoding="utf-8").strip()
    elif revision is None and len(commits) == 1:
        commit = commits[0]
    if commit in commits:
        found: Path = place / "snapshots" / str(commit)
        return found
    held = (
        f"holds {repo} at {', '.join(commits)}: name one with --revision"
        if commits
        else f"holds nothing of {repo}"
    )
    raise OfflineModeIsEnabled(f"Its cache {held}.")


def patiently(call: Callable[[], Result]) -> Result:
    """The call's result; a Hub that is busy or asks to wait is asked again, at the pace it names."""
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except Exception as error:
            response = getattr(error, "response", None)
            if getattr(response, "status_code", None) not in BUSY or attempt + 1 == ATTEMPTS:
                raise
            wait = str(response.headers.get("Retry-After") or "")  # type: ignore[union-attr]
            time.sleep(min(float(wait) if wait.isdigit() else 2.0**attempt, 300))
    raise AssertionError("unreachable")


@contextmanager
def cut_off(message: str = _CUT) -> Iterator[None]:
    """A broken connection as one `DataError`."""
    from dataset_tools.share.hub import network

    with network(message):
        yield


def file_system() -> Any:
    """The Hub as a file system."""
    from huggingface_hub import constants

    return _file_system(constants.ENDPOINT)


@cache
def _file_system(endpoint: str) -> Any:
    from huggingface_hub import HfFileSystem

    return HfFileSystem(endpoint=endpoint, skip_instance_cache=True)


def cached(repo: str, revision: str, name: str) -> Path | None:
    """The place of a file that has been fetched before."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, revision=revision, repo_type="dataset")
    return Path(found) if isinstance(found, str) else None


def download(repo: str, revision: str, names: list[str]) -> Path:
    """Fetch files at one commit into the Hub's cache, those that are not there; returns the folder."""
    return download_matching(repo, revision, [glob.escape(name) for name in names])


def download_matching(repo: str, revision: str, patterns: list[str]) -> Path:
    """The same for all files that match one of some patterns: a long list of names would take for ever."""
    from huggingface_hub import snapshot_download

    with cut_off():
        folder = patiently(
            lambda: snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns)
        )
    return Path(folder)


_WEB = re.compile(r"(?:https?://(?P<host>[^/]+)|hf:/)/datasets/(?P<repo>[\w.-]+/[\w.-]+?)(?P<rest>[@/].*)?/?")
_REVISION = re.compile(r"(?:@(?P<at>[^/]+)|/(?:tree|blob|resolve|raw)/(?P<of>[^/]+))?(?:/(?P<path>.*))?")


def parse_address(source: str) -> tuple[str, str | None, str | None] | None:
    """Repository, revision and path of `hf://datasets/...` or a dataset's page; None for anything else."""
    from urllib.parse import unquote, urlsplit

    match = _WEB.fullmatch(source.partition("?")[0].rstrip("/"))
    if not match:
        return None
    from huggingface_hub import constants

    hosts = {"huggingface.co", "hf.co", urlsplit(constants.ENDPOINT).netloc}
    if match["host"] and match["host"] not in hosts:
        raise UsageError(f"{source} is not an address of the Hub ({', '.join(sorted(hosts))}).")
    found = _REVISION.fullmatch(match["rest"] or "")
    if not found:
        raise UsageError(f"{source}: expected hf://datasets/OWNER/NAME, with @REVISION and /PATH if need be.")
    revision = found["at"] or found["of"]
    return match["repo"], unquote(revision) if revision else None, found["path"] or None
