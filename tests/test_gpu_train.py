"""The training cells of `twofold bench gpu`: rows, arithmetic, and that every system learns from the same thing. Speed needs a GPU."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from twofold.engines.libraries import import_bitsandbytes
from twofold.evals import gpu_train
from twofold.train.packed import IGNORED, Plan
from twofold.types import TwofoldError


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(count: int) -> list[gpu_train.Row]:
    rng = random.Random(0)
    found = []
    for _ in range(count):
        ids = [rng.randrange(500) for _ in range(rng.randint(8, 30))]
        found.append((ids, [IGNORED] * 4 + ids[4:]))
    return found


@pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers 5.23 has a new word for gradient checkpointing, 5.17 has not
def test_on_equal_rows_ours_and_plain_peft_have_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_bitsandbytes()
    monkeypatch.setattr(gpu_train, "SIZE", 128)
    small = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    gpu_train.random_base(tmp_path / "base", gpu_train.MISTRAL_7B | small | {"head_dim": 64, "vocab_size": 512})
    assert (tmp_path / "base" / "tokenizer.json").exists()
    packs = [rows(5), rows(4), rows(5)]
    plan = Plan(whole=False, recomputed=0, peak=0)
    ours = gpu_train.our_step(gpu_train.frozen(str(tmp_path / "base")), plan, torch.device("cpu"), compiled=False)
    plain = gpu_train.plain_step(gpu_train.frozen(str(tmp_path / "base")))
    seconds, losses = gpu_train.timed_steps(ours, packs)
    assert len(seconds) == len(losses) == 3
    assert losses == pytest.approx(gpu_train.timed_steps(plain, packs)[1], rel=1e-3)
    assert losses[0] != losses[2]  # the same rows, after two steps


def test_padded_groups_hold_every_row_and_no_more_than_a_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_train, "SIZE", 64)
    given = rows(20)
    groups = gpu_train._padded(given)
    assert sorted(row for group in groups for row in group) == sorted(given)
    assert all(len(group) * max(len(ids) for ids, _ in group) <= 64 for group in groups)


def test_a_cell_counts_tokens_of_rows_by_the_median_of_the_timed_steps() -> None:
    told = {"tokens": [100] * 8, "seconds": [9.0, 9.0, 9.0, 1.0, 0.5, 1.0, 0.5, 2.0], "losses": [1.0], "peak": 3 * 2**30}
    found = gpu_train.cell("x", told | {"matmul_flops": 1000.0, "flops_per_token": 4, "flags": {}})
    assert (found["tokens_per_second"], found["peak_gib"], found["limit_share"]) == (100, 3.0, 40.0)
    assert found["samples"] == [100, 200, 100, 200, 50]
    assert found["first_token_ms"] is None
    assert json.loads(json.dumps(found)) == found


def test_what_could_not_run_says_why() -> None:
    found = gpu_train.cell("x", {"not_run": "No module named 'x'"})
    assert (found["tokens_per_second"], found["not_run"]) == (None, "No module named 'x'")


def test_the_page_is_written_from_the_cells(tmp_path: Path) -> None:
    told = {
        "tokens": [100] * 5,
        "seconds": [1.0] * 5,
        "losses": [2.5],
        "peak": 2**30,
        "matmul_flops": 1000,
        "flops_per_token": 4,
        "card": "X",
    }
    told |= {"versions": {"torch": "2"}, "profile": {"kinds_ms": {"attention": 36.6}, "kernels": []}}
    page = tmp_path / "training.md"
    page.write_text("before\n<!-- bench gpu: train -->\nold\n<!-- end -->\nafter\n")
    gpu_train.write_page([gpu_train.cell("ours", told), gpu_train.cell("other", {"not_run": "not installed"})], page)
    text = page.read_text()
    assert text.startswith("before\n<!-- bench gpu: train -->\n| system |")
    assert "| ours | 100 | 100-100 | 40 % | 1.0 GiB | 2.500 |" in text
    assert "| attention | 37 |" in text
    assert "Not run: other (not installed).\n<!-- end -->\nafter\n" in text
    assert (tmp_path / "gpu-training.png").stat().st_size > 1000


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(TwofoldError, match="need a CUDA GPU"):
        list(gpu_train.train_cells(rows=tmp_path / "rows.jsonl"))
