"""runs/smoke.sh: every training stage in its own process, as a user starts them, and an answer at the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_all_stages_run_and_what_they_trained_answers(tmp_path: Path) -> None:
    environment = os.environ | {"WORK": str(tmp_path), "TWOFOLD": f"{sys.executable} -m twofold"}
    done = subprocess.run(["bash", str(ROOT / "runs" / "smoke.sh")], env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.endswith("smoke run passed\n")
    assert len(done.stderr) < 2000, "no progress bar floods what is not a terminal"
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert (answer["adapter"], answer["chip"]) == ("theory", "THEORY")
    assert answer["tokens"] > 0, "it speaks; what a model of 30 steps says may be cleaned away whole"
    for stage in ("tokenizer", "corpus/text", "pretrain", "model/base", "model/code", "model/theory"):
        record = json.loads((tmp_path / stage / "run.json").read_text())
        assert record["numbers"], stage
        assert record["data"], stage
        assert record["versions"]["torch"], stage
    log = [json.loads(line) for line in (tmp_path / "pretrain" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < losses[0] - 1
    for adapter in ("code", "theory"):
        numbers = json.loads((tmp_path / "model" / adapter / "run.json").read_text())["numbers"]
        assert numbers["valid_loss"] < numbers["valid_loss_before"], adapter
