"""The tiny text classifier: what a prompt is about, what it wants, whether it refers back, and in which language. NumPy only.

Four linear heads (topic, intent, recall, language) look at words (1-2-grams) and character n-grams (2-4), weighted tf-idf style, at the
shape of a question ("how does TERM work"), at a few signs (words of short lists in eight languages, matched whole; length; code) and at how
often data-science text uses the words. `features` is the one featuriser of n-grams and `Classifier.columns` puts all together:
`train.router` fits the heads on them, `Classifier.guess` evaluates them. The weights are plain arrays (`weights/router.npz`, read with
allow_pickle=False) beside the vocabulary (`weights/router.json`).

Limits: a bag of n-grams knows no grammar, so "not a histogram" looks like "a histogram"; only the first and last characters of a long
text are read (`HEAD`, `TAIL`).
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twofold.types import TwofoldError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LANGUAGES: tuple[str, ...] = ("en", "es", "fr", "de", "pt", "zh", "ja", "hi")
"""ISO 639-1 codes, in the order of the language head's rows."""
BINARY_HEADS: tuple[str, ...] = ("topic", "intent", "recall")
"""Heads with one probability each; "intent" is the probability of code."""
HEAD, TAIL = 800, 400
"""Characters read from the start and from the end of a prompt. A traceback says what matters in its last line."""
GRAM_SHARE, SHAPE_SHARE = 0.5, 0.5
"""How much the character n-grams of a prompt, and its shape, weigh against its words."""
LONGEST, LONGEST_WIDE = 4, 12
"""Words of the longest term that the lexicon finds, and characters of the longest in Chinese and Japanese."""
LISTS: tuple[str, ...] = ("terms", "hints", "everyday", "back", "make", "ask", "filler", "elsewhere")
"""The word lists of data/lexicon.toml: data science; data science with a second meaning; everything else; words that refer back, that want
something made, that ask for an explanation; words that say nothing by themselves; and, of data/everyday_words.toml, the everyday words that
name no column either."""
_MOST = (3, 4, 2, 3, 2, 2)
SIGNS: tuple[str, ...] = (
    *(f"{name} {count}" for name, most in zip(LISTS, _MOST, strict=False) for count in range(1, most + 1)),
    "elsewhere 1", "elsewhere 2", "elsewhere alone",
    "everyday alone", "back alone", "make alone", "ask alone", "1 word", "2-3 words", "4-8 words", "20 words", "code", "error",
)  # fmt: skip
"""Features beside the n-grams: at least so many words of a list ("alone": `_signs`), the length, something like Python, an exception."""
FAMILIAR: tuple[str, ...] = (
    "no telling word", "English", "mean", "least", "most", "strangers", "share of strangers", "share of rare words", "odds",
)  # fmt: skip
"""Numbers about how often an English prompt's words occur in data-science text, and how much more often than in other technical text."""
MIXES = 27 + 36 + 12
"""Columns for how many terms, hints, everyday words and unlisted words stand together (`_mixes`): "one term among three unlisted words"."""
SHARED: tuple[str, ...] = ("terms", "hints", "everyday", "elsewhere", "unlisted")
"""Columns with the share of a prompt's telling words that each of these lists holds."""
BESIDE = len(SIGNS) + len(FAMILIAR) + MIXES + len(SHARED)
"""Columns beside those of words, n-grams and shapes."""
WEIGHTS = Path(__file__).with_name("weights")
"""Where router.npz and router.json lie."""

_CJK = r"\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff66-\uff9f"
_LETTER = rf"(?:(?![{_CJK}])[^\W\d_]|[\u0900-\u0963\u0970-\u097f\u0300-\u036f])"
_PIECE = re.compile(rf"[{_CJK}]+|{_LETTER}+|\d+|[?=#()\[\]{{}}<>/¿:%]")
_SPOKEN = re.compile(rf"{_LETTER}(?:{_LETTER}|[\d_]|['’-](?={_LETTER}|\d))*")
_CLITIC = re.compile(r"(?<=[a-z])'(?=(?:s|t|re|ve|ll|d|m)\b)")
_WIDE = re.compile(rf"[{_CJK}]")
_WORD = re.compile(r"[^\W\d_]{2,}")
_FOREIGN = frozenset((
    "de", "la", "el", "los", "las", "que", "por", "para", "con", "una", "un", "en", "le", "les", "des", "du", "et", "est", "pour",
    "qui", "dans", "der", "das", "und", "ist", "ein", "eine", "mit", "von", "wie", "zu", "os", "um", "uma", "com", "não", "da", "na",
))  # fmt: skip
_CODE = re.compile(r"\w\[[\"'\w]|\w\.\w+\(|\w+ = \w")
_ERROR = re.compile(r"[a-z](?:error|warning)\b")


