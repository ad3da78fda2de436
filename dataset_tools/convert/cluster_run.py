"""A conversion on a cluster, byte for byte what one machine makes of the same rows.

What a row gives depends on no other row; whether its id repeats, and in which shard it is, on all before it.
So first ranges of rows are made into parts, on all machines at once. Then this process, which sees ids and
reasons only, settles in the order of the rows what is kept and where each shard begins. Then the shards are
made from the parts, on all machines again. What was stopped goes on with the parts and shards that are whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from dataset_tools.cluster import Cluster, Piece, Result
from dataset_tools.convert.annotate import Annotate
from dataset_tools.convert.begun import Begun
from dataset_tools.convert.from_parts import PLANS, Plan, Shard, ShardMaker
from dataset_tools.convert.image_places import image_prefixes
from dataset_tools.convert.locate import Located
from dataset_tools.convert.parts import Counter, PartMaker, Range, Work, outcomes, outcomes_file, ranges
from dataset_tools.convert.readers import Reader
from dataset_tools.convert.tally import Tally
from dataset_tools.dataset.folder import Workplace
from dataset_tools.errors import DataError

if TYPE_CHECKING:
    from dataset_tools.convert.conversion import Conversion


class ClusterRun(Begun):
    """The driver of a conversion on a cluster. `stage` is told what is done next, with its rows or files."""

    in_parts = True

    def __init__(
        self,
        conversion: Conversion,
        reader: Reader,
        annotate: Annotate,
        place: Workplace,
        cluster: Cluster,
        advance: Callable[[int], None],
        stage: Callable[[str, str, int], None],
    ):
        super().__init__(conversion, place, advance)
        self.reader, self.cluster, self.stage = reader, cluster, stage
        self.parts = place.parts
        self.parts.mkdir(exist_ok=True)
        located = conversion.located
        files = [(located.fetched(file), name) for file, name in conversion.recognised.files]
        self.work = Work(
            self.parts,
            files,
            annotate,
            _on_machines(located),
            [Path(os.path.abspath(root)) for root in self.settings.image_roots],
            conversion.recognised.embeds_images,
            self.settings.max_pixels,
            image_prefixes(located, [name for _, name in files]),
            conversion.source.image_folders,
            conversion.source.repeats_images,
        )

    def _each(self, make: Callable[[], Callable[[Piece], Result]], pieces: list[Piece]) -> Iterator[Result]:
        return self.cluster.spread(make, pieces, on_each_cpu=True)

    def to_the_end(self) -> Tally:
        """Do all that is left, and make OUT."""
        self.read_ids()
        rows = self._ranges()
        self._make_parts(rows)
        with self.listing():
            shards = self._plan(rows)
            self.sync_lists()
        self._make_shards(shards)
        self.next_row += _count(rows)
        self.save()
        self.place.remove_parts()
        return self.finish()

    def _ranges(self) -> list[Range]:
        files = self.reader.files
        unknown = [index for index, file in enumerate(files) if file.total is None]
        totals = dict(self._each(partial(Counter, self.work), unknown))
        return ranges(files, totals, self.next_row, self.settings.limit, self.settings.shard_rows)

    def _make_parts(self, rows: list[Range]) -> None:
        names = {path.name for path in self.parts.iterdir()}
        left = [each for each in rows if outcomes_file(self.parts, each.index).name not in names]
        total = self.next_row + _count(rows)
        self.stage("convert", "rows", total)
        self.advance(total - _count(left))
        for done in self._each(partial(PartMaker, self.work), left):
            self.advance(done)

    def _plan(self, rows: list[Range]) -> list[Shard]:
        """Settle all rows in their order: the lists, the counts, and a plan for each shard."""
        shards: list[Shard] = []
        plan = Plan()
        unfinished = self.parts / f".{PLANS}.partial"
        with open(unfinished, "wb") as stream:

            def close() -> None:
                number = self.shards + len(shards)
                shards.append(Shard(number, self.place.shard(number), stream.tell()))
                plan.write(stream)

            for each in rows:
                before = self.tally.read
                for place, row in outcomes(self.parts, each.index):
                    for outcome in self.settle(row, f"{each.name}:{place}"):
                        plan.add(each.index, outcome.place)
                    if plan.rows >= self.settings.shard_rows:
                        close()
                        plan = Plan()
                if self.tally.read - before != _count([each]):
                    raise DataError(
                        f"{outcomes_file(self.parts, each.index)} does not hold all rows of {each}: remove "
                        f"{self.place.folder} and start again."
                    )
            if plan.rows:
                close()
        os.replace(unfinished, self.parts / PLANS)
        return shards

    def _make_shards(self, shards: list[Shard]) -> None:
        self.stage("write", "files", len(shards))
        make = partial(ShardMaker, self.parts, self.conversion.source.repeats_images)
        digests = {}
        for number, digest in self._each(make, shards):
            digests[number] = digest
            self.advance(1)
        self.digests += [digests[shard.number] for shard in shards]
        self.shards += len(shards)


def _count(rows: list[Range]) -> int:
    return sum(each.stop - each.first for each in rows)


def _on_machines(located: Located) -> Located:
    """A source as other machines find it: in the folder that it was fetched to, which they share.

    Of its files only the archives are named, of which images may be read; a list of all may be long.
    """
    here = located.folder
    if here is None:
        fetched = ((name, located.file(name)) for name in located.sizes)
        name, path = next((name, path) for name, path in fetched if isinstance(path, Path))
        here = path.parents[len(PurePosixPath(name).parts) - 1]
    named = {
        name: size
        for name, size in located.sizes.items()
        if (".zip" in name.lower() or ".tar" in name.lower()) and (here / name).exists()
    }
    return replace(located, folder=here, sizes=named)
