"""The magics in a real Jupyter kernel, with the embedded model; under papermill; and where there is no network."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
import papermill
import pytest
from jupyter_client.manager import start_new_kernel

from twofold.clean import parses

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
WAIT = 120
FRAME = """import pandas as pd
sales = pd.DataFrame({'region': ['north', 'south', 'west', 'east'] * 10, 'revenue': [n / 2 for n in range(40)]})"""


class Ran(NamedTuple):
    """What a kernel said of one cell."""

    status: str
    shown: str
    """The last state of the last display, as plain text."""
    printed: str
    placed: list[str]
    """Codes for the next cell."""
    updates: int
    images: int
    html: str


class Kernel:
    """A kernel and its client."""

    def __init__(self) -> None:
        self.manager, self.client = start_new_kernel(kernel_name="python3")

    def start(self, code: str) -> str:
        return str(self.client.execute(code))

    def end(self, sent: str) -> Ran:
        shown, html, printed, updates, images = "", "", "", 0, 0
        while True:
            message = self.client.get_iopub_msg(timeout=WAIT)
            if message["parent_header"].get("msg_id") != sent:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                break
            data = content.get("data", {})
            shown, html = data.get("text/plain", shown), data.get("text/html", html)
            updates += kind == "update_display_data"
            images += "image/png" in data
            printed += content["text"] if kind == "stream" else "\n".join(content["traceback"]) if kind == "error" else ""
        reply = self.client.get_shell_msg(timeout=WAIT)["content"]
        placed = [one["text"] for one in reply.get("payload", []) if one["source"] == "set_next_input" and not one["replace"]]
        return Ran(reply["status"], shown, printed, placed, updates, images, html)

    def run(self, code: str) -> Ran:
        return self.end(self.start(code))


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """A kernel with the extension and a frame."""
    one = Kernel()
    assert one.run("%load_ext twofold") == Ran("ok", "", "", [], 0, 0, "")
    assert one.run(FRAME).status == "ok"
    yield one
    one.client.stop_channels()
    one.manager.shutdown_kernel(now=True)


def test_a_plot_is_asked_for_and_the_inserted_cell_runs(kernel: Kernel) -> None:
    ran = kernel.run("%ask plot a histogram of revenue in sales?")
    assert (ran.status, ran.printed) == ("ok", "")
    assert ran.updates > 3
    (code,) = ran.placed
    assert parses(code)
    assert "CODE ·" in ran.shown
    assert "passed    parses" in ran.shown
    assert "class='chip code'" in ran.html
    again = kernel.run(code)
    assert (again.status, again.images) == ("ok", 1)


def test_a_broken_cell_is_mended_and_explained(kernel: Kernel) -> None:
    broken = kernel.run("sales['revenu'].mean()")
    assert broken.status == "error"
    mended = kernel.run("%fix")
    assert mended.placed == ["sales['revenue'].mean()"]
    assert "was wrong line 1, KeyError: 'revenu'" in mended.shown
    assert kernel.run(mended.placed[0]).shown.endswith("9.75)")
    explained = kernel.run("%explain")
    assert "THEORY ·" in explained.shown
    assert len(explained.shown) > 80
    assert explained.placed == []


def test_the_model_mends_what_no_table_knows(kernel: Kernel) -> None:
    kernel.run("sales.groupby('region')['revenue'].mean(")
    mended = kernel.run("%fix")
    assert "was wrong line 1, SyntaxError" in mended.shown
    assert "CODE ·" in mended.shown
    assert all(map(parses, mended.placed))


def test_an_interrupt_ends_the_answer_and_the_kernel_goes_on(kernel: Kernel) -> None:
    sent = kernel.start("%ask -m explain --max-new-tokens 2000 --temperature 2 explain every kind of machine learning model there is")
    waiting = kernel.start("'the cell behind'")
    for _ in range(6):  # some words have come
        message = kernel.client.get_iopub_msg(timeout=WAIT)
        while message["msg_type"] not in ("display_data", "update_display_data"):
            message = kernel.client.get_iopub_msg(timeout=WAIT)
    stopped = time.monotonic()
    kernel.manager.interrupt_kernel()
    ran = kernel.end(sent)
    assert time.monotonic() - stopped < 2
    assert (ran.status, ran.placed) == ("error", [])
    assert "stopped · THEORY" in ran.shown
    assert "Stopped." in ran.printed
    assert "Traceback" not in ran.printed
    assert kernel.client.get_shell_msg(timeout=WAIT)["parent_header"]["msg_id"] == waiting  # what waited behind it is not run
    assert kernel.run("len(sales)").shown == "40"
    assert "CODE ·" in kernel.run("%ask mean of revenue in sales").shown


def test_commands_and_receipts(kernel: Kernel) -> None:
    assert "embedded, ready" in kernel.run("%twofold").printed
    history = kernel.run("%twofold history").printed.splitlines()
    asked = next(line for line in history if "plot a histogram" in line)
    assert re.search(r"made again: the same \d+ tokens$", kernel.run(f"%twofold receipt {asked.split()[0]}").printed.splitlines()[0])
    assert "[user]\nNotebook:\nsales: 40 rows; region str, revenue float64" in kernel.run("%twofold last").printed


def test_papermill_runs_a_notebook_that_asks(tmp_path: Path) -> None:
    asks = "answer = %ask --no-verify --max-new-tokens 60 mean of revenue in sales"
    cells = [nbformat.v4.new_code_cell(text) for text in ("%load_ext twofold", FRAME, asks, "print(answer.code)\nexec(answer.code)")]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "asks.ipynb")
    papermill.execute_notebook(str(tmp_path / "asks.ipynb"), str(tmp_path / "out.ipynb"), progress_bar=False)
    made = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    (display,) = [output for output in made.cells[2].outputs if output.output_type == "display_data"]
    assert "CODE ·" in display.data["text/plain"]
    assert "revenue" in made.cells[3].outputs[0].text


OFFLINE = """
import sys
calls = []
ways = ("socket.connect", "socket.getaddrinfo", "socket.sendto")
sys.addaudithook(lambda event, args: event in ways and calls.append((event, str(args[1:]))))
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
shell.run_cell("%load_ext twofold")
shell.run_cell("import pandas as pd\\nsales = pd.DataFrame({'region': ['north'] * 9, 'revenue': range(9)})")
shell.run_cell("%ask -n 0 --max-new-tokens 40 mean of revenue in sales", store_history=True)
shell.run_cell("%%explain --max-new-tokens 20\\nsales.describe()")
print("CALLS", calls)
"""


def test_with_the_embedded_model_not_one_call_goes_to_a_network() -> None:
    apart = ["unshare", "--map-root-user", "--net"] if shutil.which("unshare") else []
    if apart and subprocess.run([*apart, "true"], check=False).returncode:
        apart = []  # no namespaces here: the calls are counted all the same
    online = {**os.environ, "HF_HUB_OFFLINE": ""}
    done = subprocess.run([*apart, sys.executable, "-c", OFFLINE], capture_output=True, text=True, check=True, env=online)
    assert "CODE ·" in done.stdout
    assert "THEORY ·" in done.stdout
    assert done.stdout.splitlines()[-1] == "CALLS []"
