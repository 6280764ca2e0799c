"""bench gpu without a GPU: what it says, how cells of two tasks share a file, what the page shows."""

import json
from pathlib import Path
from typing import Any

import pytest

from twofold.engines import resident
from twofold.evals import gpu
from twofold.types import TwofoldError


def cell(system: str, batch: int, adapter: str, rate: float, task: str = "decode") -> dict[str, Any]:
    numbers = {"tokens_per_second": rate, "first_token_ms": None, "switch_ms": 0.02, "peak_gib": 5.0, "limit_share": 44.0}
    names = {"system": system, "task": task, "batch": batch, "adapter": adapter}
    return {**names, **numbers, "spread": [rate - 1, rate + 1], "samples": [rate]}


FACTS = {
    "card": "Card, 80 GiB", "when": "2026-11-22", "versions": {"torch": "2.11"}, "copy_tb_s": 3.0, "bytes_a_token": 3.9e9,
    "limit_tokens_per_second": 770.0, "shape": "32 layers", "prompt_tokens": 512,
}  # fmt: skip


def test_without_a_gpu_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "gpu", lambda: "")
    with pytest.raises(TwofoldError, match="twofold doctor"):
        gpu.main(gpu.Config())


def test_cells_of_one_task_leave_the_others_alone() -> None:
    result: dict[str, Any] = {}
    gpu.merge(result, "train", [cell("a", 1, "one", 5, "train")], {}, {"seed": 1})
    gpu.merge(result, "decode", [cell("b", 1, "one", 6)], {"vllm": "not installed"}, FACTS)
    gpu.merge(result, "decode", [cell("b", 1, "one", 7)], {}, FACTS)
    assert [(one["task"], one["tokens_per_second"]) for one in result["cells"]] == [("train", 5), ("decode", 7)]
    gpu.merge(result, "train", [], {"all": "no module"}, {})
    assert len(result["cells"]) == 2
    assert result["not_run"] == {"decode": {}, "train": {"all": "no module"}}
    assert result["facts"]["train"] == {"seed": 1}


def test_a_run_writes_file_table_and_plot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [cell("plain", 1, "one", 11), cell("twofold", 1, "one", 1350), cell("twofold", 8, "mixed", 1900)]
    monkeypatch.setattr(resident, "gpu", lambda: "Card, 80 GiB")
    monkeypatch.setattr(gpu, "decode", lambda _, keep: [keep(cells[:n], {"vllm": "not installed"}, FACTS) for n in (1, 2, 3)])
    monkeypatch.setattr(gpu, "train", lambda _, keep: keep([], {"all training cells": "no time"}, {}))
    page, out = tmp_path / "serving.md", tmp_path / "results" / "gpu.json"
    page.write_text("above\n<!-- bench gpu: decode -->\nold\n<!-- end -->\nbelow\n")
    gpu.main(gpu.Config(out=out, page=page))
    assert "1,350" in capsys.readouterr().out
    text = page.read_text()
    assert text.startswith("above\n<!-- bench gpu: decode -->\nCard, 80 GiB")
    assert text.endswith("Not run: vllm (not installed).\n<!-- end -->\nbelow\n")
    assert "\nold\n" not in text
    assert text.index("| 1 | one | twofold | 1,350 |") < text.index("| 1 | one | plain | 11 |") < text.index("| 8 | mixed |")
    assert (tmp_path / "decode.png").read_bytes().startswith(b"\x89PNG")
    saved = json.loads(out.read_text())
    assert [one["system"] for one in saved["cells"]] == ["plain", "twofold", "twofold"]
    assert "all training cells" in saved["not_run"]["train"]
