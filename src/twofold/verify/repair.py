"""Deterministic repairs: a renamed API, a missing import, a column almost named right. Only code that failed is touched, and only there.

Each repair is a list of edits of the source, so all that it does not name stays byte for byte.
"""

import ast
import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from twofold.verify import names
from twofold.verify.checks import sort_order


@dataclass(frozen=True, slots=True)
class Change:
    """One API that went away, what took its place, and who says so."""

    form: Literal["name", "method", "keyword", "value", "call"]
    """name: a dotted path; method: an attribute of a value; keyword: callee.argument (* = any callee; nothing new: left out); value:
    argument=old string; call: rewritten by the function of the same name in CALLS."""
    old: str
    new: str
    source: str


_NUMPY = "NumPy 2.0 release notes"
_NUMPY_OLD = "NumPy 1.24 release notes"
_PANDAS = "pandas 2.0 release notes"
_PANDAS_3 = "pandas 3.0 release notes"
_PANDAS_FREQ = "pandas 2.2 release notes"
_SKLEARN = "scikit-learn 1.2 changelog"
_SEABORN = "seaborn 0.12 release notes"
TABLE: tuple[Change, ...] = (
    *(Change("name", f"numpy.{old}", f"numpy.{new}", _NUMPY) for old, new in (
        ("NaN", "nan"), ("Inf", "inf"), ("infty", "inf"), ("PINF", "inf"), ("float_", "float64"), ("complex_", "complex128"),
        ("unicode_", "str_"), ("string_", "bytes_"), ("product", "prod"), ("cumproduct", "cumprod"), ("alltrue", "all"),
        ("sometrue", "any"), ("in1d", "isin"), ("trapz", "trapezoid"), ("row_stack", "vstack"), ("round_", "round"),
        ("asfarray", "asarray"), ("mat", "asmatrix"),
    )),
    *(Change("name", f"numpy.{old}", old, _NUMPY_OLD) for old in ("float", "int", "object", "str")),
    Change("name", "pandas.np", "numpy", "pandas 2.0 release notes"),
    Change("name", "pandas.datetime", "datetime.datetime", "pandas 2.0 release notes"),
    Change("name", "pandas.Int64Index", "pandas.Index", _PANDAS),
    Change("name", "pandas.Float64Index", "pandas.Index", _PANDAS),
    Change("method", "iteritems", "items", _PANDAS),
    Change("method", "ix", "loc", "pandas 1.0 release notes"),
    Change("method", "is_monotonic", "is_monotonic_increasing", _PANDAS),
    Change("method", "weekofyear", "isocalendar().week", _PANDAS),
    Change("method", "week", "isocalendar().week", _PANDAS),
    Change("method", "applymap", "map", _PANDAS_3),
    Change("method", "pad", "ffill", _PANDAS_3),
    Change("method", "backfill", "bfill", _PANDAS_3),
    Change("call", "frame.append(row)", "pd.concat([frame, row])", _PANDAS),
    Change("call", 'fillna(method="ffill")', "ffill()", _PANDAS_3),
    Change("call", "pivot(a, b, c)", "pivot(index=a, columns=b, values=c)", _PANDAS),
    Change("call", "drop(label, 1)", "drop(label, axis=1)", _PANDAS),
    Change("call", "mean() of a frame with strings", "mean(numeric_only=True)", _PANDAS),
    Change("call", "pd.value_counts(values)", "pd.Series(values).value_counts()", _PANDAS_3),
    Change("keyword", "to_csv.line_terminator", "lineterminator", _PANDAS),
    Change("keyword", "to_datetime.infer_datetime_format", "", _PANDAS_3),
    Change("keyword", "read_csv.infer_datetime_format", "", _PANDAS_3),
    Change("keyword", "read_csv.error_bad_lines", 'on_bad_lines="skip"', _PANDAS),
    Change("keyword", "read_csv.delim_whitespace", 'sep=r"\\s+"', _PANDAS_3),
    *(Change("value", f"freq={old}", new, _PANDAS_FREQ) for old, new in (
        ("M", "ME"), ("BM", "BME"), ("Q", "QE"), ("Y", "YE"), ("A", "YE"), ("H", "h"), ("T", "min"), ("S", "s"), ("L", "ms"),
    )),
    Change("call", "mean_squared_error(squared=False)", "root_mean_squared_error()", "scikit-learn 1.4 changelog"),
    *(Change("name", f"sklearn.metrics.plot_{old}", f"sklearn.metrics.{new}.from_estimator", _SKLEARN) for old, new in (
        ("confusion_matrix", "ConfusionMatrixDisplay"), ("roc_curve", "RocCurveDisplay"),
        ("precision_recall_curve", "PrecisionRecallDisplay"),
    )),
    Change("name", "sklearn.cross_validation", "sklearn.model_selection", "scikit-learn 0.20 changelog"),
    Change("name", "sklearn.grid_search", "sklearn.model_selection", "scikit-learn 0.20 changelog"),
    Change("name", "sklearn.externals.joblib", "joblib", "scikit-learn 0.23 changelog"),
    Change("name", "sklearn.preprocessing.Imputer", "sklearn.impute.SimpleImputer", "scikit-learn 0.22 changelog"),
    Change("name", "sklearn.metrics.calinski_harabaz_score", "sklearn.metrics.calinski_harabasz_score", "scikit-learn 0.23 changelog"),
    Change("method", "get_feature_names", "get_feature_names_out", _SKLEARN),
    Change("keyword", "OneHotEncoder.sparse", "sparse_output", "scikit-learn 1.4 changelog"),
    Change("keyword", "*.base_estimator", "estimator", "scikit-learn 1.4 changelog"),
    Change("keyword", "AgglomerativeClustering.affinity", "metric", "scikit-learn 1.4 changelog"),
    Change("keyword", "TSNE.n_iter", "max_iter", "scikit-learn 1.7 changelog"),
    Change("keyword", "LogisticRegression.multi_class", "", "scikit-learn 1.8 changelog"),
    Change("keyword", "AdaBoostClassifier.algorithm", "", "scikit-learn 1.8 changelog"),
    Change("value", "criterion=mse", "squared_error", _SKLEARN),
    Change("value", "criterion=mae", "absolute_error", _SKLEARN),
    Change("value", "loss=log", "log_loss", "scikit-learn 1.3 changelog"),
    Change("value", "loss=deviance", "log_loss", "scikit-learn 1.3 changelog"),
    Change("value", "loss=ls", "squared_error", _SKLEARN),
    Change("value", "loss=squared_loss", "squared_error", _SKLEARN),
    Change("value", "max_features=auto", "sqrt", "scikit-learn 1.3 changelog"),
    Change("value", "penalty=none", "None", "scikit-learn 1.4 changelog"),
    Change("name", "scipy.integrate.simps", "scipy.integrate.simpson", "SciPy 1.14 release notes"),
    Change("name", "scipy.integrate.cumtrapz", "scipy.integrate.cumulative_trapezoid", "SciPy 1.14 release notes"),
    Change("name", "scipy.integrate.trapz", "scipy.integrate.trapezoid", "SciPy 1.14 release notes"),
    Change("name", "scipy.stats.median_absolute_deviation", "scipy.stats.median_abs_deviation", "SciPy 1.7 release notes"),
    Change("name", "seaborn.factorplot", "seaborn.catplot", "seaborn 0.9 release notes"),
    Change("keyword", "FacetGrid.size", "height", "seaborn 0.9 release notes"),
    Change("call", "sns.scatterplot(a, b)", "sns.scatterplot(x=a, y=b)", _SEABORN),
    Change("name", "matplotlib.cm.get_cmap", "matplotlib.pyplot.get_cmap", "Matplotlib 3.9 API changes"),
    Change("name", "matplotlib.pyplot.cm.get_cmap", "matplotlib.pyplot.get_cmap", "Matplotlib 3.9 API changes"),
    Change("method", "legendHandles", "legend_handles", "Matplotlib 3.9 API changes"),
    Change("keyword", "boxplot.labels", "tick_labels", "Matplotlib 3.9 API changes"),
    Change("keyword", "*.normed", "density", "Matplotlib 3.1 API changes"),
    *(Change("value", f"style={old}", f"seaborn-v0_8{old.removeprefix('seaborn')}", "Matplotlib 3.8 API changes") for old in (
        "seaborn", "seaborn-whitegrid", "seaborn-darkgrid", "seaborn-white", "seaborn-talk", "seaborn-paper", "seaborn-notebook",
    )),
    Change("name", "statsmodels.tsa.arima_model.ARIMA", "statsmodels.tsa.arima.model.ARIMA", "statsmodels 0.13 release notes"),
    Change("keyword", "seasonal_decompose.freq", "period", "statsmodels 0.11 release notes"),
)  # fmt: skip

