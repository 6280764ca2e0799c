"""Pretraining at toy size: the same network as transformers', its optimiser, its data, and runs that can be cut and continued."""

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from twofold.engines.libraries import quiet
from twofold.train import corpus, pretrain, tokenizer
from twofold.train.quantize import round_nf4
from twofold.types import TwofoldError

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = pretrain.Config(
    layers=2, hidden=64, mlp=128, heads=2, kv_heads=1, head_dim=32, batch_tokens=512, micro_tokens=256, context=32, late_context=64,
    steps=20, warmup=4, compile=False,
)  # fmt: skip
REFERENCE = (8.483, 3.1092, 1.6892)
"""Training loss of the toy run after steps 1, 10 and 20."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> pretrain.Config:
    """A tokenizer and a corpus of sums in words, made by their stages."""
    where = tmp_path_factory.mktemp("toy")
    teens = [f"{start}teen" for start in ("thir", "four", "fif", "six", "seven", "eigh")]
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", *teens]
    lines = [f"The sum of {words[a]} and {words[b]} is {words[a + b]}, said row {a}{b} of the table." for a in range(10) for b in range(10)]
    texts = ["\n".join(lines[(start + 7 * step) % 100] for step in range(5)) + "\n" for start in range(100)]
    (where / "text.txt").write_text("\n---\n".join(texts))
    tokenizer.main(tokenizer.Config(corpus=str(where / "text.txt"), rows=str(where), out=str(where / "tokenizer"), size=400, megabytes=1))
    corpus.main(corpus.Config(source=str(where / "text.txt"), tokenizer=str(where / "tokenizer"), out=str(where / "corpus"), held_out=10))
    return dataclasses.replace(TINY, corpus=str(where / "corpus"), tokenizer=str(where / "tokenizer"))


def run(config: pretrain.Config, out: Path, **changes: Any) -> list[dict[str, Any]]:
    """Train into a folder and return its log."""
    pretrain.main(dataclasses.replace(config, out=str(out), **changes))
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(log: list[dict[str, Any]]) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in log if "loss" in line}


@pytest.fixture(scope="module")
def whole(toy: pretrain.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    run(toy, out)
    return out


def filled(config: pretrain.Config = TINY, vocabulary: int = 100) -> pretrain.Model:
    """A model in which no matrix is zero."""
    model = pretrain.Model(config, vocabulary)
    torch.manual_seed(3)
    for weight in model.parameters():
        weight.data += torch.randn_like(weight) * 0.1
        weight.data = weight.data.bfloat16().float()  # what export keeps
    return model


# the network


def test_logits_equal_those_of_transformers_after_export(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = filled()
    pretrain.export(dict(model.named_parameters()), TINY, tmp_path, 100)
    with quiet():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(theirs).__name__ == "MistralForCausalLM"
    assert theirs.lm_head.weight is theirs.model.embed_tokens.weight
    ids = torch.randint(0, 100, (3, 64))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(ids), theirs(ids).logits, rtol=1e-4, atol=1e-5)


def test_the_loss_is_cross_entropy_plus_the_squared_partition() -> None:
    model, ids = filled(), torch.randint(0, 100, (2, 33))
    loss, plain = model(ids[:, :-1], ids[:, 1:], 0.1)
    logits = model.logits(ids[:, :-1])
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(plain, expected.detach())
    torch.testing.assert_close(loss, expected + 0.1 * logits.logsumexp(-1).square().mean())


def test_a_fresh_model_adds_nothing_to_its_embedding_and_depends_on_the_seed_alone() -> None:
    one, two, other = (pretrain.Model(dataclasses.replace(TINY, seed=seed), 100) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embed_tokens.weight, other.embed_tokens.weight)
    ids = torch.randint(0, 100, (2, 32))
    torch.testing.assert_close(one.hidden(ids), one.norm(one.embed_tokens(ids)))


# the optimiser


def test_forward_weights_are_rounded_masters_are_not_and_the_gradient_passes() -> None:
    model = filled()
    optimiser = pretrain.Optimiser(model, TINY)
    before = [master.clone() for master in optimiser.masters]
    optimiser.write_forward(nf4=True)
    for stack, master in zip(optimiser.stacks, optimiser.masters, strict=True):
        for weight, one in zip(stack, master, strict=True):
            assert torch.equal(weight.data, round_nf4(one))
            assert not torch.equal(weight.data, one)
    assert torch.equal(model.embed_tokens.weight, optimiser.rest_masters[0])
    assert all(torch.equal(a, b) for a, b in zip(before, optimiser.masters, strict=True))
    ids = torch.randint(0, 100, (2, 33))
    model(ids[:, :-1], ids[:, 1:], 0.0)[0].backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())
    optimiser.step(1e-6)  # less than half the way to a next code: only masters can remember it
    moved = [(after - old).abs().max() for after, old in zip(optimiser.masters, before, strict=True)]
    assert all(0 < move < 1e-3 for move in moved)
    optimiser.write_forward(nf4=False)
    for stack, master in zip(optimiser.stacks, optimiser.masters, strict=True):
        assert torch.equal(torch.stack([weight.data for weight in stack]), master)


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 32, 128), (2, 128, 32)])
def test_newton_schulz_brings_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = pretrain.newton_schulz(stack)
    assert found.shape == stack.shape
    values = torch.linalg.svdvals(found.float())
    assert values.max() < 1.35
    assert values.quantile(0.05) > 0.5
    u, _, v = torch.linalg.svd(stack, full_matrices=False)
    assert (found.float() * (u @ v)).sum() / (u @ v).square().sum() > 0.8, "the direction is kept"


def test_muon_takes_the_block_matrices_and_adamw_the_rest() -> None:
    model = filled()
    optimiser = pretrain.Optimiser(model, TINY)
    linears = {id(weight) for name, weight in model.named_parameters() if name.endswith("_proj.weight")}
    assert {id(weight) for stack in optimiser.stacks for weight in stack} == linears
    assert len(optimiser.rest) == 1 + 2 * TINY.layers + 1
    assert all(len({weight.shape for weight in stack}) == 1 for stack in optimiser.stacks)


def test_an_update_has_the_size_of_adams() -> None:
    config = dataclasses.replace(TINY, weight_decay=0.0)
    model = filled(config)
    optimiser = pretrain.Optimiser(model, config)
    before = [master.clone() for master in optimiser.masters]
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    norm = optimiser.step(1e-2)
    assert norm == pytest.approx(math.sqrt(sum(weight.numel() for weight in model.parameters())), rel=0.05)
    for old, new in zip(before, optimiser.masters, strict=True):
        size = float((new - old).square().mean().sqrt()) / 1e-2
        assert 0.1 < size < 0.3  # match_rms_adamw: 0.2


def test_the_learning_rate_rises_holds_and_falls() -> None:
    config = pretrain.Config(lr=1.0, warmup=100, decay_from=0.4)
    assert pretrain.learning_rate(config, 0.0, 0) == pytest.approx(0.01)
    assert pretrain.learning_rate(config, 0.1, 49) == pytest.approx(0.5)
    assert pretrain.learning_rate(config, 0.39, 500) == 1.0
    assert pretrain.learning_rate(config, 0.4, 500) == pytest.approx(1.0)
    assert pretrain.learning_rate(config, 0.7, 800) == pytest.approx(0.5)
    assert pretrain.learning_rate(config, 1.0, 999) == 0.0
    assert pretrain.learning_rate(config, 1.1, 1100) == 0.0


def test_rescaling_brings_the_largest_attention_logit_to_the_limit() -> None:
    model = filled()
    optimiser = pretrain.Optimiser(model, TINY)
    ids = torch.randint(0, 100, (2, 32))
    optimiser.masters = [master * 4 for master in optimiser.masters]
    optimiser.write_forward(nf4=False)
    before = model.largest_attention_logits(ids)
    limit = (before[0] + before[1]) / 2
    high = before.index(max(before))
    pretrain._rescale_attention(model, optimiser, before, limit)
    optimiser.write_forward(nf4=False)
    after = model.largest_attention_logits(ids)
    assert after[high] == pytest.approx(limit, rel=1e-3)
    if high:  # what comes before the rescaled layer is as it was
        assert after[0] == pytest.approx(before[0], rel=1e-5)


@torch.no_grad()
def test_largest_attention_logit_is_that_of_the_attention_itself() -> None:
    model, ids = filled(), torch.randint(0, 100, (1, 16))
    block: Any = model.layers[0]
    q, k = block.self_attn.queries_keys(block.input_layernorm(model.embed_tokens(ids)), model.cos[:16], model.sin[:16])
    by_hand = max(float(q[0, h, i] @ k[0, 0, j]) for h in range(2) for i in range(16) for j in range(16)) / math.sqrt(32)
    assert model.largest_attention_logits(ids)[0] == pytest.approx(by_hand, rel=1e-5)


# the data


def pieces(start: int, count: int, length: int = 5) -> list[list[int]]:
    """Pieces that are told apart by each of their tokens."""
    return [[number] * length for number in range(start, start + count)]


def test_no_piece_comes_twice_within_an_epoch_even_when_files_arrive(tmp_path: Path) -> None:
    corpus.save(tmp_path / "prose.a.npz", pieces(0, 50))
    corpus.save(tmp_path / "valid-prose.a.npz", pieces(900, 5))
    data = pretrain.Mixture(tmp_path, "0")
    seen = Counter(data.batch({"prose": 1}, 4, 24).flatten().tolist())  # 100 tokens: 20 pieces
    assert set(seen.values()) == {5}
    corpus.save(tmp_path / "prose.b.npz", pieces(50, 30))
    data.refresh()
    for _ in range(12):  # 300 more tokens end the epoch: 80 pieces of 5
        seen += Counter(data.batch({"prose": 1}, 1, 24).flatten().tolist())
    assert seen == Counter(dict.fromkeys(range(80), 5))
    assert data.slices["prose"].epochs == 0
    order = [data.batch({"prose": 1}, 1, 399).flatten()[::5].tolist() for _ in range(2)]
    assert all(sorted(epoch) == list(range(80)) for epoch in order)
    assert order[0] != order[1]
    assert data.slices["prose"].epochs == 2
    assert data.slices["prose"].size() == 400


def test_shares_are_kept_and_absent_or_empty_slices_left_out(tmp_path: Path) -> None:
    corpus.save(tmp_path / "a.x.npz", pieces(0, 10))
    corpus.save(tmp_path / "b.x.npz", pieces(100, 10))
    corpus.save(tmp_path / "empty.x.npz", [])
    data = pretrain.Mixture(tmp_path, "0")
    rows = data.batch({"a": 3, "b": 1, "empty": 50, "absent": 50}, 2000, 4)
    assert rows.shape == (2000, 5)
    assert (rows < 100).all(1).mean() == pytest.approx(0.75, abs=0.04)
    with pytest.raises(TwofoldError, match="no token files in"):
        data.batch({"absent": 1}, 1, 4)


def test_a_mixture_goes_on_from_its_state_and_takes_in_what_came_meanwhile(tmp_path: Path) -> None:
    corpus.save(tmp_path / "prose.a.npz", pieces(0, 50))
    corpus.save(tmp_path / "docs.a.npz", pieces(100, 50))
    shares = {"prose": 1, "docs": 2}
    data = pretrain.Mixture(tmp_path, "0")
    data.batch(shares, 7, 22)
    state = data.state()
    torch.save(state, tmp_path / "state.pt")
    expected = [data.batch(shares, 5, 31) for _ in range(4)]
    again = pretrain.Mixture(tmp_path, "0")
    again.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert all(np.array_equal(batch, again.batch(shares, 5, 31)) for batch in expected)
    corpus.save(tmp_path / "prose.0.npz", pieces(200, 10))  # sorts before the first
    again.restore(state)
    assert again.slices["prose"].files == ["prose.a.npz", "prose.0.npz"]
    assert {*range(200, 210)} <= set(again.batch({"prose": 1}, 1, 300).flatten().tolist())
    (tmp_path / "docs.a.npz").unlink()
    with pytest.raises(TwofoldError, match="is gone"):
        again.restore(state)


def test_validation_rows_are_fixed_and_of_their_slice(tmp_path: Path) -> None:
    corpus.save(tmp_path / "valid-prose.a.npz", pieces(0, 40))
    corpus.save(tmp_path / "valid-short.a.npz", pieces(0, 1))
    corpus.save(tmp_path / "prose.a.npz", pieces(500, 40))
    found = pretrain.validation(tmp_path, 16, 64)
    assert set(found) == {"prose"}
    assert found["prose"].shape == (11, 17)
    assert np.array_equal(found["prose"], pretrain.validation(tmp_path, 16, 64)["prose"])
    assert found["prose"].max() < 40


def test_prefetch_keeps_the_order_and_raises_what_its_thread_raised() -> None:
    numbers = iter(range(6))
    stream = pretrain._prefetch(lambda: next(numbers), 2)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    stream.close()

    def fail() -> int:
        raise TwofoldError("no token files")

    with pytest.raises(TwofoldError, match="no token files"):
        next(pretrain._prefetch(fail))


# whole runs


def test_the_loss_follows_the_reference_curve(whole: Path) -> None:
    curve = losses([json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()])
    assert tuple(curve[step] for step in (1, 10, 20)) == pytest.approx(REFERENCE, rel=2e-2)


def test_a_run_leaves_weights_curve_and_record(whole: Path, toy: pretrain.Config) -> None:
    record = json.loads((whole / "run.json").read_text())
    numbers = record["numbers"]
    assert (numbers["steps"], numbers["tokens"]) == (20, 20 * 512)
    assert numbers["loss"]["mixed"] == numbers["loss"]["prose"]
    assert abs(numbers["nf4_penalty"]) < 0.2
    assert set(record["data"]) == {"tokenizer.json", *(path.name for path in Path(toy.corpus).glob("*.npz"))}
    assert {path.name for path in whole.iterdir()} == {"log.jsonl", "loss.png", "masters.pt", "model", "run.json", "snapshot.pt"}
    log = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [line["nf4"] for line in log if "loss" in line] == [False, False, False, False, True]
    assert len([line for line in log if "valid" in line]) == 7  # six checks and the last
    assert (whole / "model" / "chat_template.jinja").exists()


def test_the_exported_model_has_the_masters_and_the_logged_loss(whole: Path, toy: pretrain.Config) -> None:
    from transformers import AutoModelForCausalLM

    with quiet():
        theirs = AutoModelForCausalLM.from_pretrained(whole / "model", dtype=torch.float32)
    masters: dict[str, Tensor] = torch.load(whole / "masters.pt", weights_only=True)
    state = theirs.model.state_dict()
    assert all(torch.equal(values.bfloat16().float(), state[name]) for name, values in masters.items())
    rows = torch.from_numpy(pretrain.validation(Path(toy.corpus), toy.context, 64)["prose"])
    with torch.no_grad():
        loss = nn.functional.cross_entropy(theirs(rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten())
    recorded = json.loads((whole / "run.json").read_text())["numbers"]["loss_unrounded"]["prose"]
    assert float(loss) == pytest.approx(recorded, abs=0.01)


@pytest.mark.parametrize("cut", [7, 17])  # in the early phase, and where weights are rounded and rows are long
def test_an_interrupted_run_goes_on_exactly(
    whole: Path, toy: pretrain.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    forward, calls = pretrain.Model.forward, 0

    def interrupted(self: pretrain.Model, ids: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += torch.is_grad_enabled()
        if calls > cut * 2 + 1 and torch.is_grad_enabled():  # two micro-batches a step: in the midst of one
            raise KeyboardInterrupt
        return forward(self, ids, targets, z_loss)

    monkeypatch.setattr(pretrain.Model, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(toy, tmp_path)
    assert torch.load(tmp_path / "snapshot.pt", weights_only=True)["step"] == cut
    monkeypatch.setattr(pretrain.Model, "forward", forward)
    log = run(toy, tmp_path)
    assert losses(log) == losses([json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()])
    one, two = (torch.load(folder / "masters.pt", weights_only=True) for folder in (whole, tmp_path))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert json.loads((tmp_path / "run.json").read_text())["numbers"]["tokens"] == 20 * 512


def test_a_finished_run_is_not_trained_again(toy: pretrain.Config, tmp_path: Path) -> None:
    first = run(toy, tmp_path, steps=3)
    again = run(toy, tmp_path, steps=3)
    assert losses(first) == losses(again)
    assert json.loads((tmp_path / "run.json").read_text())["numbers"]["steps"] == 3


def test_by_the_clock_a_run_ends_and_saves_in_between(toy: pretrain.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves, save = [], torch.save
    monkeypatch.setattr(torch, "save", lambda what, path: (saves.append(Path(path).name), save(what, path)))
    run(toy, tmp_path, steps=0, minutes=1.2 / 60, snapshot_minutes=0.3 / 60)
    assert saves.count("snapshot.part") >= 3
    assert json.loads((tmp_path / "run.json").read_text())["numbers"]["steps"] >= 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"tokenizer": "nowhere"}, "no tokenizer in nowhere"), ({"corpus": "nowhere"}, "no token files in nowhere")],
)
def test_what_is_missing_is_told_in_one_line(toy: pretrain.Config, tmp_path: Path, changes: dict[str, str], told: str) -> None:
    with pytest.raises(TwofoldError, match=told):
        run(toy, tmp_path, **changes)


def test_a_snapshot_of_another_shape_is_told_in_one_line(toy: pretrain.Config, tmp_path: Path) -> None:
    run(toy, tmp_path, steps=1)
    with pytest.raises(TwofoldError, match="another shape"):
        run(toy, tmp_path, steps=2, mlp=192)


def test_another_share_of_chats_keeps_the_proportions_of_all_else() -> None:
    mixed, plain = pretrain.late_mix(0.6), pretrain.late_mix(0.0)
    assert plain == pretrain.LATE
    assert sum(mixed.values()) == pytest.approx(1.0)
    assert mixed["chat-code"] + mixed["chat-theory"] == pytest.approx(0.6)
    assert mixed["notebook"] / mixed["code"] == pytest.approx(plain["notebook"] / plain["code"])
    assert mixed["chat-code"] / mixed["chat-theory"] == pytest.approx(plain["chat-code"] / plain["chat-theory"])
