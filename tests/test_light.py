import ast
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

import twofold

HEAVY = frozenset("torch transformers peft bitsandbytes gradio IPython numpy pandas scipy sklearn matplotlib fastapi tqdm jinja2".split())  # noqa: SIM905  one line
HELP = "import contextlib; from twofold.cli import main\nwith contextlib.suppress(SystemExit): main(['--help'])"
LOADED = "\nimport sys, json; print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
OWN_SECONDS = 0.3


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def cpu_seconds(code: str) -> float:
    """User and system time of a fresh interpreter; unlike wall time, hardly longer on a busy machine."""
    before = os.times()
    run(code)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.parametrize("code", ["import twofold", HELP])
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert HEAVY & set(json.loads(run(code + LOADED).splitlines()[-1])) == set()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not count a child's time")
@pytest.mark.parametrize("code", ["import twofold", HELP])
def test_it_answers_at_once(code: str) -> None:
    bare = median(cpu_seconds("pass") for _ in range(3))
    assert median(cpu_seconds(code) for _ in range(3)) - bare < OWN_SECONDS


def test_help_names_the_commands() -> None:
    text = run(HELP)
    assert all(word in text for word in ("usage: twofold", "ask", "chat", "train", "data", "bench"))


def test_all_is_true() -> None:
    tree = ast.parse(Path(twofold.__file__).read_text(encoding="utf-8"))
    imported = {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert len(set(twofold.__all__)) == len(twofold.__all__)
    assert set(twofold.__all__) == {name for name in imported if not inspect.ismodule(getattr(twofold, name))}
    assert {name for name in twofold.__all__ if not getattr(twofold, name).__doc__} == set()