COMMON: Mapping[str, str] = {
    "pd": "import pandas as pd",
    "np": "import numpy as np",
    "plt": "import matplotlib.pyplot as plt",
    "sns": "import seaborn as sns",
    "sm": "import statsmodels.api as sm",
    "smf": "import statsmodels.formula.api as smf",
    "mpl": "import matplotlib as mpl",
    "stats": "from scipy import stats",
    "scipy": "import scipy",
    "sklearn": "import sklearn",
    "pandas": "import pandas",
    "numpy": "import numpy",
    "datetime": "from datetime import datetime",
    "timedelta": "from datetime import timedelta",
    "Path": "from pathlib import Path",
    "Counter": "from collections import Counter",
    "defaultdict": "from collections import defaultdict",
    "combinations": "from itertools import combinations",
    "reduce": "from functools import reduce",
    "StringIO": "from io import StringIO",
    **{name: f"import {name}" for name in (
        "re", "os", "math", "json", "random", "glob", "itertools", "time", "io", "statistics", "string", "collections", "warnings",
    )},
}  # fmt: skip
"""What a name stands for by custom, and the line that brings it."""
_HOMES = (
    "linear_model", "ensemble", "tree", "svm", "neighbors", "naive_bayes", "cluster", "decomposition", "preprocessing", "impute",
    "pipeline", "compose", "model_selection", "metrics", "feature_selection", "feature_extraction.text", "manifold", "dummy",
    "calibration", "inspection", "neural_network", "discriminant_analysis", "gaussian_process", "mixture", "covariance", "datasets",
)  # fmt: skip


