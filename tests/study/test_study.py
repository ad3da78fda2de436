"""The small world tells the truth, its shortcuts give the models' own numbers, and the tables are right."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from study import report
from study.answers import Answerer
from study.measure import told
from study.pairs import World, load, noised, seva, similarities
from study.run import done, job, key
from study.scenes import SIZE, Scene, Thing, draw, scene
from study.sentences import HABIT, SLOTS, answer, describe, parse, slip, split, text, true_facts
from study.train import METHODS, Budget, train

TAUGHT = Path(__file__).resolve().parents[2] / "study" / "taught"
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
        text=["USER: <image>\nDescribe the picture. ASSISTANT:"],
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
        from study.answers import features

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


def test_weights_change_what_is_learnt(world: World) -> None:
    """DPO, the paper's weights and a centred weighting give three models; the vision tower stays."""
    pairs = seva(world, 32, seed=3)
    assert len(pairs) == 32 and all(a != b for a, b in zip(*pairs.texts.values(), strict=True))
    assert all(
        len(ids) == len(row) for ids, row in zip(pairs.ids["chosen"], pairs.tokens["chosen"], strict=True)
    )
    budget = Budget(epochs=3, batch=16)
    models = [train(world, pairs, METHODS[n], budget, 0)[0] for n in ("dpo", "aspo 1", "centred 1")]
    heads = [model.lm_head.weight for model in (world.model, *models)]
    for first in range(4):
        for second in range(first):
            assert not torch.equal(heads[first], heads[second])
    for model in models:
        for (_, a), (_, b) in zip(
            model.model.vision_tower.named_parameters(),
            world.model.model.vision_tower.named_parameters(),
            strict=True,
        ):
            assert torch.equal(a, b)


def test_noise_is_seeded_and_bounded() -> None:
    picture = draw(SCENE, np.random.default_rng(0))[None]
    once, again = noised(picture, 0.2, 1), noised(picture, 0.2, 1)
    assert (once == again).all() and (once != noised(picture, 0.2, 2)).any() and once.dtype == np.uint8


def line(method: str, seed: int, false: float, entropy: float) -> dict[str, Any]:
    measures = {
        f"{t:g}": {
            "false": false * (t or 0.1), "entropy": entropy * t, "chair": false, "coverage": 0.5,
            "sentences": 4.0, "habit": 0.1, "kinds": {"see": {"said": 4, "false": 1}},
        }
        for t in (*report.TEMPERATURES, 0.0)
    }  # fmt: skip
    pairs = {"pairs": 8, "chosen_false": 0.4, "rejected_false": 0.6, "sentences": 4, "auc_similarity": 0.7}
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
    # At the entropy .5, which DPO reaches cooled to a half, DPO errs less: the gain was sharpening.
    assert row["matched"][0] > 0
    assert "-3.9" in report.tables(path) and "*" in report.tables(path)


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
