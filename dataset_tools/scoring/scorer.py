"""Similarity of sentences to images: cosines of a dual encoder, with images decoded while the model computes.

```python
scorer = SentenceScorer("openai/clip-vit-large-patch14-336")
for similarity in scorer.score([(["cat.jpg"], ["A cat sleeps.", "It is on a red sofa."])]):
    print(similarity)  # [0.24, 0.21]
```
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dataset_tools.errors import DataError
from dataset_tools.images.opening import ImageLike, open_image, open_undecoded
from dataset_tools.scoring.encoder import DEFAULT_MODEL, DualEncoder, Identity, identify
from dataset_tools.scoring.memory import BYTES_PER_PIXEL, Budget

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

__all__ = ["DEFAULT_MODEL", "Identity", "ScoreCounts", "SentenceScorer", "identify"]

_DECODED_TOGETHER = 8
_TEXTS_PER_IMAGE = 8
# Vectors kept for later equal images or sentences: some 200 MB of each at 768 dimensions.
_REMEMBERED = 65_536


@dataclass
class ScoreCounts:
    """What a scorer has seen. `distinct_*` were encoded; `windowed_sentences` were over the limit."""

    rows: int = 0
    images: int = 0
    distinct_images: int = 0
    unreadable_images: int = 0
    sentences: int = 0
    distinct_sentences: int = 0
    windowed_sentences: int = 0
    unscored_rows: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(eq=False)
class _Slot:
    """The place of a vector that is being computed; `vector` stays None for an unreadable image.

    A text has one vector for each of its windows [w, d], an image one [1, d].
    """

    vector: np.ndarray | None = None


@dataclass
class _Block:
    """Rows whose new images make about one model batch, and what has to be encoded for them."""

    rows: list[tuple[list[_Slot], list[_Slot]]] = field(default_factory=list)
    texts: list[tuple[str, _Slot]] = field(default_factory=list)
    images: list[tuple[ImageLike, _Slot]] = field(default_factory=list)
    decoding: list[Future[_Prepared]] = field(default_factory=list)


class _Prepared(NamedTuple):
    """Some images ready for the model: the slots of the readable ones, and how many were not."""

    slots: list[_Slot]
    batch: dict[str, torch.Tensor]
    unreadable: int


class SentenceScorer:
    """Cosines between sentences and images by any dual encoder of transformers.

    `model`, `revision`, `device`, `dtype`, `pickled_weights`: see `DualEncoder`. `batch_size`: images per
    model call. `threads`: image decoding threads (default: the processor count, at most 16). Raises
    `UsageError` where the model is no dual encoder, `DataError` where it cannot be loaded.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = "auto",
        batch_size: int = 32,
        threads: int | None = None,
        pickled_weights: bool = False,
    ):
        self.encoder = DualEncoder(model, revision, device, dtype, pickled_weights)
        self.batch_size = batch_size
        self.threads = threads or min(16, os.cpu_count() or 1)
        self.counts = ScoreCounts()
        self._name = model
        self._budget = Budget()

    @property
    def identity(self) -> Identity:
        """Model and revision, as recorded beside the similarities."""
        return self.encoder.identity

    def score(
        self, rows: Iterable[tuple[Sequence[ImageLike], Sequence[str]]]
    ) -> Iterator[list[float | None]]:
        """For each row (images, sentences), in order: the cosine of each sentence with its best image.

        An image is encoded bytes, a path, a PIL image, or a mapping with `bytes` or `path`. A row without
        images, or with one that cannot be decoded, gives only None: the best image might be the missing one.
        A sentence over the text limit has the mean cosine of its windows. Within one call equal images and
        equal sentences are encoded once (up to 65,536 of each are remembered). A few batches of rows are read
        ahead. Raises `DataError` where the model's vectors are not finite.
        """
        import torch

        threads = torch.get_num_threads()
        # The setting is per thread: decoding threads that each start a team would starve the model.
        pool = ThreadPoolExecutor(
            self.threads, thread_name_prefix="decode", initializer=torch.set_num_threads, initargs=(1,)
        )
        ahead = 1 + -(-_DECODED_TOGETHER * self.threads // self.batch_size)
        waiting: deque[_Block] = deque()
        launched: tuple[_Block, _Encoded] | None = None
        try:
            for block in self._blocks(rows, pool):
                waiting.append(block)
                if len(waiting) > ahead:
                    launched, previous = self._launch(waiting.popleft()), launched
                    if previous:
                        yield from self._finish(*previous)
            while waiting:
                launched, previous = self._launch(waiting.popleft()), launched
                if previous:
                    yield from self._finish(*previous)
            if launched:
                yield from self._finish(*launched)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)

    def _blocks(
        self, rows: Iterable[tuple[Sequence[ImageLike], Sequence[str]]], pool: ThreadPoolExecutor
    ) -> Iterator[_Block]:
        known_images: dict[bytes, _Slot] = {}
        known_texts: dict[str, _Slot] = {}
        block = _Block()
        for images, sentences in rows:
            self.counts.rows += 1
            self.counts.images += len(images)
            self.counts.sentences += len(sentences)
            image_slots, text_slots = [], []
            for image in images:
                key = _digest(image)
                slot = known_images.get(key)
                if slot is None:
                    slot = _remember(known_images, key)
                    block.images.append((image, slot))
                image_slots.append(slot)
            for sentence in sentences if images else ():
                slot = known_texts.get(sentence)
                if slot is None:
                    slot = _remember(known_texts, sentence)
                    block.texts.append((sentence, slot))
                text_slots.append(slot)
            block.rows.append((image_slots, text_slots or [_Slot() for _ in sentences]))
            full = max(len(block.images), len(block.texts) // _TEXTS_PER_IMAGE, len(block.rows) // 8)
            if full >= self.batch_size:
                yield self._decode(block, pool)
                block = _Block()
        if block.rows:
            yield self._decode(block, pool)

    def _decode(self, block: _Block, pool: ThreadPoolExecutor) -> _Block:
        for start in range(0, len(block.images), _DECODED_TOGETHER):
            block.decoding.append(pool.submit(self._prepare, block.images[start : start + _DECODED_TOGETHER]))
        block.images = []
        return block

    def _prepare(self, images: list[tuple[ImageLike, _Slot]]) -> _Prepared:
        import torch

        slots: list[_Slot] = []
        decoded: list[Image.Image] = []
        batches: list[dict[str, torch.Tensor]] = []
        held = 0
        try:
            for image, slot in images:
                # Whatever a broken file makes PIL raise, it is that file that is unreadable.
                try:
                    opened = open_undecoded(image)
                    size = opened.width * opened.height * BYTES_PER_PIXEL
                    if not self._budget.claim(size, wait=False):
                        if decoded:
                            batches.append(self.encoder.prepare_images(decoded))
                            decoded = []
                        self._budget.free(held)
                        held = 0
                        self._budget.claim(size)
                    held += size
                    decoded.append(open_image(opened))
                except Exception:
                    continue
                slots.append(slot)
            if decoded:
                batches.append(self.encoder.prepare_images(decoded))
        finally:
            self._budget.free(held)
        batch = {name: torch.cat([part[name] for part in batches]) for name in (batches or [{}])[0]}
        return _Prepared(slots, batch, len(images) - len(slots))

    def _launch(self, block: _Block) -> tuple[_Block, _Encoded]:
        """Start the model on a block; on a GPU the results are collected one block later."""
        encoded = _Encoded()
        self._encode_texts(block.texts, encoded)
        slots: list[_Slot] = []
        batches: list[dict[str, torch.Tensor]] = []
        for future in block.decoding:
            prepared = future.result()
            self.counts.distinct_images += len(prepared.slots)
            self.counts.unreadable_images += prepared.unreadable
            if prepared.slots:
                slots += prepared.slots
                batches.append(prepared.batch)
            if len(slots) >= self.batch_size:
                encoded.add(slots, self._encode_images(batches))
                slots, batches = [], []
        if slots:
            encoded.add(slots, self._encode_images(batches))
        encoded.start_copy()
        return block, encoded

    def _encode_images(self, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        import torch

        return self.encoder.encode_images(
            {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        )

    def _encode_texts(self, texts: list[tuple[str, _Slot]], encoded: _Encoded) -> None:
        self.counts.distinct_sentences += len(texts)
        windows = []
        for (text, slot), tokens in zip(texts, self._tokenize([text for text, _ in texts]), strict=True):
            if len(tokens["input_ids"]) <= self.encoder.text_limit:
                windows.append((slot, tokens))
            else:
                self.counts.windowed_sentences += 1
                windows += [(slot, part) for part in self._windows(text)]
        # Texts of one length together: a batch is padded to its longest.
        windows.sort(key=lambda item: len(item[1]["input_ids"]))
        size = self.batch_size * _TEXTS_PER_IMAGE
        for start in range(0, len(windows), size):
            part = windows[start : start + size]
            encoded.add([slot for slot, _ in part], self.encoder.encode_texts([tokens for _, tokens in part]))

    def _tokenize(self, texts: list[str]) -> list[dict[str, list[int]]]:
        return self.encoder.tokenize(texts) if texts else []

    def _windows(self, text: str) -> list[dict[str, list[int]]]:
        """The tokens of halves, quarters, ... of `text`, cut at white space, each within the text limit."""
        [tokens] = self.encoder.tokenize([text])
        if len(tokens["input_ids"]) <= self.encoder.text_limit or len(text) < 2:
            return [tokens]
        cut = middle(text)
        return [
            part for half in (text[:cut], text[cut:]) if half.strip() for part in self._windows(half.strip())
        ]

    def _finish(self, block: _Block, encoded: _Encoded) -> Iterator[list[float | None]]:
        encoded.fill(f"{self._name} in {str(self.encoder.dtype).removeprefix('torch.')}")
        for images, texts in block.rows:
            vectors = [slot.vector for slot in images if slot.vector is not None]
            if images and len(vectors) == len(images):
                yield _similarities([slot.vector for slot in texts if slot.vector is not None], vectors)
            else:
                self.counts.unscored_rows += 1
                yield [None] * len(texts)


class _Encoded:
    """Vectors on the device on their way to their slots."""

    def __init__(self) -> None:
        self._slots: list[_Slot] = []
        self._vectors: list[torch.Tensor] = []
        self._host: torch.Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def add(self, slots: Sequence[_Slot], vectors: torch.Tensor) -> None:
        """`vectors` [n, d] belong to `slots`; a slot that comes several times has several windows."""
        self._slots += slots
        self._vectors.append(vectors)

    def start_copy(self) -> None:
        """Queue the copy to the host behind the model's work, without waiting for either."""
        import torch

        if not self._vectors:
            return
        vectors = torch.cat(self._vectors)
        self._vectors = []
        if vectors.device.type != "cuda":
            self._host = vectors.cpu()
            return
        self._host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        self._host.copy_(vectors, non_blocking=True)
        self._copied = torch.cuda.Event()
        # Of the encoder's own card: without one, the event is the first card's, and over at once.
        self._copied.record(torch.cuda.current_stream(vectors.device))

    def fill(self, name: str) -> None:
        """Wait for the vectors and put them in their slots."""
        import numpy as np

        if self._host is None:
            return
        if self._copied is not None:
            self._copied.synchronize()
        vectors = self._host.numpy()
        if not np.isfinite(vectors).all():
            raise DataError(
                f"the vectors of {name} are not finite: set the dtype to bfloat16 or float32, or choose "
                "another model."
            )
        for slot, vector in zip(self._slots, vectors, strict=True):
            # A copy of its own: a slice would keep the whole batch alive.
            row = vector[None].copy()
            slot.vector = row if slot.vector is None else np.concatenate([slot.vector, row])


def _similarities(texts: list[np.ndarray], images: list[np.ndarray]) -> list[float | None]:
    """For each text (windows [w, d]) the mean cosine of its windows with its best image ([1, d] each)."""
    import numpy as np

    if not texts:
        return []
    cosines = np.concatenate(texts) @ np.concatenate(images).T
    starts = np.cumsum([0, *(len(text) for text in texts[:-1])])
    sizes = np.array([len(text) for text in texts])[:, None]
    means = np.add.reduceat(cosines, starts, axis=0) / sizes
    found: list[float | None] = np.clip(means.max(axis=1), -1.0, 1.0).tolist()
    return found


def middle(text: str) -> int:
    """Where to cut a text in two: at the white space next to its middle, else in the middle itself."""
    half, reach = len(text) // 2, len(text) // 4
    for distance in range(reach):
        for cut in (half - distance, half + distance):
            if text[cut].isspace():
                return cut
    return max(1, half)


def free_device_memory() -> None:
    """Give back what a scorer that is no longer held took, before another model is loaded."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _digest(image: ImageLike) -> bytes:
    """16 bytes that equal images share: over their encoded bytes, their path, or their pixels."""
    if isinstance(image, Mapping):
        image = image["bytes"] if image.get("bytes") is not None else str(image.get("path"))
    if isinstance(image, str | Path):
        image = b"path " + os.fsencode(image)
    elif not isinstance(image, bytes):
        image = f"{image.mode} {image.size} ".encode() + image.tobytes()
    return hashlib.blake2b(image, digest_size=16).digest()


def _remember(known: dict[Any, _Slot], key: Any) -> _Slot:
    if len(known) >= _REMEMBERED:
        del known[next(iter(known))]
    slot = known[key] = _Slot()
    return slot
