"""ask() and stream(): one question through the eight steps."""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from twofold import clean, memory, prompts, retrieve
from twofold.engines import BASE, Engine
from twofold.route import decide
from twofold.types import Reply, Request, Route, Sampling, TwofoldError

MAX_QUESTION = 20_000
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

    Closing the iterator stops the engine within one token. Raises TwofoldError for a question or adapter that cannot be answered.
    """
    started = time.perf_counter()
    request = replace(request, text=check_question(request.text))
    route = decide(request)
    if route.adapter is None:
        yield Reply(prompts.refusal(route.language), route, seconds=time.perf_counter() - started, done=True)
        return
    yield Reply("", route, seconds=time.perf_counter() - started)
    adapter = speaker(route, engine)
    recalled = memory.recall(request.history, route)
    kind = NOTES.get(route.adapter)
    notes = retrieve.nearest(request.text, kind, k=2, notebook=request.notebook, history=recalled) if kind else ()
    messages = prompts.compose(route.adapter, request.text, notebook=request.notebook, notes=notes, recalled=recalled)
    tokens = 0

    def counted() -> Iterator[str]:
        nonlocal tokens
        for piece in pieces:
            tokens += 1
            yield piece

    pieces = engine.generate(messages, adapter, sampling or Sampling())
    reply = Reply("", route, adapter=adapter, attempts=1, sources=tuple(note.source for note in notes))
    try:
        for text in clean.stream(counted(), clean.form_of(route.adapter), request.text):
            reply = replace(reply, text=text, tokens=tokens, seconds=time.perf_counter() - started)
            yield reply
    finally:
        close = getattr(pieces, "close", None)
        if close:
            close()
    code = clean.code_of(reply.text)
    proof = ("parses",) if code and clean.parses(code) else ()
    yield replace(reply, code=code, proof=proof, tokens=tokens, seconds=time.perf_counter() - started, done=True)


def ask(request: Request, engine: Engine, sampling: Sampling | None = None) -> Reply:
    """Answer a request; the last snapshot of `stream`."""
    reply = None
    for reply in stream(request, engine, sampling):  # noqa: B007  only the last snapshot counts
        pass
    assert reply is not None  # stream yields at least once
    return reply
