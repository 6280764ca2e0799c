"""DataFrames and variables of a notebook, as a short schema for the prompt, and that schema read back.

The first line of a frame has the form that training rows show, `df: 120 rows; price float64, region str`; nulls, levels, ranges and date
spans follow on lines of their own, which hold no semicolon, so that whoever reads names from a schema finds column names alone. Series,
arrays, fitted estimators and frames of polars have one such line each.

Values are looked at by their type alone: no method, property or repr of a class that the user wrote is called. What is said of cells
(nulls, levels, ranges) is read from at most SAMPLE rows, evenly spaced, so that no frame is copied and none takes long.
"""

import json
import math
import re
import sys
import types
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from twofold.types import Share, TwofoldError

MAX_COLUMNS = 40
MAX_LEVELS = 8
BUDGET = 400
"""Tokens of a schema, estimated at 3.5 characters each."""
CHARACTERS_PER_TOKEN = 3.5
SAMPLE = 10_000
"""Rows of a larger frame of which nulls, levels and ranges are told."""
LARGEST_TEXT, LARGEST_PLAIN = 2_000, 200
"""Characters and items up to which a plain value of the notebook is written into a run."""
MAX_FILE = 200 << 20
"""Bytes of a data file that is still read."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]")
_CHAT_TOKENS = re.compile(r"\[/?INST\]|</?s>|<pad>|`{3,}", re.I)
_WORD = r'(?:"(?:[^"\\]|\\.)*"|\w+)'
_LINE = re.compile(rf"(?P<name>{_WORD}): (?P<rows>\d+) rows; (?P<columns>.*)$")
_COLUMN = re.compile(rf'(?P<name>{_WORD}) (?P<dtype>"(?:[^"\\]|\\.)*"|[^\s,]+)(?:, |$)')


@dataclass(frozen=True, slots=True)
class Schema:
    """What a schema line says of one frame."""

    rows: int
    columns: Mapping[str, str]
    """Column name -> dtype, as the prompt shows them."""
    complete: bool = True
    """False when columns were left out or a name was cut, so that a name not in it may still exist."""


def safe_name(name: object) -> str:
    """A column or variable name as one harmless word: bare when it is an identifier, JSON-escaped otherwise, at most 60 characters."""
    text = _CHAT_TOKENS.sub(" ", _CONTROL.sub(" ", str(name).encode("utf-8", "replace").decode()))[:60]
    return text if re.fullmatch(r"\w+", text) else json.dumps(text, ensure_ascii=False)


def describe(name: str, columns: Mapping[str, str], rows: int, most: int = MAX_COLUMNS) -> str:
    """One line for one frame, such as `df: 120 rows; price float64, region str`. columns maps name to dtype; `most` of them are shown."""
    shown = [f"{safe_name(column)} {safe_name(dtype)}" for column, dtype in list(columns.items())[:most]]
    more = f", and {len(columns) - most} more" if len(columns) > most else ""
    return f"{safe_name(name)}: {rows} rows; {', '.join(shown)}{more}"


def schema(name: str, frame: Any, *, values: bool = False, levels: bool = False, budget: int = BUDGET) -> str:
    """A DataFrame's columns and dtypes in one line, then which have nulls; with `levels` also the levels of columns that have few, with
    `values` besides these ranges and date spans.

    At most 40 columns and about `budget` tokens. Without either not one cell of the frame is told.
    """
    columns = {str(column): str(dtype) for column, dtype in zip(frame.columns, frame.dtypes, strict=True)}
    room = int(budget * CHARACTERS_PER_TOKEN)
    shown = next((n for n in range(min(MAX_COLUMNS, len(columns)), 1, -1) if len(describe(name, columns, len(frame), n)) <= room), 1)
    lines = [describe(name, columns, len(frame), shown)]
    for what, facts in _cells(sampled(frame), levels=levels or values, values=values):
        left = room - sum(map(len, lines)) - len(name) - len(what) - 3
        kept: list[str] = []
        for fact in facts:
            left -= len(fact) + 2
            if left < 0 or len(kept) >= MAX_COLUMNS:
                break
            kept.append(fact)
        if kept:
            lines.append(f"{safe_name(name)} {what}: {', '.join(kept)}")
    return "\n".join(lines)


def sampled(frame: Any, rows: int = SAMPLE) -> Any:
    """The frame, or about `rows` evenly spaced rows of a larger one: a view of its numbers, no copy."""
    return frame if len(frame) <= 2 * rows else frame.iloc[:: len(frame) // rows]


def _cells(frame: Any, *, levels: bool, values: bool) -> Iterator[tuple[str, Iterator[str]]]:
    yield "nulls", _nulls(frame)
    if levels:
        yield "levels", _levels(frame)
    if values:
        yield "ranges", _ranges(frame)


def _series(frame: Any) -> Iterator[tuple[str, Any]]:
    """Each column with its name as a schema shows it; no semicolon is left in it."""
    for place, column in enumerate(frame.columns):
        yield _inner(column), frame.iloc[:, place]


def _inner(value: object) -> str:
    return safe_name(value).replace(";", "\\u003b")


def _nulls(frame: Any) -> Iterator[str]:
    for name, series in _series(frame):
        if (rate := float(series.isna().mean()) if len(series) else 0.0) > 0:
            yield f"{name} {max(1, round(100 * rate))}%"


def _levels(frame: Any) -> Iterator[str]:
    for name, series in _series(frame):
        if str(series.dtype) in ("object", "str", "string", "category", "bool"):
            try:
                levels = list(series.dropna().unique()[: MAX_LEVELS + 1])
            except TypeError:  # cells that cannot be compared, such as lists
                continue
            if len(levels) <= MAX_LEVELS:
                yield f"{name} {'|'.join(_inner(level)[:40] for level in levels)}"


def _ranges(frame: Any) -> Iterator[str]:
    for name, series in _series(frame):
        if series.dtype.kind in "iufM" and series.notna().any():
            low, high = series.min(), series.max()
            ends = (f"{low:%Y-%m-%d}", f"{high:%Y-%m-%d}") if series.dtype.kind == "M" else (f"{low:.6g}", f"{high:.6g}")
            yield f"{name} {ends[0]} to {ends[1]}"


def frames_in(namespace: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The DataFrames of a namespace with their names, private ones left out."""
    return tuple(
        (name, value)
        for name, value in namespace.items()
        if not name.startswith("_") and type(value).__name__ == "DataFrame" and type(value).__module__.startswith("pandas")
    )


