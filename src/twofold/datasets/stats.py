"""The data card: what the rows and their sources hold, how varied they are, how far evaluation is from training.

Prints tables, and writes data/README.md with its plots and results/data.json. All numbers are computed from the files.
"""

import ast
import json
import random
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from pathlib import Path
from typing import Any

from twofold.datasets import build, check, near, rows
from twofold.datasets.phrases import QUESTIONS
from twofold.types import TwofoldError

FILES = tuple(name for pair in check.PAIRS.values() for name in pair)
SAMPLE = 500  # prompts that self-BLEU compares
WANTED_CALLS = 600  # distinct API calls that sources and rows should cover
ACCESSORS = ("str", "dt", "cat", "plot", "style")  # pandas attributes that only group methods
SMOOTH = 0.1  # counted for an n-gram order without a match, as in NLTK's SmoothingFunction.method1
COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52")


@dataclass(frozen=True, slots=True)
class Config:
    """What `twofold data stats` reads and writes."""

    folder: str = "data"
    """Where the row files are."""
    card: str = "data/README.md"
    """Where the data card is written, its plots beside it in plots/. Empty: nowhere."""
    results: str = "results/data.json"
    """Where the measures are written. Empty: nowhere."""
    seed: int = 0
    """Seed of the sample that self-BLEU compares."""
    json: bool = False
    """Print everything as one JSON object instead of tables."""


def percent(part: float, whole: float) -> float:
    """A share, 0-100."""
    return round(100 * part / max(1, whole), 1)


def spread(values: Sequence[int]) -> dict[str, int]:
    """Median, 95th percentile and maximum."""
    found = sorted(values) or [0]
    return {"median": int(statistics.median(found)), "p95": found[int(0.95 * (len(found) - 1))], "max": found[-1]}


def tokens(text: str) -> list[str]:
    """Words and signs of a text, in lower case."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def grams(found: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """The runs of `size` tokens."""
    return zip(*(found[at:] for at in range(size)), strict=False)


def distinct_grams(texts: Iterable[str], size: int = 4) -> float:
    """Distinct n-grams per 1,000 tokens."""
    several = [tokens(text) for text in texts]
    found = {gram for one in several for gram in grams(one, size)}
    return round(1000 * len(found) / max(1, sum(map(len, several))), 1)


def self_bleu(texts: Sequence[str], seed: int, sample: int = SAMPLE) -> float:
    """The mean BLEU-4 of each text against all others of a sample, 0-100 (Zhu et al. 2018, Texygen): lower is more varied."""
    several = [tokens(text) for text in random.Random(seed).sample(list(texts), min(sample, len(texts)))]
    lengths = sorted(len(one) for one in several)
    counts = [[Counter(grams(one, size)) for one in several] for size in (1, 2, 3, 4)]
    most: list[dict[tuple[str, ...], list[int]]] = [{} for _ in counts]  # the two largest counts of each n-gram in any one text
    for best, order in zip(most, counts, strict=True):
        for counted in order:
            for gram, count in counted.items():
                best[gram] = sorted((*best.get(gram, (0, 0)), count))[-2:]
    scores = []
    for at, one in enumerate(several):
        logs = []
        for best, order in zip(most, counts, strict=True):
            total = sum(order[at].values())
            if total:
                clipped = sum(min(count, best[gram][0 if best[gram][1] == count else 1]) for gram, count in order[at].items())
                logs.append(log((clipped or SMOOTH) / total))
        others = [length for place, length in enumerate(lengths) if place != lengths.index(len(one))]
        closest = min(others, key=lambda length: (abs(length - len(one)), length), default=len(one))
        short = min(0.0, 1 - closest / max(1, len(one)))
        scores.append(exp(statistics.fmean(logs) + short) if logs else 0.0)
    return round(100 * statistics.fmean(scores), 1) if scores else 0.0


def shape(code: str) -> str:
    """The syntax tree of code without names and literals."""

    def walk(node: ast.AST) -> str:
        inner = ",".join(walk(child) for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr_context))
        return f"{type(node).__name__}({inner})"

    return walk(ast.parse(code))


def calls(code: str) -> Iterator[str]:
    """The library functions that code calls, by full name (`pandas.read_csv`), and the methods (`.groupby`, `.str.upper`)."""
    tree = ast.parse(code)
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {
                one.asname or one.name.partition(".")[0]: one.name if one.asname else one.name.partition(".")[0] for one in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            known |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        parts: list[str] = []
        inner: ast.AST = node.func
        while isinstance(inner, ast.Attribute):
            parts.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id in known:
            yield ".".join((known[inner.id], *parts))
        elif parts:
            yield "." + ".".join(parts[-2:] if len(parts) > 1 and parts[-2] in ACCESSORS else parts[-1:])


def source_code(intents: Iterable[rows.Intent], cards: Iterable[rows.Card], known: Mapping[str, rows.Frame]) -> list[str]:
    """Every solution, alternative and follow-up of the intents, filled once, and the demos of the cards."""
    return [task.code for one in intents for task in check.intent_tasks(one, known, 1, 0)] + [one.demo for one in cards if one.demo]


def wordings(intents: Iterable[rows.Intent]) -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Source of a row -> the languages other than English that it can be asked in, each with a pattern of the question."""

    def pattern(ask: str) -> re.Pattern[str]:
        return re.compile(".+?".join(map(re.escape, re.split(r"\$\{?\w+\}?", ask))), re.S)

    return {
        f"intent:{one.id}": [(language, pattern(ask)) for language, asks in one.asks_in.items() for ask in asks]
        for one in intents
        if one.asks_in
    }


