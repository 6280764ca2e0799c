import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from twofold.datasets import build, check, rows, stats
from twofold.types import TwofoldError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rendered rows."""
    place = tmp_path_factory.mktemp("rows")
    build.main(build.Config(out=str(place), code=40, theory=30, evaluation=False))
    for name in ("train.jsonl", "train_theory.jsonl"):
        found = rows.read(place / name)
        rows.write(place / name.replace("train", "eval"), [{**row, "slice": "known"} for row in found[-5:]])
        rows.write(place / name, found[:-5])
    return place


def test_a_shape_has_no_names_and_no_literals() -> None:
    assert stats.shape('df["price"].mean()') == stats.shape('data["age"].sum()')
    assert stats.shape('df["price"].mean()') != stats.shape('df[["price"]].mean()')
    assert stats.shape("x = 1") != stats.shape("x += 1")


def test_calls_have_their_full_names() -> None:
    code = """
import numpy as np
import scipy.stats
import matplotlib.pyplot as plt
from sklearn.svm import SVC as Machine

def own(x):
    return len(x)

plt.hist(np.log(df["a"].dropna()))
scipy.stats.norm.cdf(0)
Machine(C=1).fit(X, y)
own(df["b"].str.upper())
df.plot.bar()
"""
    assert set(stats.calls(code)) == {
        "matplotlib.pyplot.hist", "numpy.log", "scipy.stats.norm.cdf", "sklearn.svm.SVC", ".dropna", ".fit", ".str.upper", ".plot.bar",
    }  # fmt: skip


def test_distinct_grams_are_counted_per_thousand_tokens() -> None:
    assert stats.distinct_grams(["a b c d", "a b c d"]) == 125.0
    assert stats.distinct_grams(["a b c d", "e f g h"]) == 250.0
    assert stats.distinct_grams([]) == 0.0


def test_self_bleu_of_the_same_and_of_others() -> None:
    assert stats.self_bleu(["a b c d e"] * 5, 0) == 100.0
    assert stats.self_bleu(["a b c d e", "f g h i j", "k l m n o"], 0) < 5
    smoothed = (
        math.prod((3 / 4, 2 / 3, 1 / 2, stats.SMOOTH)) ** 0.25
    )  # "a b c x" against "a b c y": 3 of 4 words, 2 of 3 pairs, 1 of 2 triples
    assert stats.self_bleu(["a b c x", "a b c y"], 0) == round(100 * smoothed, 1)
    assert stats.self_bleu([], 0) == 0.0


def test_self_bleu_agrees_with_its_definition_on_rows(folder: Path) -> None:
    from collections import Counter

    several = [stats.tokens(row["messages"][1]["content"]) for row in rows.read(folder / "train_theory.jsonl")[:12]]
    scores = []
    for at, one in enumerate(several):
        others, logs = several[:at] + several[at + 1 :], []
        for size in (1, 2, 3, 4):
            mine = Counter(stats.grams(one, size))
            if mine:
                clipped = sum(min(count, max(Counter(stats.grams(other, size))[gram] for other in others)) for gram, count in mine.items())
                logs.append(math.log((clipped or stats.SMOOTH) / sum(mine.values())))
        closest = min((len(other) for other in others), key=lambda length: (abs(length - len(one)), length))
        scores.append(math.exp(sum(logs) / len(logs) + min(0, 1 - closest / len(one))))
    assert stats.self_bleu([" ".join(one) for one in several], 0) == round(100 * sum(scores) / len(scores), 1)


def test_the_language_is_that_of_the_wording() -> None:
    intents = [one for one in rows.intents() if one.asks_in.get("es")]
    spoken = stats.wordings(intents)
    for text, language in ((intents[0].asks_in["es"][0].replace("$", ""), "es"), ("plot it", "en")):
        assert stats.language_of({"source": f"intent:{intents[0].id}", "messages": [{"role": "user", "content": text}]}, spoken) == language


def test_the_card_holds_the_numbers_and_its_plots(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = stats.Config(folder=str(folder), card=str(tmp_path / "README.md"), results=str(tmp_path / "data.json"), json=True)
    stats.main(config)
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert data["files"]["train.jsonl"]["rows"] == len(rows.read(folder / "train.jsonl"))
    for one in data["files"].values():
        for name in ("kinds", "languages", "topics"):
            assert sum(one[name].values()) == one["rows"]
        assert all(0 <= one[name] <= 100 for name in ("multi_turn", "with_schema", "with_notes", "repair"))
    assert data["files"]["eval.jsonl"]["slices"] == {"known": 5}
    assert data["api"]["distinct_calls"] >= data["api"]["wanted"]
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "MIT" in text
    assert f"| rows | {data['files']['train.jsonl']['rows']} |" in text
    plots = sorted((tmp_path / "plots").iterdir())
    assert [path.name for path in plots] == ["calls.svg", "kinds.svg", "lengths.svg", "topics.svg"]
    for path in plots:
        assert f"(plots/{path.name})" in text
        assert path.stat().st_size < 100_000
        assert ET.parse(path).getroot().tag.endswith("svg")
    kept = json.loads((tmp_path / "data.json").read_text(encoding="utf-8"))
    assert kept["diversity"] == data["diversity"]
    assert set(kept["repeats_and_leaks"]) == set(check.PAIRS)
    before = {path: path.read_bytes() for path in plots}
    stats.main(config)
    assert {path: path.read_bytes() for path in plots} == before


def test_no_rows_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match="twofold data build"):
        stats.main(stats.Config(folder=str(tmp_path)))
