"""A bound on the bytes that decoding threads hold together, whatever the number of threads or images."""

from __future__ import annotations

import threading

DECODED_BYTES = 512 << 20
"""Of pixels, over all threads. One image that is larger is decoded alone."""
# A decoded image, its RGB copy, and what an image processor makes of it.
BYTES_PER_PIXEL = 12


class Budget:
    """Bytes that may be held at once. A single larger claim is granted when nothing else is held."""

    def __init__(self, limit: int = DECODED_BYTES):
        self.limit = limit
        self._held = 0
        self._freed = threading.Condition()

    def claim(self, size: int, wait: bool = True) -> bool:
        """Hold `size` bytes; False at once where there is no room and `wait` is false.

        A thread that waits must hold nothing, or all of them would wait for each other.
        """
        with self._freed:
            while self._held and self._held + size > self.limit:
                if not wait:
                    return False
                self._freed.wait()
            self._held += size
            return True

    def free(self, size: int) -> None:
        """Give `size` bytes back."""
        with self._freed:
            self._held -= size
            self._freed.notify_all()
