"""The images embedded in a chunk of arrow data, set apart from its texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_tools.convert.chunks import ArrowChunk, Chunk
from dataset_tools.sources.images import Embedded


class Pictures:
    """The images embedded in a chunk, by index."""

    def __init__(self) -> None:
        self._arrays: list[tuple[pa.Array, list[str | None]]] = []
        self._slices: list[list[int]] = []

    def add(self, images: pa.Array) -> list[Embedded | str | None]:
        """Take an array of {bytes, path} structs or of bytes; returns what stands for each in a row."""
        base = sum(len(data) for data, _ in self._arrays)
        if pa.types.is_struct(images.type):
            names = [images.type.field(index).name for index in range(images.type.num_fields)]
            data = pc.struct_field(images, "bytes")
            paths = pc.struct_field(images, "path").to_pylist() if "path" in names else [None] * len(images)
        else:
            data, paths = images, [None] * len(images)
        self._arrays.append((data, paths))
        wide = pa.types.is_large_binary(data.type)
        ends = np.frombuffer(data.buffers()[1], np.int64 if wide else np.int32)
        self._slices.append(ends[data.offset : data.offset + len(data) + 1].tolist())
        valid = data.is_valid().to_pylist()
        held = images.is_valid().to_pylist()
        return [
            Embedded(base + index) if there else (paths[index] or Embedded(-1)) if held[index] else None
            for index, there in enumerate(valid)
        ]

    def get(self, index: int) -> tuple[pa.Buffer, str | None]:
        """Bytes and stored path of an image; nothing is copied, as `data[index].as_buffer()` would."""
        for (data, paths), ends in zip(self._arrays, self._slices, strict=True):
            if index < len(data):
                return data.buffers()[2].slice(ends[index], ends[index + 1] - ends[index]), paths[index]
            index -= len(data)
        raise IndexError(index)

    def column(self, indices: list[int]) -> pa.Array:
        """The bytes of some images as one array, without a copy where they follow each other."""
        data = self._arrays[0][0] if len(self._arrays) == 1 else pa.concat_arrays(a for a, _ in self._arrays)
        if indices == list(range(indices[0], indices[0] + len(indices))):
            column = data.slice(indices[0], len(indices))
        else:
            column = data.take(pa.array(indices, pa.int64()))
        return column.cast(pa.binary())


def arrow_chunk(
    batch: pa.RecordBatch, file: str, first: int, start: int, features: dict[str, Any]
) -> tuple[Chunk, Pictures]:
    """A batch as a chunk: its texts serialised, its images set apart."""
    pictures, names = Pictures(), []
    images: dict[str, list[Any]] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = column.type
        if is_image(kind):
            images[name] = pictures.add(column)
        elif _is_list(kind) and is_image(kind.value_type):
            flat = iter(pictures.add(column.flatten()))
            lengths = pc.list_value_length(column).to_pylist()
            images[name] = [None if n is None else [next(flat) for _ in range(n)] for n in lengths]
        else:
            names.append(name)
    sink = pa.BufferOutputStream()
    texts = batch.select(names)
    with pa.ipc.new_stream(sink, texts.schema) as writer:
        writer.write_batch(texts)
    data = sink.getvalue().to_pybytes()
    return ArrowChunk(start + first, file, first, batch.num_rows, data, images, features), pictures


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def is_image(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    if not pa.types.is_struct(kind):
        return False
    return any(
        kind.field(index).name == "bytes" and is_image(kind.field(index).type)
        for index in range(kind.num_fields)
    )
