"""Time and memory of `aspo-data convert`, in the shape of RLAIF-V.

    python -m benchmarks.convert                    # time: ratio to a plain read-and-write plus the splitter
    python -m benchmarks.convert memory             # peak memory of all processes at 200,000 rows
    python -m benchmarks.convert memory --huge      # the same, in one row group
    python -m benchmarks.convert pieces             # the steps of --engine ray, one after the other

The time is compared with what cannot be avoided: reading the files with pyarrow and writing them again, plus
the splitter's own time for all texts divided by the workers. The aim is at most 1.3, the start of the
processes included. Each runs in a process of its own, as the conversion does, but only the conversion's start
is counted. Each is the least of several interleaved runs. Processor time is shown too: on a busy machine it
says more than wall time.
Memory is the sum over the processes of the resident set, sampled 20 times a second; the aim is under 1 GB.
"""

from __future__ import annotations

import argparse
import io
import random
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks import as_installed

WORDS = (
    "the cat sits near a red car while two people walk along wide street under tall trees and someone holds "
    "an umbrella beside old wooden bench with bright flowers in front of small house"
).split()
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXTS = ("ds_name", "question", "chosen", "rejected", "origin_dataset", "origin_split", "idx", "image_path")
SCHEMA = pa.schema([("image", IMAGE), *((name, pa.string()) for name in TEXTS)])


def text(chance: random.Random, sentences: int) -> str:
    """Sentences of 8 to 24 words."""
    return " ".join(
        " ".join(chance.choices(WORDS, k=chance.randint(8, 24))).capitalize() + "." for _ in range(sentences)
    )


def picture(size: int) -> bytes:
    """A JPEG of about `size` bytes."""
    side = 32
    while True:
        stream = io.BytesIO()
        Image.effect_noise((side, side), 60).convert("RGB").save(stream, "JPEG", quality=85)
        if stream.tell() >= size:
            return stream.getvalue()
        side = int(side * 1.3)


