"""LLaMA Board in a real browser: ASPO is a stage, its command is previewed, and Start trains with it.

Needs Chromium (Debian: `apt-get install chromium chromium-driver`). Leaves `.artifacts/board*.png`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import backbones, data
from tests.support.artifacts import ARTIFACTS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

SECTION = "//button[contains(., 'RLHF configurations')]/ancestor::*[contains(@class,'block')][1]"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,3000"
)


def wait(what: str, ready: Callable[[], Any], seconds: float = 240) -> Any:
    """The first truthy value of `ready`; fails naming `what`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.3)
    pytest.fail(f"waited {seconds} s for {what}")


@pytest.fixture
def board(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A running `llamafactory-cli webui` with its address and working folder."""
    data.write_converted(tmp_path / "data" / "drawn", data.rows(8, 1))
    info = {"drawn": {"file_name": "drawn/data/train-00000.parquet", "formatting": "aspo", "ranking": True}}
    info["plain"] = {"file_name": "plain.json"}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "BROWSER": "true",  # the host would open one
    }
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [str(scripts / "llamafactory-cli"), "webui"],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait("the server", lambda: "Running on local URL" in (tmp_path / "server.log").read_text())
            yield f"http://127.0.0.1:{port}/", tmp_path
        finally:
            server.terminate()
            server.wait(30)


class Page:
    """The controls of LLaMA Board by the labels a user sees."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def act(self, xpath: str, action: Callable[[Any], Any] = lambda element: True) -> Any:
        """Do something with an element once it is there; again where Gradio replaced it meanwhile."""
        from selenium.common.exceptions import ElementClickInterceptedException as Covered
        from selenium.common.exceptions import StaleElementReferenceException as Replaced

        def attempt() -> bool:
            try:
                element = next(iter(self.driver.find_elements("xpath", xpath)), None)
                if element is None:
                    return False
                self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
                action(element)
                return True
            except (Covered, Replaced):
                return False

        return wait(xpath, attempt)

    def field(self, label: str, kind: str) -> str:
        title = f"//span[@data-testid='block-info' and normalize-space()='{label}']"
        return f"{title}/ancestor::*[contains(@class,'block')][1]//{kind}"

    def options(self, label: str) -> list[str]:
        self.act(self.field(label, "input"), lambda field: field.click())
        items = self.field(label, "li[@role='option']")

        def found() -> list[str]:
            return [item.get_attribute("aria-label") for item in self.driver.find_elements("xpath", items)]

        return wait(f"options of {label}", found)

    def choose(self, label: str, option: str) -> None:
        self.options(label)
        self.act(
            self.field(label, f"li[@role='option' and @aria-label='{option}']"), lambda item: item.click()
        )

    def write(self, label: str, text: str, kind: str = "textarea") -> None:
        from selenium.webdriver.common.keys import Keys

        def fill(area: Any) -> None:
            area.click()
            area.send_keys(Keys.CONTROL + "a")
            area.send_keys(text + Keys.TAB)

        self.act(self.field(label, kind), fill)

    def press(self, name: str) -> None:
        self.act(f"//button[normalize-space()='{name}']", lambda button: button.click())

    def text(self) -> str:
        return self.driver.find_element("tag name", "body").text


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.fail("chromium and chromedriver are missing: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path / 'browser'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    try:
        yield Page(driver)
    finally:
        driver.quit()


def test_board_trains_aspo(board: tuple[str, Path], page: Page, tmp_path: Path) -> None:
    address, folder = board
    model = backbones.build("llava", tmp_path / "llava")
    page.driver.get(address)
    page.act("//button[contains(normalize-space(), 'Preview command')]")
    time.sleep(2)  # Gradio binds its events after the first paint, with nothing to wait for

    page.choose("Model name", "Custom")
    page.write("Model path", str(model))
    page.choose("Chat template", "llava")
    stages = page.options("Stage")
    assert stages.index("ASPO") == stages.index("DPO") + 1
    assert "Loss type" not in page.text(), "the section is folded at first"
    page.choose("Stage", "ASPO")
    wait("the fields of ASPO", lambda: "Alpha of ASPO" in page.text(), 60)
    assert page.options("Loss type") == ["sigmoid"], "a loss that the run would refuse is not offered"
    page.choose("Stage", "DPO")
    wait("the fields to go", lambda: "Alpha of ASPO" not in page.text(), 60)
    losses = page.options("Loss type")
    assert "sigmoid" in losses and "ipo" in losses
    page.choose("Loss type", "ipo")
    page.choose("Stage", "ASPO")
    wait("the fields of ASPO", lambda: "Similarity model" in page.text(), 60)
    assert page.options("Normalization of ASPO") == ["weight", "reward", "none"]
    page.choose("Normalization of ASPO", "reward")
    page.write("Alpha of ASPO", "0.7", "input[@type='number']")
    page.choose("Compute type", "fp32")
    page.write("Data dir", str(folder / "data"))
    assert page.options("Dataset") == ["drawn"]  # only sets of pairs
    page.choose("Dataset", "drawn")
    page.act("//button[contains(., 'Extra configurations')]", lambda button: button.click())
    settings = {"optim": "adamw_torch", "max_steps": 2, "logging_steps": 1}
    page.write("Extra arguments", json.dumps(settings))

    page.press("Preview command")
    wait("the preview", lambda: "--stage aspo" in page.text(), 60)
    parts = ("--aspo_alpha 0.7", "--aspo_normalization reward", "--pref_beta 0.1", "--pref_loss sigmoid")
    for part in (*parts, "--dataset drawn"):
        assert part in page.text()
    assert "aspo_similarity_model" not in page.text()
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.driver.save_screenshot(str(ARTIFACTS / "board.png"))
    section = page.driver.find_element("xpath", SECTION)
    still = (
        "document.head.append(Object.assign(document.createElement('style'), {textContent: arguments[0]}))"
    )
    page.driver.execute_script(still, "* {transition: none !important}")
    for scheme in ("dark", "light"):
        page.driver.execute_script("document.body.classList.toggle('dark', arguments[0])", scheme == "dark")
        section.screenshot(str(ARTIFACTS / f"board-{scheme}.png"))

    page.press("Start")
    saved = folder / "saves" / "Custom" / "lora"
    wait("the end of training", lambda: list(saved.glob("*/trainer_state.json")) or failed(page), 400)
    [state] = saved.glob("*/trainer_state.json")
    arguments = json.loads((state.parent / "aspo_args.json").read_text())["finetuning_args"]
    assert arguments["stage"] == "aspo" and arguments["aspo_alpha"] == 0.7
    assert arguments["aspo_normalization"] == "reward"
    assert "aspo/weight_mean" in json.loads(state.read_text())["log_history"][0]
    wait("the board to say so", lambda: "Finished" in page.text(), 60)


def failed(page: Page) -> None:
    if "Exit code" in page.text():
        pytest.fail(page.text()[-3000:])
