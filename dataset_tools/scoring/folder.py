"""Scoring a converted dataset: each parquet shard is rewritten with similarities and replaced when whole.

A finished shard says in its parquet metadata who scored it, so a run that was stopped goes on where it was.
Of several processes (torchrun, accelerate launch, srun with the same variables) each takes the next shard
when it has finished one, so that a slow one does not hold the others; so do the workers of a Ray cluster.
"""

from __future__ import annotations

import json
import os
import platform
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa

from dataset_tools.dataset.lock import locked
from dataset_tools.dataset.parquet import IMAGE_BYTES, ShardWriter, image_bytes
from dataset_tools.dataset.record import read_record, write_record
from dataset_tools.dataset.schema import COLUMNS, iter_batches, read_footer, shards, text_of
from dataset_tools.errors import DataError, UsageError
from dataset_tools.scoring.scored import SCORER_KEY, scored_by

if TYPE_CHECKING:
    from dataset_tools.cluster import Cluster
    from dataset_tools.scoring.scorer import SentenceScorer

PARTIAL = ".scoring"
"""Where unfinished files are: LLaMA-Factory refuses a `data/` that holds a file it cannot read."""
_NAMED_ROWS = 5


def score_dataset(
    folder: Path | str,
    model: str,
    revision: str | None = None,
    *,
    rejected: bool = False,
    batch_size: int = 32,
    dtype: str = "auto",
    device: str | None = None,
    pickled_weights: bool = False,
    cluster: Cluster | None = None,
    progress: Callable[[int], Any] = lambda rows: None,
    begin: Callable[[int, int], Any] = lambda rows, done: None,
) -> dict[str, Any]:
    """Fill the similarity columns of a converted dataset; returns what `aspo.json` then says under `scorer`.

    Without `rejected` only chosen sentences are scored and `rejected_similarity` is left empty. Shards that
    the same model scored before are kept. `begin` gets the number of rows and how many of them are done
    already, `progress` the rows finished since its last call, by all processes; both are called in the first
    process. With a `cluster` its workers score the shards, in this very folder, which all of its machines
    must share. Raises `UsageError` for a folder that is no converted dataset or a model that is no dual
    encoder, `DataError` where nothing could be scored.
    """
    from dataset_tools.scoring.scorer import SentenceScorer, identify

    folder = Path(folder)
    record, paths = read_record(folder), shards(folder)
    if not paths:
        raise UsageError(f"{folder / 'data'} holds no parquet files: run `aspo-data convert` again.")
    wanted: dict[str, Any] = {**identify(model, revision).as_dict(), "rejected": rejected}
    if dtype != "auto":
        wanted["dtype"] = dtype
    make = partial(
        SentenceScorer,
        model,
        wanted.get("revision", revision),  # the commit: a branch may move while others load the model
        device,
        dtype,
        batch_size,
        pickled_weights=pickled_weights,
    )
    scorer: SentenceScorer | None = None
    with _processes(folder) as team:
        if team.rank == 0:
            pending = [path for path in paths if not _is_scored(path, wanted)]
            if record.get("scorer") and not _covers(record["scorer"], wanted):
                # A model that cannot be loaded leaves the record as it was.
                if pending and cluster:
                    list(cluster.spread(partial(_Loads, make), [model]))
                elif pending:
                    scorer = make()
                # From here on the shards are of two kinds until all are done.
                write_record(folder, {**record, "scorer": None})
            _clear(paths)
            rows = _rows(paths)
            begin(rows, rows - _rows(pending))
            team.offer([path.name for path in pending])
        if cluster is not None:
            everywhere = [str((folder / "data" / name).resolve()) for name in team.take()]
            for rows in cluster.spread(partial(_Worker, make, rejected), everywhere):
                team.count(rows, progress)
        else:
            for name in team.take():
                scorer = scorer or make()
                path = folder / "data" / name
                score_shard(path, scorer, rejected, lambda count: team.count(count, progress))
        team.wait()
        if team.rank:
            return {}
        team.count(0, progress)
        _clear(paths)
        return _recorded(folder, paths, record)


class _Loads:
    """Loads a model on a machine of a cluster, to see that it can be."""

    def __init__(self, make: Callable[[], SentenceScorer]) -> None:
        self._make = make

    def __call__(self, model: str) -> None:
        self._make()


