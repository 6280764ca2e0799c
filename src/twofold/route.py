"""The router and guardrail: one look at a question, and out comes who answers it and why.

Two readers look: the linear heads of `classify`, which know words, and the encoder of `embed`, which knows what words are like; their
logits are mixed (`SENSE`). The topic gate is their topic plus the names of the user's own notebook.
Below `NO` (`NO_TO_CODE`) a question is declined, above `YES` it is clearly data science, in between it is answered and `why` says so: a
refusal of a real question costs the user more than an answer to a stray one.

Limits: the gate keeps a data-science assistant on its subject; it is no safety filter, and a stray question that borrows the vocabulary
("a limerick about histograms") is answered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from twofold import classify, embed
from twofold.classify import Classifier, Guess, logit, sigmoid
from twofold.embed import Sense
from twofold.types import Message, Request, Route

SENSE = 0.3
"""Share of the encoder's logits in the topic and in code or explanation. On the first test 1.8 % of real questions are declined,
2.5 without it, 86.0 and not 84.3 % of stray ones, and 96.5, not 94.0 % go to the right adapter (results/router.json)."""
NO = 0.4
"""Topic probability under which a question is declined. Chosen on 218 prompts of a second author, unseen in training then: 0.7 % of the
real questions among them were declined, 83 % of the others."""
NO_TO_CODE = 0.25
"""The same for a question that surely (`SURE`) wants code, as few of the others do: it lets in 4 more of 5,386 stray training prompts."""
SURE = 0.9
"""Probability of code from which it is sure."""
YES = 0.6
"""Topic probability from which a question is clearly data science."""
RECALL = 0.5
"""Probability from which a question refers back to an earlier turn."""
NAME_WEIGHT = 1.5
"""Logits that each name of the notebook, or value of its frames, adds to the topic, up to MOST_NAMES of them."""
MOST_VALUES = 50
"""Different strings up to which a column's are looked for in a question ("only the diesel cars")."""
ROWS = 2_000
"""Rows of a frame whose strings are looked at."""
MOST_NAMES = 2
STRAY_FOLLOW_UP = 0.02
"""Topic probability under which even a follow-up is judged on its own: "now write a poem" after a question about pandas."""
DEPTH = 4
"""How many turns a chain of follow-ups is followed back."""
UNDECIDED = 0.12
"""Distance from 0.5 within which a follow-up takes over the last answer's kind."""

_NAMED = re.compile(r"[^\W\d]\w+")
_SHORT_WORDS = 9


def names(text: str, notebook: str) -> list[str]:
    """Return the names in a rendered `notebook` schema that occur in `text` as whole words; "unit price" matches unit_price."""
    if not notebook:
        return []
    asked = f" {' '.join(_NAMED.findall(classify.normalise(text).replace('_', ' ')))} "
    found = [name for name in _schema_names(notebook) if f" {name.casefold().replace('_', ' ')} " in asked]
    return list(dict.fromkeys(found))


def _schema_names(notebook: str) -> Iterable[str]:
    """Yield the names in lines such as `df: 120 rows; price float64, "unit price" str`."""
    for line in notebook[:20_000].splitlines():
        frame, _, columns = line.partition(":")
        for part in [f"{frame} frame", *columns.partition(";")[2].split(", ")]:
            name = part.strip().rpartition(" ")[0].strip('"')
            if len(name) > 2:
                yield name


def values(text: str, frames: Iterable[tuple[str, Any]]) -> list[str]:
    """Return the strings of the frames' columns of few different ones that occur in `text` as whole words."""
    asked, found = f" {' '.join(_NAMED.findall(classify.normalise(text)))} ", list[str]()
    for _, frame in frames:
        for place, dtype in enumerate(frame.dtypes):
            if dtype.kind in "OUT" or str(dtype) in ("str", "string", "category"):
                held = set(frame.iloc[:ROWS, place].dropna().astype(str))
                found += (value for value in held if len(value) > 2 and f" {value.casefold()} " in asked and len(held) <= MOST_VALUES)
    return sorted(set(found))


