"""Composed tasks: conditions, aggregations, columns, plots and models put together at random, each with a question and its code.

Intents are written by hand and few; a composition is drawn from a small grammar and rarely seen twice, so a model has to read the question
and the schema. Names and values are drawn from the frame at hand. English only.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

from twofold.datasets import coin
from twofold.datasets.rows import Frame, typical, words
from twofold.twin import Column

ROWS = 120  # of a twin: a date to compare with lies inside its span
DAYS = {"h": 1 / 24, "6h": 0.25, "12h": 0.5, "D": 1.0, "B": 1.4, "3D": 3.0, "W": 7.0, "MS": 30.4, "ME": 30.4, "QS": 91.3, "YS": 365.0}
FUNCTIONS = {
    "mean": ("average", "mean", "avg", "typical (mean)"),
    "sum": ("total", "sum of", "overall", "summed"),
    "max": ("highest", "maximum", "max", "largest"),
    "min": ("lowest", "minimum", "min", "smallest"),
    "median": ("median", "middle (median)"),
    "std": ("standard deviation of", "std of", "spread (std) of"),
}
ABOVE, BELOW = (
    ("above {}", "> {}", "over {}", "greater than {}", "more than {}", "is bigger than {}"),
    ("below {}", "< {}", "under {}", "less than {}", "smaller than {}"),
)
AT_LEAST, AT_MOST = ("at least {}", ">= {}", "{} or more", "no less than {}"), ("at most {}", "<= {}", "{} or less", "no more than {}")
IS, IS_NOT = ("is {}", "= {}", "equals {}", "equal to {}", "== {}"), ("is not {}", "!= {}", "other than {}", "isn't {}")


@dataclass(frozen=True, slots=True)
class Task:
    """One composed task: what is asked, the code that does it, a check, and perhaps a next question with its code."""

    ask: str
    code: str
    check: str
    follow: tuple[str, str, str] | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Draw:
    """What a task is drawn from: a frame, the variable that holds it, chance, and how names are said."""

    rng: random.Random
    frame: Frame
    df: str
    loose: bool = False
    """True when the prompt shows the schema, so that a name may be said with blanks for underscores."""

    def pick(self, *options: str) -> str:
        """One of these at random; a single text holds its options between bars."""
        return self.rng.choice(options[0].split("|") if len(options) == 1 else options)

    def columns(self, *kinds: str) -> list[Column]:
        """The frame's columns of these kinds, shuffled."""
        found = [col for col in self.frame.columns if col.kind in kinds]
        self.rng.shuffle(found)
        return found

    def said(self, name: str) -> str:
        """A column's name as somebody types it."""
        drawn = self.rng.random()
        if self.loose and drawn < 0.25:
            return name.replace("_", " ").lower()
        return f"`{name}`" if drawn < 0.32 else f"'{name}'" if drawn < 0.4 or " " in name else name

    def listed(self, names: Sequence[str]) -> str:
        """Several names in words."""
        said = [self.said(name) for name in names]
        return self.rng.choice((words(said), ", ".join(said), " ".join(said) if all(" " not in one for one in said) else words(said)))

    def fill(self, template: str, **values: str) -> str:
        """Put values into a template, each brace name once; values are never read as templates."""
        parts: list[str] = []
        for piece in template.split("{"):
            name, brace, rest = piece.partition("}")
            parts.append(values[name] + rest if brace and parts else piece)
        return "".join(parts)


def col(draw: Draw, name: str) -> str:
    """The code of one column."""
    return f"{draw.df}[{json.dumps(name, ensure_ascii=False)}]"


def quoted(names: Sequence[str]) -> str:
    """A Python list of names."""
    return json.dumps(list(names), ensure_ascii=False)


def text(value: str) -> str:
    """A Python string."""
    return json.dumps(value, ensure_ascii=False)


def condition(draw: Draw, avoid: Sequence[str] = ()) -> tuple[str, str, str]:
    """One condition on a row: in words, in code, and the column it looks at."""
    rng = draw.rng
    options = [one for one in draw.columns("float", "int", "float", "int", "cat", "cat", "date", "binary", "text") if one.name not in avoid]
    one = rng.choice(options)
    code, said = col(draw, one.name), draw.said(one.name)
    missing = one.nulls > 0 and rng.random() < 0.15
    if missing:
        return (
            (f"{said} is missing", f"{code}.isna()", one.name)
            if rng.random() < 0.4
            else (f"{said} is not missing", f"{code}.notna()", one.name)
        )
    if one.kind in ("float", "int"):
        value = typical(one, rng)
        drawn = rng.random()
        if drawn < 0.2:
            low, high = sorted((value, typical(one, rng)), key=float)
            return (
                f"{said} {rng.choice(('between', 'from'))} {low} {rng.choice(('and', 'to'))} {high}",
                f"{code}.between({low}, {high})",
                one.name,
            )
        for share, sign, ways in ((0.5, ">", ABOVE), (0.75, "<", BELOW), (0.88, ">=", AT_LEAST), (1.1, "<=", AT_MOST)):
            if drawn < share:
                return f"{said} {rng.choice(ways).replace('{}', value)}", f"{code} {sign} {value}", one.name
    if one.kind == "cat":
        level, drawn = rng.choice(one.levels), rng.random()
        if drawn < 0.25 and len(one.levels) > 2:
            several = rng.sample(one.levels, 2)
            return f"{said} is {' or '.join(several)}", f"{code}.isin({quoted(several)})", one.name
        if drawn < 0.4:
            return f"{said} {rng.choice(IS_NOT).replace('{}', level)}", f"{code} != {text(level)}", one.name
        shown = level if rng.random() < 0.7 else f"'{level}'"
        return f"{said} {rng.choice(IS).replace('{}', shown)}", f"{code} == {text(level)}", one.name
    if one.kind == "date":
        year = int(one.start[:4])
        if rng.random() < 0.5:
            return f"{said} is in {year}", f"{code}.dt.year == {year}", one.name
        day = date.fromisoformat(one.start) + timedelta(days=int(ROWS * DAYS.get(one.freq, 1.0) * rng.uniform(0.3, 0.6)))
        after = rng.random() < 0.5
        return f"{said} is {'after' if after else 'before'} {day}", f'{code} {">" if after else "<"} "{day}"', one.name
    if one.kind == "text":
        word = rng.choice(("broken", "great", "late", "slow", "battery", "cheap"))
        return (
            f'{said} {rng.choice(("contains", "mentions", "includes"))} "{word}"',
            f'{code}.str.contains("{word}", case=False, na=False)',
            one.name,
        )
    value = rng.choice(("1", "0"))
    return f"{said} is {value}", f"{code} == {value}", one.name