def normalise(text: str) -> str:
    """Return the part of `text` that is scored: its head and tail, in NFKC, lower case, with "what's" written "whats"."""
    if len(text) > HEAD + TAIL:
        text = f"{text[:HEAD]} {text[-TAIL:]}"
    return normalise_all(text)


def normalise_all(text: str) -> str:
    """Return `text`, however long, as `normalise` does."""
    return _CLITIC.sub("", unicodedata.normalize("NFKC", text).replace("’", "'").casefold())


def pieces(text: str) -> list[str]:
    """Return the pieces of normalised `text` in order: words, runs of Chinese or Japanese, "0" for any number, single code symbols."""
    return ["0" if piece[0].isdecimal() else piece for piece in _PIECE.findall(text)]


def is_wide(text: str) -> bool:
    """Whether `text` begins in Chinese or Japanese, which mark no words."""
    return bool(_WIDE.match(text))


def features(text: str) -> tuple[Counter[str], Counter[str]]:
    """Return the counts of word 1-2-grams (with marks for start and end, and the first three words) and of character 2-4-grams in `text`.

    A run of Chinese or Japanese counts as one word a character, since nothing marks the words in it.
    Character n-grams stay inside one word, padded with a space at either end.
    """
    words: list[str] = []
    grams: Counter[str] = Counter()
    for piece in pieces(normalise(text)):
        if _WIDE.match(piece):
            words.extend(piece)
        else:
            words.append(piece)
        if piece[0].isalpha():
            grams.update(_grams(piece))
    unigrams = Counter(words)
    marked = ["^", *words, "$"]
    unigrams.update(f"{a} {b}" for a, b in pairwise(marked))
    unigrams[" ".join(marked[:4])] += 1
    return unigrams, grams


def _grams(piece: str) -> list[str]:
    padded = f" {piece} "
    return [padded[i : i + n] for n in (2, 3, 4) for i in range(len(padded) - n + 1)]


def _listed(walk: Iterable[tuple[str, int]]) -> tuple[list[str], ...]:
    found: tuple[dict[str, None], ...] = tuple({} for _ in LISTS)
    for term, lists in walk:
        for i, words_of in enumerate(found):
            if lists >> i & 1:
                words_of[term] = None
    return tuple(list(words) for words in found)


def _shape(walk: Iterable[tuple[str, int]]) -> Counter[str]:
    kinds = ["^"]
    filler = 1 << LISTS.index("filler")
    for term, lists in walk:
        plain = lists & filler or not (term[0].isalpha() or lists)
        kind = term if plain else f"#{lists}"
        if kind != kinds[-1] or plain:
            kinds.append(kind)
    kinds.append("$")
    return Counter(" ".join(kinds[i : i + n]) for n in (1, 2, 3) for i in range(len(kinds) - n + 1))


def _signs(text: str, listed: Sequence[Sequence[str]]) -> list[int]:
    """Return the indices in SIGNS that hold for normalised `text`, in which these words of each list stand."""
    terms, hints, everyday, back, make, ask, _, elsewhere = (len(words) for words in listed)
    length = len(_WORD.findall(text)) + len(_WIDE.findall(text)) // 2
    present = (
        *(len(words) >= count for words, most in zip(listed, _MOST, strict=False) for count in range(1, most + 1)),
        elsewhere >= 1, elsewhere >= 2, elsewhere > 0 == terms + hints,
        everyday > 0 == terms, back > 0 == terms + hints + everyday, make > 0 == ask, ask > 0 == make,
        length <= 1, 2 <= length <= 3, 4 <= length <= 8, length >= 20, bool(_CODE.search(text)), bool(_ERROR.search(text)),
    )  # fmt: skip
    return [i for i, holds in enumerate(present) if holds]


def _mixes(listed: Sequence[Sequence[str]], unlisted: int) -> tuple[list[int], list[float]]:
    """Return the indices below MIXES that hold, one of each of three tables, and the values of SHARED."""
    counts = [len(listed[LISTS.index(name)]) for name in SHARED[:-1]] + [unlisted]
    terms, hints, everyday = (min(count, 2) for count in counts[:3])
    strange, elsewhere = min(unlisted, 3), min(counts[3], 1)
    cells = [terms * 9 + hints * 3 + everyday, 27 + terms * 12 + strange * 3 + everyday, 63 + terms * 4 + min(hints, 1) * 2 + elsewhere]
    telling = max(sum(counts) - counts[3], 1)
    return cells, [count / telling for count in counts]