class Fixed(NamedTuple):
    """Code after one repair, and the repair in words."""

    code: str
    words: str


class _Edit(NamedTuple):
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class _Source:
    """Code, its tree and where its lines begin, in bytes as the tree counts them."""

    data: bytes
    tree: ast.Module
    starts: tuple[int, ...]

    def span(self, node: ast.AST) -> tuple[int, int]:
        """First byte of a node and the byte after it."""
        line, column = node.lineno, node.col_offset  # type: ignore[attr-defined]
        end, after = node.end_lineno, node.end_col_offset  # type: ignore[attr-defined]
        return self.starts[line - 1] + column, self.starts[end - 1] + after

    def text(self, node: ast.AST) -> str:
        """The source of a node."""
        start, end = self.span(node)
        return self.data[start:end].decode()

    def with_edits(self, edits: Iterable[_Edit]) -> str:
        """The code with its edits done; of two that overlap, the first in the text."""
        out, at = [], 0
        for edit in sorted(set(edits)):
            if edit.start >= at:
                out += [self.data[at : edit.start], edit.text.encode()]
                at = edit.end
        return b"".join([*out, self.data[at:]]).decode()


def _read(code: str) -> _Source | None:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    data = code.encode()
    starts = [0]
    for line in data.splitlines(keepends=True):  # bytes know no line ends but those that Python's parser knows, form feeds aside
        starts.append(starts[-1] + len(line))
    return _Source(data, tree, tuple(starts))


def for_fault(code: str, fault: names.Fault, columns: Mapping[str, frozenset[str]], question: str = "") -> Fixed | None:
    """Repair a name that does not resolve, or None. columns: the column names of each known frame."""
    source = _read(code)
    if source is None:
        return None
    if fault.kind == "column":
        return _column(source, fault.name, columns.get(fault.frame, frozenset()), question)
    if fault.kind == "name":
        line = COMMON.get(fault.name) or _home(fault.name)
        if line:
            return Fixed(_with_import(source, [], line), f"added {line}")
        frames = [frame for frame in columns if frame.isidentifier()]
        if len(frames) == 1 and fault.name in ("df", "data", "dataframe", "dataset") and frames[0] not in names.free(source.tree):
            edits = [
                _Edit(*source.span(node), frames[0])
                for node in ast.walk(source.tree)
                if isinstance(node, ast.Name) and node.id == fault.name
            ]
            return Fixed(source.with_edits(edits), f"{fault.name} is called {frames[0]}")
        return None
    change = next((one for one in TABLE if one.form == "name" and one.old == fault.name), None)
    if change is not None:
        return _renamed(source, change)
    owner, _, last = fault.name.rpartition(".")
    return _moved(source, fault.name) or for_error(code, f"module '{owner}' has no attribute '{last}'", fault.line, columns, question)


def for_error(code: str, error: str, line: int, columns: Mapping[str, frozenset[str]], question: str = "") -> Fixed | None:
    """Repair what failed when it ran, from the last line of its traceback and the line of the code, or None."""
    source = _read(code)
    if source is None:
        return None
    last = error.strip().rpartition("\n")[2] if not error.rstrip().endswith("]") else error.strip()
    for name in missing_columns(error):
        known = frozenset().union(*columns.values())
        if name not in known and (fixed := _column(source, name, known, question)):
            return fixed
    if match := re.search(r"NameError: name '(\w+)' is not defined", error):
        return for_fault(code, names.Fault("name", match[1], line, last), columns, question)
    for change in TABLE:
        fixed = _applied(source, change, error, line)
        if fixed is not None and fixed.code != code:
            return fixed
    return None


