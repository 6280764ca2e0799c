"""Conditions on rows: each in words and as the mask that pandas filters by."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta

from twofold.datasets.compose.draw import Draw, col, quoted, text
from twofold.datasets.rows import typical
from twofold.twin import Column

ROWS = 120  # of a twin: a date to compare with lies inside its span
DAYS = {"h": 1 / 24, "6h": 0.25, "12h": 0.5, "D": 1.0, "B": 1.4, "3D": 3.0, "W": 7.0, "MS": 30.4, "ME": 30.4, "QS": 91.3, "YS": 365.0}

# Comparisons with a number: up to which draw of chance, the operator, its wordings.
COMPARISONS = (
    (0.5, ">", "above {v}|> {v}|over {v}|greater than {v}|more than {v}|is bigger than {v}"),
    (0.75, "<", "below {v}|< {v}|under {v}|less than {v}|smaller than {v}"),
    (0.88, ">=", "at least {v}|>= {v}|{v} or more|no less than {v}"),
    (1.0, "<=", "at most {v}|<= {v}|{v} or less|no more than {v}"),
)
IS = "is {v}|= {v}|equals {v}|equal to {v}|== {v}"
IS_NOT = "is not {v}|!= {v}|other than {v}|isn't {v}"

Wish = tuple[str, str]
"""A condition in words and in code."""


def conditions(draw: Draw, count: int, avoid: Sequence[str] = ()) -> Wish:
    """Several conditions on different columns joined by and, or by or: in words and as a mask."""
    said, masks, used = [], [], list(avoid)
    for _ in range(count):
        in_words, mask, name = condition(draw, used)
        said.append(in_words)
        masks.append(mask)
        used.append(name)
    if count == 1:
        return said[0], masks[0]
    either = count == 2 and draw.rng.random() < 0.2
    return (" or " if either else " and ").join(said), (" | " if either else " & ").join(f"({mask})" for mask in masks)


def condition(draw: Draw, avoid: Sequence[str] = ()) -> tuple[str, str, str]:
    """One condition on a row: in words, in code, and the column it looks at."""
    likely = draw.columns("float", "int", "cat", "date", "binary", "text")
    one = draw.rng.choice([one for one in likely if one.name not in avoid])
    said, code = draw.said(one.name), col(draw, one.name)
    missing = one.nulls > 0 and draw.rng.random() < 0.15
    return *(_missing if missing else BY_KIND[one.kind])(draw, one, said, code), one.name


def _missing(draw: Draw, _: Column, said: str, code: str) -> Wish:
    if draw.rng.random() < 0.4:
        return f"{said} is missing", f"{code}.isna()"
    return f"{said} is not missing", f"{code}.notna()"


def _number(draw: Draw, one: Column, said: str, code: str) -> Wish:
    value, drawn = typical(one, draw.rng), draw.rng.random()
    low, high = sorted((value, typical(one, draw.rng)), key=float)
    if drawn < 0.2 and low != high:
        span = draw.say("{c} is between {l} and {h}|{c} between {l} and {h}|{c} from {l} to {h}", c=said, l=low, h=high)
        return span, f"{code}.between({low}, {high})"
    sign, ways = next((sign, ways) for most, sign, ways in COMPARISONS if drawn < most)
    return f"{said} {draw.say(ways, v=value)}", f"{code} {sign} {value}"


def _category(draw: Draw, one: Column, said: str, code: str) -> Wish:
    level, drawn = draw.rng.choice(one.levels), draw.rng.random()
    if drawn < 0.25 and len(one.levels) > 2:
        several = draw.rng.sample(one.levels, 2)
        return f"{said} is {' or '.join(several)}", f"{code}.isin({quoted(several)})"
    if drawn < 0.4:
        return f"{said} {draw.say(IS_NOT, v=level)}", f"{code} != {text(level)}"
    shown = level if draw.rng.random() < 0.7 else f"'{level}'"
    return f"{said} {draw.say(IS, v=shown)}", f"{code} == {text(level)}"


def _date(draw: Draw, one: Column, said: str, code: str) -> Wish:
    if draw.rng.random() < 0.5:
        year = one.start[:4]
        return f"{said} is in {year}", f"{code}.dt.year == {year}"
    day = date.fromisoformat(one.start) + timedelta(days=int(ROWS * DAYS.get(one.freq, 1.0) * draw.rng.uniform(0.3, 0.6)))
    if draw.rng.random() < 0.5:
        return f"{said} is after {day}", f'{code} > "{day}"'
    return f"{said} is before {day}", f'{code} < "{day}"'


def _text(draw: Draw, _: Column, said: str, code: str) -> Wish:
    word = draw.pick("broken|great|late|slow|battery|cheap")
    return f'{said} {draw.pick("contains|mentions|includes")} "{word}"', f'{code}.str.contains("{word}", case=False, na=False)'


def _binary(draw: Draw, _: Column, said: str, code: str) -> Wish:
    value = draw.pick("1|0")
    return f"{said} is {value}", f"{code} == {value}"


BY_KIND: Mapping[str, Callable[[Draw, Column, str, str], Wish]] = {
    "float": _number, "int": _number, "cat": _category, "date": _date, "text": _text, "binary": _binary,
}  # fmt: skip
