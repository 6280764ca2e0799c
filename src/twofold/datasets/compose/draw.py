"""What every family draws with: the frame at hand, chance, how names are said, and the task that comes out."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from twofold.datasets.rows import Frame, words
from twofold.twin import Column

ANSWERED = "assert _last is not None\n"  # a check: the last line has a value
DRAWN = "assert plt.gcf().axes\n"  # a check: there is a chart; a filter may have left it nothing to show

# How each statistic of pandas is asked for.
FUNCTIONS = {
    "mean": ("average", "mean", "avg", "typical (mean)"),
    "sum": ("total", "sum of", "overall", "summed"),
    "max": ("highest", "maximum", "max", "largest"),
    "min": ("lowest", "minimum", "min", "smallest"),
    "median": ("median", "middle (median)"),
    "std": ("standard deviation of", "std of", "spread (std) of"),
}


@dataclass(frozen=True, slots=True)
class Task:
    """One composed task: what is asked, the code that does it, a check, and perhaps a next question with its code and check."""

    ask: str
    code: str
    check: str = ANSWERED
    follow: tuple[str, str, str] | None = None


@dataclass(frozen=True, slots=True)
class Draw:
    """What a task is drawn from: chance, a frame, the variable that holds it, and how names are said."""

    rng: random.Random
    frame: Frame
    df: str
    loose: bool = False
    """True when the prompt shows the schema, so that a name may be said with blanks for underscores."""

    def columns(self, *kinds: str) -> list[Column]:
        """The frame's columns of these kinds, shuffled."""
        found = [one for one in self.frame.columns if one.kind in kinds]
        self.rng.shuffle(found)
        return found

    def names(self, *kinds: str) -> list[str]:
        """The names of the frame's columns of these kinds, shuffled."""
        return [one.name for one in self.columns(*kinds)]

    def said(self, name: str) -> str:
        """A column's name as somebody types it."""
        drawn = self.rng.random()
        if self.loose and drawn < 0.25:
            return name.replace("_", " ").lower()
        if drawn < 0.32:
            return f"`{name}`"
        return f"'{name}'" if drawn < 0.4 or " " in name else name

    def listed(self, names: Sequence[str]) -> str:
        """Several names in words."""
        said = [self.said(name) for name in names]
        blanks = any(" " in one for one in said)
        return self.rng.choice((words(said), ", ".join(said), words(said) if blanks else " ".join(said)))

    def pick(self, ways: str) -> str:
        """One of the wordings between bars."""
        return self.rng.choice(ways.split("|"))

    def fill(self, template: str, **values: str) -> str:
        """Put values into a template, each brace name once; values are never read as templates."""
        first, *rest = template.split("{")
        parts = [first]
        for piece in rest:
            name, brace, after = piece.partition("}")
            parts.append(values[name] + after if brace else piece)
        return "".join(parts)

    def say(self, ways: str, **values: str) -> str:
        """One of the wordings between bars, with the values in it."""
        return self.fill(self.pick(ways), **values)


def text(value: str) -> str:
    """A Python string."""
    return json.dumps(value, ensure_ascii=False)


def quoted(names: Sequence[str]) -> str:
    """A Python list of names."""
    return json.dumps(list(names), ensure_ascii=False)


def col(draw: Draw, name: str) -> str:
    """The code of one column."""
    return f"{draw.df}[{text(name)}]"