def sort_turned(code: str, line: int) -> Fixed | None:
    """Turn the sort round whose direction is wrong, on or around a line."""
    source = _read(code)
    if source is None:
        return None
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or not node.lineno <= line <= (node.end_lineno or node.lineno):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("nlargest", "nsmallest"):
            other = "nsmallest" if node.func.attr == "nlargest" else "nlargest"
            return Fixed(source.with_edits([_attribute(source, node.func, other)]), f"{node.func.attr} is {other}")
        upwards = sort_order(node)
        if upwards is None:
            continue
        word = "reverse" if isinstance(node.func, ast.Name) else "ascending"
        wanted = str((not upwards) if word == "ascending" else upwards)
        said = next((one for one in node.keywords if one.arg == word), None)
        edit = _Edit(*source.span(said.value), wanted) if said else _argument(source, node, f"{word}={wanted}")
        return Fixed(source.with_edits([edit]), f"sorted the other way: {word}={wanted}")
    return None


def edited(code: str, strings: Iterable[tuple[ast.Constant, str]]) -> str:
    """Code with string literals replaced by other strings, each in the quotes that it had where these allow."""
    source = _read(code)
    assert source is not None  # the literals come from its tree
    return source.with_edits([_literal(source, node, new) for node, new in strings])


def _literal(source: _Source, node: ast.Constant, new: str) -> _Edit:
    start, end = source.span(node)
    quote = source.data[start : start + 1].decode()
    kept = quote in ("'", '"') and quote not in new and "\\" not in new and new.isprintable()
    return _Edit(start, end, f"{quote}{new}{quote}" if kept else repr(new))


# columns


CLOCK = frozenset(["time", "date", "day", "datetime", "timestamp", "dates", "days", "month", "year", "week"])
"""What an answer calls the one column of dates when the question gives it no name."""


SHORT: Mapping[str, str] = {
    "acct": "account", "amt": "amount", "avg": "average", "bp": "pressure", "dept": "department", "grp": "group", "hr": "hour",
    "ht": "height", "lvl": "level", "mgr": "manager", "nr": "number", "pct": "percent", "pmt": "payment",
    "qty": "quantity", "wt": "weight", "yr": "year",
}  # fmt: skip
"""Abbreviations in names of columns that are no beginnings of the word."""


def closest(name: str, known: Iterable[str], question: str = "") -> str | None:
    """The one column that a wrong name most likely means, or None: the same but for case, blanks and underscores; near in spelling; the
    only one that shares its words or their abbreviations; or, for "time" and the like, the only one that tells a time."""
    plain = {column: re.sub(r"[\W_]+", "", column).casefold() for column in known}
    wanted = re.sub(r"[\W_]+", "", name).casefold()
    same = [column for column, text in plain.items() if text == wanted]
    if len(same) == 1:
        return same[0]
    if not wanted or same:
        return None
    near = difflib.get_close_matches(wanted, set(plain.values()), n=2, cutoff=0.78)
    found = [column for column, text in plain.items() if near and text == near[0]]
    if len(near) == 2:
        ratio = [difflib.SequenceMatcher(None, wanted, text).ratio() for text in near]
        if ratio[0] - ratio[1] < 0.03:
            found = [column for column, text in plain.items() if text in near and column.casefold() in question.casefold()]
    if len(found) == 1:
        return found[0]
    words = set(re.findall(r"[a-z0-9]+", name.casefold()))
    sharing = [column for column in plain if words and (words <= _words(column) or (_words(column) and _words(column) <= words))]
    if words and not sharing:  # temperature and temp_c, parent_education and parent_edu
        sharing = [column for column in plain if all(any(akin(one, other) for other in _words(column)) for one in words)]
    if not sharing and words <= CLOCK:  # "over time", and one column tells the time
        sharing = [column for column in plain if re.search(r"date|time|day|stamp|(_at|_on)$", column, re.I)]
    return sharing[0] if len(sharing) == 1 else None


def akin(one: str, other: str) -> bool:
    """True for equal words, a word and its beginning of three letters or more, and a word and its usual abbreviation."""
    short, long = sorted((SHORT.get(one, one), SHORT.get(other, other)), key=len)
    return short == long or (len(short) > 2 and long.startswith(short))


