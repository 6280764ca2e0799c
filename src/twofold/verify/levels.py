"""Strings that a column is compared with, held against what it holds: `sex == "female"` finds nothing where the data say F.

A prompt tells no values below the sharing level "levels", so an answer has to guess them; here, beside the data, the guess is seen.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from twofold.verify.repair import Fixed, edited

MOST_ROWS = 1_000_000
"""Longer frames are not looked at."""
MOST = 200
"""Different strings up to which a column's are its levels."""
_ALIKE = ("yes y true t 1 ja si oui", "no n false f 0 nein non", "female f woman women w girl", "male m man men boy")


@dataclass(frozen=True, slots=True)
class Unknown:
    """A comparison with a string that its column does not hold."""

    column: str
    literal: ast.Constant
    levels: tuple[str, ...]
    meant: str = ""
    """The one level that it most likely means; "" for none."""

    def __str__(self) -> str:
        """The reason for the user; levels are shown, as the user's own data is at hand."""
        shown = ", ".join(self.levels[:6]) + (", ..." if len(self.levels) > 6 else "")
        return f"{self.column} is never {str(self.literal.value)!r}; it is {shown}"


def unknown(tree: ast.Module, question: str, frames: Iterable[tuple[str, Any]]) -> Iterator[Unknown]:
    """The comparisons that find nothing in the given frames. A string that the question spells and that means no level is the user's."""
    held = dict(frames)
    changed = set(_changed(tree))
    for frame, column, literals in _comparisons(tree):
        if frame not in held or column in changed:
            continue
        levels = _levels(held[frame], column)
        for literal in literals if levels else ():
            if literal.value not in levels:
                meant = closest(str(literal.value), levels)
                if meant or str(literal.value).casefold() not in question.casefold():
                    yield Unknown(column, literal, levels, meant)


def mended(code: str, question: str, frames: Iterable[tuple[str, Any]]) -> Fixed | None:
    """The code with each string that means one of its column's levels replaced by it, or None."""
    found = [one for one in unknown(ast.parse(code), question, frames) if one.meant]
    if not found:
        return None
    told = "; ".join(dict.fromkeys(f"{one.column} {one.literal.value!r} is {one.meant!r}" for one in found))
    return Fixed(edited(code, [(one.literal, one.meant) for one in found]), told)


def closest(literal: str, levels: Sequence[str]) -> str:
    """The one level that a string means: the same but for case and blanks, a word of the same sense, or its beginning; "" for none."""
    wanted = literal.strip().casefold()
    plain = {level: level.strip().casefold() for level in levels}
    senses = [words for words in map(str.split, _ALIKE) if wanted in words]
    for alike in (
        [level for level, text in plain.items() if text == wanted],
        [level for level, text in plain.items() if any(text in words for words in senses)],
        [level for level, text in plain.items() if text and wanted and (text.startswith(wanted) or wanted.startswith(text))],
    ):
        if len(alike) == 1:
            return alike[0]
    return ""


def _levels(frame: Any, column: str) -> tuple[str, ...]:
    """The different strings of a column; nothing where it holds other things, or too many."""
    if len(frame) > MOST_ROWS or not frame.columns.is_unique or column not in frame.columns:
        return ()
    values = frame[column].dropna().unique().tolist()
    return tuple(sorted(values)) if 0 < len(values) <= MOST and all(isinstance(value, str) for value in values) else ()


def _column(node: ast.AST) -> tuple[str, str]:
    """(frame, column) of `df["column"]` or `df.column`; two empty strings for anything else."""
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and isinstance(node.slice, ast.Constant):
        return node.value.id, str(node.slice.value)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.value.id, node.attr
    return "", ""


def _comparisons(tree: ast.Module) -> Iterator[tuple[str, str, list[ast.Constant]]]:
    """Frame, column and the strings that it is compared with by ==, != or isin."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
            for one, other in ((node.left, node.comparators[0]), (node.comparators[0], node.left)):
                if isinstance(other, ast.Constant) and isinstance(other.value, str):
                    yield *_column(one), [other]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "isin" and node.args:
            listed = node.args[0].elts if isinstance(node.args[0], (ast.List, ast.Tuple, ast.Set)) else []
            yield *_column(node.func.value), [one for one in listed if isinstance(one, ast.Constant) and isinstance(one.value, str)]


def _changed(tree: ast.Module) -> Iterator[str]:
    """Columns that the code itself writes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from (part.value for part in ast.walk(target) if isinstance(part, ast.Constant) and isinstance(part.value, str))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("assign", "replace", "rename"):
            yield from (keyword.arg for keyword in node.keywords if keyword.arg)
