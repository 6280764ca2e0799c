"""The table of renamed APIs: each entry that can be planted is planted, and the rest of the code stays byte for byte."""

from pathlib import Path

import pytest

from twofold.verify import names, repair

COLUMNS = {"df": frozenset({"price", "unit price", "region", "order_date", "total_sales"})}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("Price", "price"),
        ("prise", "price"),
        ("unit_price", "unit price"),
        ("UnitPrice", "unit price"),
        ("sales", "total_sales"),
        ("date", "order_date"),
        ("regoin", "region"),
        ("weight", None),
        ("", None),
        ("x", None),
    ],
)
def test_the_closest_column_or_none(wrong: str, right: str | None) -> None:
    assert repair.closest(wrong, COLUMNS["df"]) == right


def test_two_columns_as_close_are_told_apart_by_the_question_or_not_at_all() -> None:
    assert repair.closest("pric", {"price", "prico"}) is None
    assert repair.closest("pric", {"price", "prico"}, "mean of prico") == "prico"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("temperature", "temp_c"), ("parent_education", "parent_edu"), ("department", "dept"), ("distance", None), ("tem", "temp_c")],
)
def test_a_word_and_its_abbreviation_are_one_column(wrong: str, right: str | None) -> None:
    assert repair.closest(wrong, {"temp_c", "parent_edu", "dept", "dist_km", "dist_mi"}) == right


RUN_ERRORS = [
    ("for n, c in df.iteritems():  # keep\n    print(n)", "'DataFrame' object has no attribute 'iteritems'", 1, ".items()"),
    ("x = df.append({'a': 1})", "'DataFrame' object has no attribute 'append'", 1, "pd.concat([df, pd.DataFrame([{'a': 1}])])"),
    ("row = {'a': 1}\nx = df.append(row)", "'DataFrame' object has no attribute 'append'", 2, "pd.concat([df, pd.DataFrame([row])])"),
    (
        "x = df.append(other, ignore_index=True)",
        "'DataFrame' object has no attribute 'append'",
        1,
        "pd.concat([df, other], ignore_index=True)",
    ),
    ("df.fillna(method='bfill')", "NDFrame.fillna() got an unexpected keyword argument 'method'", 1, "df.bfill()"),
    ("df.fillna( method='pad' , limit=2)", "NDFrame.fillna() got an unexpected keyword argument 'method'", 1, "df.ffill( limit=2)"),
    ("df.pivot('a', 'b', 'c')", "DataFrame.pivot() takes 1 positional argument", 1, "df.pivot(index='a', columns='b', values='c')"),
    ("df.drop('a', 1)", "drop() takes from 1 to 2 positional arguments but 3 were given", 1, "df.drop('a', axis=1)"),
    ("df.corr()", "ValueError: could not convert string to float: 'x'", 1, "df.corr(numeric_only=True)"),
    ('s.resample("2M").sum()', "ValueError: Invalid frequency: 2M. Failed", 1, '"2ME"'),
    ('s.resample("Q-DEC").sum()', "ValueError: Invalid frequency: Q-DEC. Failed", 1, '"QE-DEC"'),
    ("OneHotEncoder(sparse=False)", "OneHotEncoder.__init__() got an unexpected keyword argument 'sparse'", 1, "sparse_output=False"),
    (
        "LogisticRegression(multi_class='auto', C=1)",
        "LogisticRegression.__init__() got an unexpected keyword argument 'multi_class'",
        1,
        "(C=1)",
    ),
    ("f(criterion='mse')", "The 'criterion' parameter of X must be a str. Got 'mse' instead.", 1, "criterion='squared_error'"),
    ("LogisticRegression(penalty='none')", "The 'penalty' parameter of LogisticRegression must be. Got 'none' instead.", 1, "penalty=None"),
    ("plt.style.use('seaborn')", "OSError: 'seaborn' is not a valid package style, path", 1, "'seaborn-v0_8'"),
    ("plt.boxplot(x, labels=['é'])", "boxplot() got an unexpected keyword argument 'labels'", 1, "tick_labels=['é']"),
    (
        "pd.read_csv('x', error_bad_lines=False)",
        "read_csv() got an unexpected keyword argument 'error_bad_lines'",
        1,
        'on_bad_lines="skip"',
    ),
    (
        "import seaborn as sns\nsns.scatterplot(df['a'], df['b'])",
        "scatterplot() takes from 0 to 1 positional arguments but 2 were given",
        2,
        "sns.scatterplot(x=df['a'], y=df['b'])",
    ),
    (
        "from sklearn.metrics import mean_squared_error\nprint(mean_squared_error(y, p, squared=False), mean_squared_error(y, p))",
        "got an unexpected keyword argument 'squared'",
        2,
        "import mean_squared_error, root_mean_squared_error\nprint(root_mean_squared_error(y, p), mean_squared_error(y, p))",
    ),
    (
        "from sklearn import metrics\nmetrics.mean_squared_error(y, p, squared=False)",
        "got an unexpected keyword argument 'squared'",
        2,
        "metrics.root_mean_squared_error(y, p)",
    ),
]


@pytest.mark.parametrize(("code", "error", "line", "wanted"), RUN_ERRORS)
def test_what_failed_when_it_ran_is_mended(code: str, error: str, line: int, wanted: str) -> None:
    fixed = repair.for_error(code, f"Traceback (most recent call last):\nTypeError: {error}", line, {})
    assert fixed is not None
    assert wanted in fixed.code
    assert "(" in fixed.words
    kept = [one for one in code.splitlines() if one not in fixed.code.splitlines()]
    assert len(kept) <= 2, "only lines that name the change are touched"


