"""The ladder that a code answer climbs before it is shown as proved.

parses -> names resolve -> runs on a twin -> checks pass -> ran on your data. `climb` takes one answer up, with small repairs on the way,
and says in a Verdict where it stopped; `choose` picks among the verdicts of several answers by votes. A right answer must
never fail a rung: where a check cannot be sure, it passes, and where an answer cannot be tried here (it wants the network, a file that
nobody has) the ladder ends without a failure.
"""

import ast
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from keyword import iskeyword
from pathlib import Path
from typing import Any

from twofold import notebook as schemas
from twofold import sandbox, twin
from twofold.sandbox import Limits, Outcome
from twofold.types import RUNGS
from twofold.verify import checks, convert, inputs, levels, link, names, repair
from twofold.verify.guess import VARIANTS, guess

PARSES, RESOLVES, RUNS, CHECKS, OWN = RUNGS
LIMITS = Limits(wall=15.0, cpu=12)
LARGEST = 64 << 20
"""Bytes of a frame that is still copied into a run; of a larger one code is tried on the twin alone."""
MOST_REPAIRS = 6
MOST_SPELT = 8
SAMPLE = 50_000
"""Rows of a large frame that its twin is drawn from."""
_FACTS = (Path(__file__).parent / "facts.py").read_text(encoding="utf-8") + "\nprint(facts(globals(), _last, _twofold_kept))\n"
_CELL_LINE = re.compile(r'(File "<cell>", line )(\d+)')

Frames = Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Ground:
    """What a run has besides frames, and what it cannot have; see the fields of a Request with the same names."""

    setup: Mapping[str, str] = field(default_factory=dict)
    bound: frozenset[str] = frozenset()

    def statements(self, free: Iterable[str]) -> str:
        """The statements for the names that code reads."""
        return "".join(f"{self.setup[name]}\n" for name in free if name in self.setup)


NOTHING = Ground()


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far one answer came."""

    code: str
    """The code as it is now, repairs done."""
    passed: tuple[str, ...] = ()
    """Rungs passed, lowest first."""
    failed: str = ""
    """The rung that failed; "" when none did."""
    reason: str = ""
    """Why it failed, in a line; with nothing failed, why the ladder ended where it did ("" at its top)."""
    line: int = 0
    """The line of the code where it failed; 0 when none is known."""
    error: str = ""
    """The traceback or message, for a turn that asks for a repair."""
    run: Outcome | None = None
    """The last run: on the user's data where there is one, else on the twin."""
    repairs: tuple[str, ...] = ()
    """What was repaired, in words."""
    signature: str = ""
    """Equal for answers whose runs had equal results; "" when nothing ran well."""
    unused: tuple[str, ...] = ()
    """Columns that the question means and names that it spells out which the code does not hold: no failure, but reason to try others."""
    changes: tuple[str, ...] = ()
    """What the run left different in the frames it was given, in words."""

    @property
    def good(self) -> bool:
        """True when no rung failed."""
        return not self.failed


def climb(code: str, question: str, frames: Frames = (), notebook: str = "", *, run: bool = True, ground: Ground = NOTHING) -> Verdict:
    """Take code up the ladder, repairing what the table of `repair` can. frames: (name, DataFrame) pairs, of which copies are run on;
    notebook: their schema as text, or that of frames which are not at hand; ground: the other variables. run=False ends after the names.

    Raises TwofoldError when the sandbox cannot start.
    """
    done: tuple[str, ...] = ()
    seen = {code}
    first = verdict = _attempt(code, question, frames, notebook, run, ground)
    while verdict.failed and len(done) < MOST_REPAIRS:
        fixed = _repaired(verdict, question, frames, notebook, ground)
        if fixed is None or fixed.code in seen:
            break
        seen.add(fixed.code)
        done = (*done, fixed.words)
        verdict = _attempt(fixed.code, question, frames, notebook, run, ground)
    if verdict.failed and len(verdict.passed) <= len(first.passed):
        verdict, done = first, ()  # half a repair that leads nowhere is no repair: show what was written
    return replace(verdict, repairs=done, unused=unused(verdict.code, question, known_columns(frames, notebook, ground)))


def choose(verdicts: Sequence[Verdict]) -> Verdict:
    """The best of several verdicts: most rungs passed, then fewest names unused, then most votes of equal results, then the earliest."""

    def rank(one: Verdict) -> tuple[float, int]:
        return len(one.passed) - bool(one.failed) * 0.5, -len(one.unused)

    best = max(map(rank, verdicts))
    top = [one for one in verdicts if rank(one) == best]
    votes = Counter(one.signature for one in top if one.signature)
    return max(top, key=lambda one: votes[one.signature] if one.signature else 0)


