from typing import Any

import pytest

from twofold import prompts
from twofold.datasets import near, rows
from twofold.datasets.near import Asked
from twofold.datasets.phrases import ASKING, INTROS, LEADS, TAILS
from twofold.types import Note


def asked(text: str, source: str = "intent:a", names: tuple[str, ...] = ()) -> Asked:
    return Asked("row", source, text, near.plain(text, names))


def test_a_question_is_what_was_asked_whatever_stands_before_it() -> None:
    notes = [Note("example", "sum it", "x = 1\n\n\nx", "a"), Note("card", "mean", "Definition: one.\nHow: two.", "b")]
    for ask in ("plot price", "```python\ndf[\n```\n\nwhat is wrong", "Cards are fun"):
        for notebook in ("", "df: 3 rows; price float64"):
            for known in ([], notes, notes[::-1]):
                assert near.question(prompts.user_text(ask, notebook, known)) == ask


def test_a_turn_that_shows_an_error_asks_nothing() -> None:
    messages = prompts.repair(prompts.compose("code", "plot price"), "```python\nx\n```", "NameError: x")
    assert near.questions({"messages": messages}) == ["plot price"]


def test_words_of_every_script() -> None:
    assert near.words("What's the R² of `price`?") == ["what", "s", "the", "r2", "of", "price"]
    assert near.words("計算する") == list("計算する")
    assert near.words("औसत क्या है") == ["औसत", "क्या", "है"]


def test_plain_is_the_wording_alone() -> None:
    assert near.plain("plot unit_price by Region", ("unit_price", "Region")) == "plot x by x"
    assert near.plain("plot unit price by `region`", ("unit_price", "region")) == "plot x by x"
    assert near.plain("average of a1, b1 and c1 with 20 bins", ("a1", "b1", "c1")) == "average of x with 0 bins"
    assert near.plain("please") == "please"
    wording = "plot the price"
    around = [lead + wording for lead in (*LEADS, *ASKING)] + [wording + tail for tail in TAILS]
    around += [intro.format(df="df", columns="a, b") + " " + wording for intro in INTROS]
    assert {near.plain(text) for text in around} == {wording}


def test_names_are_those_of_the_row_at_hand() -> None:
    row = {"check": {"frames": {"df": {"gross_total": "float 0 1"}}, "files": {"a.csv": "df"}}}
    assert near.names_of(row, rows.frames()) == {"df", "gross_total", "a.csv"}


def test_twins_are_found_before_and_across() -> None:
    long = "group the sales by region and show the mean price of every product line in a sorted table"
    texts = ["plot price", long, "Plot price!", "explain overfitting", long + "s", long.replace("mean price", "median weight per year")]
    found = near.twins(texts)
    assert found[2] == (0, 1.0)
    assert set(found) == {2, 4}
    assert found[4][0] == 1
    assert near.ALIKE < found[4][1] < 1
    assert near.twins(["plot price", "explain underfitting"], texts) == {0: (0, 1.0)}
    assert near.twins([], texts) == near.twins([]) == {}


@pytest.mark.parametrize(
    ("held", "seen", "share"),
    [
        ("one two three four five six seven eight", "zero One, two three four five six seven eight nine", 1.0),
        ("one two three four five six seven eight nine", "one two three four five six seven eight ten", 0.5),
        ("explain collider bias", "explain collider bias without math", 1.0),
        ("explain collider bias", "explain bias of a collider", 0.0),
        ("", "anything", 0.0),
    ],
)
def test_containment_is_the_share_of_grams_in_one_question(held: str, seen: str, share: float) -> None:
    assert near.containment([asked(held)], [asked("nothing of it"), asked(seen)]) == [(share, 1 if share else -1)]


def test_a_leak_is_contained_anywhere_or_alike_in_one_source() -> None:
    seen = [asked("plot the average unit_price for each region", names=("unit_price", "region")), asked("what is PCA exactly", "card:pca")]
    held: list[tuple[Asked, Any]] = [
        (asked("plot the average fare for each port", names=("fare", "port")), seen[0]),
        (asked("plot the average fare for each port", "intent:b", ("fare", "port")), None),
        (asked("What is PCA", "card:other"), seen[1]),
        (asked("why would i rotate my data", "card:pca"), None),
    ]
    found = near.leaks([one for one, _ in held], seen)
    assert [(leak.held, leak.seen) for leak in found] == [(one, other) for one, other in held if other]
    assert [leak.contained for leak in found] == [0.0, 1.0]
    assert "contained 100 %" in str(found[1])
