"""The small world tells the truth, its shortcuts give the models' own numbers, and the tables are right."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from study import models, picture, report
from study.answers import Answerer, features, pixels
from study.measure import auc, told
from study.one_sentence import one_sentence
from study.pairs import World, annotated, detailed, load, noised, ranked, seva, similarities, swapped
from study.runs import SEARCHED, done, job, key
from study.scenes import SIZE, Scene, Thing, draw, scene
from study.sentences import (
    HABIT,
    SLOTS,
    answer,
    describe,
    parse,
    sentences_and_facts,
    slip,
    split,
    text,
    true_facts,
)
from study.teach import TAUGHT, Lessons, drawn, teach_habit
from study.train import METHODS, Budget, pair_weights, reference_logps, train
from study.weights import chosen_weights
from study.weights import told as weights_told

SCENE: Scene = (
    Thing(0, 0, "large", "red", "circle"),
    Thing(0, 3, "small", "blue", "cross"),
    Thing(3, 1, "small", "green", "circle"),
)


@pytest.fixture(scope="module")
def world() -> World:
    return load(TAUGHT)


@pytest.mark.parametrize(
    ("sentence", "true"),
    [
        ("There is a large red circle.", True),
        ("There is a small red circle.", False),
        ("I see a blue cross.", True),
        ("I see a blue ring.", False),
        ("At the top right is a blue cross.", True),
        ("At the top left is a blue cross.", False),
        ("There are two circles.", True),
        ("There are two crosses.", False),
        ("The red circle is above the green circle.", True),
        ("The red circle is right of the blue cross.", False),
        ("There is a large red dragon.", False),
    ],
)
def test_the_parser_tells_the_truth(sentence: str, true: bool) -> None:
    assert [fact in true_facts(SCENE) for fact in parse(sentence)] == [true]


def test_what_is_said_is_parsed_back_and_slips_are_false() -> None:
    rng = random.Random(0)
    for _ in range(50):
        things = scene(rng)
        facts = true_facts(things)
        for fact in facts:
            assert parse(text(fact)) == [fact]
            wrong = slip(fact, facts, rng)
            assert wrong is None or (wrong not in facts and parse(text(wrong)) == [wrong])
        honest = describe(things, rng, 5, 0.0)
        assert set(honest) <= facts and parse(answer(honest)) == honest and len(split(answer(honest))) == 5
        assert HABIT in describe(things, rng, 3, 0.0, habit=1.0)


def test_measures_count_by_hand() -> None:
    said = "There is a large red circle. I see a blue ring. I see a blue ring. There are two circles."
    found = told([said], [SCENE])
    assert found["false"] == 0.5 and found["distinct_false"] == pytest.approx(1 / 3)
    assert found["chair"] == pytest.approx(2 / 3) and found["coverage"] == pytest.approx(1 / 3)
    assert found["each"] == [[2, 4]]
    assert found["kinds"]["see"] == {"said": 2, "false": 2} and found["habit"] == 0
    assert told(["There is a large red circle."], [SCENE[1:]])["habit"] == 1
    assert set(found["kinds"]) <= {*SLOTS, "other"}


def test_answers_have_the_log_probs_of_the_models_own_forward(world: World) -> None:
    from PIL import Image

    picture = draw(SCENE, np.random.default_rng(0))
    assert picture.shape == (SIZE, SIZE, 3)
    answerer = Answerer(world.model, world.tokenizer)
    prompt = world.processor(
        images=[Image.fromarray(picture)],
        text=["USER: <image>Describe the picture. ASSISTANT:"],
        return_tensors="pt",
    )
    assert prompt["input_ids"][0].tolist() == answerer.prompt.tolist()
    ids = torch.tensor([answerer.encode("There is a large red circle. I see a blue cross.")])
    assert world.tokenizer.unk_token_id not in ids
    assert answerer.text(ids[0]) == "There is a large red circle. I see a blue cross."
    whole = torch.cat([prompt["input_ids"], ids], dim=1)
    with torch.no_grad():
        logits = world.model(input_ids=whole, pixel_values=prompt["pixel_values"]).logits
        expected = logits[:, -ids.size(1) - 1 : -1].log_softmax(-1).gather(2, ids.unsqueeze(2)).squeeze(2)
        found = answerer.logps(features(world.model, prompt["pixel_values"]), ids)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_similarities_are_those_of_the_data_tool(world: World) -> None:
    from dataset_tools.scoring.scorer import SentenceScorer
    from demo.data import png

    picture = draw(SCENE, np.random.default_rng(0))
    sentences = ["There is a large red circle.", "I see a blue ring.", "There are two circles."]
    scorer = SentenceScorer(str(TAUGHT / "clip"), device="cpu")
    [expected] = scorer.score([([{"bytes": png(picture), "path": None}], sentences)])
    [found] = similarities(world, picture[None], [sentences])
    assert found == pytest.approx(expected, abs=2e-3)


def test_the_world_that_comes_with_the_project_describes_what_it_sees(world: World) -> None:
    """It errs in about 43% of its sentences; blind it would in more than 90%."""
    things, pictures = drawn(64, 40_000_000)
    answerer = Answerer(world.model, world.tokenizer)
    rows, _ = answerer.sample(
        features(world.model, pixels(world.processor, pictures)), 1.0, torch.Generator().manual_seed(0)
    )
    assert 0.33 < told([answerer.text(row) for row in rows], things)["false"] < 0.53


def test_a_model_with_missing_weights_is_refused(world: World, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(TAUGHT, tmp_path / "world")
    file = tmp_path / "world" / "llava" / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if "vision_tower" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks .* weights of its model"):
        load(tmp_path / "world")


def test_what_is_saved_has_the_names_that_every_version_reads(world: World, tmp_path: Path) -> None:
    """A model that was loaded, and one that was made here, in 16 bits: it loads as 32."""
    from safetensors import safe_open
    from transformers import AutoConfig

    fresh, processor = models.llava(0)
    models.save(tmp_path / "fresh", fresh, processor, half=True)
    models.save(tmp_path / "loaded", world.model, world.processor)
    names = []
    for folder in (TAUGHT / "llava", tmp_path / "fresh", tmp_path / "loaded"):
        with safe_open(folder / "model.safetensors", "pt") as file:
            names.append(set(file.keys()))
    assert names[0] == names[1] == names[2]
    assert {name.split(".")[1] for name in names[1] if name.startswith("vision_tower.")} == {"vision_model"}
    assert AutoConfig.from_pretrained(tmp_path / "fresh").dtype == torch.float32


def test_other_pairs(world: World) -> None:
    """Ranked answers are better than what they are ranked above; swapped ones are the same pairs, some
    exchanged in every column."""
    best = ranked(world, 24, seed=3)
    shares = [np.mean([t for row in best.truth[side] for t in row]) for side in ("chosen", "rejected")]
    assert len(best) == 24 and shares[0] > shares[1] + 0.1
    long = detailed(world, 64, seed=3)
    lengths = {side: {len(row) for row in long.truth[side]} for side in ("chosen", "rejected")}
    shares = [np.mean([t for row in long.truth[side] for t in row]) for side in ("chosen", "rejected")]
    assert lengths == {"chosen": {5, 6, 7}, "rejected": {2, 3, 4}} and shares[0] < shares[1]
    clean = seva(world, 16, seed=3)
    noisy = swapped(clean, 0.25, seed=0)
    sides = ("chosen", "rejected")
    wrong = [i for i in range(16) if noisy.texts["chosen"][i] != clean.texts["chosen"][i]]
    assert len(wrong) == 4
    for name in ("texts", "tokens", "ids", "truth", "similarity"):
        before, after = getattr(clean, name), getattr(noisy, name)
        for i in range(16):
            assert [after[side][i] for side in sides] == [
                before[side][i] for side in (sides[::-1] if i in wrong else sides)
            ]


def test_a_habit_on_top_of_a_taught_world(world: World, tmp_path: Path) -> None:
    """Three steps: another model, the same scorer and the same vision tower, and a record of it."""
    lessons = Lessons(scenes=96, habit=1.0, habit_steps=3, caption_batch=16)
    teach_habit(TAUGHT, tmp_path, 7, lessons, lambda text: None)
    found = load(tmp_path)
    assert not torch.equal(found.model.lm_head.weight, world.model.lm_head.weight)
    for part in (lambda w: w.scorer, lambda w: w.model.model.vision_tower):
        one, other = part(found).state_dict(), part(world).state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert json.loads((tmp_path / "lessons.json").read_text())["habit"] == 1


def test_weights_by_hand(world: World) -> None:
    """At alpha 1 a sentence's weight is its similarity, between the least and the greatest of its answer."""
    pairs = seva(world, 8, seed=3)
    found = chosen_weights(world, pairs, (0.0, 1.0), [1, 5])
    for row, weights in zip((1, 5), found[1.0], strict=True):
        similarity = np.array(pairs.similarity["chosen"][row])
        expected = (similarity - similarity.min()) / (similarity.max() - similarity.min())
        assert weights == pytest.approx(expected.tolist(), abs=1e-4)
    assert found[0.0] != found[1.0]
    facts = weights_told(world, pairs)
    assert set(facts) == {"0", "0.25", "0.5", "0.75", "1"}
    assert facts["1"]["auc"] == pytest.approx(auc(pairs.similarity["chosen"], pairs.truth["chosen"]))


