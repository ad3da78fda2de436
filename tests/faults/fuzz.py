"""The long part of the attack: damaged rows, files, datasets and images, until told to stop.

    python -m tests.faults.fuzz --minutes 60              what `make fuzz` runs
    python -m tests.faults.fuzz --seed 4711 --only shard  one case again, with its output

A case is made of its number alone. It survives where each command that meets it ends with 0, 1 or 2, with no
traceback and no request for a report, within a minute and a gigabyte. Cases run in child processes, so that a
crash of a library is counted and not suffered. What computes or waits for too long is reported with the
stacks of its threads. The counts are kept in .artifacts/faults/fuzz.json.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.mutate import mutated_bytes, mutated_row

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".artifacts" / "faults"
CASES_PER_CHILD = 150
SECONDS_OF_COMPUTING = 60
SECONDS_PER_CASE = 600
"""A case that waits for ever: on a machine that may be busy, so that a minute by the clock says nothing."""
MOST_BYTES = 1 << 30
ROWS: dict[str, dict[str, Any]] = {
    "trl": {"prompt": "Why?", "chosen": "It is so. It was.", "rejected": "No.", "images": ["a.png"]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "<image>Why?"}],
        "chosen": {"from": "gpt", "value": "It is so. It was."},
        "rejected": {"from": "gpt", "value": "No."},
        "images": ["a.png"],
    },
    "alpaca": {
        "instruction": "Why?",
        "input": "",
        "chosen": "A. B.",
        "rejected": "No.",
        "history": [["a", "b"]],
    },
    "vlfeedback": {
        "id": "1",
        "prompt": "Why?",
        "img_path": "a.png",
        "completions": [
            {"response": "A. B.", "annotations": {"Helpfulness": {"Rating": "4"}}},
            {"response": "C.", "annotations": {"Helpfulness": {"Rating": "2"}}},
        ],
    },
}


# --- one case ------------------------------------------------------------------------------------


class Case:
    """Makes and runs the case of one number in a folder of its own."""

    def __init__(self, number: int, seeds: Path, work: Path, only: str | None = None):
        self.chance = random.Random(number)
        self.seeds, self.work = seeds, work
        self.kind = only or self.chance.choices([*KINDS], [weight for weight, _ in KINDS.values()])[0]

    def run(self) -> list[str]:
        """What went wrong, [] where the case survived."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        return KINDS[self.kind][1](self)

    def command(self, *arguments: Any) -> list[str]:
        from typer.testing import CliRunner

        from dataset_tools.cli import app

        told = CliRunner().invoke(app, [str(argument) for argument in arguments])
        said = told.output
        where = " ".join(map(str, arguments))
        if told.exit_code not in (0, 1, 2):
            return [f"`{where}` exits {told.exit_code}"]
        if "Traceback" in said or "please report" in said or "\x1b" in said:
            return [f"`{where}`: {said[-1500:]}"]
        return []

    def look(self, folder: Path) -> list[str]:
        """Every command that reads a converted dataset."""
        return [
            *self.command("validate", folder, "--workers", "1"),
            *self.command("stats", folder),
            *self.command("preview", folder, "--html", self.work / "page.html", "--rows", "5"),
            *self.command("export", folder, self.work / "lf", "--to", "llamafactory"),
            *self.command("export", folder, self.work / "trl", "--to", "trl"),
        ]

    def converted(self, source: Path, *options: str) -> list[str]:
        out = self.work / "out"
        wrong = self.command("convert", source, out, "--workers", "1", "--max-bad", "100%", *options)
        return wrong + (self.look(out) if out.exists() else [])

    def rows(self) -> list[str]:
        base = self.chance.choice(list(ROWS.values()))
        rows = [mutated_row(base, self.chance) for _ in range(30)] + [base]
        lines = [json.dumps(row).encode() for row in rows]
        folder = self.work / "in"
        folder.mkdir()
        shutil.copy(self.seeds / "a.png", folder)
        if self.chance.random() < 0.3:
            (folder / "train.json").write_bytes(b"[" + b",".join(lines) + b"]")
        else:
            (folder / "train.jsonl").write_bytes(b"\n".join(lines))
        return self.converted(folder, "--number-rows")

    def file(self) -> list[str]:
        shutil.copytree(self.seeds / self.chance.choice(SOURCES), self.work / "in")
        files = [path for path in sorted((self.work / "in").rglob("*")) if path.is_file()]
        for path in self.chance.sample(files, self.chance.randint(1, min(2, len(files)))):
            path.write_bytes(mutated_bytes(path.read_bytes(), self.chance))
        return self.converted(self.work / "in")

    def shard(self) -> list[str]:
        shutil.copytree(self.seeds / "converted", self.work / "set")
        files = [path for path in sorted((self.work / "set").rglob("*")) if path.is_file()]
        path = self.chance.choice(files)
        path.write_bytes(mutated_bytes(path.read_bytes(), self.chance))
        return self.look(self.work / "set")

    def unfinished(self) -> list[str]:
        """A working folder in which something was damaged, resumed."""
        shutil.copytree(self.seeds / "unfinished", self.work / "out.incomplete")
        files = [path for path in sorted((self.work / "out.incomplete").rglob("*")) if path.is_file()]
        path = self.chance.choice(files)
        before = path.read_bytes()
        path.write_bytes(mutated_bytes(before, self.chance))
        options = ("--resume", "--workers", "1", "--shard-rows", "7")
        wrong = self.command("convert", self.seeds / "rlaif_v", self.work / "out", *options)
        whole = self.seeds / "whole"
        for shard in sorted((self.work / "out").glob("data/*")) if (self.work / "out").exists() else []:
            if shard.read_bytes() != (whole / "data" / shard.name).read_bytes():
                wrong.append(f"{shard.name} differs after {path.name} was damaged")
        return wrong

    def image(self) -> list[str]:
        from aspo_plugin.training.image_check import UnreadableImage, readable_size
        from dataset_tools.errors import BadRow
        from dataset_tools.images.opening import open_image
        from dataset_tools.images.store import check_header

        path = self.chance.choice(sorted((self.seeds / "images").iterdir()))
        data = mutated_bytes(path.read_bytes(), self.chance)
        for opening, errors in (
            (lambda: check_header(data, 1 << 22), BadRow),
            (lambda: readable_size({"bytes": data, "path": None}), UnreadableImage),
            (lambda: open_image(data, 1 << 22), Exception),  # decoders raise what they like
        ):
            try:
                opening()
            except errors:
                pass
            except Exception as error:
                return [f"{path.name}: {error!r}"]
        return []

    def killed(self) -> list[str]:
        """kill -9 at any moment, resumed until it is done: the same bytes."""
        out = self.work / "out"
        program = [sys.executable, "-X", "faulthandler", "-m", "dataset_tools", "convert"]
        program += [str(self.seeds / "rlaif_v"), str(out), "--workers", "1", "--shard-rows", "7", "--resume"]
        for _ in range(3):
            process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(self.chance.uniform(0.3, 3))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
        code, said = ended(program, SECONDS_PER_CASE / 2)
        if code not in (0, 1):
            return [f"resumed after kill -9: exit {code}: {said[-3000:]}"]
        names = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
        whole = self.seeds / "whole"
        if names != sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file()):
            return [f"other files after kill -9: {names}"]
        return [
            f"{n} differs after kill -9" for n in names if (out / n).read_bytes() != (whole / n).read_bytes()
        ]


