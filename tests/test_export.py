"""A chat becomes a notebook that runs top to bottom and holds no value of the user's."""

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pandas as pd
import pytest

from twofold import notebook, sandbox
from twofold.export import Exchange, exchanges, markdown, write
from twofold.types import Reply, Route, TwofoldError

FRAME = pd.DataFrame({
    "region": ["CanaryNorth", "CanarySouth", "CanaryWest"] * 8,
    "price": [float(n) for n in range(24)],
    "day": pd.date_range("2023-01-01", periods=24),
})  # fmt: skip
THEORY = r"A p-value is \(P(T \ge t)\), or \[p = 0.05\] at a cost of $5 or $6, when a<b."


def code(question: str, text: str, **more: Any) -> Exchange:
    reply = Reply(f"```python\n{text}\n```", Route("code", "asks"), adapter="code", code=text, proof=("parses",), done=True, **more)
    return Exchange(question, reply)


def theory(question: str, text: str) -> Exchange:
    return Exchange(question, Reply(text, Route("theory", "asks"), adapter="theory", done=True))


CHAT = [
    code("mean price by region, {x} *and* $5", "df.groupby('region')['price'].mean()"),
    theory("What is a p-value?", THEORY),
    code("plot price over time", "import matplotlib.pyplot as plt\n\nplt.plot(df['day'], df['price'])\nplt.show()"),
    code("broken", "df['nothing_like_it'].no_method()"),
    code("not Python", "df["),
    code("failed", "df.x()", failed="runs on a twin", reason="line 1: AttributeError: x"),
]


def executed(path: Path) -> Any:
    """Run a notebook from top to bottom in its folder; any error is raised."""
    made = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(made, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    return made


def outputs(made: Any) -> list[str]:
    return [output["output_type"] for cell in made.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.e2e
@pytest.mark.parametrize("own", [False, True])
def test_a_chat_runs_top_to_bottom(own: bool, tmp_path: Path) -> None:
    write(tmp_path / "chat.ipynb", CHAT, notebook.summary({"df": FRAME}), {"df": FRAME, "unused": FRAME} if own else None)
    made = executed(tmp_path / "chat.ipynb")
    kinds = "".join(cell.cell_type[0] for cell in made.cells)
    assert kinds == ("mcmcmmmcmmmmmm" if sandbox.level() == "strong" else "mcmcmmmcmcmmmm")
    assert "error" not in outputs(made) or sandbox.level() != "strong"
    assert "display_data" in outputs(made)
    text = (tmp_path / "chat.ipynb").read_text()
    assert "CanaryNorth" not in text.split("outputs")[0] or own
    assert (tmp_path / "chat-data").exists() == own
    if own:
        assert [path.stem for path in (tmp_path / "chat-data").iterdir()] == ["df"]


def test_no_value_of_the_users_is_written(tmp_path: Path) -> None:
    write(tmp_path / "chat.ipynb", CHAT, notebook.summary({"df": FRAME}))
    text = (tmp_path / "chat.ipynb").read_text()
    assert "Canary" not in text
    assert "Made-up data" in text
    write(tmp_path / "again.ipynb", CHAT, notebook.summary({"df": FRAME}))
    assert (tmp_path / "again.ipynb").read_text() == text


def test_questions_and_explanations_are_markdown(tmp_path: Path) -> None:
    write(tmp_path / "chat.ipynb", [*CHAT[:2], code("line one\nline two", "1")], notebook.summary({"df": FRAME}))
    cells = [cell.source for cell in nbformat.read(tmp_path / "chat.ipynb", as_version=4).cells if cell.cell_type == "markdown"]
    assert cells[1] == r"## mean price by region, \{x\} \*and\* \$5"
    assert cells[3] == r"A p-value is $P(T \ge t)$, or $$p = 0.05$$ at a cost of \$5 or \$6, when a&lt;b."
    assert cells[4] == "## Question\n\n> line one\n> line two"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("$x^2$ and $$y$$", "$x^2$ and $$y$$"),
        ("from $5 to $10", r"from \$5 to \$10"),
        ("already \\$5", "already \\$5"),
        ("mean $x$ <b>", "mean $x$ &lt;b>"),
        ("a < b <= c", "a < b <= c"),
    ],
)
def test_formulas_stay_and_money_is_no_formula(text: str, shown: str) -> None:
    assert markdown(text) == shown


def test_without_a_strong_sandbox_cells_that_are_not_proved_are_tagged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twofold.sandbox.level", lambda: "weak")
    write(tmp_path / "chat.ipynb", CHAT[:4], notebook.summary({"df": FRAME}))
    made = nbformat.read(tmp_path / "chat.ipynb", as_version=4)
    tags = [cell.metadata.get("tags", []) for cell in made.cells if cell.cell_type == "code"]
    assert tags == [[], ["raises-exception"], ["raises-exception"], ["raises-exception"]]


def test_a_conversation_of_words_alone_is_enough(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "mean"}, {"role": "assistant", "content": "```python\ndf.mean()\n```"}]
    turns += [{"role": "user", "content": "What is a mean?"}, {"role": "assistant", "content": "A sum divided by a count."}]
    found = exchanges(turns)  # type: ignore[arg-type]
    assert [(one.question, one.reply.code) for one in found] == [("mean", "df.mean()"), ("What is a mean?", "")]
    write(tmp_path / "chat.ipynb", found)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    for path, chat, words in (
        (tmp_path / "x.ipynb", [], "nothing to export"),
        (tmp_path / "x.txt", CHAT, "ends in .ipynb"),
        (tmp_path / "none" / "x.ipynb", CHAT[1:2], "choose another place"),
    ):
        with pytest.raises(TwofoldError, match=words):
            write(path, chat)
