"""Fit and measure the router's linear heads (`classify`, `route`) on hand-written questions (`asks`). Deterministic, a few minutes.

The held-out split of data/router.jsonl is whole batches of another style than the training batches, and data/router/held-out.toml is a
second one, written later; both are only ever measured. Thresholds in `route` and the constants here were chosen on `cross_validated`, which
sees the training split alone and holds whole batches out.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from twofold import classify, embed, route
from twofold.classify import BINARY_HEADS, LANGUAGES, Classifier
from twofold.train import asks, record
from twofold.train.asks import Row
from twofold.types import Message, Request

GLOSSARY = "rare-words"
"""The batch of bare terms, which teaches vocabulary and is no sample of what people ask."""


@dataclass(frozen=True, slots=True)
class Config:
    """What `twofold train router` does."""

    rows: str = "data/router.jsonl"
    """Labelled questions, train and test splits together."""
    batches: str = "data/router"
    """Folder with more of them, one batch of questions a domain (`asks.batch_rows`), both splits; may be absent."""
    sources: str = "data/sources"
    """Folder with code/*.toml and theory/*.toml, whose asks join the training rows; may be absent."""
    everyday: str = "data/everyday.toml"
    """Frames and everyday things whose crossings are weak off-topic examples."""
    lexicon: str = "data/lexicon.toml"
    """The word lists behind `classify.LISTS`; the concept cards' names are added to the terms."""
    words: str = "data/everyday_words.toml"
    """Everyday words by domain, which join the everyday list."""
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
    most_words: int = 30_000
    """Word 1-2-grams kept, the most frequent."""
    most_grams: int = 34_000
    """Character n-grams kept, the most frequent."""
    most_shapes: int = 15_000
    """1-3-grams of shapes kept, the most frequent."""
    most_language: int = 12_000
    """Weights kept in each row of the language head, the largest: it needs few, and the others would be most of the file."""
    folds: int = 3
    """Parts of a cross-validation on the training split, by which constants were chosen (about two minutes); 0 leaves it out."""
    seed: int = 0
    """Seed of every draw."""


def fit(rows: Sequence[Row], config: Config, lexicon: dict[str, int], counted: dict[str, list[int]]) -> Classifier:
    """Fit the four heads and return them with their vocabulary. Rows without a label for a head leave that head alone."""
    import numpy as np
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

    word_rows: Counter[str] = Counter()
    gram_rows: Counter[str] = Counter()
    shape_rows: Counter[str] = Counter()
    nothing = np.zeros((0, 0), dtype=np.float32)
    blank = Classifier({}, {}, {}, nothing, nothing, nothing, lexicon, counted)
    for row in rows:
        words, grams = classify.features(row.text)
        word_rows.update(words.keys())
        gram_rows.update(grams.keys())
        shape_rows.update(blank.shape(row.text).keys())
    kept = (
        (word_rows, _kept(word_rows, config.minimum, config.most_words)),
        (gram_rows, _kept(gram_rows, config.minimum + 1, config.most_grams)),
        (shape_rows, _kept(shape_rows, config.minimum + 1, config.most_shapes)),
    )
    counts = np.array([occurring[name] for occurring, names in kept for name in names], dtype=np.float32)
    idf = (np.log((1 + len(rows)) / (1 + counts)) + 1).astype(np.float16).astype(np.float32)
    idf = np.append(idf, np.ones(classify.BESIDE, dtype=np.float32))
    columns: list[dict[str, int]] = []
    for _, names in kept:
        first = sum(len(before) for before in columns)
        columns.append({name: i for i, name in enumerate(names, start=first)})
    weights = np.zeros((len(BINARY_HEADS) + len(LANGUAGES), len(idf)), dtype=np.float32)
    bias = np.zeros(len(weights), dtype=np.float32)
    blank = Classifier(columns[0], columns[1], columns[2], weights, bias, idf, lexicon, counted)
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
        least = np.sort(np.abs(model.coef_[seen]))[-config.most_language :][0]
        weights[i], bias[i] = np.where(np.abs(model.coef_[seen]) < least, 0.0, model.coef_[seen]) * idf, model.intercept_[seen]
    return replace(blank, weights=weights.astype(np.float16).astype(np.float32), bias=bias)


def _kept(counts: Counter[str], minimum: int, most: int) -> list[str]:
    enough = [(-count, name) for name, count in counts.items() if count >= minimum]
    return sorted(name for _, name in sorted(enough)[:most])


def percent(hits: Iterable[bool]) -> float | None:
    """Return the share of true values in percent, rounded to a tenth; None of nothing."""
    values = list(hits)
    return round(100 * sum(values) / len(values), 1) if values else None


def measure(
    classifier: Classifier, rows: Sequence[Row], history: Callable[[Row], tuple[Message, ...]] = lambda _row: (), alone: bool = False
) -> dict[str, Any]:
    """Return the router's numbers on labelled rows, each asked with the guard on and, unless `history` gives some, no history.

    alone: without the encoder, which has seen the labels of all training rows.

    false_refusals: declined data-science questions; off_topic_recall: declined others; code_theory_accuracy: over data-science rows, the
    intent that would speak if the guard let the row through; recall_f1; language_accuracy. All in percent.
    """
    sense = None if alone else embed.sense
    routes = [route.decide(Request(text=row.text, history=history(row)), classifier=classifier, sense=sense) for row in rows]
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
    """Return the mean numbers of a k-fold run over the hand-written training rows, and every row with its unseen topic and code scores.

    Of the linear heads alone: the encoder has seen the labels of all training rows. A batch of rows (one source) is in one fold only: a
    row's neighbours in style and subject are as unseen as the row. GLOSSARY is always shown. Its words, like those of the other batches,
    may have joined the lexicon, so this flatters a little.
    """
    sizes = Counter(row.source for row in rows)
    sizes.pop(GLOSSARY, None)
    load = [0] * config.folds
    fold_of: dict[str, int] = {}
    for source, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        fold_of[source] = load.index(min(load))
        load[fold_of[source]] += size
    lexicon, counted = _lexicon(config), asks.count_words(Path(config.sources))
    scored: list[tuple[Row, float, float]] = []
    numbers: list[dict[str, Any]] = []
    for fold in range(config.folds):
        shown = [row for row in rows if fold_of.get(row.source) != fold]
        unseen = [row for row in rows if fold_of.get(row.source) == fold]
        varied = asks.varied_rows(shown, config.varied_weight, config.seed)
        classifier = fit([*shown, *varied, *extra], config, lexicon, counted)
        numbers.append(measure(classifier, unseen, alone=True))
        for row in unseen:
            way = route.decide(Request(text=row.text), classifier=classifier, sense=None)
            scored.append((row, way.scores["topic"], way.scores["code"]))
        print(f"  fold {fold + 1} of {config.folds}: {numbers[-1]}", flush=True)
    mean = {name: [part[name] for part in numbers if part[name] is not None] for name in numbers[0]}
    return {name: round(sum(parts) / len(parts), 1) for name, parts in mean.items() if parts}, scored


def _lexicon(config: Config) -> dict[str, int]:
    return asks.read_lexicon(Path(config.lexicon), Path(config.words), Path(config.sources))


def _inputs(config: Config) -> list[Path]:
    named = [Path(name) for name in (config.rows, config.everyday, config.lexicon, config.words)]
    folders = [*sorted(Path(config.batches).glob("*.toml")), *sorted(Path(config.sources).glob("*/*.toml"))]
    return [path for path in (*named, *folders) if path.exists()]


