"""Hold the sources and rows to their word: run every solution and its check, match every rubric, look for doubles and for leaks.

What has run and passed is remembered by a hash of its code, data and libraries, so that a second check runs only what is new.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import inspect
import io
import itertools
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from twofold import prompts, twin
from twofold.datasets import build, near, rows
from twofold.datasets.near import Asked, Leak
from twofold.datasets.phrases import QUESTIONS
from twofold.datasets.vary import varied
from twofold.types import TwofoldError

PAIRS = {"code": ("train.jsonl", "eval.jsonl"), "theory": ("train_theory.jsonl", "eval_theory.jsonl")}
"""The files of each adapter: what is trained on, what is evaluated with."""
MOST_QUESTION, MOST_CONVERSATION, MOST_ANSWER = 1_000, 6_000, 2_000  # characters; 2,048 tokens hold the longest conversation
LEAST_ANSWER = 15  # characters
MOST_BYTES = 25_000_000  # of the data folder, sources and all
LIBRARIES = ("pandas", "numpy", "scipy", "scikit-learn", "statsmodels", "matplotlib", "seaborn")
SCRIPTS: Mapping[str, str] = {"zh": r"\u4e00-\u9fff", "ja": r"\u3040-\u30ff\u4e00-\u9fff", "hi": r"\u0900-\u097f"}
"""Characters of the languages that are not written in Latin letters."""


@dataclass(frozen=True, slots=True)
class Config:
    """What `twofold data check` looks at."""

    only: str = ""
    """Check only intents or cards whose id or topic contains this."""
    samples: int = 3
    """Random fillings of each intent to run."""
    seed: int = 0
    """Seed of the fillings."""
    jobs: int = os.cpu_count() or 1
    """Processes that run code."""
    data: bool = True
    """Also check the row files when these exist."""
    folder: str = "data"
    """Where the row files are."""
    passed: str = "out/check/passed.txt"
    """Hashes of what ran and passed, which is not run again. Empty: run everything."""


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
    before = dict(os.environ)
    os.environ.update(MPLBACKEND="Agg", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", LOKY_MAX_CPU_COUNT="1")
    try:
        _preload()
        with multiprocessing.get_context("fork").Pool(jobs) as pool:
            yield from pool.imap_unordered(_run_forked, ((task, limit) for task in tasks), chunksize=4)
    finally:  # what this process starts later, such as a notebook kernel, must not inherit it
        os.environ.clear()
        os.environ.update(before)


def intent_tasks(intent: rows.Intent, known: Mapping[str, rows.Frame], samples: int, seed: int) -> Iterator[Task]:
    """Random fillings of an intent as tasks: its solution, alternatives and follow-ups."""
    rng = random.Random(f"{seed}/{intent.id}")
    for number in range(1 if intent.frame else samples):
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


def speaks(text: str, language: str) -> bool:
    """True when a text holds no script that its language (ISO 639-1) is not written in; Latin letters are everybody's."""
    own = SCRIPTS.get(language, "")
    return not re.search(rf"(?![{own or 'z'}])[{''.join(SCRIPTS.values())}]", text)


def lint_languages(source: rows.Intent | rows.Card) -> list[str]:
    """Asks in a script that is not their language's, languages of whose script there is nothing or that have no ask."""
    spoken = {"en": source.asks} | {code: (asks,) if isinstance(asks, str) else asks for code, asks in source.asks_in.items()}
    faults = [f"no ask in {code}" for code, asks in spoken.items() if not asks]
    faults += [f"ask in {code} in another script: {ask[:60]!r}" for code, asks in spoken.items() for ask in asks if not speaks(ask, code)]
    return faults + [
        f"no ask in {code} is written in its script"
        for code, script in SCRIPTS.items()
        if code in spoken and not any(re.search(f"[{script}]", ask) for ask in spoken[code])
    ]


@functools.cache
def _surroundings() -> str:
    """What decides how a task runs, beside the task: the versions of Python and its libraries, how frames are made and code is run."""
    versions = []
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    code = (inspect.getsource(one) for one in (execute, make_frames, _with_last, _write_input))
    return "\n".join((sys.version, *versions, inspect.getsource(twin), *code))


