import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from twofold import prompts
from twofold.datasets import build, check, near, rows
from twofold.datasets.rows import Card, Frame, Intent
from twofold.types import TwofoldError

CODE, THEORY = ("train.jsonl", "eval.jsonl"), ("train_theory.jsonl", "eval_theory.jsonl")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def intents() -> list[Intent]:
    return rows.intents()


@pytest.fixture(scope="module")
def cards() -> list[Card]:
    return rows.cards()


@pytest.fixture(scope="module")
def known() -> dict[str, Frame]:
    return rows.frames()


@pytest.fixture(scope="module")
def data() -> dict[str, list[Row]]:
    return {name: rows.read(rows.ROOT / "data" / name) for name in (*CODE, *THEORY)}


# --- sources


def test_every_source_is_clean(intents: list[Intent], cards: list[Card]) -> None:
    assert [f"{one.id}: {fault}" for one in intents for fault in check.lint_intent(one)] == []
    assert [f"{one.id}: {fault}" for one in cards for fault in check.lint_card(one)] == []
    assert [f"{one.id}: {fault}" for one in (*intents, *cards) for fault in check.lint_languages(one)] == []


def test_ids_are_unique_and_the_held_out_exist(intents: list[Intent], cards: list[Card]) -> None:
    ids = [one.id for one in intents] + [one.id for one in cards]
    assert len(set(ids)) == len(ids) > 400
    assert build.heldout() < set(ids)
    assert any(one.id in build.heldout() for one in intents)
    assert any(one.id in build.heldout() for one in cards)


def test_lint_tells_what_is_missing(intents: list[Intent], cards: list[Card]) -> None:
    poor = replace(intents[0], asks=("$nothing",), solution="x\n" * 26, check=" ")
    assert len(check.lint_intent(poor)) == 4
    wrong = replace(cards[0], definition=cards[0].definition[:1], must_not=(r"\w",), must=("never-said",), names_in={})
    assert len(check.lint_card(wrong)) == 1 + 1 + 1 + 1 + 7


def test_lint_knows_the_scripts(intents: list[Intent]) -> None:
    assert check.speaks("plot 平均", "zh")
    assert check.speaks("平均を描く df", "ja")
    assert not check.speaks("平均を描く", "zh")
    assert not check.speaks("औसत", "en")
    assert not check.speaks("平均", "hi")
    poor = replace(intents[0], asks_in={"zh": ("plot", "draw"), "hi": ("औसत",), "es": ("media", "平均")})
    assert len(check.lint_languages(poor)) == 2


def test_no_wording_kept_for_evaluation_can_be_drawn_in_training(intents: list[Intent], cards: list[Card]) -> None:
    assert list(map(str, check.source_leaks(intents, cards))) == []


def test_a_kept_wording_that_training_could_draw_is_a_leak(intents: list[Intent], cards: list[Card]) -> None:
    intent = next(one for one in intents if one.id not in build.heldout() and "df" in one.slots)
    card = next(one for one in cards if one.id not in build.heldout())
    told = replace(intent, asks=(*intent.asks[:-1], "pls " + intent.asks[0]))
    asked = replace(card, asks=(*card.asks[:-1], f"what's {card.names[0]}?"))
    assert [leak.held.source for leak in check.source_leaks([told], [asked])] == [intent.id, card.id]


def test_a_broken_source_is_named(tmp_path: Any) -> None:
    (tmp_path / "a.toml").write_text('[[intent]]\nid = "x"\nsurprise = 1\n')
    with pytest.raises(TwofoldError, match=r"a\.toml: x: .*surprise"):
        rows.intents(tmp_path)
    (tmp_path / "a.toml").write_text("[[intent\n")
    with pytest.raises(TwofoldError, match=r"a\.toml: not valid TOML"):
        rows.intents(tmp_path)


# --- filling


def columns_of(intent: Intent, filled: rows.Filled) -> list[tuple[str, str]]:
    """(frame slot, column) of every column slot."""
    found = []
    for slot, spec in intent.slots.items():
        match = rows._SLOT.match(spec) if isinstance(spec, str) else None
        if match and match["kind"] in rows._KINDS:
            names = filled.said[slot].replace(" and ", ", ").split(", ")
            found += [("other" if intent.slots.get(match["frame"]) == "frame2" else "main", name) for name in names]
    return found


