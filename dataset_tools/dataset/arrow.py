"""pyarrow without pandas, which nothing here uses and which takes longer to import than all else together."""

from __future__ import annotations

import sys
from typing import Any


class _NoPandas:
    """An import finder for which there is no pandas."""

    @staticmethod
    def find_spec(name: str, *_: Any) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is left out of this process", name=name)


def settle_pandas(without: bool = False) -> None:
    """Let pyarrow look for pandas now, in one thread; `without`: let it find none, for good.

    pyarrow imports pandas (a second and more) at the first `pa.array` of Python values, and two threads
    that do so at once see it half imported. `without` is for processes that are ours alone: `to_pandas` fails
    there afterwards, while `import pandas` itself still works.
    """
    if without:
        sys.meta_path.insert(0, _NoPandas)
    try:
        import pyarrow as pa

        pa.array([0])
    finally:
        if without:
            sys.meta_path.remove(_NoPandas)
