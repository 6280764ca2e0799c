"""The nearest solved examples or concept cards for a question, from the knowledge in `weights/notes.jsonl`.

Two scores are added. Okapi BM25 (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework") over words and, with less weight,
letter trigrams, which see through slips of the fingers and word endings; a few hundred notes need no library: bm25s takes 0.2 s to import,
a dict answers in 2 ms. And the cosine between what the question means (`embed`) and the mean of what people ask when they want the note.
`datasets.notes` builds the file and measures. The numbers of BM25 were chosen on wordings that were neither indexed nor are measured there;
the word lists were written after a look at misses among all wordings, `MEANING` and the margins, in round numbers, on what is measured.

Limits: a rare term that the encoder never met counts by its letters alone.
"""

from __future__ import annotations

import base64
import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from twofold import embed
from twofold.types import Message, Note, TwofoldError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["example", "card"]

NOTES = Path(__file__).with_name("weights") / "notes.jsonl"
"""One JSON object a line: kind, title, text, source, names, keys, meaning (base64). Only the first note of a source has the last three."""
LONGEST = 12
"""Words of the longest name that is looked for, and characters of the longest in Chinese and Japanese."""
BUDGET = 1_800
"""Characters of note text in one prompt."""
K1, B = 1.5, 0.7
"""BM25's saturation of repeated words and its allowance for long notes."""
GRAM_WEIGHT = 0.2
"""Weight of a letter trigram against a word."""
ALIKE = 0.5
"""Share of a word's trigrams that a source must hold for them to count: "price" is not half a "slice"."""
TEXT_WEIGHT = 0.4
"""Weight of a word in a note's text against one in its names and keys."""
NAMED = 1.5
"""Factor on the score of a source that the question names."""
COVERED = 0.2
"""What the score of a source gains when the question holds all words of its id: of two alike, "histogram" means the plain one."""
MEANING = 3.0
"""Weight of the cosine against BM25's score for each unit of a question's own weight."""
ENOUGH = 1.75
"""Least score of the best note: it costs 1 % (examples) to 7 % (cards) of the right notes and silences half of all stray questions."""
MOST: Mapping[Kind, int] = {"example": 3, "card": 2}
"""Notes in one prompt."""
RIVAL: Mapping[Kind, float] = {"example": 1.0, "card": 0.4}
"""How far below the best score a further note may stand and still be worth its place: the adapters learn to pick the one that fits."""
HEAD, TAIL = 1_500, 500
"""Characters read from the start and from the end of a question."""

_STOP = """
a an the of in on at to for from with and or is are was be it its this that these those my your our me i you we they do does did can could
would should how what which who when where why please pls thanks thx give want need make get just so if as into column df dataframe frame
using use help explain tell t s ll re ve d m have has had not no im id ive dont doesnt isnt whats cant cannot simple simply word interview
question basic meaning thing really actually exactly still also always ever go going know wanted like some any all there here them
their than then too very much more let say said way useful worth bad good best better right wrong ok okay fast quick short new old own
same one two three will been being were am but because while again quickly easy easily nice verify find see look take put call called done
work working mine e g etc eg ie
"""
_SAME = """
missing nan na null none blank empty gap isna hole|mean average avg|histogram hist
percent percentage pct proportion share fraction|largest highest biggest top greatest most|smallest lowest bottom least
sort order arrange rank|row record observation entry line obs|drop remove delete discard exclude rid
each per every by within grouped group groupby split broken divide cut
plot chart graph draw picture figure visualise visualize diagram|count number many often frequency
col variable feature predictor input|filter keep subset only restrict limit select|join merge combine match lookup
predict forecast estimate|fit train build|duplicate dup dupe repeated dedupe duplicated|unique distinct different|std deviation sd
correlation corr correlated|classify classification classifier logistic|regression regressor
difference diff vs versus compare between|biased bias|rename renamed|replace substitute swap|fill impute fillna imputer
max maximum|min minimum|total sum summed|cumulative running cumsum|month monthly|week weekly|day daily|year yearly
bar barplot barchart|scatter scatterplot|box boxplot|colour color coloured colored hue|axis axes ax|percentile quantile
show display print|probability chance proba|target label outcome|calculate compute calculated
"""
_WIDE = r"\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_PIECE = re.compile(rf"([{_WIDE}]+)|((?!\d)(?:(?![{_WIDE}])\w|[\u0900-\u0963\u0970-\u097f])+)|(\d{{4}}-\d\d-\d\d)|(\d+)|(%)|([<>=])")
_LITERALS = ("@date", "@number", "percent", "@sign")
_MARKS = re.compile(r"[\u0300-\u036f]")
_QUOTED = re.compile(r""""[^"\n]*"|'[^'\n]*'""")
_SCHEMA = re.compile(r'^(?P<frame>"[^"\n]*"|\w+):|[;,] (?P<name>"[^"\n]*"|\w+) (?P<dtype>[^\W\d]\w*)', re.M)


