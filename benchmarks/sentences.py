"""How well and how fast the sentence splitter works, beside the splitters one could use instead.

Run from the repository root:

    python -m benchmarks.sentences                 # quality by kind of text, speed, slowest inputs
    python -m benchmarks.sentences --only quality  # or: languages, speed, hostile

Quality is precision and recall of the boundaries inside a text (a boundary is where a sentence starts)
against the gold files of the tests. pysbd and sentencex are compared where they are installed. All times are
process times on one core. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from dataset_tools.sentences import SPLITTER_VERSION, split_sentences

Spans = list[tuple[int, int]]
Splitter = Callable[[str], Spans]

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
GOLD = {
    "hard texts": DATA / "sentence_gold.jsonl",
    "texts written like model answers": DATA / "sentence_answers.jsonl",
}

LANGUAGES = DATA / "sentence_languages.jsonl"
"""Texts in 15 languages; a row's kind is its language."""

ORDINARY = (
    "The image captures a lively street market on a sunny afternoon. In the foreground, a woman in a "
    "blue dress is choosing tomatoes from a wooden crate, while the vendor, an older man with a white "
    "beard, weighs a bag of apples on a small scale. Behind them, several other people are walking "
    "between the stalls, and some of them carry woven baskets. A red-and-white awning stretches over "
    "the stand on the left. There are also two bicycles leaning against a lamp post near the corner. "
    "Overall, the scene conveys a relaxed and friendly atmosphere, typical of a small town in the "
    "south of Europe.",
    "Yes, there are a few details that suggest the photo was taken in winter. The trees along the "
    "river have lost all of their leaves, and a thin layer of snow covers the roofs of the parked "
    "cars. The two people crossing the bridge are wearing thick coats, scarves and gloves. In "
    "addition, the sky is grey and the light is rather dim, although the clock on the tower (on the "
    "right) shows 2:30 p.m. It is worth noting that no ice can be seen on the water, so the "
    "temperature was probably close to zero. I cannot tell the exact date from the image.",
    "Here is what the chart shows:\n\n1. **Sales**: they grew from 3.2 million in 2018 to 4.5 million "
    "in 2021, with a small drop in 2020.\n2. **Costs**: they stayed almost constant during the whole "
    "period. The highest value, 2.1 million, was reached in 2019.\n3. **Profit**: it is the difference "
    "between the two lines, and it doubled between the first and the last year.\n\nTo summarise, the "
    "company sold more every year without spending much more. The drop in 2020 may be related to the "
    "pandemic, but the chart itself does not say so. The source of the data is given below the "
    "horizontal axis.",
)
"""Three ordinary answers of about 100 words each."""


