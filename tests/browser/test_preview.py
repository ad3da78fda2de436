"""The preview page in a real Chromium: what it shows, paging, filter, tints, hover, hostile texts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataset_tools.inspect.preview import write_preview
from tests.support import converted, data

pytestmark = pytest.mark.browser
webdriver = pytest.importorskip("selenium.webdriver")
ARTIFACTS = Path(__file__).parents[2] / ".artifacts"
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"> <b>bold</b> & <!-- 😀 emoji."


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.fail("no Chromium: apt-get install chromium chromium-driver")
    options = Options()
    options.binary_location = chromium
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
        *("disable-background-networking", "disable-component-update", "window-size=1400,1000"),
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    started.implicitly_wait(5)
    yield started
    started.quit()


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    made = data.rows(24, sentences=(3, 5))
    made[0]["chosen_similarity"][1] = None
    made[2]["images"] = [{"bytes": b"broken", "path": None}]
    text = f"{HOSTILE} Second sentence."
    made[1]["chosen"] = [{"role": "assistant", "content": text}]
    made[1]["chosen_sentences"] = [
        {"start": 0, "end": len(HOSTILE)},
        {"start": len(HOSTILE) + 1, "end": len(text)},
    ]
    made[1]["chosen_similarity"] = [0.1, 0.3]
    made[1]["prompt"] = [{"role": "user", "content": HOSTILE}]
    made[1]["id"] = "<i>id</i>"
    one = made[20]
    one["chosen_sentences"] = [{"start": 0, "end": len(one["chosen"][0]["content"])}]
    one["chosen_similarity"] = [0.25]
    return made


@pytest.fixture
def page(browser: Any, rows: list[dict[str, Any]], tmp_path: Path) -> Any:
    path = tmp_path / "preview.html"
    write_preview(converted.write(tmp_path / "set", [rows[:10], rows[10:]]), path)
    browser.get(path.as_uri())
    return browser


def find(page: Any, css: str) -> list[Any]:
    return page.find_elements("css selector", css)


def choose(page: Any, control: str, text: str) -> None:
    from selenium.webdriver.support.ui import Select

    options = Select(page.find_element("id", control))
    options.select_by_visible_text(next(o.text for o in options.options if text in o.text))


def test_rows_images_and_sentences_are_shown(page, rows):
    assert len(find(page, "article")) == 10 and page.find_element("id", "page").text == "page 1 of 3"
    first = find(page, "article")[0]
    assert first.find_element("css selector", ".id").text == rows[0]["id"]
    shown = [span.text for span in first.find_elements("css selector", ".chosen .sentence")]
    text = rows[0]["chosen"][0]["content"]
    assert shown == [text[span["start"] : span["end"]] for span in rows[0]["chosen_sentences"]]
    image = first.find_element("css selector", "img")
    assert page.execute_script("return arguments[0].naturalWidth", image) == 72
    assert "none" in find(page, ".chosen .sentence")[1].get_attribute("class")
    assert len(find(page, ".broken")) == 1
    ARTIFACTS.mkdir(exist_ok=True)
    page.save_screenshot(str(ARTIFACTS / "preview.png"))
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_hostile_texts_are_text(page):
    article = find(page, "article")[1]
    assert page.title != "owned" and not article.find_elements("css selector", "b, i, script")
    sentences = article.find_elements("css selector", ".chosen .sentence")
    assert [sentence.text for sentence in sentences] == [HOSTILE, "Second sentence."]
    assert article.find_element("css selector", ".prompt").text.endswith(HOSTILE)
    assert article.find_element("css selector", ".id").text == "<i>id</i>"


def test_tint_follows_the_similarity_and_hover_shows_the_number(page, rows):
    from selenium.webdriver.common.action_chains import ActionChains

    def tint(row: int) -> list[str]:
        spans = find(page, "article")[row].find_elements("css selector", ".chosen .sentence")
        return [span.value_of_css_property("background-color") for span in spans]

    values = rows[3]["chosen_similarity"]
    colours = tint(3)
    assert colours[values.index(min(values))].startswith("rgba(226, 135, 16, 0.6")
    assert colours[values.index(max(values))].startswith("rgba(0, 128, 128, 0.6")
    choose(page, "scale", "over all rows")
    assert tint(3) != colours
    sentence = find(page, "article")[3].find_elements("css selector", ".chosen .sentence")[0]
    ActionChains(page).move_to_element(sentence).perform()
    tip = page.execute_script("return getComputedStyle(arguments[0], '::after').content", sentence)
    assert f"similarity {values[0]:.4f}" in tip and "sentence 1 of" in tip


def test_paging(page, rows):
    page.find_element("id", "next").click()
    page.find_element("id", "next").click()
    assert page.find_element("id", "page").text == "page 3 of 3"
    assert [e.text for e in find(page, ".id")] == [row["id"] for row in rows[20:]]
    assert not page.find_element("id", "next").is_enabled()
    page.find_element("id", "previous").click()
    assert find(page, ".id")[0].text == rows[10]["id"]


def test_filter_by_problem(page, rows):
    choose(page, "filter", "one sentence only")
    assert [e.text for e in find(page, ".id")] == [rows[20]["id"]]
    assert "trains as plain DPO (1)" in page.find_element("id", "filter").text
    choose(page, "filter", "cannot be decoded")
    assert [e.text for e in find(page, ".id")] == [rows[2]["id"]]
    choose(page, "filter", "some sentences have no similarity")
    assert [e.text for e in find(page, ".id")] == [rows[0]["id"]]
