import io
import json
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from twofold import cli
from twofold.engines.scripted import Scripted
from twofold.types import Message, Request, Route, TwofoldError

CODE = "```python\ndf.plot()\n```"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were opened; a scripted engine stands in for them, and a plain rule for the router."""
    models: list[str] = []

    def decide(request: Request) -> Route:
        if request.adapter:
            return Route(request.adapter, "you chose it")
        if "soup" in request.text:
            return Route(None, "not about data science") if request.guard else Route("base", "guard is off")
        return Route("code", "asks for code", recall=bool(request.history))

    def open_engine(model: str) -> Scripted:
        models.append(model)
        return Scripted(lambda messages, adapter, _: CODE if adapter == "code" else f"{adapter} after {len(messages)} messages")

    monkeypatch.setattr("twofold.assistant.decide", decide)
    monkeypatch.setattr("twofold.engines.later.open_engine", open_engine)
    return models


def test_help_answers_without_heavy_imports() -> None:
    check = (
        "import sys\nfrom twofold.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'gradio', 'numpy', 'transformers', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert "usage: twofold" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_ask_streams_the_answer_and_says_who_spoke(opened: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ask", "plot", "df", "--model", "small"]) == 0
    out, err = capsys.readouterr()
    assert out == CODE + "\n"
    assert err.startswith("CODE · asks for code · ")
    assert "\x1b" not in err
    assert opened == ["small"]


def test_a_guarded_answer_opens_no_engine(opened: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ask", "a soup recipe"]) == 0
    assert capsys.readouterr().err.startswith("GUARDED · not about data science")
    assert opened == []
    assert cli.main(["ask", "a soup recipe", "--no-guard"]) == 0
    assert capsys.readouterr().err.startswith("BASE · ")


@pytest.mark.usefixtures("opened")
def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ask", "plot df", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"text", "code", "adapter", "chip", "route", "seconds", "tokens", "tokens_per_second"}
    assert (answer["chip"], answer["adapter"], answer["code"].strip()) == ("CODE", "code", "df.plot()")
    assert set(answer["route"]) == {"adapter", "why", "recall", "language"}


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ask", ""], "the question is empty"),
        (["ask", "x" * 200_000], "question too long: 200,000 characters, at most 20,000"),
        (["ask", "plot df", "--adapter", "nobody"], "unknown adapter 'nobody'"),
    ],
)
def test_expected_failures_are_one_line_and_exit_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("twofold: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("opened")
def test_the_question_may_come_from_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"plot \xff df\x1b[31m\n")))
    assert cli.main(["ask", "-"]) == 0
    assert CODE in capsys.readouterr().out


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_ctrl_c_keeps_what_was_said(extra: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> Iterator[str]:
        yield "The mean is the sum of the values "
        yield "divided by their number. "
        raise KeyboardInterrupt

    monkeypatch.setattr("twofold.engines.later.open_engine", lambda _: Scripted(interrupted))
    assert cli.main(["ask", "what is a mean", "--adapter", "theory", *extra]) == 130
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    if not extra:
        assert out.startswith("The mean is")
        assert err.rstrip().endswith("stopped")


def test_escape_sequences_of_a_model_do_not_reach_the_terminal() -> None:
    assert cli.printable("a\x1b[31mb\x07\n\tc\x9b") == "a[31mb\n\tc"


def test_chat_remembers_obeys_and_survives_mistakes(
    opened: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        "plot df",
        "/adapter theory",
        "why",
        "/mode none",
        "/load finance some/x",
        "/adapter finance",
        "x",
        "/clear",
        "/guard off",
        "/quit",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert cli.main(["chat"]) == 0
    out, err = capsys.readouterr()
    assert CODE in out
    assert "theory after" in out
    assert "finance after" in out
    assert "cannot read '/mode none'" in err
    assert len(opened) == 1


def test_chat_commands_leave_new_settings_behind() -> None:
    def load(name: str, path: str) -> None:
        raise TwofoldError(f"no adapter at {path}: {name}")

    start = Request("", history=({"role": "user", "content": "x"},))
    assert cli.obey("/clear", start, load).history == ()
    assert cli.obey("/guard off", start, load).guard is False
    assert cli.obey("/mode code", start, load).mode == "code"
    assert cli.obey("/adapter auto", start, load).adapter is None
    with pytest.raises(TwofoldError, match="/a folder"):
        cli.obey("/load name /a folder", start, load)
    with pytest.raises(EOFError):
        cli.obey("/quit", start, load)


@dataclass(frozen=True)
class Config:
    """A stage."""

    out: Path = Path("out")
    """Where it is
    written, 100 %."""
    steps: int = 3
    rate: float | None = None
    """Learning rate."""
    compile: bool = True
    ranks: tuple[int, ...] = (8, 16)
    kind: Literal["a", "b"] = "a"
    adapter: str = "code"


def run_stage(monkeypatch: pytest.MonkeyPatch, *words: str, faults: int = 0) -> tuple[int, Config]:
    seen: list[Config] = []
    module = types.ModuleType("stage", "Stage 0: a stand-in.")
    module.Config, module.main = Config, lambda config: seen.append(config) or faults  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "twofold.train.qlora", module)
    code = cli.main(["train", "theory", *words])
    return code, seen[0]


def test_a_stage_takes_its_flags_from_its_config(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_stage(monkeypatch) == (0, Config(adapter="theory"))
    flags = ["--out", "x", "--steps", "1_000", "--rate", "1e-3", "--no-compile", "--ranks", "1", "2", "--kind", "b"]
    assert run_stage(monkeypatch, *flags, faults=7) == (1, Config(Path("x"), 1000, 1e-3, False, (1, 2), "b", "theory"))


def test_a_stages_help_is_the_docstrings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_stage(monkeypatch, "--help")
    out = " ".join(capsys.readouterr().out.split())
    assert "Where it is written, 100 %. (default: out)" in out
    assert "Learning rate. (default: None)" in out
    assert "--adapter" not in out


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def absent(_: str) -> None:
        raise ModuleNotFoundError("No module named 'zstandard'", name="zstandard")

    monkeypatch.setattr("importlib.import_module", absent)
    assert cli.main(["train", "corpus"]) == 2
    assert capsys.readouterr().err == "twofold: zstandard is not installed: pip install twofold[train]\n"


@pytest.mark.parametrize("words", [[], ["ask"], ["ask", "x", "--temperature", "nan"], ["ask", "x", "--max-new-tokens", "0"], ["nothing"]])
def test_misuse_exits_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2


def test_app_wants_a_whole_auth(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio")
    monkeypatch.setenv("TWOFOLD_AUTH", "ann")
    assert cli.main(["app"]) == 2
    assert "user:password" in capsys.readouterr().err


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "sales.csv"
    path.write_text("region,price\nNorth,10\nSouth,20\nNorth,\n")
    return path


def answering(monkeypatch: pytest.MonkeyPatch, code: str) -> list[str]:
    asked: list[str] = []

    def answer(messages: Sequence[Message], *_: object) -> str:
        asked.append(messages[-1]["content"])
        return f"```python\n{code}\n```"

    monkeypatch.setattr("twofold.engines.later.open_engine", lambda _: Scripted(answer))
    return asked


@pytest.mark.usefixtures("opened")
def test_verify_prints_the_ladder_and_saves_the_plots(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = answering(monkeypatch, "print(df['prise'].sum())\ndf['prise'].plot(title='Prices')")
    folder = table.parent / "figures"
    for _ in range(2):
        assert cli.main(["ask", "plot price", "--verify", "--data", str(table), "--figures", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("```python\nprint(df['price'].sum())\n")
    assert "df: 3 rows; region str, price float64\ndf nulls: price 33%" in asked[0]
    assert "North" not in asked[0].partition("Example:")[0]
    assert "  verifying ..." in err
    assert "  repaired column 'prise' is 'price'" in err
    assert [line.split()[0] for line in err.splitlines() if line.startswith("  passed")] == ["passed"] * 10
    assert "result on your data:\n    30.0" in err
    assert f"plot saved in {folder / 'figure-1.png'}" in err
    assert sorted(path.name for path in folder.iterdir()) == ["figure-1.png", "figure-2.png"]
    assert (folder / "figure-1.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("opened")
def test_verify_says_what_failed_and_where(table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answering(monkeypatch, "x = 1\ndf['weight'].sum()")
    assert cli.main(["ask", "sum of weight", "--verify", "--data", str(table), "--n", "2"]) == 0
    out, err = capsys.readouterr()
    assert out == "```python\nx = 1\ndf['weight'].sum()\n```\n"
    assert "  trying 2 others ..." in err
    assert "  asking for a repair ..." in err
    assert "  failed   names resolve: df has no column 'weight'\n" in err
    assert "line 2: df['weight'].sum()" in err
    assert "  not run  ran on your data" in err


@pytest.mark.usefixtures("opened")
def test_verified_json_tells_the_proof(table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answering(monkeypatch, "df['price'].sum()")
    assert cli.main(["ask", "sum of price", "--verify", "--data", str(table), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["proof"][-1] == "ran on your data"
    assert (answer["failed"], answer["repairs"], answer["attempts"]) == ("", [], 1)


@pytest.mark.usefixtures("opened")
def test_verify_is_the_users_word_below_strong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answering(monkeypatch, "sum([1, 2])")
    monkeypatch.setattr("twofold.sandbox.level", lambda: "medium")
    assert cli.main(["ask", "sum", "--verify"]) == 0
    err = capsys.readouterr().err
    assert "the sandbox is only medium" in err
    assert "  passed   checks pass" in err


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize(("name", "message"), [("none.csv", "No such file"), ("data.exe", "ends in")])
def test_data_that_cannot_be_read_is_one_line(name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ask", "plot df", "--data", str(tmp_path / name)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_plots_that_cannot_be_saved_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TwofoldError, match="--figures"):
        cli.save_figures([b"x"], tmp_path / "file")
    assert cli.save_figures([], tmp_path / "new") == []
    assert not (tmp_path / "new").exists()
