"""Writes docs/study.md and its picture from the lines of study/runs.jsonl.

python -m study.report study/runs.jsonl --write
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from .measure import TEMPERATURES
from .picture import draw
from .runs import SEARCHED, done
from .sentences import SLOTS
from .train import METHODS

ROOT = Path(__file__).resolve().parent.parent
PAGE, PICTURE = ROOT / "docs" / "study.md", ROOT / "docs" / "study.svg"
BEGIN, END = "<!-- tables of python -m study.report -->", "<!-- end of the tables -->"
COLUMNS = (
    *("false, %", "minus DPO, temperature 1", "0.7", "greedy", "matched entropy", "DPO's mix of kinds"),
    *("objects not there", "answers won, %", "habit, %", "entropy", "objects named", "sentences"),
)
# Of the tables' rows, those of the picture: it is what the README shows.
PICTURED = (
    *("aspo 0", "aspo 0.5", "aspo 1", "true weights", "random weights"),
    *("centred 1", "rejected weighted 1", "one-sentence pairs"),
)
Unit = tuple[int, int]
Runs = dict[str, dict[Unit, dict[str, Any]]]


def grouped(path: Path) -> dict[str, Runs]:
    """Test runs by setting, method and unit (world, seed). Those in the world of the search (`--quick`) are
    a setting of their own: they are no test of what was found there."""
    found: dict[str, Runs] = defaultdict(lambda: defaultdict(dict))
    for record in done(path).values():
        if record["split"] == "test":
            world = "habit world" if record["habit_world"] else "plain world"
            if record["world"] == SEARCHED:
                world += " of the search"
            unit = (record["world"], record["seed"])
            source = record["source"].replace("seva", "SeVa")
            found[f"{world}, {source} pairs"][record["method"]][unit] = record
    return found


def settings(path: Path) -> dict[str, Runs]:
    """The settings that have DPO to compare with: SeVa pairs first, the methods in the order of `METHODS`."""
    order = ["base", *METHODS]
    found = {
        name: {m: runs[m] for m in sorted(runs, key=order.index)}
        for name, runs in grouped(path).items()
        if "dpo" in runs
    }
    return dict(sorted(found.items(), key=lambda item: ("SeVa pairs" not in item[0], item[0])))


def at(record: dict[str, Any], column: str, temperature: float = 1.0) -> float:
    """A measure of a run at one temperature."""
    return float(record["measures"][f"{temperature:g}"][column])


def matched(record: dict[str, Any], entropy: float) -> float:
    """The share of false sentences where the answers are drawn with this entropy: on the line between the two
    nearest temperatures. NaN where no temperature reaches it."""
    points = sorted((at(record, "entropy", t), at(record, "false", t)) for t in TEMPERATURES)
    for (low, a), (high, b) in itertools.pairwise(points):
        if low <= entropy <= high:
            return a + (b - a) * (entropy - low) / max(high - low, 1e-9)
    return math.nan


def as_sharp(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The difference of the shares of false sentences where both answer with the entropy that the sharper of
    the two has at temperature 1: the other reaches it by cooling."""
    entropy = min(at(one, "entropy"), at(other, "entropy"))
    return matched(one, entropy) - matched(other, entropy)