class _Worker:
    """Scores one parquet file after the other on a machine of a cluster, by a model that is loaded once."""

    def __init__(self, make: Callable[[], SentenceScorer], rejected: bool) -> None:
        self._make, self._rejected = make, rejected
        self._scorer: SentenceScorer | None = None

    def __call__(self, name: str) -> int:
        """The rows of the file. Raises `UsageError` where this machine does not have it."""
        path = Path(name)
        if not path.is_file():
            raise UsageError(
                f"{path} is not on {platform.node()}, a machine of the cluster: give a folder that all of "
                "its machines share under the same path."
            )
        self._scorer = self._scorer or self._make()
        # A worker that Ray gave up may still be writing: no two write into one file.
        score_shard(path, self._scorer, self._rejected, writer=uuid4().hex)
        return int(read_footer(path).num_rows)


def score_shard(
    path: Path,
    scorer: SentenceScorer,
    rejected: bool,
    progress: Callable[[int], Any] = lambda rows: None,
    writer: str = "",
) -> None:
    """Replace one parquet file by the same rows with similarities, at once, when all are scored.

    `writer`: a name of the process, where another one may be writing the same file.
    """
    from dataset_tools.scoring.scorer import ScoreCounts

    scorer.counts = ScoreCounts()
    read: deque[pa.RecordBatch] = deque()
    unreadable: list[str] = []

    def rows() -> Iterator[tuple[list[bytes], list[str]]]:
        for batch in iter_batches(path, batch_size=scorer.batch_size):
            read.append(batch)
            columns = [batch.column(name).to_pylist() for name in _inputs(rejected)]
            for images, *responses in zip(*columns, strict=True):
                pairs = zip(responses[::2], responses[1::2], strict=True)
                # Of a converted dataset only the bytes count: a path in it may name any file of this machine.
                yield (
                    [image["bytes"] or b"" for image in images or []],
                    [text for pair in pairs for text in _sentences(*pair)],
                )

    unfinished = _partial(path, writer)
    unfinished.parent.mkdir(exist_ok=True)
    made = ShardWriter(path, _repeats_images(path), unfinished)
    try:
        found: list[list[float | None]] = []
        for similarity in scorer.score(rows()):
            found.append(similarity)
            while read and len(found) >= read[0].num_rows:
                batch = read.popleft()
                mine, found = found[: batch.num_rows], found[batch.num_rows :]
                unreadable += _unscored_ids(batch, mine)[: _NAMED_ROWS - len(unreadable)]
                made.write(_with_similarities(batch, mine, rejected), image_bytes(batch))
                progress(batch.num_rows)
        state: dict[str, Any] = {
            **scorer.identity.as_dict(),
            "dtype": str(scorer.encoder.dtype).removeprefix("torch."),
        }
        state |= {"rejected": rejected, "counts": scorer.counts.as_dict(), "unreadable": unreadable}
        made.add_metadata({SCORER_KEY: json.dumps(state).encode()})
        made.close()
    except BaseException:
        made.abandon()
        raise


def _partial(path: Path, writer: str = "") -> Path:
    return path.parent.parent / PARTIAL / f"{path.name}{writer and '.'}{writer}.partial"


def _clear(paths: list[Path]) -> None:
    """Remove what a run that was killed left of these files, also under the name that it had before."""
    for path in paths:
        theirs = _partial(path).parent.glob(f"{path.name}.*.partial")
        for left in (_partial(path), *theirs, path.with_name(f".{path.name}.partial")):
            left.unlink(missing_ok=True)
    try:
        _partial(paths[0]).parent.rmdir()
    except OSError:  # not there, or another process works in it
        pass


def _inputs(rejected: bool) -> list[str]:
    names = ["images", "chosen", "chosen_sentences"]
    return [*names, "rejected", "rejected_sentences"] if rejected else names


def _sentences(messages: list[dict[str, str]], spans: list[dict[str, int]] | None) -> list[str]:
    text = text_of(messages)
    return [text[span["start"] : span["end"]] for span in spans or []]


def _with_similarities(batch: pa.RecordBatch, found: list[list[float | None]], rejected: bool) -> pa.Table:
    """The batch with `found`, which holds a row's chosen sentences first, then its rejected ones."""
    sizes = [len(spans or ()) for spans in batch.column("chosen_sentences").to_pylist()]
    columns = {
        "chosen_similarity": [row[:size] for row, size in zip(found, sizes, strict=True)],
        "rejected_similarity": [
            row[size:] if rejected else None for row, size in zip(found, sizes, strict=True)
        ],
    }
    table = pa.Table.from_batches([batch])
    for name, values in columns.items():
        kind, _ = COLUMNS[name]
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, type=kind))
    return table


def _unscored_ids(batch: pa.RecordBatch, found: list[list[float | None]]) -> list[str]:
    """Ids of rows that have images but got no similarities."""
    counts = batch.column("images").value_lengths().to_pylist()
    rows = zip(batch.column("id").to_pylist(), counts, found, strict=True)
    return [name for name, images, row in rows if images and None in row]


