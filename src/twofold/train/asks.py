"""The rows that the router learns from, and the words it knows: hand-written questions, asks of the sources, docstrings, word lists.

Nothing here is downloaded. Docstrings are read from the source of installed libraries, without importing them.
"""

from __future__ import annotations

import ast
import json
import math
import random
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from twofold import classify
from twofold.types import TwofoldError

LIBRARIES = ("pandas", "numpy", "scipy", "sklearn", "statsmodels", "matplotlib", "seaborn")
"""Libraries whose docstrings are weak examples of data science."""
OTHER_MODULES = (
    "argparse", "ast", "asyncio", "calendar", "cmd", "configparser", "ctypes", "curses", "email", "ftplib", "getpass", "html", "http",
    "imaplib", "imghdr", "inspect", "ipaddress", "locale", "logging", "mailbox", "mimetypes", "netrc", "os", "pathlib", "pdb", "poplib",
    "pydoc", "sched", "shelve", "shlex", "shutil", "site", "smtplib", "socket", "socketserver", "ssl", "subprocess", "tarfile",
    "tempfile", "textwrap", "threading", "tkinter", "turtle", "unittest", "urllib", "uuid", "venv", "wave", "webbrowser", "wsgiref",
    "xml", "xmlrpc", "zipapp", "zipfile",
)  # fmt: skip
"""Standard-library modules whose docstrings are weak examples of general programming, which is off topic."""
COLUMNS = (
    "price", "age", "income", "region", "city", "salary", "category", "quantity", "rating", "order date", "score", "weight", "duration",
    "revenue", "plan", "churn", "department", "temperature", "customer_id", "height", "signup_date", "df", "sales", "orders", "North",
    "10", "total", "product",
)  # fmt: skip
"""What fills the $slots of the code intents' asks."""
ODD_COLUMNS = (
    "goals", "wine", "calories", "movie", "song", "dog", "city", "hotel", "rent", "rain", "doctor", "blood", "car", "engine", "tip",
    "dinner", "school", "votes", "party", "team", "flight", "plane", "fish", "flower", "beer", "coffee", "shoes", "tax", "loan",
    "patient", "child", "friend", "game", "player",
)  # fmt: skip
"""What fills some of them: everyday words name columns too."""

OPENINGS = (
    "Question 4: ", "Task: ", "Problem 2. ", "Note to self: ", "hi, ", "Hello! ", "Dear assistant, ", "pls ", "Please ", "FYI: ",
    "URGENT: ", "Re: ", "1) ", "- ", "b) ", "Request: ", "User: ", "Customer writes: ", "Subject: ", "New message: ", "@bot ",
    "hey bot, ", "team, ", "guys, ", "so, ", "well, ", "alright, ", "could anybody help: ", "quick question: ",
    "question from a colleague: ", "homework: ", "Exercise 7 - ", "Issue: ", "Case: ", "Everyone: ", "just wondering, ",
)  # fmt: skip
CLOSINGS = (
    " please", " thanks", " thanks!", " thank you", " asap", "??", "!!", "...", " (5 points)", " (10 pts)", " [easy]", " today",
    " for me", " quickly", " - help", ", any idea?", ", anyone?", " :)", " lol", ", cheers", " if you can", " - J.",
)  # fmt: skip
"""Openings and closings that say nothing; training rows are repeated with them."""

HINTED = ("{} HINT", "HINT {}", "HINT of {}", "HINT for my {}", "my {} and the HINT")
"""How an everyday word meets a hint off topic; the first two in any language."""
LEAST = 4
"""Docstrings in which an English word must occur to be counted."""

COMMON = 100
"""100 log10(1 + data-science passages) from which an inflected form is no everyday word."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled question. topic, intent and recall are None where the label is unknown."""

    text: str
    topic: bool | None = None
    intent: str | None = None
    recall: bool | None = None
    language: str | None = "en"
    weight: float = 1.0
    source: str = ""


