"""The dataset card (README.md) of a converted dataset, made of its record."""

from __future__ import annotations

import re
from typing import Any

MARK = "<!-- written by aspo-data -->"
METHOD = "arXiv 2505.19100"
ASPO_CITATION = """@inproceedings{wang2025aspo,
  title={{ASPO}: Adaptive Sentence-Level Preference Optimization for Fine-Grained Multimodal Reasoning},
  author={Wang, Yeyuan and Gao, Dehong and Long, Rujiao and Yi, Lei and Jin, Linbo and Yang, Libin and
    Cai, Xiaoyan},
  booktitle={Findings of the Association for Computational Linguistics: ACL 2025},
  year={2025},
  note={arXiv:2505.19100}
}"""

# Identifiers that the Hub knows; anything else goes under `license: other` with its name.
_HUB_LICENSES = frozenset(
    "apache-2.0 mit bsd-2-clause bsd-3-clause cc0-1.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 "
    "cc-by-sa-4.0 "
    "cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 "
    "cc-by-nc-sa-4.0 cc-by-nd-4.0 odc-by odbl pddl gpl-3.0 llama2 llama3 gemma openrail other unknown".split()
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_URL = re.compile(r"https?://[\w.~:/?#@!$&*+,;=%-]+")
_MOST_REASONS = 20
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def license_of(record: dict[str, Any]) -> str:
    """The licence that the dataset is published under: the source's, and never a looser one.

    A copy of a non-commercial source stays non-commercial, whatever the copy's own card says. "unknown" where
    no licence is stated.
    """
    from dataset_tools.sources.origin import licence_of_repository

    source = record["source"]
    stated = source.get("license")
    places = [source.get("location") or "", *(source.get("source_datasets") or [])]
    known = source.get("origin_license") or next(filter(None, map(licence_of_repository, places)), None)
    if known and _is_non_commercial(known) and not _is_non_commercial(stated or ""):
        return known
    return stated or known or "unknown"


def _is_non_commercial(name: str) -> bool:
    return "nc" in re.split(r"[^a-z0-9]+", name.lower())


def metadata(record: dict[str, Any], splits: list[str]) -> dict[str, Any]:
    """The card's YAML header as a mapping."""
    rows, synthetic = record["counts"]["rows"], ["synthetic"] if record.get("generated") else []
    return {
        **_licence_and_sources(record["source"]),
        "task_categories": ["image-text-to-text"],
        "tags": ["aspo", "preference", "dpo", "vision-language", "sentence-annotated", *synthetic],
        "size_categories": [next((label for limit, label in _SIZES if rows < limit), "1M<n<10M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    }


def _licence_and_sources(source: dict[str, Any]) -> dict[str, Any]:
    name = license_of({"source": source})
    known = name.lower() in _HUB_LICENSES
    found: dict[str, Any] = {"license": name.lower() if known else "other"}
    if not known:
        found["license_name"] = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
    sources = [source["location"]] if _on_hub(source) else []
    sources += [name for name in source.get("source_datasets") or [] if _HUB_ID.fullmatch(name)]
    return {**found, **({"source_datasets": list(dict.fromkeys(sources))} if sources else {})}


def source_card(source: dict[str, Any], text: str) -> str:
    """A small card for files made of `source` (as in a record): whatever is made of them carries it on."""
    from huggingface_hub import DatasetCardData

    return f"---\n{DatasetCardData(**_licence_and_sources(source)).to_yaml()}\n---\n\n{text}\n"


def render(record: dict[str, Any], splits: list[str], repo: str, picture: str | None = None) -> str:
    """The whole card. `repo` is the Hub id it is published under, `picture` the file of its statistics."""
    from huggingface_hub import DatasetCardData

    header = DatasetCardData(**metadata(record, splits)).to_yaml() + "\n"
    sections = [
        f"---\n{header}---\n\n{MARK}\n",
        f"# {repo.split('/')[-1]}\n\n{_about(record)}",
        f"## How it was made\n\n{_making(record)}",
        *([f"## What is in it\n\n![Sentences, similarities, lengths]({picture})\n"] if picture else []),
        f"## Columns\n\n{_COLUMNS}",
        f"## Train with it\n\n{_training(record, splits, repo)}",
        f"## Licence\n\n{_licence(record)}",
        f"## Citation\n\n{_citations(record)}",
    ]
    return "\n".join(sections)


def _on_hub(source: dict[str, Any]) -> bool:
    """Whether the location is a Hub id (and not a folder's name)."""
    return bool(_HUB_ID.fullmatch(source.get("location") or "")) and str(source.get("url") or "").endswith(
        source["location"]
    )


def _origin(record: dict[str, Any]) -> str:
    """Where the pairs, or the prompts and images of generated ones, are from."""
    source, generated = record["source"], record.get("generated") or {}
    name = _plain(source["location"] if _on_hub(source) else generated.get("source") or source["name"])
    url = str(source.get("url") or "")
    return f"[{name}]({url})" if _URL.fullmatch(url) else name


def _about(record: dict[str, Any]) -> str:
    rows, origin, generated = record["counts"]["rows"], _origin(record), record.get("generated")
    pairs = f"preference pairs with images from {origin}"
    if generated:
        pairs = f"preference pairs of answers by {_model(generated)} to prompts and images from {origin}"
    return (
        f"{rows:,} {pairs}, each response cut into sentences for ASPO ({METHOD}), Adaptive Sentence-level "
        "Preference Optimization.\n"
    )


def _making(record: dict[str, Any]) -> str:
    tool, splitter, generated = record["tool"], record["splitter"], record.get("generated")
    scorer, counts = record.get("scorer"), record["counts"]
    rows = [
        *(_generated(record) if generated else _copied(record)),
        ("Tool", f"aspo-data of {_plain(tool['name'])} {_plain(tool['version'])}"),
        ("Sentence splitter", f"{_plain(splitter['name'])} {_plain(splitter['version'])}"),
        ("Similarity", _scorer(scorer)),
        ("Pairs", f"{counts['rows']:,} (rows read: {counts['read']:,}, refused: {counts['rejected']:,})"),
        ("Sentences", f"{counts['sentences']:,}"),
    ]
    options = {
        key: value for key, value in (record.get("options") or {}).items() if value not in (None, {}, [])
    }
    if options:
        rows.append(("Settings", _plain(", ".join(f"{key}: {value}" for key, value in options.items()))))
    found = sorted((counts.get("reasons") or {}).items(), key=lambda item: -item[1])
    reasons = [f"{count:,} x {_plain(reason, 80)}" for reason, count in found[:_MOST_REASONS]]
    if len(found) > _MOST_REASONS:
        reasons.append(f"{len(found) - _MOST_REASONS:,} other reasons")
    if reasons:
        rows.append(("Refused because of", "; ".join(reasons)))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]) + "\n"


def _copied(record: dict[str, Any]) -> list[tuple[str, str]]:
    source = record["source"]
    return [
        ("Source", _origin(record) + (f", split {_code(source['split'])}" if source.get("split") else "")),
        ("Source revision", _code(source["revision"]) if source.get("revision") else "not known"),
    ]


def _model(generated: dict[str, Any], part: str = "answers") -> str:
    return _code(generated["models"].get(part, {}).get("model"))


def _generated(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Whose answers the pairs are, and what was done that one is worse than the other."""
    made, revision = record["generated"], record["generated"].get("revision")
    answers, recipe, sampling = made["models"]["answers"], made["recipe"], made.get("sampling") or {}
    commit = answers.get("revision") or answers.get("asked_revision")
    known = f" (revision {_code(commit)})" if commit else ""
    if recipe.get("best_of"):
        way = f"the best and the worst of {_plain(recipe['best_of'])} answers to an image, by the similarity "
        way += f"of their sentences with it under {_model(made, 'scorer')}"
    else:
        step = f", step {_plain(recipe['noise_step'])} of 1000" if "noise_step" in recipe else ""
        way = f"the answer to an image, and to the same image with {_plain(recipe.get('distort'))}{step}"
    heat = sampling.get("temperature")
    drawn = f"temperature {_plain(heat)}, top_p {_plain(sampling.get('top_p'))}" if heat else "greedy"
    return [
        ("Prompts and images", _origin(record) + (f", revision {_code(revision)}" if revision else "")),
        ("Answers", f"generated by {_model(made)}{known}, {drawn}"),
        ("Chosen and rejected", way),
    ]


def _scorer(scorer: dict[str, Any] | None) -> str:
    if not scorer:
        return "none: the sentences are not scored"
    which = "chosen and rejected" if scorer.get("rejected") else "chosen"
    revision = scorer.get("revision") or scorer.get("fingerprint") or "not known"
    model = f"{_code(scorer['model'])} (revision {_code(revision)}, {_plain(scorer.get('dtype'))})"
    text = f"cosine of the {which} sentences with the image by {model}"
    windowed = (scorer.get("counts") or {}).get("windowed_sentences")
    return text + (f"; {windowed:,} long ones in windows" if windowed else "")


def _plain(text: Any, longest: int = 300) -> str:
    """A record's text as text of the card: it may come from a stranger, and markup of it would be ours."""
    whole = " ".join(str(text).split())
    return re.sub(r"[&<>|`\[\]*\\]", lambda match: f"&#{ord(match[0])};", whole[:longest])


def _code(text: Any) -> str:
    """A record's text in a code span, in which nothing can be escaped."""
    return f"`{re.sub(r'[^ -~]|[`|<>]', '', str(text))[:200] or '-'}`"


_COLUMNS = """| Column | Content |
|---|---|
| `images` | the source's image files, byte for byte |
| `prompt`, `chosen`, `rejected` | messages of role and content |
| `chosen_sentences`, `rejected_sentences` | start and end of each sentence, in characters of that response |
| `chosen_similarity`, `rejected_similarity` | cosine of each sentence with its image; null: none |
| `untrained_prefix` | characters that both responses begin with and that are not trained; 0: none |
| `id`, `source` | the row's id and where it is from |
"""


def _training(record: dict[str, Any], splits: list[str], repo: str) -> str:
    folder = repo.split("/")[-1]
    split = "train" if "train" in splits else splits[0]
    alpha = "0.5" if record.get("scorer") else "0  # perplexity only: the sentences are not scored"
    return f"""```bash
pip install aspo-plugin
aspo-data pull {repo} {folder}
```

LLaMA-Factory, `llamafactory-cli train recipe.yaml`:

```yaml
stage: aspo            # dpo trains plain DPO on the same folder
aspo_alpha: {alpha}
dataset_dir: {folder}
dataset: {split}
# and the model, template, finetuning_type, ... of any DPO recipe
```

Axolotl, `axolotl train recipe.yaml`:

```yaml
plugins: [aspo_plugin.axolotl.AspoPlugin]
rl: aspo
aspo:
  alpha: {alpha}
datasets:
  - path: {folder}     # or {repo}
    split: {split}
# and the model, adapter, ... of any DPO recipe
```

`datasets.load_dataset("{repo}")` reads it too, in the layout of TRL's vision-preference datasets.
"""


def _licence(record: dict[str, Any]) -> str:
    name = license_of(record)
    made = record.get("generated")
    if name == "unknown":
        return "The source states no licence: ask its authors before you use or share this copy.\n"
    text = f"{_code(name)}, carried over from the source; texts and images are the source's."
    if made:
        text = (
            f"{_code(name)}, carried over from the source of prompts and images; answers by {_model(made)}."
        )
    return text + (" No commercial use.\n" if _is_non_commercial(name) else "\n")


def _citations(record: dict[str, Any]) -> str:
    entries = [record["source"].get("citation"), ASPO_CITATION]
    # A fence inside of an entry would end the block.
    return "".join(
        f"```bibtex\n{str(entry).strip().replace('`', '')[:4000]}\n```\n" for entry in entries if entry
    )
