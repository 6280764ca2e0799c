"""An error in one plain line: where, what, and the nearest name where one was misspelt."""

import difflib
import re
from collections.abc import Iterable, Mapping

from twofold.verify import repair

_MEANINGS: Mapping[str, str] = {
    "AttributeError": "the value has no such attribute or method",
    "FileNotFoundError": "there is no such file",
    "ImportError": "the library is there, the name in it is not",
    "IndentationError": "the lines are not indented alike",
    "IndexError": "a position beyond the end",
    "KeyError": "there is no such column or key",
    "LinAlgError": "the matrix cannot be solved, often because columns depend on each other",
    "MemoryError": "it needs more memory than there is",
    "MergeError": "the keys of the join do not fit together",
    "ModuleNotFoundError": "the library is not installed",
    "NameError": "the name was never given a value",
    "NotFittedError": "the model was used before fit",
    "RecursionError": "a function calls itself without end",
    "SyntaxError": "Python cannot read it",
    "TypeError": "a value of the wrong type",
    "UnboundLocalError": "the name is used before it gets a value",
    "ValueError": "a value that does not fit",
    "ZeroDivisionError": "a division by zero",
}
_LAST = re.compile(r"^(?:[\w.]+\.)?(\w+)(?:: (.*))?$")


def wrong(error: str, columns: Mapping[str, Iterable[str]], names: Iterable[str] = ()) -> str:
    """Say what an error means, such as `line 2, KeyError: 'pric': there is no such column or key; the nearest is price`.

    columns: the column names of known frames; names: the variables of the notebook. Nothing is asked of a model.
    """
    lines = [line for line in error.strip().splitlines() if line.strip()] or [""]
    last = next((line for line in lines if re.match(r"[\w.]+(Error|Exception|Warning|Interrupt)\b", line)), lines[-1])
    match = _LAST.match(last.strip())
    kind, said = (match[1], match[2] or "") if match else ("", last)
    places = re.findall(r'File "<cell>", line (\d+)', error)
    where = f"line {places[-1]}, " if places else ""
    text = f"{where}{last.strip()[:200]}" + (f": {meaning}" if (meaning := _MEANINGS.get(kind)) else "")
    quoted = re.search(r"'([^']{1,80})'", said)
    known: set[str] = set()
    if kind in ("KeyError", "NameError"):
        known = {column for listed in columns.values() for column in listed} if kind == "KeyError" else {*names}
    name = quoted[1] if quoted else ""
    near = (repair.closest(name, known) or next(iter(difflib.get_close_matches(name, known, 1, 0.7)), "")) if known and name else ""
    return f"{text}; the nearest is {near}" if near not in ("", name) else text