def _words(column: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", column.casefold()))


def _column(source: _Source, name: str, known: frozenset[str], question: str) -> Fixed | None:
    right = closest(name, known, question)
    if right is None:
        return None
    edits = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and node.value == name:
            edits.append(_literal(source, node, right))
        elif isinstance(node, ast.Attribute) and node.attr == name and right.isidentifier():
            edits.append(_attribute(source, node, right))
    return Fixed(source.with_edits(edits), f"column {name!r} is {right!r}") if edits else None


def missing_columns(error: str) -> list[str]:
    """Column names that pandas, seaborn or scikit-learn say they cannot find."""
    found: list[str] = []
    for pattern in (
        r"KeyError: '([^']+)'",
        r"KeyError: Index\((\[.+?\])",
        r"KeyError: \"(?:Column\(s\) )?\[(.+?)\] (?:not|do not)",
        r"None of \[Index\(\[(.+?)\]",
        r"KeyError: \"\[(.+?)\] not (?:found|in index)",
        r"KeyError: \[(.+?)\]",
        r"Could not interpret value `([^`]+)`",
        r"An entry with this name does not appear in `data`.*?`([^`]+)`",
        r"object has no attribute '(\w+)'",
        r"Column not found: (\w+)",
        r"no such column: (\w+)",
        r"columns expected but not found: (\[.+?\])",
        r"name '(\w+)' is not defined",
    ):
        for match in re.finditer(pattern, error):
            found += re.findall(r"'([^']+)'", match[1]) or [match[1].strip("'\"")]
    return list(dict.fromkeys(found))


# edits


def _attribute(source: _Source, node: ast.Attribute, new: str) -> _Edit:
    end = source.span(node)[1]
    return _Edit(end - len(node.attr.encode()), end, new)


def _argument(source: _Source, call: ast.Call, text: str) -> _Edit:
    """Add an argument at the end of a call."""
    end = source.span(call)[1] - 1
    inner = source.data[source.span(call.func)[1] : end].decode().rstrip()
    return _Edit(end, end, text if inner.endswith("(") else f" {text}" if inner.endswith(",") else f", {text}")


def _without(source: _Source, call: ast.Call, keyword: ast.keyword) -> _Edit:
    """Take an argument and one comma out of a call."""
    start, end = source.span(keyword)
    before = re.search(rb",\s*$", source.data[:start])
    if before and before.start() >= source.span(call.func)[1]:
        return _Edit(before.start(), end, "")
    after = re.match(rb"\s*,\s*", source.data[end:])
    return _Edit(start, end + (after.end() if after else 0), "")


def _with_import(source: _Source, edits: list[_Edit], line: str) -> str:
    """The code with its edits and an import before the first statement that is neither docstring nor from __future__."""
    for statement in source.tree.body:
        docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
        future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
        if not (docstring or future):
            first = min([statement.lineno, *(one.lineno for one in getattr(statement, "decorator_list", []))])
            at = source.starts[first - 1]
            blank = "" if isinstance(statement, (ast.Import, ast.ImportFrom)) else "\n"
            return source.with_edits([_Edit(at, at, f"{line}\n{blank}"), *edits])
    return f"{line}\n{source.with_edits(edits)}"


def _home(name: str) -> str:
    """The line that imports a name of scikit-learn, when exactly one of its parts has that name; "" otherwise."""
    if len(name) < 3 or name.startswith("_"):
        return ""
    homes = [part for part in _HOMES if _public(f"sklearn.{part}", name)]
    return f"from sklearn.{homes[0]} import {name}" if len(homes) == 1 else ""


def _public(module: str, name: str) -> bool:
    try:
        return name in getattr(importlib.import_module(module), "__all__", ())
    except ImportError:
        return False


def _moved(source: _Source, path: str) -> Fixed | None:
    """A name of scikit-learn that is imported from the wrong part of it, or is almost spelled right."""
    owner, _, last = path.rpartition(".")
    if owner.startswith("sklearn") and (line := _home(last)):
        right = line.split()[1]
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom) and node.module == owner and any(alias.name == last for alias in node.names):
                if len(node.names) == 1:
                    start = source.span(node)[0] + len(re.match(rb"from\s+", source.data[source.span(node)[0] :])[0])  # type: ignore[index]
                    return Fixed(source.with_edits([_Edit(start, start + len(owner), right)]), f"{last} is in {right}")
                edits = [_left_out(source, node, last)]
                return Fixed(_with_import(source, edits, line), f"{last} is in {right}")
    return None


def _left_out(source: _Source, node: ast.ImportFrom, name: str) -> _Edit:
    alias = next(one for one in node.names if one.name == name)
    start, end = source.span(alias)
    after = re.match(rb"\s*,\s*", source.data[end:])
    if after:
        return _Edit(start, end + after.end(), "")
    before = re.search(rb"\s*,\s*$", source.data[:start])
    return _Edit(before.start() if before else start, end, "")


