"""The magics in a shell of their own: what is asked arrives unchanged, nothing leaks, the user's variables stay as they are."""

import copy
import io
import json
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("IPython")
from IPython.core.interactiveshell import InteractiveShell
from sklearn.linear_model import LogisticRegression
from traitlets.config import Config

from twofold import magics
from twofold.engines.scripted import Scripted
from twofold.types import SHARES, Message, Sampling

GOOD = "sales.groupby('region')['price'].mean()"
Answer = Callable[[Sequence[Message], str, Sampling], Any]


class Talk:
    """A shell with the magics in it, and all that its engine was told."""

    def __init__(self, answer: Answer | str = GOOD) -> None:
        self.asked: list[str] = []
        self.opened: list[str] = []
        self.shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
        self.placed: list[str] = []
        self.shell.set_next_input = lambda text, replace: self.placed.append(text) if not replace else None
        self.shell.user_ns["sales"] = pd.DataFrame({"region": ["north", "south"] * 10, "price": np.arange(20.0)})

        def say(messages: Sequence[Message], adapter: str, sampling: Sampling) -> Any:
            self.asked.append(messages[-1]["content"])
            said = answer if isinstance(answer, str) else answer(messages, adapter, sampling)
            return f"```python\n{said}\n```" if isinstance(said, str) and adapter == "code" else said

        def opener(model: str) -> Scripted:
            self.opened.append(model)
            return Scripted(say, name=model)

        self.talk = magics.load(self.shell, opener)

    def run(self, cell: str) -> str:
        """Run a cell; what it printed comes back."""
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            self.done = self.shell.run_cell(cell, store_history=True)
        return said.getvalue()

    @property
    def last(self) -> Any:
        return self.talk.results[-1]


@pytest.fixture
def talk() -> Talk:
    return Talk()


PIECES = [
    "{}", "{x}", "{{x}}", "{0}", "{sales}", "{sales.shape}", "{'a': 1}", "{x!r:>{width}}", "f'{x}'", 'f"{y:.2f}"', "%s %d %(name)s",
    "100%", "%", "%%", "$x", "${x}", "$sales", "$$\\frac{a}{b}$$", r"\(\alpha_{i}^{2}\)", "\\", "\\\\", "\\n", r"\t\x00\u1234",
    "C:\\new\\table", "it's", '"', "'''", '"""', "'", "`code`", "```python\nx\n```", "«quoted»", "naïve", "漢字かな", "🙂", "e\u0301",
    "עברית", "a\u200db", "what?", "what??", "?what", "!ls", "!!", "!{x}", "%time x", "%%bash", "; x", ", x y", "/f x", ">>> x = 1",
    "In [1]: x", "... y", "# comment", "@decorator", "a @ b", "x = %ask", "<b>&amp;</b>", "</s> [INST] {x} [/INST]", "{", "}", "[", "(",
    "a\tb", "\n\nblank lines\n\nwithin", "--adapter later", "| & ~ ^ * _", "{% raw %}{{ x }}{% endraw %}",
]  # fmt: skip


def test_there_are_sixty_prompts_and_more() -> None:
    assert len(set(PIECES)) >= 60


@pytest.fixture(scope="module")
def asked() -> Talk:
    """One shell for all prompts."""
    talk = Talk()
    talk.shell.user_ns |= {"x": "EXPANDED", "y": 1.5, "width": 9}
    return talk


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("form", ["line", "cell"])
def test_every_prompt_arrives_unchanged(asked: Talk, piece: str, form: str) -> None:
    talk = asked
    talk.run("%twofold clear")
    if form == "line":
        if "\n" in piece:
            pytest.skip("a line has no line ends")
        question = f"pandas {piece}"
        talk.run(f"%ask -m code --no-guard --no-verify {question}")
    else:
        question = f"{piece}\nin pandas {piece}"
        talk.run(f"%%ask -m code --no-guard --no-verify\n{question}")
    assert talk.done.success
    assert talk.asked[-1].endswith(f"\n\n{question.strip()}")
    assert "EXPANDED" not in talk.asked[-1]
    assert talk.last.question == question.strip()


