"""Synthetic frames with a given schema: what code is tried on when the user's own data is not to be touched.

`make` builds a frame from columns, `of` the twin of a real frame. Traps are what real data has and examples lack: a category that nobody
named, keys that repeat, nulls where there were nulls.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["id", "ref", "float", "int", "cat", "binary", "bool", "date", "datestr", "text"]

WORDS = (
    "good", "value", "fast", "delivery", "slow", "support", "broken", "screen", "quiet", "motor",
    "nice", "colour", "late", "parcel", "friendly", "staff", "easy", "setup", "cheap", "plastic",
    "great", "sound", "short", "cable", "long", "battery", "heavy", "box", "clear", "manual",
    "wrong", "size", "happy", "customer", "second", "order", "small", "scratch",
)  # fmt: skip

ISO = "%Y-%m-%d"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: a name, a kind and what bounds its values."""

    name: str
    kind: Kind
    low: float = 0.0
    high: float = 1.0
    levels: tuple[str, ...] = ()
    start: str = ""
    freq: str = ""
    form: str = ISO
    """How a date is written, for kind "datestr"."""
    target: str = ""
    """For kind "ref": the frame whose id column this one points into."""
    nulls: float = 0.0
    """Share of missing values, 0-1."""


def column(name: str, spec: str) -> Column:
    """Read one line of a frames file, such as `float? 15 900` or `cat North|South`; a ? means 6 % nulls."""
    kind, _, rest = spec.partition(" ")
    nulls = 0.06 if kind.endswith("?") else 0.0
    kind = kind.rstrip("?")
    words = rest.split()
    if kind in ("float", "int"):
        return Column(name, "float" if kind == "float" else "int", float(words[0]), float(words[1]), nulls=nulls)
    if kind == "cat":
        return Column(name, "cat", levels=tuple(rest.split("|")), nulls=nulls)
    if kind in ("binary", "bool"):
        return Column(name, "binary" if kind == "binary" else "bool", high=float(words[0]), nulls=nulls)
    if kind == "date":
        return Column(name, "date", start=words[0], freq=words[1], nulls=nulls)
    if kind == "datestr":
        return Column(name, "datestr", start=words[0], freq=words[1], form=" ".join(words[2:]) or ISO, nulls=nulls)
    if kind == "ref":
        return Column(name, "ref", target=words[0])
    if kind in ("id", "text"):
        return Column(name, "id" if kind == "id" else "text", nulls=nulls)
    raise ValueError(f"unknown column kind {kind!r} in {name} = {spec!r}")


