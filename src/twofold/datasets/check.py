"""Hold the sources and rows to their word: run every solution and its check, match every rubric."""

import ast
import contextlib
import io
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold import twin
from twofold.datasets import rows
from twofold.types import TwofoldError


@dataclass(frozen=True, slots=True)
class Config:
    """What `twofold data check` looks at."""

    only: str = ""
    """Check only intents or cards whose id or topic contains this."""
    samples: int = 3
    """Random fillings of each intent to run."""
    seed: int = 0
    """Seed of the fillings."""
    jobs: int = 2
    """Processes that run code."""
    data: bool = True
    """Also run the rows of data/*.jsonl when these exist."""


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of code to run: the frames behind its variables, its input files, its check."""

    name: str
    code: str
    check: str
    frames: tuple[tuple[str, rows.Frame], ...]
    files: tuple[tuple[str, str], ...] = ()


def make_frames(behind: Mapping[str, rows.Frame], seed: int = 1) -> dict[str, Any]:
    """DataFrames for the variables of a task; ids of referenced frames agree."""
    return {variable: twin.make(frame.columns, seed) for variable, frame in behind.items()}


def _write_input(path: Path, frame: Any) -> None:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".xlsx":
        frame.to_excel(path, index=False)
    elif path.suffix == ".json":
        frame.to_json(path, orient="records", date_format="iso")
    elif path.suffix == ".parquet":
        frame.to_parquet(path)


def _with_last(code: str) -> ast.Module:
    tree = ast.parse(code)
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = tree.body[-1]
        tree.body[-1] = ast.copy_location(ast.Assign([ast.Name("_last", ast.Store())], last.value), last)
        ast.fix_missing_locations(tree)
    return tree


def execute(task: Task) -> str:
    """Run a task in this process, in a fresh working directory. Returns "" or what went wrong, one to a few lines."""
    import matplotlib.pyplot as plt
    import numpy as np

    np.random.seed(0)
    random.seed(0)
    frames = make_frames(dict(task.frames))
    first = next(iter(frames.values()), None)
    space: dict[str, Any] = {"__name__": "__main__", **frames, "_last": None, "_before": None if first is None else first.copy(deep=True)}
    out = io.StringIO()
    plt.close("all")
    stage = "solution"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(out):
        try:
            for name, variable in task.files:
                _write_input(Path(name), frames[variable])
            exec(compile(_with_last(task.code), "<solution>", "exec"), space)  # noqa: S102  running the row is the point
            stage = "check"
            space |= {"_out": out.getvalue(), "plt": plt}
            exec(compile(task.check, "<check>", "exec"), space)  # noqa: S102  so is its check
        except BaseException as error:  # noqa: BLE001  anything a row does is the row's failure
            lines = [
                f"line {frame.lineno}" for frame in traceback.extract_tb(error.__traceback__) if frame.filename in ("<solution>", "<check>")
            ]
            where = lines[-1] if lines else ""
            source = (task.code if stage == "solution" else task.check).splitlines()
            number = int(where[5:]) if where else 0
            quoted = source[number - 1].strip() if 0 < number <= len(source) else ""
            return f"{stage} {where}: {type(error).__name__}: {str(error)[:300]}  | {quoted}"
    return ""


def _run_forked(args: tuple[Task, float]) -> tuple[str, str]:
    """Run one task in a forked child with a time limit, so that no row can harm the next."""
    task, limit = args
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        signal.alarm(int(limit))
        try:
            result = execute(task)
        except BaseException as error:  # noqa: BLE001  the child must report and end
            result = f"{type(error).__name__}: {error}"
        os.write(writer, b"." + result.encode(errors="replace")[:4000])  # nothing at all comes from a row that ends the process
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        result = pipe.read().decode(errors="replace")
    status = os.waitpid(child, 0)[1]
    ended = f"killed by signal {os.WTERMSIG(status)} (limit {limit:.0f} s)" if os.WIFSIGNALED(status) else "ended the process"
    return task.name, result[1:] if result else ended


def _preload() -> None:
    import warnings

    warnings.simplefilter("ignore")
    for module in (
        "matplotlib.pyplot",
        "pandas",
        "scipy.stats",
        "seaborn",
        "sklearn.ensemble",
        "sklearn.linear_model",
        "sklearn.model_selection",
        "sklearn.pipeline",
        "sklearn.compose",
        "sklearn.metrics",
        "sklearn.cluster",
        "sklearn.decomposition",
        "statsmodels.api",
    ):
        with contextlib.suppress(ImportError):
            __import__(module)


def execute_all(tasks: Iterable[Task], jobs: int = 2, limit: float = 30.0) -> Iterator[tuple[str, str]]:
    """Yield (task name, "" or failure) as tasks end, over `jobs` processes. Linux and macOS (it forks)."""
    os.environ.update(MPLBACKEND="Agg", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", LOKY_MAX_CPU_COUNT="1")
    _preload()
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(_run_forked, ((task, limit) for task in tasks), chunksize=4)


def intent_tasks(intent: rows.Intent, known: Mapping[str, rows.Frame], samples: int, seed: int) -> Iterator[Task]:
    """Random fillings of an intent as tasks: its solution, alternatives and follow-ups."""
    rng = random.Random(f"{seed}/{intent.id}")
    for number in range(samples):
        filled = rows.fill(intent, known, rng)
        behind = tuple(filled.frames.items())
        pairs = [("", intent.solution, intent.check)]
        pairs += [(f" alternative {i + 1}", text, intent.check) for i, text in enumerate(intent.alternatives)]
        pairs += [(f" follow {i + 1}", one.solution, one.check) for i, one in enumerate(intent.follow)]
        for label, solution, check in pairs:
            code = rows.substitute(solution, filled.code).strip()
            yield Task(f"{intent.id}{label} #{number}", code, rows.substitute(check, filled.code), behind, tuple(filled.files.items()))


def lint_intent(intent: rows.Intent) -> list[str]:
    """What an intent's form lacks, by data/sources/README.md."""
    faults = []
    if len(set(intent.asks)) < 10:
        faults.append(f"{len(set(intent.asks))} different asks, 10 wanted")
    for text in (*intent.asks, *(ask for one in intent.follow for ask in one.asks), intent.solution, intent.check):
        unknown = rows.mentioned(text) - set(intent.slots)
        if unknown:
            faults.append(f"unknown slots {sorted(unknown)} in {text[:60]!r}")
    if len(intent.solution.strip().splitlines()) > 25:
        faults.append("solution longer than 25 lines")
    if not intent.check.strip():
        faults.append("no check")
    return faults