def gather(config: Config) -> tuple[list[Row], list[Row], list[Row], list[Row]]:
    """Return the training rows (hand-written, the sources' asks, weak ones) without copies of held-out rows, and the held-out rows.

    The held-out rows of both tests come together, those of data/router.jsonl first.
    """
    train, batches = asks.read_rows(Path(config.rows), "train"), Path(config.batches)
    test = [*asks.read_rows(Path(config.rows), "test"), *asks.batch_rows(batches, "test")]
    known = {classify.normalise(row.text) for row in train}
    train += [row for row in asks.batch_rows(batches, "train") if classify.normalise(row.text) not in known]
    sources, things, words = Path(config.sources), Path(config.everyday), Path(config.words)
    weak = [
        *asks.weak_rows(config.sentences, config.weak_weight, config.seed),
        *asks.crossed_rows(sources, things, Path(config.lexicon), words, config.crossings, config.crossed_weight, config.seed),
    ]
    extra = asks.source_rows(sources, config.source_weight, config.seed)
    return asks.unlike(train, test), asks.unlike(extra, test), asks.unlike(weak, test), test


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
    train, extra, weak, held_out = gather(config)
    later = {row.source for row in asks.batch_rows(Path(config.batches), "test")}
    test, second = [row for row in held_out if row.source not in later], [row for row in held_out if row.source in later]
    print(f"{len(train)} training rows, {len(extra)} asks of the sources, {len(weak)} weak rows, {len(held_out)} held-out rows", flush=True)
    checked = cross_validated(train, [*extra, *weak], config)[0] if config.folds else None
    varied = asks.varied_rows(train, config.varied_weight, config.seed)
    classifier = fit([*train, *varied, *extra, *weak], config, _lexicon(config), asks.count_words(Path(config.sources)))
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
        "second_test": {**measure(classifier, second), "per_slice": sliced(classifier, second, lambda row: row.source)} if second else None,
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
