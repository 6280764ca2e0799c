"""verify.convert: strings that hold dates or numbers are read as such where code failed on them, and left alone elsewhere."""

import pandas as pd
import pytest

from twofold import verify
from twofold.verify.convert import converted

FRAME = pd.DataFrame(
    {
        "hired": ["28/04/2014", "02/05/2023", None, "11/12/2020"],
        "seen at": ["2024-05-06 00:00:00", "2024-05-06 01:00:00", "2024-05-07 02:00:00", "2024-05-07 03:00:00"],
        "area": ["78 m2", "50 m2", "61.5 m2", None],
        "price": ["$1,200", "$950", "$2,310.50", "$80"],
        "miete": ["1.200,50", "80,00", "950,25", "700,10"],
        "class": ["10A", "10B", "11A", "11B"],
        "floor": ["3/5", "1/2", "4/4", "0/5"],
        "name": ["Ann", "Bob", "Cem", "Dua"],
        "n": [1, 2, 3, 4],
    }
)


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ('df["hired"].dt.year.max()', 2023),
        ('df.set_index("seen at")["n"].resample("D").sum().tolist()', [3, 7]),
        ('df["area"].mean()', (78 + 50 + 61.5) / 3),
        ('df["price"].mean()', (1200 + 950 + 2310.5 + 80) / 4),
        ('df["miete"].mean()', (1200.5 + 80 + 950.25 + 700.1) / 4),
    ],
)
def test_code_that_failed_on_strings_runs_behind_a_line_that_reads_them(code: str, result: object) -> None:
    verdict = verify.climb(code, "show it", (("df", FRAME),), run=True)
    assert verdict.good
    assert "is read as" in verdict.repairs[0]
    space = {"df": FRAME.copy(), "pd": pd}
    *lines, last = verdict.code.splitlines()
    exec("\n".join(lines), space)  # noqa: S102  the repaired code must run
    assert eval(last, space) == (pytest.approx(result) if isinstance(result, float) else result)  # noqa: S307


@pytest.mark.parametrize("column", ["class", "floor", "name", "n"])
def test_other_strings_are_no_dates_and_no_numbers(column: str) -> None:
    error = "ValueError: could not convert string to float: '10A' '3/5' 'Ann'"
    assert converted(f'df["{column}"].mean()', error, [("df", FRAME)]) is None


def test_what_failed_for_another_reason_is_left_alone() -> None:
    assert converted('df["hired"].dt.yeer', "KeyError: 'hired'", [("df", FRAME)]) is None
    assert converted('other["hired"].dt.year', "AttributeError: Can only use .dt accessor", [("df", FRAME)]) is None
    assert converted("df[", "SyntaxError: bad", [("df", FRAME)]) is None


def test_imports_stay_first() -> None:
    code = 'import numpy as np\n\nnp.log(df["area"])'
    fixed = converted(code, "TypeError: loop of ufunc does not support dtype", [("df", FRAME)])
    assert fixed is not None
    assert [line.split()[0] for line in fixed.code.splitlines() if line] == ["import", "df", 'np.log(df["area"])']