def lint_card(card: rows.Card) -> list[str]:
    """What a card's form lacks, and where its own rubric fails on its own text."""
    wanted = {
        "definition": 3,
        "intuition": 2,
        "how": 2,
        "why": 2,
        "when": 2,
        "pitfalls": 3,
        "example": 1,
        "misconceptions": 3,
        "asks": 6,
        "must": 2,
        "must_not": 1,
    }
    faults = [f"{len(getattr(card, name))} {name}, {count} wanted" for name, count in wanted.items() if len(getattr(card, name)) < count]
    faults += [f"no name in {code}" for code in ("es", "fr", "de", "pt", "zh", "ja", "hi") if not card.names_in.get(code)]
    text = "\n".join(
        (
            *card.definition,
            *card.intuition,
            *card.how,
            *card.why,
            *card.when,
            *card.pitfalls,
            *card.example,
            card.formula,
            *(one["text"] for one in card.versus),
            *(one["truth"] for one in card.misconceptions),
        )
    )
    for pattern in card.must:
        if not all(re.search(pattern, one, re.I) for one in card.definition) and not any(re.search(pattern, one, re.I) for one in card.how):
            faults.append(f"must {pattern!r} is missing from a definition and from every how")
    faults += [f"must_not {pattern!r} matches the card's own text" for pattern in card.must_not if re.search(pattern, text, re.I)]
    return faults


def main(config: Config) -> int:
    """Check sources and rows, print what is wrong, return the number of faults."""
    from tqdm import tqdm

    known = rows.frames()
    intents = [intent for intent in rows.intents() if config.only in f"{intent.id} {intent.topic}"]
    cards = [card for card in rows.cards() if config.only in f"{card.id} {card.topic}"]
    faults = [f"{intent.id}: {fault}" for intent in intents for fault in lint_intent(intent)]
    faults += [f"{card.id}: {fault}" for card in cards for fault in lint_card(card)]
    seen: set[str] = set()
    for name in (*(intent.id for intent in intents), *(card.id for card in cards)):
        if name in seen:
            faults.append(f"{name}: id used twice")
        seen.add(name)
    tasks: list[Task] = []
    for intent in intents:
        try:
            tasks += intent_tasks(intent, known, config.samples, config.seed)
        except TwofoldError as error:
            faults.append(f"{intent.id}: {error}")
    tasks += [Task(f"{card.id} demo", card.demo, "", ()) for card in cards if card.demo]
    if config.data:
        tasks += row_tasks(rows.ROOT / "data", config.only)
    started = time.perf_counter()
    runs = tqdm(execute_all(tasks, config.jobs), total=len(tasks), desc="run", file=sys.stderr, disable=None)
    failed = {name: failure for name, failure in runs if failure}
    faults += [f"{name}: {failure}" for name, failure in sorted(failed.items())]
    print("\n".join(faults))
    seconds = time.perf_counter() - started
    print(f"{len(intents)} intents, {len(cards)} cards, {len(tasks)} runs, {len(failed)} failed, {len(faults)} faults, {seconds:.0f} s")
    return len(faults)


def row_tasks(folder: Path, only: str = "") -> list[Task]:
    """The code rows of train.jsonl and eval.jsonl as tasks; a row's "check" holds its code, frames and files."""
    known, tasks = rows.frames(), []
    for name in ("train.jsonl", "eval.jsonl"):
        for row in rows.read(folder / name) if (folder / name).exists() else ():
            proof = row["check"]
            if only in row["id"]:
                blocks = re.findall(r"```python\n(.*?)```", row["messages"][-1]["content"], re.S)
                tasks.append(
                    Task(
                        row["id"],
                        blocks[-1] if blocks else "raise ValueError('no code block')",
                        proof["test"],
                        tuple(rows.behind(proof["frames"], known).items()),
                        tuple(map(tuple, proof["files"].items())),
                    )
                )
    return tasks