def conditions(draw: Draw, count: int, avoid: Sequence[str] = ()) -> tuple[str, str]:
    """Several conditions joined by and, or by or: in words and as a mask."""
    found, used = [], list(avoid)
    for _ in range(count):
        said, code, name = condition(draw, used)
        used.append(name)
        found.append((said, code))
    if len(found) == 1:
        return found[0]
    either = len(found) == 2 and draw.rng.random() < 0.2
    return (" or " if either else " and ").join(said for said, _ in found), (" | " if either else " & ").join(
        f"({code})" for _, code in found
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """A grouped aggregation."""

    function: str
    columns: tuple[str, ...]
    groups: tuple[str, ...]
    where: tuple[str, str] = ("", "")
    top: int = 0
    order: str = ""
    plot: bool = False


def _plan_code(draw: Draw, plan: Plan) -> str:
    rows = f"{draw.df}[{plan.where[1]}]" if plan.where[1] else draw.df
    groups = text(plan.groups[0]) if len(plan.groups) == 1 else quoted(plan.groups)
    chosen = f"[{text(plan.columns[0])}]" if len(plan.columns) == 1 else f"[{quoted(plan.columns)}]"
    result = f"{rows}.groupby({groups}){chosen}.{plan.function}()"
    single = len(plan.columns) == 1
    if plan.top:
        which = "nsmallest" if plan.order == "ascending" else "nlargest"
        result += f".{which}({plan.top})" if single else f".{which}({plan.top}, {text(plan.columns[0])})"
    elif plan.order:
        by = "" if single else f"{text(plan.columns[0])}, "
        result += f".sort_values({by}ascending={plan.order == 'ascending'})"
    if not plan.plot:
        return result
    title = f"{plan.function.capitalize()} of {plan.columns[0]} by {plan.groups[0]}"
    return f"import matplotlib.pyplot as plt\n\nresult = {result}\nresult.plot.bar()\nplt.xlabel({text(plan.groups[0])})\nplt.ylabel({text(plan.columns[0])})\nplt.title({text(title)})\nplt.tight_layout()\nplt.show()"


def _plan_ask(draw: Draw, plan: Plan) -> str:
    function = draw.rng.choice(FUNCTIONS[plan.function])
    columns, groups = draw.listed(plan.columns), draw.listed(plan.groups)
    said = draw.fill(
        draw.pick("{f} {c} by {g}|{f} {c} per {g}|what is the {f} {c} for each {g}?|{f} {c} in every {g}"
"|group by {g} and get the {f} {c}|I want the {f} {c} broken down by {g}|for each {g}, the {f} {c}"
"|show {f} {c} for every {g}|compute the {f} {c} per {g}|{c}: {f} by {g}"
"|how does the {f} {c} differ by {g}?|give me {f} {c} grouped by {g}|Calculate the {f} {c} for each {g}."
"|{g} wise {f} {c}|per {g} what's the {f} {c}|need {f} {c} split by {g}"),
        f=function, c=columns, g=groups,
    )  # fmt: skip
    said = said.rstrip("?.") if plan.where[0] or plan.top or plan.order or plan.plot else said
    if plan.where[0]:
        where = draw.pick("where {w}|for rows with {w}|only {w}|but only when {w}|when {w}|if {w}")
        said += draw.pick(" |, ") + draw.fill(where, w=plan.where[0])
    if plan.top:
        n = str(plan.top)
        if plan.order == "ascending":
            said += draw.fill(draw.pick(", bottom {n} only|, the {n} smallest|, just the lowest {n}|, lowest {n}"), n=n)
        else:
            said += draw.fill(draw.pick(", top {n}|, only the {n} largest|, just the top {n}|, highest {n} first|, best {n}"), n=n)
    elif plan.order:
        up = plan.order == "ascending"
        said += (
            draw.pick(", smallest first|, sorted ascending|, lowest to highest|, ascending")
            if up
            else draw.pick(", largest first|, sorted descending|, highest to lowest|, from high to low|, sort descending")
        )
    if plan.plot:
        said = draw.fill(
            draw.pick("bar chart of the {s}|plot {s} as bars|draw a bar plot: {s}|{s}, as a bar chart|show me a bar graph of {s}"),
            s=said,
        )
    return said


def aggregate(draw: Draw) -> Task | None:
    """A statistic by group, perhaps filtered, sorted, cut to a top n or drawn; a follow-up changes one part."""
    rng = draw.rng
    numbers, cats = [one.name for one in draw.columns("float", "int")], [one.name for one in draw.columns("cat", "binary")]
    if len(numbers) < 2 or len(cats) < 2:
        return None
    groups = tuple(cats[: 1 if rng.random() < 0.8 else 2])
    columns = tuple(numbers[: 1 if rng.random() < 0.75 else 2])
    plan = Plan(rng.choice(list(FUNCTIONS)), columns, groups)
    if rng.random() < 0.4:
        plan = replace(plan, where=conditions(draw, rng.choice((1, 1, 2)), (*groups, *columns)))
    drawn = rng.random()
    if drawn < 0.25:
        plan = replace(plan, top=rng.choice((1, 2, 3, 5, 10)), order=rng.choice(("", "", "ascending")))
    elif drawn < 0.5:
        plan = replace(plan, order=rng.choice(("descending", "descending", "ascending")))
    if len(groups) == 1 and len(columns) == 1 and rng.random() < 0.25:
        plan = replace(plan, plot=True)
    options: list[tuple[Plan, str]] = [
        (
            replace(plan, columns=(numbers[-1],)),
            draw.fill(
                draw.pick("same for {c}|now for {c}|and for {c}?|do the same with {c}|what about {c}?"),
                c=draw.said(numbers[-1]),
            ),
        ),
        (
            replace(plan, groups=(cats[-1],)),
            draw.fill(
                draw.pick("now by {g}|group it by {g} instead|and per {g}?|same but by {g}|split by {g} instead"),
                g=draw.said(cats[-1]),
            ),
        ),
    ]
    other = rng.choice([name for name in FUNCTIONS if name != plan.function])
    options.append(
        (
            replace(plan, function=other),
            draw.fill(draw.pick("use the {f} instead|now the {f}|and the {f}?|same but {f}"), f=FUNCTIONS[other][0].removesuffix(" of")),
        )
    )
    if not plan.top:
        n = rng.choice((2, 3, 5))
        options.append(
            (
                replace(plan, top=n, order=""),
                draw.fill(draw.pick("only the top {n}|just the {n} largest|keep the top {n}|top {n} please"), n=str(n)),
            )
        )
    if not plan.plot and len(plan.columns) == len(plan.groups) == 1:
        options.append(
            (
                replace(plan, plot=True),
                draw.pick("plot it|show that as a bar chart|make a bar chart of it|visualise that|now as a chart please"),
            )
        )
    if not plan.where[0]:
        where = conditions(draw, 1, (*groups, *columns))
        options.append(
            (
                replace(plan, where=where),
                draw.fill(draw.pick("only where {w}|but only for rows where {w}|now just when {w}|filter it to {w}"), w=where[0]),
            )
        )
    after, said = rng.choice(options)
    return Task(
        _plan_ask(draw, plan), _plan_code(draw, plan), _seen(plan.plot), (said, _plan_code(draw, after), _seen(after.plot)), "groupby"
    )


def _seen(plot: bool) -> str:
    return "assert plt.gcf().axes\nassert any(ax.has_data() for ax in plt.gcf().axes)\n" if plot else "assert _last is not None\n"


def rows(draw: Draw) -> Task | None:
    """Rows that meet conditions, perhaps some columns of them, sorted and cut."""
    rng = draw.rng
    where, mask = conditions(draw, rng.choice((1, 1, 2, 2, 3)))
    code = f"{draw.df}[{mask}]"
    drawn = rng.random()
    if drawn < 0.2:
        ask = draw.fill(
            draw.pick("how many rows have {w}?|count rows where {w}|number of rows with {w}|how often is it that {w}?|count of {w}"),
            w=where,
        )
        return Task(ask, f"int(({mask}).sum())", "assert _last is not None\n", None, "selecting")
    if drawn < 0.3:
        ask = draw.fill(
            draw.pick("what percentage of rows have {w}?|share of rows where {w} in percent|what % has {w}|percent of rows with {w}"),
            w=where,
        )
        return Task(ask, f"float(({mask}).mean() * 100)", "assert _last is not None\n", None, "selecting")
    if drawn < 0.38:
        ask = draw.fill(
            draw.pick(
                "drop all rows where {w}|remove the rows with {w}|get rid of rows where {w}|exclude {w}|{df} without the rows where {w}"
            ),
            w=where,
            df=draw.df,
        )
        return Task(ask, f"{draw.df}[~({mask})]", "assert _last is not None\n", None, "selecting")
    ask = draw.fill(
        draw.pick("show the rows where {w}|filter {df} to {w}|all rows with {w}|keep only {w}|select rows where {w}"
"|which rows have {w}?|rows where {w}|find entries with {w}|subset {df}: {w}|get the records where {w}"),
        w=where, df=draw.df,
    )  # fmt: skip
    if rng.random() < 0.35:
        chosen = [one.name for one in draw.columns("float", "int", "cat", "date", "id", "binary")][: rng.randint(1, 5)]
        code = f"{draw.df}.loc[{mask}, {quoted(chosen) if len(chosen) > 1 or rng.random() < 0.5 else text(chosen[0])}]"
        ask = ask.rstrip("?") + draw.fill(
            draw.pick(", only the columns {c}|, show just {c}| and return {c}|, columns {c}"), c=draw.listed(chosen)
        )
        if "[" not in code.split(", ", 1)[-1]:
            return Task(ask, code, "assert _last is not None\n", None, "selecting")
    numbers = [one.name for one in draw.columns("float", "int", "date")]
    if "loc[" not in code and rng.random() < 0.3 and numbers:
        down = rng.random() < 0.6
        ask = ask.rstrip("?") + draw.fill(
            draw.pick(", sorted by {c}{d}|, order by {c}{d}| and sort by {c}{d}"),
            c=draw.said(numbers[0]),
            d=draw.pick(" descending|, largest first| from high to low") if down else draw.pick("| ascending"),
        )
        code += f".sort_values({text(numbers[0])}" + (", ascending=False)" if down else ")")
    if rng.random() < 0.2:
        n = str(rng.choice((3, 5, 10, 20)))
        ask, code = (
            ask.rstrip("?") + draw.fill(draw.pick(", first {n}|, only {n} rows|, just the first {n} of them"), n=n),
            f"{code}.head({n})",
        )
    return Task(ask, code, "assert _last is not None\n", None, "selecting")


def columns(draw: Draw) -> Task | None:
    """Lists of columns, up to twelve: keep, drop, rename, describe, correlate, move to the front."""
    rng = draw.rng
    names = [one.name for one in draw.columns("float", "int", "cat", "binary", "date", "id", "text", "datestr")]
    count = min(rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 10, 12)), len(names) - 1)
    chosen = names[:count]
    said, many = draw.listed(chosen), quoted(chosen)
    drawn = rng.random()
    if drawn < 0.3:
        ask = draw.fill(
            draw.pick(
                "select {c}|keep only {c}|show me just {c}|I need the columns {c}|take {c} from {df}|make a frame with {c}"
                "|only the columns {c} please|subset to {c}"
            ),
            c=said,
            df=draw.df,
        )
        return Task(ask, f"{draw.df}[{many}]", f"assert list(_last.columns) == {many}\n", None, "selecting")
    if drawn < 0.5:
        ask = draw.fill(
            draw.pick("drop {c}|remove the columns {c}|delete {c} from {df}|I don't need {c}, drop them|get rid of {c}|{df} without {c}"),
            c=said,
            df=draw.df,
        )
        return Task(ask, f"{draw.df}.drop(columns={many})", f"assert not set(_last.columns) & set({many})\n", None, "selecting")
    if drawn < 0.68:
        pairs = {name: coin.word(rng) for name in chosen[:4]}
        listed = ", ".join(f"{draw.said(old)} {arrow} {new}" for arrow in [draw.pick("to|->|as|into")] for old, new in pairs.items())
        ask = draw.fill(
            draw.pick("rename {p}|change column names: {p}|please rename {p}|call {p} instead|rename the columns {p}"), p=listed
        )
        return Task(
            ask,
            f"{draw.df} = {draw.df}.rename(columns={json.dumps(pairs, ensure_ascii=False)})\n{draw.df}.head()",
            f"assert {quoted(list(pairs.values()))[1:-1]} in list({draw.df}.columns)\n"
            if len(pairs) == 1
            else f"assert set({quoted(list(pairs.values()))}) <= set({draw.df}.columns)\n",
            None,
            "selecting",
        )
    if drawn < 0.8:
        ask = draw.fill(draw.pick("put {c} first|move {c} to the front|reorder so that {c} come first"), c=said)
        return Task(
            ask,
            f"first = {many}\n{draw.df} = {draw.df}[first + [col for col in {draw.df}.columns if col not in first]]\n{draw.df}.head()",
            f"assert list({draw.df}.columns)[:{count}] == {many}\n",
            None,
            "selecting",
        )
    numbers = [one.name for one in draw.columns("float", "int")]
    if len(numbers) < 3:
        return None
    numbers = numbers[: rng.randint(2, min(8, len(numbers)))]
    said, many = draw.listed(numbers), quoted(numbers)
    if drawn < 0.9:
        ask = draw.fill(
            draw.pick("correlation matrix of {c}|how are {c} correlated?|correlate {c}|pairwise correlations between {c}"), c=said
        )
        return Task(ask, f"{draw.df}[{many}].corr()", f"assert _last.shape == ({len(numbers)}, {len(numbers)})\n", None, "statistics")
    ask = draw.fill(draw.pick("summary statistics of {c}|describe {c}|basic stats for {c}|summarise {c}"), c=said)
    return Task(ask, f"{draw.df}[{many}].describe()", f"assert list(_last.columns) == {many}\n", None, "statistics")


