"""What a concept card can be asked, and the explanation that answers it."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from twofold.datasets.phrases import CUES, QUESTIONS
from twofold.datasets.rows import Card

# What an answer to each kind of question is made of, in order; a "?" part joins every other time.
PARTS: Mapping[str, tuple[str, ...]] = {
    "what": ("definition", "how", "why?", "example?"),
    "why": ("definition", "why", "pitfall?"),
    "how": ("definition", "how", "example?"),
    "when": ("definition", "when", "pitfall?"),
    "versus": ("versus", "definition"),
    "pitfalls": ("definition", "pitfalls", "when?"),
    "formula": ("definition", "formula", "example"),
    "example": ("definition", "example", "why?"),
    "misconception": ("truth", "definition", "how?"),
    "simple": ("intuition", "definition", "example?"),
    "short": ("definition",),
    "interview": ("definition", "how", "when", "pitfall"),
    "meant": ("definition", "meant"),
    "any": ("definition", "how", "when?", "pitfall?"),
}
COMPARING = re.compile(r"\b(vs|versus|or|diff\w*|compar\w*|better|than|instead|same as|rather|prefer|over|between|which)\b")
PASSAGES = ("definition", "intuition", "how", "why", "when", "pitfalls", "example")
_TAIL = re.compile(r"(?<=[,;]) [^,;.$]{15,}\.(?=\s|$)")
_LONGER = re.compile(r"(?<![\w$\\])[a-z]{5,}(?![\w$}])")
LONG = 110  # words; the last part of a longer answer is a paragraph of its own


class Question(NamedTuple):
    """A question about a card, its kind (a key of PARTS), and parts of the answer beyond the card's own."""

    text: str
    kind: str
    extra: dict[str, str]


def sections(card: Card, rng: random.Random | None = None) -> dict[str, str]:
    """One paraphrase of each part of a card; the first ones without an rng."""
    pick = (lambda options: options[0]) if rng is None else rng.choice
    worded = ("definition", "intuition", "how", "why", "when", "example")
    parts = {name: pick(getattr(card, name)) for name in worded if getattr(card, name)}
    parts |= {"pitfalls": " ".join(card.pitfalls), "pitfall": pick(card.pitfalls)}
    return parts | ({"formula": card.formula} if card.formula else {})


def answer_of(kind: str, parts: Mapping[str, str], rng: random.Random) -> str:
    """The reference explanation for a kind of question, from a card's parts."""
    used = []
    for part in PARTS[kind]:
        name = part.rstrip("?")
        if name in parts and not (part.endswith("?") and rng.random() < 0.5):
            used.append(parts[name])
    if len(used) > 2 and sum(len(one.split()) for one in used) > LONG:
        return " ".join(used[:-1]) + "\n\n" + used[-1]
    return " ".join(used)


