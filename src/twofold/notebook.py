"""DataFrames and variables of a notebook, as a short schema for the prompt, and that schema read back.

The first line of a frame has the form that training rows show, `df: 120 rows; price float64, region str`; nulls, levels, ranges and date
spans follow on lines of their own, which hold no semicolon, so that whoever reads names from a schema finds column names alone.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.types import TwofoldError

MAX_COLUMNS = 40
MAX_LEVELS = 8
BUDGET = 400
"""Tokens of a schema, estimated at 3.5 characters each."""
CHARACTERS_PER_TOKEN = 3.5
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


def schema(name: str, frame: Any, *, values: bool = False, budget: int = BUDGET) -> str:
    """A DataFrame's columns and dtypes in one line, then which have nulls; with `values` also levels, ranges and date spans.

    At most 40 columns and about `budget` tokens. Without `values` not one cell of the frame is told.
    """
    columns = {str(column): str(dtype) for column, dtype in zip(frame.columns, frame.dtypes, strict=True)}
    room = int(budget * CHARACTERS_PER_TOKEN)
    shown = next((n for n in range(min(MAX_COLUMNS, len(columns)), 1, -1) if len(describe(name, columns, len(frame), n)) <= room), 1)
    lines = [describe(name, columns, len(frame), shown)]
    for what, facts in (("nulls", _nulls(frame)), *((("levels", _levels(frame)), ("ranges", _ranges(frame))) if values else ())):
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
