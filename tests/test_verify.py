"""The ladder: planted faults stop at the right rung or are repaired; right answers never fail; the user's frame stays as it is."""

import ast
import random
import sys
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("pandas")
pytest.importorskip("sklearn")

from twofold import notebook, sandbox, twin, verify
from twofold.types import RUNGS
from twofold.verify import Verdict, checks, choose, climb, inputs, names
from twofold.verify.guess import columns_in, guess, named
from twofold.verify.meaning import wrong

COLUMNS = (
    twin.column("order_id", "id"),
    twin.column("order_date", "date 2023-01-01 D"),
    twin.column("region", "cat North|South|West"),
    twin.column("product", "cat Laptop|Phone|Tablet"),
    twin.column("quantity", "int 1 12"),
    twin.column("price", "float? 15 900"),
    twin.column("discount", "float 0 0.4"),
    twin.column("returned", "binary 0.3"),
)
FRAME = twin.make(COLUMNS, 1)
DF = (("df", FRAME),)
MODEL = "from sklearn.linear_model import LinearRegression\nX, y = df[['quantity']], df['discount']\nm = LinearRegression().fit(X, y)\n"


@pytest.mark.parametrize(
    ("question", "code", "now"),
    [
        ("mean price by region", "df.groupby('region')['prise'].mean()", "df.groupby('region')['price'].mean()"),
        ("mean price", "df['Price'].mean()", "df['price'].mean()"),
        ("mean price", "np.mean(df['price'])", "import numpy as np\n\nnp.mean(df['price'])"),
        (
            "add a row",
            "df = df.append({'price': 3.0}, ignore_index=True)\ndf.tail()",
            "import pandas as pd\n\ndf = pd.concat([df, pd.DataFrame([{'price': 3.0}])], ignore_index=True)\ndf.tail()",
        ),
        (
            "rmse of a model",
            f"from sklearn.metrics import mean_squared_error\n{MODEL}mean_squared_error(y, m.predict(X), squared=False)",
            f"from sklearn.metrics import root_mean_squared_error\n{MODEL}root_mean_squared_error(y, m.predict(X))",
        ),
        ("show the top 5 rows by price", "df.sort_values('price').head(5)", "df.sort_values('price', ascending=False).head(5)"),
        ("show the 5 largest prices", "df['price'].nsmallest(5)", "df['price'].nlargest(5)"),
    ],
)
def test_planted_faults_are_repaired(question: str, code: str, now: str) -> None:
    verdict = climb(code, question, DF)
    assert (verdict.code, verdict.failed, verdict.passed) == (now, "", RUNGS)
    assert verdict.repairs


@pytest.mark.parametrize(
    ("question", "code", "rung", "reason"),
    [
        ("mean price", "df['price'].mean(", "parses", "never closed"),
        ("mean price", "import xgboost_of_old\ndf", "names resolve", "xgboost_of_old is not installed"),
        ("mean price", "nothing_like_it(df)", "names resolve", "nothing_like_it is not defined"),
        ("mean weight", "df['weight'].mean()", "names resolve", "df has no column 'weight'"),
        ("mean weight", "df.groupby('region')['weight'].mean()", "runs on a twin", "KeyError"),
        ("mean price", "df['price'].mean().foo()", "runs on a twin", "AttributeError"),
        (
            "mean price by region",
            "df['price'] = df['price'].fillna(0)\ndf.groupby('region')['price'].mean()",
            "checks pass",
            "changes df in place",
        ),
        ("what is the mean price", "df.dropna(inplace=True)\ndf['price'].mean()", "checks pass", "rows"),
        ("mean price", "df['price'] * float('nan')", "checks pass", "missing"),
        ("plot the price", "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()", "checks pass", "empty"),
        ("plot the price with a title", "import matplotlib.pyplot as plt\nplt.plot(df['price'])", "checks pass", "no title"),
        ("plot the price", "df['price'].mean()", "checks pass", "none was drawn"),
    ],
)
def test_planted_faults_are_told_at_their_rung(question: str, code: str, rung: str, reason: str) -> None:
    verdict = climb(code, question, DF)
    assert (verdict.failed, verdict.code) == (rung, code)
    assert reason in verdict.reason
    assert verdict.passed == RUNGS[: RUNGS.index(rung)]


