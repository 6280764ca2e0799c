"""The story in examples/ runs top to bottom with the embedded model, and is stored with what it showed; the client asks a real server."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from conftest import serving
from twofold.engines.scripted import Scripted

TOUR = Path(__file__).parents[1] / "examples" / "tour.ipynb"


def kinds(made: nbformat.NotebookNode) -> list[list[str]]:
    """The outputs of each code cell."""
    return [sorted({output.output_type for output in cell.outputs}) for cell in made.cells if cell.cell_type == "code"]


def pictures(made: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for cell in made.cells if cell.cell_type == "code" for output in cell.outputs)


@pytest.mark.e2e
@pytest.mark.slow
def test_the_tour_runs_and_shows_what_is_stored(tmp_path: Path) -> None:
    stored = nbformat.read(TOUR, as_version=4)
    shutil.copy(TOUR.with_name("climbing.csv"), tmp_path)
    made = nbformat.from_dict({**stored, "cells": [{**cell} for cell in stored.cells]})
    nbclient.NotebookClient(made, timeout=180, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert kinds(made) == kinds(stored)
    assert pictures(made) == pictures(stored) == 2
    asked = [cell for cell in made.cells if cell.source.startswith(("%ask", "%fix"))]
    shown = [cell.outputs[0].data["text/plain"] for cell in asked]
    assert len(shown) == 7
    assert all(" · " in text.splitlines()[-1] for text in shown)
    assert "the nearest is level" in shown[4]


def test_the_stored_tour_names_no_place_of_the_machine_it_ran_on() -> None:
    text = TOUR.read_text(encoding="utf-8")
    assert not any(place in text for place in ("site-packages", "/home/", "/root", "/tmp/", "C:\\\\"))


@pytest.mark.parametrize("model", ["twofold", "code"])
def test_the_client_streams_an_answer(model: str) -> None:
    code = "```python\nprint('größer')\n```"
    with serving(Scripted(lambda *_: code), key="s3cret") as url:
        ask = [sys.executable, TOUR.with_name("openai_client.py"), "plot a histogram of price in df", "--url", url, "--model", model]
        done = subprocess.run([*ask, "--key", "s3cret"], capture_output=True, text=True, check=True, encoding="utf-8")
        refused = subprocess.run([*ask, "--key", "x"], capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.stdout == f"{code}\n"
    assert done.stderr.startswith("\nCODE · ") if model == "twofold" else not done.stderr
    assert refused.returncode == 1
    assert "invalid_api_key" in refused.stderr
