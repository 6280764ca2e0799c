"""DataFrames and variables of a notebook, as a short schema for the prompt."""

import json
import re
from collections.abc import Mapping
from typing import Any

MAX_COLUMNS = 40
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
_CHAT_TOKENS = re.compile(r"\[/?INST\]|</?s>|<pad>|`{3,}", re.I)


def safe_name(name: object) -> str:
    """A column or variable name as one harmless word: bare when it is an identifier, JSON-escaped otherwise, at most 60 characters."""
    text = _CHAT_TOKENS.sub(" ", _CONTROL.sub(" ", str(name).encode("utf-8", "replace").decode()))[:60]
    return text if re.fullmatch(r"\w+", text) else json.dumps(text, ensure_ascii=False)


def describe(name: str, columns: Mapping[str, str], rows: int) -> str:
    """One line for one frame, such as `df: 120 rows; price float64, region str`. columns maps name to dtype."""
    shown = [f"{safe_name(column)} {safe_name(dtype)}" for column, dtype in list(columns.items())[:MAX_COLUMNS]]
    more = f", and {len(columns) - MAX_COLUMNS} more" if len(columns) > MAX_COLUMNS else ""
    return f"{safe_name(name)}: {rows} rows; {', '.join(shown)}{more}"


def summary(namespace: Mapping[str, Any]) -> str:
    """The DataFrames of a namespace, one line each: names, dtypes and sizes, never values."""
    lines = []
    for name, value in namespace.items():
        if name.startswith("_") or type(value).__name__ != "DataFrame" or not type(value).__module__.startswith("pandas"):
            continue
        columns = {str(column): str(dtype) for column, dtype in zip(value.columns, value.dtypes, strict=True)}
        lines.append(describe(name, columns, len(value)))
    return "\n".join(lines)
