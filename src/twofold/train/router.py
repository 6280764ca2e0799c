"""Fit and measure the router's linear heads (`classify`, `route`) on hand-written questions. Deterministic, about a minute on two cores.

The held-out split of data/router.jsonl is whole batches of another style than the training batches; it is only ever measured. Thresholds in
`route` and the constants here were chosen on `cross_validation`, which sees the training split alone.
"""

from __future__ import annotations

import ast
import json
import math
import random
import re
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from twofold import classify, route
from twofold.classify import BINARY_HEADS, LANGUAGES, Classifier
from twofold.train import corpus, record
from twofold.types import Message, Request

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


@dataclass(frozen=True, slots=True)
class Config:
    """What `twofold train router` does."""

    rows: str = "data/router.jsonl"
    """Labelled questions, train and test splits together."""
    sources: str = "data/sources"
    """Folder with code/*.toml and theory/*.toml, whose asks join the training rows; may be absent."""
    everyday: str = "data/everyday.toml"
    """Frames and everyday things whose crossings are weak off-topic examples."""
    lexicon: str = "data/lexicon.toml"
    """The word lists behind `classify.LISTS`; the concept cards' names are added to the terms."""
    counts: str = "data/router_words.tsv"
    """How many passages of data-science text and of other technical text hold each English word; counted from the corpus when missing."""
    corpus: str = "../shared/corpus"
    """Folder of the corpus shards, read only when `counts` is missing."""
    out: str = "src/twofold/weights"
    """Folder for router.npz and router.json."""
    results: str = "results/router.json"
    """Where the measurement is written."""
    sentences: int = 2500
    """Docstring sentences of the data libraries, weak examples of the topic; half as many of the standard library against it."""
    strength: float = 20.0
    """Inverse strength of the L2 penalty of the topic, intent and recall heads."""
    crossings: int = 2
    """Off-topic crossings drawn for each everyday thing; as many for each name of a concept card, on topic."""
    weak_weight: float = 0.05
    """Weight of a weak example against a hand-written row."""
    crossed_weight: float = 0.1
    """Weight of a crossing against a hand-written row."""
    varied_weight: float = 0.3
    """Weight of a repeated row with another opening or closing."""
    source_weight: float = 0.03
    """Weight of an ask from the sources against a hand-written row."""
    minimum: int = 2
    """Rows in which a feature must occur to be kept."""
    most_words: int = 14_000
    """Word 1-2-grams kept, the most frequent."""
    most_grams: int = 22_000
    """Character n-grams kept, the most frequent."""
    folds: int = 0
    """Parts of a cross-validation on the training split, by which constants were chosen; 0 leaves it out (3 cost two minutes)."""
    seed: int = 0
    """Seed of every draw."""


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


def docstring_sentences(module: str, most: int, seed: int) -> list[str]:
    """Return `most` sentences drawn from the docstrings of an installed module, read from its source without importing it."""
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return []
    origin = Path(spec.origin)
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    files = [file for file in files if not {"tests", "testing", "test", "externals", "_vendor", "extern"} & set(file.parts)]
    draw = random.Random(f"{module} {seed}")
    draw.shuffle(files)
    found: list[str] = []
    for file in files:
        if len(found) >= 3 * most:
            break
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                found.extend(_sentences(ast.get_docstring(node) or ""))
    found = sorted(set(found))
    return draw.sample(found, min(most, len(found)))