def test_code_goes_into_the_next_cell_and_is_not_run(talk: Talk) -> None:
    said = talk.run("%ask mean price by region in sales?")
    assert talk.placed == [GOOD]
    assert "passed    ran on your data" in said
    assert talk.done.result is None
    assert talk.opened == ["embedded"]
    assert (talk.last.code, talk.last.proof[-1], talk.last.placed) == (GOOD, "ran on your data", True)


def test_a_result_has_what_a_program_wants(talk: Talk) -> None:
    talk = Talk("import matplotlib.pyplot as plt\nmeans = sales.groupby('region', as_index=False)['price'].mean()\nmeans.plot()\nmeans")
    talk.run("%ask -o r plot the mean price by region in sales")
    r = talk.shell.user_ns["r"]
    assert r.figures[0]._repr_png_().startswith(b"\x89PNG")
    assert r.frame["price"].tolist() == [9.0, 10.0]
    assert (r.text, r.receipt.id) == (f"```python\n{r.code}\n```", talk.talk.results[0].receipt.id)
    assert "CODE" in repr(r)
    page = r._repr_html_()
    assert page.count("class='passed'") == 5
    assert "data:image/png" in page
    assert "<script" not in page
    talk.run("s = %ask mean price in sales")
    assert talk.shell.user_ns["s"].code == r.code


def test_options_choose(talk: Talk, tmp_path: Path) -> None:
    talk.run("%ask -m explain what is a mean in pandas")
    assert talk.last.reply.chip == "THEORY"
    talk.run("%ask --adapter base anything")
    assert talk.last.reply.chip == "BASE"
    talk.run("%ask give me a recipe for tomato soup")
    assert talk.last.reply.chip == "GUARDED"
    talk.run("%ask --no-guard give me a recipe for tomato soup")
    assert talk.last.reply.chip == "BASE"
    talk.run("%ask --model other mean of price in sales")
    assert talk.opened == ["embedded", "other"]
    (tmp_path / "shop.csv").write_text("city,income\na,1\n")
    talk.run(f"%ask --data {tmp_path / 'shop.csv'} -m code mean income in df")
    assert "df: 1 rows; city str, income int64" in talk.asked[-1]
    assert talk.placed[-1].startswith("import pandas as pd\n\ndf = pd.read_csv(")
    for wrong in ("-m loud x", "-n 99 x", "--seed x y", "--adapter nobody x", "-o 1x mean of price", "--nothing x", ""):
        assert "UsageError: twofold: " in talk.run(f"%ask {wrong}")
        assert not talk.done.success


def test_an_earlier_turn_is_recalled_and_forgotten(talk: Talk) -> None:
    seen: list[int] = []
    talk = Talk(lambda messages, *_: seen.append(len(messages)) or GOOD)
    talk.run("%ask mean price by region in sales")
    talk.run("%ask now make it horizontal")
    talk.run("%twofold clear")
    talk.run("%ask now make it horizontal")
    assert seen == [2, 4, 2]


# the live notebook stays as it is


def frozen(names: dict[str, Any]) -> dict[str, bytes]:
    return {name: pickle.dumps(value) for name, value in sorted(names.items())}


def test_the_namespace_is_the_same_byte_for_byte(talk: Talk) -> None:
    lines = ["sales['new'] = 1", "sales.drop(columns='price', inplace=True)", "sales.loc[0, 'region'] = 'X'", "y[0] = 5"]
    talk = Talk("\n".join([*lines, "X = X + 1", "X[:] = 0", "listed.append(1)"]))
    space = talk.shell.user_ns
    space |= {"y": space["sales"]["price"].copy(), "X": np.arange(6.0).reshape(3, 2), "listed": [1, {"a": 2}], "text": "x"}
    mine = ["sales", "y", "X", "listed", "text"]
    before, identities, known = frozen({name: space[name] for name in mine}), {name: id(space[name]) for name in mine}, set(space)
    said = talk.run("%ask -m code change sales and y and X in place")
    assert "changes   sales: new column new int64; without price" in said
    assert "ran on your data" in talk.last.proof
    talk.run("%explain 1")
    talk.run("broken(")
    talk.run("%fix")
    assert frozen({name: space[name] for name in mine}) == before
    assert {name: id(space[name]) for name in mine} == identities
    assert {name for name in set(space) - known if not name.startswith("_")} == set()