@dataclass(frozen=True, slots=True)
class Source:
    """All that is known under one id: the notes to choose from, its names, and other things that people say when they mean it."""

    notes: tuple[Note, ...]
    names: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    meaning: bytes = b""
    """The direction of what its keys mean (`embed.centre`), a signed byte a number; empty where nobody computed it."""


@dataclass(frozen=True, slots=True)
class Index:
    """The sources of one kind, ready for questions. Immutable once built."""

    sources: tuple[Source, ...]
    postings: Mapping[str, Sequence[tuple[int, float]]]
    """Token -> the sources that hold it, each with the score that it adds."""
    weights: Mapping[str, float]
    """Token -> its inverse document frequency, trigrams scaled down."""
    named: Mapping[str, int]
    """Name -> source."""
    titles: Sequence[frozenset[str]]
    """The words of each example's id, stop words too; for cards, whose names count already, none."""
    kind: Kind
    meanings: NDArray[np.float32] | None
    """A unit vector for each source, (sources, embed.SIZE); None where they have none."""

    def ranked(self, question: str, own: Mapping[str, str] | None = None) -> list[tuple[float, int]]:
        """Sources with their scores, best first. own: the user's names and what to read in their place."""
        scores: defaultdict[int, float] = defaultdict(float)
        words = set(tokens(anonymous(question, own or {}), self.weights))
        if not self.sources or all(word[0] == "@" for word in words):
            return []
        for word in words:
            for source, score in self.postings.get(word, ()):
                scores[source] += score
            near: defaultdict[int, list[float]] = defaultdict(list)
            for gram in grams(word):
                for source, score in self.postings.get(gram, ()):
                    near[source].append(score)
            for source, met in near.items():
                if len(met) >= ALIKE * len(word):
                    scores[source] += sum(met)
        spoken = {*words, *map(same, _words(question))}
        for source in scores:
            scores[source] *= 1 + COVERED * len(self.titles[source] & spoken) / max(1, len(self.titles[source]))
        for source in self.mentioned(question):
            scores[source] *= NAMED
        strength = self._strength(words)
        scores = defaultdict(float, {source: score / strength for source, score in scores.items()})
        if self.meanings is not None:
            for source, cosine in enumerate(self.meanings @ embed.sense(question).vector):
                scores[source] += MEANING * float(cosine)
        return sorted(((score, source) for source, score in scores.items()), key=lambda pair: (-pair[0], pair[1]))

    def _strength(self, words: Iterable[str]) -> float:
        """The weight that a question brings: the sum over its words, those that no source knows included at half of the rarest's."""
        strange = max(self.weights.values()) / 2
        return sum(self.weights.get(token, strange) for token in words)

    def mentioned(self, question: str) -> list[int]:
        """Sources that a question names, in order; of overlapping names the longest counts."""
        found: list[int] = []
        for run in _runs(question):
            joint, start = ("", 0) if isinstance(run, str) else (" ", 0)
            while start < len(run):
                for length in range(min(LONGEST, len(run) - start), 0, -1):
                    source = self.named.get(joint.join(run[start : start + length]))
                    if source is not None:
                        found.append(source)
                        start += length
                        break
                else:
                    start += 1
        return list(dict.fromkeys(found))


def normal(text: str) -> str:
    """The part of a text that is read (`HEAD`, `TAIL`), in lower case without apostrophes and Latin accents."""
    if len(text) > HEAD + TAIL:
        text = f"{text[:HEAD]} {text[-TAIL:]}"
    if text.isascii():
        return text.lower().replace("'", "")
    bare = _MARKS.sub("", unicodedata.normalize("NFKD", text.casefold().replace("'", "").replace("’", "")))
    return unicodedata.normalize("NFKC", bare)


def singular(word: str) -> str:
    """A word without its plural ending; crude, but the same crude for notes and questions."""
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("xes", "ches", "shes", "sses")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _runs(text: str) -> Iterator[str | list[str]]:
    """Runs of a text in which names are looked for: lists of singular words; strings of Chinese or Japanese, where nothing marks a word."""
    for wide, pieces in groupby(_PIECE.finditer(normal(text)), key=lambda piece: bool(piece[1])):
        if wide:
            yield from (piece[1] for piece in pieces)
        else:
            yield [singular(part) for piece in pieces for part in (piece[2] or "").split("_") if part]