def decide(request: Request, *, classifier: Classifier | None = None, sense: Callable[[str], Sense] | None = embed.sense) -> Route:
    """Decide who answers a request, and say why. `classifier` replaces the packaged one (training measures its own), None as `sense` leaves
    the encoder out.

    A chosen adapter wins over everything, a chosen mode over the intent head. Off topic, the route declines (adapter None) when the guard
    is on and is "base" when it is off. Raises TwofoldError when the packaged weights are missing.
    """
    return _decide(request, _Readers(classifier or classify.load(), sense), DEPTH)


@dataclass(frozen=True, slots=True)
class _Readers:
    """The two that look at a text."""

    classifier: Classifier
    sense: Callable[[str], Sense] | None

    def guess(self, text: str) -> Guess:
        """What both make of a text, however long: its head and tail are read."""
        guess = self.classifier.guess(text)
        if self.sense is None or not text.strip():
            return guess
        felt = self.sense(text)
        topic, code = ((1 - SENSE) * logit(said) + SENSE * meant for said, meant in ((guess.topic, felt.topic), (guess.code, felt.code)))
        return replace(guess, topic=sigmoid(topic), code=sigmoid(code))


def _decide(request: Request, readers: _Readers, depth: int) -> Route:
    guess, classifier = readers.guess(request.text), readers.classifier
    found, hints, everyday, *_ = classifier.listed(request.text)
    named = [*names(request.text, request.notebook), *values(request.text, request.frames)]
    own = sigmoid(logit(guess.topic) + NAME_WEIGHT * min(len(named), MOST_NAMES))
    refers = guess.recall >= RECALL
    pure = refers and own >= STRAY_FOLLOW_UP and not found and not everyday and (own < YES or not hints)
    earlier = _last_route(request, readers, depth) if pure else None
    topic, code = own, guess.code
    if earlier is not None:
        topic = earlier.scores["topic"]
        if abs(code - 0.5) < UNDECIDED and request.mode == "auto":
            code = earlier.scores["code"]
    scores = {"topic": topic, "code": code, "recall": guess.recall}
    inherited = earlier is not None

    def route(adapter: str | None, why: str) -> Route:
        return Route(adapter, why, recall=refers, language=guess.language, scores=scores)

    if request.adapter:
        return route(request.adapter, f"you chose the adapter {request.adapter}")
    if not request.text.strip():
        return route(None if request.guard else "base", "the question is empty")
    lone = pure and earlier is None and len(request.text.split()) <= _SHORT_WORDS
    if topic < (NO if code < SURE else NO_TO_CODE) and not lone:
        about = "follows up on a question that is not about data science" if inherited else "not about data science"
        return route(None, about) if request.guard else route("base", f"{about}, and the guard is off")
    adapter, why = _answerer(request, guess, code, found, classifier)
    if inherited:
        why = f"follows up on the last question; {why}"
    if topic < YES:
        doubt = "seems to follow up, but there is no earlier question" if lone else "perhaps not about data science"
        why = f"{why}; {doubt}, answered all the same"
    elif named and not found and guess.topic < YES and not inherited:
        why = f"{why}; names your {_quoted(named[:2])}"
    return route(adapter, why)


def _answerer(request: Request, guess: Guess, code: float, found: list[str], classifier: Classifier) -> tuple[str, str]:
    """Return "code" or "theory" and the words that decided between them."""
    if request.mode != "auto":
        return ("code", "you chose Code") if request.mode == "code" else ("theory", "you chose Explain")
    wants_code = code >= 0.5
    kind = "asks for code" if wants_code else "asks for an explanation"
    inherited = wants_code != (guess.code >= 0.5)
    words = found[:2] if inherited else classifier.telling(request.text, "intent", against=not wants_code)
    return "code" if wants_code else "theory", f"{kind} ({_quoted(words)})" if words else kind


def _last_route(request: Request, readers: _Readers, depth: int) -> Route | None:
    """Return the route that the last user turn would get without a guard, or None when there is none to look at."""
    turns: tuple[Message, ...] = request.history
    for index in range(len(turns) - 1, -1, -1):
        if turns[index]["role"] == "user" and depth > 0:
            last = replace(request, text=turns[index]["content"], mode="auto", adapter=None, guard=False, history=turns[:index])
            return _decide(last, readers, depth - 1)
    return None


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)