def in_its_kinds(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The difference of the shares of false sentences at temperature 1 if `one` said each kind of sentence as
    often as `other` does: what is not a move to safer kinds."""
    ours, theirs = (record["measures"]["1"]["kinds"] for record in (one, other))
    said = sum(found["said"] for found in theirs.values())
    difference = 0.0
    for kind, found in theirs.items():
        if found["said"] and ours.get(kind, {}).get("said"):
            rates = [side["false"] / side["said"] for side in (ours[kind], found)]
            difference += (rates[0] - rates[1]) * found["said"] / said
    return difference


def won(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The share of scenes whose answer has a smaller share of false sentences than the other's; a tie counts
    half. NaN where a line does not say."""
    if not all("each" in record["measures"]["1"] for record in (one, other)):
        return math.nan
    pairs = zip(one["measures"]["1"]["each"], other["measures"]["1"]["each"], strict=True)
    shares = [(a / max(m, 1), b / max(n, 1)) for (a, m), (b, n) in pairs]
    return sum((a < b) + 0.5 * (a == b) for a, b in shares) / len(shares)


def by_start(units: list[Unit], differences: list[float]) -> list[float]:
    """The differences of each starting point, averaged over its seeds; those of the seeds where there is only
    one starting point."""
    starts: dict[int, list[float]] = defaultdict(list)
    for (world, _), value in zip(units, differences, strict=True):
        if not math.isnan(value):
            starts[world].append(value)
    if len(starts) < 2:
        return [value for values in starts.values() for value in values]
    return [float(np.mean(values)) for values in starts.values()]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean, half width of its 95% interval, and p of no difference (paired t)."""
    from scipy import stats

    if len(values) < 2 or np.std(values) == 0:
        return float(np.mean(values)) if values else math.nan, math.nan, math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    degrees = len(values) - 1
    p = 2 * stats.t.sf(abs(np.mean(values)) / error, degrees)
    return float(np.mean(values)), float(stats.t.ppf(0.975, degrees) * error), float(p)


def holm(values: list[float]) -> list[float]:
    """p-values corrected for their number (Holm); NaN stays."""
    known = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    corrected, highest = [math.nan] * len(values), 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[place] = highest
    return corrected


def compared(runs: Runs) -> list[dict[str, Any]]:
    """Each method against DPO, paired by unit."""
    rows = []
    for method, units in runs.items():
        both = [unit for unit in units if unit in runs["dpo"]]
        pairs = [(units[unit], runs["dpo"][unit]) for unit in both]
        row: dict[str, Any] = {"method": method, "units": len(both)}
        for name, column, temperature in (
            ("t1", "false", 1.0), ("t07", "false", 0.7), ("greedy", "false", 0.0), ("chair", "chair", 1.0)
        ):  # fmt: skip
            change = [100 * (at(a, column, temperature) - at(b, column, temperature)) for a, b in pairs]
            row[name] = interval(by_start(both, change))
        for name, compare in (("matched", as_sharp), ("kinds", in_its_kinds)):
            row[name] = interval(by_start(both, [100 * compare(a, b) for a, b in pairs]))
        row["won"] = float(np.mean([100 * won(a, b) for a, b in pairs]))
        for name in ("false", "entropy", "coverage", "sentences", "habit"):
            row[f"mean_{name}"] = float(np.mean([at(a, name) for a, _ in pairs]))
        row["mean_greedy"] = float(np.mean([at(a, "false", 0.0) for a, _ in pairs]))
        rows.append(row)
    for name in ("t1", "t07", "greedy", "chair", "matched", "kinds"):
        others = [row for row in rows if row["method"] not in ("dpo", "base")]
        for row, p in zip(others, holm([row[name][2] for row in others]), strict=True):
            row[f"{name}_p"] = p
    return rows


def name_of(method: str) -> str:
    """A method's name as it is printed."""
    return "DPO" if method == "dpo" else method.replace("aspo ", "ASPO, alpha ")


def told(value: tuple[float, float, float], p: float | None) -> str:
    """`-4.2 ± 0.9`, with a star where the corrected p is under .05."""
    mean, half, _ = value
    if math.isnan(mean):
        return "–"
    star = "*" if p is not None and p < 0.05 else ""
    return f"{mean:+.1f}" + ("" if math.isnan(half) else f" ± {half:.1f}") + star


def tables(path: Path) -> str:
    """All tables, as Markdown."""
    parts = []
    for setting, runs in settings(path).items():
        rows = compared(runs)
        facts = [record["pairs"] for units in runs.values() for record in units.values()]
        mean = {k: float(np.mean([f[k] for f in facts])) for k in facts[0] if k != "weights"}
        share = {k: f"{100 * v:.0f}%" for k, v in mean.items()}
        worlds = sorted({unit[0] for units in runs.values() for unit in units})
        parts += [
            f"### {setting[0].upper()}{setting[1:]}",
            "",
            f"Units: {rows[0]['units']}, of the starting points {', '.join(map(str, worlds))}. "
            f"{mean['pairs']:.0f} pairs of {mean['sentences']:.1f} sentences; false: "
            f"{share['chosen_false']} of the chosen, {share['rejected_false']} of the rejected ones. In one "
            "answer the scorer puts a true "
            f"sentence above a false one in {share['auc_similarity']} of cases.",
            "",
            "| | " + " | ".join(COLUMNS) + " |",
            "|---" * (len(COLUMNS) + 1) + "|",
        ]
        for row in rows:
            dpo = row["method"] == "dpo"
            kinds = ("t1", "t07", "greedy", "matched", "kinds", "chair")
            cells = [
                f"{100 * row['mean_false']:.1f}",
                *("" if dpo else told(row[kind], row.get(f"{kind}_p")) for kind in kinds),
                "" if dpo else "–" if math.isnan(row["won"]) else f"{row['won']:.0f}",
                f"{100 * row['mean_habit']:.0f}",
                f"{row['mean_entropy']:.2f}",
                f"{100 * row['mean_coverage']:.0f}%",
                f"{row['mean_sentences']:.1f}",
            ]
            parts.append(f"| {name_of(row['method'])} | {' | '.join(cells)} |")
        parts += ["", *_kinds(runs), ""]
        if all("weights" in fact for fact in facts):
            parts += [*_weights(facts), ""]
    return "\n".join(parts)


def _kinds(runs: Runs) -> list[str]:
    """Share of false sentences of each kind, and how often the kind is said."""
    kinds = [*SLOTS, "other"]
    lines = [f"| false / said, % | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    for method, units in runs.items():
        counts = {kind: np.zeros(2) for kind in kinds}
        for record in units.values():
            for kind, found in record["measures"]["1"]["kinds"].items():
                counts[kind] += (found["said"], found["false"])
        total = sum(count[0] for count in counts.values())
        cells = [
            f"{100 * false / said:.0f} / {100 * said / total:.0f}" if said else "– / 0"
            for said, false in counts.values()
        ]
        lines.append(f"| {name_of(method)} | {' | '.join(cells)} |")
    return lines


def _weights(facts: list[dict[str, Any]]) -> list[str]:
    """What the weights of the chosen sentences tell of their truth, by alpha, when training begins."""
    lines = [
        "| weights of alpha | a true sentence outweighs a false one of its answer, % | "
        "correlation with truth | mean weight of the false habit |",
        "|---|---|---|---|",
    ]
    for alpha in facts[0]["weights"]:
        known = [fact["weights"][alpha] for fact in facts]
        habit = [one["false_habit"] for one in known if one["false_habit"] is not None]
        lines.append(
            f"| {alpha} | {100 * np.mean([one['auc'] for one in known]):.0f} | "
            f"{np.mean([one['correlation'] for one in known]):.2f} | "
            f"{f'{np.mean(habit):.2f}' if habit else '–'} |"
        )
    return lines


def write(path: Path) -> None:
    """Put the tables into docs/study.md, and the picture beside it."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(path)}\n{END}{after}", encoding="utf-8")
    shown = {
        f"{name[0].upper()}{name[1:]}": [
            {**row, "method": name_of(row["method"])} for row in compared(runs) if row["method"] in PICTURED
        ]
        for name, runs in settings(path).items()
        if name.endswith(" SeVa pairs") and "of the search" not in name
    }
    draw(shown, PICTURE)
    print(f"wrote {PAGE} and {PICTURE}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/study.md")
    options = parser.parse_args()
    print(tables(options.runs))
    if options.write:
        write(options.runs)


if __name__ == "__main__":
    main()