def derive(draw: Draw) -> Task | None:
    """A new column from one or two others."""
    rng = draw.rng
    numbers, dates, cats = ([one.name for one in draw.columns(*kinds)] for kinds in (("float", "int"), ("date",), ("cat",)))
    new = coin.word(rng)
    target, a, b = col(draw, new), col(draw, numbers[0]), col(draw, numbers[1])
    said = {"n": new, "a": draw.said(numbers[0]), "b": draw.said(numbers[1]), "df": draw.df}
    options: list[tuple[str, str]] = [
        (
            draw.pick(
                "add a column {n} = {a} + {b}|create {n} as the sum of {a} and {b}|new col {n}: {a} plus {b}|make {n} by adding {a} and {b}"
            ),
            f"{a} + {b}",
        ),
        (
            draw.pick(
                "add {n} = {a} - {b}|create {n} as the difference between {a} and {b}|{n}: {a} minus {b}"
                "|subtract {b} from {a} and call it {n}"
            ),
            f"{a} - {b}",
        ),
        (
            draw.pick(
                "add {n} = {a} * {b}|create {n} as {a} times {b}|multiply {a} by {b} into {n}"
                "|new column {n} with the product of {a} and {b}"
            ),
            f"{a} * {b}",
        ),
        (
            draw.pick(
                "add {n} = {a} / {b}|create {n} as the ratio of {a} to {b}|divide {a} by {b}, store in {n}"
                "|{n} should be {a} divided by {b}|{a} per {b} as a new column {n}"
            ),
            f"{a} / {b}",
        ),
        (
            draw.pick(
                "add {n}: {a} as a percentage of its total|create {n} with the share of {a} in percent"
                "|what percent of total {a} is each row, as {n}"
            ),
            f"{a} / {a}.sum() * 100",
        ),
        (
            draw.pick("z-score of {a} in a new column {n}|standardise {a} into {n}|add {n}, the standardized {a}"),
            f"({a} - {a}.mean()) / {a}.std()",
        ),
        (
            draw.pick("scale {a} to 0-1 as {n}|min-max normalise {a} into {n}|add {n}: {a} rescaled between 0 and 1"),
            f"({a} - {a}.min()) / ({a}.max() - {a}.min())",
        ),
        (
            draw.pick("rank the rows by {a}, highest = 1, in {n}|add {n} with the rank of {a} (largest first)"),
            f"{a}.rank(ascending=False)",
        ),
        (draw.pick("running total of {a} as {n}|cumulative sum of {a} in {n}|add {n} = cumulative {a}"), f"{a}.cumsum()"),
        (draw.pick("difference of {a} to the previous row as {n}|add {n}: change in {a} from one row to the next"), f"{a}.diff()"),
        (draw.pick("previous value of {a} in a column {n}|lag {a} by one row as {n}|shift {a} down by 1 into {n}"), f"{a}.shift(1)"),
    ]
    if cats:
        c, g = col(draw, cats[0]), draw.said(cats[0])
        said["g"] = g
        options += [
            (
                draw.pick(
                    "add {n}: the mean {a} of each row's {g}|mean {a} per {g} as a new column {n}, same length"
                    "|broadcast the average {a} by {g} into {n}"
                ),
                f'{draw.df}.groupby({text(cats[0])})[{text(numbers[0])}].transform("mean")',
            ),
            (
                draw.pick("add {n} = share of {a} within its {g}|each row's {a} as a fraction of the {g} total in {n}"),
                f'{a} / {draw.df}.groupby({text(cats[0])})[{text(numbers[0])}].transform("sum")',
            ),
            (draw.pick("lower case {g} into {n}|make a lowercase version of {g} called {n}"), f"{c}.str.lower()"),
            (
                draw.pick("number the rows within each {g} as {n}|running count per {g} in {n}, starting at 1"),
                f"{draw.df}.groupby({text(cats[0])}).cumcount() + 1",
            ),
        ]
    if dates:
        d, part, ways = (
            col(draw, dates[0]),
            *rng.choice(
                (
                    ("year", "year"),
                    ("month", "month"),
                    ("day_name()", "weekday name"),
                    ("hour", "hour"),
                    ("quarter", "quarter"),
                    ("dayofweek", "day of week number"),
                )
            ),
        )
        said["d"] = draw.said(dates[0])
        options += [
            (
                draw.pick(
                    f"extract the {ways} of {{d}} into {{n}}", f"add {{n}} with the {ways} from {{d}}", f"{ways} of {{d}} as a column {{n}}"
                ),
                f"{d}.dt.{part}",
            )
        ] * 3
    ask, code = rng.choice(options)
    lines = [f"{target} = {code}"]
    if rng.random() < 0.25:
        where, mask = conditions(draw, rng.choice((1, 1, 2)))
        yes, no = rng.choice((("1", "0"), ('"yes"', '"no"'), ("True", "False"), ('"high"', '"low"')))
        ask = draw.pick(
            "flag rows where {w} in {n} ({y} / {o})|create {n}: {y} if {w} else {o}"
            "|add a column {n} that is {y} when {w}, otherwise {o}|new column {n}, {y} where {w} and {o} elsewhere"
        )
        said |= {"w": where, "y": yes.strip('"'), "o": no.strip('"')}
        lines = ["import numpy as np\n", f"{target} = np.where({mask}, {yes}, {no})"]
    return Task(
        draw.fill(ask, **said),
        "\n".join([*lines, f"{draw.df}.head()"]),
        f"assert {text(new)} in {draw.df}.columns\nassert len({draw.df}) == len(_before)\n",
        None,
        "apply",
    )


