"""Texts of strangers: on the card, on the terminal, in a record; and secrets that are never printed."""

from __future__ import annotations

import io
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataset_tools.cli.output import echo, printable, redact
from dataset_tools.convert.tally import kind_of_reason
from dataset_tools.dataset.record import read_record, write_json
from dataset_tools.errors import DataError, UsageError
from dataset_tools.share.card import render
from tests.support import converted, data
from tests.support.hub import TOKEN

Convert = Callable[..., Any]
MARKUP = "<script>alert(1)</script>"


# --- refused rows and the public card ------------------------------------------------------------


def test_refused_texts_never_reach_the_card_or_the_record(tmp_path: Path, convert: Convert) -> None:
    """Six thousand refused rows, each with a text of its own, in every place that a reason quotes."""
    good = {"conversations": [{"from": "human", "value": "Why?"}], "chosen": "A. B.", "rejected": "C."}
    rows: list[Any] = [good]
    for number in range(1500):
        secret = f"{MARKUP} secret's {number}"
        rows += [
            {**good, "conversations": [{"from": secret, "value": "x"}]},
            {**good, "images": [f"{secret}.png"]},
            {**good, "chosen": [{"role": secret, "content": "x"}]},
            {**good, "conversations": [{"from": "human", "value": [{"type": secret}]}]},
        ]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    tally = convert(tmp_path / "pairs.json", tmp_path / "out")
    assert tally.rejected == 6000
    record = (tmp_path / "out" / "aspo.json").read_text()
    card = render(read_record(tmp_path / "out"), ["train"], "me/set")
    for public in (record, card):
        assert "secret" not in public and "script" not in public
        assert len(public) < 20_000
    assert "secret" in (tmp_path / "out" / "rejected.jsonl").read_text()  # at home, in full


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("image file not found: a.png", "image file not found"),
        ("prompt has the role '<b>', expected one of x", "prompt has the role"),
        ('prompt has the role "it\'s", expected one of x', "prompt has the role"),
        ("3 completions, at least two are needed", "N completions, at least two are needed"),
        ("2 literal <image> markers for 1 images", "N literal image markers for N images"),
        ("the line is not UTF-8: invalid start byte", "the line is not UTF-8"),
        ("\u202e", "other"),
        ("<b>", "other"),
    ],
)
def test_a_reason_is_counted_by_its_code(reason: str, code: str) -> None:
    assert kind_of_reason(reason) == code


def test_a_strangers_record_is_text_on_the_card() -> None:
    evil = f"{MARKUP} ![x](http://evil/x.png) [y](javascript:z) | `code` ```\n---\nlicense: mit\n---\n<img>"
    record = json.loads(json.dumps(converted.RECORD))
    record["source"] = {name: evil for name in record["source"]}
    record["tool"] = {"name": evil, "version": evil}
    record["splitter"] = {"name": evil, "version": evil}
    record["scorer"] = {"model": evil, "revision": evil, "dtype": evil}
    record["options"] = {evil: evil}
    record["counts"]["reasons"] = {evil: 1} | {f"{n} {evil}": n for n in range(6000)}
    card = render(record, ["train"], "me/set")
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "other"
    text, fence, citations = body.partition("```bibtex")
    assert fence and citations.count("```") == 3  # two entries, none of which ends its block early
    text = re.sub(r"`[^`\n]*`", "", text)  # in a code span nothing is markup
    for mark in ("<script", "<img", "](http://evil", "](javascript"):
        assert mark not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(line.count("|") == 3 for line in rows[:9])
    assert len(card) < 40_000


ODD_RECORDS = [
    b"", b"[]", b"{}", b"[" * 100_000, b'{"format": 1}', b'{"format": 1, "source": 5}', b"\xff\xfe{",
]  # fmt: skip


@pytest.mark.parametrize("body", ODD_RECORDS, ids=range(len(ODD_RECORDS)))
@pytest.mark.parametrize("command", ["validate", "stats", "preview", "push", "export"])
def test_an_odd_record_is_a_message(body: bytes, command: str, tmp_path: Path, aspo_data: Any) -> None:
    folder = converted.write(tmp_path / "set", [data.rows(3)])
    (folder / "aspo.json").write_bytes(body)
    more = {
        "preview": ["--html", tmp_path / "p.html"],
        "push": ["me/set"],
        "export": [tmp_path / "x", "--to", "trl"],
    }
    told = aspo_data(command, folder, *more.get(command, []), code=2)
    assert "aspo.json" in told.stderr and "Traceback" not in told.stderr


def test_any_single_part_of_a_record_may_be_odd(tmp_path: Path, aspo_data: Any) -> None:
    folder = converted.write(tmp_path / "set", [data.rows(3)])
    whole = read_record(folder)
    for odd in (None, 5, [], "x", {}, {"a": []}):
        for part in whole:
            inner = list(whole[part]) if isinstance(whole[part], dict) else []
            for changed in [{**whole, part: odd}, *({**whole, part: {**whole[part], k: odd}} for k in inner)]:
                write_json(folder / "aspo.json", changed)
                try:
                    render(read_record(folder), ["train"], "me/set")
                except UsageError as error:
                    assert "aspo.json" in str(error)


# --- a stranger's dataset on the Hub -------------------------------------------------------------


