"""The rows that the router learns from: batches, word lists, and that no held-out question is learned."""

from pathlib import Path

import pytest

from twofold import classify
from twofold.train import asks, router
from twofold.types import TwofoldError

ROOT = Path(__file__).parents[1]
BATCHES = ROOT / "data/router"


def test_batches_are_read_by_split_once_each(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[[batch]]\nsource = "s"\nkind = "off"\nasks = """\nboil an egg\nBoil an egg\n\nfry it\n"""\n')
    (tmp_path / "b.toml").write_text('split = "test"\n[[batch]]\nsource = "t"\nkind = "code"\nlanguage = "de"\nasks = "zähl mal"\n')
    assert [(row.text, row.topic, row.intent) for row in asks.batch_rows(tmp_path, "train")] == [
        ("boil an egg", False, None),
        ("fry it", False, None),
    ]
    (held,) = asks.batch_rows(tmp_path, "test")
    assert (held.topic, held.intent, held.language, held.source) == (True, "code", "de", "t")
    assert asks.batch_rows(tmp_path / "nowhere", "train") == []


def test_an_unknown_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[[batch]]\nsource = "s"\nkind = "maybe"\nasks = "x"\n')
    with pytest.raises(TwofoldError, match="maybe"):
        asks.batch_rows(tmp_path, "train")


def test_unlike_drops_copies_of_held_out_rows() -> None:
    held = [asks.Row("please draw me the sales by month"), asks.Row("what is recall")]
    rows = [asks.Row(text) for text in ("Please draw me the sales, by month!", "what is recall", "what is precision", "draw sales")]
    assert [row.text for row in asks.unlike(rows, held)] == ["what is precision", "draw sales"]


def test_no_training_row_copies_a_held_out_one() -> None:
    held = [*asks.read_rows(ROOT / "data/router.jsonl", "test"), *asks.batch_rows(BATCHES, "test")]
    written = asks.batch_rows(BATCHES, "train")
    assert len(written) - len(asks.unlike(written, held)) <= 1  # the trainer drops it
    assert not {row.source for row in written} & {row.source for row in held}


def test_batches_cover_what_they_should() -> None:
    train, held = asks.batch_rows(BATCHES, "train"), asks.batch_rows(BATCHES, "test")
    off = [row for row in train if not row.topic and row.language == "en"]
    assert len(off) >= 1500
    assert len({row.source for row in off}) >= 60
    for language in classify.LANGUAGES[1:]:
        assert sum(row.language == language for row in train) >= 59
    assert [sum(row.intent == kind for row in held) for kind in ("code", "theory", None)] == [120, 80, 100]


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("snore", ["snores", "snored", "snoring"]),
        ("puppy", ["puppies", "puppied", "puppying"]),
        ("brush", ["brushes", "brushed", "brushing"]),
        ("boiling", []),
        ("car wash", []),
        ("cat", []),
    ],
)
def test_inflections(word: str, forms: list[str]) -> None:
    assert asks.inflections(word) == forms


def test_everyday_words_are_no_terms() -> None:
    config = router.Config()
    everyday, elsewhere = asks.everyday_words(ROOT / config.lexicon, ROOT / config.words)
    assert elsewhere <= set(everyday["en"])
    assert {"melt", "std"}.isdisjoint(everyday["en"])
    assert set(everyday) == set(classify.LANGUAGES)
    assert len(everyday["en"]) > 3000