def scalar(draw: Draw) -> Task | None:
    """One number under conditions, or a small comparison."""
    rng = draw.rng
    numbers, cats = draw.columns("float", "int"), draw.columns("cat")
    one = numbers[0]
    function = rng.choice(list(FUNCTIONS))
    said = {"f": rng.choice(FUNCTIONS[function]), "c": draw.said(one.name), "b": draw.said(numbers[1].name)}
    drawn = rng.random()
    if drawn < 0.45:
        where, mask = conditions(draw, rng.choice((1, 1, 2)), (one.name,))
        ask = draw.pick(
            "{f} {c} where {w}|what is the {f} {c} for rows with {w}?|{f} {c} when {w}|for {w}, what's the {f} {c}?"
            "|give me the {f} {c} if {w}|among rows where {w}, the {f} {c}"
        )
        return Task(
            draw.fill(ask, w=where, **said),
            f"{draw.df}.loc[{mask}, {text(one.name)}].{function}()",
            "assert _last is not None\n",
            None,
            "statistics",
        )
    if drawn < 0.6:
        ask = draw.pick(
            "correlation between {c} and {b}|how strongly is {c} related to {b}?|is {c} correlated with {b}?"
            "|corr of {c} and {b}|do {c} and {b} move together?"
        )
        return Task(
            draw.fill(ask, **said),
            f"{col(draw, one.name)}.corr({col(draw, numbers[1].name)})",
            "assert abs(_last) <= 1.0001\n",
            None,
            "statistics",
        )
    if drawn < 0.75:
        q = rng.choice((0.05, 0.1, 0.25, 0.75, 0.9, 0.95, 0.99))
        ask = draw.pick("{q}th percentile of {c}|the {q}% quantile of {c}|below which value do {q}% of {c} lie?")
        return Task(
            draw.fill(ask, q=f"{q * 100:.0f}", **said),
            f"{col(draw, one.name)}.quantile({q})",
            "assert _last is not None\n",
            None,
            "statistics",
        )
    if drawn < 0.88 or not cats:
        n, low = rng.choice((3, 5, 10, 20)), rng.random() < 0.35
        ask = (
            draw.pick("the {n} rows with the lowest {c}|bottom {n} by {c}|{n} smallest {c}")
            if low
            else draw.pick(
                "top {n} rows by {c}|the {n} rows with the highest {c}|{n} largest {c}|show the {n} biggest {c}"
                "|which {n} rows have the most {c}?"
            )
        )
        return Task(
            draw.fill(ask, n=str(n), **said),
            f"{draw.df}.{'nsmallest' if low else 'nlargest'}({n}, {text(one.name)})",
            f"assert len(_last) == {n}\n",
            None,
            "selecting",
        )
    cat = cats[0]
    first, second = rng.sample(cat.levels, 2) if len(cat.levels) > 1 else (cat.levels[0], cat.levels[0])
    ask = draw.pick(
        "is {c} different between {g} {x} and {y}? t-test|t test of {c} for {g} {x} vs {y}"
        "|compare {c} of {x} and {y} ({g}) with a t-test|welch t-test: {c}, {g} = {x} against {y}"
    )
    code = f"from scipy import stats\n\na = {draw.df}.loc[{col(draw, cat.name)} == {text(first)}, {text(one.name)}].dropna()\nb = {draw.df}.loc[{col(draw, cat.name)} == {text(second)}, {text(one.name)}].dropna()\nstats.ttest_ind(a, b, equal_var=False)"
    return Task(
        draw.fill(ask, g=draw.said(cat.name), x=first, y=second, **said), code, "assert hasattr(_last, 'pvalue')\n", None, "statistics"
    )