def read_rows(path: Path, split: str) -> list[Row]:
    """Return the hand-written rows of one split."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        raw = json.loads(line)
        if raw["split"] == split:
            rows.append(Row(raw["text"], raw["topic"], raw["intent"], raw["recall"], raw["language"], 1.0, raw["source"]))
    return rows


def batch_rows(folder: Path, split: str) -> list[Row]:
    """Return the rows of the batches in `folder`/*.toml of one split; [] where the folder is absent.

    A file is of the training split unless it says otherwise. A batch has source (its name), kind ("off", "code" or "theory"), asks (one a
    line) and perhaps language. A question that comes twice is kept once.
    """
    rows: dict[str, Row] = {}
    for path in sorted(folder.glob("*.toml")):
        table = _toml(path)
        if table.get("split", "train") != split:
            continue
        for batch in table["batch"]:
            kind = batch["kind"]
            if kind not in ("off", "code", "theory"):
                raise TwofoldError(f"{path}: kind {kind!r} is none of off, code, theory")
            intent = None if kind == "off" else kind
            for ask in filter(None, map(str.strip, batch["asks"].splitlines())):
                row = Row(ask, kind != "off", intent, False, batch.get("language", "en"), 1.0, batch["source"])
                rows.setdefault(classify.normalise(ask), row)
    return list(rows.values())


def unlike(rows: Sequence[Row], held_out: Sequence[Row], most: float = 0.8) -> list[Row]:
    """Return the rows that are no copy of a held-out one: neither the same text nor more than `most` of all their words (Jaccard) shared.

    Texts of fewer than four words are only compared as a whole: "what is recall" and "what is precision" are no copies.
    """
    texts = {classify.normalise(row.text) for row in held_out}
    holding: dict[str, list[frozenset[str]]] = defaultdict(list)
    for text in texts:
        words = frozenset(word for word in classify.features(text)[0] if " " not in word)
        for word in words if len(words) > 3 else ():
            holding[word].append(words)

    def copies(text: str) -> bool:
        words = frozenset(word for word in classify.features(text)[0] if " " not in word)
        near = {other for word in words for other in holding.get(word, ())} if len(words) > 3 else set()
        return text in texts or any(len(words & other) > most * len(words | other) for other in near)

    return [row for row in rows if not copies(classify.normalise(row.text))]


def source_rows(folder: Path, weight: float, seed: int) -> list[Row]:
    """Return the asks of the code intents (slots filled with plausible names) and of the concept cards; [] where the folder is absent."""
    draw = random.Random(seed)
    rows = []

    def filled(ask: str) -> str:
        parts = re.split(r"(\$\$|\$\w+)", ask)
        for i in range(1, len(parts), 2):
            parts[i] = "$" if parts[i] == "$$" else draw.choice(COLUMNS if draw.random() < 0.7 else ODD_COLUMNS)
        return "".join(parts)

    for path in sorted((folder / "code").glob("*.toml")):
        for intent in _tables(path, "intent"):
            rows += [Row(filled(ask), True, "code", False, "en", weight, "sources-code") for ask in intent.get("asks", [])]
            for follow in intent.get("follow", []):
                rows += [Row(filled(ask), True, "code", True, "en", weight, "sources-code") for ask in follow.get("asks", [])]
    for path in sorted((folder / "theory").glob("*.toml")):
        for card in _tables(path, "card"):
            asks = [*card.get("asks", []), *card.get("names", [])]
            rows += [Row(ask, True, "theory", False, "en", weight, "sources-theory") for ask in asks]
            rows += [Row(ask, True, "theory", False, code, weight, "sources-theory") for code, ask in card.get("asks_in", {}).items()]
    return rows


def _tables(path: Path, key: str) -> list[dict[str, Any]]:
    try:
        tables: list[dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8")).get(key, [])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        print(f"  skipped {path}: {error}")
        return []
    return tables


@cache
def docstrings(module: str) -> tuple[str, ...]:
    """Return the docstrings of an installed module in the order of its files; () where it is missing or has no Python source."""
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return ()
    origin = Path(spec.origin)
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    found: list[str] = []
    for file in files:
        if {"tests", "testing", "test", "externals", "_vendor", "extern"} & set(file.parts):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        nodes = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module))
        found.extend(text for node in nodes if (text := ast.get_docstring(node)))
    return tuple(found)


def _sentences(docstring: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", docstring)[:6]:
        flat = " ".join(block.split())
        if not re.search(r"[-=>]{3}|::|\.\. ", flat):
            yield from (part for part in re.split(r"(?<=[.?!])\s+", flat) if 20 < len(part) < 160 and part[0].isupper())


def weak_rows(sentences: int, weight: float, seed: int) -> list[Row]:
    """Return sentences of the data libraries' docstrings on one side of the topic, half as many of the standard library on the other."""
    rows = []
    for topic, modules, most in ((True, LIBRARIES, sentences), (False, OTHER_MODULES, sentences // 2)):
        for name in modules:
            found = sorted({part for text in docstrings(name) for part in _sentences(text)})
            drawn = random.Random(f"{name} {seed}").sample(found, min(-(-most // len(modules)), len(found)))
            rows += [Row(text, topic, weight=weight, source="docstrings") for text in drawn]
    return rows


def crossed_rows(sources: Path, everyday: Path, lexicon: Path, words: Path, crossings: int, weight: float, seed: int) -> list[Row]:
    """Return frames crossed with everyday things (off topic), and the shared frames with the names of concept cards (data science)."""
    draw = random.Random(seed)
    rows: list[Row] = []

    def cross(frame: str, thing: str, topic: bool, language: str) -> Row:
        return Row(frame.replace("{}", thing), topic, None, None, language, weight, "crossed")

    named = card_names(sources)
    for language, table in _toml(everyday).items():
        for thing in _split(table["things"]):
            frames = [draw.choice(table["shared"]), *draw.sample(table["frames"], crossings)]
            rows += [cross(frame, thing, False, language) for frame in frames]
        for name in named.get(language, []):
            rows += [cross(frame, name, True, language) for frame in draw.sample(table["shared"], crossings)]
    hinted = {language: _split(many) for language, many in _toml(lexicon)["hints"].items()}
    for language, many in everyday_words(lexicon, words)[0].items():
        hints = hinted[language]
        for word in many:
            frame = draw.choice(HINTED if language == "en" else HINTED[:2])
            rows.append(cross(frame.replace("HINT", draw.choice(hints)), word, False, language))
    return rows


def everyday_words(lexicon: Path, words: Path) -> tuple[dict[str, list[str]], set[str]]:
    """Return the everyday words by language, those of both files together, and the English ones that name no column ("elsewhere")."""
    lists, more = _toml(lexicon), _toml(words)
    terms = {term for many in lists["terms"].values() for term in _split(many)}
    english = {name: [word for many in more[name].values() for word in _split(many)] for name in ("things", "elsewhere")}
    joined = {language: _split(many) + _split(more["foreign"].get(language, "")) for language, many in lists["everyday"].items()}
    joined["en"] += english["things"] + english["elsewhere"]
    everyday = {language: [word for word in dict.fromkeys(many) if word and word not in terms] for language, many in joined.items()}
    return everyday, set(english["elsewhere"]) - terms


def inflections(word: str) -> list[str]:
    """Return the regular plural, past and -ing forms of an English word; [] for phrases, short words and letters beyond a-z."""
    if not re.fullmatch(r"[a-z]{4,}", word) or word.endswith(("ing", "ed", "ss")) or (word.endswith("s") and not word.endswith("us")):
        return []
    stem = word[:-1] if word.endswith("e") else word
    if re.search(r"[^aeiou]y$", word):
        return [f"{word[:-1]}ies", f"{word[:-1]}ied", f"{word}ing"]
    plural = f"{word}es" if word.endswith(("s", "x", "z", "ch", "sh")) else f"{word}s"
    return [plural, f"{stem}ed", f"{stem}ing"]


def card_names(folder: Path) -> dict[str, list[str]]:
    """Return the names of the concept cards by language; {} where there are none yet."""
    named: dict[str, list[str]] = defaultdict(list)
    for path in sorted((folder / "theory").glob("*.toml")):
        for card in _tables(path, "card"):
            named["en"] += card.get("names", [])
            for language, name in card.get("names_in", {}).items():
                named[language].append(name)
    return named


def read_lexicon(lists_path: Path, words: Path, sources: Path) -> dict[str, int]:
    """Return each entry of the word lists, in the form that `Classifier.listed` looks up, with one bit for each list in LISTS.

    Names of concept cards that are too long to be everyday words join the terms. Inflected forms of the everyday words join them unless
    another list or data-science text has the form ("pools" the swimming place, "pooled" the variance).
    """
    lists = {name: {term for many in table.values() for term in _split(many)} for name, table in _toml(lists_path).items()}
    everyday, lists["elsewhere"] = everyday_words(lists_path, words)
    lists["everyday"] = {word for many in everyday.values() for word in many}
    known, counted = set().union(*lists.values()), count_words(sources)
    for name in ("elsewhere", "everyday"):
        english = lists[name] & set(everyday["en"])
        lists[name] |= {form for word in english for form in inflections(word) if form not in known and counted.get(form, [0])[0] < COMMON}
    for language, named in card_names(sources).items():
        long = {name for name in named if " " in name or "-" in name or (language in ("zh", "ja") and len(name) > 3)}
        lists["terms"].update(name for name in long if 2 < len(name) < 40)
    lexicon: dict[str, int] = {}
    for index, name in enumerate(classify.LISTS):
        for term in sorted(lists[name]):
            pieces = classify.pieces(classify.normalise(term))
            key = ("" if classify.is_wide(term) else " ").join(pieces)
            lexicon[key] = lexicon.get(key, 0) | 1 << index
    return lexicon


def count_words(sources: Path) -> dict[str, list[int]]:
    """Return what `Classifier.counted` holds: how often English words occur in data-science text and in other technical text.

    Data science: the docstrings of LIBRARIES and the concept cards. Other: the docstrings of OTHER_MODULES.
    """
    cards = [json.dumps(card) for path in sorted((sources / "theory").glob("*.toml")) for card in _tables(path, "card")]
    passages = [
        [*cards, *(text for name in LIBRARIES for text in docstrings(name))],
        [text for name in OTHER_MODULES for text in docstrings(name)],
    ]
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for counted, texts in zip(counts, passages, strict=True):
        for text in texts:
            counted.update(set(re.findall(r"\b[a-z]{2,}\b", classify.normalise_all(text))))
    every = [len(texts) for texts in passages]
    known = {}
    for word, science in counts[0].items():
        if science >= LEAST:
            odds = math.log((science + 3) / every[0] * every[1] / (counts[1][word] + 3))
            known[word] = [round(100 * math.log10(1 + science)), round(100 * odds)]
    return dict(sorted(known.items()))


def varied_rows(rows: Sequence[Row], weight: float, seed: int) -> list[Row]:
    """Return each row once more with an opening or a closing that says nothing, on and off topic alike."""
    draw = random.Random(seed)
    varied = []
    for row in rows:
        if row.language == "en":
            text = f"{draw.choice(OPENINGS)}{row.text}" if draw.random() < 0.7 else f"{row.text}{draw.choice(CLOSINGS)}"
            varied.append(replace(row, text=text, weight=weight, source="varied"))
    return varied


def _split(many: str) -> list[str]:
    return re.split(r"[|\n]", many)


def _toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))
