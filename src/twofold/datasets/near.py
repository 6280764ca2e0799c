"""Near duplicates and leaks: what a row asks, stripped of what the renderer puts around it, in shingles that MinHash compares.

MinHash (Broder 1997, by datasketch) only proposes pairs; the exact Jaccard similarity of their shingles decides.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from twofold.datasets import rows
from twofold.datasets.phrases import ASKING, INTROS, LEADS, TAILS

GRAM = 8  # words of a gram of `containment`; a shorter question is one gram
CONTAINED = 0.8  # a question of the evaluation with a larger share of its grams in one training question has leaked
ALIKE = 0.9  # so has one that is more similar than this to a training question of its own source
SHINGLE = 4  # characters of a shingle
PERMUTATIONS = 128
FAILS = "That fails:\n"  # a user turn that shows an error instead of asking, from `prompts.repair`

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[\w\u0900-\u097f]+")


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: where it stands, the source it is asked about, its words, and its plain form (see `plain`)."""

    id: str
    source: str
    text: str
    plain: str


@dataclass(frozen=True, slots=True)
class Leak:
    """A question of the evaluation with the training question that it is too near to. Shares are 0-1."""

    held: Asked
    seen: Asked
    contained: float
    alike: float

    def __str__(self) -> str:
        """One line that shows both."""
        return (
            f"{self.held.id}: leak: {self.held.text[:90]!r} is near {self.seen.text[:90]!r} of {self.seen.id} "
            f"(contained {100 * self.contained:.0f} %, alike {100 * self.alike:.0f} %)"
        )


def question(text: str) -> str:
    """A user turn without its notebook block and notes: what `prompts.user_text` was given to ask."""
    if text.startswith("Notebook:\n"):
        text = text.partition("\n\n")[2]
    while text.startswith(("Example: ", "Card: ")):
        rest = text.partition("\n```\n\n" if text.startswith("Example: ") else "\n\n")[2]
        if not rest:
            break
        text = rest
    return text


