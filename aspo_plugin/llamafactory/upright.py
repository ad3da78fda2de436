"""Photos that a camera stored sideways, with an EXIF note how to turn them, are trained upright.

LLaMA-Factory 0.9.4 and 0.9.5 hand their pixels on as stored, while the similarity to a sentence is of the
upright picture (`dataset_tools.images.opening.open_image`), and so are pictures in TRL and Axolotl. Can go
when the host's `_preprocess_image` turns them itself.
"""

from __future__ import annotations

import copy
from typing import Any


def upright(template: Any) -> Any:
    """A copy of the host's template whose plugin first turns every image upright."""
    from PIL import ImageOps

    template = copy.copy(template)
    plugin = copy.copy(template.mm_plugin)
    preprocess = plugin._preprocess_image

    def turned(image: Any, **settings: Any) -> Any:
        return preprocess(ImageOps.exif_transpose(image), **settings)

    plugin._preprocess_image = turned
    template.mm_plugin = plugin
    return template
