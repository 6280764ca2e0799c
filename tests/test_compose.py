"""Composed tasks: every family draws code that runs and passes its check, and follow-ups change what they say."""

import random

import pytest

from twofold.datasets import check, coin, compose


def draws(family: object, count: int) -> list[tuple[compose.Task, object]]:
    """Tasks of one family over fresh frames."""
    found = []
    for seed in range(count):
        rng = random.Random(f"{family}/{seed}")
        frame = coin.frame(rng, spaced=True, wide=True)
        found.append((compose.task(rng, frame, "df", loose=seed % 2 == 0, family=family)[0], frame))  # type: ignore[arg-type]
    return found


@pytest.mark.filterwarnings("default")  # what seaborn says of matplotlib is not ours
@pytest.mark.parametrize("family", [family for family, _ in compose.FAMILIES], ids=lambda family: family.__name__)
def test_every_family_runs(family: object) -> None:
    tasks = []
    for number, (task, frame) in enumerate(draws(family, 8)):
        tasks.append(check.Task(f"{number} {task.ask}\n{task.code}", task.code, task.check, (("df", frame),)))  # type: ignore[arg-type]
        if task.follow:
            tasks.append(check.Task(f"{number} {task.follow[0]}\n{task.follow[1]}", *task.follow[1:], (("df", frame),)))  # type: ignore[arg-type]
    assert [f"{task.name}: {failure}" for task in tasks if (failure := check.execute(task))] == []


def test_what_is_asked_stands_in_the_code() -> None:
    for task, frame in draws(compose.columns, 60):
        named = [col.name for col in frame.columns if f'"{col.name}"' in task.code]  # type: ignore[attr-defined]
        said = task.ask.lower().replace("_", " ")
        assert all(name.lower().replace("_", " ") in said for name in named), task


def test_a_value_is_never_read_as_a_template() -> None:
    draw = compose.Draw(random.Random(0), coin.frame(random.Random(0)), "df")
    assert draw.fill("{a} and {b}", a="{b}", b="x") == "{b} and x"
