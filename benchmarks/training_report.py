"""Table and picture from the kept numbers of `benchmarks.training`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COLUMNS = (
    "host", "setting", "host s", "aspo", "limit", "aspo cached",
    "host MiB", "aspo peak", "date",
)  # fmt: skip


def rows(folder: Path) -> list[dict[str, Any]]:
    found = []
    for file in sorted(folder.glob("*-*.json")):
        kept = json.loads(file.read_text())
        for result in kept["results"]:
            seconds, peak = result["seconds"], result["peak MiB"]
            found.append(
                {
                    "host": f"{kept['host']} {result['versions'][kept['host']]} ({file.stem.split('-')[0]})",
                    "setting": result["setting"],
                    "host s": f"{seconds['host']:.2f}",
                    "aspo": f"{seconds['aspo'] / seconds['host']:.2f}",
                    "limit": f"{result['token limit']:.2f}",
                    "aspo cached": f"{seconds['aspo, cached reference'] / seconds['host']:.2f}",
                    "host MiB": f"{peak['host']:.0f}",
                    "aspo peak": f"{peak['aspo'] / peak['host']:.2f}",
                    "date": result["date"],
                }
            )
    return found


def report(folder: Path) -> str:
    """The table in Markdown, also written to `table.md` there; `ratios.png` where matplotlib is installed."""
    found = rows(folder)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row[column] for column in COLUMNS) + " |" for row in found]
    table = "\n".join(lines) + "\n"
    (folder / "table.md").write_text(table)
    _picture(found, folder / "ratios.png")
    return table


def _picture(found: list[dict[str, Any]], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"no matplotlib here, so {path.name} is not drawn anew")
        return
    figure = Figure(figsize=(11, 0.55 * len(found) + 1.6), layout="constrained")
    time, memory = figure.subplots(1, 2, sharey=True)
    places = range(len(found))
    bars = (
        (time, ("aspo", "aspo cached"), "step time"),
        (memory, ("aspo peak",), "peak memory over the weights"),
    )
    for axes, keys, title in bars:
        colours = (("#3b6ea5", "white"), ("#9ec5e8", "#222222"))
        for offset, key, (colour, ink) in zip((-0.2, 0.2), keys, colours, strict=False):
            label = "cached reference" if "cached" in key else "live reference"
            values = [float(row[key]) for row in found]
            bar = axes.barh([place + offset for place in places], values, 0.38, color=colour, label=label)
            axes.bar_label(bar, fmt="%.2f", label_type="center", color=ink, fontsize=8)
        axes.axvline(1, color="#444444", linewidth=1)
        axes.set_xlim(0, 1.15)
        axes.set_title(f"{title}, host's DPO = 1")
    limits = [float(row["limit"]) for row in found]
    time.plot(
        limits, [p - 0.2 for p in places], "|", color="#c0392b", markersize=14, label="token limit, live"
    )
    time.set_yticks(list(places), [f"{row['host']}\n{row['setting']}" for row in found], fontsize=8)
    time.set_ylim(len(found) - 0.5, -0.5)
    time.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
