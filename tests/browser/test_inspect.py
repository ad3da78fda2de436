"""The page of `aspo inspect` in a real Chromium: two states side by side, tints, numbers, a phone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aspo_plugin.config import AspoSettings
from aspo_plugin.inspection.page import measured_page, samples_page
from aspo_plugin.inspection.run import Run
from dataset_tools.inspect.preview import page_of, page_row
from tests.support import data
from tests.support.artifacts import ARTIFACTS

from .test_preview import HOSTILE, choose, find, names

pytestmark = pytest.mark.browser
# Weights of a row's sentences before and after: of the second row they change most.
WEIGHTS = [([0.1, 0.5, 0.9], [0.1, 0.4, 1.0]), ([0.0, 1.0, 0.5], [1.0, 0.0, 0.5])]


def sentence(k: int, weight: float) -> dict[str, float]:
    return {
        "sentence": k, "tokens": 7, "similarity": 0.25, "perplexity": 3.5, "weight": weight,
        "log_ratio": -0.5, "margin": 1.25,
    }  # fmt: skip


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Any:
    made = data.rows(4, sentences=3, size=(300, 200))
    made[3]["chosen"][0]["content"] = HOSTILE
    shown = [page_row(number, {**row, "problems": []}, 480) for number, row in enumerate(made)]
    shown[3]["problems"] = ["cannot be trained: too long"]
    states = {
        number: {
            state: [sentence(k, weight) for k, weight in enumerate(weights)]
            for state, weights in zip(("before", "after"), pair, strict=True)
        }
        for number, pair in enumerate([*WEIGHTS, WEIGHTS[0]])
    }
    run = Run("saves/run", "model", "saves/run", True, AspoSettings(alpha=0.3))
    path = tmp_path / "inspect.html"
    path.write_text(page_of(measured_page(run, shown, states, "4 of 4 rows.")))
    browser.get(path.as_uri())
    return browser


def test_both_states_stand_side_by_side_tinted_by_weight(page):
    assert names(page)[0] == "drawn-0-1", "the row whose weights changed most is first"
    first = find(page, "article")[0]
    before, after = first.find_elements("css selector", "section")
    assert before.find_element("css selector", "h2").text == "before training, 3 sentences"
    assert after.find_element("css selector", "h2").text == "after training, 3 sentences margin +1.250"
    assert before.location["y"] == after.location["y"] and before.location["x"] < after.location["x"]

    def tints(section: Any) -> list[str]:
        spans = section.find_elements("css selector", ".sentence")
        return [span.value_of_css_property("background-color") for span in spans]

    low, high, middle = tints(before)
    assert low.startswith("rgba(226, 135, 16") and high.startswith("rgba(0, 128, 128")
    assert middle == "rgba(0, 128, 128, 0)" and tints(after) == [high, low, middle]
    cells = [cell.text for cell in first.find_elements("css selector", "tbody tr:first-child td")]
    assert cells == ["1", "7", "0.2500", "3.50", "3.50", "0.000", "1.000", "−0.500"]
    tip = before.find_element("css selector", ".sentence").get_attribute("data-tip").splitlines()
    assert tip[1:] == [
        "weight 0.0000",
        "similarity 0.2500, perplexity 3.50",
        "log-ratio −0.500 over 7 tokens",
    ]
    assert "high weight" in page.find_element("css selector", ".controls").text
    choose(page, "sort", "as in the dataset")
    assert names(page) == [f"drawn-0-{number}" for number in range(4)]
    refused = find(page, "article")[3]
    assert "cannot be trained: too long" in refused.text and HOSTILE in refused.text
    assert page.title == "run: weights of sentences"
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    page.save_screenshot(str(ARTIFACTS / "inspect.png"))


@pytest.mark.parametrize(("scheme", "width", "height"), [("dark", 1400, 1000), ("light", 390, 844)])
def test_dark_and_on_a_phone(page, look, scheme, width, height):
    look(scheme, width, height)
    page.refresh()
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    before, after = find(page, "article")[0].find_elements("css selector", "section")
    assert (before.location["y"] < after.location["y"]) == (width < 600)
    assert find(page, "details.numbers")[0].get_attribute("open") == (None if width < 600 else "true")
    page.save_screenshot(str(ARTIFACTS / f"inspect-{scheme}-{width}.png"))


def test_samples_are_no_rows(browser, tmp_path):
    one = {"sentence": 0, "text": "A cat.", "tokens": 3, "prompt": "What?", "similarity": 0.25}
    one |= {"perplexity": 4.5, "weight": 0.75, "log_ratio": -0.5}
    lines = [json.dumps({"step": 7, "pair": pair, **one}) for pair in (0, 1)]
    (tmp_path / "aspo_samples.jsonl").write_text("\n".join(lines))
    path = tmp_path / "samples.html"
    path.write_text(page_of(samples_page(tmp_path / "aspo_samples.jsonl", 2)))
    browser.get(path.as_uri())
    tops = [top.text for top in find(browser, "article .top")]
    assert tops == ["step 7, pair 2", "step 7, pair 1"]
