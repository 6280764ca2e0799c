"""Speed and memory on this machine: a fresh process for each run, medians of the runs, written to results/cpu.json."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from twofold.assistant import stream
from twofold.engines import BASE
from twofold.types import Message, Request, Sampling, TwofoldError

QUESTIONS = (
    "Write a function that reads a CSV file with columns region, date and sales, and plots the monthly sales of each region",
    "Explain what cross-validation is and when it misleads",
    "Train a random forest on the frame df with target price and show the most important columns",
)
SYSTEM = "You are a data-science assistant. Answer with runnable Python for pandas, numpy and scikit-learn. " * 10
"""Makes a prompt of about 250 tokens."""


@dataclass(frozen=True)
class Config:
    """What is measured."""

    model: str = "embedded"
    """embedded, mistral-7b, a local folder or a hub id"""
    runs: int = 3
    """fresh processes; the medians count"""
    out: Path = Path("results/cpu.json")
    """where the numbers go"""


def main(config: Config) -> None:
    """Measure, write and print."""
    print(json.dumps(measure(config.model, config.runs, config.out), indent=2))


def measure(model: str = "embedded", runs: int = 3, out: str | Path | None = "results/cpu.json") -> dict[str, Any]:
    """Measure a model in `runs` fresh processes, write the medians to `out` as JSON (None: nowhere) and return them.

    ready_s: start of the process to engine ready. first_token_s: question to first text through `assistant.stream`, or through the engine
    alone where the assistant shows nothing. tokens_per_s: one answer of at most 128 tokens after its first piece, prompt of about 250
    tokens, CODE adapter (BASE where there is none). candidates_tokens_per_s: a batch of 8 such answers, prefill included. rss_mb: largest
    resident memory (2**20 bytes; 0 on Windows). Tokens are those of the finished texts.
    Raises TwofoldError when the model cannot be opened.
    """
    found = [_fresh(model) for _ in range(runs)]
    machine = found[0].pop("machine")
    result = {"model": model, "runs": runs} | {key: round(median(one[key] for one in found), 3) for key in found[0]} | {"machine": machine}
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps(result, indent=2) + "\n")
    return result


def _fresh(model: str) -> dict[str, Any]:
    code = "import sys; from twofold.evals.speed import once; once(sys.argv[1], float(sys.argv[2]))"
    run = subprocess.run([sys.executable, "-c", code, model, str(time.time())], capture_output=True, text=True, check=False)
    if run.returncode:
        raise TwofoldError((run.stderr.strip().splitlines() or [f"{model} could not be measured"])[-1].split("TwofoldError: ")[-1])
    return json.loads(run.stdout)  # type: ignore[no-any-return]


def once(model: str, started: float) -> None:
    """Measure in this process, which began at `started` (seconds since the epoch), and print one JSON object."""
    from twofold.engines.local import open_local  # what a user waits for: its imports count

    engine = open_local(model)
    ready = time.time() - started
    import torch

    adapter = "code" if "code" in engine.adapters else BASE
    sampling = Sampling(128, temperature=0.8, seed=0)
    firsts, rates, batches = [], [], []
    for question in QUESTIONS:
        messages: list[Message] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        shown = _until_text(reply.text for reply in stream(Request(question, guard=False), engine))
        firsts.append(shown or _until_text(engine.generate(messages, adapter, sampling)))
        pieces = engine.generate(messages, adapter, sampling)
        next(pieces, "")
        begun = time.perf_counter()
        text = "".join(pieces)
        rates.append(engine.count(text) / (time.perf_counter() - begun))
        begun = time.perf_counter()
        texts = engine.candidates(messages, adapter, sampling, 8)
        batches.append(sum(engine.count(text) for text in texts) / (time.perf_counter() - begun))
    machine = {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "processor": platform.machine(), "torch": torch.__version__}
    speeds = {"ready_s": ready, "first_token_s": median(firsts), "tokens_per_s": median(rates), "candidates_tokens_per_s": median(batches)}
    print(json.dumps(speeds | {"rss_mb": _peak_mb(), "machine": machine}))


def _until_text(texts: Iterable[str]) -> float:
    """Seconds until the first text that is not empty; 0.0 when none is."""
    begun = time.perf_counter()
    return next((time.perf_counter() - begun for text in texts if text.strip()), 0.0)


def _peak_mb() -> float:
    if sys.platform == "win32":
        return 0.0  # Windows has no getrusage
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
