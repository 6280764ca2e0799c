"""What is asked of a run once it has ended well. This file's text is run inside the sandbox, after the answer and in its namespace."""

import json
import sys
from typing import Any


def facts(space: dict[str, Any], last: Any, kept: dict[str, tuple[Any, Any]]) -> str:
    """What the run left behind, as JSON: which given frames changed in place, what the figures hold, whether the result is all NaN.

    kept: name -> (the frame as it was handed over, a deep copy from before the run). "value" tells the result for votes: numbers to six
    digits, the columns of a frame in order of their names.
    """
    changed = {name: how for name, (frame, before) in kept.items() if (how := _changed(frame, before))}
    states = {name: _shape(space.get(name)) for name in kept}
    changes = {name: _difference(before, space.get(name)) for name, (_, before) in kept.items()}
    told = {"changed": changed, "figures": _figures(), "empty": _all_nan(last), "value": _value(last), "states": states}
    return json.dumps(told | {"changes": changes})


def _changed(frame: Any, before: Any) -> str:
    """How a frame differs from its copy: "" or words. New columns are no loss."""
    lost = [str(column) for column in before.columns if column not in frame.columns]
    if lost:
        return "lost the column " + ", ".join(lost[:3])
    if len(frame) != len(before):
        return f"went from {len(before)} to {len(frame)} rows"
    if not frame.index.equals(before.index):
        return "has another order of rows or another index"
    for place, column in enumerate(before.columns):
        now = frame[column] if before.columns.is_unique and frame.columns.is_unique else frame.iloc[:, place]
        if now.dtype != before.iloc[:, place].dtype or not now.equals(before.iloc[:, place]):
            return f"has other values in {column}"
    return ""


def _difference(before: Any, after: Any) -> str:
    """What a variable's frame differs in from before the run, for people: rows, columns, dtypes, values; "" for nothing."""
    pandas = sys.modules["pandas"]
    if not isinstance(after, pandas.DataFrame):
        return f"becomes a {type(after).__name__}" if after is not None else "is deleted"
    found = [f"{len(before):,} -> {len(after):,} rows"] if len(before) != len(after) else []
    added = [f"{column} {after[column].dtype}" for column in after.columns if column not in before.columns and after.columns.is_unique]
    lost = [str(column) for column in before.columns if column not in after.columns]
    found += [f"new column{'s' * (len(added) > 1)} {', '.join(added[:6])}{' ...' * (len(added) > 6)}"] if added else []
    found += [f"without {', '.join(lost[:6])}{' ...' * (len(lost) > 6)}"] if lost else []
    if before.columns.is_unique and after.columns.is_unique:
        shared = [column for column in before.columns if column in after.columns]
        found += [f"{column} {old} -> {new}" for column in shared if (old := before[column].dtype) != (new := after[column].dtype)][:6]
    return "; ".join(found) or _changed(after, before)


def _all_nan(value: Any) -> bool:
    """True for a number, array, Series or frame of at least one cell, all of them missing."""
    pandas, numpy = sys.modules.get("pandas"), sys.modules.get("numpy")
    if pandas is not None and isinstance(value, (pandas.Series, pandas.DataFrame)):
        return bool(value.size and value.isna().to_numpy().all())
    if numpy is not None and isinstance(value, (float, numpy.floating, numpy.ndarray)):
        array = numpy.asarray(value)
        return bool(array.size and array.dtype.kind == "f" and numpy.isnan(array).all())
    return False


def _figures() -> list[dict[str, Any]]:
    """For each open figure: does it hold anything, is anything labelled, and its numbers."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    found = []
    for number in pyplot.get_fignums()[:12] if pyplot else ():
        figure = pyplot.figure(number)  # type: ignore[union-attr]
        axes = figure.get_axes()
        content = any(one.has_data() or one.images or one.tables or one.texts for one in axes)
        found.append({"content": content, "label": bool(figure.texts) or any(map(_labelled, axes)), "data": [_drawn(one) for one in axes]})
    return found


def _labelled(axes: Any) -> bool:
    words = [axes.get_title(), axes.get_title("left"), axes.get_title("right"), axes.get_xlabel(), axes.get_ylabel()]
    words += [text.get_text() for text in axes.texts]
    if any(word.strip() for word in words) or axes.get_legend() is not None:
        return True
    ticks = [tick.get_text() for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_ticklabels()]
    return any(letter.isalpha() for tick in ticks for letter in tick)


def _drawn(axes: Any) -> list[Any]:
    """The numbers of one axes: lines, bars, points, images."""
    numbers: list[Any] = [[_rounded(line.get_ydata()) for line in axes.lines[:20]]]
    numbers.append([_rounded([patch.get_height(), patch.get_width()]) for patch in axes.patches[:200] if hasattr(patch, "get_height")])
    numbers.append([_rounded(one.get_offsets()) for one in axes.collections[:20] if hasattr(one, "get_offsets")])
    numbers.append([_rounded(image.get_array()) for image in axes.images[:5]])
    return numbers


def _rounded(values: Any) -> Any:
    """A short word for an array: equal for values that agree in six digits."""
    import hashlib

    numpy = sys.modules["numpy"]
    try:
        array = numpy.ma.filled(numpy.ma.asarray(values, dtype=float), numpy.nan).ravel()
        digits = ",".join(f"{number:.6g}" for number in array[:100_000] + 0.0)
    except (TypeError, ValueError):
        digits = ",".join(map(str, list(values)[:100_000]))
    return hashlib.sha256(digits.encode("utf-8", "replace")).hexdigest()[:16]


def _shape(value: Any) -> Any:
    pandas = sys.modules.get("pandas")
    return _value(value) if pandas is not None and isinstance(value, pandas.DataFrame) else None


def _value(value: Any) -> Any:
    """A result as plain values that two answers of one meaning share."""
    pandas, numpy = sys.modules.get("pandas"), sys.modules.get("numpy")
    if value is None:
        return None
    if pandas is not None and isinstance(value, pandas.Series):
        return ["series", len(value), _rounded(value.to_numpy()), _rounded(value.index.astype(str).to_numpy())]
    if pandas is not None and isinstance(value, pandas.DataFrame):
        columns = sorted(range(value.shape[1]), key=lambda place: str(value.columns[place]))
        return [
            "frame",
            list(value.shape),
            [[str(value.columns[place]), _rounded(value.iloc[:, place].to_numpy())] for place in columns[:100]],
        ]
    if numpy is not None and isinstance(value, numpy.ndarray):
        return ["array", list(value.shape), _rounded(value)]
    if isinstance(value, (bool, str)):
        return str(value)[:500]
    if isinstance(value, (int, float)) or (numpy is not None and isinstance(value, numpy.number)):
        return f"{float(value):.6g}"
    if isinstance(value, (list, tuple, set, dict)):
        return [type(value).__name__, str(value)[:500]]
    return type(value).__name__
