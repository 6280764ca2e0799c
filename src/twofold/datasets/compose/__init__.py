"""Composed tasks: conditions, statistics, plots and models put together at random, each with a question and its code.

Intents are written by hand and few; a composition is drawn from a small grammar and rarely seen twice, so a model has to read the question
and the schema. Names and values are drawn from the frame at hand. English only. Each family is a function from a `Draw` to a `Task`, or to
None where the frame lacks what it needs; wordings stand between bars, and the order of draws decides what a seed renders.
"""

import random
from collections.abc import Callable

from twofold.datasets.compose.charts import plot
from twofold.datasets.compose.draw import Draw, Task
from twofold.datasets.compose.groups import aggregate
from twofold.datasets.compose.models import model
from twofold.datasets.compose.tables import clean, columns, derive, rows, scalar, table
from twofold.datasets.rows import Frame

__all__ = ["FAMILIES", "Draw", "Family", "Task", "columns", "task"]

Family = Callable[[Draw], Task | None]

# How often each family is drawn.
FAMILIES: tuple[tuple[Family, float], ...] = (
    (aggregate, 5), (rows, 4), (columns, 3), (derive, 4), (scalar, 3), (plot, 4), (clean, 3), (table, 2.5), (model, 2.5),
)  # fmt: skip


def task(rng: random.Random, frame: Frame, df: str, loose: bool, family: Family | None = None) -> tuple[Task, Family]:
    """A task drawn for a frame held in variable `df`, and the family it is of. family: draw from this one."""
    draw = Draw(rng, frame, df, loose)
    while True:
        chosen = family or rng.choices([one for one, _ in FAMILIES], [weight for _, weight in FAMILIES])[0]
        if len(draw.columns("float", "int")) < 3 or len(draw.columns("cat")) < 1:
            raise ValueError("a composed task needs three numeric columns and a category")
        made = chosen(draw)
        if made is not None:
            return made, chosen