def questions(row: Mapping[str, Any]) -> list[str]:
    """Every question of a row's conversation; a turn that only shows an error is none."""
    turns = (turn["content"] for turn in row["messages"] if turn["role"] == "user")
    return [question(text) for text in turns if not text.startswith(FAILS)]


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; each Chinese or Japanese character is a word."""
    return _WORD.findall((text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold())


@cache
def _around() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """What the renderer puts around an ask: sentences before it that name the columns, leads, tails."""
    intros = "|".join(re.sub(r"\\\{\w+\\\}", ".{1,400}?", re.escape(one)) for one in INTROS)
    leads = "|".join(map(re.escape, (*LEADS, *ASKING)))
    tails = "|".join(map(re.escape, sorted(TAILS, key=len, reverse=True)))
    return re.compile(f"({intros}) ", re.S), re.compile(f"(?:{leads})+", re.I), re.compile(f"(?:{tails})+$", re.I)


def plain(text: str, names: Collection[str] = ()) -> str:
    """A question as its wording alone: lower case, no lead or tail, x for names (of columns, frames, files) or several, 0 for numbers."""
    intro, lead, tail = _around()
    text = tail.sub("", lead.sub("", intro.sub("", text.strip(), count=1), count=1)) or text
    ways = {way for name in names for way in (name, name.replace("_", " "))}
    if ways:
        named = "|".join(re.escape(way) for way in sorted(ways, key=len, reverse=True))
        text = re.sub(rf"(?<!\w)(?:{named})(?!\w)", "x", text, flags=re.I)
    found = " ".join("0" if word.replace("_", "").isdigit() else word for word in words(text))
    return re.sub(r"\bx( (and )?x)+\b", "x", found)


def names_of(row: Mapping[str, Any], known: Mapping[str, rows.Frame]) -> set[str]:
    """The columns, variables and files that a row may speak of."""
    proof = row["check"]
    frames = rows.behind(proof.get("frames", {}), known)
    return {*frames, *(col.name for frame in frames.values() for col in frame.columns), *proof.get("files", {})}


def asked(found: Iterable[Mapping[str, Any]], known: Mapping[str, rows.Frame]) -> list[Asked]:
    """Every question of these rows."""
    return [
        Asked(row["id"], row["source"], text, plain(text, names))
        for row in found
        for names in (names_of(row, known),)
        for text in questions(row)
    ]


def shingles(text: str) -> frozenset[str]:
    """The runs of `SHINGLE` characters in a text."""
    return frozenset(text[at : at + SHINGLE] for at in range(max(1, len(text) - SHINGLE + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """The share of shingles that two texts have in common, 0-1."""
    return len(one & other) / len(one | other)


def twins(texts: Sequence[str], among: Sequence[str] | None = None) -> dict[int, tuple[int, float]]:
    """Place of each text that has a twin -> the twin's place in `among` (without it: among the texts before), and how similar the two are.

    A twin is the most similar text, if it is the same or more similar than `ALIKE`. Texts are compared by their words, in shingles.
    """
    from datasketch import MinHash, MinHashLSH

    forms = [" ".join(words(text)) for text in texts]
    pool = forms if among is None else [" ".join(words(text)) for text in among]
    parts = {form: shingles(form) for form in (*pool, *forms)}
    made = MinHash.generator(([piece.encode() for piece in part] for part in parts.values()), num_perm=PERMUTATIONS, seed=0)
    hashes = dict(zip(parts, made, strict=True))
    near = MinHashLSH(threshold=ALIKE - 0.1, num_perm=PERMUTATIONS)  # looser: a pair just above ALIKE must not slip through
    first: dict[str, int] = {}
    found: dict[int, tuple[int, float]] = {}

    def add(form: str, at: int) -> None:
        if form not in first:
            first[form] = at
            near.insert(form, hashes[form], check_duplication=False)

    for at, form in enumerate(() if among is None else pool):
        add(form, at)
    for at, form in enumerate(forms):
        if form in first:
            found[at] = (first[form], 1.0)
            continue
        rated = ((jaccard(parts[form], parts[other]), -first[other]) for other in near.query(hashes[form]))
        similarity, place = max(rated, default=(0.0, 0))
        if similarity > ALIKE:
            found[at] = (-place, similarity)
        if among is None:
            add(form, at)
    return found


def containment(held: Sequence[Asked], seen: Sequence[Asked]) -> list[tuple[float, int]]:
    """For each held-back question the largest share (0-1) of its 8-grams of words in one other question, and that one's place (-1: none).

    A question of fewer words is one gram: contained when the other holds it word for word.
    """
    grams: list[set[tuple[str, ...]]] = []
    starts: dict[str, set[int]] = defaultdict(set)  # first word of a gram -> the lengths of such grams
    for one in held:
        spoken = words(one.text)
        size = min(GRAM, len(spoken))
        grams.append({tuple(spoken[at : at + size]) for at in range(len(spoken) - size + 1)} - {()})
        for gram in grams[-1]:
            starts[gram[0]].add(size)
    wanted = {gram for several in grams for gram in several}
    places: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for place, other in enumerate(seen):
        spoken = words(other.text)
        for at, first in enumerate(spoken):
            for size in starts.get(first, ()):
                gram = tuple(spoken[at : at + size])
                if gram in wanted:
                    places[gram].add(place)
    found = []
    for several in grams:
        counts = Counter(place for gram in several for place in places.get(gram, ()))
        best, count = min(counts.items(), key=lambda pair: (-pair[1], pair[0]), default=(-1, 0))
        found.append((count / max(1, len(several)), best))
    return found


def leaks(held: Sequence[Asked], seen: Sequence[Asked], contained: Sequence[tuple[float, int]] | None = None) -> list[Leak]:
    """The held-back questions that training as good as saw: `CONTAINED` in one of its questions, or `ALIKE` with one of the same source.

    contained: what `containment` said of them, where that is known already.
    """
    by_source: dict[str, list[Asked]] = defaultdict(list)
    for other in seen:
        by_source[other.source].append(other)
    found = []
    for one, (share, place) in zip(held, containment(held, seen) if contained is None else contained, strict=True):
        own = shingles(one.plain)
        near = (other for other in by_source[one.source] if 0.8 * len(one.plain) < len(other.plain) < 1.25 * len(one.plain))
        alike, nearest = max(((jaccard(own, shingles(other.plain)), other) for other in near), key=lambda pair: pair[0], default=(0.0, one))
        if share > CONTAINED:
            found.append(Leak(one, seen[place], share, jaccard(own, shingles(seen[place].plain))))
        elif alike > ALIKE:
            found.append(Leak(one, nearest, share, alike))
    return found