def make(columns: Sequence[Column], seed: int, rows: int = 120, ids: Mapping[str, Sequence[int]] | None = None) -> Any:
    """Build a pandas DataFrame with these columns: numbers share a latent factor, so that models find something.

    ids: for "ref" columns, the id values of each target frame. Same arguments, same frame.
    """
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(seed)
    latent = rng.normal(size=rows)
    data: dict[str, Any] = {}
    for col in columns:
        noise = rng.normal(size=rows)
        unit = 1 / (1 + np.exp(-(0.9 * latent * rng.choice([-1, 1]) + noise - 0.4)))
        values: Any
        if col.kind == "float":
            digits = 2 if col.high - col.low > 3 else 4
            values = np.round(col.low + (col.high - col.low) * unit, digits)
        elif col.kind == "int":
            values = np.round(col.low + (col.high - col.low) * unit).astype(int)
        elif col.kind in ("binary", "bool"):
            values = unit > np.quantile(unit, 1 - max(col.high, 0.05))
            values = values.astype(int) if col.kind == "binary" else values
        elif col.kind == "cat":
            share = rng.dirichlet(np.full(len(col.levels), 6.0))
            values = rng.choice(np.array(col.levels, dtype=object), size=rows, p=share)
            values[: len(col.levels)] = col.levels[:rows]
        elif col.kind in ("date", "datestr"):
            span = pd.date_range(col.start, periods=rows, freq=col.freq)
            values = span if col.kind == "date" else span.strftime(col.form).to_numpy(dtype=object)
        elif col.kind == "text":
            values = np.array([" ".join(rng.choice(WORDS, size=rng.integers(2, 7))) for _ in range(rows)], dtype=object)
        elif col.kind == "ref":
            known = np.asarray((ids or {}).get(col.target, range(1001, 1001 + rows)))
            values = rng.choice(known[: max(2, len(known) * 2 // 3)], size=rows)
        else:
            values = np.arange(1001, 1001 + rows)
        series = pd.Series(values)
        if col.kind in ("cat", "text", "datestr"):
            series = series.astype("str" if pd.__version__ >= "3" else "object")
        if col.nulls:
            series = series.mask(rng.random(rows) < col.nulls)
        data[col.name] = series
    return pd.DataFrame(data)


# the twin of a real frame

ROWS = 200
UNSEEN = "unseen"
FEW = 50
"""Up to so many different values a column of strings or whole numbers counts as categories."""


def of(frame: Any, rows: int = ROWS, seed: int = 0, *, traps: bool = True) -> Any:
    """A DataFrame with the columns, dtypes and null rates of `frame` and drawn values; the frame itself is only read.

    Numbers are drawn within the range, dates over the span with the same step, strings from those that occur. traps: a category that does
    not occur, and repeated keys. What has no such columns (levels in its header, doubled names) is drawn row by row.
    """
    import numpy as np
    import pandas as pd

    if not len(frame) or not len(frame.columns):
        return frame.copy()
    rng = np.random.default_rng(seed)
    if frame.columns.nlevels > 1 or frame.columns.has_duplicates or frame.index.nlevels > 1:
        return frame.sample(rows, replace=True, random_state=seed) if rows > len(frame) else frame.head(rows).copy()
    latent = rng.normal(size=rows)
    index: Any = pd.RangeIndex(rows)
    if not isinstance(frame.index, pd.RangeIndex):
        drawn = _draw(frame.index.to_series(), rows, rng, latent, False)
        index = pd.DatetimeIndex(drawn) if isinstance(frame.index, pd.DatetimeIndex) else pd.Index(drawn)
        if isinstance(index, pd.DatetimeIndex) and (step := _step(frame.index)) is not None:
            index = pd.date_range(index[0], periods=rows, freq=step, unit=frame.index.unit)
        index = index.rename(frame.index.name)
    data: dict[Any, Any] = {}
    for name in frame.columns:
        try:
            data[name] = _draw(frame[name], rows, rng, latent, traps)
        except (ValueError, TypeError, OverflowError, NotImplementedError):  # values that no range holds, such as 64-bit hashes
            data[name] = frame[name].iloc[rng.integers(0, len(frame), rows)]
    return pd.DataFrame({name: series.array for name, series in data.items()}, index=index)


def _draw(series: Any, rows: int, rng: Any, latent: Any, traps: bool) -> Any:
    """A Series of `rows` values like those of `series`, of its dtype, with as large a share of nulls."""
    import numpy as np
    import pandas as pd

    known = series.dropna()
    if not len(known):
        return pd.Series([series.iloc[0]] * rows).astype(series.dtype)
    unit = 1 / (1 + np.exp(-(0.9 * latent * rng.choice([-1, 1]) + rng.normal(size=rows))))
    kind = series.dtype.kind if isinstance(series.dtype, np.dtype) or str(series.dtype).startswith("datetime64") else ""
    try:
        different = known.nunique()
    except TypeError:  # cells such as lists
        different = len(known)
    drawn: Any
    if kind in "iuf" and kind:
        drawn = _numbers(known, different, rows, unit, traps)
    elif kind == "M":
        step = _step(known)
        if step is not None:
            drawn = pd.date_range(known.iloc[0], periods=rows, freq=step, unit=series.dt.unit).to_series()
        else:
            low, high = known.min(), known.max()
            drawn = (
                (low + (high - low) * pd.Series(unit)).sort_values()
                if known.is_monotonic_increasing
                else low + (high - low) * pd.Series(unit)
            )
            drawn = drawn.dt.floor("D") if (known.dt.normalize() == known).all() else drawn
    else:
        drawn = known.iloc[rng.integers(0, len(known), rows)]
        if different <= min(FEW, max(2, len(known) // 2)):
            levels = known.drop_duplicates()
            drawn = pd.concat([levels.iloc[:rows], drawn]).iloc[:rows]
            drawn = drawn.iloc[rng.permutation(len(drawn))]
            if traps and all(isinstance(level, str) for level in levels) and not _dates(levels):
                plain = drawn.astype("object").reset_index(drop=True)
                plain.iloc[rng.choice(rows, max(1, rows // 50), replace=False)] = UNSEEN
                drawn = plain
                if isinstance(series.dtype, pd.CategoricalDtype):
                    kept = [*series.cat.categories, *([UNSEEN] if UNSEEN not in series.cat.categories else [])]
                    return _with_nulls(pd.Series(pd.Categorical(plain, categories=kept, ordered=series.cat.ordered)), series, rng)
    drawn = pd.Series(drawn).reset_index(drop=True)
    drawn = drawn.astype(series.dtype) if drawn.dtype != series.dtype else drawn
    return _with_nulls(drawn, series, rng)


def _numbers(known: Any, different: int, rows: int, unit: Any, traps: bool) -> Any:
    import numpy as np
    import pandas as pd

    known = known[np.isfinite(known)]
    if different <= min(20, max(2, len(known) // 3)):
        levels = np.sort(known.unique())
        drawn = levels[np.minimum((unit * len(levels)).astype(int), len(levels) - 1)]
        drawn[: len(levels)] = levels[:rows]
        return pd.Series(drawn)
    whole = bool((known == known.round()).all())
    low, high = float(known.min()), float(known.max())
    if whole and different == len(known) and different > 2 and known.is_monotonic_increasing:  # an id
        drawn = known.iloc[0] + np.arange(rows)
        if traps:
            drawn[-max(1, rows // 20) :] = drawn[: max(1, rows // 20)]
        return pd.Series(drawn)
    drawn = low + (high - low) * unit
    return pd.Series(np.round(drawn) if whole else drawn)


def _step(dates: Any) -> Any:
    """The regular step between dates, such as "D"; None where there is none."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas 4 will return an offset and says so; either will do
        try:
            return pd.infer_freq(dates) if len(dates) > 2 else None
        except (TypeError, ValueError):
            return None


def _dates(levels: Any) -> bool:
    return all(re.match(r"\d{4}-\d\d", level) for level in levels)


def _with_nulls(drawn: Any, series: Any, rng: Any) -> Any:
    rate = float(series.isna().mean())
    if not rate:
        return drawn
    missing = rng.random(len(drawn)) < rate
    missing[rng.integers(0, len(drawn))] = True
    return drawn.mask(missing)
