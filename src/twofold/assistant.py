"""ask() and stream(): one question through the eight steps; fix(): a cell that failed, on the same way from the sixth."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from twofold import clean, memory, notebook, prompts, retrieve, verify
from twofold.engines import BASE, Engine
from twofold.redact import redact
from twofold.route import decide
from twofold.types import Message, Reply, Request, Route, Sampling, TwofoldError
from twofold.verify.meaning import wrong

MAX_QUESTION = 20_000
WARMTH = 0.7
"""Least temperature of further answers: at 0 they would all be the first one."""
WANTED = "Write the code of this cell."
"""What a cell that failed was asked for, where nobody says."""
NOTES: Mapping[str, retrieve.Kind] = {"code": "example", "theory": "card"}
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def check_question(text: str) -> str:
    """The question without control characters and outer blanks. Raises TwofoldError when it is empty or over 20,000 characters."""
    if len(text) > MAX_QUESTION:
        raise TwofoldError(f"question too long: {len(text):,} characters, at most {MAX_QUESTION:,}; send the part that matters")
    cleaned = _CONTROL.sub("", text.encode("utf-8", "replace").decode()).strip()
    if not cleaned:
        raise TwofoldError('the question is empty; ask something like "plot a histogram of price"')
    return cleaned


def speaker(route: Route, engine: Engine) -> str:
    """The adapter that will really speak: the route's, or BASE where CODE or THEORY is not loaded. Raises TwofoldError for another name."""
    wanted = route.adapter or BASE
    if wanted in engine.adapters:
        return wanted
    if wanted in ("code", "theory"):
        return BASE
    raise TwofoldError(f"unknown adapter {wanted!r}; loaded: {', '.join(sorted(engine.adapters))}")


def stream(request: Request, engine: Engine, sampling: Sampling | None = None) -> Iterator[Reply]:
    """Answer a request in growing snapshots. The first comes as soon as the route is known; the last has done=True.

    With `request.verify` code is run once it is written, and a better answer may take its place: then a text is not the beginning of the
    next. Closing the iterator stops the engine within one token. Raises TwofoldError for a question or adapter that cannot be answered.
    """
    started = time.perf_counter()
    request = replace(request, text=check_question(request.text), notebook=request.notebook or _schema(request))
    route = decide(request)
    if route.adapter is None:
        yield Reply(prompts.refusal(route.language), route, seconds=time.perf_counter() - started, done=True)
        return
    yield Reply("", route, seconds=time.perf_counter() - started)
    adapter = speaker(route, engine)
    recalled = memory.recall(request.history, route)
    kind = NOTES.get(route.adapter)
    notes = retrieve.nearest(request.text, kind, notebook=request.notebook, history=recalled) if kind else ()
    messages = prompts.compose(route.adapter, request.text, notebook=request.notebook, notes=notes, recalled=recalled)
    reply = Reply("", route, adapter=adapter, attempts=1, sources=tuple(note.source for note in notes))
    yield from _answered(reply, messages, request, engine, sampling or Sampling(), started)


def fix(cell: str, error: str, request: Request, engine: Engine, sampling: Sampling | None = None) -> Iterator[Reply]:
    """Correct a cell that failed, in growing snapshots; the last has done=True and says in `wrong` what was wrong.

    error: its traceback, with the cell named `<cell>`; request.text: what the cell was asked for, "" where nobody knows. What the table of
    repairs can mend is mended and no engine is touched; else the model is shown the cell and its error. Raises TwofoldError like `stream`.
    """
    started = time.perf_counter()
    request = replace(request, text=request.text.strip()[:MAX_QUESTION] or WANTED, notebook=request.notebook or _schema(request))
    ground = verify.Ground(dict(request.setup), request.bound)
    columns = verify.known_columns(request.frames, request.notebook, ground)
    told = wrong(error, columns, {*columns, *ground.setup, *ground.bound})
    route = Route(request.adapter or "code", "the last cell failed")
    reply = Reply("", route, wrong=told)
    yield replace(reply, step="trying known repairs")
    barred = _barred(request)
    verdict = verify.climb(cell, "", request.frames, request.notebook, run=not barred, ground=ground)
    if verdict.repairs and verdict.good:
        reply = replace(reply, route=replace(route, adapter="repair", why="a known repair, no model was asked"), text=_fenced(verdict.code))
        yield replace(_judged(reply, verdict, barred), seconds=time.perf_counter() - started, done=True)
        return
    asked = prompts.compose("code", request.text, notebook=request.notebook)
    messages = prompts.repair(asked, _fenced(cell), _shown_error(error, cell, request))
    reply = replace(reply, adapter=speaker(route, engine), attempts=1)
    yield from _answered(reply, messages, request, engine, sampling or Sampling(), started)


def _schema(request: Request) -> str:
    return notebook.summary(dict(request.frames)) if request.share != "nothing" else ""


