"""Code damaged the way people damage it, with the error that follows: what a turn that asks for a repair shows."""

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

IMPORT = re.compile(r"import \w+(\.\w+)* as (\w+)$|from [\w.]+ import (\w+)$")
COLUMN = re.compile(r'\["(\w{3,})"\]')
FRAME = re.compile(r"\bdf\b")


class Failure(NamedTuple):
    """Code that fails, and what Python says of it."""

    code: str
    error: str


def damaged(code: str, rng: random.Random) -> Failure | None:
    """The code without an import or a bracket, or with a frame's or a column's name gone wrong; None where that breaks nothing."""
    lines = code.splitlines()
    how = rng.choice(("column", "column", "import", "bracket", "name"))
    if how == "bracket":
        return _unclosed(lines, rng)
    imports = [at for at, line in enumerate(lines) if IMPORT.match(line)]
    if how == "import" and imports:
        return _unimported(lines, rng.choice(imports))
    if how == "name" and FRAME.search(code):
        return _other_frame(lines, rng.choice(("data", "d", "frame", "dataframe")))
    return _other_column(lines, rng)


def _unclosed(lines: Sequence[str], rng: random.Random) -> Failure | None:
    ends = [at for at, line in enumerate(lines) if line.endswith((")", "]"))]
    if not ends:
        return None
    at = rng.choice(ends)
    opened = "(" if lines[at].endswith(")") else "["
    bad = [*lines[:at], lines[at][:-1], *lines[at + 1 :]]
    return Failure("\n".join(bad), f"{_place(bad, at)}\nSyntaxError: '{opened}' was never closed")


def _unimported(lines: Sequence[str], gone: int) -> Failure | None:
    name = lines[gone].split()[-1]
    used = next((at for at, line in enumerate(lines) if at != gone and re.search(rf"\b{name}\b", line)), None)
    if used is None:
        return None
    return _raised([line for line in lines if line != lines[gone]], used - (gone < used), f"NameError: name '{name}' is not defined")


def _other_frame(lines: Sequence[str], wrong: str) -> Failure:
    first = next(at for at, line in enumerate(lines) if FRAME.search(line))
    return _raised([FRAME.sub(wrong, line) for line in lines], first, f"NameError: name '{wrong}' is not defined")


def _other_column(lines: Sequence[str], rng: random.Random) -> Failure | None:
    named = [(at, name) for at, line in enumerate(lines) if not line.lstrip().startswith("#") for name in COLUMN.findall(line)]
    if not named:
        return None
    at, name = rng.choice(named)
    wrong = rng.choice((name.capitalize(), name.lower() + "s", name.replace("_", ""), name[:-1], name.upper()))
    if wrong == name:
        return None
    return _raised([*lines[:at], lines[at].replace(f'"{name}"', f'"{wrong}"'), *lines[at + 1 :]], at, f"KeyError: '{wrong}'")


def _raised(bad: Sequence[str], at: int, error: str) -> Failure:
    return Failure("\n".join(bad), f"Traceback (most recent call last):\n{_place(bad, at, ', in <module>')}\n{error}")


def _place(bad: Sequence[str], at: int, inside: str = "") -> str:
    indent = "  " if inside else ""
    return f'{indent}File "<cell>", line {at + 1}{inside}\n    {bad[at].strip()}'