def _sentences(docstring: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", docstring)[:6]:
        flat = " ".join(block.split())
        if not re.search(r"[-=>]{3}|::|\.\. ", flat):
            yield from (part for part in re.split(r"(?<=[.?!])\s+", flat) if 20 < len(part) < 160 and part[0].isupper())


def weak_rows(config: Config) -> list[Row]:
    """Return the weak examples: docstring sentences of either kind on either side of the topic."""
    rows = []
    for topic, modules, sentences in ((True, LIBRARIES, config.sentences), (False, OTHER_MODULES, config.sentences // 2)):
        for name in modules:
            found = docstring_sentences(name, -(-sentences // len(modules)), config.seed)
            rows += [Row(text, topic, weight=config.weak_weight, source="docstrings") for text in found]
    return rows


def crossed_rows(config: Config) -> list[Row]:
    """Return frames crossed with everyday things (off topic), and the shared frames with the names of concept cards (data science)."""
    draw = random.Random(config.seed)
    rows: list[Row] = []

    def cross(frame: str, thing: str, topic: bool, language: str) -> Row:
        return Row(frame.replace("{}", thing), topic, None, None, language, config.crossed_weight, "crossed")

    named = card_names(Path(config.sources))
    for language, table in _toml(config.everyday).items():
        for thing in re.split(r"[|\n]", table["things"]):
            frames = [draw.choice(table["shared"]), *draw.sample(table["frames"], config.crossings)]
            rows += [cross(frame, thing, False, language) for frame in frames]
        for name in named.get(language, []):
            rows += [cross(frame, name, True, language) for frame in draw.sample(table["shared"], config.crossings)]
    lists = _toml(config.lexicon)
    for language, many in lists["everyday"].items():
        hints = re.split(r"[|\n]", lists["hints"][language])
        for word in re.split(r"[|\n]", many):
            frame = draw.choice(HINTED if language == "en" else HINTED[:2])
            rows.append(cross(frame.replace("HINT", draw.choice(hints)), word, False, language))
    return rows


def card_names(folder: Path) -> dict[str, list[str]]:
    """Return the names of the concept cards by language; {} where there are none yet."""
    named: dict[str, list[str]] = defaultdict(list)
    for path in sorted((folder / "theory").glob("*.toml")):
        for card in _tables(path, "card"):
            named["en"] += card.get("names", [])
            for language, name in card.get("names_in", {}).items():
                named[language].append(name)
    return named


def read_lexicon(config: Config) -> dict[str, int]:
    """Return each entry of the word lists, in the form that `Classifier.listed` looks up, with one bit for each list in LISTS.

    Names of concept cards that are too long to be everyday words join the terms.
    """
    lists = {name: {term for many in table.values() for term in re.split(r"[|\n]", many)} for name, table in _toml(config.lexicon).items()}
    for language, named in card_names(Path(config.sources)).items():
        long = {name for name in named if " " in name or "-" in name or (language in ("zh", "ja") and len(name) > 3)}
        lists["terms"].update(name for name in long if 2 < len(name) < 40)
    lexicon: dict[str, int] = {}
    for index, name in enumerate(classify.LISTS):
        for term in sorted(lists[name]):
            pieces = classify.pieces(classify.normalise(term))
            key = ("" if classify.is_wide(term) else " ").join(pieces)
            lexicon[key] = lexicon.get(key, 0) | 1 << index
    return lexicon


def count_words(folder: Path, path: Path) -> None:
    """Count in how many passages of the corpus each English word occurs, and write word, data-science and other passages to `path`.

    Data science: the markdown of notebooks and the libraries' guides. Other: technical prose with little or no data science. The first line
    holds the numbers of passages.
    """
    passages = [0, 0]
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for shard, other, most in (("00-ds-notebooks", 0, 3000), ("03-ds-docs", 0, 6000), ("10-prose", 1, 8800)):
        prose = (document for document in corpus.documents(folder / f"{shard}.jsonl.zst") if document["kind"] != "code")
        for document in islice(prose, most):
            text = re.sub(r"```.*?```", " ", document["text"], flags=re.S)[:12_000]
            for start in range(0, len(text), 3000):
                passages[other] += 1
                counts[other].update(set(re.findall(r"\b[a-z]{2,}\b", classify.normalise_all(text[start : start + 3000]))))
    kept = sorted(word for word in counts[0].keys() | counts[1].keys() if counts[0][word] >= 12 or counts[1][word] >= 30)
    lines = [f"\t{passages[0]}\t{passages[1]}", *(f"{word}\t{counts[0][word]}\t{counts[1][word]}" for word in kept)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_counts(config: Config) -> dict[str, list[int]]:
    """Return what `Classifier.counted` holds, from the table of counts; {} where there is neither table nor corpus."""
    path = Path(config.counts)
    if not path.exists():
        if not Path(config.corpus).exists():
            return {}
        count_words(Path(config.corpus), path)
    table = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    every = [int(number) for number in table[0][1:]]
    counted = {}
    for word, science, other in table[1:]:
        odds = math.log((int(science) + 3) / every[0] * every[1] / (int(other) + 3))
        counted[word] = [round(100 * math.log10(1 + int(science))), round(100 * odds)]
    return counted


def varied_rows(rows: Sequence[Row], config: Config) -> list[Row]:
    """Return each row once more with an opening or a closing that says nothing, on and off topic alike."""
    draw = random.Random(config.seed)
    varied = []
    for row in rows:
        if row.language == "en":
            text = f"{draw.choice(OPENINGS)}{row.text}" if draw.random() < 0.7 else f"{row.text}{draw.choice(CLOSINGS)}"
            varied.append(replace(row, text=text, weight=config.varied_weight, source="varied"))
    return varied


def _toml(path: str) -> dict[str, Any]:
    return tomllib.loads(Path(path).read_text(encoding="utf-8"))


def fit(rows: Sequence[Row], config: Config, lexicon: dict[str, int], counted: dict[str, list[int]]) -> Classifier:
    """Fit the four heads and return them with their vocabulary. Rows without a label for a head leave that head alone."""
    import numpy as np
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

    word_rows: Counter[str] = Counter()
    gram_rows: Counter[str] = Counter()
    for row in rows:
        words, grams = classify.features(row.text)
        word_rows.update(words.keys())
        gram_rows.update(grams.keys())
    kept_words = _kept(word_rows, config.minimum, config.most_words)
    kept_grams = _kept(gram_rows, config.minimum + 1, config.most_grams)
    counts = np.array([word_rows[name] for name in kept_words] + [gram_rows[name] for name in kept_grams], dtype=np.float32)
    idf = (np.log((1 + len(rows)) / (1 + counts)) + 1).astype(np.float16).astype(np.float32)
    idf = np.append(idf, np.ones(len(classify.SIGNS) + len(classify.FAMILIAR), dtype=np.float32))
    columns = {name: i for i, name in enumerate(kept_words)}, {name: i for i, name in enumerate(kept_grams, start=len(kept_words))}
    weights = np.zeros((len(BINARY_HEADS) + len(LANGUAGES), len(idf)), dtype=np.float32)
    bias = np.zeros(len(weights), dtype=np.float32)
    blank = Classifier(*columns, weights, bias, idf, lexicon, counted)
    found = [blank.columns(row.text) for row in rows]
    ends = np.cumsum([0, *(len(indices) for indices, _ in found)])
    indices = np.concatenate([np.asarray(indices, dtype=np.int32) for indices, _ in found])
    values = np.concatenate([np.asarray(values, dtype=np.float32) for _, values in found])
    matrix = sparse.csr_matrix((values * idf[indices], indices, ends), shape=(len(rows), len(idf)))

    def solve(labels: Sequence[Any], strength: float, balanced: bool = True) -> Any:
        known = [i for i, label in enumerate(labels) if label is not None]
        mass: dict[Any, float] = defaultdict(float)
        for i in known:
            mass[labels[i]] += rows[i].weight
        share = sum(mass.values()) / len(mass) if balanced else 0.0
        model = LogisticRegression(C=strength, max_iter=500, tol=1e-5)
        weight = [rows[i].weight * (share / mass[labels[i]] if balanced else 1.0) for i in known]
        model.fit(matrix[known], [labels[i] for i in known], sample_weight=weight)
        return model

    heads: list[Sequence[Any]] = [
        [None if row.topic and row.recall else row.topic for row in rows],
        [None if row.intent is None else row.intent == "code" for row in rows],
        [row.recall for row in rows],
    ]
    for i, labels in enumerate(heads):
        model = solve(labels, config.strength)
        weights[i], bias[i] = model.coef_[0] * idf, model.intercept_[0]
    model = solve([row.language for row in rows], 10.0, balanced=False)
    for i, code in enumerate(LANGUAGES, start=len(BINARY_HEADS)):
        seen = list(model.classes_).index(code)
        weights[i], bias[i] = model.coef_[seen] * idf, model.intercept_[seen]
    return replace(blank, weights=weights.astype(np.float16).astype(np.float32), bias=bias)


def _kept(counts: Counter[str], minimum: int, most: int) -> list[str]:
    enough = [(-count, name) for name, count in counts.items() if count >= minimum]
    return sorted(name for _, name in sorted(enough)[:most])


def percent(hits: Iterable[bool]) -> float | None:
    """Return the share of true values in percent, rounded to a tenth; None of nothing."""
    values = list(hits)
    return round(100 * sum(values) / len(values), 1) if values else None


def measure(classifier: Classifier, rows: Sequence[Row], history: Callable[[Row], tuple[Message, ...]] = lambda _row: ()) -> dict[str, Any]:
    """Return the router's numbers on labelled rows, each asked with the guard on and, unless `history` gives some, no history.

    false_refusals: declined data-science questions; off_topic_recall: declined others; code_theory_accuracy: over data-science rows, the
    intent that would speak if the guard let the row through; recall_f1; language_accuracy. All in percent.
    """
    routes = [route.decide(Request(text=row.text, history=history(row)), classifier=classifier) for row in rows]
    pairs = list(zip(rows, routes, strict=True))
    hit = sum(1 for row, way in pairs if row.recall and way.recall)
    either = sum(1 for row, _ in pairs if row.recall) + sum(1 for way in routes if way.recall)
    return {
        "rows": len(rows),
        "false_refusals": percent(way.adapter is None for row, way in pairs if row.topic),
        "off_topic_recall": percent(way.adapter is None for row, way in pairs if not row.topic),
        "code_theory_accuracy": percent((way.scores["code"] >= 0.5) == (row.intent == "code") for row, way in pairs if row.topic),
        "recall_f1": round(200 * hit / either, 1) if either else None,
        "language_accuracy": percent(row.language == way.language for row, way in pairs),
        "unsure": percent(route.NO <= way.scores["topic"] < route.YES for _, way in pairs),
    }


def timed(classifier: Classifier, texts: Sequence[str]) -> dict[str, float]:
    """Return milliseconds for one whole decision: median and 95th percentile over `texts`, and for 200,000 characters."""

    def once(text: str) -> float:
        started = time.perf_counter()
        route.decide(Request(text=text), classifier=classifier)
        return 1000 * (time.perf_counter() - started)

    spent = sorted(once(text) for text in texts)
    long = sorted(once("plot the mean of x1 by group, please! " * 5264) for _ in range(20))
    return {"median": round(spent[len(spent) // 2], 2), "p95": round(spent[int(0.95 * len(spent))], 2), "long_median": round(long[10], 2)}


def sliced(classifier: Classifier, rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, dict[str, Any]]:
    """Return `measure` for each group of rows that share a key."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return {name: measure(classifier, groups[name]) for name in sorted(groups)}


def cross_validated(rows: Sequence[Row], extra: Sequence[Row], config: Config) -> tuple[dict[str, Any], list[tuple[Row, float, float]]]:
    """Return the mean numbers of a k-fold run over the hand-written training rows, and every row with its unseen topic and code scores."""
    order = list(range(len(rows)))
    random.Random(config.seed).shuffle(order)
    numbers: list[dict[str, Any]] = []
    scored: list[tuple[Row, float, float]] = []
    for fold in range(config.folds):
        held = set(order[fold :: config.folds])
        shown = [row for i, row in enumerate(rows) if i not in held]
        classifier = fit([*shown, *varied_rows(shown, config), *extra], config, read_lexicon(config), read_counts(config))
        unseen = [rows[i] for i in sorted(held)]
        numbers.append(measure(classifier, unseen))
        for row in unseen:
            way = route.decide(Request(text=row.text), classifier=classifier)
            scored.append((row, way.scores["topic"], way.scores["code"]))
        print(f"  fold {fold + 1} of {config.folds}: {numbers[-1]}", flush=True)
    return {name: round(sum(part[name] for part in numbers) / len(numbers), 1) for name in numbers[0]}, scored


def _inputs(config: Config) -> list[Path]:
    named = [Path(name) for name in (config.rows, config.everyday, config.lexicon, config.counts)]
    return [path for path in (*named, *sorted(Path(config.sources).glob("*/*.toml"))) if path.exists()]


def _talk(row: Row) -> tuple[Message, ...]:
    """Give a follow-up the earlier turn that it would really have."""
    if not row.recall:
        return ()
    if not row.topic:
        asked = "tell me a story about a king"
    else:
        asked = "plot a bar chart of sales by region" if row.intent == "code" else "what is a p-value?"
    return ({"role": "user", "content": asked}, {"role": "assistant", "content": "Here it is."})


def main(config: Config) -> None:
    """Fit the heads, write the weights, measure the held-out split and write the results."""
    started = time.perf_counter()
    train, test = read_rows(Path(config.rows), "train"), read_rows(Path(config.rows), "test")
    seen = {classify.normalise(row.text) for row in test}
    sources = source_rows(Path(config.sources), config.source_weight, config.seed)
    extra = [row for row in sources if classify.normalise(row.text) not in seen]
    weak = [row for row in (*weak_rows(config), *crossed_rows(config)) if classify.normalise(row.text) not in seen]
    print(f"{len(train)} training rows, {len(extra)} asks from the sources, {len(weak)} weak rows, {len(test)} held-out rows", flush=True)
    checked = cross_validated(train, [*extra, *weak], config)[0] if config.folds else None
    classifier = fit([*train, *varied_rows(train, config), *extra, *weak], config, read_lexicon(config), read_counts(config))
    out = Path(config.out)
    classify.save(classifier, out)
    classify.load.cache_clear()
    classifier = classify.load(out)
    numbers: dict[str, Any] = measure(classifier, test)
    numbers["ms_per_prompt"] = timed(classifier, [row.text for row in test])
    numbers["kilobytes"] = round(sum((out / name).stat().st_size for name in ("router.npz", "router.json")) / 1000)
    print(numbers, flush=True)
    result = {
        **numbers,
        "with_history": measure(classifier, [row for row in test if row.recall], _talk),
        "per_language": sliced(classifier, test, lambda row: row.language or ""),
        "per_slice": sliced(classifier, test, lambda row: row.source),
        "cross_validation": checked,
        "training_rows": {"hand_written": len(train), "sources": len(extra), "weak": len(weak)},
        "config": asdict(config),
        "data": {str(path): record.sha256(path) for path in _inputs(config)},
        "versions": record.versions(),
    }
    path = Path(config.results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {out}/router.npz, router.json and {path} in {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main(Config())
