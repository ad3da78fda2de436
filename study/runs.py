"""The runs: each a line of JSON, so that a stopped study goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from . import weights
from .answers import features, pixels
from .measure import TEMPERATURES, auc, measure
from .one_sentence import one_sentence
from .pairs import Pairs, World, detailed, load, ranked, seva, swapped, written
from .teach import Lessons, drawn, teach, teach_habit
from .train import METHODS, Budget, train

PAIRS = 512
HABITS_FROM = 200  # numbers of the worlds with a habit
# The world that is searched in, which comes with the project: none of those that are tested in.
SEARCHED = 200
TEST_SCENES, VALIDATION_SCENES = 300, 400
# Of the search: seed of its pairs, learning rates and betas.
SEARCH_SEED = 90
GRID = (
    *((1.5e-4, 0.1), (3e-4, 0.1), (3e-4, 0.5), (5e-4, 0.5)),
    *((3e-4, 1.0), (5e-4, 1.0), (1e-3, 1.0), (5e-4, 2.0)),
)
SOURCES: dict[str, Callable[[World, int, int], Pairs]] = {
    "seva": seva,
    "ranked": ranked,
    "written": written,
    "long chosen": detailed,
    "one sentence": one_sentence,
    "seva, 25% swapped": lambda world, number, seed: swapped(seva(world, number, seed), 0.25, seed),
    "seva, 50% swapped": lambda world, number, seed: swapped(seva(world, number, seed), 0.5, seed),
}


def world_at(folder: Path, seed: int, habit: float) -> Path:
    """The folder of a taught world; taught now where it is not there. World 201 is world 1 with a habit."""
    place = folder / f"world-{seed}"

    def say(text: str) -> None:
        print(f"world {seed}: {text}", flush=True)

    if not (place / "lessons.json").is_file():
        if habit:
            plain = world_at(folder, seed - HABITS_FROM, 0.0)
            teach_habit(plain, place, seed, Lessons(habit=habit), say)
        else:
            teach(place, seed, Lessons(), say)
    return place


def key(job: dict[str, Any]) -> str:
    names = ("world", "source", "seed", "method", "split", "learning_rate", "beta")
    return json.dumps([job.get(name) for name in names])


def done(path: Path) -> dict[str, dict[str, Any]]:
    """The runs of a file, by key; a half-written last line is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found[key(record)] = record
    return found