def plot(draw: Draw) -> Task | None:
    """One chart, perhaps of filtered rows, coloured by a category, with a title, size or log axis; a follow-up changes it."""
    rng = draw.rng
    numbers, cats, dates = ([one.name for one in draw.columns(*kinds)] for kinds in (("float", "int"), ("cat", "binary"), ("date",)))
    a, b, hue = numbers[0], numbers[1], cats[0] if cats and rng.random() < 0.4 else ""
    rows_code, where = draw.df, ""
    if rng.random() < 0.25:
        where, mask = conditions(draw, 1, (a, b, hue))
        rows_code = f"{draw.df}[{mask}]"
    kind = rng.choice(("hist", "scatter", "box", "line", "kde", "bar", "violin", "reg", "count"))
    sub = f", hue={text(hue)}" if hue else ""
    said = {
        "a": draw.said(a),
        "b": draw.said(b),
        "h": draw.said(hue) if hue else "",
        "c": draw.said(cats[0]) if cats else "",
        "d": draw.said(dates[0]) if dates else "",
    }
    x, y, title = a, b, ""
    if kind == "hist":
        n = rng.choice((10, 15, 20, 25, 30, 40, 50))
        ask, call, y = (
            draw.pick(
                "histogram of {a} with {n} bins|hist of {a}, {n} bins|distribution of {a} ({n} bins)"
                "|plot how {a} is distributed using {n} bins"
            ),
            f"sns.histplot(data={rows_code}, x={text(a)}, bins={n}{sub})",
            "Count",
        )
        said["n"] = str(n)
    elif kind == "kde":
        ask, call, y = (
            draw.pick("density plot of {a}|kde of {a}|smooth distribution curve for {a}"),
            f"sns.kdeplot(data={rows_code}, x={text(a)}{sub})",
            "Density",
        )
    elif kind == "scatter":
        ask, call = (
            draw.pick(
                "scatter plot of {b} against {a}|plot {a} on x and {b} on y as points|{a} vs {b} scatter (x = {a})"
                "|scatter {a} (x) and {b} (y)"
            ),
            f"sns.scatterplot(data={rows_code}, x={text(a)}, y={text(b)}{sub})",
        )
    elif kind == "reg":
        ask, call, hue = (
            draw.pick(
                "scatter of {a} and {b} with a trend line, {a} on the x axis|regression plot of {b} on {a}"
                "|plot {b} against {a} with a fitted line"
            ),
            f"sns.regplot(data={rows_code}, x={text(a)}, y={text(b)})",
            "",
        )
    elif kind in ("box", "violin") and cats:
        x, y = cats[0], a
        sub = f", hue={text(hue)}" if hue and hue != x else ""
        hue = hue if sub else ""
        ask, call = (
            draw.pick("{k} plot of {a} by {c}|{k}plot {a} for each {c}|compare {a} across {c} with a {k} plot|{k} plots of {a} per {c}"),
            f"sns.{kind}plot(data={rows_code}, x={text(x)}, y={text(y)}{sub})",
        )
        said["k"] = kind
    elif kind == "line" and dates:
        x, y = dates[0], a
        ask, call = (
            draw.pick("{a} over time ({d})|line chart of {a} by {d}|plot {a} against {d} as a line|how does {a} evolve over {d}"),
            f"sns.lineplot(data={rows_code}, x={text(x)}, y={text(y)}{sub})",
        )
    elif kind == "bar" and cats:
        function = rng.choice(("mean", "sum", "median"))
        x, y, hue = cats[0], a, ""
        ask, call = (
            draw.pick("bar chart of the {f} {a} per {c}|bars: {f} {a} by {c}|barplot {f} {a} for each {c}"),
            f'sns.barplot(data={rows_code}, x={text(x)}, y={text(y)}, estimator="{function}", errorbar=None)',
        )
        said["f"] = rng.choice(FUNCTIONS[function]).removesuffix(" of")
    elif cats:
        x, y = cats[0], "Count"
        sub = f", hue={text(hue)}" if hue and hue != x else ""
        hue = hue if sub else ""
        ask, call = (
            draw.pick(
                "bar chart of how often each {c} occurs|countplot of {c}|how many rows per {c}, as a bar chart|plot the counts of {c}"
            ),
            f"sns.countplot(data={rows_code}, x={text(x)}{sub})",
        )
    else:
        return None
    if hue:
        ask += draw.pick(" coloured by {h}|, color by {h}| with {h} as hue|, one colour per {h}| split by {h}")
    if where:
        ask += draw.pick(" where {w}|, only {w}| for rows with {w}")
    lines, extra = [], []
    if rng.random() < 0.3:
        title = rng.choice((f"{a} overview", f"Distribution of {a}", f"{x} and {y}", "Report", "Figure 1"))
        ask += draw.pick(", title '{t}'| titled '{t}'| and call it '{t}'")
    if rng.random() < 0.15:
        w, h = rng.choice(((8, 4), (10, 6), (12, 5), (6, 6)))
        lines.append(f"plt.figure(figsize=({w}, {h}))")
        ask += f", figure size {w}x{h}"
    if rng.random() < 0.12 and kind in ("scatter", "hist"):
        extra.append('plt.xscale("log")')
        ask += ", log x axis"
    if rng.random() < 0.15 and kind in ("box", "violin", "bar", "count"):
        extra.append("plt.xticks(rotation=45)")
        ask += draw.pick(", rotate the labels 45 degrees|, tilt x labels by 45")
    shown = title or {"Count": f"Distribution of {x}", "Density": f"Density of {x}"}.get(y, f"{y} by {x}")

    def code(more: Sequence[str] = (), named: str = shown) -> str:
        return "\n".join(
            [
                "import matplotlib.pyplot as plt",
                "import seaborn as sns",
                "",
                *lines,
                call,
                f"plt.xlabel({text(x)})",
                f"plt.ylabel({text(y)})",
                f"plt.title({text(named)})",
                *extra,
                *more,
                "plt.show()",
            ]
        )

    named = rng.choice(("Overview", "Sales report", "Result", "Summary 2024"))
    after = rng.choice((
        (draw.fill(draw.pick("set the title to '{t}'|change the title to '{t}'|call it '{t}'"), t=named), code(named=named)),
        (draw.pick("add a grid|with grid lines please|turn the grid on"), code(["plt.grid(True)"])),
        (draw.pick("save it as plot.png|now save that to plot.png|write it to plot.png"), code(['plt.savefig("plot.png", dpi=150, bbox_inches="tight")'])),
        (draw.pick("start the y axis at 0|y axis from zero please"), code(["plt.ylim(bottom=0)"])),
    ))  # fmt: skip
    return Task(draw.fill(ask, w=where, t=title, **said), code(), _seen(True), (*after, _seen(True)), "plots")


