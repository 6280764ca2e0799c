"""The same everyday task of somebody else: other numbers; columns spelt or ordered in another way, some gone, strangers among them."""

import random
import re
from dataclasses import replace

from twofold.datasets import coin, rows

STYLES = ("snake", "camel", "pascal", "upper", "spaced")
NUMBER = r"(?<![\w.])\d+(?![\w.])"
TAKEN = frozenset(
    ["count", "size", "mean", "median", "sum", "min", "max", "std", "var", "first", "last", "index", "date", "day", "month", "year", "time"]
)
"""Columns that keep their name, because pandas has the word too."""


def varied(task: rows.Task, rng: random.Random) -> rows.Task:
    """A task as somebody else would pose it about a file of their own."""
    if rng.random() < 0.5:
        task = _renumbered(task, rng)
    if task.frame is None:
        return task
    texts = (task.solution, task.check, *task.asks)
    columns = [col for col in task.frame.columns if any(_words(col.name, text) for text in texts) or rng.random() < 0.75]
    known = {col.name for col in task.frame.columns}
    strangers = [col for col in coin.frame(rng).columns if col.name not in known]
    columns += rng.sample(strangers, rng.choice((0, 0, 1, 3)))
    if rng.random() < 0.5:
        rng.shuffle(columns)
    task = replace(task, frame=replace(task.frame, columns=tuple(columns)))
    return _restyled(task, rng.choice(STYLES)) if rng.random() < 0.5 else task


def _renumbered(task: rows.Task, rng: random.Random) -> rows.Task:
    """A task with other numbers in the place of those that each of its asks and its code name once; ranges and lists stay."""
    numbers = set(re.findall(NUMBER, task.solution)) - {"0", "1"}
    if re.search(r"\d\s?[-/:.,]\s?\d", " ".join(task.asks)):
        return task
    for old in sorted(numbers):
        once = [len(re.findall(rf"(?<![\w.]){old}(?![\w.])", text)) == 1 for text in (*task.asks, task.solution)]
        percent = re.search(rf"\b{old}\s?(%|percent)", " ".join((*task.asks, task.solution)))
        listed = re.search(rf"\d\s*,\s*{old}\b|\b{old}\s*,\s*\d", task.solution)  # bins must stay in order
        if all(once) and old not in task.check and not percent and not listed and not 1900 <= int(old) <= 2100:
            new = str(_near(int(old), rng))
            texts = [re.sub(rf"(?<![\w.]){old}(?![\w.])", new, text) for text in (*task.asks, task.solution)]
            task = replace(task, asks=tuple(texts[:-1]), solution=texts[-1])
    return task


def _near(number: int, rng: random.Random) -> int:
    """Another number that people would say in its place."""
    if number < 10:
        return rng.randint(2, 9)
    size: int = 10 ** (len(str(number)) - 1)
    return size // 10 * rng.choice((10, 12, 15, 20, 25, 30, 40, 50, 60, 75, 80))


def _restyled(task: rows.Task, style: str) -> rows.Task:
    """A task whose columns are spelt in a style, but for those that its code does not simply quote."""
    assert task.frame is not None
    taken = {col.name for col in task.frame.columns}
    fresh: dict[str, str] = {}
    for col in task.frame.columns:
        new = coin.styled(col.name, style)
        bare = _words(col.name, _quoted(col.name).sub("", task.solution)) or _words(col.name, _quoted(col.name).sub("", task.check))
        if not bare and col.name.lower() not in TAKEN and new not in taken:
            fresh[col.name] = new
            taken.add(new)

    def code(text: str) -> str:
        for old, new in fresh.items():
            text = _quoted(old).sub(lambda quoted, new=new: f"{quoted[1]}{new}{quoted[1]}", text)  # type: ignore[misc]
        return text

    def said(text: str) -> str:
        names = [re.escape(old) for old in fresh if re.search(r"[_A-Z]", old)]  # "price" in a question is a word, unit_price a column
        text = re.sub(rf"(?<!\w)(?:{'|'.join(names)})(?!\w)", lambda name: fresh[name[0]], text) if names else text
        return code(text)

    columns = tuple(replace(col, name=fresh.get(col.name, col.name)) for col in task.frame.columns)
    asks = tuple(map(said, task.asks))
    return replace(task, asks=asks, solution=code(task.solution), check=code(task.check), frame=replace(task.frame, columns=columns))


def _words(name: str, text: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text))


def _quoted(name: str) -> re.Pattern[str]:
    return re.compile(rf"""(["']){re.escape(name)}\1""")