def _familiarity(text: str, counted: Mapping[str, Sequence[int]]) -> list[float]:
    """Return the values of FAMILIAR for normalised `text`, all 0 when it does not look English (the counts are of English text).

    Words that nearly every text holds say nothing and are left out.
    """
    words = _WORD.findall(text)
    if not text.isascii() or not _FOREIGN.isdisjoint(words):
        return [0.0] * len(FAMILIAR)
    known = [counted.get(word, (48, 0)) for word in words if len(word) > 2 and (word not in counted or counted[word][0] < 360)]
    if not known:
        return [1.0] + [0.0] * (len(FAMILIAR) - 1)
    often, odds = zip(*known, strict=True)
    strangers = sum(count < 111 for count in often)
    rare = sum(count < 178 for count in often)
    size = len(often)
    return [
        0.0, 1.0, sum(often) / size / 200, min(often) / 200, max(often) / 200,
        min(strangers, 3) / 2, strangers / size, rare / size, sum(odds) / size / 100,
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Guess:
    """What the heads say about one prompt: probabilities in 0-1, and the language."""

    topic: float
    code: float
    recall: float
    language: str


@dataclass(frozen=True, slots=True)
class Classifier:
    """The four heads with their vocabulary, immutable once built.

    `words`, `grams` and `shapes` map a feature to its column, in this order; then come SIGNS, FAMILIAR, MIXES and SHARED. `weights` has
    one row a head (topic, intent, recall, then the languages in the order of LANGUAGES) and one column a feature, with the idf folded in;
    `bias` has one entry a row, `idf` one a column. `lexicon` maps an entry to its lists (bit i for LISTS[i]). `counted` maps an English
    word to 100 log10(1 + data-science passages that hold it) and 100 ln(odds against other technical text).
    """

    words: dict[str, int]
    grams: dict[str, int]
    shapes: dict[str, int]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    idf: NDArray[np.float32]
    lexicon: dict[str, int]
    counted: dict[str, list[int]]

    def _walk(self, text: str) -> Iterator[tuple[str, int]]:
        """Yield the entries of the lexicon in `text`, the longest where they overlap, with their lists; other pieces with no lists."""
        words = [part for piece in pieces(normalise(text)) for part in (piece if _WIDE.match(piece) else [piece])]
        start = 0
        while start < len(words):
            wide = bool(_WIDE.match(words[start]))
            for length in range(min(LONGEST_WIDE if wide else LONGEST, len(words) - start), 0, -1):
                term = ("" if wide else " ").join(words[start : start + length])
                if lists := self.lexicon.get(term):
                    yield term, lists
                    break
            else:
                yield words[start], 0
            start += length

    def listed(self, text: str) -> tuple[list[str], ...]:
        """Return the entries of each list in LISTS that stand in `text` as whole words, the longest where they overlap.

        "html" does not hold "ml". Chinese and Japanese mark no words: there an entry counts wherever it stands.
        """
        return _listed(self._walk(text))

    def shape(self, text: str) -> Counter[str]:
        """Return the counts of 1-3-grams of `text` once each word is replaced by the lists that hold it; filler words stay as they are."""
        return _shape(self._walk(text))

    def columns(self, text: str) -> tuple[list[int], list[float]]:
        """Return the columns that `text` touches and its normalised values there, idf left out (it is folded into the weights).

        Words, character n-grams and shapes are each scaled to a fixed length after idf (1, GRAM_SHARE, SHAPE_SHARE); unknown words count in
        that length as the rarest known, so that a prompt of mostly unknown words says little. Counts enter as 1 + log(count).
        """
        columns: list[int] = []
        values: list[float] = []
        walk = list(self._walk(text))
        blocks = ((self.words, 1.0), (self.grams, GRAM_SHARE), (self.shapes, SHAPE_SHARE))
        for counts, (known, share) in zip((*features(text), _shape(walk)), blocks, strict=True):
            found = [(known[name], 1.0 + math.log(count)) for name, count in counts.items() if name in known]
            strange = sum(1 for name in counts if name not in known and " " not in name) if known is self.words else 0
            rarest = float(self.idf.max()) if strange else 0.0
            length = math.sqrt(sum((value * float(self.idf[i])) ** 2 for i, value in found) + strange * rarest**2)
            columns.extend(i for i, _ in found)
            values.extend(share * value / length for _, value in found)
        first = len(self.words) + len(self.grams) + len(self.shapes)
        listed, scored = _listed(walk), normalise(text)
        cells, shares = _mixes(listed, sum(1 for term, lists in walk if not lists and term[0].isalpha()))
        signs = [*_signs(scored, listed), *(len(SIGNS) + len(FAMILIAR) + cell for cell in cells)]
        columns.extend(first + sign for sign in signs)
        values.extend(1.0 for _ in signs)
        columns.extend(range(first + len(SIGNS), first + len(SIGNS) + len(FAMILIAR)))
        values.extend(_familiarity(scored, self.counted))
        columns.extend(range(first + BESIDE - len(SHARED), first + BESIDE))
        values.extend(shares)
        return columns, values

    def logits(self, text: str) -> NDArray[np.float32]:
        """Return the raw score of every row of `weights`, shape (3 + len(LANGUAGES),)."""
        import numpy as np

        columns, values = self.columns(text)
        scores: NDArray[np.float32] = self.bias + self.weights[:, columns] @ np.asarray(values, dtype=np.float32)
        return scores

    def guess(self, text: str) -> Guess:
        """Score one prompt of any length."""
        scores = self.logits(text)
        topic, code, recall = (sigmoid(float(score)) for score in scores[: len(BINARY_HEADS)])
        return Guess(topic, code, recall, LANGUAGES[int(scores[len(BINARY_HEADS) :].argmax())])

    def telling(self, text: str, head: str, *, against: bool = False, most: int = 2) -> list[str]:
        """Return up to `most` informative words of `text`, as written, that pushed `head` up (or down, with `against`), strongest first.

        A word's push is that of its pieces and of the character n-grams in them. Filler words are no reasons; in Chinese and Japanese,
        which mark no words, entries of the lexicon stand for them.
        """
        row = self.weights[BINARY_HEADS.index(head)]
        sign = -1.0 if against else 1.0
        shares = dict(zip(*self.columns(text), strict=True))
        filler = 1 << LISTS.index("filler")

        def push(known: Mapping[str, int], name: str) -> float:
            column = known.get(name, -1)
            return sign * float(row[column]) * shares.get(column, 0.0)

        spoken = {word: pieces(normalise(word)) for word in _SPOKEN.findall(f"{text[:HEAD]} {text[HEAD:][-TAIL:]}")}
        spoken |= {term: [term] for term, lists in self._walk(text) if lists and _WIDE.match(term) and len(term) > 1}
        pushes = {
            word: sum(push(self.words, part) + sum(push(self.grams, gram) for gram in set(_grams(part))) for part in parts)
            for word, parts in spoken.items()
            if len(word) > 1 and not all(part == "0" or len(part) == 1 or self.lexicon.get(part, 0) & filler for part in parts)
        }
        chosen: dict[str, str] = {}
        for word in sorted(pushes, key=lambda name: -pushes[name]):
            if pushes[word] > 0.0 and len(chosen) < most:
                chosen.setdefault(normalise(word), word)
        return list(chosen.values())


def sigmoid(score: float) -> float:
    """Return the probability that belongs to a logit, without overflow."""
    return 1.0 / (1.0 + math.exp(-score)) if score >= 0 else math.exp(score) / (1.0 + math.exp(score))


def logit(probability: float) -> float:
    """Return the logit of a probability, which is kept a little away from 0 and 1."""
    probability = min(max(probability, 1e-6), 1.0 - 1e-6)
    return math.log(probability / (1.0 - probability))


def save(classifier: Classifier, folder: Path) -> None:
    """Write router.npz (half precision) and router.json into `folder`."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    half: dict[str, Any] = {"weights": classifier.weights.astype(np.float16), "idf": classifier.idf.astype(np.float16)}
    np.savez_compressed(folder / "router.npz", bias=classifier.bias.astype(np.float32), **half)
    vocabulary: dict[str, Any] = {"languages": LANGUAGES, "words": list(classifier.words), "grams": list(classifier.grams)}
    vocabulary |= {"shapes": list(classifier.shapes), "lexicon": classifier.lexicon, "counted": classifier.counted}
    (folder / "router.json").write_text(json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


@lru_cache(maxsize=2)
def load(folder: Path = WEIGHTS) -> Classifier:
    """Return the trained classifier, read once a process.

    Raises TwofoldError when the weights are missing or belong to another set of languages.
    """
    import numpy as np

    try:
        vocabulary = json.loads((folder / "router.json").read_text(encoding="utf-8"))
        with np.load(folder / "router.npz", allow_pickle=False) as arrays:
            weights, bias, idf = (np.array(arrays[name], dtype=np.float32) for name in ("weights", "bias", "idf"))
    except FileNotFoundError as error:
        raise TwofoldError(f"the router's weights are missing ({error.filename}): run `twofold train router`") from error
    words = {name: column for column, name in enumerate(vocabulary["words"])}
    grams = {name: column for column, name in enumerate(vocabulary["grams"], start=len(words))}
    shapes = {name: column for column, name in enumerate(vocabulary["shapes"], start=len(words) + len(grams))}
    shape = (len(BINARY_HEADS) + len(LANGUAGES), len(words) + len(grams) + len(shapes) + BESIDE)
    if tuple(vocabulary["languages"]) != LANGUAGES or weights.shape != shape:
        raise TwofoldError(f"the router's weights in {folder} are of another version: run `twofold train router`")
    return Classifier(words, grams, shapes, weights, bias, idf, vocabulary["lexicon"], vocabulary["counted"])
