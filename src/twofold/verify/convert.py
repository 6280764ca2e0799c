"""Columns of strings that hold dates, or numbers with a unit: a line that reads them as such, put before code that failed on them.

Files are read like this: `read_csv` leaves "28/04/2014" and "78 m2" as strings. What the strings are is seen in the user's frames, on which
the code was going to run anyway; a schema alone does not tell.
"""

import ast
import re
from collections.abc import Iterable, Sequence
from typing import Any

from twofold.verify import names
from twofold.verify.repair import COMMON, Fixed

LOOKED_AT = 200
"""Strings of a column that are looked at."""
FAILURES = re.compile(r"(TypeError|ValueError|AttributeError|DataError|NotImplementedError|UnitTypeError)\b[^\n]*\Z")
"""Errors that strings in the place of dates or numbers raise."""
_ARITHMETIC = re.compile(r"'str' and '(int|float)'|'(int|float)' and 'str'|to numeric|dtype")
_CLOCK = r"(?:[ T]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?)?(?:Z|[+-]\d{2}:?\d{2})?"
_YEAR_FIRST = re.compile(rf"\d{{4}}([-/.])\d{{1,2}}\1\d{{1,2}}{_CLOCK}")
_YEAR_LAST = re.compile(rf"(\d{{1,2}})([-/.])(\d{{1,2}})\2\d{{4}}{_CLOCK}")
_SPELT = re.compile(r"\d{1,2}[ -][A-Z][a-z]{2,8}[ -]\d{4}|[A-Z][a-z]{2,8} \d{1,2}, \d{4}")
_NUMBER = re.compile(r"(?P<before>[^\d.,+-]{0,4})(?P<number>[-+]?\d(?:[\d.,]*\d)?)(?P<after>\s?(?:[^\W\d]|[%°²³/])*[23]?)")


def converted(code: str, error: str, frames: Iterable[tuple[str, Any]]) -> Fixed | None:
    """The code behind lines that read its string columns as the dates or numbers that they hold, or None.

    error: what it failed with. Numbers are only read where the error speaks of one of the strings or of arithmetic with strings.
    """
    if not FAILURES.search(error.strip()):
        return None
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return None
    used = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    free = names.free(tree)
    lines: list[str] = []
    told: list[str] = []
    for name, frame in frames:
        for column in map(str, frame.columns) if name in free and frame.columns.is_unique else ():
            values = _strings(frame[column]) if column in used and column in frame.columns else []
            if values and (how := _date(values) or _number(values, error)):
                read = how.replace("$", f'{name}["{column}"]')
                new = f"{column}={read}" if column.isidentifier() else f'**{{"{column}": {read}}}'
                lines.append(f"{name} = {name}.assign({new})")
                told.append(f"column {column!r} is read as {'dates' if 'to_datetime' in how else 'numbers'}")
    if not lines or any('"' in column or "\\" in column for column in told):
        return None
    if any("pd." in line for line in lines) and "pd" not in names.imports(tree):
        lines.insert(0, COMMON["pd"])
    body = next((node for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))), None)
    at = (body.lineno if body else len(code.splitlines()) + 1) - 1
    before, after = code.splitlines()[:at], code.splitlines()[at:]
    return Fixed("\n".join((*before, *lines, *after)), "; ".join(told))


def _strings(series: Any) -> list[str]:
    """The first strings of a column; nothing where it holds anything else."""
    if series.dtype.kind not in "OTU" and str(series.dtype) not in ("str", "string"):
        return []
    values = series.dropna().head(LOOKED_AT).tolist()
    return [value.strip() for value in values] if values and all(isinstance(value, str) for value in values) else []


def _date(values: Sequence[str]) -> str:
    """How strings are read as dates, with $ for the column; "" where they are none."""
    if all(map(_YEAR_FIRST.fullmatch, values)) or all(map(_SPELT.fullmatch, values)):
        return "pd.to_datetime($)"
    last = [_YEAR_LAST.fullmatch(value) for value in values]
    if not all(last):
        return ""
    day_first = any(int(match[1]) > 12 for match in last if match) or any(match[2] == "." for match in last if match)
    return "pd.to_datetime($, dayfirst=True)" if day_first else "pd.to_datetime($)"


def _number(values: Sequence[str], error: str) -> str:
    """How strings with one and the same unit are read as numbers, with $ for the column; "" where they are none, or not spoken of."""
    if not any(value in error for value in values) and not _ARITHMETIC.search(error):
        return ""
    found = [_NUMBER.fullmatch(value) for value in values]
    if not all(found) or len({(match["before"].strip(), match["after"].strip()) for match in found if match}) != 1:
        return ""
    numbers = [match["number"] for match in found if match]
    plain = r'.str.extract(r"(-?\d+(?:\.\d+)?)", expand=False).astype(float)'
    if all(re.fullmatch(r"[-+]?\d+(\.\d+)?", number) for number in numbers):
        return "$" + plain
    if all(re.fullmatch(r"[-+]?\d{1,3}(,?\d{3})*(\.\d+)?", number) for number in numbers):
        return '$.str.replace(",", "")' + plain
    if all(re.fullmatch(r"[-+]?\d{1,3}(\.?\d{3})*(,\d+)?", number) for number in numbers):
        return '$.str.replace(".", "").str.replace(",", ".")' + plain
    return ""
