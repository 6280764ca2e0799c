import pytest

from twofold.memory import CHARACTERS_PER_TOKEN, recall
from twofold.types import Message, Route

BACK = Route("code", "follows up", recall=True)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


HISTORY = (user("q1"), assistant("a1"), user("q2"), assistant("a2"))


def test_a_fresh_question_recalls_nothing() -> None:
    assert recall(HISTORY, Route("code", "fresh")) == ()


def test_all_that_fits_comes_oldest_first() -> None:
    assert recall(HISTORY, BACK) == HISTORY
    assert recall((), BACK) == ()


def test_older_pairs_go_first() -> None:
    long = user("x" * 400)
    assert recall((long, assistant("a"), *HISTORY), BACK, budget=100) == HISTORY
    assert recall((user("q0"), assistant("a0"), long, assistant("a"), *HISTORY), BACK, budget=100) == HISTORY  # no gap


def test_the_last_pair_stays_however_long() -> None:
    kept = recall((*HISTORY, user("q" * 5000), assistant("a" * 5000)), BACK, budget=100)
    assert [one["role"] for one in kept] == ["user", "assistant"]
    assert sum(len(one["content"]) for one in kept) <= 100 * CHARACTERS_PER_TOKEN
    assert [set(one["content"]) for one in kept] == [{"q"}, {"a"}]


@pytest.mark.parametrize(("asked", "answered"), [(7, 5000), (5000, 7)])
def test_a_short_half_leaves_its_room_to_the_long_one(asked: int, answered: int) -> None:
    kept = recall((user("q" * asked), assistant("a" * answered)), BACK, budget=100)
    assert sorted(len(one["content"]) for one in kept) == [7, 100 * CHARACTERS_PER_TOKEN - 7]


@pytest.mark.parametrize(
    "history",
    [
        (user("unanswered"), *HISTORY),
        (*HISTORY, user("unanswered")),
        (assistant("greeting"), *HISTORY),
        ({"role": "system", "content": "s"}, *HISTORY),
        (*HISTORY, assistant("twice")),
    ],
)
def test_only_whole_pairs_count(history: tuple[Message, ...]) -> None:
    assert recall(history, BACK) == HISTORY
