"""The magics in a real JupyterLab page: ask, run what was inserted, break a cell, fix it, have it explained."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from shutil import which
from typing import Any

import nbformat
import pytest

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = which("chromium") or which("chromium-browser") or which("google-chrome")
PICTURE = os.environ.get("TWOFOLD_LAB_PICTURE")  # a path such as docs/notebook.png; empty takes no picture
WAIT = 60_000
playwright.expect.set_options(timeout=WAIT)  # on a busy machine every step may take its time
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium found: apt-get install chromium"),
]
SALES = """\
import pandas as pd

sales = pd.DataFrame({"region": ["north", "south", "west", "east"] * 30, "revenue": [20 + (n * 37) % 90 for n in range(120)]})"""
CELLS = ("%load_ext twofold", SALES, "%ask plot a histogram of revenue in sales?")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with one notebook."""
    home = tmp_path_factory.mktemp("lab")
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS], metadata={"kernelspec": kernel})
    nbformat.write(made, home / "story.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={home}"]
    flags += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    places = {f"JUPYTER_{name}_DIR": str(home / f".{name}") for name in ("CONFIG", "DATA", "RUNTIME")}
    settings = home / ".settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    places["JUPYTERLAB_SETTINGS_DIR"] = str(home / ".settings")
    with (home / ".log").open("w") as log:
        command = [sys.executable, "-m", "jupyterlab", *flags]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **places})
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, (home / ".log").read_text()
                    assert time.monotonic() < deadline, (home / ".log").read_text()
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def page(lab: str) -> Iterator[Any]:
    """The notebook, open, its kernel idle."""
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": 1180, "height": 1100}).new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{lab}/lab/tree/story.ipynb")
        playwright.expect(page.locator(".jp-Notebook .jp-CodeCell")).to_have_count(len(CELLS))
        playwright.expect(page.locator("#jp-bottom-panel")).to_contain_text("(ipykernel) | Idle")
        yield page
        browser.close()


def cells(page: Any) -> Any:
    return page.locator(".jp-Notebook .jp-CodeCell")


def run(page: Any, number: int) -> Any:
    """Run a cell and wait until its prompt has a number; the cell comes back."""
    cell = cells(page).nth(number)
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    playwright.expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"), timeout=WAIT)
    return cell


def write(page: Any, number: int, text: str) -> None:
    """Put text into the cell below a given one."""
    cells(page).nth(number - 1).locator(".cm-content").click()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    cells(page).nth(number).locator(".cm-content").click()
    page.keyboard.insert_text(text)


def source(page: Any, number: int) -> str:
    return "\n".join(cells(page).nth(number).locator(".cm-line").all_inner_texts()).strip()


def test_ask_run_break_fix_explain(page: Any) -> None:
    run(page, 0)
    run(page, 1)
    asked = run(page, 2)
    answer = asked.locator(".twofold")
    playwright.expect(answer.locator(".chip.code")).to_be_visible()
    playwright.expect(answer.locator(".steps li")).to_have_count(5)
    playwright.expect(cells(page)).to_have_count(4)
    assert "revenue" in source(page, 3)
    plotted = run(page, 3)
    assert plotted.locator(".jp-OutputArea-output img").evaluate("image => image.naturalWidth") > 100
    write(page, 4, "sales['revenu'].mean()")
    playwright.expect(run(page, 4).locator(".jp-OutputArea-output").first).to_contain_text("KeyError")
    write(page, 5, "%fix")
    fixed = run(page, 5)
    playwright.expect(fixed.locator(".twofold")).to_contain_text("the nearest is revenue")
    playwright.expect(cells(page)).to_have_count(7)
    assert source(page, 6) == "sales['revenue'].mean()"
    run(page, 6)
    write(page, 7, "%explain --max-new-tokens 60")
    explained = run(page, 7)
    playwright.expect(explained.locator(".twofold .chip.theory")).to_be_visible()
    assert len(explained.locator(".twofold .body").inner_text()) > 60
    for width in (520, 1180):
        page.set_viewport_size({"width": width, "height": 1100})
        page.wait_for_timeout(300)
        for one in page.locator(".twofold").all():
            assert one.evaluate("part => part.scrollWidth <= part.parentElement.clientWidth + 1")
    if PICTURE:
        page.get_by_role("tab", name="File Browser").click()
        asked.scroll_into_view_if_needed()
        page.wait_for_timeout(800)
        page.screenshot(path=PICTURE)
