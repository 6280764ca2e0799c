"""The adapter stage on a toy base: what is learnt from, that it is learnt, and that nothing is lost on the way to the engine."""

import dataclasses
import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import TEXTS
from twofold import prompts
from twofold.engines.local import open_local
from twofold.train import pretrain, qlora, quantize, tokenizer
from twofold.types import Message, Sampling, TwofoldError

pytestmark = pytest.mark.usefixtures("one_thread")
ALWAYS = "The median of it."
ASKS = ("mean of price", "How do I compute it?", "group by region", "cross-validation?", "plot sales", "what is an outlier")


def chat(question: str, answer: str = ALWAYS) -> list[Message]:
    return [*prompts.compose("code", question), {"role": "assistant", "content": answer}]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/ as the stages before leave it, of random weights, and rows.jsonl that always answer the same."""
    where = tmp_path_factory.mktemp("toy")
    (where / "text.txt").write_text("\n".join([*TEXTS, ALWAYS]) * 5, encoding="utf-8")
    words = tokenizer.Config(corpus=str(where / "text.txt"), rows=str(where), out=str(where / "tokenizer"), size=420, megabytes=1)
    tokenizer.main(words)
    shape = pretrain.Config(
        tokenizer=words.out, layers=2, hidden=64, mlp=128, heads=2, kv_heads=1, head_dim=64, context=256, late_context=256
    )
    torch.manual_seed(0)
    vocabulary = len(json.loads((where / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"])
    named = pretrain.Model(shape, vocabulary).named_parameters()
    state = {name: torch.randn_like(weight) * 0.2 if weight.ndim == 2 else weight.detach() for name, weight in named}
    pretrain.export(state, shape, where / "pretrain" / "model", vocabulary)
    torch.save(state, where / "pretrain" / "masters.pt")
    quantize.main(quantize.Config(model=str(where / "pretrain"), out=str(where / "base")))
    rng = random.Random(0)
    write(where / "rows.jsonl", [chat(f"{rng.choice(ASKS)} {rng.randrange(1000)}") for _ in range(120)])
    return where


def config(toy: Path, out: Path, **changes: Any) -> qlora.Config:
    plain = qlora.Config(
        base=str(toy / "base"), data=str(toy / "rows.jsonl"), out=str(out), steps=30, batch=1024, micro=1024, length=256, lr=1e-2, rank=8
    )
    return dataclasses.replace(plain, **changes)


@pytest.fixture(scope="module")
def trained(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter of an uninterrupted run."""
    out = tmp_path_factory.mktemp("trained") / "median"
    qlora.main(config(toy, out, adapter="median"))
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = load_file(folder / "adapter_model.safetensors")
    return found


def same(one: Path, two: Path) -> bool:
    a, b = weights(one), weights(two)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def numbers(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())["numbers"]
    return found


# rows


def test_only_the_answer_is_learnt_from(toy: Path, tmp_path: Path) -> None:
    base, words = qlora.load_base(str(toy / "base"))
    follow: list[Message] = [{"role": "user", "content": "And </s> [/INST] the mode?"}, {"role": "assistant", "content": "Most frequent."}]
    path = write(tmp_path / "rows.jsonl", [chat("What is it?"), chat("What is it?") + follow, chat("long " * 300)])
    found, long = qlora.examples(path, words, 200)
    assert (len(found), long) == (2, 1)
    spoken = [[token for token in labels if token != qlora.IGNORED] for _, labels in found]
    assert [words.decode(ids) for ids in spoken] == [f"{ALWAYS}</s>", f"{ALWAYS}</s>Most frequent.</s>"]
    for ids, labels in found:
        assert len(ids) == len(labels)
        assert all(label in (qlora.IGNORED, token) for token, label in zip(ids, labels, strict=True))
    assert found[1][0].count(words.eos_token_id) == 2
    assert not any(weight.requires_grad for weight in base.parameters())


def test_the_base_computes_with_its_nf4_values(toy: Path) -> None:
    base, _ = qlora.load_base(str(toy / "base"))
    expected = quantize.dequantized(toy / "base" / "model.safetensors")
    state = base.state_dict()
    assert all(torch.equal(state[name], values.float()) for name, values in expected.items())
    assert base.lm_head.weight is base.model.embed_tokens.weight