def test_fill_takes_distinct_columns_that_exist(intents: list[Intent], known: Mapping[str, Frame]) -> None:
    rng = random.Random(0)
    for intent in intents:
        filled = rows.fill(intent, known, rng)
        columns = columns_of(intent, filled)
        assert len(set(columns)) == len(columns), (intent.id, columns)
        there = {col.name for frame in filled.frames.values() for col in frame.columns}
        assert {name for _, name in columns} <= there, intent.id
        new = [filled.code[slot] for slot, spec in intent.slots.items() if spec == "newcol"]
        assert len(set(new)) == len(new), (intent.id, new)
        assert not there & set(new), (intent.id, new)
        assert set(filled.files.values()) <= set(filled.frames), intent.id
        assert set(filled.said) == set(filled.code) == set(intent.slots)


def test_a_slot_that_is_not_mentioned_takes_its_first_value(intents: list[Intent], known: Mapping[str, Frame]) -> None:
    rng = random.Random(0)
    for intent in intents:
        filled = rows.fill(intent, known, rng, ())
        for slot, spec in intent.slots.items():
            if spec == "frame":
                assert filled.code[slot] == "df"
            elif not isinstance(spec, str):
                assert filled.code[slot] == str(next(iter(spec))), (intent.id, slot)


def test_a_mentioned_slot_takes_every_value(known: Mapping[str, Frame], intents: list[Intent]) -> None:
    intent = replace(intents[0], slots={"df": "frame", "how": {"mean": ["average"], "sum": ["total", "sum"]}, "n": [1, 2]})
    drawn = [rows.fill(intent, known, random.Random(seed), ("how", "n")) for seed in range(40)]
    assert {(one.said["how"], one.code["how"]) for one in drawn} == {("average", "mean"), ("total", "sum"), ("sum", "sum")}
    assert {one.code["n"] for one in drawn} == {"1", "2"}
    assert {one.code["df"] for one in drawn} == {"df"}


def test_a_mark_without_a_value_is_an_error() -> None:
    assert rows.substitute("$$5 for $x", {"x": "y"}) == "$5 for y"
    for text in ("$missing", "cost $5"):
        with pytest.raises(TwofoldError, match="slot without a value"):
            rows.substitute(text, {})


# --- rendering


@pytest.fixture
def loaded_once(intents: list[Intent], cards: list[Card], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "intents", lambda: intents)
    monkeypatch.setattr(rows, "cards", lambda: cards)


@pytest.mark.usefixtures("loaded_once")
def test_building_is_deterministic() -> None:
    config = build.Config(code=320, theory=300, base=0.1)
    for adapter in ("code", "theory"):
        first = list(build.render(config, adapter))
        assert first == list(build.render(config, adapter))
        assert first != list(build.render(replace(config, seed=1), adapter))
        assert list(islice(build.evaluation_rows(adapter), 50)) == list(islice(build.evaluation_rows(adapter), 50))


@pytest.mark.usefixtures("loaded_once")
def test_files_are_what_build_writes(data: dict[str, list[Row]]) -> None:
    for train, held in (CODE, THEORY):
        adapter = "theory" if "theory" in train else "code"
        built = [*build.numbered(train.removesuffix(".jsonl"), islice(build.render(build.Config(), adapter), 400))]
        built += build.numbered(held.removesuffix(".jsonl"), build.evaluation_rows(adapter))
        kept = {row["id"]: row for row in (*data[train], *data[held])}
        assert [row["id"] for row in built if row != kept.get(row["id"])] == [], "stale: run `twofold data build`"


def test_rows_are_well_formed_and_ids_are_unique(data: dict[str, list[Row]]) -> None:
    for adapter, names in check.PAIRS.items():
        assert check.doubles([row for name in names for row in data[name]]) == []
        faults = [(row["id"], fault) for name in names for row in data[name] for fault in check.lint_row(row, adapter)]
        assert [one for one in faults if one[0].startswith("eval") or not one[1].startswith("must")] == []  # rubrics count in evaluation


def test_nothing_held_out_is_trained_on(data: dict[str, list[Row]], cards: list[Card]) -> None:
    frozen = build.heldout()
    for name in ("train.jsonl", "train_theory.jsonl"):
        assert [row["id"] for row in data[name] if row["source"].partition(":")[2] in frozen] == []
    trained = "\n".join(turn["content"] for row in data["train_theory.jsonl"] for turn in row["messages"])
    assert [one.id for one in cards if one.id in frozen and any(text in trained for text in one.definition)] == []
    for name, other in (("eval.jsonl", {"asked", "es", "fr", "de", "pt", "zh", "ja", "hi"}), ("eval_theory.jsonl", set())):
        assert {row["slice"] for row in data[name]} == {"known", "heldout"} | other
        assert all((row["slice"] == "heldout") == (row["source"].partition(":")[2] in frozen) for row in data[name])