def keep(path: Path, record: dict[str, Any]) -> None:
    """Add a run as a line of its own, also behind a line that a stop has cut off."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            file.write(b"" if file.read(1) == b"\n" else b"\n")
        file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")


class Setting:
    """One world, one source of pairs, one seed: pairs and scenes to measure on, made once."""

    def __init__(self, world: World, number: int, source: str, seed: int, split: str, pairs: int) -> None:
        self.world, self.seed = world, seed
        self.temperatures = (1.0,) if split == "validation" else (*TEMPERATURES, 0.0)
        self._pairs = (pairs, 1000 * number + seed)
        self._made: dict[str, Pairs] = {}
        self.pairs = self.pairs_of(source)
        # Validation and test scenes never meet, and no pair is drawn from either.
        first = 10_000_000 if split == "validation" else 20_000_000
        many = VALIDATION_SCENES if split == "validation" else TEST_SCENES
        self.scenes, pictures = drawn(many, first + 1000 * number + seed)
        self.seen = features(world.model, pixels(world.processor, pictures))
        self.weights = weights.told(world, self.pairs)

    def pairs_of(self, source: str) -> Pairs:
        """The pairs of a source, made once."""
        if source not in self._made:
            self._made[source] = SOURCES[source](self.world, *self._pairs)
        return self._made[source]

    def facts(self) -> dict[str, Any]:
        """What the pairs are like."""
        truth = self.pairs.truth
        flat = {side: [t for row in rows for t in row] for side, rows in truth.items()}
        return {
            "pairs": len(self.pairs),
            **{f"{side}_false": 1 - sum(values) / len(values) for side, values in flat.items()},
            "sentences": len(flat["chosen"]) / len(self.pairs),
            "auc_similarity": auc(self.pairs.similarity["chosen"], truth["chosen"]),
            "weights": self.weights,
        }

    def run(self, name: str, budget: Budget) -> dict[str, Any]:
        if name == "base":
            model, trained = self.world.model, {}
        else:
            pairs = self.pairs_of(METHODS[name].source) if METHODS[name].source else self.pairs
            model, steps = train(self.world, pairs, METHODS[name], budget, self.seed)
            last = steps[-max(1, len(steps) // 4) :]
            trained = {
                "loss": sum(loss for loss, _ in last) / len(last),
                "accuracy": sum(right for _, right in last) / len(last),
            }
        with torch.no_grad():
            found = measure(model, self.world.tokenizer, self.seen, self.scenes, self.seed, self.temperatures)
        if len(self.temperatures) == 1:  # a run of the search: its answers are won against no one
            del found["1"]["each"]
        return {"measures": found, "training": trained}


def run_jobs(jobs: list[dict[str, Any]], folder: Path, path: Path, habit: float, pairs: int = PAIRS) -> None:
    """Run what the file does not have yet. Jobs of one setting stand together."""
    known = done(path)
    waiting = [job for job in jobs if key(job) not in known]
    print(f"{len(jobs)} runs, {len(waiting)} to do", flush=True)
    current: tuple[Any, ...] | None = None
    setting: Setting | None = None
    for number, job in enumerate(waiting, 1):
        began = time.process_time()
        place = (job["world"], job["source"], job["seed"], job["split"])
        if setting is None or place != current:
            world = load(world_at(folder, job["world"], habit))
            setting = Setting(world, job["world"], job["source"], job["seed"], job["split"], pairs)
            current = place
        budget = Budget(job["learning_rate"], job["beta"]) if job["method"] != "base" else Budget()
        record = {**job, "habit_world": habit > 0, **setting.run(job["method"], budget)}
        record |= {"pairs": setting.facts(), "seconds": round(time.process_time() - began, 1)}
        if job["method"] != "base":
            record["settings"] = {**asdict(METHODS[job["method"]]), **asdict(budget)}
        keep(path, record)
        found = record["measures"]["1"]
        print(
            f"{number}/{len(waiting)}  world {job['world']} seed {job['seed']} {job['source']} "
            f"{job['split']} {job['method']}, {job['learning_rate']}, {job['beta']}: false "
            f"{found['false']:.3f}  objects named {found['coverage']:.2f}  entropy {found['entropy']:.2f}  "
            f"{record['seconds']} s",
            flush=True,
        )


def job(
    world: int, source: str, seed: int, method: str, split: str, rate: float = 0.0, beta: float = 0.0
) -> dict[str, Any]:
    """One run's description; the base is not trained."""
    names = ("world", "source", "seed", "method", "split", "learning_rate", "beta")
    return dict(zip(names, (world, source, seed, method, split, rate, beta), strict=True))


def search(
    folder: Path, path: Path, world: int, source: str, methods: list[str], habit: float
) -> dict[str, Any]:
    """The same grid for every method, on validation scenes of a world of its own; the best of each: fewest
    false sentences at temperature 1 among those that keep 95% of the base's coverage."""
    jobs = [job(world, source, SEARCH_SEED, "base", "validation")]
    jobs += [job(world, source, SEARCH_SEED, m, "validation", *point) for m in methods for point in GRID]
    run_jobs(jobs, folder, path, habit)
    records = [record for k, record in done(path).items() if k in {key(j) for j in jobs}]
    floor = 0.95 * next(r for r in records if r["method"] == "base")["measures"]["1"]["coverage"]
    best = {}
    for method in methods:
        own = [r for r in records if r["method"] == method]
        fit = [r for r in own if r["measures"]["1"]["coverage"] >= floor] or own
        chosen = min(fit, key=lambda r: r["measures"]["1"]["false"])
        best[method] = (chosen["learning_rate"], chosen["beta"])
    return best
