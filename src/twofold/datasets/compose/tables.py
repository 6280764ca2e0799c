"""Work on one table: rows and columns of it, new columns, single numbers, cleaning, and tables made of it."""

import json

from twofold.datasets import coin
from twofold.datasets.compose.conditions import conditions
from twofold.datasets.compose.draw import FUNCTIONS, Draw, Task, col, quoted, text
from twofold.twin import Column

FILLED = "assert _last.shape[0] > 0\n"  # a check: the table that comes out has rows

# New columns: how they are asked for, and the code, where {a}, {b} and {g} are names in quotes.
FROM_NUMBERS = (
    (
        "add a column {n} = {a} + {b}|create {n} as the sum of {a} and {b}|new col {n}: {a} plus {b}|make {n} by adding {a} and {b}",
        "{df}[{a}] + {df}[{b}]",
    ),
    (
        "add {n} = {a} - {b}|create {n} as the difference between {a} and {b}|{n}: {a} minus {b}|subtract {b} from {a} and call it {n}",
        "{df}[{a}] - {df}[{b}]",
    ),
    (
        "add {n} = {a} * {b}|create {n} as {a} times {b}|multiply {a} by {b} into {n}|new column {n} with the product of {a} and {b}",
        "{df}[{a}] * {df}[{b}]",
    ),
    (
        "add {n} = {a} / {b}|create {n} as the ratio of {a} to {b}|divide {a} by {b}, store in {n}|{n} should be {a} divided by {b}"
        "|{a} per {b} as a new column {n}",
        "{df}[{a}] / {df}[{b}]",
    ),
    (
        "add {n}: {a} as a percentage of its total|create {n} with the share of {a} in percent"
        "|what percent of total {a} is each row, as {n}",
        "{df}[{a}] / {df}[{a}].sum() * 100",
    ),
    (
        "z-score of {a} in a new column {n}|standardise {a} into {n}|add {n}, the standardized {a}",
        "({df}[{a}] - {df}[{a}].mean()) / {df}[{a}].std()",
    ),
    (
        "scale {a} to 0-1 as {n}|min-max normalise {a} into {n}|add {n}: {a} rescaled between 0 and 1",
        "({df}[{a}] - {df}[{a}].min()) / ({df}[{a}].max() - {df}[{a}].min())",
    ),
    ("rank the rows by {a}, highest = 1, in {n}|add {n} with the rank of {a} (largest first)", "{df}[{a}].rank(ascending=False)"),
    ("running total of {a} as {n}|cumulative sum of {a} in {n}|add {n} = cumulative {a}", "{df}[{a}].cumsum()"),
    ("difference of {a} to the previous row as {n}|add {n}: change in {a} from one row to the next", "{df}[{a}].diff()"),
    ("previous value of {a} in a column {n}|lag {a} by one row as {n}|shift {a} down by 1 into {n}", "{df}[{a}].shift(1)"),
)
FROM_GROUPS = (
    (
        "add {n}: the mean {a} of each row's {g}|mean {a} per {g} as a new column {n}, same length"
        "|broadcast the average {a} by {g} into {n}",
        '{df}.groupby({g})[{a}].transform("mean")',
    ),
    (
        "add {n} = share of {a} within its {g}|each row's {a} as a fraction of the {g} total in {n}",
        '{df}[{a}] / {df}.groupby({g})[{a}].transform("sum")',
    ),
    ("lower case {g} into {n}|make a lowercase version of {g} called {n}", "{df}[{g}].str.lower()"),
    ("number the rows within each {g} as {n}|running count per {g} in {n}, starting at 1", "{df}.groupby({g}).cumcount() + 1"),
)
FROM_DATES = "extract the {p} of {d} into {n}|add {n} with the {p} from {d}|{p} of {d} as a column {n}"
DATE_PARTS = (
    ("year", "year"), ("month", "month"), ("day_name()", "weekday name"), ("hour", "hour"), ("quarter", "quarter"),
    ("dayofweek", "day of week number"),
)  # fmt: skip
FLAGS = (
    "flag rows where {w} in {n} ({y} / {o})|create {n}: {y} if {w} else {o}"
    "|add a column {n} that is {y} when {w}, otherwise {o}|new column {n}, {y} where {w} and {o} elsewhere"
)
FILL = "fill missing {f} with {v}|replace NaN in {f} by {v}"
# Cleaning: how it is asked for, the code and the check, where {m}, {f}, {a} and {c} are names in quotes.
CLEANING = (
    (
        "drop rows where {m} is missing|remove rows with NaN in {m}|delete rows that have no {m}|dropna on {m}",
        "{df} = {df}.dropna(subset={m})\n{df}.shape",
        "assert not {df}[{m}].isna().any().any()\n",
    ),
    (
        "how many missing values in {m}?|count NaN in {m}|number of nulls for {m}",
        "{df}[{m}].isna().sum()",
        "assert len(_last) > 0\n",
    ),
    (
        "drop duplicate rows based on {m}|remove duplicates by {m}, keep the last|dedupe on {m} keeping the last one",
        '{df} = {df}.drop_duplicates(subset={m}, keep="last")\n{df}.shape',
        "assert not {df}.duplicated(subset={m}).any()\n",
    ),
    (
        "unique combinations of {m}|distinct {m}|list the different {m}",
        "{df}[{m}].drop_duplicates()",
        "assert not _last.duplicated().any()\n",
    ),
    (
        FILL,
        "{df}[{f}] = {df}[{f}].fillna({v})\n{df}[{f}].isna().sum()",
        "assert not {df}[{f}].isna().any().any()\n",
    ),
    (
        "impute {f} with the {h}|fill NaN in {f} with their {h}|use the {h} for missing {f}",
        "{df}[{f}] = {df}[{f}].fillna({df}[{f}].{h}())\n{df}[{f}].isna().sum()",
        "assert not {df}[{f}].isna().any().any()\n",
    ),
    (
        "fill missing {a} with the {h} of its {c}|impute {a} by the group {h} per {c}|NaN in {a} -> {h} within the same {c}",
        '{df}[{a}] = {df}[{a}].fillna({df}.groupby({c})[{a}].transform("{h}"))\n{df}[{a}].isna().sum()',
        "assert _last is not None\n",
    ),
    (
        "how many different values in {m}?|number of unique values of {m}|cardinality of {m}",
        "{df}[{m}].nunique()",
        "assert len(_last) > 0\n",
    ),
    (
        "value counts of {c} in percent|share of each {c} in %|what percent is each {c}",
        "{df}[{c}].value_counts(normalize=True) * 100",
        "assert abs(_last.sum() - 100) < 1e-6\n",
    ),
    (
        "convert {a} to string|make {a} text|{a} as str type",
        "{df}[{a}] = {df}[{a}].astype(str)\n{df}.dtypes",
        "assert isinstance({df}[{a}].iloc[0], str)\n",
    ),
)
PERIODS = (
    ("D", "day", "daily"),
    ("W", "week", "weekly"),
    ("MS", "month", "monthly"),
    ("QS", "quarter", "quarterly"),
    ("YS", "year", "yearly"),
)