def test_a_failure_on_the_users_own_data_is_told() -> None:
    frame = FRAME.assign(price=[f"{number} EUR" for number in range(len(FRAME))])
    verdict = climb("df['price'].str.replace(' EUR', '').astype(int).sum()", "sum of price", (("df", frame),))
    assert verdict.good
    broken = frame.assign(price=frame["price"].where(frame.index != 3, "none"))
    assert climb("df['price'].str.replace(' EUR', '').astype(int).sum()", "sum of price", (("df", broken),)).failed


def test_frames_with_names_that_no_code_can_say_are_left_out() -> None:
    assert climb("df['price'].mean()", "mean price", (*DF, ("class", FRAME), ("my frame", FRAME))).passed == RUNGS


def test_the_failing_line_is_that_of_the_answer() -> None:
    verdict = climb("x = 1\n\nvalues = df['price'].foo()", "mean price", DF)
    assert verdict.line == 3
    assert 'File "<cell>", line 3' in verdict.error


def test_without_leave_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "run", lambda *_, **__: pytest.fail("it ran"))
    verdict = climb("df['price'].mean()", "mean price", DF, run=False)
    assert (verdict.passed, verdict.failed, verdict.reason) == (RUNGS[:2], "", "not run")
    assert climb("np.mean(df['prise'])", "mean price", DF, run=False).code == "import numpy as np\n\nnp.mean(df['price'])"
    monkeypatch.setattr(sandbox, "level", lambda: "medium")
    assert "only medium" in verify.may_run(False)
    assert verify.may_run(True) == ""


def test_the_users_frame_is_byte_for_byte_the_same() -> None:
    frame = FRAME.copy()
    before = [frame[name].to_numpy().tobytes() if frame[name].dtype != "str" else list(frame[name].fillna("")) for name in frame]
    for code in (
        "df.drop(columns='price', inplace=True)",
        "df.loc[:, 'quantity'] = 0",
        "df.sort_values('price', inplace=True)",
        "del df['region']",
    ):
        climb(code, "mean price", (("df", frame),))
    after = [frame[name].to_numpy().tobytes() if frame[name].dtype != "str" else list(frame[name].fillna("")) for name in frame]
    assert after == before
    assert list(frame.columns) == list(FRAME.columns)


