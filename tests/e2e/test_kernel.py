"""The magics in a real Jupyter kernel, which has the embedded model and no network; and under papermill."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import nbformat
import papermill
import pytest
from jupyter_client.manager import KernelManager

from twofold.clean import parses

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
WAIT = 120
COUNT = """import sys as _sys
_calls, _ways = [], ("socket.connect", "socket.getaddrinfo", "socket.sendto")
_sys.addaudithook(lambda event, args: event in _ways and _calls.append((event, str(args[1:]))))"""
SCRIPTED = """from twofold.engines import later, scripted
later.open_engine = lambda _: scripted.Scripted(lambda *_: "```python\\nsales['revenue'].mean()\\n```")"""
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


def apart() -> list[str]:
    """The command that takes the network from what follows; empty where there are no namespaces, and calls are counted all the same."""
    command = ["unshare", "--map-root-user", "--net"] if shutil.which("unshare") else []
    return [] if command and subprocess.run([*command, "true"], check=False).returncode else command


class Kernel:
    """A kernel without a network, spoken to through files, and its client."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel"))
        self.manager.kernel_spec.argv = [*apart(), sys.executable, *self.manager.kernel_spec.argv[1:]]
        self.manager.start_kernel(env={**os.environ, "HF_HUB_OFFLINE": ""})
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=WAIT)

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
        reply = self.reply(sent)["content"]
        placed = [one["text"] for one in reply.get("payload", []) if one["source"] == "set_next_input" and not one["replace"]]
        return Ran(reply["status"], shown, printed, placed, updates, images, html)

    def reply(self, sent: str) -> dict[str, Any]:
        """The reply to a request; a kernel that was slow to start leaves others before it."""
        while (message := self.client.get_shell_msg(timeout=WAIT))["parent_header"].get("msg_id") != sent:
            pass
        return dict(message)

    def run(self, code: str) -> Ran:
        return self.end(self.start(code))


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """A kernel with the extension and a frame, in which every call to a network is counted."""
    with TemporaryDirectory(prefix="kernel-") as folder:  # a short path: sockets have little room for one
        yield from started(Kernel(Path(folder)))


def started(one: Kernel) -> Iterator[Kernel]:
    assert one.run(COUNT).status == "ok"
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
    explained = kernel.run("%explain --max-new-tokens 60")
    assert "THEORY ·" in explained.shown
    assert len(explained.shown) > 80
    assert explained.placed == []


def test_the_model_mends_what_no_table_knows(kernel: Kernel) -> None:
    kernel.run("sales.groupby('region')['revenue'].mean(")
    mended = kernel.run("%fix -n 1")
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
    assert kernel.reply(waiting)["content"]["status"] == "aborted"  # what waited behind it is not run
    assert kernel.run("len(sales)").shown == "40"
    assert "CODE ·" in kernel.run("%ask mean of revenue in sales").shown


def test_commands_and_receipts(kernel: Kernel) -> None:
    assert "embedded, ready" in kernel.run("%twofold").printed
    history = kernel.run("%twofold history").printed.splitlines()
    asked = next(line for line in history if "plot a histogram" in line)
    assert re.search(r"made again: the same \d+ tokens$", kernel.run(f"%twofold receipt {asked.split()[0]}").printed.splitlines()[0])
    assert "[user]\nNotebook:\nsales: 40 rows; region str, revenue float64" in kernel.run("%twofold last").printed


def test_papermill_runs_a_notebook_that_asks(tmp_path: Path) -> None:
    asks = "answer = %ask --no-verify mean of revenue in sales"
    texts = (f"%load_ext twofold\n{SCRIPTED}", FRAME, asks, "print(answer.code)\nexec(answer.code)")
    cells = [nbformat.v4.new_code_cell(text) for text in texts]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "asks.ipynb")
    papermill.execute_notebook(str(tmp_path / "asks.ipynb"), str(tmp_path / "out.ipynb"), progress_bar=False)
    made = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    (display,) = [output for output in made.cells[2].outputs if output.output_type == "display_data"]
    assert "CODE ·" in display.data["text/plain"]
    assert "revenue" in made.cells[3].outputs[0].text


def test_not_one_call_went_to_a_network(kernel: Kernel) -> None:
    assert "CODE ·" in kernel.run("%ask -n 0 --max-new-tokens 40 mean of revenue in sales").shown
    assert "THEORY ·" in kernel.run("%%explain --max-new-tokens 20\nsales.describe()").shown
    assert kernel.run("_calls").shown == "[]"
    tried = kernel.run("import socket\ntry: socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError: print(len(_calls))")
    assert tried.printed.strip() == "2"  # the counting counts