def summary(namespace: Mapping[str, Any], *, values: bool = False, budget: int = BUDGET) -> str:
    """The DataFrames of a namespace as schemas, in about `budget` tokens together: names, dtypes, sizes, nulls; values only if allowed."""
    found = frames_in(namespace)
    return "\n".join(schema(name, frame, values=values, budget=max(40, budget // len(found))) for name, frame in found)


# everything that a notebook holds

Kind = Literal["frame", "series", "array", "estimator", "polars"]


def kind_of(value: object) -> Kind | None:
    """What a value is, told by its type alone; None for what a schema does not tell. Estimators count once they are fitted."""
    name, root = type(value).__name__, type(value).__module__.partition(".")[0]
    if root == "pandas" and name in ("DataFrame", "Series"):
        return "frame" if name == "DataFrame" else "series"
    if root == "numpy" and name == "ndarray":
        return "array"
    if root == "polars" and name == "DataFrame":
        return "polars"
    return "estimator" if _fitted(value) else None


def _fitted(value: object) -> bool:
    """True for scikit-learn's estimators and their kin once `fit` has given them an attribute, and for results of statsmodels."""
    if isinstance(value, type):
        return False
    roots = {base.__module__.partition(".")[0] for base in type(value).__mro__}
    if "statsmodels" in roots:
        return type(value).__name__.endswith(("Results", "ResultsWrapper"))
    steps = _steps(value)
    return "sklearn" in roots and (_fitted(steps[-1]) if steps else any(name.endswith("_") and name[0] != "_" for name in _inside(value)))


def _inside(value: object) -> Mapping[str, Any]:
    found = getattr(value, "__dict__", {}) if not isinstance(value, type) else {}
    return found if isinstance(found, dict) else {}


def _steps(value: object) -> list[Any]:
    """The estimators of a pipeline."""
    steps = _inside(value).get("steps")
    return [step[1] for step in steps if isinstance(step, tuple) and len(step) == 2] if isinstance(steps, list) else []


def variable(name: str, value: Any, share: Share = "schema", budget: int = BUDGET) -> str:
    """What a prompt says of one variable at a level of sharing, in one or a few lines; "" for what is not told."""
    kind, levels, values = kind_of(value), share in ("levels", "values"), share == "values"
    if kind is None or share == "nothing":
        return ""
    if kind == "frame":
        return schema(name, value, levels=levels, values=values, budget=budget)
    if kind == "series":
        named = "" if value.name is None else f" named {_inner(value.name)}"
        line = f"{safe_name(name)}: Series of {len(value)} {safe_name(value.dtype)}{named}"
        few = sampled(value).to_frame(name)
        told = [(what, list(facts)) for what, facts in _cells(few, levels=levels, values=values)]
        return "\n".join([line, *(f"{safe_name(name)} {what}: {facts[0].partition(' ')[2]}" for what, facts in told if facts)])
    if kind == "array":
        return f"{safe_name(name)}: array {' x '.join(map(str, value.shape)) or 'of one'} {safe_name(value.dtype)}"
    if kind == "polars":
        return _polars(name, value)
    return f"{safe_name(name)}: fitted {_estimator(value, levels)}"


def _polars(name: str, frame: Any) -> str:
    """Size, columns and dtypes of a frame of polars; its cells are told at no level. Parameters of a dtype are left out: some hold cells.

    No run has such a frame, so the line has another form than that of a pandas frame, and no twin is made from it.
    """
    dtypes = [getattr(dtype, "__name__", type(dtype).__name__) for dtype in frame.dtypes]
    shown = [f"{_inner(column)} {dtype}" for column, dtype in zip(frame.columns[:MAX_COLUMNS], dtypes, strict=False)]
    more = f", and {len(dtypes) - MAX_COLUMNS} more" if len(dtypes) > MAX_COLUMNS else ""
    return f"{safe_name(name)}: polars DataFrame of {frame.height} rows, {', '.join(shown)}{more}"


def _estimator(value: object, levels: bool) -> str:
    inside, steps = _inside(value), _steps(value)
    text = type(value).__name__ + (f" of {', '.join(type(step).__name__ for step in steps)}" if steps else "")
    first = _inside(steps[0]) if steps else inside
    features, count = first.get("feature_names_in_"), first.get("n_features_in_")
    if features is not None:
        shown = ", ".join(_inner(one) for one in list(features)[:MAX_COLUMNS])
        text += f" on {shown}" + (f" and {len(features) - MAX_COLUMNS} more" if len(features) > MAX_COLUMNS else "")
    elif isinstance(count, int):
        text += f" on {count} columns"
    classes = (_inside(steps[-1]) if steps else inside).get("classes_")
    if classes is not None and type(classes).__name__ == "ndarray":
        few = levels and len(classes) <= MAX_LEVELS
        text += f", classes {'|'.join(_inner(one)[:40] for one in classes)}" if few else f", {len(classes)} classes"
    return text


def told(namespace: Mapping[str, Any], share: Share = "schema", *, first: Collection[str] = (), budget: int = BUDGET) -> str:
    """What a prompt says of a notebook's DataFrames, Series, arrays and fitted estimators, in about `budget` tokens together.

    `first` names those that the question means: they come first and are told even where the budget ends. Private names are left out.
    """
    if share == "nothing":
        return ""
    known = {name: value for name, value in namespace.items() if not name.startswith("_") and kind_of(value)}
    order: tuple[Kind, ...] = ("frame", "polars", "series", "array", "estimator")
    names = sorted(known, key=lambda name: (name not in first, order.index(kind_of(known[name]) or "frame")))
    room, lines = budget * CHARACTERS_PER_TOKEN, list[str]()
    for place, name in enumerate(names):
        part = room / min(4, len(names) - place)
        text = variable(name, known[name], share, max(40, int(part / CHARACTERS_PER_TOKEN)))
        if len(text) > room and name not in first and lines:
            lines.append(f"and {len(names) - place} more variables")
            break
        room -= len(text)
        lines.append(text)
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Ground:
    """What a run may have of a notebook; the fields of a Request with the same names."""

    frames: tuple[tuple[str, Any], ...]
    """(name, DataFrame) pairs; Series and arrays stand among them as frames."""
    setup: tuple[tuple[str, str], ...]
    """(name, statement) pairs: imports, plain values, and what turns a frame back into its Series or array."""
    bound: frozenset[str]
    """The other variables, which no run can have."""


def ground(namespace: Mapping[str, Any]) -> Ground:
    """Sort a notebook's variables by how a run can have them. Nothing is copied here, and nothing of a user's class is called."""
    frames: list[tuple[str, Any]] = []
    setup: list[tuple[str, str]] = []
    bound: set[str] = set()
    for name, value in namespace.items():
        if name.startswith("_") or not name.isidentifier():
            continue
        kind = kind_of(value)
        if kind == "frame":
            frames.append((name, value))
        elif kind == "series":
            frames.append((name, value.to_frame()))
            setup.append((name, f"{name} = {name}.iloc[:, 0]" + (".rename(None)" if value.name is None else "")))
        elif kind == "array" and value.ndim in (1, 2) and value.dtype.kind in "biufM" and value.size:
            frames.append((name, _table(value)))
            setup.append((name, f"{name} = {name}{'.iloc[:, 0]' if value.ndim == 1 else ''}.to_numpy()"))
        elif statement := _statement(name, value):
            setup.append((name, statement))
        else:
            bound.add(name)
    return Ground(tuple(frames), tuple(setup), frozenset(bound))


def _table(array: Any) -> Any:
    import pandas as pd

    return pd.DataFrame(array, columns=[f"c{place}" for place in range(1 if array.ndim == 1 else array.shape[1])], copy=False)


def _statement(name: str, value: object) -> str:
    """Python that binds a module, a public function or class of an installed library, or a plain value; "" for anything else."""
    if isinstance(value, types.ModuleType):
        path = value.__name__
        return "" if path == "__main__" else f"import {path}" if path == name else f"import {path} as {name}"
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        home, own = str(getattr(value, "__module__", "") or ""), str(getattr(value, "__name__", ""))
        there = home not in ("", "__main__", "builtins") and getattr(sys.modules.get(home), own, None) is value
        return f"from {home} import {own} as {name}" if there else ""
    return f"{name} = {value!r}" if _plain(value) else ""


def _plain(value: object, depth: int = 0) -> bool:
    """True for what Python can read back from its repr: exact types only, so that no repr of a user's class is called."""
    kind = type(value)
    if kind is float:
        return math.isfinite(value)  # type: ignore[arg-type]  # it is a float
    if kind in (int, bool, str, bytes, complex, type(None)):
        return kind not in (str, bytes) or len(value) <= LARGEST_TEXT  # type: ignore[arg-type]  # a str or bytes
    if kind in (list, tuple, set, dict) and depth < 4 and 0 < len(value) <= LARGEST_PLAIN:  # type: ignore[arg-type]  # a collection
        parts = [*value, *value.values()] if isinstance(value, dict) else list(value)  # type: ignore[call-overload]  # iterable by its kind
        return all(_plain(one, depth + 1) for one in parts)
    return kind in (list, tuple, dict) and not value


def frame_of(columns: Collection[str], rows: Collection[Collection[str]]) -> Any:
    """A DataFrame from cells told as text, the first of each row being its index label; columns of numbers become numbers."""
    import pandas as pd

    table = list(map(list, rows))
    frame = pd.DataFrame([row[1:] for row in table], columns=list(columns)[: max(0, len(table[0]) - 1)] if table else list(columns))
    for place, name in enumerate(frame.columns):
        numbers = pd.to_numeric(frame.iloc[:, place], errors="coerce")
        if not frame.columns.has_duplicates and numbers.notna().all():
            frame[name] = numbers
    return frame.set_index(pd.Index([row[0] for row in table])) if table else frame


def reading(path: str | Path, name: str = "df") -> str:
    """Python that reads a data file as `load` does, and binds it to a name."""
    readers = {".csv": "read_csv", ".tsv": "read_csv", ".parquet": "read_parquet", ".xlsx": "read_excel", ".json": "read_json"}
    suffix = Path(path).suffix.lower()
    more = ", sep='\\t'" if suffix == ".tsv" else ""
    return f"import pandas as pd\n\n{name} = pd.{readers.get(suffix, 'read_csv')}({str(path)!r}{more})"


def parse(text: str) -> dict[str, Schema]:
    """Read the frames back from a rendered schema; lines of another form are passed over."""
    found = {}
    for line in text.splitlines():
        if match := _LINE.match(line.strip()):
            listed = match["columns"]
            columns = {_bare(one["name"]): _bare(one["dtype"]) for one in _COLUMN.finditer(listed)}
            whole = not re.search(r"(?:^|, )and \d+ more$", listed) and all(len(name) < 60 for name in columns)
            found[_bare(match["name"])] = Schema(int(match["rows"]), columns, whole)
    return found


def _bare(word: str) -> str:
    try:
        return str(json.loads(word)) if word.startswith('"') else word
    except ValueError:
        return word.strip('"')


def load(path: str | Path) -> Any:
    """Read a CSV, TSV, Parquet, Excel or JSON file as a DataFrame. Raises TwofoldError when it cannot be read or is over 200 MB."""
    path = Path(path)
    try:
        import pandas as pd
    except ModuleNotFoundError:
        raise TwofoldError("pandas is not installed: pip install twofold[data]") from None
    readers: dict[str, Any] = {".csv": pd.read_csv, ".tsv": lambda file: pd.read_csv(file, sep="\t"), ".parquet": pd.read_parquet}
    readers |= {".xlsx": pd.read_excel, ".json": pd.read_json}
    if path.suffix.lower() not in readers:
        raise TwofoldError(f"cannot tell what {path.name} holds: give a file that ends in {', '.join(readers)}")
    try:
        if path.stat().st_size > MAX_FILE:
            raise TwofoldError(f"{path.name} is over {MAX_FILE >> 20} MB: give a sample of it")
        return readers[path.suffix.lower()](path)
    except OSError as error:
        raise TwofoldError(f"cannot read {path} ({error.strerror or error})") from None
    except (ValueError, ImportError, pd.errors.ParserError) as error:
        raise TwofoldError(f"cannot read {path.name}: {str(error).splitlines()[0][:200] if str(error) else type(error).__name__}") from None
