"""What the package costs a Python program that does not use it: start time with its import hook and without.

    python -m benchmarks.import_cost [repeats]

Runs each program in fresh interpreters with and without the hook in turn (TORCH_DEVICE_BACKEND_AUTOLOAD),
and prints medians of their processor time, which a busy machine changes less than the time on the clock.
`import json` never meets the hook, which torch loads; `import torch` installs it; the third program imports
a large library after it. Last: the hook's own time, measured inside one process.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys

PROGRAMS = {
    "import json": "import json",
    "import torch": "import torch",
    "import torch, transformers": "import torch, transformers.trainer",
}
INSIDE = """
import sys, time
import torch
from aspo_autoload import HookFinder, autoload
loaded = sorted(name for name in sys.modules if name.startswith("aspo_plugin"))
finder = next(finder for finder in sys.meta_path if isinstance(finder, HookFinder))
begin = time.perf_counter()
for _ in range(100_000):
    finder.find_spec("some.module", None)
per_import = (time.perf_counter() - begin) / 100_000
sys.meta_path.remove(finder)
begin = time.perf_counter()
autoload()
print(f"{(time.perf_counter() - begin) * 1e6:.0f} us to install, {per_import * 1e9:.0f} ns per import")
print("modules of the package loaded:", ", ".join(loaded))
"""


def seconds(program: str, hook: bool) -> float:
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "1" if hook else "0"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print("| Program | with the hook | without | difference of medians |\n|---|---|---|---|")
    for name, program in PROGRAMS.items():
        seconds(program, True)  # fills the file cache
        times: dict[bool, list[float]] = {True: [], False: []}
        for repeat in range(repeats):
            for hook in (repeat % 2 == 0, repeat % 2 == 1):
                times[hook].append(seconds(program, hook))
        with_hook, without = (statistics.median(times[hook]) for hook in (True, False))
        print(f"| `{name}` | {with_hook:.3f} s | {without:.3f} s | {(with_hook - without) * 1e3:+.1f} ms |")
    print(subprocess.run([sys.executable, "-c", INSIDE], check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