KINDS: dict[str, tuple[float, Any]] = {
    "rows": (3, Case.rows),
    "file": (3, Case.file),
    "shard": (3, Case.shard),
    "unfinished": (2, Case.unfinished),
    "image": (8, Case.image),
    "killed": (0.1, Case.killed),
}
TRIED = {
    "rows": "odd rows of four layouts, converted and looked at",
    "file": "damaged source files (parquet, JSON, JSON lines, zip, images), converted and looked at",
    "shard": "a converted dataset with a damaged file, through every command that reads it",
    "unfinished": "a working folder with a damaged file, resumed: the same bytes, or a message",
    "image": "damaged images of six formats, through every opening",
    "killed": "kill -9 at any moment three times, resumed: the same bytes",
}
SOURCES = ("rlaif_v", "vlfeedback", "llamafactory", "mmpr")


def make_seeds(folder: Path) -> None:
    """The whole files that are damaged."""
    from PIL import Image

    from dataset_tools.convert.conversion import Conversion, Settings
    from tests.support import sources

    folder.mkdir(parents=True)
    Image.new("RGB", (9, 7), "red").save(folder / "a.png")
    (folder / "images").mkdir()
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        Image.effect_noise((40, 30), 60).convert("RGB").save(folder / "images" / kind.lower(), kind)
    for name in SOURCES:
        made = getattr(sources, name)
        made(folder / name, rows=60) if name == "rlaif_v" else made(folder / name)

    class Stop(Exception):
        pass

    def conversion(out: str) -> Conversion:
        return Conversion(Settings(str(folder / "rlaif_v"), folder / out, shard_rows=7))

    def stop(rows: int) -> None:
        raise Stop

    conversion("whole").run()
    shutil.copytree(folder / "whole", folder / "converted")
    try:
        conversion("unfinished_out").run(stop)
    except Stop:
        pass
    (folder / "unfinished_out.incomplete").rename(folder / "unfinished")


def ended(program: list[str], seconds: float) -> tuple[int, str]:
    """A command's exit code and what it said; of one that waits for longer, the stacks of its threads.

    It is run with `-X faulthandler`, which prints them at SIGABRT.
    """
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        said, _ = process.communicate()
    return process.returncode, said


