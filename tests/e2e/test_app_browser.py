"""The app in a real browser: streaming, chip, guard, Stop, keyboard, and not one request that leaves the machine."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
CHROMIUM = which("chromium") or which("chromium-browser") or which("google-chrome")
PICTURE = os.environ.get("TWOFOLD_E2E_PICTURE")  # a path such as docs/app.png; empty takes no picture
WAIT = 120_000  # milliseconds for an answer on a busy machine
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium found: apt-get install chromium"),
]

SERVER = """
import dataclasses, pathlib, sys, time
sys.addaudithook(lambda event, args: event == "socket.connect" and isinstance(args[1], tuple)
    and args[1][0] not in ("127.0.0.1", "::1", "localhost") and print("FOREIGN", args[1], flush=True))
from twofold import app
from twofold.engines.later import Later
from twofold.engines.scripted import Scripted

CODE = "```python\\nmeans = df.groupby('region')['sales'].mean()\\nmeans.plot.bar()\\n```"
THEORY = "Cross-validation holds out each part of the data once and averages the scores. " * 3

def script(messages, adapter, sampling):
    if "slowly" in messages[-1]["content"]:
        for number in range(2000):
            time.sleep(0.02)
            yield f"word{number} "
    else:
        for piece in {"code": CODE, "theory": THEORY}.get(adapter, "Simmer the tomatoes, then blend them.").split(" "):
            time.sleep(0.01)
            yield piece + " "

def open_when_told(model):
    while not gate.exists():
        time.sleep(0.1)
    return Scripted(script)

class Brief(Later):  # explains in a few words: this is about the page
    def generate(self, messages, adapter, sampling):
        brief = sampling if adapter == "code" or picture else dataclasses.replace(sampling, max_new_tokens=60)
        return super().generate(messages, adapter, brief)

model, port, gate, picture = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
engine = Later(model, open_when_told) if model == "scripted" else Brief(model)
page = app.build(engine)
engine.start()
app.launch(page, "127.0.0.1", port)
"""


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the scripted engine waits for before it is "loaded"."""
    return tmp_path_factory.mktemp("app") / "gate"


@pytest.fixture(scope="module")
def server(gate: Path) -> Iterator[str]:
    with serving_page("scripted", gate) as url:
        yield url


@contextmanager
def serving_page(model: str, gate: Path) -> Iterator[str]:
    """The app in a process of its own; at its end no call has left the machine."""
    log = gate.with_name("log")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as out:
        command = [sys.executable, "-c", SERVER, model, str(port), str(gate), PICTURE or ""]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(url, timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.2)
            yield url
        finally:
            process.terminate()  # not SIGINT: a shell's background jobs, and what they start, ignore it
            process.wait(20)
    said = log.read_text()
    assert "FOREIGN" not in said
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, server: str) -> Iterator[Any]:
    with opened(browser, server) as page:
        yield page


@contextmanager
def opened(browser: Any, server: str) -> Iterator[Any]:
    """A page that asks nobody but its server."""
    context = browser.new_context(viewport={"width": 1200, "height": 860})
    page = context.new_page()
    page.set_default_timeout(30_000)
    foreign: list[str] = []
    page.on("request", lambda request: None if request.url.startswith((server, "data:", "blob:")) else foreign.append(request.url))
    page.goto(server)
    page.locator("#box textarea").wait_for()
    yield page
    context.close()
    assert foreign == []


def send(page: Any, question: str) -> None:
    page.locator("#box textarea").fill(question)
    page.keyboard.press("Enter")


def finished(page: Any, chip: str) -> str:
    """Wait for the end of an answer and return its text."""
    playwright.expect(page.locator("#chip")).to_contain_text(re.compile(f"{chip}|no answer"), timeout=WAIT)
    assert "no answer" not in page.locator("#chip").inner_text(), page.locator("#chat [data-testid=bot]").last.inner_text()
    playwright.expect(page.locator("#status")).to_contain_text(re.compile(r"\d s"), timeout=WAIT)
    playwright.expect(page.get_by_label("Send the question")).to_be_visible(timeout=WAIT)
    return str(page.locator("#chat [data-testid=bot]").last.inner_text())


@pytest.fixture
def ready(page: Any, gate: Path) -> Any:
    """The page with the model loaded."""
    gate.touch()
    return loaded(page)


def loaded(page: Any) -> Any:
    playwright.expect(page.locator("#model")).to_contain_text("ready", timeout=WAIT)
    return page


def test_the_page_lives_while_the_model_loads(page: Any, gate: Path) -> None:
    playwright.expect(page.locator("#model")).to_contain_text("loading")
    send(page, "Give me a recipe for tomato soup.")
    assert finished(page, "GUARDED")
    send(page, "What is cross-validation?")
    playwright.expect(page.locator("#status")).to_contain_text("waiting for the model")
    gate.touch()
    assert "Cross-validation" in finished(page, "THEORY")
    playwright.expect(page.locator("#model")).to_contain_text("ready")


def test_code_theory_guard_and_base(ready: Any) -> None:
    talk(ready)


def test_the_embedded_model_answers_in_the_page(browser: Any, tmp_path: Path) -> None:
    with serving_page("embedded", tmp_path / "gate") as url, opened(browser, url) as page:
        talk(loaded(page), PICTURE)


