"""datasets.vary: the same task over another file still asks for what its code does."""

import random
import re

import pytest

from twofold import twin
from twofold.datasets import rows
from twofold.datasets.vary import varied
from twofold.twin import Column

FRAME = rows.Frame(
    "sales", (Column("unit_price", "float", 1, 9), Column("Qty", "int", 1, 9), Column("count", "int", 1, 9), Column("id", "id"))
)
TASK = rows.Task("t", ("top 5 of unit_price times qty",), 'df.assign(x=df["unit_price"] * df["Qty"]).nlargest(5, "x")', FRAME)


@pytest.fixture
def many() -> list[rows.Task]:
    return [varied(TASK, random.Random(seed)) for seed in range(200)]


def test_code_runs_on_the_columns_that_it_now_has(many: list[rows.Task]) -> None:
    for task in many:
        assert task.frame is not None
        df = twin.make(task.frame.columns, 1, 20)
        wanted = int(re.findall(r"\d+", task.asks[0])[0])
        assert len(eval(task.solution, {"df": df})) == min(wanted, 20)  # noqa: S307  a solution of ours


def test_names_and_numbers_change_in_question_and_code_alike(many: list[rows.Task]) -> None:
    assert len({task.solution for task in many}) > 10
    for task in many:
        price = next(name for name in re.findall(r'df\["(.+?)"\]', task.solution) if name.lower().startswith("unit"))
        assert price in task.asks[0]
        assert re.findall(r"\d+", task.asks[0])[0] in task.solution


def test_what_the_code_uses_stays_and_the_rest_changes(many: list[rows.Task]) -> None:
    held = [{re.sub(r"\W|_", "", col.name).lower() for col in task.frame.columns} for task in many if task.frame]
    assert all({"unitprice", "qty"} <= names for names in held)
    assert any("id" not in names for names in held)
    assert any(len(names) > 4 for names in held)
    names = [col.name for task in many if task.frame for col in task.frame.columns]
    assert {name for name in names if name.lower() == "count"} == {"count"}


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        ("bins 0-5, 6-12", "[0, 5, 12]"),  # a range
        ("95% interval", 'print("95% interval")'),  # said, not computed
        ("orders of 2023", "2023"),  # a year
        ("top 5 and 5 more", "[5]"),  # twice
    ],
)
def test_numbers_that_mean_more_than_themselves_stay(ask: str, code: str) -> None:
    assert {varied(rows.Task("t", (ask,), code), random.Random(seed)).solution for seed in range(40)} == {code}


@pytest.mark.parametrize("task", random.Random(0).sample(rows.tasks(), 30), ids=lambda task: task.id)
def test_packaged_tasks_keep_quoted_columns_known(task: rows.Task) -> None:
    made = varied(task, random.Random(1))
    if made.frame is None or task.frame is None:
        return
    before = {col.name for col in task.frame.columns if f'"{col.name}"' in task.solution}
    after = {col.name for col in made.frame.columns if f'"{col.name}"' in made.solution}
    assert len(after) >= len(before)
