"""`generate`: rows of questions about images to preference pairs, shard by shard, resumable."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from dataset_tools.convert.files import AnyFile
from dataset_tools.convert.gate import rows_of_chunk
from dataset_tools.convert.image_places import given_roots, image_store
from dataset_tools.convert.locate import locate
from dataset_tools.convert.readers import Reader
from dataset_tools.convert.rows import Images
from dataset_tools.convert.select import choose
from dataset_tools.convert.source_identity import changed, content_of, file_digest, identity
from dataset_tools.convert.tally import kind_of_reason
from dataset_tools.dataset.folder import LEFT_OUT, LOGS, REJECTED
from dataset_tools.dataset.record import write_text
from dataset_tools.dataset.workplace import settled
from dataset_tools.errors import BadRow, DataError, SkippedPair, UsageError
from dataset_tools.generate.answers import Sampling, seed_of
from dataset_tools.generate.folder import RECORD, SPLIT, PairsFolder, card_of, write_shard
from dataset_tools.generate.instructions import instruction_of
from dataset_tools.generate.pairing import Outcome, Question
from dataset_tools.images.opening import MAX_PIXELS, open_image
from dataset_tools.sources.origin import CARD

_TRIED = 50
"""Rows read before the model is loaded: where none of them can be used, the source is a wrong one."""


@dataclass
class Settings:
    """What is asked for; `recipe` describes how pairs are made, for the record."""

    source: str
    out: Path
    image_roots: list[Path] = field(default_factory=list)
    columns: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    shard_rows: int = 500
    batch_size: int = 8
    seed: int = 0
    resume: bool = False
    recipe: dict[str, Any] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What is known of each model before it is loaded, of the keys that its identity has."""