def language_of(row: Mapping[str, Any], spoken: Mapping[str, Sequence[tuple[str, re.Pattern[str]]]]) -> str:
    """The language (ISO 639-1) in which a row's first question is asked: that of the wording it was rendered from."""
    question = near.questions(row)[0]
    return next((language for language, pattern in spoken.get(row["source"], ()) if pattern.fullmatch(question)), "en")


def kind_of(row: Mapping[str, Any]) -> str:
    """What a row is an example of: for explanations the kind of question, for code where the task comes from."""
    return str(row["check"].get("kind") or row["source"].partition(":")[0])


def describe(
    found: Sequence[Mapping[str, Any]],
    topics: Mapping[str, str],
    levels: Mapping[str, str],
    spoken: Mapping[str, Sequence[tuple[str, re.Pattern[str]]]],
) -> dict[str, Any]:
    """Counts and lengths of one file's rows; shares in percent."""
    users = [[turn["content"] for turn in row["messages"] if turn["role"] == "user"] for row in found]
    after = [[text.partition("\n\n")[2] if text.startswith("Notebook:\n") else text for text in texts] for texts in users]
    asked = [near.questions(row) for row in found]
    answers = [row["messages"][-1]["content"] for row in found]

    def share(flags: Iterable[bool]) -> float:
        return percent(sum(flags), len(found))

    def counted(values: Iterable[str]) -> dict[str, int]:
        return dict(Counter(values).most_common())

    return {
        "rows": len(found),
        "slices": counted(row["slice"] for row in found if "slice" in row),
        "kinds": counted(map(kind_of, found)),
        "languages": counted(language_of(row, spoken) for row in found),
        "topics": counted(topics.get(row["source"], row["source"]) for row in found),
        "levels": counted(levels[row["source"]] for row in found if row["source"] in levels),
        "multi_turn": share(len(texts) > 1 for texts in asked),
        "with_schema": share(any(text.startswith("Notebook:\n") for text in texts) for texts in users),
        "with_notes": share(any(text.startswith(("Example: ", "Card: ")) for text in texts) for texts in after),
        "repair": share(any(text.startswith(near.FAILS) for text in texts) for texts in users),
        "question_words": spread([len(near.words(text)) for texts in asked for text in texts]),
        "prompt_characters": spread([sum(len(turn["content"]) for turn in row["messages"][:-1]) for row in found]),
        "answer_words": spread([len(text.split()) for text in answers]),
        "answer_lines": spread([len(text.strip().splitlines()) - 2 * text.startswith("```") for text in answers]),
    }


