"""NF4 as bitsandbytes stores it: bit by bit, and as a folder that transformers loads."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from twofold.engines.libraries import import_bitsandbytes, quiet
from twofold.train import pretrain, quantize
from twofold.types import TwofoldError

SHAPE = pretrain.Config(layers=2, hidden=64, mlp=128, heads=2, kv_heads=1, head_dim=64, context=32, late_context=64)
WORDS = 300


def random_state(seed: int = 0) -> dict[str, Tensor]:
    """Weights of a toy model in which no matrix is zero."""
    torch.manual_seed(seed)
    named = pretrain.Model(SHAPE, WORDS).named_parameters()
    return {name: torch.randn_like(weight) * 0.15 if weight.ndim == 2 else weight.detach() for name, weight in named}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining run's result, and base/ that main made of it."""
    folder = tmp_path_factory.mktemp("run")
    state = random_state()
    pretrain.export(state, SHAPE, folder / "model", WORDS)
    torch.save(state, folder / "masters.pt")
    (folder / "model" / "tokenizer.json").write_text("{}")
    quantize.main(quantize.Config(model=str(folder), out=str(folder / "base")))
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [1e-4, 1.0, 300.0])
def test_codes_scales_and_bytes_are_those_of_bitsandbytes(dtype: torch.dtype, spread: float) -> None:
    import_bitsandbytes()
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    torch.manual_seed(1)
    values = (torch.randn(96, 192) * spread).to(dtype)
    values[3] = 0  # whole blocks of nothing
    values[5, ::3] = values[5].abs().max()  # ties
    packed, state = quantize_4bit(values, blocksize=64, quant_type="nf4", compress_statistics=False)
    mine = quantize.pack("w", values)
    codes, absmax = quantize.codes_of(values)
    assert torch.equal(mine["w"], packed)
    assert torch.equal(torch.stack([packed[:, 0] >> 4, packed[:, 0] & 15], 1).reshape(codes.shape), codes)
    assert torch.equal(absmax, state.absmax)
    assert torch.equal(mine["w.absmax"], state.absmax)
    assert torch.equal(mine["w.quant_map"], state.code)
    back = dequantize_4bit(packed, state)
    assert torch.equal(quantize.round_nf4(values).to(dtype), back)


def test_the_state_is_written_as_bitsandbytes_writes_it() -> None:
    import_bitsandbytes()
    from bitsandbytes.functional import quantize_4bit

    values = torch.randn(64, 128, dtype=torch.bfloat16)
    _, state = quantize_4bit(values, blocksize=64, quant_type="nf4", compress_statistics=False)
    theirs = state.as_dict(packed=True)
    mine = quantize.pack("w", values)
    assert {f"w.{name}" for name in theirs} | {"w"} == set(mine)
    blob = "quant_state.bitsandbytes__nf4"
    assert json.loads(bytes(mine[f"w.{blob}"].tolist())) == json.loads(bytes(theirs[blob].tolist()))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_rounding_twice_changes_nothing_more_and_keeps_each_largest_value(seed: int, spread: float) -> None:
    values = torch.randn(4, 128, generator=torch.Generator().manual_seed(seed)) * spread
    once = quantize.round_nf4(values)
    assert torch.equal(quantize.round_nf4(once), once)
    assert torch.equal(once.reshape(-1, 64).abs().amax(1), values.reshape(-1, 64).abs().amax(1))


def test_rounding_takes_the_nearest_code() -> None:
    table = torch.tensor(quantize.CODES)
    grid = torch.linspace(-1, 1, 6401)[:6400].reshape(100, 64).clone()
    grid[:, 0] = 1.0  # every block's scale
    nearest = table[(grid[..., None] - table).abs().argmin(-1)]
    distance = (quantize.round_nf4(grid) - grid).abs() - (nearest - grid).abs()
    assert distance.max() < 1e-6


def test_a_written_folder_loads_in_transformers_with_the_dequantised_logits(run: Path) -> None:
    import_bitsandbytes()
    from transformers import AutoModelForCausalLM

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(run / "base", dtype=torch.bfloat16)
        plain = AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.bfloat16)
    weights = quantize.dequantized(run / "base" / "model.safetensors")
    plain.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    ids = torch.randint(0, WORDS, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bitsandbytes tells of dtypes at the first pass
        found, near = model(ids).logits.float(), plain(ids).logits.float()
        expected = plain.float()(ids).logits  # the same values without the noise of bf16 arithmetic
    assert type(model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    assert expected.std() > 0.3
    noise = float((near - expected).square().mean().sqrt())
    assert float((found - expected).square().mean().sqrt()) < 1.5 * noise
    assert noise < 0.03 * expected.std()


def test_the_folder_holds_rounded_masters_the_tokenizer_and_a_record(run: Path) -> None:
    weights = quantize.dequantized(run / "base" / "model.safetensors")
    for name, values in random_state().items():
        expected = quantize.round_nf4(values) if quantize.is_linear(name) else values
        assert torch.equal(weights[f"model.{name}"], expected.to(torch.bfloat16)), name
    assert (run / "base" / "tokenizer.json").exists()
    record = json.loads((run / "base" / "run.json").read_text())
    assert record["numbers"]["bytes"] == (run / "base" / "model.safetensors").stat().st_size
    assert set(record["data"]) == {"masters.pt"}


def test_a_folder_without_a_run_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match=r"no masters\.pt in .*twofold train pretrain"):
        quantize.main(quantize.Config(model=str(tmp_path), out=str(tmp_path / "out")))


def test_pretraining_goes_on_from_an_nf4_folder(run: Path) -> None:
    model = pretrain.Model(SHAPE, WORDS)
    pretrain.start_from(model, run / "base")
    for name, value in random_state().items():
        kept = quantize.round_nf4(value) if quantize.is_linear(name) else value
        torch.testing.assert_close(dict(model.named_parameters())[name].data, kept.bfloat16().float(), rtol=0, atol=0)


def test_pretraining_goes_on_only_from_the_same_shape(run: Path, tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match="another shape or vocabulary"):
        pretrain.start_from(pretrain.Model(SHAPE, WORDS + 1), run / "base")
    with pytest.raises(TwofoldError, match="no model"):
        pretrain.start_from(pretrain.Model(SHAPE, WORDS), tmp_path)