def digest(task: Task) -> str:
    """A hash of all that a task's outcome depends on; its name is not part of it."""
    return hashlib.sha256(repr((_surroundings(), task.code, task.check, task.frames, task.files)).encode()).hexdigest()[:24]


def run(tasks: Sequence[Task], jobs: int, passed: Path | None) -> tuple[dict[str, str], int]:
    """Run what has not passed before; failures by task name, and the number of tasks that ran. Passes are kept in the file `passed`."""
    from tqdm import tqdm

    known = set(passed.read_text(encoding="ascii").split()) if passed and passed.exists() else set()
    hashes = {task.name: digest(task) for task in tasks}
    fresh = [task for task in tasks if hashes[task.name] not in known]
    if passed:
        passed.parent.mkdir(parents=True, exist_ok=True)
    failed = {}
    with passed.open("a", encoding="ascii", buffering=1) if passed else contextlib.nullcontext() as out:
        for name, failure in tqdm(execute_all(fresh, jobs), total=len(fresh), desc="run", file=sys.stderr, disable=None) if fresh else ():
            if failure:
                failed[name] = failure
            elif out:
                out.write(f"{hashes[name]}\n")
    return failed, len(fresh)


def row_tasks(found: Iterable[Mapping[str, Any]], known: Mapping[str, rows.Frame]) -> list[Task]:
    """Code rows as tasks; a row's "check" holds its test, frames and files."""
    tasks = []
    for row in found:
        proof, blocks = row["check"], code_blocks(row["messages"][-1]["content"])
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


def code_blocks(text: str) -> list[str]:
    """The fenced Python blocks of an answer."""
    return re.findall(r"```python\n(.*?)```", text, re.S)