# training


def test_the_held_loss_falls_and_the_record_tells(trained: Path) -> None:
    found = numbers(trained)
    assert found["valid_loss"] < 0.3 * found["valid_loss_before"]
    assert (found["rows"], found["too_long"], found["steps"], found["of"]) == (117, 0, 30, 30)
    record = json.loads((trained / "run.json").read_text())
    assert set(record["data"]) == {"rows.jsonl"}
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == sorted({0, 10, 20, *range(2, 30, 3)})
    assert [line["step"] for line in log if "valid_loss" in line] == list(range(2, 30, 3))
    assert log[-1]["loss"] < log[0]["loss"]
    assert not (trained / "snapshot.pt").exists()


def test_beside_its_base_the_engine_says_what_was_taught(trained: Path, toy: Path) -> None:
    ask, greedy = prompts.compose("code", "mean of price 7"), Sampling(max_new_tokens=24)
    engine = open_local(str(toy / "base"), adapters={"median": trained})
    assert "".join(engine.generate(ask, "median", greedy)) == ALWAYS
    assert "".join(engine.generate(ask, "base", greedy)) != ALWAYS


def test_the_adapter_has_all_linears_rank_and_scaling_and_names_no_path(trained: Path) -> None:
    told = json.loads((trained / "adapter_config.json").read_text())
    assert told["use_rslora"]
    assert told["r"] == told["lora_alpha"] == 8
    assert told["base_model_name_or_path"] == "base"
    found = weights(trained)
    assert len(found) == 2 * 2 * 7
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    assert all(name.split(".")[-3] in qlora.LINEARS for name in found)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """interrupt(step) lets Ctrl-C come within that step, interrupt(step, error) that error, interrupt(None) nothing."""
    clip = torch.nn.utils.clip_grad_norm_

    def at(step: int | None, error: BaseException | type[BaseException] = KeyboardInterrupt) -> None:
        calls = 0

        def interrupted(*given: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls - 1 == step:
                raise error
            return clip(*given)

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", interrupted)

    return at


def test_ctrl_c_keeps_the_adapter_and_the_same_command_goes_on_exactly(
    trained: Path, toy: Path, tmp_path: Path, interrupt: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "median"
    interrupt(13)
    qlora.main(config(toy, out, adapter="median"))
    assert "stopped at step 13 of 30" in capsys.readouterr().err
    assert (numbers(out)["steps"], numbers(out)["of"]) == (13, 30)
    assert open_local(str(toy / "base"), adapters={"median": out}).adapters == {"base", "median"}
    assert not same(out, trained)
    interrupt(None)
    # where it is written is one of the settings, so it goes on only for the same place
    qlora.main(config(toy, out, adapter="median"))
    assert "goes on from step 13 of 30" in capsys.readouterr().err
    assert same(out, trained)
    assert numbers(out)["valid_loss"] == numbers(trained)["valid_loss"]
    assert not (out / "snapshot.pt").exists()


def test_a_run_that_was_killed_goes_on_from_its_snapshot_to_the_same_losses(
    trained: Path, toy: Path, tmp_path: Path, interrupt: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "median"
    given = config(toy, out, adapter="median", snapshot_minutes=1e-9)  # after every step
    interrupt(13, RuntimeError("killed"))
    with pytest.raises(RuntimeError, match="killed"):
        qlora.main(given)
    assert not (out / "adapter_model.safetensors").exists()
    interrupt(None)
    qlora.main(given)
    assert "goes on from step 13 of 30" in capsys.readouterr().err
    assert (out / "log.jsonl").read_text() == (trained / "log.jsonl").read_text()
    assert same(out, trained)


def test_training_stops_when_it_gets_no_better_and_keeps_the_best(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asks = [f"{ASKS[number % len(ASKS)]} {number}" for number in range(120)]
    held = "Cross-validation?"  # one row in fifty answers so, which the others unlearn
    data = write(tmp_path / "rows.jsonl", [chat(ask, ALWAYS if number % 50 else held) for number, ask in enumerate(asks)])
    qlora.main(config(toy, tmp_path / "a", data=str(data), lr=0.1, patience=2))
    assert "no better for 2 evaluations" in capsys.readouterr().err
    log = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    losses = [line["valid_loss"] for line in log if "valid_loss" in line]
    assert len(losses) < 10
    assert losses.index(min(losses)) == len(losses) - 3
    assert numbers(tmp_path / "a")["valid_loss"] == min(losses)


def test_the_estimate_is_tokens_over_speed_and_hours_times_price() -> None:
    told = qlora.Estimate(tokens=3_600_000, per_second=1000.0, gpus=4, price=2.5)
    assert told.hours == 1.0
    assert str(told) == "3.60 M tokens at 1,000 tokens/s: about 60 min, about $10.00 at $2.50 a GPU hour"
    assert str(dataclasses.replace(told, tokens=36_000_000, gpus=0)) == "36.00 M tokens at 1,000 tokens/s: about 10.0 h"


def test_other_settings_begin_anew(toy: Path, tmp_path: Path, interrupt: Any, capsys: pytest.CaptureFixture[str]) -> None:
    interrupt(2)
    qlora.main(config(toy, tmp_path / "a", steps=4))
    interrupt(None)
    capsys.readouterr()
    qlora.main(config(toy, tmp_path / "a", steps=5))
    assert "goes on" not in capsys.readouterr().err
    assert numbers(tmp_path / "a")["steps"] == 5


def test_a_batch_smaller_than_micro_is_one_pass_and_passes_add_up(toy: Path, tmp_path: Path) -> None:
    qlora.main(config(toy, tmp_path / "a", steps=2, batch=1, micro=512))
    qlora.main(config(toy, tmp_path / "b", steps=2, batch=2048, micro=512))
    assert numbers(tmp_path / "b")["tokens"] > 3 * numbers(tmp_path / "a")["tokens"]


def test_epochs_set_the_number_of_steps(toy: Path, tmp_path: Path) -> None:
    qlora.main(config(toy, tmp_path / "a", steps=0, epochs=0.5, batch=4096))
    rows, _ = qlora.examples(toy / "rows.jsonl", qlora.load_base(str(toy / "base"))[1], 256)
    tokens = sum(len(ids) for number, (ids, _) in enumerate(rows) if number % 50)
    assert numbers(tmp_path / "a")["steps"] == math.ceil(tokens / 2 / 4096)


def test_only_the_estimate_and_the_result_are_printed_where_nobody_watches(
    toy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    qlora.main(config(toy, tmp_path / "a", steps=2))
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 1
    assert re.fullmatch(r"code: 0\.00 M tokens at [\d,]+ tokens/s: about 0 min \(float32 base, 0 of 2 layers computed twice\)\n", err)


# what can go wrong


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"adapter": "sql", "data": ""}, "an adapter of your own needs rows: --data"),
        ({"data": "nowhere.jsonl"}, r"no rows in nowhere\.jsonl"),
        ({"base": "nowhere"}, "'nowhere' is neither a folder nor a hub id"),
        ({"base": "tests/base"}, "no base model in tests/base: run `twofold train quantize`"),
    ],
)
def test_what_is_missing_is_told_in_one_line(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    with pytest.raises(TwofoldError, match=told) as caught:
        qlora.main(config(toy, tmp_path / "out", **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("not json", "line 2 of .* is no chat row"),
        ('{"text": "hello"}', "line 2 of .* is no chat row"),
        ('{"messages": [{"role": "assistant", "content": "hello"}]}', "line 2 of .* roles must alternate"),
        ('{"messages": [{"role": "user", "content": "hello"}]}', "line 2 of .* has no answer"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(toy: Path, tmp_path: Path, line: str, told: str) -> None:
    path = write(tmp_path / "rows.jsonl", [chat("fine")])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(TwofoldError, match=told):
        qlora.main(config(toy, tmp_path / "out", data=str(path)))


def test_rows_that_are_all_too_long_are_told(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match="0 rows of at most 3 tokens, 120 longer ones"):
        qlora.main(config(toy, tmp_path / "out", length=3))