def test_unloading_leaves_the_shell_as_it_was() -> None:
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    before = (copy.copy(shell.input_transformers_cleanup), {kind: set(found) for kind, found in shell.magics_manager.magics.items()})
    shell.run_line_magic("load_ext", "twofold")
    assert "ask" in shell.magics_manager.magics["line"]
    shell.run_line_magic("unload_ext", "twofold")
    assert (shell.input_transformers_cleanup, {kind: set(found) for kind, found in shell.magics_manager.magics.items()}) == before


# privacy

CANARIES = ("Canary1Zq", "99173.25", "1815-12-10")


def secrets(talk: Talk) -> None:
    frame = pd.DataFrame({"who": ["Canary1Zq"] * 20, "pay": 99173.25, "born": pd.Timestamp("1815-12-10")})
    model = LogisticRegression().fit(frame[["pay"]].assign(k=range(20)), ["Canary1Zq", "b"] * 10)
    talk.shell.user_ns |= {"staff": frame, "who": frame["who"], "pay": frame["pay"].to_numpy(), "model": model, "word": "Canary1Zq"}


def everything(talk: Talk) -> str:
    """Ask in all the ways there are, failing answers and repair turns among them."""
    secrets(talk)
    talk.run("staff")
    talk.run("%ask -m code -n 1 turn who of @staff into numbers, as in @In[2] and @Out[2]")
    talk.run("staff['who'].astype(float)")
    talk.run("%fix -n 1")
    talk.run("%ask -m explain why @Err for the error in pandas")
    talk.run("%explain 2")
    assert len(talk.asked) >= 4
    return "\n".join(talk.asked)


@pytest.mark.parametrize("share", SHARES)
def test_no_cell_leaves_below_the_level_that_tells_it(share: str) -> None:
    talk = Talk("staff['who'].astype(float)")
    talk.run(f"%twofold share {share}")
    told = everything(talk)
    assert any(canary in told for canary in CANARIES) == (share in ("levels", "values"))
    assert ("99173" in told) == (share == "values")
    assert "could not convert string to float" in told
    block = told.partition("staff: 20 rows; who str, pay float64")
    assert bool(block[1]) == (share != "nothing")


def test_last_prints_the_exact_prompt(talk: Talk) -> None:
    secrets(talk)
    talk.run("%ask -m code mean of pay in {staff}")
    said = talk.run("%twofold last")
    assert talk.asked[0] in said
    assert "[system]\nYou write Python" in said
    talk.run("%ask recipe for tomato soup")
    assert "no prompt left the notebook" in talk.run("%twofold last")


# mending and explaining


def test_a_failed_cell_is_mended_by_a_known_repair(talk: Talk) -> None:
    talk.run("%precision 3\nsales['prise'].mean()")
    said = talk.run("%fix")
    assert talk.placed == ["%precision 3\nsales['price'].mean()"]
    assert "was wrong line 1, KeyError: 'prise': there is no such column or key; the nearest is price" in said
    assert talk.asked == []


def test_a_failed_cell_is_shown_to_the_model(talk: Talk) -> None:
    talk.run("x = 1\nsales.nothing_of_the_kind()")
    talk.run("%fix the mean price by region")
    shown = 'That fails:\nTraceback (most recent call last):\n  File "<cell>", line 2, in <module>\n    sales.nothing_of_the_kind()'
    assert talk.asked[0].startswith(shown)
    assert talk.placed == [GOOD]
    assert talk.last.reply.wrong.startswith("line 2, AttributeError")


def test_code_that_cannot_be_read_is_mended_too(talk: Talk) -> None:
    talk.run("sales.groupby('region'")
    said = talk.run("%fix")
    assert "SyntaxError: '(' was never closed" in talk.asked[0]
    assert 'File "<cell>", line 1' in talk.asked[0]
    assert "was wrong line 1, SyntaxError" in said


