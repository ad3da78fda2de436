"""A converted dataset to the Hub and back, by huggingface_hub."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dataset_tools.dataset.folder import DATASET_INFO, llamafactory_entry
from dataset_tools.dataset.lock import locked
from dataset_tools.dataset.record import RECORD, read_record, write_json, write_text
from dataset_tools.dataset.schema import shards
from dataset_tools.dataset.workplace import WorkFolder, settled
from dataset_tools.errors import DataError, UsageError
from dataset_tools.scoring.scored import check_scoring
from dataset_tools.share.card import MARK, license_of, render
from dataset_tools.sources.origin import CARD

PICTURE = "stats.png"
"""A chart of the statistics, which the card shows where the dataset's folder holds it."""
# What belongs to a dataset, here and there. The list of refused rows stays at home: it may quote the source.
_SHARD = re.compile(r"data/[\w.-]+-\d{5}-of-\d{5}\.parquet")
_DATA = re.compile(r"data/[^/]+\.parquet")
_NAMED = 5
_PULLED = (
    _SHARD.pattern,
    RECORD,
    DATASET_INFO,
    re.escape(CARD),
    re.escape(PICTURE),
    r"\.cache/huggingface/.*",
)
_NETWORK = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "ssl", "socket")


class Plan(NamedTuple):
    """What a push would do: the files with their sizes in bytes, the card, the licence."""

    files: dict[str, int]
    card: str
    license: str
    scored: bool


def plan(folder: Path | str, repo: str) -> Plan:
    """Check a dataset before it is pushed; nothing is asked of the Hub and nothing written.

    Raises `UsageError` where the folder is no whole converted dataset, it was scored in part or by several
    models, or its card was written by somebody else.
    """
    folder = Path(folder)
    _check_id(repo)
    record, paths = read_record(folder), shards(folder)
    _check_whole(folder, paths)
    check_scoring(folder)
    own = folder / CARD
    if own.exists() and MARK not in own.read_text(encoding="utf-8", errors="replace"):
        raise UsageError(
            f"{own} was not written by aspo-data and would be overwritten: move it away, and add to the card "
            "on the Hub after the push."
        )
    splits = list(dict.fromkeys(path.name.rsplit("-", 3)[0] for path in paths))
    picture = PICTURE if (folder / PICTURE).is_file() else None
    card = render(record, splits, repo, picture)
    files = {f"data/{path.name}": path.stat().st_size for path in paths}
    files |= {name: (folder / name).stat().st_size for name in (RECORD, DATASET_INFO)}
    if picture:
        files[picture] = (folder / picture).stat().st_size
    files[CARD] = len(card.encode())
    return Plan(files, card, license_of(record), record.get("scorer") is not None)


