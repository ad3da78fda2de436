"""For processes of tests, by PYTHONPATH: what DeepSpeed needs to train right, and soon, on CPU processes.

- It compiles shared-memory collectives at the start of every process group, which takes minutes on a busy
  machine, and calls them for inference only. Here it goes without, as where they cannot be built.
- Up to 0.18 ZeRO-3 gathers the parameters of a module all at once and waits for the last of them. A stream
  of a GPU keeps their order; the threads of gloo do not, and parameters are read before they have arrived
  (`_allgather_params_coalesced`). Here each gathering is waited for.
"""

from __future__ import annotations

import functools
import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import Any

MODULE = "deepspeed.comm.torch"


def _change(module: Any) -> None:
    module.build_shm_op = lambda: None
    original = module.TorchBackend.all_gather_into_tensor

    @functools.wraps(original)
    def all_gather_into_tensor(*args: Any, **kwargs: Any) -> Any:
        handle = original(*args, **kwargs)
        if handle is not None:
            handle.wait()
        return handle

    module.TorchBackend.all_gather_into_tensor = all_gather_into_tensor


class _Finder(MetaPathFinder):
    """Changes the module right after it has been imported; imports nothing itself."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            _change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if MODULE in sys.modules:
    _change(sys.modules[MODULE])
else:
    sys.meta_path.insert(0, _Finder())