def lint_row(row: Mapping[str, Any], adapter: str) -> list[str]:
    """What is wrong with a row's form: roles, system text, lengths, language, and the answer against its own rubric."""
    turns, proof = row["messages"], row["check"]
    roles = [turn["role"] for turn in turns]
    if roles[:1] != ["system"] or len(roles) < 3 or roles[1:] != ["user", "assistant"] * (len(roles) // 2):
        return [f"roles {roles}"]
    faults = [f"empty {turn['role']} turn" for turn in turns if not turn["content"].strip()]
    systems = {prompts.SYSTEM[adapter]} | ({prompts.SYSTEM["base"]} if row["source"] == "talk" else set())
    if turns[0]["content"] not in systems:
        faults.append(f"system text {turns[0]['content'][:60]!r}")
    answer, asked = turns[-1]["content"], near.questions(row)
    for what, text, most in (
        *(("question", text, MOST_QUESTION) for text in asked),
        ("answer", answer, MOST_ANSWER),
        ("conversation", "".join(turn["content"] for turn in turns), MOST_CONVERSATION),
    ):
        if len(text) > most:
            faults.append(f"{what} of {len(text):,} characters, at most {most:,}")
    if len(answer) < LEAST_ANSWER:
        faults.append(f"answer of {len(answer)} characters, at least {LEAST_ANSWER}")
    if len(row.get("slice", "")) == 2 and not speaks(asked[0], row["slice"]):
        faults.append(f"asked in {row['slice']} in another script: {asked[0][:60]!r}")
    if adapter == "code":
        if len(code_blocks(answer)) != 1 or not re.fullmatch(r"```python\n.*\n```", answer, re.S):
            faults.append("the answer is not one Python block")
    else:
        said = "\n".join(turn["content"] for turn in turns if turn["role"] == "assistant")  # a follow-up adds to what was said
        faults += [f"must {pattern!r} is missing from the answer" for pattern in proof["must"] if not re.search(pattern, said, re.I)]
        faults += [f"must_not {pattern!r} matches the answer" for pattern in proof["must_not"] if re.search(pattern, said, re.I)]
    return faults


def doubles(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Rows whose id or whole conversation another row had before."""
    ids: set[str] = set()
    talks: dict[str, str] = {}
    faults = []
    for row in found:
        if row["id"] in ids:
            faults.append(f"{row['id']}: id used twice")
        ids.add(row["id"])
        talk = repr(row["messages"])
        if talk in talks:
            faults.append(f"{row['id']}: the same conversation as {talks[talk]}")
        talks.setdefault(talk, row["id"])
    return faults


def compare(train: Sequence[Mapping[str, Any]], held: Sequence[Mapping[str, Any]], known: Mapping[str, rows.Frame]) -> dict[str, Any]:
    """How much rows repeat each other within training, within evaluation and across (percent of rows), and every leak.

    A row counts when a row before it, or one of training, asks nearly the same (notebook and notes aside), or asks and answers nearly the
    same. `contained_*`: the largest share of a held-back question's 8-grams in any one question of training.
    """

    def share(count: int, total: int) -> float:
        return round(100 * count / max(1, total), 2)

    asked = {name: ["\n".join(near.questions(row)) for row in several] for name, several in (("train", train), ("eval", held))}
    whole = {
        name: [f"{text}\n{row['messages'][-1]['content']}" for text, row in zip(asked[name], several, strict=True)]
        for name, several in (("train", train), ("eval", held))
    }
    result: dict[str, Any] = {}
    for name in ("train", "eval"):
        twins = near.twins(asked[name])
        result[f"{name}_question_exact"] = share(sum(similarity == 1 for _, similarity in twins.values()), len(asked[name]))
        result[f"{name}_question_near"] = share(len(twins), len(asked[name]))
        result[f"{name}_question_and_answer_near"] = share(len(near.twins(whole[name])), len(asked[name]))
    result["across_question_near"] = share(len(near.twins(asked["eval"], asked["train"])), len(held))
    result["across_question_and_answer_near"] = share(len(near.twins(whole["eval"], whole["train"])), len(held))
    seen, kept = near.asked(train, known), near.asked(held, known)
    contained = near.containment(kept, seen)
    result["contained_mean"] = round(100 * sum(part for part, _ in contained) / max(1, len(contained)), 2)
    result["contained_any"] = share(sum(part > 0 for part, _ in contained), len(contained))
    result["contained_over_80"] = share(sum(part > near.CONTAINED for part, _ in contained), len(contained))
    return result | {"questions": len(kept), "leaks": near.leaks(kept, seen, contained)}


def card_wordings(card: rows.Card) -> Iterator[Asked]:
    """Every question that training may ask about a card: its asks, and each form of question with each of its names."""
    for text in (*card.asks[: -build.EVAL_ASKS], *card.asks_in.values()):
        yield Asked(card.id, card.id, text, near.plain(text))
    others = {
        "versus": ("{other}", [one["other"] for one in card.versus]),
        "misconception": ("{claim}", [one["claim"].rstrip(".") for one in card.misconceptions]),
    }
    for kind, forms in QUESTIONS.items():
        mark, values = others.get(kind, ("{other}", [""]))
        for form in forms:
            wording = near.plain(form.replace("{name}", "qname").replace(mark, "qother"))  # the same for all names: made once
            for name, value in itertools.product(card.names if "{name}" in form else card.names[:1], values):
                filled = wording.replace("qname", " ".join(near.words(name))).replace("qother", " ".join(near.words(value)))
                yield Asked(card.id, card.id, form.replace("{name}", name).replace(mark, value), filled)


def intent_wordings(intent: rows.Intent) -> tuple[list[str], list[str]]:
    """What training and what the evaluation may ask of an intent, each slot as a word of its own, which no other intent has."""
    own = {slot: re.sub(r"\W", "_", f"{intent.id}_{slot}") for slot in intent.slots}
    several = [(intent.asks, build.EVAL_ASKS), *((asks, 1) for asks in intent.asks_in.values())]
    said = [([Template(ask).safe_substitute(own) for ask in asks], kept) for asks, kept in several]
    return [ask for asks, kept in said for ask in asks[:-kept]], [ask for asks, kept in said for ask in asks[-kept:]]


def source_leaks(intents: Iterable[rows.Intent], cards: Iterable[rows.Card]) -> list[Leak]:
    """Wordings kept for evaluation that are too near to one that training may use, whatever rows happen to be drawn."""
    frozen = build.heldout()
    seen: list[Asked] = []
    held: list[Asked] = []
    for intent in intents:
        trained, kept = intent_wordings(intent)
        slots = [re.sub(r"\W", "_", f"{intent.id}_{slot}") for slot in intent.slots]
        for texts, where in ((trained, held if intent.id in frozen else seen), (kept, held)):
            where += (Asked(intent.id, intent.id, text, near.plain(text, slots)) for text in texts)
    found = near.leaks(held, seen)
    seen, held = [], []
    for card in cards:
        last = card.asks if card.id in frozen else card.asks[-build.EVAL_ASKS :]
        held += (Asked(card.id, card.id, text, near.plain(text)) for text in last)
        if card.id not in frozen:
            seen += card_wordings(card)
    return found + near.leaks(held, seen)


def check_rows(folder: Path, only: str, known: Mapping[str, rows.Frame]) -> tuple[list[str], list[Task]]:
    """The faults of the row files that reading finds, and the code rows as tasks. only: look at rows whose id contains this, one by one."""
    faults, tasks = [], []
    for adapter, (train, held) in PAIRS.items():
        seen, kept = (rows.read(folder / name) if (folder / name).exists() else [] for name in (train, held))
        for row in (row for row in (*seen, *kept) if only in row["id"]):
            faults += [f"{row['id']}: {fault}" for fault in lint_row(row, adapter)]
            tasks += row_tasks([row], known) if adapter == "code" else []
        if not only and (seen or kept):
            faults += doubles([*seen, *kept])
            measured = compare(seen, kept, known)
            faults += map(str, measured.pop("leaks"))
            print(f"{adapter}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in measured.items()))
    return faults, tasks


def check_sources(config: Config, known: Mapping[str, rows.Frame]) -> tuple[list[str], list[Task], str]:
    """The faults of the sources that reading finds, their code as tasks, and how many sources there are in words."""
    intents = [intent for intent in rows.intents() if config.only in f"{intent.id} {intent.topic}"]
    cards = [card for card in rows.cards() if config.only in f"{card.id} {card.topic}"]
    faults = [f"{intent.id}: {fault}" for intent in intents for fault in (*lint_intent(intent), *lint_languages(intent))]
    faults += [f"{card.id}: {fault}" for card in cards for fault in (*lint_card(card), *lint_languages(card))]
    faults += map(str, source_leaks(intents, cards))
    seen: set[str] = set()
    for name in (*(intent.id for intent in intents), *(card.id for card in cards)):
        if name in seen:
            faults.append(f"{name}: id used twice")
        seen.add(name)
    tasks: list[Task] = []
    plain = [one for one in rows.asked() if config.only in f"{one.id} {one.topic}"]
    faults += [f"{one.id}: {len(set(one.asks))} different asks, 4 wanted" for one in plain if len(set(one.asks)) < 4]
    for intent in (*intents, *plain):
        try:
            tasks += intent_tasks(intent, known, config.samples, config.seed)
        except TwofoldError as error:
            faults.append(f"{intent.id}: {error}")
    tasks += [Task(f"{card.id} demo", card.demo, "", ()) for card in cards if card.demo]
    daily = [one for one in rows.tasks() if config.only in one.id]
    faults += [f"{one.id}: {len(set(one.asks))} different asks, 4 wanted" for one in daily if len(set(one.asks)) < 4]
    for number, one in enumerate(daily):  # as it is, and as somebody else would pose it
        for name, posed in ((one.id, one), (f"{one.id} varied", varied(one, random.Random(number)))):
            tasks.append(Task(name, posed.solution, posed.check, (("df", posed.frame),) if posed.frame else ()))
    return faults, tasks, f"{len(intents)} intents, {len(plain)} everyday questions, {len(daily)} everyday tasks, {len(cards)} cards"


def main(config: Config) -> int:
    """Check sources and rows, print what is wrong, return the number of faults."""
    started = time.perf_counter()
    known, folder = rows.frames(), Path(config.folder)
    faults, tasks, counted = check_sources(config, known)
    if config.data:
        more, row_runs = check_rows(folder, config.only, known)
        faults, tasks = faults + more, tasks + row_runs
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size > MOST_BYTES:
            faults.append(f"{folder} has {size:,} bytes, at most {MOST_BYTES:,}")
    failed, ran = run(tasks, config.jobs, Path(config.passed) if config.passed else None)
    faults += [f"{name}: {failure}" for name, failure in sorted(failed.items())]
    print("\n".join(faults) or "no faults")
    seconds = time.perf_counter() - started
    print(f"{counted}, {len(tasks)} pieces of code, {ran} run now, {len(failed)} failed, {len(faults)} faults, {seconds:.0f} s")
    return len(faults)
