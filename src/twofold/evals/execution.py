"""Run code answers: does each parse, run without an error (ExecPass), and pass the check of its row (CheckPass)?

Limits: an answer runs as this user, in a forked process with a time limit and a working directory of its own; nothing else holds it back.
"""

import ast
import multiprocessing
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from twofold.clean import code_of
from twofold.datasets import check, rows

LIMIT = 20.0
"""Seconds that one answer may run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one code answer. Each step needs the one before."""

    parsed: bool
    executed: bool = False
    """It ran without an error."""
    checked: bool = False
    """Its row's check held."""
    failure: str = ""
    """The first thing that went wrong, in a line; "" when nothing did."""


def score_all(answers: Iterable[tuple[str, Mapping[str, Any]]], jobs: int = 2) -> list[Outcome]:
    """Run the code of many answers, each with its chat row, over `jobs` processes. Linux and macOS."""
    faults: dict[str, str] = {}
    tasks: list[check.Task] = []
    asked, known = list(answers), rows.frames()
    for number, (text, row) in enumerate(asked):
        proof, code = row["check"], code_of(text)
        if fault := _fault(code):
            faults[str(number)] = fault
        else:
            tasks.append(
                check.Task(
                    str(number), code, proof["test"], tuple(rows.behind(proof["frames"], known).items()), tuple(proof["files"].items())
                )
            )
    # A new process: one forked from here would inherit torch's OpenMP, whose threads do not survive a fork.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        found = fresh.submit(_run, tasks, jobs).result() if tasks else {}
    return [_outcome(faults.get(str(number), ""), found.get(str(number), "")) for number in range(len(asked))]


def _fault(code: str) -> str:
    if not code.strip():
        return "no code"
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _run(tasks: list[check.Task], jobs: int) -> dict[str, str]:
    return dict(check.execute_all(tasks, jobs, LIMIT))


def _outcome(fault: str, failure: str) -> Outcome:
    if fault:
        return Outcome(False, failure=fault)
    return Outcome(True, not failure or failure.startswith("check "), not failure, failure)