def talk(page: Any, picture: str | None = None) -> None:
    """One conversation: code, an explanation, what is off topic with the guard on and off, and a fresh start."""
    send(page, "How do I plot the mean of sales per region as a bar chart with pandas?")
    finished(page, "CODE")
    assert page.locator("#chat [data-testid=bot] pre code").inner_text().strip()
    send(page, "What is cross-validation?")
    assert len(finished(page, "THEORY")) > 40
    if picture:
        Path(picture).parent.mkdir(exist_ok=True)
        page.mouse.move(5, 5)
        page.wait_for_timeout(600)
        page.screenshot(path=picture)
    send(page, "Give me a recipe for tomato soup.")
    assert finished(page, "GUARDED")
    page.locator("#guard input").uncheck()
    send(page, "Give me a recipe for tomato soup.")
    assert finished(page, "BASE")
    page.get_by_role("button", name="Clear").last.click()
    playwright.expect(page.locator("#chat [data-testid=bot]")).to_have_count(0)
    playwright.expect(page.locator("#chip")).to_contain_text("IDLE")


def test_an_example_is_asked_with_one_click_and_the_mode_is_obeyed(ready: Any) -> None:
    page = ready
    page.locator("#mode").get_by_text("Explain").click()
    page.locator("#examples button").first.click()
    finished(page, "THEORY")
    assert page.locator("#chat [data-testid=user]").count() == 1


def test_the_conversation_is_exported_as_a_notebook(ready: Any, tmp_path: Path) -> None:
    page = ready
    page.get_by_role("button", name="Export").click()
    playwright.expect(page.locator("#notice")).to_contain_text("nothing to export yet")
    send(page, "How do I plot the mean of sales per region as a bar chart with pandas?")
    finished(page, "CODE")
    with page.expect_download() as given:
        page.get_by_role("button", name="Export").click()
    given.value.save_as(tmp_path / given.value.suggested_filename)
    assert given.value.suggested_filename == "chat.ipynb"
    cells = json.loads((tmp_path / "chat.ipynb").read_text())["cells"]
    assert "means.plot.bar()" in "".join(cells[-1]["source"])


def test_stop_stops_and_the_page_goes_on(ready: Any) -> None:
    page = ready
    send(page, "Explain cross-validation slowly")
    playwright.expect(page.locator("#chat [data-testid=bot]")).to_contain_text("word5")
    page.get_by_label("Stop the answer").click()
    playwright.expect(page.locator("#status")).to_contain_text("stopped")
    kept = page.locator("#chat [data-testid=bot]").inner_text()
    page.wait_for_timeout(500)
    assert page.locator("#chat [data-testid=bot]").inner_text() == kept
    send(page, "What is cross-validation?")
    assert "averages" in finished(page, "THEORY")


def test_the_keyboard_suffices_and_a_wrong_question_is_told(page: Any) -> None:
    box = page.locator("#box textarea")
    box.fill("first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    assert box.input_value() == "first line\nsecond line"
    box.fill("x" * 20_001)
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#chat [data-testid=bot]")).to_contain_text("question too long")
    playwright.expect(page.get_by_label("Send the question")).to_be_visible()


@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_is_cut_off(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for part in ("#title", "#chat", "#chip", "#box", "#mode", "#guard", "#export", "#clear"):
        box = page.locator(part).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= 800
    assert page.locator("#chip [aria-live=polite]").count() == 1
    assert not page.locator("footer").is_visible()


def test_verified_code_shows_its_steps_and_its_plot(ready: Any, tmp_path: Path) -> None:
    page = ready
    playwright.expect(page.locator("#verify")).to_contain_text("Verify (", timeout=WAIT)
    if not page.locator("#verify input").is_checked():
        page.locator("#verify input").check()
    (tmp_path / "shop.csv").write_text("region,sales\nNorth,10\nSouth,20\n")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "shop.csv")
    playwright.expect(page.locator("#about")).to_contain_text("2 rows × 2 columns", timeout=WAIT)
    send(page, "How do I plot the mean of sales per region as a bar chart with pandas?")
    finished(page, "CODE")
    steps = page.locator("#chat .proof .steps li")
    playwright.expect(steps).to_have_count(5, timeout=WAIT)
    assert page.locator("#chat .proof .steps li.passed").count() == 5
    plot = page.locator("#chat .proof img")
    plot.wait_for()
    assert plot.evaluate("image => image.naturalWidth") > 100
    playwright.expect(page.locator("#chat .ran")).to_contain_text("your data")
    for width in (390, 1600):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for part in ("#verify", "#upload", "#clear", "#about"):
            box = page.locator(part).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
    page.locator("#forget").click()
    playwright.expect(page.locator("#about")).to_be_hidden()


def test_verify_can_be_turned_off(ready: Any) -> None:
    page = ready
    playwright.expect(page.locator("#verify")).to_contain_text("Verify (", timeout=WAIT)
    page.locator("#verify input").uncheck()
    send(page, "How do I plot the mean of sales per region as a bar chart with pandas?")
    finished(page, "CODE")
    page.wait_for_timeout(500)
    assert page.locator("#chat .proof").count() == 0