def clean(draw: Draw) -> Task | None:
    """Missing values, duplicates and types of named columns."""
    rng = draw.rng
    names = [one.name for one in draw.columns("float", "int", "cat", "date", "binary")]
    numbers, cats = [one.name for one in draw.columns("float", "int")], [one.name for one in draw.columns("cat")]
    some = names[: rng.randint(1, 5)]
    said, many, df = draw.listed(some), quoted(some), draw.df
    a, c = numbers[0], cats[0] if cats else names[0]
    few = numbers[: rng.randint(1, 4)]
    value = rng.choice(("0", "-1", "999"))
    how = rng.choice(("mean", "median"))
    options = [
        (draw.pick("drop rows where {m} is missing|remove rows with NaN in {m}|delete rows that have no {m}|dropna on {m}"), f"{df} = {df}.dropna(subset={many})\n{df}.shape", f"assert not {df}[{many}].isna().any().any()\n"),
        (draw.pick("how many missing values in {m}?|count NaN in {m}|number of nulls for {m}"), f"{df}[{many}].isna().sum()", "assert len(_last) > 0\n"),
        (draw.pick("drop duplicate rows based on {m}|remove duplicates by {m}, keep the last"
"|dedupe on {m} keeping the last one"), f'{df} = {df}.drop_duplicates(subset={many}, keep="last")\n{df}.shape', f"assert not {df}.duplicated(subset={many}).any()\n"),
        (draw.pick("unique combinations of {m}|distinct {m}|list the different {m}"), f"{df}[{many}].drop_duplicates()", "assert not _last.duplicated().any()\n"),
        (f"fill missing {{f}} with {value}" if rng.random() < 0.5 else f"replace NaN in {{f}} by {value}", f"{df}[{quoted(few)}] = {df}[{quoted(few)}].fillna({value})\n{df}[{quoted(few)}].isna().sum()", f"assert not {df}[{quoted(few)}].isna().any().any()\n"),
        (draw.fill(draw.pick("impute {f} with the {h}|fill NaN in {f} with their {h}|use the {h} for missing {f}"), f="{f}", h=how), f"{df}[{quoted(few)}] = {df}[{quoted(few)}].fillna({df}[{quoted(few)}].{how}())\n{df}[{quoted(few)}].isna().sum()", f"assert not {df}[{quoted(few)}].isna().any().any()\n"),
        (draw.fill(draw.pick("fill missing {a} with the {h} of its {c}|impute {a} by the group {h} per {c}"
"|NaN in {a} -> {h} within the same {c}"), a="{a}", h=how, c="{c}"), f'{col(draw, a)} = {col(draw, a)}.fillna({df}.groupby({text(c)})[{text(a)}].transform("{how}"))\n{col(draw, a)}.isna().sum()', "assert _last is not None\n"),
        (draw.pick("how many different values in {m}?|number of unique values of {m}|cardinality of {m}"), f"{df}[{many}].nunique()", "assert len(_last) > 0\n"),
        (draw.pick("value counts of {c} in percent|share of each {c} in %|what percent is each {c}"), f"{col(draw, c)}.value_counts(normalize=True) * 100", "assert abs(_last.sum() - 100) < 1e-6\n"),
        (draw.pick("convert {a} to string|make {a} text|{a} as str type"), f"{col(draw, a)} = {col(draw, a)}.astype(str)\n{df}.dtypes", f"assert isinstance({col(draw, a)}.iloc[0], str)\n"),
    ]  # fmt: skip
    ask, code, check = rng.choice(options)
    return Task(draw.fill(ask, m=said, f=draw.listed(few), a=draw.said(a), c=draw.said(c)), code, check, None, "missing")


