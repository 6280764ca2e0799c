import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from twofold import retrieve
from twofold.clean import tree_of
from twofold.datasets import build, notes, rows
from twofold.engines.scripted import Scripted
from twofold.evals import ladder, report, suite
from twofold.evals.execution import score_all
from twofold.evals.pattern import api, match_code, match_theory, wanted
from twofold.types import Sampling, TwofoldError

REFERENCE = '```python\nimport matplotlib.pyplot as plt\n\nplt.hist(df["fare"].dropna(), bins=20)\nplt.xlabel("fare")\nplt.show()\n```'
CODE = {
    "id": "eval-1",
    "slice": "known",
    "source": "intent:plot-histogram",
    "messages": [
        {"role": "system", "content": "You write Python for data science. Answer with one Python code block."},
        {"role": "user", "content": "Notebook:\ndf: 120 rows; fare float64, age float64\n\nhist of fare, 20 bins"},
        {"role": "assistant", "content": REFERENCE},
    ],
    "check": {"test": "assert len(plt.gca().patches) == 20", "frames": {"df": "titanic"}, "files": {}},
}
THEORY = {
    "id": "eval_theory-1",
    "slice": "heldout",
    "source": "card:anova",
    "messages": [
        {"role": "system", "content": "You explain data science in plain, correct prose."},
        {"role": "user", "content": "what does anova test"},
        {"role": "assistant", "content": "ANOVA compares the means of groups by an F statistic."},
    ],
    "check": {"must": ["mean", "group"], "must_not": ["proves"], "kind": "what"},
}


def fenced(code: str) -> str:
    return f"```python\n{code}\n```"


def engine_of(answer: Callable[[str, str], str], path: Path) -> suite.Remembered:
    """An engine that answers with a function of the user's turn and the adapter."""
    return suite.Remembered(Scripted(lambda messages, adapter, _sampling: answer(messages[-1]["content"], adapter)), path / "kept.jsonl")


def test_answers_are_parsed_then_run_then_checked() -> None:
    texts = [REFERENCE, REFERENCE.replace("20", "10"), fenced("plt.hist(df['nothing'])"), fenced("plt.hist("), "no code at all"]
    found = score_all((text, CODE) for text in texts)
    assert [(one.parsed, one.executed, one.checked) for one in found] == [
        (True, True, True),
        (True, True, False),
        (True, False, False),
        (False, False, False),
        (False, False, False),
    ]
    assert not found[0].failure
    assert found[1].failure.startswith("check ")
    assert found[4].failure == "no code"


def test_the_pattern_is_the_users_names_and_the_rarest_call() -> None:
    known = rows.frames()
    want = wanted(CODE, known)
    assert want.names == {"fare"}
    assert want.call == "hist"
    assert match_code(fenced('df["fare"].plot.hist(bins=3)'), CODE, known)
    assert not match_code(fenced('df["age"].plot.hist(bins=20)'), CODE, known)
    assert not match_code(fenced('df["fare"].plot.box()'), CODE, known)
    assert not match_code("df.fare.hist", CODE, known)


def test_builtins_and_own_functions_are_no_api() -> None:
    tree = tree_of("def half(x):\n    return len(x) / 2\nhalf(df.price.rank())\nlinear_model.Ridge()")
    assert tree
    assert set(api(tree)) == {"price", "rank", "Ridge"}
    assert tree_of("def") is None


def test_a_rubric_wants_every_must_and_no_must_not() -> None:
    assert match_theory("It compares Means of GROUPS.", THEORY).passed
    assert match_theory("It compares means.", THEORY).share == 0.5
    wrong = match_theory("It proves that the means of groups differ.", THEORY)
    assert wrong.wrong
    assert not wrong.passed
    assert not match_theory("", THEORY | {"check": {"must": [], "must_not": []}}).passed


@pytest.mark.parametrize(("hits", "n", "low", "high"), [(0, 0, 0, 100), (0, 10, 0, 27.8), (10, 10, 72.2, 100), (5, 10, 23.7, 76.3)])
def test_wilson(hits: int, n: int, low: float, high: float) -> None:
    assert suite.wilson(hits, n) == pytest.approx((low, high), abs=0.05)


def test_a_question_is_taken_out_of_its_row() -> None:
    request = suite.request_of(CODE, "code")
    assert (request.text, request.notebook, request.history) == ("hist of fare, 20 bins", "df: 120 rows; fare float64, age float64", ())
    follow = {**CODE, "messages": [*CODE["messages"], {"role": "user", "content": "now 5"}, {"role": "assistant", "content": REFERENCE}]}
    assert suite.request_of(follow, "code").history == tuple(CODE["messages"][1:])


