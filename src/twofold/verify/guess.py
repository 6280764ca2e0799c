"""Frames that nobody gave, guessed from the question, the notebook's schema and the answer's code."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twofold import notebook as schemas
from twofold.twin import ROWS, UNSEEN, Column, Kind, make


@dataclass(slots=True)
class _Use:
    """What the code shows of one column."""

    kinds: set[str] = field(default_factory=set)
    levels: list[str] = field(default_factory=list)


_KIND_OF_NAME: tuple[tuple[Kind, str], ...] = (
    ("date", r"(^|_)(date|day|time|timestamp|datetime|month_start|at|on|when|since)(_|$)|_(date|at|on)$|^(date|day|dt|ds|time)"),
    ("id", r"(^|_)(id|key|code|number|no|sku|uuid)$|_id$"),
    (
        "binary",
        r"^(is|has|was|did)_|(churn|default|fraud|return|survived|delivered|cancel|purchased|clicked|target|label|flag|won|active|subscribed)",
    ),
    ("float", r"(_per_|price|amount|score|value|total|income|salary|cost|pct|percent|weight|height|length|width|avg|mean)"),
    ("text", r"(comment|note|review|description|text|message|summary|tweet|body|feedback|title)"),
    ("int", r"(age|year|count|quantity|qty|number|num|rooms|visits|clicks|orders|calls|units|stock|hour|size)"),
    (
        "cat",
        r"(city|region|country|state|category|type|kind|gender|sex|name|segment|department|dept|product|status|class|species|brand|color|colour"
        r"|plan|channel|store|shop|team|group|grade|level|role|job|school|genre|store|continent|origin|payment|customer|seller|model|method)",
    ),
)
_NUMERIC = frozenset({
    "mean", "median", "std", "var", "quantile", "hist", "corr", "cov", "skew", "kurt", "clip", "cumsum", "cumprod", "rolling", "expanding",
    "ewm",
    "diff", "pct_change", "round", "between", "abs", "prod", "sum", "autocorr", "interpolate", "nlargest", "nsmallest", "sub", "add",
    "mul", "div", "pow", "gt", "lt", "ge", "le",
})  # fmt: skip
_COLUMN_KEYWORDS = frozenset({
    "usecols",
    "by", "on", "left_on", "right_on", "columns", "index", "values", "subset", "x", "y", "hue", "col", "row", "style", "size", "id_vars",
    "value_vars", "key", "column", "c",
})  # fmt: skip
_COLUMN_METHODS = frozenset({
    "groupby", "sort_values", "set_index", "nlargest", "nsmallest", "pop", "get", "explode", "drop", "drop_duplicates",
    "duplicated", "dropna",
    "value_counts", "pivot_table",
})  # fmt: skip
_AGGREGATES = frozenset({
    "mean", "sum", "median", "std", "var", "min", "max",
})  # fmt: skip
_LEVELS = ("A", "B", "C", "D")
_NAMED = re.compile(
    r"\b(?:with|columns?|having|containing|contains|has|fields?)\b[:\s]+(?:the\s+|columns?\s+|named\s+|called\s+)*"
    r"((?:[`'\"]?\w+[`'\"]?(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s*&\s*))+[`'\"]?\w+[`'\"]?)",
    re.I,
)


def named(text: str) -> list[str]:
    """Column names that a question lists, as in "a csv with age, income and city"."""
    lists = [re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+|\s*&\s*", match[1]) for match in _NAMED.finditer(text[:20_000])]
    return list(dict.fromkeys(word.strip("`'\"") for words in lists for word in words if word.strip("`'\"").isidentifier()))


def columns_in(code: str) -> tuple[dict[str, tuple[set[str], list[str]]], set[str]]:
    """The column names that code reads, each with the kinds of column that its use speaks for and the levels that it is compared with;
    and the names that it makes itself. Both empty for code that does not parse.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}, set()
    uses: dict[str, _Use] = {}
    made: set[str] = {"_merge"}
    lists = {
        target.id: _strings(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value, (ast.List, ast.Tuple, ast.Constant))
    }
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    series: dict[str, str] = {}

    def use(name: str, kind: str = "", level: str | None = None) -> None:
        one = uses.setdefault(name, _Use())
        if kind:
            one.kinds.add(kind)
        if level is not None and level not in one.levels:
            one.levels.append(level)

    def names(node: ast.AST | None) -> list[str]:
        if isinstance(node, ast.Name):
            return lists.get(node.id, [])
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return names(node.left) + names(node.right)
        return _strings(node)

    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            place = node.slice.elts[-1] if isinstance(node.slice, ast.Tuple) and node.slice.elts else node.slice
            if isinstance(place, ast.Name) and isinstance(parents.get(node), (ast.For, ast.comprehension)):
                continue
            for name in names(place):
                if isinstance(node.ctx, ast.Store) and not isinstance(place, ast.Name) and not _reads(tree, name, node.lineno):
                    made.add(name)
                else:
                    use(name)
            if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str) and isinstance(node.ctx, ast.Load):
                _hints(node, node.slice.value, parents, use, series)
        elif isinstance(node, ast.Call):
            _arguments(node, names, use, made)
        elif isinstance(node, (ast.For, ast.comprehension)) and isinstance(node.target, ast.Name):
            keys = (one.slice.id for one in ast.walk(tree) if isinstance(one, ast.Subscript) and isinstance(one.slice, ast.Name))
            for name in names(node.iter) if node.target.id in keys else ():
                use(name)
    if {"resample", "asfreq"} & {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "set_index":
                for name in [name for argument in node.args for name in names(argument)]:
                    use(name, "date")
    for node in ast.walk(tree):  # a Series that was given a name speaks for its column too
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in series:
            _hints(node, series[node.id], parents, use, {})
    read = {name: (one.kinds, one.levels) for name, one in uses.items() if name not in made and name.strip() and len(name) < 200}
    return read, made


def _strings(node: ast.AST | None) -> list[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return [name for one in node.elts for name in _strings(one.value if isinstance(one, ast.Starred) else one)]
    return []


def _reads(tree: ast.AST, name: str, before: int) -> bool:
    """True when a string constant is read as a subscript up to a line."""
    return any(
        isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and name in _strings(node.slice) and node.lineno <= before
        for node in ast.walk(tree)
    )


def _hints(node: ast.expr, name: str, parents: Mapping[ast.AST, ast.AST], use: Any, series: dict[str, str]) -> None:
    """What stands around `frame["name"]` says what the column holds."""
    above = parents.get(node)
    while isinstance(above, ast.UnaryOp) or (isinstance(above, ast.Attribute) and above.attr in ("dropna", "fillna", "copy", "values")):
        above = parents.get(above)
        above = parents.get(above) if isinstance(above, ast.Call) else above
    if isinstance(above, ast.Attribute):
        call = parents.get(above)
        if above.attr == "str":
            use(name, "text")
        elif above.attr == "dt":
            use(name, "date")
        elif above.attr == "cat":
            use(name, "cat")
        elif above.attr in _NUMERIC:
            dates = isinstance(call, ast.Call) and any(re.match(r"\d{4}-\d", text) for one in call.args for text in _strings(one))
            use(name, "date" if dates else "number" if above.attr not in ("diff", "min", "max") else "")
        elif above.attr in ("map", "replace", "isin") and isinstance(call, ast.Call) and call.args:
            first = call.args[0]
            for level in _strings(ast.List(list(filter(None, first.keys)))) if isinstance(first, ast.Dict) else _strings(first):
                use(name, "cat", level)
    elif isinstance(above, ast.Compare):
        for other in (above.left, *above.comparators):
            if isinstance(other, ast.Constant) and isinstance(other.value, str):
                use(name, "date") if re.match(r"\d{4}(-\d\d)?", other.value) else use(name, "cat", other.value)
            elif isinstance(other, ast.Constant) and isinstance(other.value, (int, float)):
                use(name, "binary" if other.value in (0, 1) and isinstance(above.ops[0], ast.Eq) else "number")
            elif isinstance(other, ast.Call) and "Timestamp" in ast.dump(other.func):
                use(name, "date")
    elif isinstance(above, ast.BinOp):
        other = above.right if above.left is node else above.left
        strings = isinstance(other, ast.Constant) and isinstance(other.value, str)
        joined = isinstance(other, ast.BinOp) and any(
            isinstance(one, ast.Constant) and isinstance(one.value, str) for one in ast.walk(other)
        )
        dates = "Timedelta" in ast.dump(other) or "Timestamp" in ast.dump(other) or "DateOffset" in ast.dump(other)
        use(name, "text" if strings or joined else "date" if dates else "difference" if isinstance(above.op, ast.Sub) else "number")
    elif isinstance(above, ast.Call) and node in above.args:
        called = above.func.attr if isinstance(above.func, ast.Attribute) else above.func.id if isinstance(above.func, ast.Name) else ""
        if called == "to_datetime":
            use(name, "datestr")
        elif called in (
            "cut",
            "qcut",
            "log",
            "log1p",
            "sqrt",
            "exp",
            "hist",
            "scatter",
            "histogram",
            "percentile",
            "zscore",
            "ttest_ind",
            "pearsonr",
        ):
            use(name, "number")
        elif called == "crosstab":
            use(name, "cat")
        elif called in ("train_test_split", "fit", "fit_transform", "cross_val_score") and above.args.index(node) == 1:
            use(name, "target")
    elif isinstance(above, ast.Assign) and len(above.targets) == 1 and isinstance(above.targets[0], ast.Name) and above.value is node:
        series[above.targets[0].id] = name
        if re.match(r"(y|target|labels?)(_|$)", above.targets[0].id):
            use(name, "target")


def _arguments(call: ast.Call, names: Any, use: Any, made: set[str]) -> None:
    """Column names among a call's arguments: those it reads, and those that it makes."""
    method = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""
    positional: Sequence[ast.expr] = call.args
    if method in _COLUMN_METHODS:
        for name in [name for argument in positional for name in names(argument)]:
            use(name, {"groupby": "key", "nlargest": "number", "nsmallest": "number"}.get(method, ""))
    if method in ("agg", "aggregate", "astype", "fillna", "transform", "apply", "round", "rename"):
        for argument in [*positional, *(one.value for one in call.keywords if one.arg in ("func", "dtype", "value", "columns"))]:
            if isinstance(argument, ast.Dict):
                for key, value in zip(argument.keys, argument.values, strict=True):
                    for name in _strings(key):
                        use(name, "number" if method in ("agg", "aggregate") and set(_strings(value)) & _AGGREGATES else "")
                    if method == "rename":
                        made.update(_strings(value))
        for keyword in call.keywords:
            if method in ("agg", "aggregate") and isinstance(keyword.value, ast.Tuple) and keyword.arg:
                made.add(keyword.arg)
                for name in _strings(keyword.value.elts[0] if keyword.value.elts else None):
                    use(name, "number" if set(_strings(keyword.value)) & _AGGREGATES else "")
    if method in ("rename", "rename_axis", "to_frame", "set_axis"):
        made.update(name for argument in positional for name in _strings(argument))
    if method == "assign":
        made.update(keyword.arg for keyword in call.keywords if keyword.arg)
    if method == "insert" and len(positional) > 1:
        made.update(_strings(positional[1]))
    if method in ("query", "eval") and positional:
        for text in _strings(positional[0]):
            _queried(text, use)
    if method in ("ols", "logit", "glm", "mixedlm", "poisson", "probit", "wls") or any(one.arg == "formula" for one in call.keywords):
        for text in [
            *_strings(positional[0] if positional else None),
            *(t for one in call.keywords if one.arg == "formula" for t in _strings(one.value)),
        ]:
            for marked, name in re.findall(r"(C\()?\b([A-Za-z_]\w*)\b(?!\()", text):
                use(name, "cat" if marked else "number")
    if method in ("ColumnTransformer", "make_column_transformer"):
        for group in ast.walk(call):
            if isinstance(group, ast.Tuple) and len(group.elts) >= 2:
                for name in names(group.elts[-1]) if isinstance(group.elts[-1], (ast.List, ast.Name)) else ():
                    use(name, "cat" if "Encoder" in ast.dump(group) else "number" if "Scaler" in ast.dump(group) else "")
    for keyword in call.keywords:
        if keyword.arg in _COLUMN_KEYWORDS and method not in (
            "rename",
            "DataFrame",
            "Series",
            "Index",
            "subplots",
            "concat",
            "astype",
            "set_axis",
        ):
            kind = {"by": "key" if method == "groupby" else "", "key": "date" if method == "Grouper" else ""}.get(keyword.arg, "")
            if keyword.arg in ("hue", "row", "col", "style"):
                kind = "key"
            if method in ("merge", "join", "merge_asof") and keyword.arg in ("on", "left_on", "right_on"):
                kind = "join"
            if method in ("pivot_table", "crosstab") and keyword.arg in ("index", "columns"):
                kind = "key"
            if method == "merge_asof" and keyword.arg in ("on", "left_on", "right_on"):
                kind = "date"
            if method == "resample" and keyword.arg == "on":
                kind = "date"
            if method == "pivot" and keyword.arg == "index":
                kind = "unique"
            if keyword.arg == "y" or (
                keyword.arg == "x" and method in ("histplot", "kdeplot", "ecdfplot", "scatterplot", "regplot", "scatter")
            ):
                kind = "number"
            if keyword.arg == "values" and method == "pivot_table":
                kind = "number"
            for name in names(keyword.value):
                use(name, kind)
        elif keyword.arg in ("name", "value_name", "var_name", "names"):
            made.update(_strings(keyword.value))
        elif keyword.arg == "parse_dates":
            for name in names(keyword.value):
                use(name, "datestr")


def _queried(text: str, use: Any) -> None:
    text = re.sub(r"@\w+", "0", re.sub(r"`([^`]*)`", lambda match: match[1] if match[1].isidentifier() else "0", text))
    try:
        tree = ast.parse(text.strip().replace("&", " and ").replace("|", " or "), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(parents.get(node), ast.Call):
            use(node.id)
            _hints(node, node.id, parents, use, {})


_TYPES: Mapping[str, Kind] = {"float": "float", "int": "int", "uint": "int", "bool": "binary", "datetime": "date", "category": "cat"}


def _column(name: str, dtype: str, use: tuple[set[str], list[str]] | None, classes: bool, missing: bool, variant: int) -> Column:
    """Choose a column from its dtype (empty: not known), its use and its name. The variant changes what cannot be known."""
    kinds, levels = use or (set(), [])
    said = next((kind for start, kind in _TYPES.items() if dtype.lower().startswith(start)), None)
    word = next((kind for kind, pattern in _KIND_OF_NAME if re.search(pattern, name.lower())), None)
    kind: Kind
    if dtype:
        strings: Kind = "datestr" if word == "date" or "datestr" in kinds else "text" if word == "text" and not levels else "cat"
        if not levels and variant in (2, 3, 4):
            strings = {2: "text", 3: "datestr", 4: "cat"}[variant]  # type: ignore[assignment]
        kind = said or strings
        if kind == "int":
            two = "binary" in kinds or "target" in kinds or (word == "binary" and "number" not in kinds) or variant in (2, 3, 5)
            kind = "id" if word == "id" else "binary" if two else "int"
    elif "binary" in kinds:
        kind = "binary"
    elif "date" in kinds:
        kind = "date"
    elif "datestr" in kinds:
        kind = "datestr"
    elif "target" in kinds and classes:
        kind = "cat" if levels else "binary"
    elif levels or "cat" in kinds:
        kind = "cat"
    elif "text" in kinds:
        kind = "datestr" if variant == 3 else "cat" if variant == 4 else "text"
    elif "unique" in kinds:
        kind = "date" if word == "date" else "id"
    elif "number" in kinds:
        kind = (
            "binary"
            if word == "binary" or variant == 5
            else "int"
            if word in ("int", "id")
            else "date"
            if word == "date" and variant == 2
            else "float"
        )
    elif "difference" in kinds:
        kind = "date" if (word == "date" and variant not in (2, 3)) or variant == 4 else "float"
    elif "key" in kinds:
        kind = "binary" if word == "binary" or variant in (3, 5) else "date" if variant == 2 and word == "date" else "cat"
    elif variant in (0, 1, 2):
        kind = word or "float"
        kind = "float" if variant == 2 and kind in ("cat", "text", "date") else kind
    else:
        kind = {3: "float", 4: "cat", 5: "binary", 6: "date", 7: "text"}[variant]  # type: ignore[assignment]
    nulls = 0.06 if missing and kind in ("float", "cat", "text", "date", "datestr") and (not dtype or kind != "date") else 0.0
    if kind == "cat":
        return Column(
            name,
            "cat",
            levels=(*levels, *(level for level in _LEVELS if level not in levels))[: max(4, len(levels) + 1)],
            nulls=nulls,
        )
    if kind in ("date", "datestr"):
        return Column(name, kind, start="2023-01-01", freq="D", nulls=nulls if "dropna" in kinds else 0.0)
    if kind == "binary":
        return Column(name, "binary", high=0.4)
    if kind == "int":
        return Column(name, "int", 1, 80 if "age" in name.lower() else 2024 if "year" in name.lower() else 12)
    if kind == "float":
        return Column(name, "float", 1, 100, nulls=nulls)
    return Column(name, kind, nulls=nulls)


VARIANTS = 8
"""How many twins `guess` knows: 0 with traps, then without; 2 adds columns of every kind, the rest choose anew what is left open."""


def guess(
    text: str,
    notebook: str = "",
    code: str = "",
    names: Iterable[str] = ("df",),
    *,
    more: Iterable[str] = (),
    variant: int = 0,
    rows: int = ROWS,
    seed: int = 0,
) -> dict[str, Any]:
    """DataFrames for the frames of a notebook block and for other `names`, from what notebook, question and code say of their columns.

    more: columns that are known to be wanted, as a run has shown.
    """
    uses, made = columns_in(code)
    known = schemas.parse(notebook)
    wanted = list(dict.fromkeys([*known, *names]))
    missing = variant == 0 and bool(re.search(r"null|missing|nan\b|isna|fillna|dropna|interpolat|impute", f"{text}\n{code}", re.I))
    classes = bool(re.search(r"Classif|LogisticRegression|roc_|confusion|Logit|stratify|NaiveBayes|GaussianNB|SVC", code))
    frames: dict[str, Any] = {}
    for number, name in enumerate(wanted):
        schema = known.get(name)
        columns = dict(schema.columns) if schema else {}
        if schema is None or not schema.complete:
            bare = [column for column in dict.fromkeys([*named(text), *uses, *more]) if column not in made or column in more]
            if variant % 2 and len(wanted) > 1:  # a column that two joined frames share would come out of the join under two other names
                bare = [column for column in bare if _belongs(column, name, wanted, code, uses)]
            columns |= {column: "" for column in bare if column not in columns}
        plan = [_column(column, dtype, uses.get(column), classes, missing, variant) for column, dtype in columns.items()]
        if schema is None:
            plan += [one for one in _spare(variant, code) if one.name not in columns]
        frame = make(plan, seed + number, rows)
        for column, dtype in columns.items():
            if dtype == "category":
                frame[column] = frame[column].astype("category")
            elif dtype == "bool":
                frame[column] = frame[column].astype(bool)
        if variant == 0:
            frame = _trapped(frame, plan)
        frames[name] = frame
    return frames


def _belongs(column: str, frame: str, frames: Sequence[str], code: str, uses: Mapping[str, tuple[set[str], list[str]]]) -> bool:
    """True when one of several frames should have a column: a key, one read from it by name, or, for the first, one of no frame's."""
    if "join" in uses.get(column, (set(), []))[0]:
        return True
    owners = [one for one in frames if re.search(rf"\b{re.escape(one)}\[[^\]]*['\"]{re.escape(column)}['\"]", code)]
    return frame in owners if owners else frame == frames[0]


def _spare(variant: int, code: str) -> Iterator[Column]:
    """Columns that no one named: numbers, so that a model has features; other kinds where code or variant ask for them."""
    for letter in "pqr":
        yield Column(f"{letter}_value", "float", 0, 50)
    if variant == 2 or re.search(r"select_dtypes|get_dummies|object|category|nunique", code):
        yield Column("q_kind", "cat", levels=_LEVELS)
    if variant == 2:
        yield Column("q_date", "date", start="2023-01-01", freq="D")


def _trapped(frame: Any, plan: Sequence[Column]) -> Any:
    """The same frame with an unseen category in each column of categories and with keys that repeat."""
    rows = len(frame)
    for one in plan:
        if one.kind == "cat" and str(frame[one.name].dtype) != "category":
            frame.loc[frame.index[-max(1, rows // 50) :], one.name] = UNSEEN
        elif one.kind == "id":
            frame.loc[frame.index[-max(1, rows // 20) :], one.name] = frame[one.name].to_numpy()[: max(1, rows // 20)]
    return frame