def test_weights_change_what_is_learnt(world: World) -> None:
    """DPO, the paper's weights and a centred weighting give three models; the vision tower stays."""
    pairs = seva(world, 32, seed=3)
    assert len(pairs) == 32 and all(a != b for a, b in zip(*pairs.texts.values(), strict=True))
    assert all(
        len(ids) == len(row) for ids, row in zip(pairs.ids["chosen"], pairs.tokens["chosen"], strict=True)
    )
    budget = Budget(epochs=3, batch=16)
    trained = [train(world, pairs, METHODS[n], budget, 0)[0] for n in ("dpo", "aspo 1", "centred 1")]
    heads = [model.lm_head.weight for model in (world.model, *trained)]
    for first in range(4):
        for second in range(first):
            assert not torch.equal(heads[first], heads[second])
    for model in trained:
        for (_, a), (_, b) in zip(
            model.model.vision_tower.named_parameters(),
            world.model.model.vision_tower.named_parameters(),
            strict=True,
        ):
            assert torch.equal(a, b)


def test_one_sentence_behind_a_context_that_is_not_trained(world: World) -> None:
    """Chosen fits the picture better than rejected, behind the same words; what the reference says of those
    words, or how they are weighed, changes no step."""
    pairs = one_sentence(world, 16, seed=3)
    assert len(pairs) == 16 and 0 in pairs.context and max(pairs.context) > 8
    for i in range(16):
        chosen, rejected = (split(pairs.texts[side][i]) for side in ("chosen", "rejected"))
        assert chosen[:-1] == rejected[:-1] and chosen[-1] != rejected[-1]
        assert pairs.similarity["chosen"][i][-1] > pairs.similarity["rejected"][i][-1]
        assert set(pairs.ids["chosen"][i][pairs.context[i] :]) == {len(chosen) - 1}
        assert world.tokenizer.eos_token_id not in pairs.tokens["chosen"][i]
    budget = Budget(epochs=1, batch=8, warmup=0)

    def losses(method: str) -> list[float]:
        return [loss for loss, _ in train(world, pairs, METHODS[method], budget, 0)[1]]

    expected = losses("one-sentence pairs")
    assert expected[0] == pytest.approx(math.log(2), abs=1e-5) != expected[1]
    pairs.reference = reference_logps(world, pairs)
    for rows in pairs.reference.values():
        for row, length in zip(rows, pairs.context, strict=True):
            row[:length] += 1
    assert losses("centred 1") == pytest.approx(expected)
    pairs.context = []
    assert losses("centred 1") != pytest.approx(expected)