def _renamed(source: _Source, change: Change) -> Fixed | None:
    """Put the new path for the old one wherever the code names it."""
    known = names.imports(source.tree)
    owner, _, last = change.old.rpartition(".")
    target, _, name = change.new.rpartition(".")
    words = f"{change.old} is now {change.new} ({change.source})"
    edits: list[_Edit] = []
    line = ""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and names.dotted(node, known) == change.old:
            if target == owner:
                edits.append(_attribute(source, node, name))
            elif target.startswith(f"{owner}."):
                edits.append(_attribute(source, node, change.new.removeprefix(f"{owner}.")))
            elif not target:
                if change.new in names.LIBRARIES or change.new in ("joblib",):
                    line = COMMON.get({"numpy": "np"}.get(change.new, ""), f"import {change.new}")
                    edits.append(_Edit(*source.span(node), line.split()[-1]))
                else:
                    edits.append(_Edit(*source.span(node), change.new))
            else:
                alias = next((local for local, path in known.items() if path == target), "")
                line = line or ("" if alias else f"from {target} import {name}")
                edits.append(_Edit(*source.span(node), f"{alias}.{name}" if alias else name))
        elif isinstance(node, ast.ImportFrom) and node.module == owner:
            for alias_ in node.names:
                if alias_.name == last:
                    return _renamed_import(source, node, alias_, change, words)
        elif isinstance(node, ast.ImportFrom) and node.module == change.old:
            found = source.text(node).encode().index(change.old.encode()) + source.span(node)[0]
            edits.append(_Edit(found, found + len(change.old), change.new))
        elif isinstance(node, ast.Import):
            edits += [
                _Edit(*source.span(one), change.new + (f" as {one.asname}" if one.asname else ""))
                for one in node.names
                if one.name == change.old
            ]
    if not edits:
        return None
    return Fixed(_with_import(source, edits, line) if line else source.with_edits(edits), words)


def _renamed_import(source: _Source, node: ast.ImportFrom, alias: ast.alias, change: Change, words: str) -> Fixed:
    """`from owner import old`: import the new name, and let the code use it."""
    owner = change.old.rpartition(".")[0]
    if change.new.startswith(f"{owner}."):
        imported, used = owner, change.new.removeprefix(f"{owner}.")
    else:
        imported, _, used = change.new.rpartition(".")
    first = used.partition(".")[0]
    local = alias.asname or alias.name
    edits = [_Edit(*source.span(one), used) for one in ast.walk(source.tree) if isinstance(one, ast.Name) and one.id == local]
    line = f"from {imported} import {first}" if imported else f"import {first}"
    if imported == owner:
        edits.append(_Edit(*source.span(alias), first))
        return Fixed(source.with_edits(edits), words)
    if len(node.names) == 1:
        edits.append(_Edit(*source.span(node), line))
        return Fixed(source.with_edits(edits), words)
    return Fixed(_with_import(source, [*edits, _left_out(source, node, alias.name)], line), words)


