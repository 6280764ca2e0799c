"""The evaluation of a model: code and theory, known and held-out, bare and through the whole pipeline; a table and results/eval.json.

known: a training intent or card in a wording kept from training. heldout: an intent or card of which training saw nothing. asked: an
everyday question about a known frame in a wording kept from training.
"""

import hashlib
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from twofold.datasets import rows
from twofold.engines.later import Later
from twofold.evals import suite
from twofold.evals.execution import score_all
from twofold.evals.pattern import match_code, match_theory
from twofold.evals.suite import Answer, Mode, Row, share
from twofold.types import TwofoldError

FILES = {"code": "eval.jsonl", "theory": "eval_theory.jsonl"}
ALL: tuple[Mode, ...] = ("greedy", "pipeline", "unverified", "unaided")
MODES: dict[str, dict[str, tuple[Mode, ...]]] = {
    "code": {"known": ALL, "heldout": ALL, "asked": ALL[:2]},
    "theory": {"known": ALL[:2], "heldout": ALL[:2]},
}
"""How the rows of each kind and slice are asked; theory has nothing to verify, and without retrieval it is greedy."""


@dataclass(frozen=True, slots=True)
class Config:
    """What is evaluated."""

    what: Literal["all", "code", "theory"] = "all"
    """Which rows."""
    limit: int = 60
    """Rows of each slice; BASE gets a quarter."""
    model: str = "embedded"
    """embedded, mistral-7b, a local folder or a hub id."""
    seed: int = 0
    """Which rows are drawn."""
    data: str = "data"
    """Folder with eval.jsonl and eval_theory.jsonl."""
    kept: str = "out/eval"
    """Folder in which answers are kept; a stopped run goes on from there."""
    out: Path = Path("results/eval.json")
    """Where the numbers go."""
    modes: str = ""
    """Ways to ask, with commas: greedy, pipeline, unverified, unaided; empty for all. Without greedy, BASE is not asked."""


