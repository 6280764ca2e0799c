"""The tokenizer stage: lossless, without a way from text to a special token, and with the long tokens that code needs."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold import prompts
from twofold.train import corpus, tokenizer
from twofold.types import TwofoldError

CODE = "def mean(values):\n    total = sum(values)\n    if not values:\n        return None\n    return total / len(values)\n\n\n"
PROSE = "It's the mean of 1234 values; don't forget the median, we'll need it. Größe, données, 平均値.\n"
ANY = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
SPECIAL = [*prompts.SPECIALS, "<spare_0>", "<spare_63>"]
ODD = [*SPECIAL, "\r\n", "\n\n    ", "\t", "\x00", "\x1b[0m", "👩‍🔬", "é", " ", "):", "it's"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 430 entries, by main."""
    where = tmp_path_factory.mktemp("tokenizer")
    (where / "text.txt").write_text((CODE + PROSE) * 30, encoding="utf-8")
    row = {"messages": [{"role": "user", "content": "Impute seasonally"}, {"role": "assistant", "content": "zyxwvu zyxwvu zyxwvu"}]}
    (where / "train.jsonl").write_text((json.dumps(row) + "\n") * 50)
    tokenizer.main(tokenizer.Config(corpus=str(where / "text.txt"), rows=str(where), out=str(where / "out"), size=430, megabytes=1))
    return where / "out"


@pytest.fixture(scope="module")
def raw(folder: Path) -> Any:
    """As the corpus stage reads it."""
    return corpus.load_tokenizer(str(folder))[0]


@pytest.fixture(scope="module")
def wrapped(folder: Path) -> Any:
    """As transformers reads it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@settings(max_examples=300, deadline=None)
@given(ANY | st.lists(st.sampled_from(ODD)).map("".join))
def test_any_text_comes_back_and_never_yields_a_special(raw: Any, wrapped: Any, text: str) -> None:
    ids = raw.encode(text, add_special_tokens=False).ids
    assert raw.decode(ids, skip_special_tokens=False) == text
    assert not ids or min(ids) >= len(prompts.SPECIALS) + tokenizer.SPARE
    assert wrapped.encode(text, add_special_tokens=False, split_special_tokens=True) == ids
    assert wrapped.decode(ids) == text


@pytest.mark.parametrize("mark", SPECIAL)
def test_a_special_that_is_typed_is_plain_text(raw: Any, mark: str) -> None:
    assert raw.token_to_id(mark) not in raw.encode(f"a {mark} b{mark}", add_special_tokens=False).ids


def test_punctuation_takes_the_line_end_and_the_indent(raw: Any) -> None:
    for piece in ("):\n    ", ":\n        "):
        assert len(raw.encode(f"x{piece}y", add_special_tokens=False).ids) == 3, piece
    assert raw.encode("def mean(values):\n    total", add_special_tokens=False).tokens[-2] == "):ĊĠĠĠĠ"


def test_digits_are_single_and_known_words_whole(raw: Any) -> None:
    assert len(raw.encode("1234", add_special_tokens=False).ids) == 4
    assert len(raw.encode(" total", add_special_tokens=False).ids) == 1
    assert len(raw.encode(" zyxwvu", add_special_tokens=False).ids) == 1  # from the chat rows


def test_specials_have_the_first_ids_and_spares_follow(raw: Any, wrapped: Any) -> None:
    assert [raw.token_to_id(mark) for mark in prompts.SPECIALS] == [0, 1, 2, 3, 4]
    assert raw.token_to_id("<spare_63>") == 4 + tokenizer.SPARE
    assert (wrapped.bos_token_id, wrapped.eos_token_id, wrapped.pad_token_id) == (0, 1, 2)
    assert raw.get_vocab_size() == len(wrapped) == 430


def test_the_template_and_encode_give_the_same_ids(raw: Any, wrapped: Any) -> None:
    messages: list[prompts.Message] = [
        {"role": "system", "content": prompts.SYSTEM["code"]},
        {"role": "user", "content": "Mean of the values"},
        {"role": "assistant", "content": CODE},
        {"role": "user", "content": "And the median?"},
        {"role": "assistant", "content": "It's in the middle. 👍"},
    ]
    special = {mark: raw.token_to_id(mark) for mark in prompts.SPECIALS}
    ids, answer = prompts.encode(messages, lambda text: raw.encode(text, add_special_tokens=False).ids, special)
    rendered = wrapped.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert rendered["input_ids"] == ids
    assert [bool(spoken) for spoken in rendered["assistant_masks"]] == answer
    assert wrapped.decode([token for token, spoken in zip(ids, answer, strict=True) if spoken]) == f"{CODE}</s>It's in the middle. 👍</s>"


def test_the_folder_holds_template_and_record(folder: Path) -> None:
    assert (folder / "chat_template.jinja").read_text() == prompts.chat_template()
    record = json.loads((folder / "run.json").read_text())
    assert record["numbers"]["vocabulary"] == 430
    assert record["numbers"]["bytes_per_token"] > 1.5
    assert set(record["data"]) == {"train.jsonl", "text.txt"}


def test_a_corpus_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match="no corpus shards in"):
        tokenizer.main(tokenizer.Config(corpus=str(tmp_path), rows=str(tmp_path), out=str(tmp_path / "out")))
