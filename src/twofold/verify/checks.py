"""Does a run that ended well fit its question? Each check returns "" where it cannot be sure."""

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

_TOP = re.compile(r"\b(top|largest|highest|biggest|greatest|most expensive)\b", re.I)
_BOTTOM = re.compile(r"\b(bottom|smallest|lowest|cheapest|least)\b", re.I)
_EITHER = re.compile(
    r"\b(worst|best|rank|ranking|earliest|latest|oldest|newest|youngest|fastest|slowest|recent|first|last|except|but|not|negative)\b", re.I
)
_PLOT = re.compile(r"(plot|chart|histogram|scatter ?plot|bar ?plot|box ?plot|heat ?map|pie chart|violin ?plot)\b(?!-)", re.I)
_LABELS = re.compile(r"\b(title|legend|caption|annotat\w+|axis labels?|label(led)? (the )?(both )?ax[ei]s)\b", re.I)
_STEPS = frozenset({"diff", "pct_change", "shift", "rolling", "ewm", "expanding", "corr"})
_READS = re.compile(
    r"^\W*((please|pls|can you|could you|i want to see|give me|tell me)\W+)?(the |a )?(how many|what is|what's|what are|which"
    r"|show|list|display|print|plot|draw|histogram|mean|average|median|sum|total|count|correlation|compare|top|largest|highest|smallest|lowest|describe)\b",
    re.I,
)
_CHANGES = re.compile(
    r"\b(drop|remov|delet|fill|replac|add|creat|mak|new|convert|chang|renam|sort|order|set|clean|encod|scal|standardi|normali|updat|modif"
    r"|transform|insert|assign|imput|interpolat|clip|cap|cast|parse|strip|lower|upper|round|shuffl|reset|index|in ?place|turn|store|save"
    r"|put|fix|merge|join|split|extract|bin|bucket|map|flag|mark|mask|overwrit|edit|trim|deduplicat|dedup|dummy|dummies|melt|pivot|resampl"
    r"|unknown|complet|optimi|memory|downcast|without|ignor|exclud|only|keep|missing|null|nan|into|as |to |dtype|type)",
    re.I,
)
_DRAWERS = frozenset({"plotly", "altair", "bokeh", "folium", "plotnine", "holoviews"})


def sorts_wrong(question: str, tree: ast.Module) -> tuple[str, int]:
    """What is wrong with the direction of a sort, and its line; ("", 0) when nothing is or it is not certain.

    "Top" wants a descending sort before head, an ascending one before tail; nlargest, and not nsmallest.
    """
    top, bottom = bool(_TOP.search(question)), bool(_BOTTOM.search(question))
    if top == bottom or _EITHER.search(question):
        return "", 0
    word = (_TOP if top else _BOTTOM).search(question)
    assert word is not None
    found = list(_cuts(tree))
    wrong = [line for line, descending in found if descending is not top]
    if not wrong or len(wrong) != len(found):  # an answer that looks both ways may want both
        return "", 0
    return f"the question asks for the {word[0].lower()}, and the sort goes the other way", wrong[0]


def _cuts(tree: ast.AST) -> Iterator[tuple[int, bool]]:
    """Each place where code sorts and keeps one end: its line, and True when it keeps the largest."""
    for node in ast.walk(tree):
        kept: str = ""
        inner: ast.expr | None = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("nlargest", "nsmallest"):
                yield node.lineno, node.func.attr == "nlargest"
                continue
            if node.func.attr in ("head", "tail"):
                kept, inner = node.func.attr, node.func.value
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and node.slice.step is None:
            low, high = node.slice.lower, node.slice.upper
            if low is None and isinstance(high, ast.Constant):
                kept = "head"
            elif high is None and isinstance(low, ast.UnaryOp):
                kept = "tail"
            inner = node.value.value if isinstance(node.value, ast.Attribute) and node.value.attr == "iloc" else node.value
        while isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr in ("reset_index", "copy"):
            inner = inner.func.value
        if kept and inner is not None and (ascending := sort_order(inner)) is not None:
            assert isinstance(inner, ast.Call)
            yield inner.end_lineno or inner.lineno, ascending == (kept == "tail")


def sort_order(node: ast.expr) -> bool | None:
    """True for a call that sorts upwards, False for downwards, None for any other or one that cannot be read."""
    if not isinstance(node, ast.Call):
        return None
    options = {one.arg: one.value for one in node.keywords}
    if "key" in options or None in options or any(isinstance(one, (ast.UnaryOp, ast.Lambda)) for one in ast.walk(node)):
        return None  # a key or a minus sign may turn it round
    if isinstance(node.func, ast.Attribute) and node.func.attr == "sort_values":
        first = node.args[0] if node.args else options.get("by")
        if isinstance(first, (ast.List, ast.Tuple)) and len(first.elts) != 1:
            return None
        said, usual = options.get("ascending"), True
    elif isinstance(node.func, ast.Attribute) and node.func.attr == "value_counts":
        said, usual = options.get("ascending"), False
    elif isinstance(node.func, ast.Name) and node.func.id == "sorted":
        said, usual = options.get("reverse"), True
        return usual if said is None else (not said.value if isinstance(said, ast.Constant) else None)
    else:
        return None
    if said is None:
        return usual
    return said.value if isinstance(said, ast.Constant) and isinstance(said.value, bool) else None


def pictures_wrong(question: str, tree: ast.Module, facts: Mapping[str, Any], pictures: int) -> str:
    """What is wrong with the figures: none although a plot was asked for, an empty one, one without any word on it although the question
    asks for a title, labels or a legend. Without being asked, a plain plot is right."""
    figures = facts.get("figures", [])
    if not figures:
        draws = any(
            isinstance(node, ast.Attribute) and node.attr in ("savefig", "show", "plot", "subplots", "figure") for node in ast.walk(tree)
        )
        foreign = any(
            isinstance(node, (ast.Import, ast.ImportFrom)) and _DRAWERS & set(re.findall(r"\w+", ast.unparse(node)))
            for node in ast.walk(tree)
        )
        if _PLOT.match(question.strip()) and not pictures and not draws and not foreign:
            return "the question asks for a plot, and none was drawn"
        return ""
    if not any(one["content"] for one in figures):
        return "the plot is empty"
    if _LABELS.search(question) and not any(one["label"] for one in figures):
        return "the plot has no title, no axis label and no legend"
    return ""


def mutates(question: str, facts: Mapping[str, Any]) -> str:
    """How the given frame was changed in place by an answer to a question that only reads."""
    changed = facts.get("changed", {})
    if not changed or _CHANGES.search(question) or not _READS.search(question) or not question.isascii():
        return ""
    name, how = next(iter(changed.items()))
    return f"it changes {name} in place, which nobody asked for: it {how}"


def result_missing(tree: ast.Module, facts: Mapping[str, Any]) -> str:
    """Says so when every value of the result is NaN, unless the code compares rows with earlier ones, which short data leaves empty."""
    steps = any(isinstance(node, ast.Attribute) and node.attr in _STEPS for node in ast.walk(tree))
    return "every value of the result is missing (NaN)" if facts.get("empty") and not steps else ""
