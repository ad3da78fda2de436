"""Does what README's install lines bring train a tiny Qwen2.5-VL, in each host?

    python tools/check_install.py                  all hosts, one after the other
    python tools/check_install.py axolotl --pip    one of them, installed by pip in place of uv (slower)

Run by `make test-install` with the tools' Python, which has uv. The wheel in dist/ stands for the package's
name in `pip install "aspo-plugin[HOST]"`; there are no constraints, so the newest versions that fit come in.
Several GB a host, in a temporary folder that is removed. What the line brings beyond the host is then taken
out: the run must end before the model loads, its last line the command that brings it. Exits 1 where one
fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).parent / "uv"
HOSTS = ("llamafactory", "axolotl", "trl")
# What the line brings beyond the host, by the host: a user who had the host before has to be told.
BROUGHT = {"axolotl": "torchvision", "trl": "torchvision"}
VARIABLES = {
    "AXOLOTL_DO_NOT_TRACK": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}


def python_version(host: str) -> str:
    """That of the environment in which the host is tested."""
    name = {"trl": "trl-1.16"}.get(host, host)
    return (ROOT / "constraints" / f"{name}.txt").read_text().splitlines()[0].removeprefix("# Python ")


def install(host: str, wheel: Path, environment: Path, pip: bool) -> None:
    """The README's line in a new environment."""
    found = subprocess.check_output(
        ["sh", str(ROOT / "tools" / "find_python.sh"), python_version(host), str(UV)], text=True
    ).strip()
    subprocess.run(
        [UV, "venv", "--quiet", "--python", found, *(["--seed"] if pip else []), environment], check=True
    )
    python = environment / "bin" / "python"
    line = [python, "-m", "pip", "install"] if pip else [UV, "pip", "install", "--python", python]
    subprocess.run([*line, "--quiet", f"{wheel}[{host}]"], check=True)


def train(host: str, environment: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """`tests.install.train` in the environment. Of the tree it sees `tests` alone: the wheel trains."""
    tree = folder / "tree"
    tree.mkdir(exist_ok=True)
    if not (tree / "tests").exists():
        (tree / "tests").symlink_to(ROOT / "tests")
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, **VARIABLES, "PATH": path, "PYTHONPATH": str(tree)}
    return subprocess.run(
        [environment / "bin" / "python", "-m", "tests.install.train", host, folder],
        capture_output=True,
        text=True,
        cwd=folder,
        env=variables,
    )


def versions(environment: Path, names: list[str]) -> str:
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    command = [environment / "bin" / "python", "-c", code, *names]
    found = subprocess.check_output(command, text=True).split()
    return ", ".join(f"{name} {version}" for name, version in zip(names, found, strict=True))


def check(host: str, wheel: Path, pip: bool) -> tuple[str, str, str]:
    """(host, its versions, what was seen): the last begins with FAILED where it is not as it should be."""
    with tempfile.TemporaryDirectory(prefix="aspo-install-") as name:
        folder = Path(name)
        environment = folder / "env"
        try:
            install(host, wheel, environment, pip)
        except subprocess.CalledProcessError as error:
            return host, "", f"FAILED: not installed, exit code {error.returncode}"
        found = versions(environment, [host, "transformers", "torch", "torchvision"])
        run = train(host, environment, folder)
        if run.returncode:
            print(run.stdout + run.stderr, file=sys.stderr)
            return host, found, "FAILED: see above"
        losses = json.loads(run.stdout.splitlines()[-1])["losses"]
        seen = f"trained: losses {', '.join(f'{loss:.4f}' for loss in losses)}"
        if host not in BROUGHT:
            return host, found, seen
        missing = BROUGHT[host]
        subprocess.run(
            [UV, "pip", "uninstall", "--quiet", "--python", environment / "bin" / "python", missing],
            check=True,
        )
        run = train(host, environment, folder)
        last = (run.stdout + run.stderr).strip().splitlines()[-1]
        if run.returncode == 0 or f"pip install {missing}" not in last:
            print(run.stdout + run.stderr, file=sys.stderr)
            return host, found, f"FAILED: without {missing} it ends in: {last}"
        return host, found, f"{seen}; without {missing}: {last}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("hosts", nargs="*", metavar="HOST", help=f"of {', '.join(HOSTS)}; default: all")
    parser.add_argument("--pip", action="store_true", help="install with pip")
    options = parser.parse_args()
    if unknown := set(options.hosts) - set(HOSTS):
        parser.error(f"unknown: {', '.join(unknown)}")
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    if len(wheels) != 1:
        print("dist/ holds no single wheel: make package", file=sys.stderr)
        return 1
    rows = []
    for host in options.hosts or HOSTS:
        began = time.monotonic()
        rows.append((*check(host, wheels[0], options.pip), time.monotonic() - began))
    for host, found, seen, seconds in rows:
        print(f"{host}: {found} ({seconds:.0f} s)\n  {seen}")
    return int(any(seen.startswith("FAILED") for _, _, seen, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
