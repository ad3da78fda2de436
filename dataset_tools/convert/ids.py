"""A set of row ids that takes 8 to 16 bytes per id, whatever their length."""

from __future__ import annotations

from array import array
from hashlib import blake2b


class IdSet:
    """Remembers ids by a 64-bit hash in an open-addressing table.

    Two different ids share a hash with probability 2^-64: 3e-8 that it happens at all among a million.
    """

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 * 1024))
        self._used = 0

    def __len__(self) -> int:
        return self._used

    @property
    def nbytes(self) -> int:
        """Memory of the table in bytes."""
        return len(self._table) * self._table.itemsize

    def add(self, name: str) -> bool:
        """Remember an id; False where it was there already."""
        key = int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        if not self._insert(key or 1):  # 0 marks a free place
            return False
        self._used += 1
        if self._used * 5 > len(self._table) * 4:
            self._grow()
        return True

    def _insert(self, key: int) -> bool:
        table, size = self._table, len(self._table)
        place = key % size
        while table[place]:
            if table[place] == key:
                return False
            place = place + 1 if place + 1 < size else 0
        table[place] = key
        return True

    def _grow(self) -> None:
        old = self._table
        self._table = array("Q", bytes(8 * (len(old) * 3 // 2 + 1)))
        for key in old:
            if key:
                self._insert(key)