def understood(ask: str, card: Card) -> Question:
    """What a hand-written ask wants, by its words; where none tells, the passage of the card that shares most words with it."""
    low = ask.lower()
    rest = low
    for name in sorted(card.names, key=len, reverse=True):  # "leaky ReLU" does not speak of ReLU
        rest = rest.replace(name.lower(), " ")
    for one in card.versus:
        other = one["other"].lower()
        if other in rest or (COMPARING.search(rest) and any(part in rest for part in other.split() if len(part) > 5)):
            return Question(ask, "versus", {"versus": one["text"]} if one["text"] else {})
    found = (kind for kind, pattern in CUES.items() if re.search(pattern, low) and (kind != "formula" or card.formula))
    if kind := next(found, ""):
        return Question(ask, kind, {})
    passages = [*card.how, *card.why, *card.when, *card.pitfalls, *card.intuition, *card.example, *(one["text"] for one in card.versus)]
    passages += [one["truth"] for one in card.misconceptions]
    keys = {text: stems(text) for text in passages}
    keys |= {one["truth"]: stems(one["claim"] + " " + one["truth"]) for one in card.misconceptions}
    wanted = stems(rest)
    best = max(passages, key=lambda text: len(wanted & keys[text]))
    if len(wanted & keys[best]) >= max(2, len(wanted) // 3):
        return Question(ask, "meant", {"meant": best})
    return Question(ask, "any", {})


def stems(text: str) -> set[str]:
    """The first five letters of the longer words of a text."""
    return {word[:5] for word in re.findall(r"[a-z]{4,}", text.lower())} - {"what", "when", "does", "that", "with", "this", "from", "expla"}


def worded(card: Card, rng: random.Random) -> Question:
    """A question about a card in one of the wordings that every card can wear."""
    has = {"versus": card.versus, "misconception": card.misconceptions, "formula": card.formula}
    kind = rng.choice([*(kind for kind in QUESTIONS if has.get(kind, True)), "what", "what", "how", "simple", "any"])
    text = rng.choice(QUESTIONS["what" if kind == "any" else kind])
    names = [name for name in card.names if len(name) > 1]
    text = text.replace("{name}", rng.choice([names[0], names[0], *names]))
    if kind == "versus":
        one = rng.choice(card.versus)
        return Question(text.replace("{other}", one["other"]), kind, {"versus": one["text"]})
    if kind == "misconception":
        one = rng.choice(card.misconceptions)
        no = rng.choice(("No. ", "Not quite. ", "That is a common misconception. ", ""))
        return Question(text.replace("{claim}", one["claim"].rstrip(".")), kind, {"truth": no + one["truth"]})
    return Question(text, kind, {})


def renaming(card: Card, fresh: str) -> Callable[[str], str]:
    """A function that calls a card's concept by another name wherever a text speaks of it."""
    names = sorted((name for name in card.names if len(name) > 3 or name.isupper()), key=len, reverse=True)
    if not names:
        return lambda text: text
    pattern = re.compile(r"(?<!\w)(" + "|".join(re.escape(name) for name in names) + r")(?!\w)", re.I)

    def swap(text: str) -> str:
        def name(found: re.Match[str]) -> str:
            before = text[: found.start()]
            return fresh.capitalize() if not before or before.endswith((". ", "\n", ": ")) else fresh

        return pattern.sub(name, text)

    return swap


def stitched(cards: Sequence[Card], name: str, rng: random.Random) -> Card:
    """A card of a concept that there is not: passages of several cards under one invented name, the tails of sentences exchanged, and
    in most cards many words too.

    Nothing in it can be known by heart, so only reading it answers a question about it. It means nothing: it is for training to quote.
    """
    drawn = rng.sample(cards, len(PASSAGES) + 1)
    mixed = exchanged([text for card in drawn for text in (*card.definition, *card.how, *card.why)], rng.choice((0.0, 0.3, 0.6)), rng)
    told = [(card, _after(renaming(card, name), mixed)) for card in drawn]
    tails = [tail[0] for card, swap in told for text in (*card.how, *card.why, *card.when) if (tail := _TAIL.search(swap(text)))]

    def passage(card: Card, swap: Callable[[str], str], part: str) -> tuple[str, ...]:
        texts = getattr(card, part) if part == "pitfalls" else (rng.choice(getattr(card, part)),)
        return tuple(_TAIL.sub(lambda _: rng.choice(tails), swap(text)) if tails and rng.random() < 0.6 else swap(text) for text in texts)

    parts: dict[str, Any] = {part: passage(*one, part) for part, one in zip(PASSAGES, told, strict=False)}
    last, swap = told[-1]
    versus = tuple({"other": one["other"], "text": swap(one["text"])} for one in last.versus)
    bare = replace(last, id="stitched", names=(name,), versus=versus, misconceptions=(), formula="", asks_in={}, must=(), must_not=())
    return replace(bare, **parts)


def exchanged(texts: Sequence[str], share: float, rng: random.Random) -> Callable[[str], str]:
    """A function that puts another word of these texts for a share of the longer words, the same one wherever a word stands."""
    words = sorted({word for text in texts for word in _LONGER.findall(text)})
    swap = {word: rng.choice(words) for word in words if rng.random() < share}
    return lambda text: _LONGER.sub(lambda found: swap.get(found[0], found[0]), text)


def _after(first: Callable[[str], str], second: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: first(second(text))