def table(draw: Draw) -> Task | None:
    """Pivot tables, cross tabulations, and sums by period."""
    rng = draw.rng
    numbers, cats, dates = ([one.name for one in draw.columns(*kinds)] for kinds in (("float", "int"), ("cat", "binary"), ("date",)))
    function = rng.choice(("mean", "sum", "max", "median"))
    said = {"f": rng.choice(FUNCTIONS[function]).removesuffix(" of"), "a": draw.said(numbers[0]), "df": draw.df}
    if dates and rng.random() < 0.45:
        code, ways = rng.choice(
            (
                ("D", ("day", "daily")),
                ("W", ("week", "weekly")),
                ("MS", ("month", "monthly")),
                ("QS", ("quarter", "quarterly")),
                ("YS", ("year", "yearly")),
            )
        )
        ask = draw.pick(
            "{f} {a} per {p} (date in {d})|{q} {f} of {a} using {d}|resample {a} to {q} {f} by {d}"
            "|aggregate {a} by {p} of {d}: {f}|{q} {a} ({f}), dates are in {d}"
        )
        line = f'{draw.df}.set_index({text(dates[0])})[{text(numbers[0])}].resample("{code}").{function}()'
        return Task(draw.fill(ask, p=ways[0], q=ways[1], d=draw.said(dates[0]), **said), line, "assert len(_last) > 0\n", None, "dates")
    if len(cats) < 2:
        return None
    said |= {"r": draw.said(cats[0]), "c": draw.said(cats[1])}
    if rng.random() < 0.6:
        ask = draw.pick(
            "pivot table of {f} {a} with {r} as rows and {c} as columns|{f} {a} for {r} (rows) by {c} (columns)"
            "|cross {r} and {c} showing the {f} {a}, {c} across the top|pivot: index {r}, columns {c}, values {a}, {f}"
        )
        line = f'{draw.df}.pivot_table(index={text(cats[0])}, columns={text(cats[1])}, values={text(numbers[0])}, aggfunc="{function}")'
    else:
        share = rng.random() < 0.4
        ask = draw.pick(
            "crosstab of {r} and {c}|how many rows for each {r} and {c}? as a table|count {r} against {c}|contingency table {r} x {c}"
        ) + (draw.pick(", row percentages| as row percentages") if share else "")
        line = f"import pandas as pd\n\npd.crosstab({col(draw, cats[0])}, {col(draw, cats[1])}" + (
            ', normalize="index") * 100' if share else ")"
        )
    return Task(draw.fill(ask, **said), line, "assert _last.shape[0] > 0\n", None, "pivot")


