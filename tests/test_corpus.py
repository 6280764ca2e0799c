"""The corpus stage: what is kept, where it is cut, what is held out, and which slice it joins."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.train import corpus, tokenizer
from twofold.types import TwofoldError

PROSE = "The median of a sample is the value in its middle, and outliers hardly move it. Report it beside the mean.\n"


def document(number: int, kind: str = "prose") -> dict[str, str]:
    """A document of its own words."""
    return {"text": f"Document n{number}x of the sample.\n{PROSE}{'abcdefghij'[number % 10] * 5} tells it apart.\n", "kind": kind}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer folder."""
    where = tmp_path_factory.mktemp("vocabulary")
    (where / "text.txt").write_text(PROSE * 20)
    tokenizer.main(tokenizer.Config(corpus=str(where / "text.txt"), rows=str(where), out=str(where / "out"), size=420, megabytes=1))
    return str(where / "out")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """JSON Lines, compressed where the name says so."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(zstandard.ZstdCompressor().compress(data) if path.suffix == ".zst" else data)


def texts(vocabulary: str, path: Path) -> list[str]:
    """The pieces of a token file, as text; each must begin with bos and end with eos."""
    raw, special = corpus.load_tokenizer(vocabulary)
    with np.load(path) as data:
        tokens, starts = data["tokens"], data["starts"]
    assert tokens.dtype == np.uint16
    pieces = [tokens[a:b].tolist() for a, b in itertools.pairwise(starts)]
    assert all(piece[0] == special["<s>"] and piece[-1] == special["</s>"] for piece in pieces)
    return [raw.decode(piece[1:-1], skip_special_tokens=False) for piece in pieces]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab \n#@`", max_size=400) | st.text(max_size=200), st.integers(8, 64))
def test_split_keeps_all_text_in_parts_of_bounded_length(text: str, size: int) -> None:
    parts = corpus.split(text, size)
    assert "".join(parts) == text
    assert all(len(part) <= size * 3 // 2 for part in parts)
    assert all(parts) or not text


@pytest.mark.parametrize("border", ["def f(x):", "class Fit:", "@cache", "```python", "## Results"])
def test_split_cuts_before_a_border(border: str) -> None:
    line = "    some words of a line that says little\n"
    text = (line * 6 + border + "\n") * 12
    parts = corpus.split(text, 700)
    assert len(parts) > 3
    assert all(part.startswith(border) for part in parts[1:])
    assert "".join(parts) == text


def test_split_cuts_after_a_blank_line_where_there_is_no_definition() -> None:
    parts = corpus.split(("One paragraph with nothing else in it.\n" * 3 + "\n") * 20, 600)
    assert len(parts) > 2
    assert all(part.startswith("One") and part.endswith("\n\n") for part in parts)


def test_wanted_declines_what_teaches_nothing() -> None:
    assert corpus.wanted(PROSE * 2)
    assert not corpus.wanted("Too short.")
    assert not corpus.wanted("")
    assert not corpus.wanted("\n" * 500)
    assert not corpus.wanted("3.14,2.72;" * 100), "mostly numbers"
    assert not corpus.wanted("word " * 2_000), "a monstrous line"
    assert not corpus.wanted("the same line again\n" * 100), "repetition"


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.zst"])
def test_documents_go_to_their_slices_and_held_out_ones_nowhere_else(tmp_path: Path, vocabulary: str, suffix: str) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    write(source / f"07-mixed.{suffix}", [document(n, ("notebook", "docs", "code", "prose")[n % 4]) for n in range(200)])
    write(source / f"11-python.{suffix}", [document(1000 + n, "code") for n in range(40)])
    corpus.main(corpus.Config(source=str(source), tokenizer=vocabulary, out=str(out), held_out=5))
    names = {path.name.split(".")[0] for path in out.glob("*.npz")}
    slices = {"notebook", "docs", "code", "prose", "python"}
    assert names == slices | {f"valid-{name}" for name in slices}
    training = {text for path in out.glob("*.npz") if not path.name.startswith("valid-") for text in texts(vocabulary, path)}
    held = {text for path in out.glob("valid-*.npz") for text in texts(vocabulary, path)}
    assert not training & held
    assert len(training) + len(held) == 240
    assert 20 < len(held) < 90
    assert all("n10" in text for text in texts(vocabulary, out / "python.text-11-python.npz"))
    record = json.loads((out / "text" / "run.json").read_text())
    assert set(record["data"]) == {f"07-mixed.{suffix}", f"11-python.{suffix}", "tokenizer.json"}
    assert set(record["numbers"]["tokens"]) == names


def test_a_document_is_held_out_in_every_shard_that_has_it(tmp_path: Path, vocabulary: str) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / name, [document(n) for n in range(60)])
    corpus.main(corpus.Config(source=str(tmp_path), tokenizer=vocabulary, out=str(tmp_path / "out"), held_out=5))
    names = ("prose.text-a", "valid-prose.text-a", "valid-prose.text-b")
    training, held, again = (texts(vocabulary, tmp_path / "out" / f"{name}.npz") for name in names)
    assert held == again
    assert not set(training) & set(again)


def test_the_parts_of_a_long_document_stay_on_one_side(tmp_path: Path, vocabulary: str) -> None:
    rows = [{"text": "".join(f"Line {line} of book{n}x says more.\n" for line in range(700)), "kind": "prose"} for n in range(12)]
    write(tmp_path / "a.jsonl", rows)
    corpus.main(corpus.Config(source=str(tmp_path), tokenizer=vocabulary, out=str(tmp_path / "out"), held_out=3))
    sides = [texts(vocabulary, tmp_path / "out" / f"{name}.text-a.npz") for name in ("prose", "valid-prose")]
    books = [{n for n in range(12) for text in side if f"book{n}x" in text} for side in sides]
    assert not books[0] & books[1]
    assert books[0] | books[1] == set(range(12))
    assert len("".join(sides[0] + sides[1])) == sum(len(row["text"]) for row in rows)


def test_the_drop_list_leaves_documents_out(tmp_path: Path, vocabulary: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write(source / "a.jsonl", [document(n) for n in range(20)])
    write(source / "b.jsonl", [document(100 + n) for n in range(20)])
    (tmp_path / "drop.tsv").write_text("a.jsonl\t3\tsome reason\nb.jsonl\t19\n")
    config = corpus.Config(source=str(source), tokenizer=vocabulary, out=str(tmp_path / "out"), drop=str(tmp_path / "drop.tsv"), held_out=4)
    corpus.main(config)
    kept = "".join(text for path in (tmp_path / "out").glob("*.npz") for text in texts(vocabulary, path))
    missing = {n for n in (*range(20), *range(100, 120)) if f"n{n}x" not in kept}
    assert missing == {3, 119}


def test_chat_rows_go_to_chat_slices_with_a_share_held_out(tmp_path: Path, vocabulary: str) -> None:
    for name, kind in (("train.jsonl", "code"), ("train_theory.jsonl", "theory")):
        turns = [[{"role": "user", "content": f"ask {kind} {n} [INST]"}, {"role": "assistant", "content": "answer"}] for n in range(30)]
        write(tmp_path / name, [{"messages": messages} for messages in turns])
    corpus.main(corpus.Config(source="", rows=str(tmp_path), tokenizer=vocabulary, out=str(tmp_path / "out"), held_out=10, name="mid1"))
    out = tmp_path / "out"
    names = {f"{side}chat-{kind}.mid1.npz" for side in ("", "valid-") for kind in ("code", "theory")}
    assert {path.name for path in out.glob("*.npz")} == names
    code, held = texts(vocabulary, out / "chat-code.mid1.npz"), texts(vocabulary, out / "valid-chat-code.mid1.npz")
    assert (len(code), len(held)) == (27, 3)
    assert not set(code) & set(held)
    assert code[0] == "[INST]ask code 1 [INST][/INST]answer"
    raw, special = corpus.load_tokenizer(vocabulary)
    with np.load(out / "chat-code.mid1.npz") as data:
        first = data["tokens"][: data["starts"][1]].tolist()
    assert first.count(special["[INST]"]) == 1, "what a user typed is no special"
    assert raw.token_to_id("[/INST]") in first


def test_a_text_file_is_split_at_lines_of_dashes(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one\n---\ntwo -- a\n|---|\n-----\nthree\n")
    assert [found["text"] for found in corpus.documents(tmp_path / "text.txt")] == ["one", "two -- a\n|---|", "three"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tokenizer": "nowhere"}, "no tokenizer in nowhere"),
        ({"source": "nowhere"}, "no corpus shards in nowhere"),
        ({"rows": "nowhere", "source": ""}, r"no nowhere/train\.jsonl.*twofold data build"),
        ({"drop": "nowhere.tsv", "source": ""}, r"no nowhere\.tsv"),
    ],
)
def test_what_is_missing_is_told_in_one_line(tmp_path: Path, vocabulary: str, settings: dict[str, str], told: str) -> None:
    with pytest.raises(TwofoldError, match=told):
        corpus.main(corpus.Config(**({"tokenizer": vocabulary, "out": str(tmp_path)} | settings)))
