"""DeepSpeed on CPU processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ON_CPU = Path(__file__).with_name("deepspeed_on_cpu")


def deepspeed_environment() -> dict[str, str]:
    """What a process needs in its environment to run DeepSpeed on a CPU (see `deepspeed_on_cpu`).

    PATH as well: the hosts start bare `torchrun` or `accelerate`, and this environment may not be active.
    """
    earlier = os.environ.get("PYTHONPATH")
    return {
        "DS_ACCELERATOR": "cpu",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ON_CPU) + (os.pathsep + earlier if earlier else ""),
    }
