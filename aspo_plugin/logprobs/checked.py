"""Which batches the self-check has seen, and at which calls all ranks ask each other whether to run it.

A rank cannot know that another has the first batch with images, and all must run the forwards of a check
together. So they vote, at calls that each counts for itself: the first ones, then now and then as long as
something is left to check. A batch that comes in between and is not checked yet goes the plain way.
"""

from __future__ import annotations

import torch

from aspo_plugin.logprobs import self_check as checks

# Kinds of batches; the later one says all that the earlier says.
NOTHING, TEXT_ONLY, WITH_IMAGES = range(3)
# Every call up to the first number votes, then each that the second divides: a prime, so that no rhythm of
# the batches keeps a kind away from the votes.
FIRST, NOW_AND_THEN = 8, 61


class Checked:
    """The same on every rank, since it changes by votes alone and all ranks make the same calls.

    By whether pairs stand in one row: a model whose weights are float32 packs from the second batch on.
    """

    def __init__(self, *, wanted: bool) -> None:
        kind = NOTHING if wanted else WITH_IMAGES
        self._kinds = {False: kind, True: kind}
        self._met = {False: False, True: False}
        self._calls = 0
        self._over = not wanted

    def votes_now(self) -> bool:
        """Whether this call takes a vote; to be asked once a call."""
        self._calls += 1
        if self._over or not checks.distributed():
            return not self._over
        return self._calls <= FIRST or self._calls % NOW_AND_THEN == 0

    def covers(self, kind: int, packed: bool) -> bool:
        return kind <= self._kinds[packed]

    def vote(
        self, kind: int, packed: bool, *, shares: bool, no_memory: bool, device: torch.device
    ) -> dict[bool, int] | None:
        """What all ranks must check now ({} where nothing), or None where one of them has no memory.

        `shares`: the model may share a prefix, though this batch may not.
        """
        mine = [kind if packed == way else NOTHING for way in (False, True)]
        met = [int(shares and packed == way) for way in (False, True)]
        none, first, second, *met = checks.most_of_each([int(no_memory), *mine, *met], device)
        if none:
            return None
        for way, seen in zip((False, True), met, strict=True):
            self._met[way] |= bool(seen)
        asked = {False: first, True: second}
        self._close()
        return {way: kind for way, kind in asked.items() if kind > self._kinds[way]}

    def passed(self, kinds: dict[bool, int]) -> None:
        """After the verdict of all ranks."""
        self._kinds.update(kinds)
        self._close()

    def _close(self) -> None:
        """No more votes once the first calls met nothing that is left to check."""
        left = any(met and self._kinds[way] < WITH_IMAGES for way, met in self._met.items())
        self._over = checks.distributed() and self._calls >= FIRST and not left