@pytest.mark.parametrize(("code", "wanted"), [
    ("import numpy as np\nx = np.NaN  # ü", "import numpy as np\nx = np.nan  # ü"),
    ("import numpy\nnumpy.in1d([1], [1])", "numpy.isin([1], [1])"),
    ("import numpy as np\nx.astype(np.float)", "x.astype(float)"),
    ("from numpy import NaN, pi\nNaN", "from numpy import nan, pi\nnan"),
    ("from sklearn.cross_validation import KFold", "from sklearn.model_selection import KFold"),
    ("from sklearn.externals import joblib\njoblib.dump", "import joblib\njoblib.dump"),
    (
        "from sklearn.preprocessing import Imputer, StandardScaler\nImputer()",
        "from sklearn.impute import SimpleImputer\nfrom sklearn.preprocessing import StandardScaler\nSimpleImputer()",
    ),
    ("import matplotlib.pyplot as plt\nplt.cm.get_cmap('x')", "plt.get_cmap('x')"),
    (
        "from sklearn.metrics import plot_roc_curve\nplot_roc_curve(m, X, y)",
        "from sklearn.metrics import RocCurveDisplay\nRocCurveDisplay.from_estimator(m, X, y)",
    ),
    ("from sklearn.ensemble import LogisticRegression", "from sklearn.linear_model import LogisticRegression"),
    ("import pandas as pd\npd.value_counts(x)", "pd.Series(x).value_counts()"),
])  # fmt: skip
def test_a_name_that_went_away_is_the_new_one(code: str, wanted: str) -> None:
    pytest.importorskip("sklearn")
    import ast

    fault = names.faults(ast.parse(code), {}, given=("x", "m", "X", "y"))[0]
    fixed = repair.for_fault(code, fault, {})
    assert fixed is not None
    assert wanted in fixed.code
    assert names.faults(ast.parse(fixed.code), {}, given=("x", "m", "X", "y")) == []


@pytest.mark.parametrize(("code", "name", "wanted"), [
    ("pd.DataFrame()", "pd", "import pandas as pd\n\npd.DataFrame()"),
    (
        '"""Doc."""\nfrom __future__ import annotations\nimport os\nnp.pi',
        "np",
        '"""Doc."""\nfrom __future__ import annotations\nimport numpy as np\nimport os\nnp.pi',
    ),
    ("KMeans(2)", "KMeans", "from sklearn.cluster import KMeans\n\nKMeans(2)"),
    ("# note\nCounter([1])", "Counter", "# note\nfrom collections import Counter\n\nCounter([1])"),
])  # fmt: skip
def test_a_missing_import_is_added_and_nothing_else_changes(code: str, name: str, wanted: str) -> None:
    fixed = repair.for_fault(code, names.Fault("name", name, 1, ""), {})
    assert fixed is not None
    assert fixed.code == wanted


def test_a_column_is_mended_everywhere_and_the_quotes_stay() -> None:
    code = "x = df['prise'] + 1  # 'prise' of the day\nplt.xlabel(\"prise\"); y = df.prise"
    fixed = repair.for_fault(code, names.Fault("column", "prise", 1, "", "df"), COLUMNS)
    assert fixed is not None
    assert fixed.code == "x = df['price'] + 1  # 'prise' of the day\nplt.xlabel(\"price\"); y = df.price"


def test_hostile_column_names_are_written_as_one_string() -> None:
    known = {"df": frozenset({"pri'ce\"]\nimport os #"})}
    fixed = repair.for_fault("df['price\"]import os']", names.Fault("column", 'price"]import os', 1, "", "df"), known)
    assert fixed is None or len(fixed.code.splitlines()) == 1


def test_what_fits_no_entry_is_left_alone() -> None:
    assert repair.for_error("rows.append(1)", "TypeError: unsupported operand", 1, {}) is None
    assert repair.for_error("df[", "SyntaxError", 1, {}) is None
    assert repair.for_fault("foo()", names.Fault("name", "foo", 1, ""), {}) is None


def test_leaving_an_argument_out_never_changes_the_model() -> None:
    error = "TypeError: LogisticRegression.__init__() got an unexpected keyword argument 'multi_class'"
    assert repair.for_error("LogisticRegression(multi_class='ovr')", error, 1, {}) is None


def test_every_new_name_exists_in_the_installed_versions() -> None:
    pytest.importorskip("statsmodels")
    for change in repair.TABLE:
        if change.form == "name" and change.new.partition(".")[0] in names.LIBRARIES:
            assert names.exists(change.new), change.new


def test_every_entry_names_its_source() -> None:
    assert all(any(letter.isdigit() for letter in one.source) for one in repair.TABLE)
    assert {one.old for one in repair.TABLE if one.form == "call"} == set(repair.CALLS)
    assert len({(one.form, one.old) for one in repair.TABLE}) == len(repair.TABLE)


def test_the_documentation_shows_the_table_as_it_is() -> None:
    page = (Path(__file__).parents[1] / "docs" / "verification.md").read_text(encoding="utf-8")
    shown = page.partition("repair.table -->\n")[2].partition("\n<!-- end of repairs -->")[0]
    assert shown == repair.table(), "write it anew with twofold.verify.repair.table"
