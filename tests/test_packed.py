"""Rows side by side mean what they mean alone; LoRA that rides on the wide product is LoRA; memory is planned as it is used."""

import copy
import itertools
import random
from typing import Any

import pytest
import torch

from twofold.engines.nf4 import unpack
from twofold.train import packed, qlora, quantize
from twofold.train.packed import GIB, IGNORED, Decoder, Plan, Shape, packs, plan
from twofold.types import TwofoldError

pytestmark = pytest.mark.usefixtures("one_thread")
SEVEN = Shape(32, 4096, 14336, 32, 8, 128, 32768, 1e-5)  # Mistral-7B-v0.3


@pytest.fixture(scope="module")
def model() -> Any:
    """A peft model of two small layers whose LoRA matrices are all random, B included."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    shape = MistralConfig(vocab_size=97, hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
                          num_key_value_heads=2, head_dim=32, max_position_embeddings=64, sliding_window=None)  # fmt: skip
    base = MistralForCausalLM(shape).requires_grad_(requires_grad=False)
    for name, weight in base.named_parameters():
        weight.data.normal_(0, 0.1)
        if quantize.is_linear(name):
            weight.data.copy_(quantize.round_nf4(weight.data))
        if "norm" in name:
            weight.data.add_(1)
    found = qlora.adapter_on(base, rank=4)
    for name, weight in found.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.1)
    return found


def some_rows(count: int) -> list[packed.Row]:
    rng = random.Random(1)
    found = []
    for _ in range(count):
        ids = [rng.randrange(97) for _ in range(rng.randint(20, 60))]
        spoken = rng.randint(1, len(ids) - 1)
        found.append((ids, [IGNORED] * spoken + ids[spoken:]))
    return found


def reference(model: Any, rows: list[packed.Row]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Each row's logits alone by transformers and peft, and the summed loss."""
    logits = [model(input_ids=torch.tensor([ids])).logits[0] for ids, _ in rows]
    parts = [
        torch.nn.functional.cross_entropy(one[:-1], torch.tensor(labels[1:]), ignore_index=IGNORED, reduction="sum")
        for one, (_, labels) in zip(logits, rows, strict=True)
    ]
    return logits, torch.stack(parts).sum()


def grads(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}


def nf4(decoder: Decoder) -> Decoder:
    """The same decoder with its linears in NF4."""

    def narrow(group: packed.Group) -> packed.Group:
        rows, columns = sum(len(b) for b in group.b), group.a[0].shape[1]
        codes, absmax = quantize.codes_of(group.weight[:rows, :columns])
        flat = codes.reshape(-1)
        return group._replace(weight=(flat[0::2] << 4) | flat[1::2], absmax=absmax)

    for number, one in enumerate(decoder.layers):
        groups = {name: narrow(getattr(one, name)) for name in ("qkv", "out", "gate_up", "down")}
        decoder.layers[number] = one._replace(**groups)
    return decoder


@pytest.mark.parametrize("form", ["bf16", "nf4", "recomputed", "nf4 recomputed"])
def test_a_pack_gives_each_row_its_own_logits_loss_and_gradients(model: Any, form: str) -> None:
    rows = some_rows(5)
    logits, loss = reference(model, rows)
    loss.backward()
    expected = grads(model)
    other = copy.deepcopy(model)
    other.zero_grad()
    decoder = Decoder(other, Plan(whole=True, recomputed=2 if "recomputed" in form else 0, peak=0), longest=60, compiled=False)
    if "nf4" in form:
        decoder = nf4(decoder)
    (one,) = packs(rows, 512, 60)
    ends = one.starts[1 : len(rows) + 1].tolist()
    found = decoder.logits(one).detach()
    for begin, end, alone in zip([0, *ends], ends, logits, strict=False):
        torch.testing.assert_close(found[begin:end], alone, atol=2e-5, rtol=1e-4)
    summed = decoder.loss(one)
    torch.testing.assert_close(summed, loss)
    summed.backward()
    for name, grad in grads(other).items():
        torch.testing.assert_close(grad, expected[name], atol=2e-4, rtol=1e-3, msg=lambda told, name=name: f"{name}: {told}")
    model.zero_grad()


