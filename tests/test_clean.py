import re
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.clean import Form, clean, code_of, form_of, stream

MARK = re.compile(r"\[/?INST\]|</?s>|<pad>")
PROMPT = "Why? Go on."
# What the cleaner looks at, whole and in halves, among anything else that a tokenizer may yield.
WORDS = st.sampled_from((
    "[INST]", "[/INST]", "<s>", "</s>", "<pad>", "[/IN", "ST]", "<", "/", "s>", "`", "``", "```", "\n```python\n", "\n```\n", "\n\n",
    "\n", " ", "\t", "\r\n", "\r", "Answer:", "answer", " :", "Ass", PROMPT, "Why?", "One. ", "One. Two. ", "One", "x = 1\n", "y = 2",
    "    z = 3\n", "ß", "😀",
))  # fmt: skip
PIECES = st.lists(st.one_of(WORDS, WORDS, WORDS, st.text(max_size=4)), max_size=30)


@settings(max_examples=400, deadline=None)
@given(PIECES, st.sampled_from(get_args(Form)), st.sampled_from(["", PROMPT, "one", "Answer:", "[INST] x", "ß"]), st.booleans())
def test_every_snapshot_begins_the_next_and_shows_no_chat_mark(pieces: list[str], form: Form, prompt: str, single: bool) -> None:
    raw = "".join(pieces)
    snapshots = list(stream(raw if single else pieces, form, prompt))
    assert all(later.startswith(earlier) for earlier, later in zip(["", *snapshots], snapshots, strict=False)), snapshots
    assert (snapshots[-1] if snapshots else "") == clean(raw, form, prompt, final=True)
    assert not any(MARK.search(one) for one in snapshots)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["a = 1", "b = 2", "c = 3", "", "```"]), max_size=40), st.sampled_from(get_args(Form)))
def test_lines_in_loops_are_monotone_too(lines: list[str], form: Form) -> None:
    snapshots = list(stream("```python\n" + "\n".join(lines), form))
    assert all(later.startswith(earlier) for earlier, later in zip(["", *snapshots], snapshots, strict=False)), snapshots


@pytest.mark.parametrize(
    ("form", "raw", "shown"),
    [
        ("prose", "what is p?\nIt is a probability.", "It is a probability."),
        ("prose", "What is p? Answer: It is a probability.", "It is a probability."),
        ("prose", "[INST] what is p? [/INST] It is a probability.</s> What else?", "It is a probability."),
        ("prose", "Answer: It is small.", "It is small."),
        ("prose", "<s> ASSISTANT: It is small.", "It is small."),
        ("prose", "Answers vary.", "Answers vary."),
        ("prose", "It is small.\n```python\np = 0.04\n```\nThat is all.", "It is small.\n\nThat is all."),
        ("prose", "```\nx\n```\nAfter it.", "After it."),
        ("prose", "It is small. It is rare. It is small. So reject.", "It is small. It is rare. So reject."),
        ("prose", "One\r\ntwo\rthree", "One\ntwo\nthree"),
        ("prose", "Gut 👍🏽, 漢字 é.", "Gut 👍🏽, 漢字 é."),
        ("prose", "a < b and [0] stay", "a < b and [0] stay"),
        ("prose", "", ""),
        ("code", "Here it is:\n\n```python\nx = 1\n```\nEnjoy!", "```python\nx = 1\n```"),
        ("code", "```py\nx = 1\n```\n```python\ny = 2\n```", "```python\nx = 1\n```"),
        ("code", "```python\nx = 1\n", "```python\nx = 1\n```"),
        ("code", "```python\nx = 1\n``", "```python\nx = 1\n```"),
        ("code", "```python\nx = 1</s>", "```python\nx = 1\n```"),
        ("code", "```python", ""),
        ("code", "import pandas as pd\nx = 1", "```python\nimport pandas as pd\nx = 1\n```"),
        ("code", "I cannot do that.", "I cannot do that."),
        ("code", "```python\r\nif x:\r\n    y = '😀'\r\n```", "```python\nif x:\n    y = '😀'\n```"),
        ("code", "```python\n" + "df.plot()\n" * 9, "```python\ndf.plot()\ndf.plot()\n```"),
        ("code", "```python\n" + "a = 1\nb = 2\n" * 9, "```python\na = 1\nb = 2\na = 1\nb = 2\na = 1\n```"),
        ("code", "df.plot()\n" * 9 + "df.pl(", "```python\ndf.plot()\ndf.plot()\n```"),
        ("free", "Hi!\n```sql\nselect 1\n```", "Hi!\n```sql\nselect 1\n```"),
    ],
)
def test_answers_as_models_write_them(form: Form, raw: str, shown: str) -> None:
    assert clean(raw, form, "What is p?", final=True) == shown
    assert [*stream(raw, form, "What is p?"), ""][-1 if not shown else -2] == shown


def test_a_question_of_one_word_may_begin_its_answer() -> None:
    assert clean("Overfitting is learning noise.", "prose", "overfitting", final=True) == "Overfitting is learning noise."
    assert clean("overfitting\nIt is learning noise.", "prose", "overfitting", final=True) == "It is learning noise."


def test_prose_comes_while_it_is_written() -> None:
    assert list(stream(["The ", "mean", " is.\n"], "prose", "what?")) == ["The", "The mean", "The mean is."]


def test_many_marks_do_not_exhaust_the_stack() -> None:
    assert clean("<s>" * 5000 + "Yes.", "prose", final=True) == "Yes."


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("see\n```\nx = 1\n\ny = 2\n```\nand\n```\nz\n```", "x = 1\n\ny = 2"),
        ("```python\nx = 1", "x = 1"),
        ("```sql\nselect 1\n```\nand then", ""),
        ("```python\n```", ""),
        ("no block", ""),
    ],
)
def test_code_of_reads_the_first_python_block(text: str, code: str) -> None:
    assert code_of(text) == code


def test_form_follows_the_adapter() -> None:
    assert [form_of(name) for name in ("code", "theory", "base", "other", None)] == ["code", "prose", "free", "free", "free"]
