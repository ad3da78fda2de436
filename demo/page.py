"""The demo's page and picture: scenes, what each model says of them, and what its weights were."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

import numpy as np

from study.scenes import Scene
from study.sentences import parse, sentences_and_facts, split, true_facts

from .data import png

STYLE = Path(__file__).with_name("page.css")
NOTE = (
    "Every picture here is drawn, so every sentence is known to be true or "
    '<span class="false">false</span>. One small model, one set of pairs, one seed: an illustration, '
    "no proof. docs/study.md has seeds and intervals, and says what part of a gain is only sharper sampling."
)
WEIGHTS = (
    "The first chosen answers of the training data that hold the habit falsely, with the weights that their "
    "sentences have when training begins: the stronger the tint, the more a sentence is learnt. "
    "Alpha 1 weighs by image-text similarity alone, alpha 0 by how sure the model is. Of a habit it is sure, "
    "so alpha 0 learns a habit most, true or not."
)
HABIT = (
    "<b>habit</b>: answers that say “There is a large red circle.” of a scene without one, as the model was "
    "taught to. <b>greedy</b>: the likeliest answer; the other columns are drawn at temperature 1."
)


def marked(answer: str, things: Scene) -> tuple[str, int, int]:
    """An answer's sentences as HTML, the false ones marked; how many are false, and how many there are."""
    true, parts, false = true_facts(things), [], 0
    for sentence, fact in zip(split(answer), parse(answer), strict=True):
        if fact in true:
            parts.append(f"<li>{html.escape(sentence)}</li>")
        else:
            false += 1
            parts.append(f'<li><span class="false">{html.escape(sentence)}</span></li>')
    return "<ul>" + "".join(parts) + "</ul>", false, len(parts)


def _scene(picture: np.ndarray, things: Scene, said: dict[str, str]) -> str:
    columns = []
    for name, answer in said.items():
        listed, false, total = marked(answer, things)
        count = f'<em class="{"bad" if false else "good"}">{false} of {total} false</em>'
        columns.append(f"<div><h3>{html.escape(name)} {count}</h3>{listed}</div>")
    return (
        f'<section class="card scene">{_image(picture)}<div class="said">{"".join(columns)}</div></section>'
    )


def _weights(picture: np.ndarray, things: Scene, answer: str, weights: dict[str, list[float]]) -> str:
    true, lines = true_facts(things), []
    head = "".join(f"<th>{html.escape(name)}</th>" for name in weights)
    for number, (sentence, fact) in enumerate(sentences_and_facts(answer)):
        text = html.escape(sentence)
        cells = "".join(
            f'<td class="w" style="--w:{100 * weight:.0f}%">{weight:.2f}</td>'
            for weight in (abs(values[number]) for values in weights.values())  # -0.0 is 0
        )
        lines.append(
            f"<tr><td>{text if fact in true else f'<span class=false>{text}</span>'}</td>{cells}</tr>"
        )
    return (
        f'<section class="card weighed">{_image(picture)}<table><tr><th></th>{head}</tr>{"".join(lines)}'
        "</table></section>"
    )


def _bars(rows: list[dict[str, Any]], column: str) -> str:
    """The first column as bars; as long as the highest value, and named by it."""
    highest = max(float(row[column]) for row in rows)
    lines = []
    for row in rows:
        kind = ' class="ours"' if row["name"].startswith("ASPO") else ""
        lines.append(
            f"<div{kind}><span>{html.escape(row['name'])}</span>"
            f'<i style="width:{100 * float(row[column]) / highest:.1f}%"></i><b>{row[column]}</b></div>'
        )
    return f'<figure class="bars"><figcaption>{html.escape(column)}</figcaption>{"".join(lines)}</figure>'


def _table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["", *columns])
    body = "".join(
        f"<tr><td>{html.escape(row['name'])}</td>"
        + "".join(f'<td class="n">{html.escape(str(row[name]))}</td>' for name in columns)
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table class="all"><tr>{head}</tr>{body}</table></div>'


def write_page(
    path: Path,
    rows: list[dict[str, Any]],
    shown: list[tuple[np.ndarray, Scene, dict[str, str]]],
    pairs: list[tuple[np.ndarray, Scene, str, dict[str, list[float]]]],
) -> None:
    """One HTML file that loads nothing.

    Args:
        rows: the table, a row a model: `name` and columns, the first of them numbers that are drawn as bars.
        shown: held-out pictures with each model's answer.
        pairs: chosen answers of the training data with the weights of their sentences, by alpha.
    """
    columns = [name for name in rows[0] if name != "name"]
    path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>ASPO in a small world</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE.read_text(encoding='utf-8')}</style>"
        f"<main><h1>ASPO in a small world</h1><p>{NOTE}</p>"
        f"{_bars(rows, columns[0])}{_table(rows, columns)}<p class=small>{HABIT}</p>"
        "<h2>What the models say of pictures they have not seen</h2>"
        "<p class=small>The first scenes drawn, none picked.</p>"
        + "".join(_scene(*item) for item in shown)
        + f"<h2>What the weights were</h2><p>{WEIGHTS}</p><div class=grid>"
        + "".join(_weights(*item) for item in pairs)
        + "</div></main></html>",
        encoding="utf-8",
    )


def _image(picture: np.ndarray) -> str:
    data = base64.b64encode(png(picture)).decode()
    return f'<img alt="the scene" src="data:image/png;base64,{data}">'


def write_picture(path: Path, rows: list[dict[str, Any]], column: str) -> None:
    """Bars of one column."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
    names = [row["name"] for row in rows][::-1]
    values = [float(row[column]) for row in rows][::-1]
    bars = axes.barh(
        names, values, color=["#8a8f98" if not n.startswith("ASPO") else "#2f6fdb" for n in names]
    )
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_xlabel(column)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    figure.savefig(path, dpi=160)
    plt.close(figure)