def rows(draw: Draw) -> Task | None:
    """Rows that meet conditions: counted, left out, or shown, then perhaps some columns of them, sorted and cut."""
    where, mask = conditions(draw, draw.rng.choice((1, 1, 2, 2, 3)))
    drawn = draw.rng.random()
    if drawn < 0.2:
        ways = "how many rows are there where {w}?|count rows where {w}|number of rows where {w}|how often is it that {w}?"
        return Task(draw.say(ways, w=where), f"int(({mask}).sum())")
    if drawn < 0.3:
        ways = "in what percentage of rows is it that {w}?|share of rows where {w} (in %)|percent of rows where {w}"
        return Task(draw.say(ways, w=where), f"float(({mask}).mean() * 100)")
    if drawn < 0.38:
        ways = "drop all rows where {w}|remove the rows where {w}|get rid of rows where {w}|{df} without the rows where {w}"
        return Task(draw.say(ways, w=where, df=draw.df), f"{draw.df}[~({mask})]")
    return _shown_rows(draw, where, mask)


def _shown_rows(draw: Draw, where: str, mask: str) -> Task:
    rng = draw.rng
    ways = (
        "show the rows where {w}|filter {df} to {w}|all rows where {w}|keep only rows where {w}|select rows where {w}"
        "|in which rows is it that {w}?|rows where {w}|find entries where {w}|subset {df}: {w}|get the records where {w}"
    )
    ask, code = draw.say(ways, w=where, df=draw.df), f"{draw.df}[{mask}]"
    chosen: list[str] = []
    if rng.random() < 0.35:
        chosen = draw.names("float", "int", "cat", "date", "id", "binary")[: rng.choice((1, 2, 3, 4, 5, 7, 9, 12))]
        code = f"{draw.df}.loc[{mask}, {quoted(chosen) if len(chosen) > 1 or rng.random() < 0.5 else text(chosen[0])}]"
        way = draw.pick(", only the columns {c}|, show just {c}| and return {c}|, columns {c}")
        ask = ask.rstrip("?") + draw.fill(way, c=draw.listed(chosen))
        if "[" not in code.split(", ", 1)[-1]:  # one column by its bare name
            return Task(ask, code)
    sortable = draw.names("float", "int", "date")
    if not chosen and rng.random() < 0.3 and sortable:
        down = rng.random() < 0.6
        way = draw.pick(", sorted by {c}{d}|, order by {c}{d}| and sort by {c}{d}")
        said = draw.said(sortable[0])
        direction = draw.pick(" descending|, largest first| from high to low" if down else "| ascending")
        ask = ask.rstrip("?") + draw.fill(way, c=said, d=direction)
        code += f".sort_values({text(sortable[0])}{', ascending=False' if down else ''})"
    if rng.random() < 0.2:
        n = str(rng.choice((3, 5, 10, 20)))
        ask = ask.rstrip("?") + draw.say(", first {n}|, only {n} rows|, just the first {n} of them", n=n)
        code += f".head({n})"
    return Task(ask, code)