def diversity(found: Sequence[Mapping[str, Any]], seed: int) -> dict[str, float]:
    """How varied one file's questions are, and its code; shares in percent."""
    texts = [text for row in found for text in near.questions(row)]
    blocks = [block for row in found for block in check.code_blocks(row["messages"][-1]["content"])[-1:]]
    result = {
        "distinct_questions": percent(len(set(texts)), len(texts)),
        "distinct_4grams_per_1000_tokens": distinct_grams(texts),
        "self_bleu": self_bleu(texts, seed),
    }
    shapes = {shape(block) for block in blocks}
    return result | ({"ast_shapes": len(shapes), "ast_shapes_share": percent(len(shapes), len(blocks))} if blocks else {})


def of_sources(intents: Sequence[rows.Intent], cards: Sequence[rows.Card]) -> dict[str, int]:
    """How much was written by hand."""
    frozen = build.heldout()
    foreign = [ask for one in intents for asks in one.asks_in.values() for ask in asks] + [
        ask for one in cards for ask in one.asks_in.values()
    ]
    forms = QUESTIONS.values()
    return {
        "intents": len(intents),
        "concept_cards": len(cards),
        "frames": len(rows.frames()),
        "phrasings_of_intents": sum(len(set(one.asks)) for one in intents),
        "phrasings_of_follow_ups": sum(len(set(follow.asks)) for one in intents for follow in one.follow),
        "phrasings_of_cards": sum(len(set(one.asks)) for one in cards),
        "phrasings_in_other_languages": len(set(foreign)),
        "question_forms": sum(map(len, forms)),
        "solutions": sum(1 + len(one.alternatives) + len(one.follow) for one in intents),
        "held_out_intents": sum(one.id in frozen for one in intents),
        "held_out_cards": sum(one.id in frozen for one in cards),
    }


def measure(folder: Path, seed: int) -> dict[str, Any]:
    """Everything the card says, from the row files in a folder and the sources."""
    known, intents, cards = rows.frames(), rows.intents(), rows.cards()
    files = {name: rows.read(folder / name) for name in FILES if (folder / name).exists()}
    if not files:
        raise TwofoldError(f"no row files in {folder}: run `twofold data build` first")
    both: tuple[tuple[str, rows.Intent | rows.Card], ...] = (
        *((f"intent:{one.id}", one) for one in intents),
        *((f"card:{one.id}", one) for one in cards),
    )
    topics, levels, spoken = {name: one.topic for name, one in both}, {name: one.level for name, one in both}, wordings(intents)
    spoken |= {f"card:{one.id}": [(code, re.compile(re.escape(ask))) for code, ask in one.asks_in.items()] for one in cards}
    blocks = [block for found in files.values() for row in found for block in check.code_blocks(row["messages"][-1]["content"])[-1:]]
    called = Counter(call for code in (*blocks, *source_code(intents, cards, known)) for call in set(calls(code)))
    apart = {}
    for adapter, (train, held) in check.PAIRS.items():
        if train in files and held in files:
            compared = check.compare(files[train], files[held], known)
            apart[adapter] = {**compared, "leaks": [str(one) for one in compared["leaks"]]}
    extra = folder / "router.jsonl"
    return {
        "files": {name: describe(found, topics, levels, spoken) for name, found in files.items()},
        "router_prompts": len(rows.read(extra)) if extra.exists() else 0,
        "kilobytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 1000,
        "sources": of_sources(intents, cards),
        "diversity": {name: diversity(found, seed) for name, found in files.items()},
        "api": {"distinct_calls": len(called), "wanted": WANTED_CALLS, "most_used": dict(called.most_common(25))},
        "repeats_and_leaks": apart,
    }


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""

    def said(value: object) -> str:
        return f"{value:,}" if isinstance(value, int) else str(value)

    return "\n".join(f"| {' | '.join(map(said, line))} |" for line in (head, ["---"] * len(head), *lines))


