"""Measure the sandbox: `python -m twofold.sandbox.bench` writes results/sandbox.json and the table of layers in docs/sandbox.md.

One run of a cell that costs nothing, against a new interpreter that imports what the zygote holds ready; and the attacks of
tests/escape, as who one is and, for root, as an ordinary user too. Times depend on what else the machine does, so both sides are
measured in turn, in one run.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twofold import sandbox
from twofold.sandbox import zygote

ROOT = Path(__file__).parents[3]
SUITE = ROOT / "tests" / "escape"
BEGIN, END = "<!-- layers: written by python -m twofold.sandbox.bench -->", "<!-- end of layers -->"
OFF: tuple[tuple[str, ...], ...] = (
    ("namespaces",),
    ("user",),
    ("rlimits",),
    ("landlock",),
    ("seccomp",),
    ("namespaces", "landlock"),
    ("namespaces", "landlock", "user"),
)
"""What is left out in turn. seccomp is only left out alone: without it and something else, some attacks would do harm."""


def fresh(modules: Sequence[str] = zygote.PRELOAD) -> float:
    """Seconds that a new interpreter takes to import the preloaded libraries and end."""
    code = (
        "import importlib\nfor name in " + repr(modules) + ":\n    try: importlib.import_module(name)\n    except ImportError: pass\n1 + 1"
    )
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-I", "-c", code], check=True, env={"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "HOME": os.path.expanduser("~")}
    )
    return time.perf_counter() - started


def speed(runs: int, rounds: int) -> dict[str, Any]:
    """median_ms and p95_ms of a run after a pause of 20 ms, fresh_ms of a fresh interpreter, in turn; then runs without a pause."""
    warm, cold = [], []
    with sandbox.Sandbox() as box:
        box.run("1 + 1")
        for _ in range(rounds):
            cold.append(fresh())
            for _ in range(runs // rounds):
                started = time.perf_counter()
                outcome = box.run("1 + 1")
                warm.append(time.perf_counter() - started)
                assert outcome.result == "2", outcome
                time.sleep(0.02)  # a notebook pauses between cells as well
        straight = []
        for _ in range(runs // 2):
            started = time.perf_counter()
            box.run("1 + 1")
            straight.append(time.perf_counter() - started)
        level = box.level()
    warm.sort()
    median, p95 = statistics.median(warm), warm[int(len(warm) * 0.95)]
    times = {"median_ms": median, "p95_ms": p95, "fresh_ms": statistics.median(cold), "without_pause_ms": statistics.median(straight)}
    told: dict[str, Any] = {name: round(value * 1e3, 1) for name, value in times.items()}
    return told | {"times_faster": round(statistics.median(cold) / median, 1), "level": level}


def _suite() -> Any:
    spec = importlib.util.spec_from_file_location("escape_suite", SUITE / "suite.py")
    if spec is None or spec.loader is None or not (SUITE / "suite.py").is_file():
        raise SystemExit("the attacks are in tests/escape of the repository: run this in a checkout")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def layers(suite: Any, threads: int) -> str:
    """The table of what gets out without each layer, as Markdown."""
    lines = ["| without | contained | what then gets out |", "|---|---|---|"]
    for off in ((), *OFF):
        results = suite.run(off, threads)
        out = [name for name, what in results.items() if what]
        print(f"without {' + '.join(off) or 'nothing'}: {len(results) - len(out)} of {len(results)}", file=sys.stderr)
        lines.append(f"| {' + '.join(off) or '(all on)'} | {len(results) - len(out)} of {len(results)} | {'; '.join(out) or 'nothing'} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write, and say what was found."""
    parser = argparse.ArgumentParser(prog="python -m twofold.sandbox.bench", description="Measure speed and strength of the sandbox.")
    parser.add_argument("--runs", type=int, default=100, help="warm runs")
    parser.add_argument("--threads", type=int, default=3, help="attacks at a time")
    parser.add_argument("--layers", action="store_true", help="also switch off each layer in turn and write the table (minutes)")
    arguments = parser.parse_args()
    result: dict[str, Any] = dict(speed(arguments.runs, 5))
    suite = _suite()
    found = suite.run((), arguments.threads)
    result |= {"attacks": len(found), "contained": sum(not what for what in found.values())}
    if os.geteuid() == 0:
        other = json.loads(subprocess.run([sys.executable, SUITE / "ordinary.py"], check=True, stdout=subprocess.PIPE, timeout=600).stdout)
        result |= {"ordinary_user": {name: other[name] for name in ("uid", "level", "attacks", "contained")}}
    result |= {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }
    text = json.dumps(result, indent=1)
    (ROOT / "results").mkdir(exist_ok=True)
    (ROOT / "results" / "sandbox.json").write_text(text + "\n")
    print(text)
    if arguments.layers:
        page = ROOT / "docs" / "sandbox.md"
        head, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{head}{BEGIN}\n{layers(suite, arguments.threads)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