def _check_id(repo: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    if repo.count("/") != 1:
        raise UsageError(f"{repo!r} is not a Hub id, which is owner/name.")
    try:
        validate_repo_id(repo)
    except ValueError as error:
        raise UsageError(f"{repo!r} is not a Hub id, which is owner/name: {error}") from None


def _check_whole(folder: Path, paths: list[Path]) -> None:
    if not paths:
        raise UsageError(f"{folder / 'data'} holds no parquet files: run `aspo-data convert` again.")
    for path in paths:
        match = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.parquet", path.name)
        count = sum(other.name.startswith(f"{match[1]}-") for other in paths) if match else 0
        if not match or count != int(match[3]):
            raise UsageError(
                f"{path} does not fit the other files of its folder ({count} are there): a converted dataset "
                "has all of its files, named SPLIT-00000-of-00003.parquet and so on."
            )


def push(
    folder: Path | str,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Publish a converted dataset with its card, in one commit; returns url, commit and what was sent.

    Files that the Hub already has, also from an upload that was cut off, are not sent again. Files of an
    earlier push that the dataset no longer has are removed in the same commit. A repository that holds
    anything else is left alone unless `overwrite`, which replaces its card and its `data/*.parquet`. Raises
    what `plan` raises, `UsageError` where the repository is another's, `private` meets a public one or the
    dataset is being scored, `DataError` where the connection breaks.
    """
    folder = Path(folder)
    read_record(folder)
    busy = f"{folder} is being scored or pushed by another aspo-data: wait until it is done."
    with locked(folder / "data", busy):
        return _push(folder, repo, private, revision, overwrite)


def _push(folder: Path, repo: str, private: bool, revision: str | None, overwrite: bool) -> dict[str, Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    planned = plan(folder, repo)
    api = HfApi()
    with network("the upload was cut off. Run the same command again: what has arrived is not sent twice"):
        # The repository comes before any file: a private dataset must never have been public for a moment.
        repo = api.create_repo(repo, repo_type="dataset", private=private or None, exist_ok=True).repo_id
        if private and not api.dataset_info(repo).private:
            raise UsageError(
                f"{repo} exists and is public, so --private cannot hold: make it private on its settings "
                "page, or push to another name."
            )
        met, there = _branch(api, repo, revision)
        if not overwrite:
            _check_own(api, repo, met, there)
        if revision:
            api.create_branch(repo, repo_type="dataset", branch=revision, exist_ok=True)
        write_text(folder / CARD, planned.card)
        gone = sorted(name for name in there - set(planned.files) if _DATA.fullmatch(name))
        operations: list[Any] = [CommitOperationDelete(path_in_repo=name) for name in gone]
        operations += [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name))
            for name in planned.files
        ]
        done = api.create_commit(
            repo,
            operations,
            commit_message="Upload with aspo-data",
            repo_type="dataset",
            revision=revision,
        )
    return {
        "repo": repo,
        "url": f"{api.endpoint}/datasets/{repo}",
        "revision": revision or "main",
        "commit": done.oid,
        "files": len(planned.files),
        "bytes": sum(planned.files.values()),
        "removed": gone,
        "license": planned.license,
    }


def _branch(api: Any, repo: str, revision: str | None) -> tuple[str | None, set[str]]:
    """A branch (None: main) and its files; for one that is still to be made, the one it will begin as."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return revision, set(api.list_repo_files(repo, repo_type="dataset", revision=revision))
    except RevisionNotFoundError:
        if revision is None:
            raise
        return _branch(api, repo, None)


def _check_own(api: Any, repo: str, revision: str | None, there: set[str]) -> None:
    """Raise `UsageError` where a repository holds anything that no earlier push put there."""
    held = sorted(there - {".gitattributes"})
    others = sorted(name for name in there if _DATA.fullmatch(name) and not _SHARD.fullmatch(name))
    what = ""
    if held and RECORD not in there:
        names = ", ".join(held[:_NAMED]) + (f" and {len(held) - _NAMED} more" if held[_NAMED:] else "")
        what = f"holds what aspo-data did not put there ({names})"
    elif others:
        what = f"holds {', '.join(others[:_NAMED])}, which aspo-data did not put there"
    elif CARD in there:
        with tempfile.TemporaryDirectory() as place:
            card = api.hf_hub_download(repo, CARD, repo_type="dataset", revision=revision, local_dir=place)
            if MARK not in Path(card).read_text(encoding="utf-8", errors="replace"):
                what = f"has a {CARD} that aspo-data did not write"
    if what:
        raise UsageError(
            f"{repo} {what}: nothing was sent, since its {CARD} and data/*.parquet would be replaced. "
            "Push to another name, or add --overwrite to replace them (the repository's history keeps them)."
        )


def pull(
    repo: str, out: Path | str, *, check: Callable[[Path], list[str]], revision: str | None = None
) -> dict[str, Any]:
    """Fetch a dataset that `push` published, check it, and return its commit and record.

    The files come to `OUT.incomplete`, where a pull that was cut off goes on, and get their final name when
    all are there. Only files of a converted dataset are taken, and what LLaMA-Factory reads is written anew.
    `check` says what is wrong with a fetched folder, see `validate.first_problems`. Raises `UsageError` where
    `out` holds something, or the repository is not of this kind; `DataError` where something is wrong.
    """
    _check_id(repo)
    out = settled(Path(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not empty: give another folder, or remove it first.")
    with WorkFolder(out, "pull", _PULLED) as place:
        return _pull(repo, revision, place, check)


def _pull(
    repo: str, revision: str | None, place: WorkFolder, check: Callable[[Path], list[str]]
) -> dict[str, Any]:
    from huggingface_hub import HfApi

    out, partial = place.out, place.folder
    api = HfApi()
    with network("the download was cut off. Run the same command again: it goes on where it was"):
        info = api.dataset_info(repo, revision=revision)
        names = {sibling.rfilename for sibling in info.siblings or []}
        if RECORD not in names:
            raise UsageError(
                f"{repo} has no {RECORD}, so it was not made by aspo-data: `aspo-data convert {repo} {out}` "
                "converts a preference dataset of another form."
            )
        wanted = {name for name in names if _SHARD.fullmatch(name)}
        # One commit, so that a push in the meantime cannot mix two versions.
        api.snapshot_download(
            repo,
            repo_type="dataset",
            revision=info.sha,
            local_dir=partial,
            allow_patterns=sorted(wanted | (names & {RECORD, CARD, PICTURE})),
        )
    record = read_record(partial)
    # Left from a pull of another revision or repository that was cut off.
    for path in [*shards(partial), partial / CARD, partial / PICTURE]:
        if path.relative_to(partial).as_posix() not in names:
            path.unlink(missing_ok=True)
    _check_whole(partial, shards(partial))
    problems = check(partial)
    if problems:
        raise DataError(
            f"{repo} is not a whole converted dataset: {'; '.join(problems)}. It stays in {partial}."
        )
    splits = dict.fromkeys(path.name.rsplit("-", 3)[0] for path in shards(partial))
    write_json(partial / DATASET_INFO, dict.fromkeys(splits, llamafactory_entry()))
    shutil.rmtree(partial / ".cache" / "huggingface", ignore_errors=True)
    (partial / ".cache").rmdir()
    place.name_for_good()
    size = sum(path.stat().st_size for path in shards(out))
    return {"repo": repo, "commit": info.sha, "files": len(wanted), "bytes": size, "record": record}


@contextmanager
def network(message: str) -> Iterator[None]:
    """A broken connection as one `DataError`; answers of the Hub stay what they are."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UsageError | DataError):
            raise
        chain: list[BaseException] = [error]
        while following := chain[-1].__cause__ or chain[-1].__context__:
            chain.append(following)
        for cause in chain:
            if _is_answer(cause):
                raise cause from None
            broken = isinstance(cause, ConnectionError | TimeoutError)
            if broken or type(cause).__module__.partition(".")[0] in _NETWORK:
                raise DataError(f"{message}. ({type(cause).__name__}: {cause})") from None
        raise


def _is_answer(error: BaseException) -> bool:
    """Whether the Hub answered with an error, or was not to be asked.

    A file that is neither here nor to be reached is no answer.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if "OfflineModeIsEnabled" in names:
        return True
    return "HfHubHTTPError" in names and "LocalEntryNotFoundError" not in names