def _words(text: str) -> list[str]:
    """Singular words in order; a run of Chinese or Japanese is one word."""
    return [word for run in _runs(text) for word in ([run] if isinstance(run, str) else run)]


@cache
def _stop() -> frozenset[str]:
    return frozenset(map(singular, _STOP.split()))


@cache
def _same() -> dict[str, str]:
    groups = [[singular(word) for word in group.split()] for group in re.split(r"[|\n]", _SAME) if group]
    return {word: group[0] for group in groups for word in group}


def tokens(text: str, known: Mapping[str, float] | None = None) -> list[str]:
    """What a text says: words (synonyms as one, no stop words), Chinese and Japanese bigrams, kinds of literals.

    known: the index's tokens. Then text is a question, whose snake_case words count only where notes have all parts: others are columns.
    """
    found: list[str] = []
    for piece in _PIECE.finditer(normal(text)):
        if run := piece[1]:
            found += [run[i : i + 2] for i in range(len(run) - 1)] or [run]
        elif word := piece[2]:
            parts = [same(part) for part in word.split("_") if part]
            if known is None or len(parts) == 1 or all(part in known or part in _stop() for part in parts):
                found += (part for part in parts if part not in _stop())
        else:
            found += [kind for kind, text in zip(_LITERALS, piece.groups()[2:], strict=True) if text]
    return found


@lru_cache(20_000)
def same(word: str) -> str:
    """The singular of a word, or of the first of its synonyms."""
    word = singular(word)
    return _same().get(word, word)


@lru_cache(20_000)
def grams(word: str) -> tuple[str, ...]:
    """The letter trigrams of a word of three letters or more, each marked with "#"; "^" and "$" stand for its ends."""
    return tuple("#" + f"^{word}$"[i : i + 3] for i in range(len(word))) if len(word) > 2 and word[0] != "@" else ()


def schema_names(notebook: str) -> dict[str, str]:
    """The frames and columns of a rendered schema in lower case, each with what it stands for in a question: "date" or nothing."""
    found = {}
    for line in _SCHEMA.finditer(notebook[:20_000]):
        name = (line["frame"] or line["name"]).strip('"').lower()
        meant = "date" if (line["dtype"] or "").startswith("datetime") else ""
        if name:
            found[name] = found[name.replace("_", " ")] = meant
    return found


def anonymous(question: str, own: Mapping[str, str]) -> str:
    """A question with the user's own names (lower case) replaced by what they stand for."""
    if not own:
        return question
    names = "|".join(map(re.escape, sorted(own, key=len, reverse=True)))
    return re.sub(rf"(?<!\w)(?:{names})(?!\w)", lambda name: own.get(name[0].lower(), ""), question, flags=re.I)


def plain(note: Note) -> str:
    """A note's text without what is particular to it: an example's columns and other strings."""
    return _QUOTED.sub("", note.text) if note.kind == "example" else note.text


def build(sources: Iterable[Source]) -> Index:
    """Index the sources of one kind."""
    sources = tuple(sources)
    counts: list[Mapping[str, float]] = []
    lengths: list[float] = []
    for source in sources:
        found: defaultdict[str, float] = defaultdict(float)
        for text, weight in [
            *((key, 1.0) for key in (*source.names, *source.keys)),
            *((plain(note), TEXT_WEIGHT / len(source.notes)) for note in source.notes),
        ]:
            for token in tokens(text):
                found[token] += weight
        lengths.append(sum(found.values()))
        for word, number in list(found.items()):
            for gram in grams(word):
                found[gram] += number
        counts.append(found)
    mean = sum(lengths) / max(1, len(lengths))
    holders = Counter(token for count in counts for token in count)
    weights = {
        token: (GRAM_WEIGHT if token[0] == "#" else 1) * math.log(1 + (len(sources) - number + 0.5) / (number + 0.5))
        for token, number in holders.items()
    }
    postings: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    for at, count in enumerate(counts):
        for token, number in count.items():
            postings[token].append((at, weights[token] * number * (K1 + 1) / (number + K1 * (1 - B + B * lengths[at] / mean))))
    named: dict[str, int] = {}
    for at, source in enumerate(sources):
        for name in (" ".join(_words(name)) for name in source.names):
            if len(name) > 1 and name not in _stop():
                named.setdefault(name, at)
    kind: Kind = "card" if all(note.kind == "card" for source in sources[:1] for note in source.notes) else "example"
    titles = [frozenset(map(same, _words(source.notes[0].source.replace("-", " "))) if kind == "example" else ()) for source in sources]
    return Index(sources, postings, weights, named, titles, kind, _meanings(sources))


