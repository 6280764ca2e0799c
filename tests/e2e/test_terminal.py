"""The magics in a real terminal: `ipython` behind a pseudo-terminal, keys typed, the screen read."""

import os
import re
import sys
from pathlib import Path

import pytest

pexpect = pytest.importorskip("pexpect")
pytest.importorskip("IPython")
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")]
SCRIPT = """
from twofold.engines import later, scripted
code = "```python\\nprices = [1, 2, 3]\\nprint(sum(prices) / 3)\\n```"
later.open_engine = lambda _: scripted.Scripted(lambda _, adapter, __: code if adapter == "code" else "A mean is a sum over a count.")
"""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def test_ask_fix_and_explain_print_plainly_and_fill_the_next_prompt(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    home = {**os.environ, "IPYTHONDIR": str(tmp_path), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    flags = ["--no-banner", "--no-confirm-exit", "--colors=NoColor", f"--InteractiveShellApp.exec_files={tmp_path / 'script.py'}"]
    with pexpect.spawn(sys.executable, ["-m", "IPython", *flags], env=home, encoding="utf-8", timeout=60, dimensions=(50, 160)) as terminal:
        number = 1
        terminal.expect_exact("In [1]:")

        def cell(text: str) -> str:
            """Type a cell, or accept the one that is there; what was printed until the next prompt."""
            nonlocal number
            number += 1
            terminal.send(f"{text}\r" if text else "\x1b\r")  # Alt-Enter runs what the prompt holds
            terminal.expect_exact("\x1b[?2004l")  # the terminal takes no more keys: what follows is output
            terminal.expect_exact(f"In [{number}]:")
            return CONTROL.sub("", str(terminal.before)).strip()

        assert cell("%load_ext twofold") == ""
        assert cell("%twofold verify off") == ""
        said = cell('%ask -m code the mean of prices, as f"{x:.1f}" and {y}').splitlines()
        assert said[:4] == ["```python", "prices = [1, 2, 3]", "print(sum(prices) / 3)", "```"]
        assert said[-1].startswith("CODE · you chose Code · ")
        assert cell("") == "2.0"  # the code stood at the prompt
        assert "KeyError: 'prise'" in cell("{'price': 1}['prise']")
        said = cell("%fix").splitlines()
        assert said[0].strip() == "trying known repairs ..."
        assert said[1] == "```python"
        assert any(line.strip().startswith("was wrong") for line in said)
        terminal.sendcontrol("c")
        said = cell("%explain 4").splitlines()
        assert said[0] == "A mean is a sum over a count."
        assert said[-1].startswith("THEORY · ")
        terminal.send("exit\r")
        terminal.expect(pexpect.EOF)
    assert terminal.exitstatus == 0