def across(found: Mapping[str, Mapping[str, Any]], label: str, empty: object = 0) -> str:
    """A table with one column a file (or adapter) and one line a measure."""
    names = list(dict.fromkeys(name for one in found.values() for name in one))
    return table([label, *found], [[name.replace("_", " "), *(one.get(name, empty) for one in found.values())] for name in names])


def tables(data: Mapping[str, Any]) -> str:
    """The data card's tables, as Markdown."""
    files = data["files"]
    shown = ("rows", "multi_turn", "with_schema", "with_notes", "repair")
    facts = {name: {key if key == "rows" else f"{key} %": one[key] for key in shown} for name, one in files.items()}
    sizes = ("question_words", "answer_words", "answer_lines", "prompt_characters")
    lengths = {
        name: {key: " / ".join(f"{one[key][part]:,}" for part in ("median", "p95", "max")) for key in sizes} for name, one in files.items()
    }
    apart = {
        name: {key: value if key != "leaks" else len(value) for key, value in one.items()}
        for name, one in data["repeats_and_leaks"].items()
    }
    parts = [
        ("Files", across(facts, "")),
        ("Slices of the evaluation", across({name: one["slices"] for name, one in files.items() if one["slices"]}, "slice")),
        ("Kinds of question", across({name: one["kinds"] for name, one in files.items()}, "kind")),
        ("Languages of the questions", across({name: one["languages"] for name, one in files.items()}, "language")),
        ("Levels", across({name: one["levels"] for name, one in files.items()}, "level")),
        ("Lengths (median / 95 % / most)", across(lengths, "")),
        ("Sources", table(["written by hand", ""], [[name.replace("_", " "), count] for name, count in data["sources"].items()])),
        ("Diversity", across(data["diversity"], "", "")),
        ("Repeats and leaks", across(apart, "percent of rows")),
        ("Topics", across({name: one["topics"] for name, one in files.items()}, "topic")),
    ]
    return "\n\n".join(f"## {title}\n{NOTES[title] + chr(10) * 2 if title in NOTES else ''}{body}" for title, body in parts)


NOTES: Mapping[str, str] = {
    "Kinds of question": (
        "Explanations by what is asked; code by where it comes from: an intent, an everyday task, or a composition of its own."
    ),
    "Lengths (median / 95 % / most)": "A question is a user turn without its notebook block and notes.",
    "Diversity": """\
Shares in percent. self-BLEU: BLEU-4 of each of 500 questions against the other 499, 0-100, lower is more varied.
An AST shape is an answer's syntax tree without names and literals.""",
    "Repeats and leaks": """\
Near: Jaccard similarity of 4-character shingles over 0.9 (MinHash proposes, the exact similarity decides).
Contained: the largest share of a held-back question's 8-grams of words in any one training question; a shorter question is one gram.
A leak is over 80 % contained, or over 0.9 alike in wording (names and numbers aside) to a training question of the same source.
`twofold data check` fails on any, and also on a kept wording that is too near to one that training might draw.""",
}

HEAD = """\
# Data card

The rows that the CODE and THEORY adapters are trained and evaluated on, rendered by `twofold data build` from
[hand-written sources](sources/README.md). `twofold data stats` writes this file: do not edit it.

- **Licence**: MIT, as the rest of the project. Every intent, concept card, wording and frame is written by hand for this project.
  Frames are column names and ranges, some after well-known data sets; their values are drawn at random, so no row holds a real record.
- **Rows**: chat messages (system, user, assistant), a source, and a check. Code comes with frames and assertions, explanations with
  patterns that a right answer matches and patterns that a wrong one would. `twofold data check` runs and matches all of it.
- **Held out**: {intents} intents and {cards} concepts (`sources/heldout.json`), drawn by lot before any row was rendered, are in no
  training row and in none of its notes. Of every other intent and concept the last two English wordings, and of an intent the last
  one in each other language, are kept for evaluation.
- **Size**: {size:.1f} MB in this folder, sources included.
- **Limits**: English prevails. Questions in other languages ask for code, or what a concept is; answers are in English.
"""