def columns(draw: Draw) -> Task | None:
    """Lists of columns, up to twelve: keep, drop, rename, move to the front, correlate, describe."""
    rng, df = draw.rng, draw.df
    names = draw.names("float", "int", "cat", "binary", "date", "id", "text", "datestr")
    chosen = names[: min(rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 10, 12)), len(names) - 1)]
    said, many = draw.listed(chosen), quoted(chosen)
    drawn = rng.random()
    if drawn < 0.3:
        ways = (
            "select {c}|keep only {c}|show me just {c}|I need the columns {c}|take {c} from {df}|make a frame with {c}"
            "|only the columns {c} please|subset to {c}"
        )
        return Task(draw.say(ways, c=said, df=df), f"{df}[{many}]", f"assert list(_last.columns) == {many}\n")
    if drawn < 0.5:
        ways = "drop {c}|remove the columns {c}|delete {c} from {df}|I don't need {c}, drop them|get rid of {c}|{df} without {c}"
        return Task(draw.say(ways, c=said, df=df), f"{df}.drop(columns={many})", f"assert not set(_last.columns) & set({many})\n")
    if drawn < 0.68:
        return _renamed(draw, chosen[:4])
    if drawn < 0.8:
        ask = draw.say("put {c} first|move {c} to the front|reorder so that {c} come first", c=said)
        code = f"first = {many}\n{df} = {df}[first + [col for col in {df}.columns if col not in first]]\n{df}.head()"
        return Task(ask, code, f"assert list({df}.columns)[:{len(chosen)}] == {many}\n")
    return _overview(draw, correlated=drawn < 0.9)


def _renamed(draw: Draw, old: list[str]) -> Task:
    pairs = {name: coin.word(draw.rng) for name in old}
    arrow = draw.pick("to|->|as|into")
    listed = ", ".join(f"{draw.said(name)} {arrow} {new}" for name, new in pairs.items())
    ways = "rename {p}|change column names: {p}|please rename {p}|call {p} instead|rename the columns {p}"
    code = f"{draw.df} = {draw.df}.rename(columns={json.dumps(pairs, ensure_ascii=False)})\n{draw.df}.head()"
    new = list(pairs.values())
    there = f"{text(new[0])} in list({draw.df}.columns)" if len(new) == 1 else f"set({quoted(new)}) <= set({draw.df}.columns)"
    return Task(draw.say(ways, p=listed), code, f"assert {there}\n")


def _overview(draw: Draw, correlated: bool) -> Task | None:
    numbers = draw.names("float", "int")
    if len(numbers) < 3:
        return None
    numbers = numbers[: draw.rng.randint(2, min(8, len(numbers)))]
    said, many = draw.listed(numbers), quoted(numbers)
    if correlated:
        ask = draw.say("correlation matrix of {c}|how are {c} correlated?|correlate {c}|pairwise correlations between {c}", c=said)
        return Task(ask, f"{draw.df}[{many}].corr()", f"assert _last.shape == ({len(numbers)}, {len(numbers)})\n")
    ask = draw.say("summary statistics of {c}|describe {c}|basic stats for {c}|summarise {c}", c=said)
    return Task(ask, f"{draw.df}[{many}].describe()", f"assert list(_last.columns) == {many}\n")


