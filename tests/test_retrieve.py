"""retrieve: what is found, what is not, what fits; datasets.notes: the same file every time, honest measurement."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold import assistant, retrieve
from twofold.datasets import build, notes, rows
from twofold.engines.scripted import Scripted
from twofold.retrieve import Source, nearest
from twofold.types import Message, Note, Request, Route, Sampling, TwofoldError


def found(question: str, kind: retrieve.Kind = "card", **options: object) -> list[str]:
    return [note.source for note in nearest(question, kind, **options)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, float]]:
    """What main would write about indexes without the asked wordings, of every sixth question."""
    return notes.report(Path("no strays"), every=6)


def test_recall_on_wordings_that_are_not_indexed(measured: dict[str, dict[str, float]]) -> None:
    example, card = measured["example"], measured["card"]
    assert example["recall_at_1"] >= 75
    assert example["recall_at_2"] >= 84
    assert card["recall_at_1"] >= 54
    assert card["recall_at_2"] >= 63


def test_asking_by_name_finds_the_card(measured: dict[str, dict[str, dict[str, float]]]) -> None:
    assert measured["card"]["by_name"]["recall_at_1"] >= 93


def test_a_question_takes_milliseconds(measured: dict[str, dict[str, float]]) -> None:
    assert measured["example"]["ms_median"] < 150  # 25 on an idle core, most of it the encoder's
    assert measured["card"]["ms_median"] < 150


@pytest.mark.parametrize(
    ("question", "source"),
    [
        ("什么是交叉验证?", "cross-validation"),
        ("交差検証とは", "cross-validation"),
        ("क्रॉस-वैलिडेशन क्या है", "cross-validation"),
        ("¿qué es la validacion cruzada?", "cross-validation"),
        ("WHAT IS OVERFITTING", "overfitting"),
        ("formula for the f1 score", "f1-score"),
    ],
)
def test_cards_are_found_by_name_in_any_language(question: str, source: str) -> None:
    assert found(question) == [source]


@pytest.mark.parametrize("question", ["pca or t-sne", "lasso or ridge?", "k-means vs dbscan", "過学習と正則化の違い"])
def test_two_named_concepts_bring_both_cards(question: str) -> None:
    assert len(found(question)) == 2


def test_versus_keeps_the_line_that_compares() -> None:
    texts = [note.text for note in nearest("ridge vs lasso", "card")]
    assert any("Versus" in text for text in texts)
    assert sum(map(len, texts)) <= retrieve.BUDGET


@pytest.mark.parametrize("kind", ["example", "card"])
@pytest.mark.parametrize("question", ["", "   ", "asdf qwer zxcv", "my cat sleeps on the sofa", "!!!", "12345", "🤖🤖"])
def test_nonsense_finds_nothing(question: str, kind: retrieve.Kind) -> None:
    assert nearest(question, kind) == ()


@pytest.mark.parametrize("start", ["\x00", "((", "[INST]", '"', "\ud800", *(20_000 * mark for mark in ("a", "_", "\ufdfa", "交", "१"))])
def test_hostile_text_is_only_text(start: str) -> None:
    began = time.perf_counter()
    for kind in ("example", "card"):
        nearest(start + " histogram", kind, notebook=f'df: 3 rows; "{start}" float64', history=[{"role": "user", "content": start}])
    assert time.perf_counter() - began < 5


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_gives_notes_within_the_budget(question: str, notebook: str) -> None:
    for kind in ("example", "card"):
        assert sum(len(note.text) for note in nearest(question, kind, notebook=notebook)) <= retrieve.BUDGET


def test_the_users_own_names_say_nothing() -> None:
    notebook = 'df: 9 rows; heatmap float64, "violin plot" str, order_date datetime64[ns]'
    assert retrieve.schema_names(notebook) == {
        "df": "", "heatmap": "", "violin plot": "", "order_date": "date", "order date": "date",
    }  # fmt: skip
    own = retrieve.schema_names(notebook)
    assert retrieve.anonymous("histogram of Heatmap and violin plot by order date", own).split() == ["histogram", "of", "and", "by", "date"]
    assert all("heatmap" not in source for source in found("plot a histogram of heatmap", "example", notebook=notebook))


def test_a_follow_up_is_read_with_its_question() -> None:
    asked = [{"role": "user", "content": "what is overfitting"}, {"role": "assistant", "content": "..."}]
    assert found("why?") == []
    assert found("why?", history=asked) == ["overfitting"]


def test_cards_lose_whole_last_lines_but_not_what_is_asked() -> None:
    card = Note("card", "x", "\n".join(f"{label}: {'w' * 90}" for label in ("Definition", "How", "Formula", "Example", "Versus y")), "x")
    (kept,) = retrieve.fit([card], "what is x", 220)
    assert [line.partition(":")[0] for line in kept.text.splitlines()] == ["Definition", "How"]
    (kept,) = retrieve.fit([card], "the formula please", 220)
    assert [line.partition(":")[0] for line in kept.text.splitlines()] == ["Definition", "Formula"]
    (kept,) = retrieve.fit([card], "x or y", 220)
    assert [line.partition(":")[0] for line in kept.text.splitlines()] == ["Definition", "Versus y"]


def test_a_card_keeps_the_line_that_speaks_of_the_question() -> None:
    lines = ["Definition: A foo is a bar.", "How: " + "First this happens, then that. " * 4, "Why: " + "It saves memory on servers. " * 4]
    card = Note("card", "foo", "\n".join(lines), "foo")
    (kept,) = retrieve.fit([card], "does foo save memory", 160)
    assert kept.text.splitlines() == [lines[0], lines[2]]
    (kept,) = retrieve.fit([card], "what happens in foo", 170)
    assert kept.text.splitlines() == lines[:2]


def test_an_example_is_whole_or_absent() -> None:
    short, long = Note("example", "a", "1", "a"), Note("example", "b", "2" * 500, "b")
    assert retrieve.fit([long, short], "", 100) == (short,)


def test_names_of_stop_words_or_nothing_do_no_harm() -> None:
    index = retrieve.build([Source((Note("card", "the", "text", "a"),), ("the", "", "?!"))])
    assert index.mentioned("the ?!") == []
    assert retrieve.choose(retrieve.build([]), "anything", {}) == []


def test_a_missing_or_broken_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match="twofold data notes"):
        retrieve.read(tmp_path / "absent.jsonl")
    (tmp_path / "broken.jsonl").write_text('{"kind": "poem"}\n')
    with pytest.raises(TwofoldError, match="twofold data notes"):
        retrieve.read(tmp_path / "broken.jsonl")


def test_the_build_is_deterministic_and_what_is_packaged_is_small_and_whole(tmp_path: Path) -> None:
    for name in ("one.jsonl", "two.jsonl"):
        rows.write(tmp_path / name, notes.lines(notes.sources()))
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    packaged = retrieve.NOTES.read_text(encoding="utf-8")
    assert len(packaged.encode()) < notes.MOST_BYTES
    ids = {source.notes[0].source for sources in retrieve.read().values() for source in sources}
    assert ids == {one.id for one in (*rows.intents(), *rows.cards())}
    searched = {source.notes[0].source for found in notes.sources(-build.EVAL_ASKS).values() for source in found}
    assert not searched & build.heldout(), "the evaluation searches what it holds out"


def test_import_reads_nothing() -> None:
    code = "import sys, twofold.retrieve as r; assert not r.load.cache_info().currsize; assert not {'numpy', 'scipy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("adapter", "sources"), [("theory", ("overfitting",)), ("base", ()), ("mine", ())])
def test_the_reply_names_its_sources_and_only_code_and_theory_get_notes(
    adapter: str, sources: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(messages: Sequence[Message], _adapter: str, _sampling: Sampling) -> str:
        asked.append(messages[-1]["content"])
        return "It is."

    monkeypatch.setattr(assistant, "decide", lambda _request: Route(adapter, "a test says so"))
    reply = assistant.ask(Request("what is overfitting?"), Scripted(answer, adapters=("code", "theory", "mine")))
    assert reply.sources == sources
    assert ("Card: overfitting" in asked[0]) == bool(sources)


def test_of_two_alike_the_plain_one_is_meant() -> None:
    index = retrieve.load("example")
    for question, source in (("histogram of quantity", "plot-histogram"), ("box plot of price", "plot-box")):
        first = index.ranked(question, {"quantity": "", "price": ""})[0][1]
        assert index.sources[first].notes[0].source == source


def test_rivals_of_an_example_join_it_and_nothing_else() -> None:
    ids = ("one", "two", "three", "four")
    sources = [
        retrieve.Source((Note("example", one, "1", one),), (), (key,))
        for one, key in zip(ids, ("violin plot", "violin plots", "melt", "pivot"), strict=True)
    ]
    index = retrieve.build(sources)
    assert retrieve.choose(index, "a violin plot", {}) == [0, 1]
    assert retrieve.choose(index, "please melt it", {}) == [2]
