import pandas as pd
import pytest

from twofold.twin import UNSEEN, Column, column, make, of

ALL = (
    column("id", "id"),
    column("price", "float 15 900"),
    column("small", "float 0 1"),
    column("count", "int 1 9"),
    column("region", "cat North|South|West"),
    column("won", "binary 0.3"),
    column("day", "date 2024-01-01 D"),
    column("week", "datestr 2024-01-01 W"),
    column("note", "text"),
    column("shop", "ref shops"),
)


def test_same_arguments_same_frame() -> None:
    pd.testing.assert_frame_equal(make(ALL, 3), make(ALL, 3))
    assert not make(ALL, 3).equals(make(ALL, 4))


def test_every_kind_is_as_declared() -> None:
    frame = make(ALL, 0, rows=200)
    assert list(frame.columns) == [one.name for one in ALL]
    assert frame["id"].is_unique
    assert frame["price"].between(15, 900).all()
    assert (frame["price"] == frame["price"].round(2)).all()
    assert frame["price"].dtype == "float64"
    assert frame["small"].nunique() > 100
    assert frame["count"].dtype == "int64"
    assert set(frame["count"]) <= set(range(1, 10))
    assert set(frame["region"]) == {"North", "South", "West"}
    assert set(frame["won"]) == {0, 1}
    assert 0.2 < frame["won"].mean() < 0.4
    assert frame["day"].dtype.kind == "M"
    assert frame["day"].diff().dropna().eq(pd.Timedelta(days=1)).all()
    assert frame["week"].str.fullmatch(r"\d{4}-\d\d-\d\d").all()
    assert frame["note"].str.split().str.len().between(2, 6).all()
    assert not frame.isna().to_numpy().any()


def test_numbers_share_something_that_models_can_find() -> None:
    frame = make([column(f"x{i}", "float 0 100") for i in range(4)], 1, rows=500)
    assert frame.corr().abs().to_numpy().min() > 0.2


def test_a_question_mark_means_some_nulls() -> None:
    frame = make([column("x", "float? 0 1"), column("c", "cat? a|b"), column("d", "date? 2024-01-01 D")], 0, rows=1000)
    assert frame.isna().mean().between(0.03, 0.1).all()


def test_refs_point_into_the_other_frame() -> None:
    ids = [11, 12, 13, 14, 15, 16]
    shops = make([column("shop", "ref shops")], 0, ids={"shops": ids})["shop"]
    assert set(shops) <= set(ids)
    assert set(shops) != set(ids)  # some have no match, so that left and inner joins differ
    assert set(make(ALL, 0)["shop"]) <= set(make(ALL, 0)["id"])


@pytest.mark.parametrize("rows", [1, 2])
def test_very_short_frames(rows: int) -> None:
    assert len(make(ALL, 0, rows=rows)) == rows


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="unknown column kind 'money' in x"):
        column("x", "money 1 2")
    assert column("x", "cat? a b|c d") == Column("x", "cat", levels=("a b", "c d"), nulls=0.06)


def real() -> pd.DataFrame:
    frame = make(ALL, 5, rows=90)
    frame["note"] = frame["note"].astype("str")
    frame["grade"] = pd.Categorical(["low", "mid", "high"] * 30, categories=["low", "mid", "high"], ordered=True)
    frame["ok"] = [True, False, True] * 30
    frame["big"] = pd.array([1, None, 3] * 30, dtype="Int64")
    frame["when"] = pd.date_range("2020-01-01", periods=90, freq="h", tz="UTC")
    frame["took"] = pd.to_timedelta(range(90), unit="s")
    frame["cells"] = [[1, 2]] * 90
    frame.loc[3:8, ["price", "region"]] = None
    return frame


def test_the_twin_of_a_frame_has_its_columns_dtypes_and_nulls() -> None:
    frame = real()
    before = frame.copy(deep=True)
    made = of(frame)
    assert len(made) == 200
    assert list(made.columns) == list(frame.columns)
    same = made.drop(columns="grade").dtypes == frame.drop(columns="grade").dtypes
    assert same.all(), same[~same]
    assert (made.isna().any() == frame.isna().any()).all()
    assert made["price"].dropna().between(frame["price"].min(), frame["price"].max()).all()
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(of(frame), of(frame))


def test_a_twin_has_an_unseen_category_and_repeated_keys_unless_it_is_plain() -> None:
    frame = real()
    made, plain = of(frame), of(frame, traps=False)
    assert UNSEEN in set(made["region"])
    assert UNSEEN in set(made["grade"])
    assert made["grade"].cat.ordered
    assert not made["id"].is_unique
    assert set(plain["region"].dropna()) == {"North", "South", "West"}
    assert plain["id"].is_unique


def test_odd_frames_have_twins_too() -> None:
    doubled = pd.DataFrame([[1, "a"], [2, "b"]], columns=["x", "x"])
    levels = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")]))
    dated = pd.DataFrame({"x": [1.0, 2.0, 3.0]}, index=pd.date_range("2024-01-01", periods=3, name="day"))
    assert list(of(doubled).columns) == ["x", "x"]
    assert of(levels).columns.nlevels == 2
    assert of(pd.DataFrame()).empty
    assert of(pd.DataFrame({"x": []})).empty
    assert of(pd.DataFrame({"x": [None, None]}))["x"].isna().all()
    assert isinstance(of(dated).index, pd.DatetimeIndex)
    assert of(dated).index.name == "day"


def test_values_that_no_range_holds_are_drawn_too() -> None:
    frame = pd.DataFrame({"inf": [1.5, float("inf"), -float("inf"), 2.5] * 20, "hash": [2**63 - 1, -(2**63) + 1, 5, 7] * 20})
    frame["wide"] = [(-1) ** n * (2**62 + n) for n in range(80)]
    made = of(frame)
    assert (made.dtypes == frame.dtypes).all()
    assert len(made) == 200