def _meanings(sources: Sequence[Source]) -> NDArray[np.float32] | None:
    """The unit vectors of sources, zeros for one that has none; None where none has."""
    if not any(source.meaning for source in sources):
        return None
    import numpy as np

    found = np.stack([np.frombuffer(source.meaning or bytes(embed.SIZE), np.int8) for source in sources]).astype(np.float32)
    unit: NDArray[np.float32] = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1.0)
    return unit


def read(path: Path = NOTES) -> dict[Kind, list[Source]]:
    """The sources of each kind in a notes file. Raises TwofoldError when it is missing or no notes file."""
    found: dict[Kind, dict[str, Source]] = {"example": {}, "card": {}}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            note = Note(row["kind"], row["title"], row["text"], row["source"])
            first = Source((), tuple(row["names"]), tuple(row["keys"]), base64.b64decode(row.get("meaning", "")))
            known = found[note.kind].setdefault(note.source, first)
            found[note.kind][note.source] = replace(known, notes=(*known.notes, note))
    except FileNotFoundError as error:
        raise TwofoldError(f"the notes are missing ({path}): run `twofold data notes`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TwofoldError(f"{path} is no notes file ({error}): run `twofold data notes`") from error
    return {kind: list(sources.values()) for kind, sources in found.items()}


@cache
def load(kind: Kind, path: Path = NOTES) -> Index:
    """The index of one kind, built at its first question."""
    return build(read(path)[kind])


def choose(index: Index, question: str, own: Mapping[str, str]) -> list[int]:
    """The sources worth a place in a prompt, best first: those that a question names two of, else the best if it scores enough, and its
    rivals close behind it.
    """
    ranked = index.ranked(question, own)
    score = {source: value for value, source in ranked}
    named = index.mentioned(question)
    if len(named) > 1:
        return sorted(named, key=lambda source: -score.get(source, 0.0))[: MOST[index.kind]]
    if not ranked or (ranked[0][0] < ENOUGH and not named):
        return []
    return [source for value, source in ranked[: MOST[index.kind]] if value >= ranked[0][0] - RIVAL[index.kind]]


def fit(notes: Sequence[Note], question: str, budget: int) -> tuple[Note, ...]:
    """The notes that share `budget` characters: examples whole or not at all, cards without the lines that say least about the question.

    A definition goes last, and before it the lines that the question asks for by label ("formula", "versus ridge"), then those that share
    most words with it; of equals the last goes first.
    """
    titles = set(chain.from_iterable(_words(note.title) for note in notes))
    asked, wanted = {"definition", "versus"}.union(_words(question), titles), set(tokens(question)) - set(map(same, titles))
    fitted: list[Note] = []
    for at, note in enumerate(notes):
        share = budget // (len(notes) - at)
        lines = note.text.splitlines()
        worth = {line: (asked.issuperset(_words(line.partition(":")[0])), len(wanted.intersection(tokens(line)))) for line in lines}
        while note.kind == "card" and len(lines) > 1 and len("\n".join(lines)) > share:
            least = min(worth[line] for line in lines[1:])
            del lines[max(i for i, line in enumerate(lines) if i and worth[line] == least)]
        text = "\n".join(lines)
        if len(text) <= budget:
            fitted.append(Note(note.kind, note.title, text, note.source))
            budget -= len(text)
    return tuple(fitted)


def nearest(question: str, kind: Kind, *, notebook: str = "", history: Sequence[Message] = (), budget: int = BUDGET) -> tuple[Note, ...]:
    """The notes that may help with a question, best first; none where nothing is near. One that names two concepts gets both cards.

    notebook: the rendered schema, whose names say nothing about what is wanted. history: the turns that the question refers back to; the
    last question among them is read too. budget: characters of all texts together.
    Raises TwofoldError when the notes file is missing.
    """
    index = load(kind)
    asked = [turn["content"] for turn in history if turn["role"] == "user"][-1:]
    query = " ".join((*asked, question))
    wanted = set(tokens(query))
    chosen = [index.sources[source] for source in choose(index, query, schema_names(notebook))]
    notes = [max(source.notes, key=lambda note: len(wanted.intersection(tokens(plain(note))))) for source in chosen]
    return fit(notes, query, budget)
