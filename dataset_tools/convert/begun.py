"""A conversion as it stands: what is counted, listed and finished of it, taken up again after a stop."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from dataset_tools.convert.ids import IdSet
from dataset_tools.convert.rows import DUPLICATE, Outcome, refuse_repeated, tally_row
from dataset_tools.convert.source_identity import changed, file_digest
from dataset_tools.convert.tally import Tally
from dataset_tools.dataset.folder import LEFT_OUT, LOGS, REJECTED, Workplace
from dataset_tools.dataset.schema import iter_batches
from dataset_tools.errors import DataError, UsageError

if TYPE_CHECKING:
    from dataset_tools.convert.conversion import Conversion

NOT_FOUND = "image file not found"
IMAGES_ELSEWHERE = "Where the images lie elsewhere: --image-root FOLDER, or a zip or tar file."
HINTS = {NOT_FOUND: IMAGES_ELSEWHERE, DUPLICATE: "Ids repeat: --number-rows numbers the rows instead."}
"""What to do about many refused rows, by their reason."""


class Begun:
    """What all ways to run a conversion share: what is in the working folder is as the state says, or newer.

    Raises `UsageError` where another way, or other settings, began what is in the folder.
    """

    in_parts = False
    """Whether shards are made from parts, in any order, and so may be there before the state counts them."""

    def __init__(self, conversion: Conversion, place: Workplace, advance: Callable[[int], None]):
        self.conversion, self.place, self.advance = conversion, place, advance
        self.settings = conversion.settings
        self.fingerprint = conversion.fingerprint()
        self.ids = IdSet()
        self.tally, self.shards, self.next_row = Tally(), 0, 0
        self.log_bytes = dict.fromkeys(LOGS, 0)
        self.digests: list[str] = []
        self._logs: dict[str, Any] = {}
        if place.exists():
            self._take_up(place.read_state())
        if place.parts.exists() and not self.in_parts:
            raise UsageError(
                f"{place.folder} was begun with --engine ray: go on with it, or remove the folder."
            )
        place.restore(self.shards, self.log_bytes, later=self.in_parts)
        self.save()

    def _take_up(self, state: dict[str, Any]) -> None:
        for key, value in self.fingerprint.items():
            if state["fingerprint"].get(key) != value:
                before = state["fingerprint"].get(key)
                if key == "files" and isinstance(before, list):
                    raise UsageError(
                        f"--resume: {changed(before, value)} of the source has changed since this conversion "
                        f"began. Remove {self.place.folder} and start again."
                    )
                raise UsageError(
                    f"--resume: {key} is {value!r} now, but was {before!r} when this conversion began. "
                    f"Use the same settings, or remove {self.place.folder}."
                )
        self.tally = Tally.from_dict(state["tally"])
        self.shards, self.next_row = state["shards"], state["next_row"]
        self.digests = list(state["digests"])
        self.log_bytes = dict(state["log_bytes"])
        self.advance(self.next_row)

    def save(self) -> None:
        """Make what is done count."""
        self.place.write_state(
            {
                "fingerprint": self.fingerprint,
                "tally": self.tally.as_dict(),
                "shards": self.shards,
                "digests": self.digests,
                "next_row": self.next_row,
                "log_bytes": self.log_bytes,
            }
        )

    def read_ids(self) -> None:
        """Know the ids of the shards that are finished. Raises `DataError` where one is damaged."""
        for index in range(self.shards):
            if file_digest(self.place.shard(index)) != self.digests[index]:
                raise DataError(
                    f"{self.place.shard(index)} is damaged: remove {self.place.folder} and start again."
                )
            for batch in iter_batches(self.place.shard(index), ["id"], batch_size=4096):
                for name in batch.column("id").to_pylist():
                    self.ids.add(name)

    @contextmanager
    def listing(self) -> Iterator[None]:
        """The lists of what is not written are open meanwhile."""
        with ExitStack() as stack:
            self._logs = {
                name: stack.enter_context(open(self.place.folder / name, "ab")) for name in self.log_bytes
            }
            yield

    def settle(self, row: list[Outcome], where: str) -> list[Outcome]:
        """The pairs of a row that are written, all that is not being counted and listed."""
        refuse_repeated(row, self.ids)
        tally_row(self.tally, row)
        for outcome in row:
            if not outcome.kept:
                self._list(outcome, where)
        return [outcome for outcome in row if outcome.kept]

    def _list(self, outcome: Outcome, where: str) -> None:
        log = LEFT_OUT if outcome.left_out else REJECTED
        told = {"id": outcome.id, "reason": outcome.reason, "row": where}
        self.log_bytes[log] += self._logs[log].write((json.dumps(told, ensure_ascii=True) + "\n").encode())

    def sync_lists(self) -> None:
        """Make what was listed survive a power cut."""
        for log in self._logs.values():
            log.flush()
            os.fsync(log.fileno())

    def finish(self) -> Tally:
        """Make OUT of the working folder. Raises `DataError` where it holds no row, or the source changed."""
        if not self.tally.rows:
            raise DataError(f"{no_row_used(self.tally)} {self.place.give_up()}")
        now = self.conversion.identity()
        if now != self.fingerprint["files"]:
            raise DataError(
                f"{changed(self.fingerprint['files'], now)} of the source was changed while it was read: "
                f"remove {self.place.folder} and start again."
            )
        self.place.finish(self.shards, self.conversion.record(self.tally))
        return self.tally


def no_row_used(tally: Tally) -> str:
    """Why there is no output, with the most frequent reasons."""
    counted = tally.reasons + tally.skipped
    reasons = "; ".join(f"{reason} ({count})" for reason, count in counted.most_common(3))
    text = f"no row of {tally.read} could be used: {reasons or 'there is no pair'}."
    return f"{text} {IMAGES_ELSEWHERE}" if NOT_FOUND in tally.reasons else text