_LISTED = re.compile(r"^[^.\n]{0,70}?[\w ]+(?:, [\w ]+){3,}[.):]+", re.I)  # "df has these columns: a, b, c, d."
_SPELT = re.compile(r"`([^`\n]{2,40})`|(?<![\w.])([a-z]\w*_\w+)(?![\w.(])", re.I | re.A)


def unused(code: str, question: str, columns: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """The columns that a question means (`link.meant`) and the names that it spells out (an underscore, backticks) which the code does not
    hold.

    What lists the columns before it asks, or brings code of its own, means none by that.
    """
    if "```" in question:
        return ()
    asked = _LISTED.sub("", question)
    spelt = {name for names in columns.values() for name in link.meant(asked, names) if len(name) > 2}
    spelt |= {name for pair in _SPELT.findall(asked) for name in pair if name}
    return tuple(sorted(name for name in spelt if name not in code)) if len(spelt) <= MOST_SPELT else ()


def may_run(consent: bool) -> str:
    """ "" when code may be run, else why not: below the level "strong" the user must have asked for it. Raises as `climb`."""
    level = sandbox.level()
    return "" if consent or level == "strong" else f"not run: the sandbox is only {level} on this machine"


def known_columns(frames: Frames, notebook: str, ground: Ground = NOTHING) -> dict[str, frozenset[str]]:
    """All column names of each frame that is known whole."""
    found = {name: set(schema.columns) for name, schema in schemas.parse(notebook).items() if schema.complete}
    found |= {name: {str(column) for column in frame.columns} for name, frame in frames if name not in ground.setup}
    return {name: frozenset(columns) for name, columns in found.items()}


def _repaired(verdict: Verdict, question: str, frames: Frames, notebook: str, ground: Ground) -> repair.Fixed | None:
    columns = known_columns(frames, notebook, ground)
    if verdict.failed == RESOLVES:
        fault = _first_fault(ast.parse(verdict.code), question, frames, notebook, ground)
        return repair.for_fault(verdict.code, fault, columns, question) if fault else None
    if verdict.failed == CHECKS:
        return levels.mended(verdict.code, question, frames) or (repair.sort_turned(verdict.code, verdict.line) if verdict.line else None)
    if verdict.failed in (RUNS, OWN):
        read = convert.converted(verdict.code, verdict.error, frames)
        return read or repair.for_error(verdict.code, verdict.error, verdict.line, columns, question)
    return None


def _attempt(code: str, question: str, frames: Frames, notebook: str, run: bool, ground: Ground) -> Verdict:
    """Take code up the ladder once, as it is."""
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        return Verdict(code, (), PARSES, f"{error.msg} (line {error.lineno})", error.lineno or 0, f"SyntaxError: {error}")
    except (ValueError, RecursionError, MemoryError) as error:
        return Verdict(code, (), PARSES, f"Python cannot read it: {error}", error=f"{type(error).__name__}: {error}")
    fault = _first_fault(tree, question, frames, notebook, ground)
    if fault is not None:
        return Verdict(code, (PARSES,), RESOLVES, fault.reason, fault.line, f"line {fault.line}: {fault.reason}")
    passed: tuple[str, ...] = (PARSES, RESOLVES)
    if not run:
        return Verdict(code, passed, reason="not run")
    if why := inputs.out_of_reach(tree):
        return Verdict(code, passed, reason=f"not run: {why}")
    free = list(names.free(tree))
    if away := sorted(ground.bound & set(free)):
        return Verdict(code, passed, reason=f"not run: it reads your {', '.join(away)}, which a run cannot have")
    frames = [pair for pair in frames if pair[0] in free] or frames[:1]  # the others need no copy
    large = [name for name, frame in frames if _bytes(frame) > LARGEST]
    on_twin, on_own = _on_twins(code, tree, question, frames, notebook, free, ground), None
    if (
        frames
        and not large
        and not on_twin.outcome.stopped
        and (not on_twin.outcome.ok or set(free) & {name for name, _ in frames} or inputs.files(tree))
    ):
        on_own = _go(code, tree, frames, _others(free, frames, question, notebook, code, ground), ground)
    if not on_twin.outcome.ok and not (on_own and on_own.outcome.ok):
        worse = on_own if on_own and _beyond(on_twin.outcome) else on_twin
        if why := _beyond(worse.outcome):
            return Verdict(code, passed, reason=f"not run to its end: {why}", line=worse.outcome.line, run=worse.outcome)
        return _failed(code, passed, RUNS, worse.outcome)
    if on_twin.outcome.ok:
        passed = (*passed, RUNS)
    for one in (on_twin, on_own):
        if one is None or not one.outcome.ok:
            continue
        why, line = _wrong(question, tree, one, with_result=one is on_own)
        if not why and (strange := next(levels.unknown(tree, question, frames), None)):
            why, line = str(strange), strange.literal.lineno
        if why:
            return Verdict(code, passed, CHECKS, why, line, why, run=one.outcome)
    passed = (*passed, CHECKS)
    if on_own is None:
        reason = f"your {', '.join(large)} is too large to copy, so it ran on a made-up twin" if large else ""
        return Verdict(code, passed, reason=reason, run=on_twin.outcome, signature=_signature(on_twin), changes=_changes(on_twin, frames))
    if not on_own.outcome.ok:
        if why := _beyond(on_own.outcome):
            return Verdict(
                code, passed, reason=f"not run to its end on your data: {why}", run=on_twin.outcome, signature=_signature(on_twin)
            )
        return _failed(code, passed, OWN, on_own.outcome)
    return Verdict(code, (*passed, OWN), run=on_own.outcome, signature=_signature(on_own), changes=_changes(on_own, frames))


def _bytes(frame: Any) -> int:
    return int(frame.memory_usage(index=True, deep=False).sum())


def _first_fault(tree: ast.Module, question: str, frames: Frames, notebook: str, ground: Ground) -> names.Fault | None:
    """The first name that does not resolve. A variable that nobody told of may be one of the user's, where the user's are not known."""
    columns = known_columns(frames, notebook, ground)
    told = {*columns, *schemas.parse(notebook)}
    free = names.free(tree)
    theirs = {name for name in free if re.search(rf"\b{re.escape(name)}\b", question)}
    if not told:
        theirs |= {name for name in free if inputs.may_be_data(tree, name) and name not in repair.COMMON}
    else:
        theirs |= {name for name in free if inputs.is_split(name)}
    given = {*theirs, *told, *ground.setup, *ground.bound}
    found = names.faults(tree, {name: columns[name] for name in columns if name in free}, given)
    return found[0] if found else None


# runs


@dataclass(frozen=True, slots=True)
class _Went:
    """One run, what was asked of it afterwards, and how many pictures it left."""

    outcome: Outcome
    facts: Mapping[str, Any]


def _changes(went: _Went, frames: Frames) -> tuple[str, ...]:
    """What a run left different in the given frames, one line each."""
    told = went.facts.get("changes")
    given = {name for name, _ in frames}
    pairs = told.items() if isinstance(told, dict) else ()
    return tuple(f"{name}: {how[:300]}" for name, how in pairs if name in given and isinstance(how, str) and how)


def _on_twins(code: str, tree: ast.Module, question: str, frames: Frames, notebook: str, free: Sequence[str], ground: Ground) -> _Went:
    """Run on twins until one run ends well: with traps first, then without, and for guessed frames with what was left open chosen anew.

    A twin is made up, so that only what fails on every one of them counts as the code's fault; the first failure is told.
    """
    first: _Went | None = None
    guessed = _guessed(free, frames, ground)
    more: tuple[str, ...] = ()
    for variant in range(VARIANTS if guessed else 2):
        own = [(name, twin.of(schemas.sampled(frame, SAMPLE), traps=variant == 0)) for name, frame in frames]
        for _ in range(4):
            went = _go(code, tree, own, _others(free, frames, question, notebook, code, ground, variant, more), ground, variant, more)
            if went.outcome.ok:
                return went
            wanted = [
                name
                for name in repair.missing_columns(went.outcome.error)
                if name not in more and re.search(rf"\b{re.escape(name)}\b", code)
            ]
            if not guessed or not wanted:
                break
            more = (*more, *wanted)
        if first is None or _beyond(first.outcome):
            first = went
        if not _may_be_the_twins_fault(went.outcome):
            break
    assert first is not None
    return first


def _guessed(free: Sequence[str], frames: Frames, ground: Ground) -> bool:
    """True when the run needs values that nobody gave: those of a frame known by its schema alone, or not at all."""
    return not frames or bool(set(free) - {name for name, _ in frames} - {*ground.setup})


def _may_be_the_twins_fault(outcome: Outcome) -> bool:
    """False for errors that no other data could mend: a name, an attribute of a module, an argument that does not exist."""
    if outcome.stopped:
        return False
    last = outcome.error.rpartition("\n")[2]
    return not re.match(
        r"(NameError|ImportError|ModuleNotFoundError|SyntaxError|AttributeError: module|.*unexpected keyword argument)", last
    )


def _others(
    free: Sequence[str],
    frames: Frames,
    question: str,
    notebook: str,
    code: str,
    ground: Ground = NOTHING,
    variant: int = 0,
    more: Sequence[str] = (),
) -> dict[str, Any]:
    """Frames that are wanted and not given: those of the notebook's schema, and names of which nothing is known."""
    given = {*ground.setup, *(name for name, _ in frames)}
    wanted = [name for name in free if name not in given]
    made = guess(question, notebook, code, wanted or (() if frames else ("df",)), more=more, variant=variant)
    return {name: frame for name, frame in made.items() if name not in given and (name in wanted or not frames)}


def _go(
    code: str,
    tree: ast.Module,
    frames: Frames,
    others: Mapping[str, Any],
    ground: Ground,
    variant: int = 0,
    more: Sequence[str] = (),
) -> _Went:
    """One run: frames by name, files that the code reads, the rest of the notebook, the answer, then the facts."""
    every = {**dict(frames), **others}
    shaped = {name: frame for name, frame in every.items() if name.isidentifier() and not iskeyword(name)}
    whole = next(iter([*dict(frames).values(), *others.values()]), None)
    with tempfile.TemporaryDirectory(prefix="twofold-inputs-") as folder:
        paths, prepare = inputs.write(tree, code, whole, Path(folder), variant, more)
        plain = {name: frame for name, frame in shaped.items() if name not in ground.setup}
        kept = ", ".join(f"{name!r}: ({name}, {name}.copy(deep=True))" for name in plain)
        prelude = f"_twofold_kept = {{{kept}}}\n{prepare}{inputs.reshape(tree, plain)}{ground.statements(names.free(tree))}"
        prelude += "import random as _r, numpy as _n\n_r.seed(0); _n.random.seed(0)\ndel _r, _n\n"
        body = re.sub(r"^(\s*)from __future__ import .*$", r"\1pass", code, flags=re.M)
        text = f"exec({prelude!r})\n{body}"
        outcome = sandbox.run(text, frames=list(shaped.items()), files=paths, limits=LIMITS, after=_FACTS)
    error = _CELL_LINE.sub(lambda match: f"{match[1]}{int(match[2]) - 1}", outcome.error)
    outcome = replace(outcome, error=error, line=max(0, outcome.line - 1))
    try:
        facts = json.loads(outcome.after) if outcome.ok and not outcome.after_error else {}
    except ValueError:
        facts = {}
    return _Went(outcome, facts if isinstance(facts, dict) else {})


def _wrong(question: str, tree: ast.Module, went: _Went, *, with_result: bool) -> tuple[str, int]:
    """What the checks find, and at which line (0: none). with_result: the data is the user's, so that an empty result means something."""
    why, line = checks.sorts_wrong(question, tree)
    if why:
        return why, line
    why = checks.mutates(question, went.facts) or checks.pictures_wrong(question, tree, went.facts, len(went.outcome.plots))
    return why or (checks.result_missing(tree, went.facts) if with_result else ""), 0


def _failed(code: str, passed: tuple[str, ...], rung: str, outcome: Outcome) -> Verdict:
    last = outcome.error.strip().rpartition("\n")[2] or "it ended without a result"
    where = f"line {outcome.line}: " if outcome.line else ""
    return Verdict(code, passed, rung, f"{where}{last[:300]}", outcome.line, outcome.error, run=outcome)


def _beyond(outcome: Outcome) -> str:
    """Why a failed run says nothing of the code: it wanted what a sandbox has not, or more time than it got. "" otherwise."""
    if outcome.ok:
        return ""
    if outcome.stopped in ("wall", "cpu"):
        return "it takes longer than the sandbox allows"
    last = outcome.error.rpartition("\n")[2]
    if re.match(
        r"(urllib\.error|requests\.|socket\.|ConnectionError|.*URLError|.*gaierror|PermissionError|MemoryError|numpy\.\w+\._ArrayMemoryError)",
        last,
    ):
        return "it wants the network or more than a sandbox has"
    if re.match(r"(FileNotFoundError|IsADirectoryError|NotADirectoryError)", last):
        return "it reads a file that is not here"
    if re.match(r"EOFError", last):
        return "it waits for input"
    if outcome.error.startswith("the given data cannot be used here"):
        return "the data cannot be handed to the sandbox"
    return ""


def _signature(went: _Went) -> str:
    """What a run came to: its last value, else its figures, else the numbers that it printed, else the state of the frames."""
    facts, outcome = went.facts, went.outcome
    if facts.get("figures"):
        return "figures " + json.dumps([one["data"] for one in facts["figures"]])
    if facts.get("value") is not None:
        return "value " + json.dumps(facts["value"])
    if numbers := re.findall(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", outcome.stdout):
        return "printed " + " ".join(f"{float(number):.6g}" for number in numbers[:500])
    return "states " + json.dumps(facts.get("states")) + outcome.stdout.strip()[:500]
