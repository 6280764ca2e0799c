"""Which columns a question means, by its words."""

import pytest

from twofold.verify.link import meant, words

COLUMNS = ("ticket", "MemberID", "finish_min", "department", "Unit Price", "unit_cost", "bp_sys", "bp_after", "Gender", "country")


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("mean finish by dept", {"finish_min", "department"}),
        ("plot unit price against unit cost", {"Unit Price", "unit_cost"}),
        ("how many tickets per department", {"department"}),
        ("new members by department", {"department"}),
        ("which MemberID is the oldest", {"MemberID"}),
        ("total per day", set()),
        ("", set()),
    ],
)
def test_columns_are_told_by_their_words(question: str, expected: set[str]) -> None:
    assert meant(question, COLUMNS) == expected


def test_a_word_of_two_columns_tells_neither() -> None:
    assert meant("average pressure", ["bp_sys", "bp_after"]) == frozenset()
    assert meant("average price", ["unit_price", "list_price"]) == frozenset()


def test_names_fall_into_words() -> None:
    assert words("OrderDate2") == words("order_date") == words("Order Date") == ["order", "date"]