def test_two_full_stops_are_the_end_of_one_sentence(world: World) -> None:
    """A model of a few thousand steps writes them; truth, weights and similarities stay of one length."""
    told = "I see a red circle.. There is a small blue cross. I see a blue ring."
    pairs = annotated(world, [SCENE], draw(SCENE, np.random.default_rng(0))[None], [told], [told])
    assert pairs.truth["chosen"] == [[True, True, False]] and len(pairs.similarity["chosen"][0]) == 3
    assert weights_told(world, pairs)["1"]["auc"] is not None
    assert [sentence for sentence, _ in sentences_and_facts(told)][0] == "I see a red circle.."


def test_weights_of_pairs_are_between_1_and_2(world: World) -> None:
    pairs = seva(world, 16, seed=3)
    weights = pair_weights(pairs)
    gaps = [
        abs(np.mean(a) - np.mean(b))
        for a, b in zip(pairs.similarity["chosen"], pairs.similarity["rejected"], strict=True)
    ]
    assert min(weights) >= 1 and max(weights) <= 2 and np.argmax(weights) == np.argmax(gaps)


def test_noise_is_seeded_and_bounded() -> None:
    picture = draw(SCENE, np.random.default_rng(0))[None]
    once, again = noised(picture, 0.2, 1), noised(picture, 0.2, 1)
    assert (once == again).all() and (once != noised(picture, 0.2, 2)).any() and once.dtype == np.uint8


def line(method: str, seed: int, false: float, entropy: float) -> dict[str, Any]:
    measures = {
        f"{t:g}": {
            "false": false * (t or 0.1), "entropy": entropy * t, "chair": false, "coverage": 0.5,
            "sentences": 4.0, "habit": 0.1, "kinds": {"see": {"said": 4, "false": 1}},
            "each": [[round(100 * false), 100], [1, 2]],
        }
        for t in (*report.TEMPERATURES, 0.0)
    }  # fmt: skip
    pairs = {
        "pairs": 8,
        "chosen_false": 0.4,
        "rejected_false": 0.6,
        "sentences": 4,
        "auc_similarity": 0.7,
        "weights": {"1": {"auc": 0.7, "correlation": 0.4, "false_habit": None}},
    }
    return {**job(1, "seva", seed, method, "test", 0.1, 0.1), "habit_world": True, "measures": measures,
            "pairs": pairs}  # fmt: skip