def derive(draw: Draw) -> Task | None:
    """A new column from one or two others, or one that flags rows."""
    rng, df = draw.rng, draw.df
    (a, b, *_), dates, cats = draw.names("float", "int"), draw.names("date"), draw.names("cat")
    new = coin.word(rng)
    said = {"n": new, "a": draw.said(a), "b": draw.said(b)}
    names = {"a": text(a), "b": text(b)}
    options = [(draw.pick(ways), code) for ways, code in FROM_NUMBERS]
    if cats:
        said["g"], names["g"] = draw.said(cats[0]), text(cats[0])
        options += [(draw.pick(ways), code) for ways, code in FROM_GROUPS]
    if dates:
        part, said["p"] = rng.choice(DATE_PARTS)
        said["d"], names["d"] = draw.said(dates[0]), text(dates[0])
        options += [(draw.pick(FROM_DATES), "{df}[{d}].dt." + part)] * 3
    ask, template = rng.choice(options)
    code = f"{df}[{text(new)}] = {draw.fill(template, df=df, **names)}"
    if rng.random() < 0.25:
        said["w"], mask = conditions(draw, rng.choice((1, 1, 2)))
        yes, no = rng.choice((("1", "0"), ('"yes"', '"no"'), ("True", "False"), ('"high"', '"low"')))
        said |= {"y": yes.strip('"'), "o": no.strip('"')}
        ask = draw.pick(FLAGS)
        code = f"import numpy as np\n\n{df}[{text(new)}] = np.where({mask}, {yes}, {no})"
    check = f"assert {text(new)} in {df}.columns\nassert len({df}) == len(_before)\n"
    return Task(draw.fill(ask, **said), f"{code}\n{df}.head()", check)


def scalar(draw: Draw) -> Task | None:
    """One number under conditions, a few extreme rows, or a small comparison."""
    rng = draw.rng
    (one, other, *_), cats = draw.names("float", "int"), draw.columns("cat")
    function = rng.choice(list(FUNCTIONS))
    said = {"f": rng.choice(FUNCTIONS[function]), "c": draw.said(one), "b": draw.said(other)}
    drawn = rng.random()
    if drawn < 0.45:
        said["w"], mask = conditions(draw, rng.choice((1, 1, 2)), (one,))
        ways = (
            "{f} {c} where {w}|what is the {f} {c} for rows where {w}?|{f} {c} when {w}|for rows where {w}, what's the {f} {c}?"
            "|give me the {f} {c} if {w}|among rows where {w}, the {f} {c}"
        )
        return Task(draw.say(ways, **said), f"{draw.df}.loc[{mask}, {text(one)}].{function}()")
    if drawn < 0.6:
        ways = (
            "correlation between {c} and {b}|how strongly is {c} related to {b}?|is {c} correlated with {b}?"
            "|corr of {c} and {b}|do {c} and {b} move together?"
        )
        return Task(draw.say(ways, **said), f"{col(draw, one)}.corr({col(draw, other)})", "assert abs(_last) <= 1.0001\n")
    if drawn < 0.75:
        q = rng.choice((0.05, 0.1, 0.25, 0.75, 0.9, 0.95, 0.99))
        ways = "{q}th percentile of {c}|the {q}% quantile of {c}|below which value do {q}% of {c} lie?"
        return Task(draw.say(ways, q=f"{q * 100:.0f}", **said), f"{col(draw, one)}.quantile({q})")
    if drawn < 0.88 or not cats:
        return _extreme_rows(draw, one, said["c"])
    return _t_test(draw, one, said["c"], cats[0])


def _extreme_rows(draw: Draw, name: str, said: str) -> Task:
    n, low = draw.rng.choice((3, 5, 10, 20)), draw.rng.random() < 0.35
    lowest = "the {n} rows with the lowest {c}|bottom {n} by {c}|{n} smallest {c}"
    highest = (
        "top {n} rows by {c}|the {n} rows with the highest {c}|{n} largest {c}|show the {n} biggest {c}|which {n} rows have the most {c}?"
    )
    ask = draw.say(lowest if low else highest, n=str(n), c=said)
    return Task(ask, f"{draw.df}.{'nsmallest' if low else 'nlargest'}({n}, {text(name)})", f"assert len(_last) == {n}\n")