def distinct(jpeg: bytes, number: int) -> bytes:
    """The JPEG with its own comment, so that no two images are equal."""
    return jpeg[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big") + jpeg[2:]


def make(folder: Path, rows: int, image_bytes: int, group: int, files: int = 1) -> None:
    """Write `rows` rows in RLAIF-V's layout; `group` rows per row group."""
    chance = random.Random(0)
    jpeg = picture(image_bytes)
    folder.mkdir()
    per_file = -(-rows // files)
    number = 0
    for file in range(files):
        with pq.ParquetWriter(
            folder / f"RLAIF-V-Dataset_{file:03}.parquet", SCHEMA, use_dictionary=False
        ) as out:
            end = min(number + per_file, rows)
            while number < end:
                count = min(group, end - number)
                out.write_table(table(chance, jpeg, number, count), row_group_size=group)
                number += count


def table(chance: random.Random, jpeg: bytes, first: int, count: int) -> pa.Table:
    """`count` rows, numbered from `first`."""
    numbers = range(first, first + count)
    columns = {name: [f"{name} {number}" for number in numbers] for name in TEXTS}
    columns["idx"] = [str(number) for number in numbers]
    for name in ("chosen", "rejected"):
        columns[name] = [text(chance, chance.randint(3, 7)) for _ in numbers]
    images = [{"bytes": distinct(jpeg, number), "path": f"{number}.jpg"} for number in numbers]
    return pa.table({"image": pa.array(images, IMAGE), **columns}, schema=SCHEMA)


def command(source: Path, out: Path, workers: int) -> list[str]:
    """The conversion as its own process."""
    code = "from dataset_tools.cli import main; main()"
    return [sys.executable, "-c", code, "convert", str(source), str(out), f"--workers={workers}"]


def read_and_write(source: Path, out: Path) -> None:
    """What any converter must at least do."""
    out.mkdir()
    for path in sorted(source.glob("*.parquet")):
        file = pq.ParquetFile(path)
        with pq.ParquetWriter(out / path.name, file.schema_arrow) as writer:
            for batch in file.iter_batches(100):
                writer.write_batch(batch)


def split_all(source: Path) -> None:
    """The splitter on every text, in one process."""
    from dataset_tools.sentences import split_sentences

    for path in sorted(source.glob("*.parquet")):
        for row in pq.ParquetFile(path).read(["chosen", "rejected"]).to_pylist():
            split_sentences(row["chosen"])
            split_sentences(row["rejected"])


def timed(function, *arguments) -> tuple[float, float]:
    """Wall time and processor time, children included."""

    def processor() -> float:
        uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(use.ru_utime + use.ru_stime for use in uses)

    start, before = time.perf_counter(), processor()
    function(*arguments)
    return time.perf_counter() - start, processor() - before


def alone(function: str, environment: dict[str, str], *paths: Path) -> tuple[float, float]:
    """`timed` of a function of this module in a new process, whose start is not counted."""
    code = (
        "import sys; from pathlib import Path; from benchmarks import convert; "
        "from dataset_tools.sentences import split_sentences; split_sentences('Warm up. Now.'); "
        "print(*convert.timed(getattr(convert, sys.argv[1]), *map(Path, sys.argv[2:])))"
    )
    command = [sys.executable, "-c", code, function, *map(str, paths)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    wall, processor = map(float, done.stdout.split())
    return wall, processor


def speed(folder: Path, rows: int, image_bytes: int, workers: int, runs: int) -> int:
    """Print the ratio; 1 where it is over the aim."""
    source = folder / "source"
    make(source, rows, image_bytes, group=500, files=4)
    times: dict[str, list[tuple[float, float]]] = {"copy": [], "split": [], "convert": [], "start": []}
    empty = folder / "one"
    make(empty, workers, 100, group=1, files=workers)  # a chunk of rows is never of two files
    environment = as_installed(folder / "compiled")
    run_quietly(command(empty, folder / "warm", workers), environment)
    for run in range(runs):
        times["copy"].append(alone("read_and_write", environment, source, folder / f"copy{run}"))
        times["split"].append(alone("split_all", environment, source))
        times["convert"].append(
            timed(run_quietly, command(source, folder / f"out{run}", workers), environment)
        )
        times["start"].append(
            timed(run_quietly, command(empty, folder / f"empty{run}", workers), environment)
        )
        for name in ("copy", "out", "empty"):
            shutil.rmtree(folder / f"{name}{run}")
    wall = {name: min(value for value, _ in each) for name, each in times.items()}
    cpu = {name: min(value for _, value in each) for name, each in times.items()}
    size = sum(path.stat().st_size for path in source.iterdir()) / 1e6
    print(f"{rows:,} rows, {size:,.0f} MB, {workers} workers; least of {runs} runs")
    print(f"{'':<42}{'wall, s':>10}{'processor, s':>14}")
    print(f"{'plain read and write':<42}{wall['copy']:>10.2f}{cpu['copy']:>14.2f}")
    print(f"{'splitter, one process':<42}{wall['split']:>10.2f}{cpu['split']:>14.2f}")
    print(f"{'start and end (one row per worker)':<42}{wall['start']:>10.2f}{cpu['start']:>14.2f}")
    print(f"{'aspo-data convert':<42}{wall['convert']:>10.2f}{cpu['convert']:>14.2f}")
    floor = wall["copy"] + wall["split"] / workers
    ratio, without = wall["convert"] / floor, (wall["convert"] - wall["start"]) / floor
    work = (cpu["convert"] - cpu["start"]) / (cpu["copy"] + cpu["split"])
    print(f"wall time ratio {ratio:.2f} ({without:.2f} without start and end), aim 1.30")
    print(f"processor time ratio {work:.2f} (all processes, one splitter's time counted once)")
    return int(ratio > 1.3)


def run_quietly(arguments: list[str], environment: dict[str, str]) -> None:
    """Run a command that must succeed."""
    subprocess.run(arguments, check=True, capture_output=True, env=environment)


def memory(folder: Path, rows: int, image_bytes: int, workers: int, huge: bool) -> int:
    """Print the peak; 1 where it is over the aim."""
    source = folder / "source"
    make_in_own_process(source, rows, image_bytes, rows if huge else 1000)
    file = pq.read_metadata(next(source.iterdir()))
    size = sum(path.stat().st_size for path in source.iterdir()) / 1e6
    process = subprocess.Popen(command(source, folder / "out", workers), stdout=subprocess.DEVNULL)
    peak = 0
    halves: list[int] = []
    while process.poll() is None:
        now = resident(process.pid)
        halves.append(now)
        peak = max(peak, now)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit("the conversion failed")
    middle = max(halves[: len(halves) // 2], default=0)
    groups = file.num_row_groups
    print(f"{rows:,} rows, {size:,.0f} MB, {groups} row groups, {workers} workers: peak {peak / 1e6:,.0f} MB")
    print(f"peak of the first half of the run {middle / 1e6:,.0f} MB; aim under 1,000 MB")
    return int(peak > 1e9)


class OneProcess:
    """A cluster of this process alone, which notes what each kind of piece takes together."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._last = 0.0

    def stage(self, name, unit, total):
        """What lies between the parts and the writing is the driver's."""
        self.seconds[name] = time.perf_counter() - self._last

    def spread(self, worker, pieces, on_each_cpu):
        call = worker()
        for piece in pieces:
            start = time.perf_counter()
            done = call(piece)
            self._last = time.perf_counter()
            self.seconds[type(piece).__name__] += self._last - start
            yield done


def pieces(folder: Path, rows: int, image_bytes: int) -> int:
    """Print the rates of one CPU of a cluster, and of the process that settles ids and shards."""
    from dataset_tools.convert.conversion import Conversion, Settings

    make(folder / "source", rows, image_bytes, group=500, files=4)
    cluster = OneProcess()
    settings = Settings(str(folder / "source"), folder / "out")
    Conversion(settings).run(cluster=cluster, stage=cluster.stage)
    parts, settled, shards = (cluster.seconds[name] for name in ("Range", "write", "Shard"))
    print(f"{rows:,} rows of {image_bytes:,} bytes; rows per second of one process:")
    print(f"parts    {rows / parts:10,.0f}")
    print(f"shards   {rows / shards:10,.0f}")
    print(f"settling {rows / settled:10,.0f}")
    return 0


def make_in_own_process(source: Path, rows: int, image_bytes: int, group: int) -> None:
    """`make`, whose memory (a whole row group) should not be counted here."""
    code = (
        "import sys; from pathlib import Path; from benchmarks.convert import make; "
        "make(Path(sys.argv[1]), *map(int, sys.argv[2:]))"
    )
    subprocess.run([sys.executable, "-c", code, source, str(rows), str(image_bytes), str(group)], check=True)


def resident(pid: int) -> int:
    """Resident bytes of a process and its children."""
    total = 0
    for each in (pid, *children(pid)):
        try:
            pages = int(Path(f"/proc/{each}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += pages * resource.getpagesize()
    return total


def children(pid: int) -> list[int]:
    """Child processes, whichever thread started them."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, thread.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["time", "memory", "pieces"], default="time")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--image-bytes", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--huge", action="store_true", help="one row group (memory)")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder if left out")
    given = parser.parse_args()
    with TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        if given.what == "time":
            size = given.image_bytes or 150_000
            return speed(folder, given.rows or 20_000, size, given.workers, given.runs)
        if given.what == "pieces":
            return pieces(folder, given.rows or 20_000, given.image_bytes or 150_000)
        size = given.image_bytes or 8_000
        return memory(folder, given.rows or 200_000, size, given.workers, given.huge)


if __name__ == "__main__":
    sys.exit(main())