STYLES = [
    ("mean of price", "print(df.price.mean())"),
    ("mean price by region", "out = {}\nfor name, part in df.groupby('region'):\n    out[name] = part['price'].mean()\nout"),
    ("mean price by region", "def mean_of(frame, by):\n    return frame.groupby(by)['price'].mean()\n\nmean_of(df, 'region')"),
    ("top 5 products by price", "df.sort_values('price').tail(5)"),
    ("top 5 products by price", "df.sort_values('price', ascending=True).iloc[-5:][::-1]"),
    ("top 5 products by price", "df.sort_values('price', key=lambda s: -s).head(5)"),
    ("bottom 3 by price", "df.nsmallest(3, 'price')"),
    ("the 3 highest and the 3 lowest", "df.nsmallest(3, 'price')"),
    ("top 2 products by count, bar chart", "df['product'].value_counts().head(2).sort_values().plot.barh()"),
    ("largest quantities", "sorted(df['quantity'], reverse=True)[:5]"),
    ("add a column total", "df['total'] = df['price'] * df['quantity']\ndf.head()"),
    ("fill missing prices with the median", "df['price'] = df['price'].fillna(df['price'].median())\ndf['price'].isna().sum()"),
    ("drop rows without a price", "df.dropna(subset=['price'], inplace=True)\nlen(df)"),
    ("revenue per month", "df['month'] = df['order_date'].dt.to_period('M')\ndf.groupby('month')['price'].sum()"),
    ("plot price", "df['price'].plot()"),
    ("histogram of price", "from matplotlib import pyplot as plt\nplt.hist(df.price.dropna())\nplt.savefig('out.png')\nplt.close()"),
    ("boxplot", "import seaborn as sns\nsns.boxplot(data=df, x='region', y='price')"),
    ("median imputation on price", "df['price'] = df['price'].fillna(df['price'].median())\ndf['price'].isna().sum()"),
    ("heatmap-ready table of the mean price", "df.groupby(['region', 'product'])['price'].mean().unstack()"),
    ("bars whose labels must be rotated", "import matplotlib.pyplot as plt\nplt.bar([1, 2], [3, 4])\nplt.xticks(rotation=60)"),
    ("two charts", "from matplotlib import pyplot as plt\n_, (a, b) = plt.subplots(1, 2)\na.plot([1])\nb.set_title('x')"),
    ("with numpy", "import numpy as np\nnp.nanmean(df['price'].to_numpy())"),
    ("lambda", "df.apply(lambda row: row['price'] * row['quantity'], axis=1)"),
    ("comprehension", "[x for x in df['quantity'] if x > 3][:3]"),
    ("walrus", "if (n := len(df)) > 3:\n    print(n)"),
    ("match", "match len(df):\n    case 0:\n        print('empty')\n    case n:\n        print(n)"),
    ("query", "df.query('price > 100 and region == \"North\"')"),
    ("pipe", "(\n    df.assign(total=lambda d: d['price'] * 2)\n    .groupby('region', as_index=False)\n    .agg(n=('total', 'sum'))\n)"),
    ("magic of names", "df.rename(columns={'price': 'cost'})['cost'].mean()"),
    ("class", "class Report:\n    def __init__(self, frame):\n        self.frame = frame\n\nlen(Report(df).frame)"),
    ("simulate 100 dice", "import random\nrolls = [random.randint(1, 6) for _ in range(100)]\nsum(rolls) / len(rolls)"),
    ("read a file", "import pandas as pd\ndata = pd.read_csv('sales.csv', sep=';')\ndata['price'].mean()"),
    ("read a file in a folder", "import pandas as pd\ndata = pd.read_parquet('data/sales.parquet')\ndata.shape"),
    ("future", "from __future__ import annotations\ndf.shape"),
    ("model", f"{MODEL}m.score(X, y)"),
    ("semicolon", "df['price'].hist();"),
    ("nothing shown", "result = df['price'].mean()"),
    ("change per day", "df['price'].pct_change()"),
]  # fmt: skip


@pytest.mark.parametrize("given", [True, False])
def test_right_answers_in_many_styles_fail_no_rung(given: bool) -> None:
    for question, code in STYLES:
        verdict = climb(code, question, DF) if given else climb(code, question)
        assert (verdict.failed, verdict.reason, verdict.repairs, verdict.code) == ("", "", (), code), code
        assert "checks pass" in verdict.passed


def test_reference_answers_fail_no_rung() -> None:
    """Every eighth intent, with its frames, with the schema alone, with nothing; the log tells of all of them."""
    from twofold.datasets import check, rows

    known = rows.frames()
    faults, count = [], 0
    for number, intent in enumerate(rows.intents()[::8]):
        filled = rows.fill(intent, known, random.Random(intent.id))
        frames = check.make_frames(filled.frames)
        schema = notebook.summary(frames)
        question = rows.substitute(intent.asks[0], filled.said)
        for solution in (intent.solution, *intent.alternatives):
            code = rows.substitute(solution, filled.code).strip()
            given: dict[str, Any] = ({"frames": tuple(frames.items()), "notebook": schema}, {"notebook": schema}, {})[number % 3]
            verdict = climb(code, question, **given)
            count += 1
            if verdict.failed or verdict.repairs:
                faults.append(f"{intent.id}: {verdict.failed} {verdict.reason} {verdict.repairs}")
    assert faults == []
    assert count >= 80


# names


@pytest.mark.parametrize("code", [
    "import antigravity_of_mine.sub", "from this_is_no_module import x", "import torch.nonsense.deep",
])  # fmt: skip
def test_naming_a_module_imports_nothing(code: str) -> None:
    before = set(sys.modules)
    names.faults(ast.parse(code), {})
    assert {
        name for name in set(sys.modules) - before if name.partition(".")[0] in ("antigravity_of_mine", "torch", "this_is_no_module")
    } == set()