def test_whole_answers_are_remembered_and_broken_ones_are_not(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(_messages: object, adapter: str, _sampling: Sampling) -> Iterator[str]:
        asked.append(adapter)
        yield "one "
        yield "two"

    def engine() -> suite.Remembered:
        return suite.Remembered(Scripted(answer), tmp_path / "kept.jsonl")

    stopped = engine().generate(CODE["messages"][:-1], "code", Sampling())
    next(stopped)
    stopped.close()
    for _ in range(2):
        fresh = engine()
        assert "".join(fresh.generate(CODE["messages"][:-1], "code", Sampling())) == "one two"
        assert fresh.last.pieces == 2
        assert len(asked) == 2
    assert "".join(engine().generate(CODE["messages"][:-1], "base", Sampling())) == "one two"
    assert asked == ["code", "code", "base"]
    with (tmp_path / "kept.jsonl").open("a") as cut:
        cut.write('["half a li')
    assert engine().last == suite.UNSAID


def test_the_index_of_an_evaluation_holds_neither_kept_wordings_nor_heldout_sources() -> None:
    usual = retrieve.load
    with suite.unseen_index():
        examples = retrieve.load("example")
        cards = retrieve.load("card")
    assert retrieve.load is usual
    ids = {source.notes[0].source for index in (examples, cards) for source in index.sources}
    assert not ids & build.heldout()
    keys = {key for source in cards.sources for key in source.keys}
    kept = {ask for card in rows.cards() for ask in card.asks[-build.EVAL_ASKS :]}
    assert not keys & kept
    held = {source.notes[0].source: set(source.keys) for source in examples.sources}
    for intent in rows.intents():
        assert not held.get(intent.id, set()) & set(list(notes.spoken(intent.asks, intent.slots))[-build.EVAL_ASKS :])


def test_a_smaller_sample_begins_a_larger_one() -> None:
    found = [{"slice": "known", "id": number} for number in range(50)]
    assert suite.sample(found, "known", 10, 3) == suite.sample(found, "known", 20, 3)[:10]
    assert suite.sample(found, "heldout", 10, 3) == []


def test_a_report_is_written_and_a_later_one_of_the_same_weights_adds_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.write(tmp_path / "eval.jsonl", [CODE])
    rows.write(tmp_path / "eval_theory.jsonl", [THEORY])
    says = {"code": REFERENCE, "theory": "It compares the means of groups.", "base": "Hello."}
    monkeypatch.setattr(report, "Later", lambda model: Scripted(lambda _messages, adapter, _sampling: says[adapter], name=model))
    out = tmp_path / "eval.json"
    for what in ("code", "theory"):
        report.main(report.Config(what, 4, "scripted", 0, str(tmp_path), str(tmp_path / "kept"), out))
    found = json.loads(out.read_text())
    for mode in ("greedy", "pipeline"):
        assert [found["code"]["known"][mode][name] for name in ("n", "pattern", "parse", "exec", "check")] == [1, 100, 100, 100, 100]
        assert found["theory"]["heldout"][mode]["rubric"] == 100
        assert found["theory"]["known"][mode]["n"] == 0
    assert found["base"]["code"]["known"]["greedy"]["exec"] == 0
    printed = capsys.readouterr().out
    assert "PatternMatch: 1/1 (greedy)" in printed
    assert "ExecPass: 1/1 (pipeline)" in printed
    some = tmp_path / "some.json"
    report.main(report.Config("code", 4, "scripted", 0, str(tmp_path), str(tmp_path / "kept"), some, modes="pipeline"))
    assert set(json.loads(some.read_text())["code"]["known"]) == {"pipeline"}
    with pytest.raises(TwofoldError, match="no way to ask"):
        report.main(report.Config("code", 4, "scripted", 0, str(tmp_path), str(tmp_path / "kept"), some, modes="pipelin"))


def test_the_copy_gate_sees_a_wrong_column(tmp_path: Path) -> None:
    def right(text: str, _adapter: str) -> str:
        question = text.rpartition("\n")[2]
        if question.startswith("plot"):
            return fenced(f'df["{question.split()[-1]}"].hist()')
        names = [word.strip(",") for word in question.split()[3:-2] if word != "and"]
        return fenced(f"df[{json.dumps(names)}]")

    assert [gate.value for gate in ladder.copies(engine_of(right, tmp_path / "right"), 5, 0)] == [100, 100]
    careless = engine_of(lambda text, adapter: right(text, adapter).replace("_", "_x", 1), tmp_path / "wrong")
    assert not any(gate.passed for gate in ladder.copies(careless, 5, 0))


def test_the_form_gate_sees_loops_echoes_and_foreign_forms(tmp_path: Path) -> None:
    says = {"loop": "and so on " * 200, "echo": "echo: it is a mean of groups.", "good": "A mean is a sum divided by a count."}
    says |= {"code": fenced("df.head()"), "bad": fenced("x = (")}
    engine = engine_of(lambda text, _adapter: says[text], tmp_path)
    asked = [("theory", "loop"), ("theory", "echo"), ("theory", "good"), ("theory", "code"), ("code", "code"), ("code", "bad")]
    gates = ladder.forms(engine, asked, lambda text: len(text.split()))
    assert [round(gate.value * gate.n / 100) for gate in gates] == [5, 1, 5, 5]
    assert not any(gate.passed for gate in gates)


def test_the_card_gate_tells_the_right_card_from_a_wrong_one(tmp_path: Path) -> None:
    reader = engine_of(lambda text, _adapter: re.sub(r"(?m)^Not so: .*", "", text.rpartition("\n\n")[0]), tmp_path)
    card = next(card for card in rows.cards() if card.id == "anova")
    row = {**THEORY, "check": {"must": list(card.must), "must_not": list(card.must_not), "kind": "what"}}
    none, right, wrong = ladder.cards(reader, [row], "heldout", 0)
    assert (none.value, right.value, wrong.value) == (0, 100, 0)
    assert right.passed


def test_the_reload_gate_holds_for_a_saved_folder(tiny_folder: Path) -> None:
    reloaded, served = ladder.reload(tiny_folder / "base")
    assert reloaded.passed
    assert served.n > 50
