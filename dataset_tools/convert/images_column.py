"""The images column of converted rows, taken over from the source's own bytes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dataset_tools.convert.pictures import Pictures
from dataset_tools.dataset.schema import arrow_schema
from dataset_tools.images.store import Image


def with_images(table: pa.Table, images: list[list[Image]], pictures: Pictures) -> pa.Table:
    """The table with its images column, in the order of the schema; `images` holds those of each row."""
    schema = arrow_schema()
    kind = schema.field("images").type
    flat = [image for row in images for image in row]
    embedded = [image.index for image in flat if image.index is not None]
    if flat and len(embedded) == len(flat):
        data = pictures.column(embedded)
    else:
        data = pa.array([image.data for image in flat], pa.binary())
    paths = pa.array([image.path for image in flat], pa.string())
    offsets = np.cumsum([0, *map(len, images)], dtype=np.int32)
    items = pa.StructArray.from_arrays([data, paths], fields=list(kind.value_type))
    column = pa.ListArray.from_arrays(pa.array(offsets), items, type=kind)
    columns = [column if name == "images" else table.column(name) for name in schema.names]
    return pa.Table.from_arrays(columns, schema=schema)
