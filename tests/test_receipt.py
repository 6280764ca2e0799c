"""A receipt holds all that a model was told, and making the answer again shows whether anything changed."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from twofold import open_engine, receipt, stream
from twofold.engines.scripted import Scripted
from twofold.receipt import Recorder, as_json, from_json, replay
from twofold.types import Message, Request, Sampling, TwofoldError

ASKED = Request("plot a histogram of the price column", mode="code")
CODE = "```python\ndf['price'].hist()\n```"


def varied(messages: Sequence[Message], adapter: str, sampling: Sampling) -> str:
    """An answer that depends on all that a call holds."""
    return f"```python\n{adapter} = {len(messages)} + {sampling.seed or 0}\nbroken(\n```"


def made(engine: Scripted, request: Request = ASKED) -> receipt.Receipt:
    recorder = Recorder(engine)
    list(stream(request, recorder, Sampling(seed=3)))
    return recorder.receipt(request.text)


def test_every_call_is_kept_with_its_prompt() -> None:
    one = made(Scripted(varied), replace(ASKED, verify=True, consent=True, n=2))
    assert [len(call.answers) for call in one.calls] == [1, 2, 1]
    assert [call.sampling.seed for call in one.calls] == [3, 3, 3]
    assert one.prompts[0].endswith(ASKED.text)
    assert "That fails:" in one.prompts[-1]
    assert one.machine["torch"]


def test_the_same_engine_says_the_same() -> None:
    one = made(Scripted(varied), replace(ASKED, verify=True, consent=True, n=2))
    again = replay(one, Scripted(varied))
    assert (again.same, again.changed) == (True, ())
    assert again.tokens > 5


def test_what_changed_is_said() -> None:
    one = replace(made(Scripted(varied)), weights={"code": {"code/model": "a" * 64}}, machine={"torch": "0.1"})
    again = replay(one, Scripted(lambda *_: "```python\ncoda\n```", name="other"))
    assert not again.same
    said = [words.partition(":")[0] for words in again.changed]
    assert said == ["model", "weights of code", "torch", "answer 1 differs from character 14"]


def test_a_stopped_answer_is_made_again_as_far_as_it_came() -> None:
    recorder = Recorder(Scripted(lambda *_: (f"word{i} " for i in range(1000)), adapters=("theory",)))
    with closing(recorder.generate([], "theory", Sampling())) as pieces:
        assert [next(pieces) for _ in range(3)] == ["word0 ", "word1 ", "word2 "]
    one = recorder.receipt("x")
    assert (one.calls[0].whole, one.calls[0].pieces) == (False, 3)
    assert replay(one, recorder) == receipt.Replay(True, 3)


def test_a_receipt_is_written_and_read_back() -> None:
    one = made(Scripted(varied))
    text = json.dumps(as_json(one))
    assert from_json(json.loads(text)) == one
    with pytest.raises(TwofoldError, match="changed after"):
        from_json(json.loads(text.replace("histogram", "boxplot")))
    for wrong in ({}, [], {"calls": 3}, {**as_json(one), "calls": [{}]}):
        with pytest.raises(TwofoldError, match="no receipt"):
            from_json(wrong)


@pytest.mark.slow
def test_the_embedded_model_says_the_same_tokens_again_and_names_its_weights(tmp_path: Path) -> None:
    engine = open_engine("embedded")
    recorder = Recorder(engine)
    list(stream(ASKED, recorder, Sampling(max_new_tokens=24, temperature=0.8, seed=7)))
    one = recorder.receipt(ASKED.text)
    assert {name.partition("/")[0] for name in one.weights["code"]} == {"base", "code"}
    sums = (Path(receipt.__file__).with_name("weights") / "SHA256SUMS").read_text()
    assert one.weights["code"]["base/model.safetensors"] in sums
    (tmp_path / "receipt.json").write_text(json.dumps(as_json(one)))
    again = replay(from_json(json.loads((tmp_path / "receipt.json").read_text())), engine)
    assert again == receipt.Replay(True, one.calls[0].pieces)