def _t_test(draw: Draw, name: str, said: str, groups: Column) -> Task:
    first, second = draw.rng.sample(groups.levels, 2) if len(groups.levels) > 1 else groups.levels * 2
    way = draw.pick(
        "is {c} different between {g} {x} and {y}? t-test|t test of {c} for {g} {x} vs {y}"
        "|compare {c} of {x} and {y} ({g}) with a t-test|welch t-test: {c}, {g} = {x} against {y}"
    )
    code = f"""\
from scipy import stats

a = {draw.df}.loc[{col(draw, groups.name)} == {text(first)}, {text(name)}].dropna()
b = {draw.df}.loc[{col(draw, groups.name)} == {text(second)}, {text(name)}].dropna()
stats.ttest_ind(a, b, equal_var=False)"""
    return Task(draw.fill(way, g=draw.said(groups.name), x=first, y=second, c=said), code, "assert hasattr(_last, 'pvalue')\n")


def clean(draw: Draw) -> Task | None:
    """Missing values, duplicates and types of named columns."""
    rng = draw.rng
    likely, numbers, cats = draw.names("float", "int", "cat", "date", "binary"), draw.names("float", "int"), draw.names("cat")
    several = likely[: rng.randint(1, 5)]
    said = {"m": draw.listed(several)}
    few = numbers[: rng.randint(1, 4)]
    a, c = numbers[0], cats[0] if cats else likely[0]
    value, how = draw.pick("0|-1|999"), draw.pick("mean|median")
    options = []
    for ways, code, check in CLEANING:
        by_coin = ways == FILL  # and not picked, so that the rows of a seed stay as they were
        options.append((ways.split("|")[rng.random() >= 0.5] if by_coin else draw.pick(ways), code, check))
    ask, code, check = rng.choice(options)
    said |= {"f": draw.listed(few), "a": draw.said(a), "c": draw.said(c), "v": value, "h": how}
    names = {"df": draw.df, "m": quoted(several), "f": quoted(few), "a": text(a), "c": text(c), "v": value, "h": how}
    return Task(draw.fill(ask, **said), draw.fill(code, **names), draw.fill(check, **names))


def table(draw: Draw) -> Task | None:
    """Pivot tables, cross tabulations, and sums by period."""
    rng, df = draw.rng, draw.df
    numbers, cats, dates = draw.names("float", "int"), draw.names("cat", "binary"), draw.names("date")
    function, values = rng.choice(("mean", "sum", "max", "median")), text(numbers[0])
    said = {"f": rng.choice(FUNCTIONS[function]), "a": draw.said(numbers[0])}
    if dates and rng.random() < 0.45:
        period, said["p"], said["q"] = rng.choice(PERIODS)
        way = draw.pick(
            "{f} {a} per {p} (date in {d})|{q} {f} of {a} using {d}|resample {a} to {q} {f} by {d}"
            "|aggregate {a} by {p} of {d}: {f}|{q} {a} ({f}), dates are in {d}"
        )
        code = f'{df}.set_index({text(dates[0])})[{values}].resample("{period}").{function}()'
        return Task(draw.fill(way, d=draw.said(dates[0]), **said), code, "assert len(_last) > 0\n")
    if len(cats) < 2:
        return None
    row, column = cats[:2]
    said |= {"r": draw.said(row), "c": draw.said(column)}
    if rng.random() >= 0.6:
        return _crosstab(draw, row, column, said)
    ways = (
        "pivot table of {f} {a} with {r} as rows and {c} as columns|{f} {a} for {r} (rows) by {c} (columns)"
        "|cross {r} and {c} showing the {f} {a}, {c} across the top|pivot: index {r}, columns {c}, values {a}, {f}"
    )
    code = f'{df}.pivot_table(index={text(row)}, columns={text(column)}, values={values}, aggfunc="{function}")'
    return Task(draw.say(ways, **said), code, FILLED)


def _crosstab(draw: Draw, row: str, column: str, said: dict[str, str]) -> Task:
    share = draw.rng.random() < 0.4
    ask = draw.say(
        "crosstab of {r} and {c}|how many rows for each {r} and {c}? as a table|count {r} against {c}|contingency table {r} x {c}", **said
    )
    table = f"{col(draw, row)}, {col(draw, column)}"
    if share:
        ask += draw.pick(", row percentages| as row percentages")
        return Task(ask, f'import pandas as pd\n\npd.crosstab({table}, normalize="index") * 100', FILLED)
    return Task(ask, f"import pandas as pd\n\npd.crosstab({table})", FILLED)