def test_no_evaluation_question_is_trained_on(data: dict[str, list[Row]], known: Mapping[str, Frame]) -> None:
    for train, held in (CODE, THEORY):
        assert list(map(str, near.leaks(near.asked(data[held], known), near.asked(data[train], known)))) == []


def code_row(**changes: Any) -> Row:
    """A good row of code."""
    proof = {"test": "assert _last == 2", "frames": {}, "files": {}}
    turns = [*prompts.compose("code", "one and one"), {"role": "assistant", "content": "```python\n1 + 1\n```"}]
    return {"id": "a", "messages": turns, "source": "intent:x", "check": proof, **changes}


def test_a_row_s_form_is_held_to_the_rules() -> None:
    good = code_row()
    system, user, answer = good["messages"]
    assert check.lint_row(good, "code") == []
    theory = [*prompts.compose("theory", "mean?"), {"role": "assistant", "content": "The mean is the sum by the count."}]
    rubric = code_row(messages=theory, check={"must": ["sum"], "must_not": ["product"], "kind": "what"})
    assert check.lint_row(rubric, "theory") == []
    wrong = [
        ("roles", code_row(messages=[system, answer, user]), "code"),
        ("roles", code_row(messages=good["messages"][1:]), "code"),
        ("empty user", code_row(messages=[system, {**user, "content": " "}, answer]), "code"),
        ("system text", code_row(messages=[{**system, "content": "Hi."}, user, answer]), "code"),
        ("one Python block", code_row(messages=[system, user, {**answer, "content": "Sure: ```python\n1 + 1\n```"}]), "code"),
        ("question of", code_row(messages=[system, {**user, "content": "x" * 2_000}, answer]), "code"),
        ("answer of 3 ", code_row(messages=[theory[0], user, {**answer, "content": "Yes"}], check={"must": [], "must_not": []}), "theory"),
        ("in another script", code_row(messages=[system, {**user, "content": "平均を描く"}, answer], slice="es"), "code"),
        ("must 'median'", {**rubric, "check": {"must": ["median"], "must_not": []}}, "theory"),
        ("must_not 'SUM'", {**rubric, "check": {"must": [], "must_not": ["SUM"]}}, "theory"),
    ]
    for fault, row, adapter in wrong:
        found = check.lint_row(row, adapter)
        assert len(found) == 1, (fault, found)
        assert fault in found[0]


def test_doubles_are_named() -> None:
    other = code_row(id="b", messages=[*code_row()["messages"][:2], {"role": "assistant", "content": "```python\n2\n```"}])
    assert check.doubles([code_row(), other]) == []
    assert check.doubles([code_row(), code_row(id="c"), other, other]) == [
        "c: the same conversation as a",
        "b: id used twice",
        "b: the same conversation as b",
    ]


# --- execution


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and later warn of threads, which the children do not use
def test_solutions_pass_their_checks_and_wrong_ones_do_not(intents: list[Intent], known: Mapping[str, Frame]) -> None:
    drawn = random.Random(7).sample(intents, 12)
    right = [next(check.intent_tasks(intent, known, 1, 0)) for intent in drawn]
    empty = [replace(task, name=f"empty {task.name}", code="None") for task in right]
    broken = [
        replace(right[0], name="raises", code="1 / 0"),
        replace(right[0], name="no syntax", code="df["),
        replace(right[0], name="leaves", code="import os\nos._exit(0)"),
        replace(right[0], name="exits", code="raise SystemExit"),
        replace(right[0], name="surrogate", code="raise ValueError('\\ud800')"),
    ]
    failures = dict(check.execute_all([*right, *empty, *broken], jobs=2))
    assert {task.name: failures[task.name] for task in right} == {task.name: "" for task in right}
    assert [task.name for task in empty if not failures[task.name]] == []
    assert failures["raises"].startswith("solution line 1: ZeroDivisionError: division by zero  | 1 / 0")
    assert "SyntaxError" in failures["no syntax"]
    assert failures["leaves"] == "ended the process"
    assert "SystemExit" in failures["exits"]
    assert "ValueError" in failures["surrogate"]