def main(config: Config) -> None:
    """Ask, score, print and write. Results of the other kind that an earlier run wrote for the same weights stay."""
    from tqdm import tqdm

    mark = suite.fingerprint(config.model)
    engine = suite.Remembered(Later(config.model), Path(config.kept) / f"{mark}.jsonl")
    kinds = list(FILES) if config.what == "all" else [config.what]
    modes = [mode.strip() for mode in config.modes.split(",")] if config.modes else list(ALL)
    if odd := set(modes) - set(ALL):
        raise TwofoldError(f"{', '.join(sorted(odd))} is no way to ask: choose among {', '.join(ALL)}")
    plan: list[tuple[tuple[str, ...], str, Mode, Sequence[Row]]] = []
    slices = [(kind, part) for kind in kinds for part in MODES[kind]]
    for kind, part in slices:
        path = Path(config.data) / FILES[kind]
        if not path.exists():
            raise TwofoldError(f"{path} is missing: run `twofold data build`")
        asked = suite.sample(rows.read(path), part, config.limit, config.seed)
        plan += [((kind, part, mode), kind, mode, asked) for mode in MODES[kind][part] if mode in modes]
        if "greedy" in modes:
            plan.append((("base", kind, part, "greedy"), "base", "greedy", asked[: max(1, config.limit // 4)]))
    settings = {"model": config.model, "weights": mark, "seed": config.seed, "limit": config.limit}
    result = earlier(config.out, mark) | settings | {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    for kind in kinds:
        put(result, ("data", FILES[kind]), hashlib.sha256((Path(config.data) / FILES[kind]).read_bytes()).hexdigest()[:16])
    with tqdm(total=sum(len(drawn) for *_, drawn in plan), desc="answers", disable=None) as bar:
        for place, adapter, mode, drawn in plan:
            bar.set_postfix_str(" ".join(place))
            answers: list[Answer] = []
            with nullcontext() if mode == "greedy" else suite.unseen_index(aided=mode != "unaided"):
                for row in drawn:
                    answers.append(suite.answer(row, engine, adapter, mode))
                    bar.update()
            kind = place[-3]
            put(result, place, score(answers, kind))
            put(result, ("seconds", *place), pace(answers))
    for kind, part in slices:
        drawn = suite.sample(rows.read(Path(config.data) / FILES[kind]), part, config.limit, config.seed)
        if kind == "theory":  # what the references themselves reach: not every question asks for what the rubric wants
            references = [Answer(row, row["messages"][-1]["content"], suite.UNSAID) for row in drawn]
            put(result, (kind, part, "reference"), score(references, kind))
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))


def earlier(path: Path, mark: str) -> dict[str, Any]:
    """The results already in a file, if they are of the same weights."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if found.get("weights") == mark else {}


def put(result: dict[str, Any], place: Sequence[str], value: Any) -> None:
    """Set a value in nested dicts."""
    *path, last = place
    for name in path:
        result = result.setdefault(name, {})
    result[last] = value


def score(answers: Sequence[Answer], kind: str) -> dict[str, Any]:
    """n and, in percent with their intervals, pattern, parse, exec and check of code answers or rubric of explanations."""
    if kind == "code":
        known = rows.frames()
        outcomes = score_all((one.text, one.row) for one in answers)
        return {
            "n": len(answers),
            **share([match_code(one.text, one.row, known) for one in answers], "pattern"),
            **share([one.parsed for one in outcomes], "parse"),
            **share([one.executed for one in outcomes], "exec"),
            **share([one.checked for one in outcomes], "check"),
        }
    rubrics = [match_theory(one.text, one.row) for one in answers]
    must = round(100 * statistics.fmean(one.share for one in rubrics), 1) if rubrics else 0.0
    wrong = round(100 * sum(one.wrong for one in rubrics) / max(1, len(rubrics)), 1)
    return {"n": len(answers), **share([one.passed for one in rubrics], "rubric"), "must_share": must, "must_not": wrong}


def pace(answers: Sequence[Answer]) -> dict[str, float]:
    """Medians of the seconds to the first piece, to the whole answer and to the finished one (verified), and of its pieces a second."""
    said = [one.said for one in answers if one.said.seconds]
    finished = [one.seconds for one in answers if one.seconds]
    if not said:
        return {}
    measured = {
        "first": (one.first for one in said),
        "whole": (one.seconds for one in said),
        "pieces_per_s": (one.pieces / one.seconds for one in said),
    }
    found = {name: round(statistics.median(values), 3) for name, values in measured.items()}
    return found | ({"finished": round(statistics.median(finished), 3)} if finished else {})


def table(result: dict[str, Any]) -> str:
    """The scores as text, and a line each for PatternMatch and ExecPass over all code answers of the CODE adapter."""
    lines = [f"{'':32}{'n':>5}  score % (95 % interval)"]
    for kind, of in (("code", result), ("theory", result), ("code", result.get("base", {})), ("theory", result.get("base", {}))):
        for part, mode in product(MODES[kind], (*ALL, "reference")):
            found = of.get(kind, {}).get(part, {}).get(mode)
            if found:
                shown = (f"{name} {found[name]} ({found[f'{name}_interval'][0]:g}-{found[f'{name}_interval'][1]:g})"
                         for name in ("pattern", "exec", "check", "rubric") if name in found)  # fmt: skip
                name = f"{'' if of is result else 'base '}{kind} {part} {mode}"
                lines.append(f"{name:32}{found['n']:>5}  {'  '.join(shown)}")
    for mode, (label, name) in product(("greedy", "pipeline"), (("PatternMatch", "pattern"), ("ExecPass", "exec"))):
        cells = [cell for part in MODES["code"] if (cell := result.get("code", {}).get(part, {}).get(mode))]
        if cells:
            hits = sum(round(cell[name] * cell["n"] / 100) for cell in cells)
            lines.append(f"{label}: {hits}/{sum(cell['n'] for cell in cells)} ({mode})")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Config())
