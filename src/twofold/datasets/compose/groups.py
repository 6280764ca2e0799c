"""Statistics by group, and the next question that changes one part of them."""

from dataclasses import dataclass, replace

from twofold.datasets.compose.conditions import Wish, conditions
from twofold.datasets.compose.draw import ANSWERED, DRAWN, FUNCTIONS, Draw, Task, quoted, text

GROUPED = (
    "{f} {c} by {g}|{f} {c} per {g}|what is the {f} {c} for each {g}?|{f} {c} in every {g}|group by {g} and get the {f} {c}"
    "|I want the {f} {c} broken down by {g}|for each {g}, the {f} {c}|show {f} {c} for every {g}|compute the {f} {c} per {g}"
    "|{c}: {f} by {g}|how does the {f} {c} differ by {g}?|give me {f} {c} grouped by {g}|Calculate the {f} {c} for each {g}."
    "|{g} wise {f} {c}|per {g} what's the {f} {c}|need {f} {c} split by {g}"
)
WHERE = "where {w}|for rows where {w}|only where {w}|but only when {w}|when {w}|if {w}"
LOWEST = ", bottom {n} only|, the {n} smallest|, just the lowest {n}|, lowest {n}"
HIGHEST = ", top {n}|, only the {n} largest|, just the top {n}|, highest {n} first|, best {n}"
ASCENDING = ", smallest first|, sorted ascending|, lowest to highest|, ascending"
DESCENDING = ", largest first|, sorted descending|, highest to lowest|, from high to low|, sort descending"
AS_BARS = "bar chart of the {s}|plot {s} as bars|draw a bar plot: {s}|{s}, as a bar chart|show me a bar graph of {s}"

BARS = """\
import matplotlib.pyplot as plt

result = {result}
result.plot.bar()
plt.xlabel({x})
plt.ylabel({y})
plt.title({title})
plt.tight_layout()
plt.show()"""


@dataclass(frozen=True, slots=True)
class Plan:
    """A grouped aggregation."""

    function: str
    columns: tuple[str, ...]
    groups: tuple[str, ...]
    where: Wish = ("", "")
    top: int = 0
    """Keep so many groups; 0 keeps all."""
    order: str = ""
    """How to sort, "ascending" or "descending"; "" does not sort, and with `top` keeps the largest."""
    plot: bool = False


def aggregate(draw: Draw) -> Task | None:
    """A statistic by group, perhaps filtered, sorted, cut to a top n or drawn; a follow-up changes one part."""
    numbers, cats = draw.names("float", "int"), draw.names("cat", "binary")
    if len(numbers) < 2 or len(cats) < 2:
        return None
    plan = _plan(draw, numbers, cats)
    after, said = draw.rng.choice(_changes(draw, plan, numbers, cats))
    return Task(_ask(draw, plan), _code(draw, plan), _check(plan), (said, _code(draw, after), _check(after)))


def _plan(draw: Draw, numbers: list[str], cats: list[str]) -> Plan:
    rng = draw.rng
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
    if len(groups) == len(columns) == 1 and rng.random() < 0.25:
        plan = replace(plan, plot=True)
    return plan


def _changes(draw: Draw, plan: Plan, numbers: list[str], cats: list[str]) -> list[tuple[Plan, str]]:
    """What could be asked next: plans that differ in one part, and how each is asked for."""
    rng = draw.rng
    way = draw.pick("same for {c}|now for {c}|and for {c}?|do the same with {c}|what about {c}?")
    found = [(replace(plan, columns=(numbers[-1],)), draw.fill(way, c=draw.said(numbers[-1])))]
    way = draw.pick("now by {g}|group it by {g} instead|and per {g}?|same but by {g}|split by {g} instead")
    found.append((replace(plan, groups=(cats[-1],)), draw.fill(way, g=draw.said(cats[-1]))))
    other = rng.choice([name for name in FUNCTIONS if name != plan.function])
    called = FUNCTIONS[other][0].removesuffix(" of")
    found.append((replace(plan, function=other), draw.say("use the {f} instead|now the {f}|and the {f}?|same but {f}", f=called)))
    if not plan.top:
        n = rng.choice((2, 3, 5))
        ask = draw.say("only the top {n}|just the {n} largest|keep the top {n}|top {n} please", n=str(n))
        found.append((replace(plan, top=n, order=""), ask))
    if not plan.plot and len(plan.columns) == len(plan.groups) == 1:
        ask = draw.pick("plot it|show that as a bar chart|make a bar chart of it|visualise that|now as a chart please")
        found.append((replace(plan, plot=True), ask))
    if not plan.where[0]:
        where = conditions(draw, 1, (*plan.groups, *plan.columns))
        ask = draw.say("only where {w}|but only for rows where {w}|now just when {w}|filter it to {w}", w=where[0])
        found.append((replace(plan, where=where), ask))
    return found


def _ask(draw: Draw, plan: Plan) -> str:
    function = draw.rng.choice(FUNCTIONS[plan.function])
    columns, groups = draw.listed(plan.columns), draw.listed(plan.groups)
    ask = draw.say(GROUPED, f=function, c=columns, g=groups)
    if plan.where[0] or plan.top or plan.order or plan.plot:
        ask = ask.rstrip("?.")
    if plan.where[0]:
        where = draw.say(WHERE, w=plan.where[0])
        ask += draw.pick(" |, ") + where
    if plan.top:
        ask += draw.say(LOWEST if plan.order == "ascending" else HIGHEST, n=str(plan.top))
    elif plan.order:
        ask += draw.pick(ASCENDING if plan.order == "ascending" else DESCENDING)
    return draw.say(AS_BARS, s=ask) if plan.plot else ask


def _code(draw: Draw, plan: Plan) -> str:
    rows = f"{draw.df}[{plan.where[1]}]" if plan.where[1] else draw.df
    groups = text(plan.groups[0]) if len(plan.groups) == 1 else quoted(plan.groups)
    one, first = len(plan.columns) == 1, text(plan.columns[0])
    result = f"{rows}.groupby({groups})[{first if one else quoted(plan.columns)}].{plan.function}()"
    if plan.top:
        which = "nsmallest" if plan.order == "ascending" else "nlargest"
        result += f".{which}({plan.top}{'' if one else f', {first}'})"
    elif plan.order:
        result += f".sort_values({'' if one else f'{first}, '}ascending={plan.order == 'ascending'})"
    if not plan.plot:
        return result
    title = f"{plan.function.capitalize()} of {plan.columns[0]} by {plan.groups[0]}"
    return draw.fill(BARS, result=result, x=text(plan.groups[0]), y=first, title=text(title))


def _check(plan: Plan) -> str:
    return DRAWN if plan.plot else ANSWERED