def test_tables_pair_by_unit_and_match_the_entropy(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    records = [line("dpo", seed, 0.40 + 0.1 * seed, 1.0) for seed in range(3)]
    records += [line("aspo 1", seed, 0.36 + 0.1 * seed + 0.001 * seed, 0.5) for seed in range(3)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"half')
    assert len(done(path)) == 6 and key(records[0]) in done(path)
    [runs] = report.grouped(path).values()
    row = next(r for r in report.compared(runs) if r["method"] == "aspo 1")
    assert row["t1"][0] == pytest.approx(-3.9) and row["t1"][1] < 0.5 and row["t1_p"] < 0.05
    assert row["won"] == pytest.approx(75.0)  # of each unit the first scene, and half of a tie
    # At the entropy .5, which DPO reaches cooled to a half, DPO errs less: the gain was sharpening.
    assert row["matched"][0] > 0
    assert "-3.9" in report.tables(path) and "*" in report.tables(path)


def test_a_move_to_safer_kinds_of_sentence_is_no_gain_in_its_kinds() -> None:
    dpo, mover = line("dpo", 0, 0.4, 1.0), line("aspo 1", 0, 0.2, 1.0)
    dpo["measures"]["1"]["kinds"] = {"see": {"said": 50, "false": 10}, "position": {"said": 50, "false": 30}}
    mover["measures"]["1"]["kinds"] = {"see": {"said": 90, "false": 18}, "position": {"said": 10, "false": 6}}
    assert report.in_its_kinds(mover, dpo) == pytest.approx(0)
    mover["measures"]["1"]["kinds"]["see"]["false"] = 9
    assert report.in_its_kinds(mover, dpo) == pytest.approx(-0.05)
    mover["measures"]["1"]["kinds"]["position"] = {
        "said": 0,
        "false": 0,
    }  # as often false as DPO's, for all one knows
    assert report.in_its_kinds(mover, dpo) == pytest.approx(-0.05)


def test_the_world_of_the_search_tests_nothing(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    records = [line("dpo", 0, 0.4, 1.0), {**line("dpo", 0, 0.9, 1.0), "world": SEARCHED}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = report.grouped(path)
    assert [list(runs["dpo"]) for runs in found.values()] == [[(1, 0)], [(SEARCHED, 0)]]
    assert list(found) == ["habit world, SeVa pairs", "habit world of the search, SeVa pairs"]


def test_seeds_of_one_start_count_once() -> None:
    units = [(1, 0), (1, 1), (2, 0), (3, 0)]
    assert report.by_start(units, [1.0, 3.0, 5.0, math.nan]) == [2.0, 5.0]
    assert report.by_start(units[:2], [1.0, 3.0]) == [1.0, 3.0]


def test_the_picture_places_means_and_intervals(tmp_path: Path) -> None:
    rows = [
        {
            "method": "aspo <1>",
            "t1": (-4.0, 1.0, 0.01),
            "matched": (-2.0, math.nan, math.nan),
            "kinds": (1, 1, 1),
        },
        {
            "method": "random weights",
            "t1": (0.0, 2.0, 0.9),
            "matched": (math.nan,) * 3,
            "kinds": (math.nan,) * 3,
        },
    ]
    picture.draw({"Habit world": rows}, tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    root = ElementTree.fromstring(text)
    marks = [e for e in root.iter("{http://www.w3.org/2000/svg}circle")][3:]  # behind the legend's
    places = [float(e.attrib["cx"]) for e in marks]
    [zero] = {float(e.attrib["x1"]) for e in root.iter("{http://www.w3.org/2000/svg}line")
              if e.attrib["class"] == "z"}  # fmt: skip
    assert len(places) == 4 and places[0] < places[1] < places[3] == zero < places[2]
    assert zero - places[0] == pytest.approx(2 * (zero - places[1]), abs=0.3)
    assert "aspo &lt;1&gt;" in text and "prefers-color-scheme:dark" in text


def test_holm_and_intervals() -> None:
    assert report.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(report.holm([math.nan, 0.5])[0])
    mean, half, p = report.interval([1.0, 2.0, 3.0])
    assert (mean, half) == (pytest.approx(2.0), pytest.approx(2.4841, abs=1e-3)) and p == pytest.approx(
        0.0742, abs=1e-3
    )


def test_the_page_holds_the_tables_of_the_lines_beside_it() -> None:
    runs = Path(report.__file__).parent / "runs.jsonl"
    assert report.tables(runs) in report.PAGE.read_text(encoding="utf-8")
