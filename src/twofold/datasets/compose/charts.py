"""Charts: one seaborn call with named axes, and the next question that changes the figure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from twofold.datasets.compose.conditions import conditions
from twofold.datasets.compose.draw import DRAWN, FUNCTIONS, Draw, Task, text


@dataclass(frozen=True, slots=True)
class Chart:
    """A kind of chart. Columns go by letters: a and b numbers, c a category, d a date."""

    ways: str
    call: str
    """The code; with a place for {hue} where the marks may be coloured."""
    x: str
    y: str
    """What the axis shows: a letter, or its label."""


CHARTS: Mapping[str, Chart] = {
    "hist": Chart(
        "histogram of {a} with {n} bins|hist of {a}, {n} bins|distribution of {a} ({n} bins)|plot how {a} is distributed using {n} bins",
        "sns.histplot(data={data}, x={x}, bins={n}{hue})",
        "a",
        "Count",
    ),
    "scatter": Chart(
        "scatter plot of {b} against {a}|plot {a} on x and {b} on y as points|{a} vs {b} scatter (x = {a})|scatter {a} (x) and {b} (y)",
        "sns.scatterplot(data={data}, x={x}, y={y}{hue})",
        "a",
        "b",
    ),
    "box": Chart(
        "box plot of {a} by {c}|boxplot {a} for each {c}|compare {a} across {c} with a box plot|box plots of {a} per {c}",
        "sns.boxplot(data={data}, x={x}, y={y})",
        "c",
        "a",
    ),
    "line": Chart(
        "{a} over time ({d})|line chart of {a} by {d}|plot {a} against {d} as a line|how does {a} evolve over {d}",
        "sns.lineplot(data={data}, x={x}, y={y}{hue})",
        "d",
        "a",
    ),
    "kde": Chart(
        "density plot of {a}|kde of {a}|smooth distribution curve for {a}",
        "sns.kdeplot(data={data}, x={x}{hue})",
        "a",
        "Density",
    ),
    "bar": Chart(
        "bar chart of the {f} {a} per {c}|bars: {f} {a} by {c}|barplot {f} {a} for each {c}",
        'sns.barplot(data={data}, x={x}, y={y}, estimator="{function}", errorbar=None)',
        "c",
        "a",
    ),
    "violin": Chart(
        "violin plot of {a} by {c}|violinplot {a} for each {c}|compare {a} across {c} with a violin plot|violin plots of {a} per {c}",
        "sns.violinplot(data={data}, x={x}, y={y})",
        "c",
        "a",
    ),
    "reg": Chart(
        "scatter of {a} and {b} with a trend line, {a} on the x axis|regression plot of {b} on {a}|plot {b} against {a} with a fitted line",
        "sns.regplot(data={data}, x={x}, y={y})",
        "a",
        "b",
    ),
    "count": Chart(
        "bar chart of how often each {c} occurs|countplot of {c}|how many rows per {c}, as a bar chart|plot the counts of {c}",
        "sns.countplot(data={data}, x={x})",
        "c",
        "Count",
    ),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """What the code of a chart is made of."""

    call: str
    x: str
    y: str
    title: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Lines before the call, and after the labels."""

    def code(self) -> str:
        """The code that shows it."""
        labels = f"plt.xlabel({text(self.x)})", f"plt.ylabel({text(self.y)})", f"plt.title({text(self.title)})"
        imports = "import matplotlib.pyplot as plt", "import seaborn as sns", ""
        return "\n".join((*imports, *self.before, self.call, *labels, *self.after, "plt.show()"))