def test_the_standard_library_is_looked_for_and_never_run() -> None:
    before = set(sys.modules)
    assert names.faults(ast.parse("import antigravity, this, turtle\nfrom xml.dom import minidom"), {}) == []
    assert not {"antigravity", "this", "turtle"} & (set(sys.modules) - before)


def test_attributes_of_the_allow_list_are_looked_up() -> None:
    found = names.faults(
        ast.parse("import numpy as np, pandas as pd\nnp.NaN\npd.DataFrame.from_nothing\nnp.random.default_rng().normal\n"), {}
    )
    assert [one.name for one in found] == ["numpy.NaN", "pandas.DataFrame.from_nothing"]
    assert names.faults(ast.parse("import sklearn\nsklearn.linear_model.Ridge\nfrom scipy import stats\nstats.norm.pdf"), {}) == []


@pytest.mark.parametrize(("code", "free"), [
    ("x = df\ny = x", {"df"}),
    ("df = df.dropna()", {"df"}),
    ("for a, b in zip(x, y):\n    print(a, b)", {"x", "y"}),
    ("def f(a, *b, c=1, **d):\n    return a, b, c, d, late\nlate = 1\nf(2)", set()),
    ("try:\n    pass\nexcept ValueError as error:\n    print(error)", set()),
    ("with open('x') as file:\n    file.read()", set()),
    ("[i for row in table for i in row]", {"table"}),
    ("from os.path import *\njoin('a')", set()),
    ("total += 1", {"total"}),
    ("print(f'{n:>{width}}')", {"n", "width"}),
])  # fmt: skip
def test_free_names(code: str, free: set[str]) -> None:
    assert set(names.free(ast.parse(code))) == free


@pytest.mark.parametrize("code", [
    "df['new'] = 1\ndf['new'].sum()", "df = df.rename(columns=str.upper)\ndf['PRICE']", "df.columns = list('abcdefgh')\ndf['a']",
    "df.insert(0, 'x', 1)\ndf['x']", "df.assign(z=1)[['z']]", "df.rename(columns={'price': 'p'}, inplace=True)\ndf['p']",
])  # fmt: skip
def test_columns_that_the_code_makes_are_not_missed(code: str) -> None:
    columns = {"df": frozenset(FRAME.columns)}
    assert names.faults(ast.parse(code), columns) == []


# guesses and inputs


def test_columns_named_in_a_question() -> None:
    assert named("a csv with age, income and city") == ["age", "income", "city"]
    assert named("plot the mean") == []
    frame = guess("a csv with age, income and city: mean income per city", code="df.groupby('city')['income'].mean()")["df"]
    assert {"age", "income", "city"} <= set(frame.columns)
    assert frame["income"].dtype.kind == "f"
    assert frame["city"].dtype != frame["income"].dtype


def test_a_schema_is_enough_for_a_twin() -> None:
    frames = guess(
        "", 'sales: 120 rows; price float64, region str, "unit price" int64, day datetime64[us], ok bool, kind category', names=()
    )
    assert list(frames) == ["sales"]
    frame = frames["sales"]
    assert list(frame.columns) == ["price", "region", "unit price", "day", "ok", "kind"]
    assert [frame[name].dtype.kind for name in ("price", "unit price", "day", "ok")] == ["f", "i", "M", "b"]
    assert str(frame["kind"].dtype) == "category"


def test_code_tells_columns_kinds_and_levels() -> None:
    code = "df['a'].str.upper(); df['b'].dt.year; df[df['c'] == 'x']; df['d'].sum()\n"
    code += "df.groupby('e').agg(n=('f', 'sum'))['n']\ndf['g'] = 1\ndf['g']"
    found, made = columns_in(code)
    assert set(found) == {"a", "b", "c", "d", "e", "f"}
    assert {"n", "g"} <= made
    assert [found[name][0] for name in "abcd"] == [{"text"}, {"date"}, {"cat"}, {"number"}]
    assert found["c"][1] == ["x"]