def test_names_of_the_notebook_count_when_a_cell_is_mended(talk: Talk) -> None:
    talk.run("import pandas as pd\nfactor = 3")
    talk.run("pd.Series([factor]).mean() + sales['prise'].mean()")
    talk.run("%fix")
    assert talk.placed == ["pd.Series([factor]).mean() + sales['price'].mean()"]
    assert talk.last.proof[-1] == "ran on your data"


def test_explain_takes_the_last_cell_a_number_or_code(talk: Talk) -> None:
    talk = Talk(lambda *_: "It takes a mean.")
    talk.run("sales['price'].mean()")
    talk.run("sales.describe()")
    typed = {"%explain": "sales.describe()", "%explain 1": "sales['price'].mean()", "%%explain\nx = {1: '{}'}": "x = {1: '{}'}"}
    for line, code in typed.items():
        said = talk.run(line)
        assert f"```python\n{code}\n```" in talk.asked[-1]
        assert "It takes a mean." in said
    assert talk.placed == []
    assert "there is no cell 99" in talk.run("%explain 99")
    assert "no cell has failed" in talk.run("%fix")


# commands, receipts, interrupts


def test_commands(talk: Talk, tmp_path: Path) -> None:
    assert "embedded, not loaded yet" in talk.run("%twofold")
    for line in ("guard off", "verify off", "share values", "adapter theory", "model other"):
        talk.run(f"%twofold {line}")
    status = talk.run("%twofold status")
    wanted = ("other, not loaded", "theory", "guard    off", "verify   off", "share    values", "knows    sales")
    assert [words for words in wanted if words not in status] == []
    assert "cannot read 'loud'" in talk.run("%twofold loud")
    assert "%fix" in talk.run("%twofold help")
    assert "nothing was asked" in talk.run("%twofold history")
    talk.run(f"%twofold adapter finance {tmp_path}")
    assert talk.talk.settings.adapter == "finance"


def test_a_receipt_makes_an_answer_again(talk: Talk, tmp_path: Path) -> None:
    talk = Talk(lambda _messages, _adapter, sampling: f"sales['price'].mean() + {sampling.seed}")
    talk.run("%ask --seed 7 mean price in sales")
    receipt = talk.last.receipt
    assert receipt.id in talk.run("%twofold history")
    assert "made again: the same 5 tokens" in talk.run(f"%twofold receipt {receipt.id}")
    talk.run(f"%twofold receipt {receipt.id} {tmp_path / 'one.json'}")
    assert json.loads((tmp_path / "one.json").read_text())["calls"][0]["sampling"]["seed"] == 7
    other = Talk("sales['price'].max()")
    said = other.run(f"%twofold receipt {tmp_path / 'one.json'}")
    assert "other tokens than then" in said
    assert "answer 1 differs from character" in said
    assert "there is no receipt 'ffff'" in other.run("%twofold receipt ffff")


def test_an_interrupt_ends_the_answer_within_a_token_and_the_shell_goes_on() -> None:
    closed: list[float] = []
    sent: list[float] = []

    def endless(*_: object) -> Iterator[str]:
        try:
            yield "word "
            threading.Timer(0.2, lambda: (sent.append(time.monotonic()), signal.raise_signal(signal.SIGINT))).start()
            while True:
                time.sleep(0.05)
                yield "more and more words "
        finally:
            closed.append(time.monotonic())

    talk = Talk(endless)
    said = talk.run("%ask -m explain what is a mean in pandas")
    assert closed[0] - sent[0] < 0.5
    assert "Stopped." in said
    assert "stopped · THEORY" in said
    assert isinstance(talk.done.error_in_exec, KeyboardInterrupt)
    assert talk.placed == []
    assert talk.talk.settings.history == ()
    talk.run("x = 1 + 1")
    assert talk.shell.user_ns["x"] == 2
    assert talk.talk.failure is None


def test_the_extension_loads_at_once_and_loads_no_model() -> None:
    code = (
        "import time, sys\nfrom IPython.core.interactiveshell import InteractiveShell\nshell = InteractiveShell()\n"
        "start = time.perf_counter()\nshell.run_line_magic('load_ext', 'twofold')\n"
        "print(time.perf_counter() - start, 'torch' in sys.modules, 'gradio' in sys.modules)"
    )
    seconds = []
    for _ in range(3):
        took, *heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-3:]
        seconds.append(float(took))
        assert heavy == ["False", "False"]
    assert median(seconds) < 0.5