def hostile_inputs(size: int = 20_000) -> dict[str, str]:
    """Inputs of `size` characters that drive splitters to quadratic time, by name."""
    letters = random.Random(0).choices(string.ascii_letters + string.digits + "+/", k=size)
    pieces = [
        *("! ", "a!", "a. ", "A. ", "a.a.", "e.g. ", "U.S. ", "a? ", "... ", "… A", "; B", "aa.Bb", "a.[1]"),
        *("A ", "aA", "a", "9", "9. ", "1. 2 ", "1.\n", "x\u0301", "\u202ea. ", "\u200b", " ", "\t\n"),
        *("(", "( ", "(a", "(a. ", "a ( b ", "()", "(a.) ", "[", "{", "](a", "<", "<a>"),
        *("\n", "a\n", "a\n\n", "> ", "> a\n", "- ", "-\n", "--- ", "| a ", "|", "| a | b |\n", "|--"),
        *("*", "**a** ", "_a ", "`", "` ", "```\n", "~~~ a\n", "|" + "-" * 99),
        *("$", "$a ", "$$ a\n", "\\", "\\(", "\\[\n", "\\begin{a}\n"),
        *('"', '" ', '"a. ', "'", "'a ", "a'", "don't ", "“", "“a. "),
        *("。", "图", "图。", "图“。”", "图！*", "“。", "नमस्ते। ", "😊", "x 😊 The "),
        *(
            "z. B. ",
            "S. 5. ",
            "é. ",
            "é… ",
            "« a. ",
            "„a. ",
            "»a",
            "т. д. ",
            "д… ",
            "د. ",
            "د؟ ",
            "क. ",
            "다. ",
        ),
        *("가… ", "é. \u200b", "é.\u200b", "ф. 5 ", "é. — ", "é 5. É", "።"),
        *("@", "a@", "a.a@ ", "http://", "http://! ", "www.", 'a图。b! "c" (d) $e$ `f` 😊\n'),
    ]
    inputs = {repr(piece): (piece * (size // len(piece) + 1))[:size] for piece in pieces}
    inputs["base64"] = "".join(letters)
    inputs["a, then '!'"] = "a" + "!" * (size - 1)
    inputs["www, then '.'"] = "www." + "." * (size - 4)
    inputs["'|', then '-', then x"] = "|" + "-" * (size - 2) + "x"
    inputs["'a.', then '@'"] = ("a." * size)[: size - 1] + "@"
    inputs["letters between spaces"] = "a" + " " * (size - 2) + "b"
    return inputs


def bare_syntok(text: str) -> Spans:
    """`syntok.segmenter.analyze` and nothing else."""
    from syntok.segmenter import analyze

    spans = []
    for paragraph in analyze(text):
        for sentence in paragraph:
            tokens = [token for token in sentence if token.value]
            if tokens:
                spans.append((tokens[0].offset, tokens[-1].offset + len(tokens[-1].value)))
    return spans


def splitters() -> dict[str, Splitter]:
    """This project's splitter, bare syntok, and those of pysbd and sentencex that are installed."""
    found: dict[str, Splitter] = {"aspo": split_sentences, "syntok": bare_syntok}
    for name, told in (("pysbd", _pysbd), ("sentencex", _sentencex)):
        splitter = told("en")
        if splitter:
            found[name] = splitter
        else:
            print(f"{name} is not installed: left out")
    return found


def _offsets(boundaries: Iterable[dict[str, int]]) -> Iterable[tuple[int, int]]:
    return ((boundary["start_index"], boundary["end_index"]) for boundary in boundaries)


def _stripped(text: str, spans: Iterable[tuple[int, int]]) -> Spans:
    """The spans without white space at their ends, empty ones left out."""
    result = []
    for start, end in spans:
        piece = text[start:end]
        if piece.strip():
            start += len(piece) - len(piece.lstrip())
            result.append((start, start + len(piece.strip())))
    return result


def read_gold(path: Path) -> list[dict]:
    """Rows of {id, cat, text, spans}."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def boundaries(spans: Iterable[Iterable[int]]) -> set[int]:
    """The starts of all sentences but the first."""
    return {start for start, _ in list(spans)[1:]}


def score(found: set[int], gold: set[int]) -> tuple[int, int, int]:
    """(hits, false alarms, misses)."""
    return len(found & gold), len(found - gold), len(gold - found)


def f1(counts: Iterable[int]) -> float:
    """F1 of summed (hits, false alarms, misses); 1 where there was nothing to find and nothing was found."""
    hits, alarms, misses = counts
    return 2 * hits / (2 * hits + alarms + misses) if hits + alarms + misses else 1.0


def quality(rows: list[dict], splitter: Splitter) -> tuple[dict[str, list[int]], float]:
    """(hits, false alarms, misses) by kind of text, and the share of texts split exactly as in gold."""
    kinds: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    exact = 0
    for row in rows:
        spans = splitter(row["text"])
        exact += [list(span) for span in spans] == row["spans"]
        counts = score(boundaries(spans), boundaries(row["spans"]))
        for total in (kinds[row["cat"]], kinds["all"]):
            total[:] = [a + b for a, b in zip(total, counts, strict=True)]
    kinds["all"] = kinds.pop("all")
    return dict(kinds), exact / len(rows)


def _percent(hits: int, others: int) -> str:
    return f"{100 * hits / (hits + others):.0f}" if hits + others else "-"


def print_quality() -> None:
    """One table for each gold file: precision / recall in percent for each kind of text."""
    for title, path in GOLD.items():
        rows = read_gold(path)
        results = {name: quality(rows, splitter) for name, splitter in splitters().items()}
        print(f"\n{title}: {len(rows)} texts, precision / recall of boundaries in percent\n")
        print(f"{'kind':<10}{'boundaries':>11}" + "".join(f"{name:>12}" for name in results))
        for kind, counts in results["aspo"][0].items():
            line = f"{kind:<10}{counts[0] + counts[2]:>11}"
            for kinds, _ in results.values():
                hits, alarms, misses = kinds[kind]
                line += f"{_percent(hits, alarms):>6} /{_percent(hits, misses):>4}"
            print(line)
        print(f"{'F1':<21}" + "".join(f"{f1(kinds['all']):>12.3f}" for kinds, _ in results.values()))
        print(f"{'exact texts':<21}" + "".join(f"{exact:>12.3f}" for _, exact in results.values()))


def print_languages() -> None:
    """F1 of the boundaries for each language, beside pysbd and sentencex told the language."""
    rows = read_gold(LANGUAGES)
    kinds, exact = quality(rows, split_sentences)
    print(f"\nlanguages: {len(rows)} texts, F1 of boundaries\n")
    print(f"{'language':<10}{'boundaries':>11}{'aspo':>12}" + "".join(f"{name:>12}" for name in _OTHERS))
    for kind, counts in kinds.items():
        line = f"{kind:<10}{counts[0] + counts[2]:>11}{f1(counts):>12.3f}"
        chosen = [row for row in rows if kind in ("all", row["cat"])]
        for other in _OTHERS.values():
            found = [other(row["cat"]) for row in chosen]
            if None in found:
                line += f"{'-':>12}"
                continue
            scores = [
                score(boundaries(splitter(row["text"])), boundaries(row["spans"]))
                for row, splitter in zip(chosen, found, strict=True)
                if splitter
            ]
            line += f"{f1(map(sum, zip(*scores, strict=True))):>12.3f}"
        print(line)
    print(f"{'exact texts':<21}{exact:>12.3f}")


@cache
def _pysbd(language: str) -> Splitter | None:
    """pysbd told the language; as for English where it does not know it."""
    try:
        import pysbd
        from pysbd.languages import LANGUAGE_CODES
    except ImportError:
        return None
    code = language if language in LANGUAGE_CODES else "en"
    segmenter = pysbd.Segmenter(language=code, clean=False, char_span=True)
    return lambda text: _stripped(text, ((span.start, span.end) for span in segmenter.segment(text)))


@cache
def _sentencex(language: str) -> Splitter | None:
    try:
        import sentencex
    except ImportError:
        return None
    return lambda text: _stripped(text, _offsets(sentencex.get_sentence_boundaries(language, text)))


_OTHERS: dict[str, Callable[[str], Splitter | None]] = {
    "syntok": lambda language: bare_syntok,
    "pysbd": _pysbd,
    "sentencex": _sentencex,
}


def seconds(splitter: Splitter, text: str, repeats: int = 3) -> float:
    """The least process time of one call."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        splitter(text)
        best = min(best, time.process_time() - start)
    return best


def print_speed() -> None:
    """Responses per second and core on ordinary answers."""
    count = sum(len(text.split()) for text in ORDINARY) / len(ORDINARY)
    print(f"\nspeed on {len(ORDINARY)} ordinary answers of {count:.0f} words on average, one core\n")
    for name, splitter in splitters().items():
        for text in ORDINARY:
            splitter(text)
        start, done = time.process_time(), 0
        while time.process_time() - start < 1.5:
            for text in ORDINARY:
                splitter(text)
            done += len(ORDINARY)
        print(f"{name:<12}{done / (time.process_time() - start):>12,.0f} responses/s")


def print_hostile(size: int) -> None:
    """The slowest hostile inputs, and how their time grows when they are twice as long."""
    inputs, doubled = hostile_inputs(size), hostile_inputs(2 * size)
    times = sorted(((seconds(split_sentences, text), name) for name, text in inputs.items()), reverse=True)
    print(f"\n{len(inputs)} hostile inputs of {size:,} characters: the ten slowest\n")
    print(f"{'input':<34}{'ms':>8}{'twice as long':>16}")
    for elapsed, name in times[:10]:
        growth = seconds(split_sentences, doubled[name]) / elapsed
        print(f"{name[:32]:<34}{1000 * elapsed:>8.0f}{growth:>15.1f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("quality", "languages", "speed", "hostile"))
    parser.add_argument("--size", type=int, default=20_000, help="characters of a hostile input")
    arguments = parser.parse_args()
    print(f"aspo splitter {SPLITTER_VERSION}")
    if arguments.only in (None, "quality"):
        print_quality()
    if arguments.only in (None, "languages"):
        print_languages()
    if arguments.only in (None, "speed"):
        print_speed()
    if arguments.only in (None, "hostile"):
        print_hostile(arguments.size)


if __name__ == "__main__":
    main()
