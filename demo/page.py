"""The demo's page and picture: scenes, what each model says of them, and what its weights were."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

import numpy as np

from study.scenes import Scene
from study.sentences import parse, split, true_facts

from .data import png

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;
color-scheme:light dark}table{border-collapse:collapse}td,th{padding:.3rem .7rem;text-align:left;
vertical-align:top;border-bottom:1px solid #8885}td.n{text-align:right;font-variant-numeric:tabular-nums}
img{width:9rem;image-rendering:pixelated;border-radius:4px}.false{text-decoration:underline wavy #d33 2px}
span{padding:.05rem .15rem;border-radius:3px}"""


def sentences(answer: str, things: Scene, weights: list[float] | None = None) -> str:
    """An answer as HTML: false sentences underlined, each tinted by its weight where there are weights."""
    true, parts = true_facts(things), []
    for number, (sentence, fact) in enumerate(zip(split(answer), parse(answer), strict=True)):
        tint = "" if weights is None else f' style="background:rgba(30,120,220,{0.5 * weights[number]:.2f})"'
        kind = "" if fact in true else ' class="false"'
        title = "" if weights is None else f' title="weight {weights[number]:.2f}"'
        parts.append(f"<span{kind}{tint}{title}>{html.escape(sentence)}</span>")
    return " ".join(parts)


def write_page(
    path: Path,
    rows: list[dict[str, Any]],
    shown: list[tuple[np.ndarray, Scene, dict[str, str]]],
    pairs: list[tuple[np.ndarray, Scene, str, dict[str, list[float]]]],
) -> None:
    """One HTML file that loads nothing.

    Args:
        rows: the table, a row a model: `name` and columns.
        shown: held-out pictures with each model's answer.
        pairs: chosen answers of the training data with the weights of their sentences, by alpha.
    """
    columns = [name for name in rows[0] if name != "name"]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["", *columns])
    body = "".join(
        f"<tr><td>{html.escape(row['name'])}</td>"
        + "".join(f'<td class="n">{html.escape(str(row[name]))}</td>' for name in columns)
        + "</tr>"
        for row in rows
    )
    answers = "".join(
        f"<tr><td>{_image(picture)}</td><td>"
        + "".join(f"<p><b>{html.escape(name)}</b> {sentences(a, things)}</p>" for name, a in said.items())
        + "</td></tr>"
        for picture, things, said in shown
    )
    weighted = "".join(
        f"<tr><td>{_image(picture)}</td><td>"
        + "".join(
            f"<p><b>{html.escape(name)}</b> {sentences(answer, things, w)}</p>" for name, w in weights.items()
        )
        + "</td></tr>"
        for picture, things, answer, weights in pairs
    )
    text = (
        "Drawn scenes, so that every sentence is known to be true or <span class=false>false</span>. "
        "One small model, one set of pairs, one seed: an illustration, no proof. "
        "docs/study.md has seeds and intervals."
    )
    explained = (
        "The darker, the more a sentence is learnt. Alpha 1 weights by image-text similarity, alpha 0 by how "
        "sure the model is."
    )
    path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>ASPO in a small world</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>ASPO in a small world</h1><p>{text}</p>"
        f"<table><tr>{head}</tr>{body}</table>"
        "<h2>What the models say of pictures they have not seen</h2>"
        f"<table>{answers}</table>"
        "<h2>What the weights were, in chosen answers of the training data</h2>"
        f"<p>{explained}</p><table>{weighted}</table></html>",
        encoding="utf-8",
    )


def _image(picture: np.ndarray) -> str:
    data = base64.b64encode(png(picture)).decode()
    return f'<img alt="" src="data:image/png;base64,{data}">'


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
