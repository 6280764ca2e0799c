"""An error is shown to the model without what it quotes of the data."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.redact import redact

KNOWN = 'df["pay"].astype(float)\ndf: 3 rows; pay str'


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("ValueError: could not convert string to float: 'Ada Lovelace-99.5'", "ValueError: could not convert string to float: '…'"),
        ("TypeError: Could not convert string 'AdaGrace' to numeric", "TypeError: Could not convert string '…' to numeric"),
        ("KeyError: 99173.25", "KeyError: …"),
        ("KeyError: 'pay'", "KeyError: 'pay'"),
        ("line 3: df has no column 'pays'", "line 3: df has no column '…'"),
        ("ValueError: 漢字 naïve ÅngstrÖm 0x1f CanaryError", "ValueError: …"),
        ("NameError: name 'pd' is not defined", "NameError: name '…' is not defined"),
    ],
)
def test_only_known_words_and_those_of_messages_stay(error: str, shown: str) -> None:
    assert redact(error, KNOWN) == shown


def test_the_place_and_the_code_stay() -> None:
    text = 'Traceback (most recent call last):\n  File "<cell>", line 12, in <module>\n    df["pay"].astype(float)\nTypeError: bad'
    assert redact(text, KNOWN).splitlines()[:3] == text.splitlines()[:3]


@given(st.text(alphabet=st.characters(categories=("L", "N")), min_size=1, max_size=12))
def test_no_cell_gets_through(cell: str) -> None:
    secret = f"Zq{cell}7"
    assert secret.casefold() not in redact(f"ValueError: could not parse {secret!r}, {secret} or {secret}: [{secret}]", KNOWN).casefold()


def test_real_messages_of_pandas_lose_their_cells() -> None:
    frame = pd.DataFrame({"pay": ["Zanzibar7", "Quux9"]})
    pay = frame["pay"]
    for act in (lambda: pay.astype(float), lambda: pd.to_datetime(pay), lambda: pay.mean(), lambda: frame.loc["Quux9"]):
        with pytest.raises(Exception) as caught:  # noqa: PT011  any kind: only its words matter here
            act()
        shown = redact(f"{type(caught.value).__name__}: {caught.value}", KNOWN)
        assert "Zanzibar" not in shown
        assert "Quux" not in shown
