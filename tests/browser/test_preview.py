"""The preview page in a real Chromium: what it shows, paging, filter, tints, hover, hostile texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataset_tools.inspect.preview import write_preview
from tests.support import converted, data
from tests.support.artifacts import ARTIFACTS

pytestmark = pytest.mark.browser
pytest.importorskip("selenium.webdriver")
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"> <b>bold</b> & <!-- 😀 emoji."


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
    choose(browser, "sort", "as in the dataset")
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
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
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
    from selenium.webdriver.support.ui import WebDriverWait

    def tint(row: int) -> list[str]:
        spans = find(page, "article")[row].find_elements("css selector", ".chosen .sentence")
        return [span.value_of_css_property("background-color") for span in spans]

    values = rows[3]["chosen_similarity"]
    colours = tint(3)
    low, high = colours[values.index(min(values))], colours[values.index(max(values))]
    assert low.startswith("rgba(226, 135, 16") and high.startswith("rgba(0, 128, 128")
    choose(page, "scale", "over all rows")
    assert tint(3) != colours
    choose(page, "scale", "off")
    assert set(tint(3)) == {"rgba(0, 0, 0, 0)"}
    choose(page, "scale", "within each")
    sentence = find(page, "article")[3].find_elements("css selector", ".chosen .sentence")[0]

    def pointed_at(page: Any) -> str:
        """Anew each time: the page scrolls to a sentence once, which takes the note away."""
        ActionChains(page).move_to_element(page.find_element("id", "page")).move_to_element(
            sentence
        ).perform()
        return page.find_element("id", "tip").text

    tip = WebDriverWait(page, 10).until(pointed_at)
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


def names(page: Any) -> list[str]:
    return [element.text for element in find(page, ".id")]


def test_problem_rows_come_last(page, rows):
    choose(page, "sort", "problems last")
    assert names(page)[0] == rows[1]["id"] and rows[0]["id"] not in names(page)
    assert find(page, ".chosen .sentence")[0].value_of_css_property("background-color") != "rgba(0, 0, 0, 0)"
    page.find_element("id", "next").click()
    page.find_element("id", "next").click()
    assert names(page)[-3:] == [rows[number]["id"] for number in (0, 2, 20)]


def test_two_sentences_are_tinted_by_their_spread(browser, tmp_path):
    made = data.rows(12, sentences=2)
    for number, row in enumerate(made):
        row["chosen_similarity"] = [0.2, 0.2 + 0.01 * (number + 1)]
    write_preview(converted.write(tmp_path / "set", [made]), tmp_path / "p.html")
    browser.get((tmp_path / "p.html").as_uri())
    articles = find(browser, "article")

    def opacity(number: int) -> float:
        sentence = articles[number].find_elements("css selector", ".chosen .sentence")[1]
        return float(sentence.value_of_css_property("background-color").rstrip(")").split(",")[3])

    assert 0 < opacity(0) < opacity(4) < opacity(9) and opacity(9) > 0.5


def test_search_sort_filter_and_jump(page, rows):
    def lowest(row: dict[str, Any]) -> float:
        return min((value for value in row["chosen_similarity"] if value is not None), default=9.0)

    choose(page, "sort", "lowest similarity")
    ordered = sorted(rows, key=lowest)
    assert names(page) == [row["id"] for row in ordered[:10]]
    page.find_element("id", "below").send_keys(f"{lowest(ordered[2]):.4f}")
    assert names(page) == [row["id"] for row in ordered[:3]]
    page.find_element("id", "below").clear()
    page.find_element("id", "search").send_keys("SECOND sentence")
    assert names(page) == [rows[1]["id"]]
    page.find_element("id", "search").clear()
    choose(page, "sort", "as in the dataset")
    jump = page.find_element("id", "jump")
    jump.send_keys(rows[17]["id"], "\n")
    assert page.find_element("css selector", "article.found .id").text == rows[17]["id"]
    assert page.find_element("id", "page").text == "page 2 of 3"
    jump.clear()
    jump.send_keys("23\n")
    assert page.find_element("css selector", "article.found .id").text == rows[23]["id"]
    choose(page, "size", "25")
    assert len(names(page)) == 24


def test_the_gap_is_shown_and_an_unscored_rejected_response_is_not_hatched(browser, tmp_path):
    made = data.rows(4, sentences=3)
    made[1]["rejected_similarity"] = None
    write_preview(converted.write(tmp_path / "set", [made]), tmp_path / "p.html")
    browser.get((tmp_path / "p.html").as_uri())
    scored, plain = find(browser, "article")[:2]
    chosen, rejected = (sum(made[0][f"{name}_similarity"]) / 3 for name in ("chosen", "rejected"))
    title = scored.find_element("css selector", ".rejected h2").text
    assert f"similarity {rejected:.3f}, chosen +{chosen - rejected:.3f}" in title
    assert "not scored" in plain.find_element("css selector", ".rejected h2").text
    assert not find(browser, ".sentence.none") and not browser.find_element("id", "hatched").is_displayed()


def test_a_context_is_told_from_the_sentences(browser, tmp_path):
    [row] = data.with_context(data.rows(1, sentences=2))
    write_preview(converted.write(tmp_path / "begun", [[row]]), tmp_path / "begun.html")
    browser.get((tmp_path / "begun.html").as_uri())
    contexts = browser.find_elements("css selector", "article .context")
    assert [element.text for element in contexts] == [data.CONTEXTS[0].strip()] * 2
    assert all("not trained" in element.get_attribute("title") for element in contexts)
    shown = [element.text for element in browser.find_elements("css selector", "article .text")]
    assert shown == [row[side][0]["content"] for side in ("chosen", "rejected")]


def test_right_to_left_texts_keep_their_marks(browser, tmp_path):
    made = data.rows(1, sentences=1)
    text = "הוא יושב כאן. לידו ספר!"
    made[0]["chosen"][0]["content"] = text
    made[0]["chosen_sentences"] = [{"start": 0, "end": 13}, {"start": 14, "end": len(text)}]
    made[0]["chosen_similarity"] = [0.2, 0.3]
    write_preview(converted.write(tmp_path / "set", [made]), tmp_path / "p.html")
    browser.get((tmp_path / "p.html").as_uri())
    left, right = (
        browser.execute_script("return arguments[0].getBoundingClientRect().left", sentence)
        for sentence in find(browser, ".chosen .sentence")
    )
    assert left > right, "the first sentence stands at the right"
    direction = "return getComputedStyle(document.querySelector('.chosen .text')).direction"
    assert browser.execute_script(direction) == "rtl"


def test_pictures_have_numbers_and_open_large(browser, tmp_path):
    made = data.rows(1, images_per_prompt=3)
    write_preview(converted.write(tmp_path / "set", [made]), tmp_path / "p.html")
    browser.get((tmp_path / "p.html").as_uri())
    assert [element.text for element in find(browser, ".images .number")] == ["1", "2", "3"]
    widths = [image.size["width"] for image in find(browser, ".images img")]
    assert max(widths) <= 72, "small pictures are not blown up"
    find(browser, ".images button")[1].click()
    assert browser.find_element("id", "zoom").is_displayed()
    assert "image 2 of 3" in browser.find_element("id", "caption").text
    browser.find_element("id", "large").click()
    assert not browser.find_element("id", "zoom").is_displayed()


@pytest.mark.parametrize(("scheme", "width", "height"), [("dark", 1400, 1000), ("light", 390, 844)])
def test_dark_and_on_a_phone(page, look, scheme, width, height):
    def brightness(css: str, of: str) -> int:
        colour = find(page, css)[0].value_of_css_property(of)
        return sum(int(part) for part in colour[colour.index("(") + 1 :].rstrip(")").split(",")[:3])

    look(scheme, width, height)
    page.refresh()
    assert (brightness("article", "background-color") < brightness("article", "color")) == (scheme == "dark")
    page.save_screenshot(str(ARTIFACTS / f"preview-{scheme}-{width}.png"))
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert page.execute_script("return document.querySelector('header').offsetHeight") < 150


def test_five_hundred_rows(browser, tmp_path):
    made = data.rows(500, sentences=2, size=(300, 200))
    write_preview(converted.write(tmp_path / "set", [made]), tmp_path / "p.html", rows=500)
    browser.get((tmp_path / "p.html").as_uri())
    assert browser.find_element("id", "page").text == "page 1 of 50"
    browser.find_element("id", "jump").send_keys("499\n")
    assert browser.find_element("css selector", "article.found .id").text == made[499]["id"]