def _repeats_images(path: Path) -> bool:
    """Whether the images of a file are stored in a dictionary, as `convert` does where rows share them."""
    metadata = read_footer(path)
    if not metadata.num_row_groups:
        return False
    group = metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    return any(column.has_dictionary_page for column in columns if column.path_in_schema == IMAGE_BYTES)


def _covers(state: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether `state` is by the wanted model; similarities of rejected sentences may be there unasked."""
    same = all(state.get(name) == value for name, value in wanted.items() if name != "rejected")
    identity = {name for name in ("revision", "fingerprint") if name in state} <= set(wanted)
    return bool(state) and same and identity and (state.get("rejected") or not wanted["rejected"])


def _is_scored(path: Path, wanted: dict[str, Any]) -> bool:
    return _covers(scored_by(path), wanted)


def _rows(paths: list[Path]) -> int:
    return sum(read_footer(path).num_rows for path in paths)


def _recorded(folder: Path, paths: list[Path], record: dict[str, Any]) -> dict[str, Any]:
    """Sum the shards up in `aspo.json`."""
    states = [scored_by(path) for path in paths]
    counts: Counter[str] = Counter()
    for state in states:
        counts.update(state.get("counts") or {})
    scorer = {name: value for name, value in states[0].items() if name not in ("counts", "unreadable")}
    scorer["rejected"] = all(state.get("rejected") for state in states)
    scorer["counts"] = dict(counts)
    write_record(folder, {**record, "scorer": scorer})
    if counts["images"] and not counts["distinct_images"]:
        raise DataError(
            f"none of the {counts['images']:,} images could be decoded, so nothing was scored: "
            "`aspo-data validate` names the rows."
        )
    unreadable = [name for state in states for name in state.get("unreadable") or ()][:_NAMED_ROWS]
    return {**scorer, "unreadable": unreadable} if unreadable else scorer


class _Team:
    """The processes that score a folder together: the first offers shards, each takes the next that is left.

    `store`: what they share, None for one process alone.
    """

    def __init__(self, rank: int = 0, store: Any = None, distributed: Any = None) -> None:
        self.rank = rank
        self._store = store
        self._distributed = distributed
        self._offered: list[str] = []
        self._told = 0

    def offer(self, names: list[str]) -> None:
        self._offered = names
        if self._store is not None:
            self._store.set("aspo/shards", json.dumps(names))

    def take(self) -> Iterator[str]:
        """Names of shards, as long as there are any left; each is given to one process."""
        if self._store is None:
            yield from self._offered
            return
        store = self._store
        names = json.loads(_reached(lambda: store.get("aspo/shards")))  # waits until they are offered
        while (index := _reached(lambda: store.add("aspo/next", 1)) - 1) < len(names):
            yield names[index]

    def count(self, rows: int, progress: Callable[[int], Any]) -> None:
        """Add rows that are finished; the first process tells those of all."""
        done = rows + self._told if self._store is None else self._store.add("aspo/rows", rows)
        if self.rank == 0 and done > self._told:
            progress(done - self._told)
            self._told = done

    def wait(self) -> None:
        if self._distributed is not None:
            _reached(self._distributed.barrier)


def _reached(ask: Callable[[], Any]) -> Any:
    """What the other processes answer. Raises `DataError` where one of them is gone."""
    try:
        return ask()
    except RuntimeError as error:
        raise DataError(
            "another process of this scoring ended before its part was done; its own message says why. Start "
            f"the same command again: finished files are kept. ({str(error).partition(chr(10))[0][:200]})"
        ) from None


@contextmanager
def _processes(folder: Path) -> Iterator[_Team]:
    """The processes of this scoring; the folder is locked meanwhile."""
    rank, together = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    busy = f"another `aspo-data score` or push is at work in {folder / 'data'}."
    with locked(folder / "data", busy) if rank == 0 else nullcontext():
        if together == 1:
            yield _Team()
            return
        import torch.distributed as distributed

        # Nothing is exchanged but names and the end, which some processes reach hours before others.
        forever = timedelta(days=7)
        store, rank, together = next(distributed.rendezvous("env://", timeout=forever))
        store.set_timeout(forever)
        distributed.init_process_group(
            "gloo",
            store=distributed.PrefixStore("group", store),
            rank=rank,
            world_size=together,
            timeout=forever,
        )
        try:
            yield _Team(rank, store, distributed)
        finally:
            distributed.destroy_process_group()