def bars(path: Path, panels: Sequence[tuple[str, Mapping[str, float]]], height: float) -> None:
    """Draw horizontal bars, one panel beside another, as a small SVG file."""
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "twofold", "font.size": 8}):
        figure, axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), height), squeeze=False, layout="constrained")
        for axis, colour, (title, values) in zip(axes[0], COLOURS, panels, strict=False):
            axis.barh(list(values)[::-1], list(values.values())[::-1], color=colour)
            axis.set_title(title)
            axis.margins(y=0.01)
            axis.tick_params(length=0)
            axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def histogram(counts: Sequence[int], step: int, most: int) -> dict[str, int]:
    """Numbers of values by range; the last range takes what is more."""
    edges = list(range(0, most + 1, step))
    found = {f"{low}-{high - 1}": sum(low <= count < high for count in counts) for low, high in pairwise(edges)}
    return found | {f"{most}+": sum(count >= most for count in counts)}


def plots(data: Mapping[str, Any], folder: Path, card: Path) -> list[tuple[str, Path]]:
    """Draw the plots beside the card; each with its title."""
    place = card.parent / "plots"
    place.mkdir(parents=True, exist_ok=True)
    files, drawn = data["files"], []
    trained = [(name, files[name]) for name, _ in check.PAIRS.values() if name in files]

    def draw(title: str, name: str, panels: Sequence[tuple[str, Mapping[str, float]]]) -> None:
        bars(place / name, panels, 0.6 + 0.16 * max(len(values) for _, values in panels))
        drawn.append((title, place / name))

    by_topic = [
        (name, {topic: count for topic, count in one["topics"].items() if topic not in ("composed", "talk")}) for name, one in trained
    ]
    draw("Rows by topic, the largest", "topics.svg", [(name, dict(list(counts.items())[:30])) for name, counts in by_topic])
    draw("Rows by kind of question", "kinds.svg", [(name, one["kinds"]) for name, one in trained])
    asked = [(name, [len(near.words(text)) for row in rows.read(folder / name) for text in near.questions(row)]) for name, _ in trained]
    draw("Words in a question", "lengths.svg", [(name, histogram(counts, 3, 36)) for name, counts in asked])
    draw("API calls in the most pieces of code", "calls.svg", [("rows and sources", data["api"]["most_used"])])
    return drawn


def write_card(data: Mapping[str, Any], folder: Path, card: Path) -> None:
    """Write the data card and its plots."""
    sources, api = data["sources"], data["api"]
    head = HEAD.format(intents=sources["held_out_intents"], cards=sources["held_out_cards"], size=data["kilobytes"] / 1000)
    more = (
        f"\n`router.jsonl` holds {data['router_prompts']:,} short prompts for the router, which `twofold train router` writes.\n"
        if data["router_prompts"]
        else ""
    )
    covered = (
        f"\n\n## API calls\nRows and sources call {api['distinct_calls']:,} different functions and methods (wanted: {api['wanted']}).\n"
    )
    shown = "\n\n".join(f"![{title}]({path.relative_to(card.parent)})" for title, path in plots(data, folder, card))
    card.write_text(f"{head}{more}\n{tables(data)}{covered}\n## Plots\n{shown}\n", encoding="utf-8")


def main(config: Config) -> None:
    """Measure, print, write the card and the results."""
    data = measure(Path(config.folder), config.seed)
    if config.card:
        write_card(data, Path(config.folder), Path(config.card))
    if config.results:
        kept = {name: data[name] for name in ("diversity", "api", "repeats_and_leaks", "sources")}
        path = Path(config.results)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(data, ensure_ascii=False) if config.json else tables(data))