@dataclass
class Counts:
    """Rows of the source: `read` is `pairs` + `left_out` + `refused`, each once."""

    read: int = 0
    pairs: int = 0
    left_out: int = 0
    refused: int = 0
    cut_answers: int = 0
    thoughts: int = 0
    """Answers of the pairs before which the model thought, taken out."""
    reasons: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """For the record and the state."""
        return {**asdict(self), "reasons": dict(sorted(self.reasons.items())), "skipped": dict(self.skipped)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Counts:
        """The counts of a state."""
        return cls(**{**value, "reasons": Counter(value["reasons"]), "skipped": Counter(value["skipped"])})


class _Loaded(NamedTuple):
    """A row of the source with the bytes of its image, or why it cannot be used."""

    number: int
    place: str
    question: str
    image: bytes
    path: str | None
    problem: BadRow | None


class Generation:
    """A source opened and looked at, and OUT found free; nothing of the model was touched yet.

    Raises `UsageError` where none of the first rows can be used or OUT is in the way.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        local = Path(settings.source).expanduser()
        self.out = settled(settings.out, local if os.path.exists(local) else None)
        self.place = PairsFolder(self.out)
        given_roots(settings.image_roots)
        self._located = locate(settings.source, None)
        [choice, *_] = choose(
            self._located.sizes,
            SPLIT,
            self._located.location,
            patterns=self._located.patterns,
            card=self._located.splits,
        )
        files: list[AnyFile] = [self._located.file(name) for name in choice.files]
        self._located.fetch(files)
        self._files = [
            (self._located.fetched(file), name) for file, name in zip(files, choice.files, strict=True)
        ]
        self._reader = Reader(self._files, settings.limit)
        self.done = self._whole()
        if self.done is None:
            self._try_rows()

    @property
    def total(self) -> int | None:
        """Rows to read, where that is known beforehand."""
        total, limit = self._reader.total, self.settings.limit
        return limit if total is None else min(total, limit or total)

    def _whole(self) -> Counts | None:
        """The counts of an OUT that `--resume` finds whole."""
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            if self.settings.resume and (self.out / RECORD).is_file():
                return self._finished(self.out, self.settings.models)
            raise UsageError(f"{self.out} exists already: choose another OUT, or remove it.")
        if self.place.exists() and not self.settings.resume:
            raise UsageError(
                f"{self.place.folder} holds unfinished work: add --resume to go on with it, or remove it."
            )
        return None

    def _images(self) -> Images:
        store = image_store(self._located, self.settings.image_roots, bool(self._located.hub), whole=False)
        return Images(store, MAX_PIXELS)

    def _try_rows(self) -> None:
        problem: BadRow | None = None
        with self._images() as images:
            for count, row in enumerate(self._rows(0, images)):
                if row.problem is None:
                    return
                problem = problem or row.problem
                if count + 1 >= _TRIED:
                    break
        raise UsageError(
            f"none of the first rows of {self._located.location} can be used; the first: "
            f"{problem or 'there are no rows'}. A row needs a prompt and an image (--column prompt=NAME, "
            "--column image=NAME, --image-root FOLDER)."
        )

    def _rows(self, start: int, images: Images) -> Iterator[_Loaded]:
        limit = self.settings.limit
        for chunk, pictures in self._reader.chunks(start):
            for offset, row in enumerate(rows_of_chunk(chunk)):
                number, place = chunk.start + offset, f"{chunk.file}:{chunk.place(offset)}"
                if limit is not None and number >= limit:
                    return
                try:
                    if isinstance(row, BadRow):
                        raise row
                    asked = instruction_of(row, self.settings.columns)
                    image = images.get(asked.image, pictures, chunk.file)
                    data = image.data.to_pybytes() if isinstance(image.data, pa.Buffer) else image.data
                    yield _Loaded(number, place, asked.question, data, image.path, None)
                except BadRow as problem:
                    yield _Loaded(number, place, "", b"", None, problem)

    def _identity(self) -> list[list[Any]]:
        archives = [(root, root.name) for root in self.settings.image_roots if root.is_file()]
        return identity(self._files, pinned=self._located.hub) + identity(archives)

    def _fingerprint(self, models: Mapping[str, Any]) -> dict[str, Any]:
        """All that shapes the pairs but the batch size, which a lack of memory may force to change."""
        settings = self.settings
        return {
            "source": self._located.location,
            "revision": self._located.revision,
            "files": self._identity(),
            "image_roots": [str(root) for root in settings.image_roots],
            "columns": dict(settings.columns),
            "limit": settings.limit,
            "shard_rows": settings.shard_rows,
            "seed": settings.seed,
            "recipe": settings.recipe,
            "sampling": asdict(settings.sampling),
            "models": dict(models),
            "version": version("aspo-plugin"),
        }

    def run(
        self,
        recipe: Callable[[list[Question]], list[Outcome]],
        models: Mapping[str, Any],
        advance: Callable[[int], None] = lambda rows: None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> Counts:
        """Make the pairs of all rows. `models` says which models the recipe asks."""
        if self.done is not None:
            return self.done
        with self.place, self._images() as images, ExitStack() as stack:
            if self.place.is_whole():
                counts = self._finished(self.place.folder, models)
                self.place.name_for_good()
                return counts
            self._begin(self._fingerprint(models), warn)
            advance(self._next_row)
            self._logs = {
                name: stack.enter_context(open(self.place.folder / name, "ab")) for name in self._log_bytes
            }
            held: list[_Loaded] = []
            for row in self._rows(self._next_row, images):
                held.append(row)
                if len(held) >= self.settings.batch_size:
                    self._pairs(held, recipe)
                    advance(len(held))
                    held = []
                if row.number + 1 - self._next_row >= self.settings.shard_rows:
                    self._pairs(held, recipe)
                    advance(len(held))
                    held = []
                    self._close_shard(row.number + 1)
            if held:
                self._pairs(held, recipe)
                advance(len(held))
            self._close_shard(self._next_row + self.settings.shard_rows)
            return self._finish()

    def _begin(self, fingerprint: dict[str, Any], warn: Callable[[str], None]) -> None:
        self._fingerprint_now = fingerprint
        self._counts, self._digests, self._next_row = Counts(), list[str](), 0
        self._log_bytes = dict.fromkeys(LOGS, 0)
        self._shard: list[dict[str, Any]] = []
        if self.place.exists():
            state = self.place.read_state()
            self._check_state(state["fingerprint"], fingerprint, self.place.folder)
            if state.get("batch_size") != self.settings.batch_size:
                warn(
                    f"--batch-size was {state.get('batch_size')} when this work began: the rows from here on "
                    "may get other answers than they would have got then."
                )
            self._counts, self._digests = Counts.from_dict(state["tally"]), list(state["digests"])
            self._next_row, self._log_bytes = state["next_row"], dict(state["log_bytes"])
        self.place.restore(len(self._digests), self._log_bytes)
        for index, digest in enumerate(self._digests):
            if file_digest(self.place.shard(index)) != digest:
                raise DataError(
                    f"{self.place.shard(index)} is damaged: remove {self.place.folder} and start again."
                )
        self._save()

    def _finished(self, folder: Path, models: Mapping[str, Mapping[str, Any]]) -> Counts:
        """The counts of a whole folder. Raises `UsageError` where it was made otherwise than is asked now."""
        try:
            before = json.loads((folder / RECORD).read_text("utf-8"))
            made = before["models"]
            counts = Counts.from_dict(before["counts"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / RECORD} is damaged ({error!r}): choose another OUT.") from None
        now = self._fingerprint({})
        now["models"] = {
            part: {**(made.get(part) or {}), **models[part]} if part in models else made[part]
            for part in {**made, **models}
        }
        del now["version"]  # what is made is made, and an update asks for nothing else
        if content_of(now["files"]) == content_of(before.get("files") or []):
            now["files"] = before["files"]  # copied, or touched
        self._check_state(before, now, folder)
        return counts

    def _check_state(self, before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
        different = {key: before.get(key) for key in now if before.get(key) != now[key]}
        if different:
            what = _difference("", different, {key: now[key] for key in different})
            raise UsageError(f"--resume: {what}. Use the same settings and files, or remove {folder}.")

    def _pairs(self, rows: list[_Loaded], recipe: Callable[[list[Question]], list[Outcome]]) -> None:
        questions: list[Question] = []
        asked: list[_Loaded] = []
        outcomes: dict[int, Outcome] = {}
        for row in rows:
            try:
                if row.problem:
                    raise row.problem
                picture = open_image(row.image)
            except BadRow as problem:
                outcomes[row.number] = problem
            except Exception as error:  # damaged data makes decoders raise what they like
                outcomes[row.number] = BadRow(
                    f"the image cannot be decoded: {str(error) or type(error).__name__}"
                )
            else:
                seed = seed_of(self.settings.seed, row.number)
                questions.append(Question(row.question, picture, seed))
                asked.append(row)
        if questions:
            found = recipe(questions)
            outcomes.update((row.number, one) for row, one in zip(asked, found, strict=True))
        for row in rows:
            self._count(row, outcomes[row.number])

    def _count(self, row: _Loaded, outcome: Outcome) -> None:
        counts = self._counts
        counts.read += 1
        if isinstance(outcome, BadRow):
            counts.refused += 1
            counts.reasons[kind_of_reason(str(outcome))] += 1
            self._log(REJECTED, row, str(outcome))
        elif isinstance(outcome, SkippedPair):
            counts.left_out += 1
            counts.skipped[str(outcome)] += 1
            self._log(LEFT_OUT, row, str(outcome))
        else:
            counts.pairs += 1
            counts.cut_answers += outcome.cut
            counts.thoughts += outcome.thoughts
            self._shard.append(
                {
                    "ds_name": self._located.location,
                    "image": {"bytes": row.image, "path": row.path},
                    "question": row.question,
                    "chosen": outcome.chosen,
                    "rejected": outcome.rejected,
                    "origin_dataset": self._located.location,
                    "origin_split": SPLIT,
                    "idx": row.number,
                    "image_path": row.path,
                }
            )

    def _log(self, log: str, row: _Loaded, reason: str) -> None:
        line = json.dumps({"id": row.number, "reason": reason, "row": row.place}, ensure_ascii=True) + "\n"
        self._log_bytes[log] += self._logs[log].write(line.encode())

    def _close_shard(self, next_row: int) -> None:
        """Write the pairs since the last shard (none: no file) and make them count."""
        if self._shard:
            path = self.place.shard(len(self._digests))
            write_shard(path, self._shard)
            self._digests.append(file_digest(path))
            self._shard = []
        for log in self._logs.values():
            log.flush()
            os.fsync(log.fileno())
        self._next_row = next_row
        self._save()

    def _save(self) -> None:
        self.place.write_state(
            {
                "fingerprint": self._fingerprint_now,
                "batch_size": self.settings.batch_size,
                "tally": self._counts.as_dict(),
                "shards": len(self._digests),
                "digests": self._digests,
                "next_row": self._next_row,
                "log_bytes": self._log_bytes,
            }
        )

    def _finish(self) -> Counts:
        counts = self._counts
        if not counts.pairs:
            common = (counts.reasons + counts.skipped).most_common(3)
            why = "; ".join(f"{reason} ({count})" for reason, count in common)
            for log in self._logs.values():
                log.close()
            raise DataError(f"no pair came of {counts.read} rows: {why}. {self.place.give_up()}")
        now = self._identity()
        if now != self._fingerprint_now["files"]:
            raise DataError(
                f"{changed(self._fingerprint_now['files'], now)} of the source was changed while it was "
                f"read: remove {self.place.folder} and start again."
            )
        for log in self._logs.values():
            log.close()
        record = {**self._fingerprint_now, "batch_size": self.settings.batch_size, "counts": counts.as_dict()}
        write_text(self.place.folder / CARD, card_of(self._located))
        self.place.finish(len(self._digests), record)
        return counts


def _difference(name: str, before: Any, now: Any) -> str:
    """What differs first, in words; of settings within settings the innermost."""
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(key for key in {**before, **now} if before.get(key) != now.get(key))
        return _difference(f"{name}.{key}".lstrip("."), before.get(key), now.get(key))
    if name.endswith("files"):
        whose = "the source" if name == "files" else "the model"
        return f"{changed(before or [], now or [])} of {whose} has changed since this work began"
    return f"{name} is {now!r} now, but was {before!r} when this work began"