REGRESSORS = (
    ("linear regression", "LinearRegression", "linear_model", ""), ("ridge regression", "Ridge", "linear_model", "alpha=1.0"), ("lasso", "Lasso", "linear_model", "alpha=0.1"),
    ("random forest", "RandomForestRegressor", "ensemble", "n_estimators=50, random_state=0"), ("gradient boosting", "GradientBoostingRegressor", "ensemble", "n_estimators=50, random_state=0"),
    ("decision tree", "DecisionTreeRegressor", "tree", "max_depth=4, random_state=0"), ("knn", "KNeighborsRegressor", "neighbors", "n_neighbors=5"), ("svr", "SVR", "svm", ""),
)  # fmt: skip
CLASSIFIERS = (
    ("logistic regression", "LogisticRegression", "linear_model", "max_iter=1000"), ("random forest", "RandomForestClassifier", "ensemble", "n_estimators=50, random_state=0"),
    ("gradient boosting", "GradientBoostingClassifier", "ensemble", "n_estimators=50, random_state=0"), ("decision tree", "DecisionTreeClassifier", "tree", "max_depth=4, random_state=0"),
    ("knn", "KNeighborsClassifier", "neighbors", "n_neighbors=5"), ("svm", "SVC", "svm", ""), ("naive bayes", "GaussianNB", "naive_bayes", ""), ("extra trees", "ExtraTreesClassifier", "ensemble", "n_estimators=50, random_state=0"),
)  # fmt: skip
SCORES = {
    "regression": (("MAE", "mean_absolute_error"), ("RMSE", "root_mean_squared_error"), ("R2", "r2_score")),
    "classification": (
        ("accuracy", "accuracy_score"),
        ("F1", "f1_score"),
        ("confusion matrix", "confusion_matrix"),
        ("balanced accuracy", "balanced_accuracy_score"),
    ),
}


def model(draw: Draw) -> Task | None:
    """A scikit-learn model on named features, held-out or cross-validated, with a named score."""
    rng = draw.rng
    binary = [one.name for one in draw.columns("binary")]
    numbers = [one.name for one in draw.columns("float", "int")]
    classify = bool(binary) and rng.random() < 0.55
    target = binary[0] if classify else numbers.pop()
    features = numbers[: rng.randint(1, min(6, len(numbers)))]
    way, name, module, arguments = rng.choice(CLASSIFIERS if classify else REGRESSORS)
    score, function = rng.choice(SCORES["classification" if classify else "regression"])
    share = rng.choice((0.2, 0.25, 0.3))
    scaled = (
        name in ("LogisticRegression", "Ridge", "Lasso", "KNeighborsRegressor", "KNeighborsClassifier", "SVC", "SVR") and rng.random() < 0.4
    )
    said = {"w": way, "x": draw.listed(features), "y": draw.said(target), "s": score, "p": f"{share * 100:.0f}%"}
    made = f"{name}({arguments})"
    imports = [f"from sklearn.{module} import {name}"]
    if scaled:
        imports += ["from sklearn.pipeline import make_pipeline", "from sklearn.preprocessing import StandardScaler"]
        made = f"make_pipeline(StandardScaler(), {made})"
    data = f"data = {draw.df}[{quoted([*features, target])}].dropna()\nX, y = data[{quoted(features)}], data[{text(target)}]"
    if rng.random() < 0.3 and function != "confusion_matrix":
        folds = rng.choice((3, 5, 10))
        scoring = {
            "MAE": "neg_mean_absolute_error",
            "RMSE": "neg_root_mean_squared_error",
            "R2": "r2",
            "accuracy": "accuracy",
            "F1": "f1",
            "balanced accuracy": "balanced_accuracy",
        }[score]
        ask = draw.pick(
            "{k}-fold cross-validated {s} of a {w} predicting {y} from {x}"
            "|cross validate a {w} ({k} folds) for {y} with features {x}, report {s}"
            "|{w} for {y} using {x}, {k}-fold cv, {s}"
        )
        imports.append("from sklearn.model_selection import cross_val_score")
        sign = "-" if scoring.startswith("neg") else ""
        body = f'scores = {sign}cross_val_score({made}, X, y, cv={folds}, scoring="{scoring}")\nprint(scores.mean())'
        said["k"] = str(folds)
    else:
        ask = draw.pick("train a {w} to predict {y} from {x} and report the {s}"
"|predict {y} with a {w} using {x}, show {s} on the test set"
"|fit a {w} on {x} for {y}, {p} test data, print the {s}|{w}: target {y}, features {x}, what's the {s}?"
"|build a {w} model for {y} based on {x} and evaluate with {s}|can a {w} predict {y} from {x}? {s} please")  # fmt: skip
        share = share if "{p}" in ask else 0.2
        imports += [f"from sklearn.metrics import {function}", "from sklearn.model_selection import train_test_split"]
        stratify = ", stratify=y" if classify else ""
        body = f"X_train, X_test, y_train, y_test = train_test_split(X, y, test_size={share}, random_state=0{stratify})\nmodel = {made}\nmodel.fit(X_train, y_train)\nprint({function}(y_test, model.predict(X_test)))"
    if scaled:
        ask += draw.pick(", scale the features|, with standardised inputs|, standardise first")
    code = "\n".join([*sorted(imports), "", data, body])
    return Task(draw.fill(ask, **said), code, "assert _out.strip()\n", None, "models")


FAMILIES: tuple[tuple[Callable[[Draw], Task | None], float], ...] = (
    (aggregate, 5), (rows, 4), (columns, 3), (derive, 4), (scalar, 3), (plot, 4), (clean, 3), (table, 2.5), (model, 2.5),
)  # fmt: skip


def task(
    rng: random.Random, frame: Frame, df: str, loose: bool, family: Callable[[Draw], Task | None] | None = None
) -> tuple[Task, Callable[[Draw], Task | None]]:
    """A task drawn for a frame held in variable `df`, and the family it is of. family: draw from this one."""
    draw = Draw(rng, frame, df, loose)
    while True:
        chosen = family or rng.choices([one for one, _ in FAMILIES], [weight for _, weight in FAMILIES])[0]
        if len(draw.columns("float", "int")) < 3 or len(draw.columns("cat")) < 1:
            raise ValueError("a composed task needs three numeric columns and a category")
        made = chosen(draw)
        if made is not None:
            return made, chosen
