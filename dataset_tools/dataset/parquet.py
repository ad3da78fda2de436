"""Writing the parquet shards: one file at a time, under a partial name until it is whole."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset_tools.dataset.schema import arrow_schema

GROUP_ROWS = 100
GROUP_BYTES = 16 << 20
PAGE_ROWS = 16
"""A page is ended, where it has a megabyte, at a multiple of this: else it grows to the whole row group."""
IMAGE_BYTES = "images.list.element.bytes"


class ShardWriter:
    """Writes tables into one parquet file, in row groups of at most `GROUP_ROWS` rows or about `GROUP_BYTES`.

    Small row groups let a reader seek, and keep memory flat. Where the groups and their pages end depends on
    the rows alone, not on how many of them each call brings.
    `repeats_images`: rows in a row often hold the same image, which a row group then stores once. A row group
    is encoded and written in a thread; what goes wrong there is raised by a later call. `partial`: the name
    until the file is whole, on the same disk.
    """

    def __init__(self, path: Path, repeats_images: bool = False, partial: Path | None = None):
        self.path = path
        self._partial = partial or path.with_name(f".{path.name}.partial")
        self._schema = arrow_schema()
        self._stream = _sink(self._partial)
        self._held: list[pa.Table] = []
        self._held_rows = self._held_bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        # Started now: Ctrl-C while `submit` starts it would leave a thread that `shutdown` does not wait for.
        self._thread.submit(int).result()
        self._writing: Future[None] | None = None
        self.rows = 0
        dictionary = ["source", *(name for name in self._leaves() if name.endswith(".role"))]
        self._writer = pq.ParquetWriter(
            self._stream,
            self._schema,
            # Encoded images do not compress.
            compression={name: "NONE" if name == IMAGE_BYTES else "ZSTD" for name in self._leaves()},
            use_dictionary=[*dictionary, IMAGE_BYTES] if repeats_images else dictionary,
            dictionary_pagesize_limit=GROUP_BYTES if repeats_images else 1 << 20,
            write_statistics=["id"],
            write_batch_size=PAGE_ROWS,
            write_page_checksum=True,
        )

    def _leaves(self) -> list[str]:
        leaves = []
        for column in self._schema:
            inner = column.type.value_type if pa.types.is_list(column.type) else None
            if inner is None:
                leaves.append(column.name)
            elif pa.types.is_struct(inner):
                fields = [inner.field(index).name for index in range(inner.num_fields)]
                leaves += [f"{column.name}.list.element.{name}" for name in fields]
            else:
                leaves.append(f"{column.name}.list.element")
        return leaves

    def write(self, table: pa.Table, sizes: list[int]) -> None:
        """Add rows; `sizes` are the bytes of each row's images."""
        start = 0
        for index, size in enumerate(sizes):
            self._held_rows += 1
            self._held_bytes += size
            if self._held_rows >= GROUP_ROWS or self._held_bytes >= GROUP_BYTES:
                self._held.append(table.slice(start, index + 1 - start))
                start = index + 1
                self._flush()
        if start < len(sizes):
            self._held.append(table.slice(start))
        self.rows += len(sizes)

    def _flush(self) -> None:
        self._wait()
        if self._held:
            self._writing = self._thread.submit(self._write_group, self._held)
        self._held, self._held_rows, self._held_bytes = [], 0, 0

    def _write_group(self, tables: list[pa.Table]) -> None:
        group = pa.concat_tables(tables).combine_chunks()  # a page never spans two pieces of a column
        self._writer.write_table(group, row_group_size=GROUP_ROWS)

    def _wait(self) -> None:
        """Until the row group under way is written."""
        if self._writing:
            writing, self._writing = self._writing, None
            writing.result()

    def add_metadata(self, values: dict[bytes, bytes]) -> None:
        """Add key-value metadata to the file's footer."""
        self._writer.add_key_value_metadata(values)

    def close(self) -> None:
        """Finish the file and give it its name."""
        self._flush()
        self._wait()
        self._thread.shutdown()
        self._writer.close()
        self._stream.close()
        with open(self._partial, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(self._partial, self.path)

    def abandon(self) -> None:
        """Remove the unfinished file."""
        self._thread.shutdown()
        try:
            self._writer.close()
        except (OSError, pa.ArrowException):
            pass
        self._stream.close()
        self._partial.unlink(missing_ok=True)


def image_bytes(rows: pa.RecordBatch | pa.Table) -> list[int]:
    """The bytes of each row's images, as `ShardWriter.write` takes them."""
    sizes = pc.binary_length(pc.struct_field(pc.list_flatten(rows.column("images")), "bytes"))
    ends = np.cumsum([0, *sizes.fill_null(0).to_pylist()])
    lengths = pc.list_value_length(rows.column("images")).fill_null(0).to_pylist()
    starts = np.cumsum([0, *lengths])
    return [int(size) for size in ends[starts[1:]] - ends[starts[:-1]]]


def _sink(path: Path) -> pa.NativeFile:
    """A new file, written to without the copy that pyarrow makes for one opened by Python."""
    return pa.OSFile(os.fsencode(path), "wb")