@pytest.mark.parametrize("code", [
    "import pandas as pd\npd.read_csv('https://example.org/x.csv')", "import pandas as pd\npd.read_csv('/home/me/x.csv')",
    "import seaborn as sns\nsns.load_dataset('tips')", "from sklearn.datasets import fetch_california_housing\nfetch_california_housing()",
    "import joblib\njoblib.load('model.pkl')", "import requests\nrequests.get('x')", "n = input('n?')",
])  # fmt: skip
def test_what_no_sandbox_has_is_no_fault(code: str) -> None:
    if "requests" in code and not names.installed("requests"):
        pytest.skip("requests is not installed")
    verdict = climb(code, "read it")
    assert (verdict.good, verdict.passed) == (True, RUNGS[:2])
    assert verdict.reason.startswith("not run")


def test_files_that_code_reads() -> None:
    read = "import pandas as pd\na = pd.read_csv('a.csv')\n"
    read += "b = pd.read_excel('x/b.xlsx', sheet_name='May')\nb.to_csv('out.csv')\npd.read_csv('out.csv')"
    assert set(inputs.files(ast.parse(read))) == {"a.csv", "x/b.xlsx"}
    assert climb(read, "read two files").good


# checks and votes


@pytest.mark.parametrize(("question", "code", "wrong"), [
    ("top 5 by price", "df.sort_values('price')[:5]", True),
    ("top 5 by price", "df.sort_values('price', ascending=False)[:5]", False),
    ("lowest 5 prices", "df.sort_values('price', ascending=False).head()", True),
    ("top 5 worst", "df.sort_values('price').head()", False),
    ("largest", "df.sort_values(['a', 'b']).head()", False),
    ("largest", "df.sort_values('a', ascending=up).head()", False),
    ("largest", "df['a'].value_counts().head(3)", False),
    ("mean", "df.sort_values('price').head()", False),
])  # fmt: skip
def test_the_direction_of_a_sort(question: str, code: str, wrong: bool) -> None:
    assert bool(checks.sorts_wrong(question, ast.parse(code))[0]) is wrong


def test_equal_results_have_equal_signatures_whatever_the_code() -> None:
    one = climb("df.groupby('region')['price'].mean()", "mean price by region", DF)
    same = climb("df.pivot_table(index='region', values='price', aggfunc='mean')['price']", "mean price by region", DF)
    other = climb("df.groupby('region')['price'].median()", "mean price by region", DF)
    assert one.signature == same.signature != other.signature
    bars = climb("df.groupby('region')['price'].mean().plot.bar()", "plot", DF)
    means = "import matplotlib.pyplot as plt\nmeans = df.groupby('region')['price'].mean()\nplt.bar(means.index, means, width=0.5)"
    assert bars.signature == climb(means, "plot", DF).signature


def test_votes_decide_among_those_that_came_furthest() -> None:
    far = Verdict("a", RUNGS, signature="1")
    verdicts = [
        Verdict("x", RUNGS[:2], "runs on a twin"),
        far,
        replace(far, code="b", signature="2"),
        replace(far, code="c", signature="2"),
    ]
    assert choose(verdicts).code == "b"
    assert choose(verdicts[:2]).code == "a"
    assert choose(verdicts[:1]).code == "x"
    failing = [Verdict("x", RUNGS[:1], "names resolve"), Verdict("y", RUNGS[:3], "checks pass"), Verdict("z", RUNGS[:2], reason="not run")]
    assert choose(failing).code in ("y", "z")


def test_a_name_that_the_question_spells_out_and_the_code_forgets_is_told() -> None:
    columns = {"df": frozenset({"qty", "region", "unit_price"})}
    assert verify.unused('df["qty"].mean()', "mean qty by region", columns) == ("region",)
    assert verify.unused('df["qty"].mean()', "df has these columns: qty, region, unit_price, day. mean of qty", columns) == ()
    assert verify.unused('df["q"].mean()', "mean of `weight_kg`", {}) == ("weight_kg",)
    assert verify.unused("x", "fix this: ```df['unit_price']```", columns) == ()
    shown = "df: 120 rows; qty int64, region str, unit_price float64"
    assert climb('df["qty"].mean()', "mean qty by region", notebook=shown, run=False).unused == ("region",)
    assert climb('df.groupby("region")["qty"].mean()', "mean qty by region", notebook=shown, run=False).unused == ()