def test_the_chat_is_exported_with_made_up_data_or_with_copies(talk: Talk, tmp_path: Path) -> None:
    assert "nothing to export yet" in talk.run(f"%twofold export {tmp_path / 'chat.ipynb'}")
    talk.run("%ask mean price by region in sales")
    for flag in ("", " --data"):
        assert "1 answers are in" in talk.run(f"%twofold export {tmp_path / 'chat.ipynb'}{flag}")
        cells = json.loads((tmp_path / "chat.ipynb").read_text())["cells"]
        assert "".join(cells[-1]["source"]) == GOOD
        assert cells[-1]["metadata"]["twofold"]["receipt"] == talk.last.receipt.id
        assert ("north" in json.dumps(cells[1])) is False
        assert (tmp_path / "chat-data" / "sales.parquet").exists() == bool(flag)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "chat-data" / "sales.parquet"), talk.shell.user_ns["sales"])


def test_the_user_is_told_once_where_prompts_go(talk: Talk) -> None:
    assert "prompts  stay on this machine" in talk.run("%twofold status")
    assert "it loads at the first question" in talk.run("%twofold model http://box:8000/v1")
    assert "prompts  go to http://box:8000/v1" in talk.run("%twofold status")
    assert "prompts go to http://box:8000/v1; %twofold share says" in talk.run("%ask -m code mean of price in sales")
    assert "prompts go to" not in talk.run("%ask -m code mean of price in sales")
    assert "prompts go to https://other/v1" in talk.run("%ask -m code --model https://other/v1 mean of price in sales")


TAGS = set("div span style svg path p b code pre ul li ol small details summary img table caption tr th td".split())  # noqa: SIM905  one line
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> [x](javascript:alert(3)) <iframe src='https://evil.example'>"


def test_every_display_is_text_and_html_without_scripts_or_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What any front end of Jupyter can show, VS Code among them: nothing in it runs, is fetched, or needs an extension."""
    code = "means = sales.groupby('region', as_index=False)['price'].mean()\nmeans.plot()\nprint('<b>')\nmeans"
    shown: list[dict[str, Any]] = []

    class Handle:
        """IPython's display handle, as far as what it sends."""

        def display(self, value: object) -> None:
            shown.append(talk.shell.display_formatter.format(value)[0])

        update = display

    monkeypatch.setattr(magics, "DisplayHandle", Handle)

    def answer(_: Sequence[Message], adapter: str, __: Sampling) -> Any:
        return code if adapter == "code" else f"A **mean** of $x_i$. {HOSTILE}\n\n- one\n- two\n"

    talk = Talk(answer)
    talk.shell.kernel = object()  # then answers are displays, as in a notebook
    for cell in (
        "%ask -m code plot the mean price by region in sales",
        f"%ask -m explain what is a mean in pandas {HOSTILE}",
        "%ask a recipe for tomato soup",
        "sales['prise']",
        "%fix",
        "%explain 1",
        "r = %ask -m code --no-verify mean of price in sales",
    ):
        talk.run(cell)
    Handle().display(talk.shell.user_ns["r"])
    assert len(shown) > 15  # snapshots and all
    assert {tuple(sorted(data)) for data in shown} == {("text/html", "text/plain")}
    for data in shown:
        tags = re.findall(r"<\s*/?\s*([a-z]+)([^<>]*)", data["text/html"])
        assert {tag for tag, _ in tags} <= TAGS
        assert [rest for _, rest in tags if re.search(r"\son\w+\s*=|javascript:|https?:|src='(?!data:image/png;base64,)", rest)] == []
        assert "@import" not in data["text/html"]
        assert "url(" not in data["text/html"]
    assert any("<img alt='Plot" in data["text/html"] for data in shown)
    assert any("&lt;script&gt;" in data["text/html"] for data in shown)
    picture, _ = talk.shell.display_formatter.format(talk.talk.results[0].figures[0])
    assert set(picture) == {"text/plain", "image/png"}