def published(hub: Any, tmp_path: Path, change: Callable[[Path], None]) -> None:
    folder = converted.write(tmp_path / "theirs", [data.rows(4), data.rows(4, 1)])
    change(folder)
    hub.publish("they/set", folder)


def test_pull_takes_only_what_the_schema_names(tmp_path: Path, hub: Any, aspo_data: Any) -> None:
    def change(folder: Path) -> None:
        entry = {"train": {"file_name": "../../elsewhere", "script_url": "http://evil"}}
        (folder / "dataset_info.json").write_text(json.dumps(entry))
        for name in ("evil.py", "data/evil.py", "data/notes.parquet", "rejected.jsonl", "state.json", "lock"):
            (folder / name).write_text("evil")

    published(hub, tmp_path, change)
    aspo_data("pull", "they/set", tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")}
    shards = {f"data/train-0000{n}-of-00002.parquet" for n in range(2)}
    assert found == {"data", *shards, "aspo.json", "dataset_info.json"}
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert info["train"]["file_name"] == "data" and "script_url" not in info["train"]


@pytest.mark.parametrize("junk", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1", b"not parquet" * 99])
def test_pull_refuses_junk(junk: bytes, tmp_path: Path, hub: Any, aspo_data: Any) -> None:
    published(
        hub,
        tmp_path,
        lambda folder: (folder / "data" / "train-00001-of-00002.parquet").write_bytes(junk) and None,
    )
    told = aspo_data("pull", "they/set", tmp_path / "out", code=1)
    assert "train-00001-of-00002.parquet" in told.stderr and "Traceback" not in told.stderr
    assert not (tmp_path / "out").exists()


# --- the terminal --------------------------------------------------------------------------------


def test_no_text_controls_the_terminal(tmp_path: Path, aspo_data: Any) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\b\u202e"
    rows = data.rows(4)
    rows[0]["id"] = evil
    rows[0]["chosen_sentences"] = [{"start": 0, "end": 1}]
    rows[1]["chosen"] = [{"role": evil, "content": evil}]
    folder = converted.write(tmp_path / "se\x1b[31mt", [rows])
    for command in (
        ["stats", folder],
        ["validate", folder],
        ["validate", folder, "--json"],
        ["push", folder, evil],
    ):
        told = aspo_data(*command, code={"stats": 0, "validate": 1, "push": 2}[command[0]])
        for mark in ("\x1b", "\x07", "\x9b", "\b", "\u202e"):
            assert mark not in told.output
        if "--json" in command:
            assert json.loads(told.stdout)
        elif command[0] != "push":
            assert "\\u001b" in told.output or "\\x1b" in told.output


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "no-such-encoding"])
def test_a_terminal_of_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "utf-8" if encoding.startswith("no") else encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    echo("█ 日本 \ud800 é")
    stream.flush()
    assert raw.getvalue()
    printable("█", encoding)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_statistics_on_a_terminal_without_the_letters(encoding: str, tmp_path: Path) -> None:
    folder = converted.write(tmp_path / "日本", [data.rows(4)])
    told = subprocess.run(
        [sys.executable, "-m", "dataset_tools", "stats", str(folder)],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert told.returncode == 0 and b"Traceback" not in told.stderr, told.stderr


def test_one_similarity_of_a_billion(tmp_path: Path, aspo_data: Any) -> None:
    rows = data.rows(6, sentences=2)
    for row, value in zip(rows, (1e9, -1e30, float("nan"), float("inf"), 1.0, -1.0), strict=True):
        row["chosen_similarity"] = [value, 0.5]
    folder = converted.write(tmp_path / "set", [rows])
    told = aspo_data("stats", folder, "--json")
    stats = json.loads(told.stdout)
    assert len(stats["chosen"]["similarity"]["histogram"]) < 110
    assert stats["chosen"]["similarity"]["max"] == 1.0
    assert "outside" in json.dumps(stats["problems"])
    assert len(aspo_data("stats", folder).stdout) < 20_000
    aspo_data("preview", folder, "--html", tmp_path / "page.html")


# --- secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "secret",
    [
        TOKEN,
        "hf_" + "a1B2" * 8,
        "api_" + "AbCdEfGh" * 4,
        "api_org_" + "AbCdEfGh" * 4,
    ],
)
def test_tokens_of_every_form_are_masked(secret: str) -> None:
    for text in (
        f"bad token {secret}.",
        f'{{"error": "{secret}"}}',
        f"authorization: Bearer {secret}",
        f"x={secret}&y",
    ):
        assert secret not in redact(text) and secret[4:12] not in redact(text)


@pytest.mark.parametrize("address", ["https://me:pa%40ss@hub.example/api", "http://ghp_token@host:8080/x?y"])
def test_credentials_in_an_address_are_masked(address: str) -> None:
    text = redact(f"the Hub answered with an error. 500 for url: {address} (Request ID: x)")
    assert "pa%40ss" not in text and "ghp_token" not in text and "me:" not in text
    assert ("hub.example/api" in text) or ("host:8080" in text)


def test_a_server_that_echoes_an_old_token(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataset_tools.cli.errors import describe

    old = "api_" + "".join(random.Random(1).choices("abcdefABCDEF", k=34))
    code, text = describe(DataError(f"401: invalid token {old} for https://u:p4ss@h/x"), "push") or (0, "")
    assert code == 1 and old not in text and "p4ss" not in text