def test_a_subtly_wrong_solution_is_caught(intents: list[Intent], known: Mapping[str, Frame]) -> None:
    slots, solution = {"df": "frame", "col": "numeric"}, '$df["$col"].sum()'
    intent = replace(
        intents[0], slots=slots, solution=solution, check=f"assert _last == {solution}", alternatives=(f"{solution} + 1",), follow=()
    )
    right, wrong = check.intent_tasks(intent, known, 1, 0)
    assert check.execute(right) == ""
    assert check.execute(wrong).startswith("check line 1: AssertionError")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_an_endless_row_is_killed() -> None:
    name, failure = check._run_forked((check.Task("endless", "while True: pass", "", ()), 1.0))
    assert (name, failure) == ("endless", "killed by signal 14 (limit 1 s)")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_passed_is_not_run_again(tmp_path: Path) -> None:
    passed = tmp_path / "deep" / "passed.txt"
    tasks = check.row_tasks([code_row(), code_row(id="b", check={"test": "assert _last == 3", "frames": {}, "files": {}})], {})
    failed, ran = check.run(tasks, 1, passed)
    assert (set(failed), ran) == ({"b"}, 2)
    assert check.run([replace(task, name=f"{task.name}2") for task in tasks], 1, passed)[1] == 1
    assert check.run(tasks, 1, None)[1] == 2
    assert check.run(tasks[:1], 1, passed) == ({}, 0)
    assert check.digest(tasks[0]) != check.digest(replace(tasks[0], files=(("a.csv", "df"),)))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_check_counts_the_faults_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(rows, "intents", list)
    monkeypatch.setattr(rows, "cards", list)
    monkeypatch.setattr(rows, "asked", list)
    monkeypatch.setattr(rows, "tasks", list)
    answer = {"role": "assistant", "content": "```python\n1 + 2\n```"}
    question = {"role": "user", "content": "please one and one thanks"}
    system = code_row()["messages"][0]
    rows.write(tmp_path / "train.jsonl", [code_row(), code_row(id="b", messages=[*code_row()["messages"][:2], answer])])
    rows.write(tmp_path / "eval.jsonl", [code_row(id="c", messages=[system, question, code_row()["messages"][2]], slice="known")])
    config = check.Config(folder=str(tmp_path), passed=str(tmp_path / "passed.txt"), jobs=1)
    assert check.main(config) == 2
    out = capsys.readouterr().out
    assert "c: leak: 'please one and one thanks' is near 'one and one' of a" in out
    assert "b: check line 1: AssertionError" in out
    assert "3 pieces of code, 3 run now, 1 failed, 2 faults" in out
    assert check.main(check.Config(folder=str(tmp_path), passed=str(tmp_path / "passed.txt"), jobs=1, only="a")) == 0
    assert "1 pieces of code, 0 run now" in capsys.readouterr().out


def test_everyday_questions_bring_their_frame_and_show_its_schema(known: Mapping[str, Frame]) -> None:
    asked = rows.asked()
    assert asked
    rng = random.Random(0)
    for one in rng.sample(asked, 40):
        row = build.code_row(one, asked, known, rng)
        assert row["messages"][1]["content"].startswith("Notebook:\n")
        assert one.frame in row["check"]["frames"].values()


def test_an_answer_with_its_own_card_at_hand_is_read_from_it(cards: list[Card]) -> None:
    rng, read = random.Random(3), 0
    for number in range(300):
        row = build.theory_row(cards[number % len(cards)], cards, rng, noted=True)
        prompt, answer = row["messages"][-2]["content"], row["messages"][-1]["content"]
        quoted = [one in prompt for one in build.sentences(answer) if not one.startswith("That is a common")]
        if f"Card: {cards[number % len(cards)].names[0]}\n" in prompt:
            read += 1
            assert all(quoted), (prompt, answer)
    assert read > 80


def test_a_stitched_card_answers_what_nobody_knows(cards: list[Card]) -> None:
    rng = random.Random(4)
    names = {name for card in cards for name in card.names}
    read = []
    for _ in range(60):
        row = build.stitched_row(cards, rng)
        prompt, answer = row["messages"][-2]["content"], row["messages"][-1]["content"]
        assert not {line.removeprefix("Card: ") for line in prompt.splitlines() if line.startswith("Card: ")} <= names
        read += [one in prompt for one in build.sentences(answer)]
    assert sum(read) > 0.97 * len(read)