def test_the_head_in_chunks_is_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hidden, head, targets = torch.randn(50, 16, requires_grad=True), torch.randn(97, 16), torch.randint(97, (50,))
    monkeypatch.setattr(packed, "CHUNK", 8)
    ours = packed._AnswerLoss.apply(hidden, targets, head)
    (ours * 0.5).backward()
    mine, hidden.grad = hidden.grad, None
    plain = torch.nn.functional.cross_entropy(hidden @ head.T, targets, reduction="sum")
    (plain * 0.5).backward()
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(mine, hidden.grad)


def test_nf4_unpacks_to_what_was_rounded_and_its_operator_is_sound() -> None:
    torch.manual_seed(0)
    weight = torch.randn(96, 64)
    codes, absmax = quantize.codes_of(weight)
    flat = codes.reshape(-1)
    both = (flat[0::2] << 4) | flat[1::2]
    assert torch.equal(unpack(both, absmax, 96, torch.float32), quantize.round_nf4(weight))
    for lora in (torch.randn(96, 4), torch.randn(4, 64)):
        torch.library.opcheck(packed.nf4_beside, (both, absmax, lora, 96, weight), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(("count", "size", "longest"), [(1, 128, 60), (57, 128, 60), (200, 512, 60), (30, 60, 60)])
def test_packs_hold_every_row_once_and_whole(count: int, size: int, longest: int) -> None:
    rows = some_rows(count)
    seen: list[list[int]] = []
    filled, lengths = [], set()
    for one in packs(rows, size, longest, random.Random(0)):
        assert {len(tensor) for tensor in one[:3]} == {size}
        starts = one.starts.tolist()
        assert (starts[0], starts[-1]) == (0, size)
        lengths.add(len(starts))
        assert all(0 <= end - begin <= longest for begin, end in itertools.pairwise(starts))
        assert (one.targets[one.tokens :] == IGNORED).all()
        at = 0
        while at < one.tokens:
            end = starts[starts.index(at) + 1]
            ids = one.ids[at:end].tolist()
            assert one.positions[at:end].tolist() == list(range(end - at))
            assert [IGNORED, *one.targets[at : end - 1].tolist()] in [labels for row, labels in rows if row == ids]
            assert one.targets[end - 1] == IGNORED
            seen.append(ids)
            at = end
        filled.append(one.tokens / size)
    assert len(lengths) == 1
    assert sorted(seen) == sorted(ids for ids, _ in rows)
    if count == 200:
        assert min(filled[:-1]) > 0.95
        assert seen != [ids for one in packs(rows, size, longest, random.Random(1)) for ids in [one.ids.tolist()]]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 rows of 8 tokens do not fit in 7"):
        packed.pack([([1, 2, 3, 4], [1, 2, 3, 4])] * 2, 7, 4, 2)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "qwen2"}, "not on qwen2's"),
        ({"attention_bias": True}, "not on mistral's"),
        ({"hidden_act": "gelu"}, "not on mistral's"),
        ({"sliding_window": 40}, "train with --length 40"),
    ],
)
def test_layers_that_are_not_known_are_refused(model: Any, changes: dict[str, Any], told: str) -> None:
    other = copy.deepcopy(model)
    for name, value in changes.items():
        setattr(other.base_model.model.config, name, value)
    with pytest.raises(TwofoldError, match=told):
        Decoder(other, Plan(whole=True, recomputed=0, peak=0), longest=60, compiled=False)


def test_the_plan_spends_what_there_is() -> None:
    base = int(4.3 * GIB)
    large, small = plan(78 * GIB - base, SEVEN, 8192, 16), plan(20 * GIB - base, SEVEN, 8192, 16)
    assert (large.whole, large.recomputed) == (True, 0)
    assert not small.whole
    assert 16 < small.recomputed < 32
    assert 18 * GIB < base + small.peak <= 20 * GIB
    assert plan(7 * GIB, SEVEN, 8192, 16).recomputed == 32
    assert plan(48 * GIB, SEVEN, 8192, 16) == Plan(False, 0, plan(48 * GIB, SEVEN, 8192, 16).peak)
    counts = [plan(gib * GIB, SEVEN, 8192, 16).recomputed for gib in range(7, 78)]
    assert counts == sorted(counts, reverse=True)
    assert SEVEN.linears() == 6_979_321_856