def _calls(source: _Source, line: int) -> Iterator[ast.Call]:
    """The calls that a line is part of; all calls when the line is not known."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and (not line or node.lineno <= line <= (node.end_lineno or node.lineno)):
            yield node


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""


def _applied(source: _Source, change: Change, error: str, line: int) -> Fixed | None:
    """One entry of the table applied to code that failed with an error at a line, or None when it does not fit."""
    words = f"{change.old} is now {change.new} ({change.source})"
    if change.form == "name":
        last = change.old.rpartition(".")[2]
        return (
            _renamed(source, change) if re.search(rf"(attribute|name) '{last}'|No module named '{re.escape(change.old)}'", error) else None
        )
    if change.form == "method":
        if f"has no attribute '{change.old}'" not in error:
            return None
        edits = [
            _attribute(source, node, change.new)
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Attribute)
            and node.attr == change.old
            and (not line or node.lineno <= line <= (node.end_lineno or line))
        ]
        return Fixed(source.with_edits(edits), f".{change.old} is now .{change.new} ({change.source})") if edits else None
    if change.form == "keyword":
        callee, _, argument = change.old.rpartition(".")
        if f"unexpected keyword argument '{argument}'" not in error:
            return None
        for call in _calls(source, 0 if callee != "*" else line):
            for keyword in call.keywords:
                if keyword.arg == argument and callee in ("*", _called(call)):
                    start = source.span(keyword)[0]
                    if not change.new:
                        if isinstance(keyword.value, ast.Constant) and keyword.value.value == "ovr":
                            return None  # one model a class is another model than the one that leaving it out would fit
                        edit = _without(source, call, keyword)
                    elif "=" in change.new:
                        edit = _Edit(*source.span(keyword), change.new)
                    else:
                        edit = _Edit(start, start + len(argument), change.new)
                    told = f"{callee}({argument}=) is now {change.new}" if change.new else f"{callee}({argument}=) is left out"
                    return Fixed(source.with_edits([edit]), f"{told.removeprefix('*')} ({change.source})")
        return None
    if change.form == "value":
        return _value(source, change, error, line, words)
    fixed = CALLS[change.old](source, error, line)
    return Fixed(fixed, words) if fixed is not None else None


def _value(source: _Source, change: Change, error: str, line: int, words: str) -> Fixed | None:
    argument, _, old = change.old.partition("=")
    if argument == "freq":
        match = re.search(r"Invalid frequency: (\d*)([A-Z]+)(-[A-Z]+)?", error)
        if not match or match[2] != old:
            return None
        whole, new = match[1] + old + (match[3] or ""), match[1] + change.new + (match[3] or "")
    elif argument == "style":
        if f"'{old}' is not a valid package style" not in error:
            return None
        whole, new = old, change.new
    else:
        if not re.search(rf"The '{argument}' parameter .*Got '{re.escape(old)}' instead", error, re.S):
            return None
        edits = [
            _Edit(*source.span(keyword.value), "None" if change.new == "None" else _quoted(source, keyword.value, change.new))
            for call in _calls(source, 0)
            for keyword in call.keywords
            if keyword.arg == argument and isinstance(keyword.value, ast.Constant) and keyword.value.value == old
        ]
        return Fixed(source.with_edits(edits), words) if edits else None
    edits = [
        _Edit(*source.span(node), _quoted(source, node, new))
        for call in _calls(source, line)
        for node in ast.walk(call)
        if isinstance(node, ast.Constant) and node.value == whole
    ]
    return Fixed(source.with_edits(edits), words) if edits else None


def _quoted(source: _Source, node: ast.AST, text: str) -> str:
    quote = source.text(node)[0]
    return f"{quote}{text}{quote}" if quote in "'\"" else repr(text)


def _append(source: _Source, error: str, line: int) -> str | None:
    """`frame.append(row)` becomes `pd.concat([frame, row])`; a dict becomes a frame of one row."""
    if not re.search(r"'(DataFrame|Series)' object has no attribute 'append'", error):
        return None
    for call in _calls(source, line):
        if _called(call) == "append" and isinstance(call.func, ast.Attribute) and len(call.args) == 1:
            row, frame = source.text(call.args[0]), source.text(call.func.value)
            dicts = {
                target.id
                for node in ast.walk(source.tree)
                if isinstance(node, ast.Assign)
                and (isinstance(node.value, ast.Dict) or (isinstance(node.value, ast.Call) and _called(node.value) == "dict"))
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            first = call.args[0]
            pd = next((local for local, path in names.imports(source.tree).items() if path == "pandas"), "")
            alias = pd or "pd"
            single = (
                isinstance(first, ast.Dict)
                or (isinstance(first, ast.Name) and first.id in dicts)
                or (isinstance(first, ast.Call) and _called(first) == "dict")
            )
            series = isinstance(first, ast.Call) and _called(first) == "Series" and "DataFrame" in error
            new = f"{alias}.DataFrame([{row}])" if single else f"{row}.to_frame().T" if series else row
            parts = f"[{frame}, *{row}]" if isinstance(first, (ast.List, ast.ListComp)) else f"[{frame}, {new}]"
            rest = "".join(f", {source.text(keyword)}" for keyword in call.keywords)
            edit = _Edit(*source.span(call), f"{alias}.concat({parts}{rest})")
            return source.with_edits([edit]) if pd else _with_import(source, [edit], COMMON["pd"])
    return None


def _fillna(source: _Source, error: str, line: int) -> str | None:
    if "fillna() got an unexpected keyword argument 'method'" not in error:
        return None
    for call in _calls(source, line):
        method = next((one for one in call.keywords if one.arg == "method"), None)
        if _called(call) == "fillna" and isinstance(call.func, ast.Attribute) and method and isinstance(method.value, ast.Constant):
            name = {"ffill": "ffill", "pad": "ffill", "bfill": "bfill", "backfill": "bfill"}.get(str(method.value.value))
            return source.with_edits([_attribute(source, call.func, name), _without(source, call, method)]) if name else None
    return None


def _pivot(source: _Source, error: str, line: int) -> str | None:
    return _by_name(source, line, "pivot", ("index", "columns", "values")) if "DataFrame.pivot() takes 1 positional" in error else None


def _drop(source: _Source, error: str, line: int) -> str | None:
    if "drop() takes from 1 to 2 positional arguments but 3 were given" not in error:
        return None
    for call in _calls(source, line):
        if _called(call) == "drop" and len(call.args) == 2:
            start = source.span(call.args[1])[0]
            return source.with_edits([_Edit(start, start, "axis=")])
    return None


def _by_name(source: _Source, line: int, method: str, parameters: tuple[str, ...], first: int = 0) -> str | None:
    for call in _calls(source, line):
        if _called(call) == method and len(call.args) > first:
            taken = {keyword.arg for keyword in call.keywords}
            pairs = list(zip(parameters, call.args, strict=False))
            if len(pairs) == len(call.args) and not taken & {name for name, _ in pairs}:
                return source.with_edits([_Edit(source.span(node)[0], source.span(node)[0], f"{name}=") for name, node in pairs])
    return None


def _numeric_only(source: _Source, error: str, line: int) -> str | None:
    """Means and correlations of a frame no longer skip its strings by themselves."""
    if not re.search(
        r"(?i)could not convert|Cannot perform reduction|has no kernel matching|agg function failed|not support",
        error,
    ):
        return None
    for call in _calls(source, line):
        method = _called(call)
        plain = not call.args and not any(one.arg in ("numeric_only", None) for one in call.keywords)
        if (
            method in ("corr", "cov", "mean", "median", "std", "var", "sum", "min", "max", "quantile", "skew")
            and isinstance(call.func, ast.Attribute)
            and plain
        ):
            return source.with_edits([_argument(source, call, "numeric_only=True")])
    return None


def _value_counts(source: _Source, error: str, line: int) -> str | None:
    if "module 'pandas' has no attribute 'value_counts'" not in error:
        return None
    for call in _calls(source, line):
        if _called(call) == "value_counts" and len(call.args) == 1 and isinstance(call.func, ast.Attribute):
            alias = source.text(call.func.value)
            rest = ", ".join(map(source.text, call.keywords))
            return source.with_edits([_Edit(*source.span(call), f"{alias}.Series({source.text(call.args[0])}).value_counts({rest})")])
    return None


def _squared(source: _Source, error: str, _: int) -> str | None:
    """mean_squared_error(..., squared=False) is a function of its own now; squared=True was the default."""
    if "unexpected keyword argument 'squared'" not in error:
        return None
    known = names.imports(source.tree)
    edits: list[_Edit] = []
    bare = False
    for call in _calls(source, 0):
        keyword = next((one for one in call.keywords if one.arg == "squared"), None)
        path = names.dotted(call.func, known)
        if keyword is None or not isinstance(keyword.value, ast.Constant) or not path.endswith("mean_squared_error"):
            continue
        edits.append(_without(source, call, keyword))
        if keyword.value.value is False:
            if isinstance(call.func, ast.Attribute):
                edits.append(_attribute(source, call.func, "root_mean_squared_error"))
            else:
                bare = True
                edits.append(_Edit(*source.span(call.func), "root_mean_squared_error"))
    if not edits:
        return None
    if not bare or "root_mean_squared_error" in known:
        return source.with_edits(edits)
    replaced = sum(edit.text == "root_mean_squared_error" for edit in edits)
    uses = [
        node for node in ast.walk(source.tree) if isinstance(node, ast.Name) and known.get(node.id) == "sklearn.metrics.mean_squared_error"
    ]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.module == "sklearn.metrics":
            alias = next((one for one in node.names if one.name == "mean_squared_error"), None)
            if alias is not None:
                span = source.span(alias)
                kept = source.text(alias)
                edits.append(_Edit(*span, "root_mean_squared_error" if replaced == len(uses) else f"{kept}, root_mean_squared_error"))
                return source.with_edits(edits)
    return _with_import(source, edits, "from sklearn.metrics import root_mean_squared_error")


def _seaborn(source: _Source, error: str, line: int) -> str | None:
    """x, y and data of seaborn's functions go by name; a frame stays the first argument's meaning, data."""
    match = re.search(r"(\w+)\(\) (?:takes|got multiple values for argument 'data')", error)
    known = names.imports(source.tree)
    for call in _calls(source, line) if match else ():
        path = names.dotted(call.func, known)
        if path.startswith("seaborn.") and match is not None and _called(call) == match[1] and call.args:
            parameters = (
                ("y",)
                if match[1] == "countplot" and "horizontal" in error
                else ("x", "y", "data")
                if match[1] in ("lmplot", "jointplot", "regplot")
                else ("x", "y", "hue", "data")
            )
            return _by_name(source, call.lineno, match[1], parameters)
    return None


CALLS: Mapping[str, Callable[[_Source, str, int], str | None]] = {
    "frame.append(row)": _append,
    'fillna(method="ffill")': _fillna,
    "pivot(a, b, c)": _pivot,
    "drop(label, 1)": _drop,
    "mean() of a frame with strings": _numeric_only,
    "pd.value_counts(values)": _value_counts,
    "mean_squared_error(squared=False)": _squared,
    "sns.scatterplot(a, b)": _seaborn,
}
"""What no plain renaming can do: each returns the new code, or None when it does not fit the error."""


def table() -> str:
    """The table of changes in Markdown, as docs/verification.md shows it."""
    rows = [f"| `{one.old}` | {f'`{one.new}`' if one.new else 'left out'} | {one.source} |" for one in TABLE]
    return "\n".join(["| gone | now | source |", "|---|---|---|", *rows])
