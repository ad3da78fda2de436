"""Do wheel and sdist in dist/ install into empty environments, and bring all that they should?

    python tools/check_package.py

Run by `make package` with the tools' Python, which has uv. Exits 1 naming what is missing, or which file
names another version than `aspo_plugin.__version__`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).parent / "uv"
# Files that people rely on and that no import would miss.
HELD = (
    "aspo_autoload.py",
    "aspo_plugin/py.typed",
    "dataset_tools/py.typed",
    "dataset_tools/inspect/preview.html",
    "dataset_tools/sentences/languages.json",
)
COMMANDS = ("aspo-data --help", "aspo-plan --help", "aspo --help", "aspo recipes list")


def check(archive: Path) -> list[str]:
    """What is wrong with an archive once it is installed alone; the sdist is built on the way."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "env"
        subprocess.run([UV, "venv", "--quiet", environment], check=True)
        python = environment / "bin" / "python"
        subprocess.run([UV, "pip", "install", "--quiet", "--python", python, archive], check=True)
        site = Path(
            subprocess.check_output(
                [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
            ).strip()
        )
        problems = [f"{name} is not in it" for name in HELD if not (site / name).is_file()]
        sources = {
            path.relative_to(ROOT)
            for name in ("aspo_plugin", "dataset_tools")
            for path in (ROOT / name).rglob("*")
            if path.suffix in (".py", ".html", ".js", ".json", ".txt") and "__pycache__" not in path.parts
        }
        problems += [f"{path} is not in it" for path in sorted(sources) if not (site / path).is_file()]
        for command in COMMANDS:
            program, *arguments = command.split()
            run = subprocess.run(
                [environment / "bin" / program, *arguments], capture_output=True, text=True, cwd=folder
            )
            if run.returncode:
                problems.append(f"`{command}` exits {run.returncode}: {run.stderr.strip()[-300:]}")
        return problems


def unnamed(version: str) -> list[str]:
    """The files that name the version, and name another."""
    wanted = {"CITATION.cff": f"version: {version}", "CHANGELOG.md": f"## {version} - "}
    return [
        f"{name} has no line `{start}`"
        for name, start in wanted.items()
        if not any(line.startswith(start) for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    ]


def main() -> int:
    archives = sorted((ROOT / "dist").glob("*"))
    if {path.suffix for path in archives} != {".whl", ".gz"}:
        print(f"dist/ holds {[path.name for path in archives]}, not a wheel and an sdist", file=sys.stderr)
        return 1
    [wheel] = [path for path in archives if path.suffix == ".whl"]
    mistakes = unnamed(wheel.name.split("-")[1])
    if mistakes:
        print("; ".join(mistakes), file=sys.stderr)
    failed = bool(mistakes)
    for archive in archives:
        problems = check(archive)
        failed |= bool(problems)
        print(
            f"{archive.name}: {'; '.join(problems) or 'installs, holds all its files, its commands answer'}"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
