"""verify.levels: strings that a column never holds are seen beside the data, and mended where one level is meant."""

import pandas as pd
import pytest

from twofold import verify
from twofold.redact import redact
from twofold.verify.levels import closest

FRAME = pd.DataFrame({"sex": ["F", "M", "F"], "Region": ["North", "South", "North"], "paid": ["Yes", "No", None], "n": [1, 2, 3]})


def climbed(code: str, question: str = "") -> verify.Verdict:
    return verify.climb(code, question, (("df", FRAME),), run=True)


@pytest.mark.parametrize(
    ("code", "mended"),
    [
        ('df[df["sex"] == "female"]', 'df[df["sex"] == "F"]'),
        ("df[df.Region != 'north']", "df[df.Region != 'North']"),
        ('df[df["paid"].isin(["yes", "no"])]', 'df[df["paid"].isin(["Yes", "No"])]'),
    ],
)
def test_a_string_that_means_a_level_becomes_it(code: str, mended: str) -> None:
    verdict = climbed(code)
    assert verdict.good
    assert verdict.code == mended
    assert len(verdict.repairs) == 1


def test_a_made_up_level_fails_the_checks_and_the_model_is_not_told_the_others() -> None:
    verdict = climbed('df[df["Region"] == "Atlantis"]', "rows of the region with the best n")
    assert verdict.failed == verify.CHECKS
    assert "North" in verdict.reason
    assert "North" not in redact(verdict.error, verdict.code)


@pytest.mark.parametrize(
    ("code", "question"),
    [
        ('df[df["Region"] == "Mars"]', "all orders from Mars"),  # the user's own word
        ('df["sex"] = df["sex"].str.lower()\ndf[df["sex"] == "f"]', ""),  # what the code itself wrote
        ('df[df["sex"].str.lower() == "f"]', ""),
        ('df[df["sex"] == "M"]', ""),
        ('other = df.assign(sex="x")\nother[other["sex"] == "x"]', ""),
    ],
)
def test_everything_else_is_left_alone(code: str, question: str) -> None:
    verdict = climbed(code, question)
    assert verdict.good
    assert verdict.repairs == ()


@pytest.mark.parametrize(
    ("literal", "levels", "level"),
    [("women", ("F", "M"), "F"), ("nor", ("North", "South"), "North"), ("s", ("South", "Southwest"), ""), ("true", ("no", "yes"), "yes")],
)
def test_the_level_that_is_meant_or_none(literal: str, levels: tuple[str, ...], level: str) -> None:
    assert closest(literal, levels) == level
