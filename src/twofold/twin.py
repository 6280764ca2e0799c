"""Synthetic frames with a given schema: what code is tried on when the user's own data is not to be touched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["id", "ref", "float", "int", "cat", "binary", "date", "datestr", "text"]

WORDS = (
    "good", "value", "fast", "delivery", "slow", "support", "broken", "screen", "quiet", "motor",
    "nice", "colour", "late", "parcel", "friendly", "staff", "easy", "setup", "cheap", "plastic",
    "great", "sound", "short", "cable", "long", "battery", "heavy", "box", "clear", "manual",
    "wrong", "size", "happy", "customer", "second", "order", "small", "scratch",
)  # fmt: skip


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
    if kind == "binary":
        return Column(name, "binary", high=float(words[0]), nulls=nulls)
    if kind in ("date", "datestr"):
        return Column(name, "date" if kind == "date" else "datestr", start=words[0], freq=words[1], nulls=nulls)
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
        elif col.kind == "binary":
            values = (unit > np.quantile(unit, 1 - max(col.high, 0.05))).astype(int)
        elif col.kind == "cat":
            share = rng.dirichlet(np.full(len(col.levels), 6.0))
            values = rng.choice(np.array(col.levels, dtype=object), size=rows, p=share)
            values[: len(col.levels)] = col.levels[:rows]
        elif col.kind in ("date", "datestr"):
            span = pd.date_range(col.start, periods=rows, freq=col.freq)
            values = span if col.kind == "date" else span.strftime("%Y-%m-%d").to_numpy(dtype=object)
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