def test_of_equally_far_answers_the_one_that_uses_what_was_named_wins() -> None:
    lost, right = verify.Verdict("a", ("parses",), unused=("region",)), verify.Verdict("b", ("parses",))
    assert verify.choose([lost, lost, right]) is right


def test_a_wrong_name_for_the_time_becomes_the_one_column_that_tells_it() -> None:
    assert verify.repair.closest("time", ["order_date", "qty"]) == "order_date"
    assert verify.repair.closest("time", ["order_date", "shipped_at"]) is None


# the rest of a notebook


def on_the_notebook(code: str, **namespace: Any) -> Verdict:
    """Climb with all that a notebook holds."""
    known = notebook.ground({"df": FRAME, **namespace})
    return climb(code, "", known.frames, notebook.told(namespace), ground=verify.Ground(dict(known.setup), known.bound))


def test_imports_plain_values_series_and_arrays_of_the_notebook_are_there() -> None:
    import pandas as pd

    prices, X = FRAME["price"].rename(None), FRAME[["quantity", "discount"]].to_numpy()
    code = "pd.Series(X[:, 0]).mul(factor).sum() + prices.mean() + prices.sub(prices.mean()).max()"
    verdict = on_the_notebook(code, pd=pd, prices=prices, X=X, factor=2)
    assert (verdict.failed, verdict.reason, verdict.passed) == ("", "", RUNGS)


def test_what_no_run_can_have_ends_the_ladder_without_a_failure() -> None:
    verdict = on_the_notebook("model.predict(df) + scale(1)", model=object(), scale=lambda x: x)
    assert (verdict.passed, verdict.failed, verdict.run) == (RUNGS[:2], "", None)
    assert "your model, scale" in verdict.reason
    assert on_the_notebook("modle.predict(df)", model=object()).failed == RUNGS[1]


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("df = df.dropna()", "df: 120 -> "),
        ("df['half'] = df['price'] / 2", "df: new column half float64"),
        ("df = df.drop(columns='price')", "df: without price"),
        ("df['quantity'] = df['quantity'].astype(float)", "df: quantity int64 -> float64"),
        ("df = df.assign(price=0.0)", "df: has other values in price"),
        ("df = df['price'].mean()", "df: becomes a float"),
        ("df['price'].mean()", ""),
    ],
)
def test_what_code_would_change_is_reported_and_the_frame_stays(code: str, change: str) -> None:
    before = FRAME.copy(deep=True)
    verdict = on_the_notebook(code)
    assert verdict.passed[-1] == RUNGS[-1]
    assert "".join(verdict.changes).startswith(change) if change else verdict.changes == ()
    assert FRAME.equals(before)


def test_a_large_frame_is_not_copied_and_its_twin_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "LARGEST", 1000)
    verdict = on_the_notebook("df['half'] = df['price'] / 2")
    assert verdict.passed == RUNGS[:4]
    assert "too large to copy" in verdict.reason
    assert verdict.changes == ("df: new column half float64",)


def test_only_the_frames_that_code_reads_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[list[str]] = []
    run = sandbox.run

    def spy(code: str, **rest: Any) -> Any:
        handed.append([name for name, _ in rest["frames"]])
        return run(code, **rest)

    monkeypatch.setattr(sandbox, "run", spy)
    assert on_the_notebook("other['price'].max()", other=FRAME, third=FRAME).passed == RUNGS
    assert handed == [["other"], ["other"]]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ('  File "<cell>", line 2, in <module>\n    df["pric"]\nKeyError: \'pric\'', "line 2, KeyError: 'pric': there is no such column"),
        ("NameError: name 'sale' is not defined", "the nearest is sales"),
        ("sklearn.exceptions.NotFittedError: This Ridge instance", "the model was used before fit"),
        ("File \"<cell>\", line 1\n  x = (\n      ^\nSyntaxError: '(' was never closed", "line 1, SyntaxError: '(' was never closed"),
        ("Strange: thing", "Strange: thing"),
        ("", ""),
    ],
)
def test_an_error_is_said_in_a_line(error: str, words: str) -> None:
    said = wrong(error, {"df": ["price", "region"]}, ["sales", "df"])
    assert words in said
    assert "\n" not in said
    assert ("nearest is price" in said) == ("pric'" in error)