# --- many cases ----------------------------------------------------------------------------------


def child(first: int, count: int, seeds: Path, work: Path, only: str | None) -> None:
    """Run some cases; a line of JSON before and after each."""
    faulthandler.enable()  # SIGABRT, of the parent that waits no longer
    faulthandler.register(signal.SIGPROF, all_threads=True, chain=True)
    for number in range(first, first + count):
        case = Case(number, seeds, work, only)
        signal.setitimer(signal.ITIMER_PROF, SECONDS_OF_COMPUTING)  # then SIGPROF ends this process
        print(json.dumps({"begins": number, "kind": case.kind}), flush=True)
        try:
            wrong = case.run()
        except Exception:
            import traceback

            wrong = [traceback.format_exc()[-3000:]]
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if most > MOST_BYTES:
            wrong.append(f"{most / 1e9:.1f} GB were taken")
        print(json.dumps({"ends": number, "kind": case.kind, "wrong": wrong}), flush=True)
        if most > MOST_BYTES:
            return


def run_child(
    first: int, seeds: Path, work: Path, only: str | None, until: float
) -> tuple[int, Counter[str], list]:
    """Cases from `first` on in one process: the next number, counts by kind, and what went wrong."""
    command = [sys.executable, "-m", "tests.faults.fuzz", "--child", str(first), str(seeds), str(work)]
    process = subprocess.Popen(
        command + (["--only", only] if only else []),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said: list[str] = []
    drain = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
    drain.start()
    done: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    running: dict[str, Any] | None = None
    watch = _watch(process)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if "begins" in event:
            running, number = event, event["begins"]
            if time.monotonic() > until:
                process.kill()
                running = None
                break
        else:
            running = None
            done[event["kind"]] += 1
            number = event["ends"] + 1
            if event["wrong"]:
                failures.append({"case": event["ends"], "kind": event["kind"], "wrong": event["wrong"]})
        watch.cancel()
        watch = _watch(process)
    watch.cancel()
    process.wait()
    drain.join(5)
    if running:
        done[running["kind"]] += 1
        how = HOW.get(-process.returncode, f"ended the process ({process.returncode})")
        failures.append(
            {"case": running["begins"], "kind": running["kind"], "wrong": [how, "".join(said)[-3000:]]}
        )
        number = running["begins"] + 1
    return max(number, first + 1), done, failures


HOW = {
    signal.SIGABRT: f"waited for {SECONDS_PER_CASE} s",
    signal.SIGPROF: f"computed for {SECONDS_OF_COMPUTING} s",
}


def _watch(process: subprocess.Popen[str]) -> threading.Timer:
    """Ends a case that waits for ever, with the stacks of its threads."""
    watch = threading.Timer(SECONDS_PER_CASE, process.send_signal, [signal.SIGABRT])
    watch.daemon = True
    watch.start()
    return watch


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--only", choices=sorted(KINDS))
    parser.add_argument("--child", nargs=3)
    arguments = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", DO_NOT_TRACK="1", PYTHONWARNINGS="ignore")
    if arguments.child:
        first, seeds, work = arguments.child
        child(int(first), CASES_PER_CHILD, Path(seeds), Path(work), arguments.only)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        seeds, work = Path(folder, "seeds"), Path(folder, "work")
        make_seeds(seeds)
        if arguments.seed is not None:
            wrong = Case(arguments.seed, seeds, work, arguments.only).run()
            print("\n".join(wrong) or "survived")
            return 1 if wrong else 0
        # Another start each day, so that runs add up; it is printed, and a case is repeated by its number.
        number = int(time.time()) // 86_400 * 10_000_000
        print(f"cases from number {number} on", flush=True)
        tried: Counter[str] = Counter()
        failures: list[dict[str, Any]] = []
        began = time.monotonic()
        until = began + arguments.minutes * 60
        while time.monotonic() < until:
            number, done, failed = run_child(number, seeds, work, arguments.only, until)
            tried += done
            failures += failed
            for failure in failed:
                print(f"case {failure['case']} ({failure['kind']}): {' '.join(failure['wrong'])}", flush=True)
            print(f"{sum(tried.values()):,} cases, {len(failures)} failed", flush=True)
    lost = Counter(failure["kind"] for failure in failures)
    KEPT.mkdir(parents=True, exist_ok=True)
    rows = [[TRIED[kind], tried[kind], tried[kind] - lost[kind]] for kind in KINDS if tried[kind]]
    minutes = round((time.monotonic() - began) / 60)
    (KEPT / "fuzz.json").write_text(json.dumps({"minutes": minutes, "rows": rows}, indent=1) + "\n")
    for what, count, survived in rows:
        print(f"{count:>8,} tried {survived:>8,} survived  {what}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
