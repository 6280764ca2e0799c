"""PatternMatch: does an answer hold what any right answer holds? Nothing is run.

Code: the answer's syntax tree holds every name that the user gave and the reference uses (columns, new columns, input files) and the
reference's main call: of the attributes and functions it uses, the one that the fewest intents use. `hist`, not `xlabel`.
Theory: the card's rubric, every `must` pattern found and no `must_not`.

Limits: a right answer by another road (`df.query` for a mask) misses the main call; a wrong one may hold all names. ExecPass and CheckPass
of `evals.execution` judge behaviour.
"""

import ast
import builtins
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from twofold.clean import code_of, tree_of
from twofold.datasets import rows

DISPLAY = frozenset(
    {"head", "tail", "show", "print", "display", "title", "suptitle", "xlabel", "ylabel", "legend"}
    | {"figure", "subplots", "tight_layout", "copy", "dropna"}
)
"""Names that show or tidy a result: never the main call."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an answer must hold: the user's names, and the main call ("" where the reference calls nothing telling)."""

    names: frozenset[str]
    call: str


@dataclass(frozen=True, slots=True)
class Rubric:
    """How an explanation meets its card's rubric."""

    passed: bool
    share: float
    """Share of the must patterns found, 0-1."""
    wrong: bool
    """A must_not pattern was found."""


def api(tree: ast.AST) -> list[str]:
    """The attributes and called functions of a tree, in no particular order; builtins and functions that it defines itself left out."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    called = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return list(dict.fromkeys([*found, *(name for name in called if name not in own and not hasattr(builtins, name))]))


def spoken(tree: ast.AST) -> Iterator[str]:
    """Every name in a tree: variables, attributes, keywords, whole strings and the words in them."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.Constant(value=str(text)):
                yield text
                yield from re.findall(r"\w+", text)


@cache
def common() -> Counter[str]:
    """API name -> how many intents use it, each with its slots filled in one way."""
    known = rows.frames()
    filled = (rows.substitute(one.solution, rows.fill(one, known, random.Random(one.id)).code) for one in rows.intents())
    return Counter(name for code in filled if (tree := tree_of(code)) for name in api(tree))


def wanted(row: Mapping[str, Any], known: Mapping[str, rows.Frame]) -> Wanted:
    """What an answer to a code row must hold, from its reference answer and the user's turns."""
    tree = tree_of(code_of(row["messages"][-1]["content"]))
    if tree is None:
        raise ValueError(f"{row.get('id')}: the reference does not parse")
    asked = "\n".join(turn["content"] for turn in row["messages"] if turn["role"] == "user").rpartition("Notebook:\n")
    question = asked[0] + (asked[2].partition("\n\n")[2] if asked[1] else asked[2])
    columns = {column.name for frame in rows.behind(row["check"]["frames"], known).values() for column in frame.columns}
    used = {name for name in spoken(tree) if name in columns} | set(row["check"]["files"])
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            used |= {one.value for one in ast.walk(node.slice) if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    calls = [name for name in api(tree) if name not in DISPLAY and name not in columns]
    names = (name for name in used if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", question))
    return Wanted(frozenset(names), min(calls, key=lambda name: common()[name], default=""))


def match_code(text: str, row: Mapping[str, Any], known: Mapping[str, rows.Frame]) -> bool:
    """True when a code answer holds all that its row's reference asks for."""
    tree, want = tree_of(code_of(text)), wanted(row, known)
    if tree is None or not tree.body:
        return False
    return want.names <= set(spoken(tree)) and (not want.call or want.call in api(tree))


def match_theory(text: str, row: Mapping[str, Any]) -> Rubric:
    """Hold an explanation against its row's rubric."""
    proof = row["check"]
    found = [bool(re.search(pattern, text, re.I)) for pattern in proof["must"]]
    wrong = any(re.search(pattern, text, re.I) for pattern in proof["must_not"])
    return Rubric(all(found) and not wrong and bool(text.strip()), sum(found) / max(1, len(found)), wrong)