def plot(draw: Draw) -> Task | None:
    """One chart, perhaps of filtered rows, coloured by a category, with a title, size or log axis; a follow-up changes it."""
    rng = draw.rng
    numbers, cats, dates = draw.names("float", "int"), draw.names("cat", "binary"), draw.names("date")
    hue = cats[0] if cats and rng.random() < 0.4 else ""
    names = {"a": numbers[0], "b": numbers[1], "h": hue, "c": cats[0] if cats else "", "d": dates[0] if dates else ""}
    data, where = draw.df, ""
    if rng.random() < 0.25:
        where, mask = conditions(draw, 1, (names["a"], names["b"], hue))
        data = f"{draw.df}[{mask}]"
    kind = rng.choice(list(CHARTS))
    said = {letter: draw.said(name) if name else "" for letter, name in names.items()}
    chart = CHARTS["count" if kind == "line" and not dates else kind]
    if chart.x == "c" and not cats:
        return None
    x, y = names[chart.x], names.get(chart.y, chart.y)
    function = ""
    if kind == "hist":
        said["n"] = str(rng.choice((10, 15, 20, 25, 30, 40, 50)))
    if kind == "bar":
        function = draw.pick("mean|sum|median")
    ask = draw.pick(chart.ways)
    if kind == "bar":
        said["f"] = rng.choice(FUNCTIONS[function])
    coloured = f", hue={text(hue)}" if hue else ""
    call = draw.fill(chart.call, data=data, x=text(x), y=text(y), hue=coloured, n=said.get("n", ""), function=function)
    if hue and "{hue}" in chart.call:
        ask += draw.pick(" coloured by {h}|, color by {h}| with {h} as hue|, one colour per {h}| split by {h}")
    if where:
        ask += draw.pick(" where {w}|, only where {w}| for rows where {w}")
    title = ""
    if rng.random() < 0.3:
        title = rng.choice((f"{numbers[0]} overview", f"Distribution of {numbers[0]}", f"{x} and {y}", "Report", "Figure 1"))
        ask += draw.pick(", title '{t}'| titled '{t}'| and call it '{t}'")
    wishes, before, after = _wishes(draw, kind)
    plain = {"Count": f"Distribution of {x}", "Density": f"Density of {x}"}.get(y, f"{y} by {x}")
    figure = Figure(call, x, y, title or plain, before, after)
    return Task(draw.fill(ask + wishes, w=where, t=title, **said), figure.code(), DRAWN, _follow(draw, figure))


def _wishes(draw: Draw, kind: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Further wishes about a figure: in words, the lines before its call, and the lines after."""
    rng = draw.rng
    ask, before, after = "", [], []
    if rng.random() < 0.15:
        width, height = rng.choice(((8, 4), (10, 6), (12, 5), (6, 6)))
        before.append(f"plt.figure(figsize=({width}, {height}))")
        ask += f", figure size {width}x{height}"
    if rng.random() < 0.12 and kind in ("scatter", "hist"):
        after.append('plt.xscale("log")')
        ask += ", log x axis"
    if rng.random() < 0.15 and kind in ("box", "violin", "bar", "count"):
        after.append("plt.xticks(rotation=45)")
        ask += draw.pick(", rotate the labels 45 degrees|, tilt x labels by 45")
    return ask, tuple(before), tuple(after)


def _follow(draw: Draw, figure: Figure) -> tuple[str, str, str]:
    """A next question that changes the figure, with its code and check."""
    title = draw.pick("Overview|Sales report|Result|Summary 2024")
    retitled = draw.say("set the title to '{t}'|change the title to '{t}'|call it '{t}'", t=title)
    changes = [(retitled, replace(figure, title=title))]
    for ways, line in (
        ("add a grid|with grid lines please|turn the grid on", "plt.grid(True)"),
        ("save it as plot.png|now save that to plot.png|write it to plot.png", 'plt.savefig("plot.png", dpi=150, bbox_inches="tight")'),
        ("start the y axis at 0|y axis from zero please", "plt.ylim(bottom=0)"),
    ):
        changes.append((draw.pick(ways), replace(figure, after=(*figure.after, line))))
    ask, changed = draw.rng.choice(changes)
    return ask, changed.code(), DRAWN