def _fenced(code: str) -> str:
    return f"```python\n{code}\n```"


def _shown_error(error: str, code: str, request: Request) -> str:
    """An error as the model may see it: below the sharing level "values" without what it quotes of the data."""
    return error if request.share == "values" else redact(error, f"{code}\n{request.notebook}\n{request.text}")


def _barred(request: Request) -> str:
    """Why code may not be run, or ""."""
    if not request.verify:
        return "not run: verification is off"
    try:
        return verify.may_run(request.consent)
    except TwofoldError as failure:
        return f"not run: {failure}"


def _answered(
    reply: Reply, messages: Sequence[Message], request: Request, engine: Engine, sampling: Sampling, started: float
) -> Iterator[Reply]:
    """Steps 6 to 8: what the engine says to messages, cleaned, and its code verified where that is asked for."""
    tokens, wanted = 0, reply.route.adapter

    def counted() -> Iterator[str]:
        nonlocal tokens
        for piece in pieces:
            tokens += 1
            yield piece

    pieces = engine.generate(messages, reply.adapter or BASE, sampling)
    try:
        for text in clean.stream(counted(), clean.form_of(wanted), request.text):
            reply = replace(reply, text=text, tokens=tokens, seconds=time.perf_counter() - started)
            yield reply
    finally:
        close = getattr(pieces, "close", None)
        if close:
            close()
    code = clean.code_of(reply.text)
    reply = replace(reply, code=code, proof=("parses",) if code and clean.parses(code) else (), tokens=tokens)
    if request.verify and code and wanted != "theory":
        for reply in proved(reply, messages, request, engine, sampling):  # noqa: B020  each is the last one, known better
            yield replace(reply, seconds=time.perf_counter() - started)
    yield replace(reply, step="", seconds=time.perf_counter() - started, done=True)


def proved(reply: Reply, messages: Sequence[Message], request: Request, engine: Engine, sampling: Sampling) -> Iterator[Reply]:
    """Climb the ladder with an answer's code; where it fails or leaves out what the question names, with `request.n` others, among which
    votes decide; where all fail, with a repair turn.

    When nothing runs, the last snapshot is the attempt that came furthest, with the rung that it failed.
    """
    adapter, form = reply.adapter or BASE, clean.form_of(reply.route.adapter)
    yield replace(reply, step="verifying")
    barred, ground = _barred(request), verify.Ground(dict(request.setup), request.bound)
    verdicts: dict[str, verify.Verdict] = {}

    def climbed(text: str) -> tuple[str, verify.Verdict]:
        code = clean.code_of(text)
        if code not in verdicts:
            verdicts[code] = verify.climb(code, request.text, request.frames, request.notebook, run=not barred, ground=ground)
        verdict = verdicts[code]
        return text.replace(code, verdict.code, 1) if code else text, verdict

    def shown(tried: Sequence[tuple[str, verify.Verdict]], step: str = "") -> Reply:
        best = verify.choose([verdict for _, verdict in tried])
        text = next(text for text, verdict in tried if verdict is best)
        return replace(_judged(reply, best, barred), text=text, attempts=attempts, step=step)

    attempts, tried = reply.attempts, [climbed(reply.text)]
    if (tried[0][1].failed or tried[0][1].unused) and request.n > 0:
        yield shown(tried, f"trying {request.n} others")
        others = engine.candidates(messages, adapter, replace(sampling, temperature=max(sampling.temperature, WARMTH)), request.n)
        attempts += len(others)
        tried += [climbed(text) for raw in others if clean.code_of(text := clean.clean(raw, form, request.text, final=True))]
        if (best := shown(tried)).failed:
            yield replace(best, step="asking for a repair")
            error = verify.choose([verdict for _, verdict in tried]).error
            pieces = engine.generate(prompts.repair(messages, best.text, _shown_error(error, best.code, request)), adapter, sampling)
            attempts += 1
            *_, text = ["", *clean.stream(pieces, form, request.text)]
            tried += [climbed(text)] if clean.code_of(text) else []
    yield shown(tried)


def _judged(reply: Reply, verdict: verify.Verdict, barred: str) -> Reply:
    """A reply with what a verdict says of its code."""
    reason = verdict.reason if verdict.failed or not barred else barred
    now = replace(reply, code=verdict.code, run=verdict.run, proof=verdict.passed, failed=verdict.failed, reason=reason)
    return replace(now, line=verdict.line, repairs=verdict.repairs, changes=verdict.changes)


def ask(request: Request, engine: Engine, sampling: Sampling | None = None) -> Reply:
    """Answer a request; the last snapshot of `stream`."""
    reply = None
    for reply in stream(request, engine, sampling):  # noqa: B007  only the last snapshot counts
        pass
    assert reply is not None  # stream yields at least once
    return reply
