"""The knowledge that `twofold.retrieve` searches: solved examples and concept cards, and what people call them.

The product's index holds everything, so that nobody goes without a card or an example that is there. The evaluation and the measurement
here search indexes of their own, without held-out intents and cards and without the last wordings of each, which training never sees.
"""

import base64
import json
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from twofold import embed, retrieve
from twofold.datasets import build, rows
from twofold.retrieve import Index, Kind, Source
from twofold.types import TwofoldError

EXAMPLES = 2
NEIGHBOURS = 3
MOST_BYTES = 6_000_000


@dataclass(frozen=True, slots=True)
class Config:
    """What `twofold data notes` does."""

    out: str = "src/twofold/weights/notes.jsonl"
    """Where the notes are written."""
    results: str = "results/retrieve.json"
    """Where the measurement is written."""
    strays: str = "data/router.jsonl"
    """Questions labelled as off topic, which should find nothing."""
    kept: bool = True
    """Index what is kept for evaluation too: last wordings, held-out intents and cards."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One measured question: what is asked with which notebook, and the source that should be found."""

    text: str
    source: str
    notebook: str = ""


def spoken(asks: Sequence[str], slots: Mapping[str, Any]) -> Iterator[str]:
    """Asks with their slots in general words: a column is a "column", a date column a "date"; the ways to say an option take turns."""
    for number, ask in enumerate(asks):
        said = {}
        for slot, spec in slots.items():
            ways = list(chain.from_iterable(spec.values())) if isinstance(spec, Mapping) else spec
            if not isinstance(ways, str):
                said[slot] = str(ways[number % len(ways)])
            elif ways in ("csv", "xlsx", "json", "parquet", "png"):
                said[slot] = f"file.{ways}"
            else:
                said[slot] = "date" if ways.startswith("date") else "column"
        yield rows.substitute(ask, said)


def examples(intent: rows.Intent, known: Mapping[str, rows.Frame], end: int | None, meaning: bytes) -> Source:
    """An intent's solved examples, the same ones every time; the asks before `end` are its keys, with those in other languages."""
    foreign = (ask for asks in intent.asks_in.values() for ask in (asks if end is None else asks[:-1]))
    asks = (*intent.asks[:end], *foreign)
    notes = (build.example(intent, known, random.Random(f"{intent.id}/{number}")) for number in range(EXAMPLES))
    keys = (intent.id.replace("-", " "), intent.topic.replace("-", " "), *spoken(asks, intent.slots))
    return Source(tuple({note.text: note for note in notes}.values()), (), keys, meaning)


def card(one: rows.Card, asks: Sequence[str], meaning: bytes) -> Source:
    """A card's note with its names in all languages; the asks and misconceptions are its keys."""
    claims = (wrong["claim"] for wrong in one.misconceptions)
    return Source(
        (build.card_note(one),),
        (*one.names, *one.names_in.values()),
        (one.id.replace("-", " "), one.topic.replace("-", " "), *asks, *one.asks_in.values(), *claims),
        meaning,
    )


def sources(end: int | None = None, heldout: bool = False, meanings: Mapping[str, bytes] | None = None) -> dict[Kind, list[Source]]:
    """All that is not held out, or all, with the asks before `end`. meanings: by id, those of the packaged notes where not given."""
    frozen, known = frozenset() if heldout else build.heldout(), rows.frames()
    known_meanings = packaged() if meanings is None else meanings
    return {
        "example": [examples(one, known, end, known_meanings.get(one.id, b"")) for one in rows.intents() if one.id not in frozen],
        "card": [card(one, one.asks[:end], known_meanings.get(one.id, b"")) for one in rows.cards() if one.id not in frozen],
    }


def packaged() -> dict[str, bytes]:
    """The meanings in the packaged notes, by id."""
    return {source.notes[0].source: source.meaning for source in chain.from_iterable(retrieve.read().values())}


def meanings() -> dict[str, bytes]:
    """What each intent, everyday question and card means, by id: the mean direction of its names and of its asks for training."""
    from tqdm import tqdm

    frames, rng = rows.frames(), random.Random("meanings")

    def asked(intent: rows.Intent) -> Iterator[str]:
        for ask in intent.asks[: -build.EVAL_ASKS]:
            yield build.say(ask, rows.fill(intent, frames, rng, rows.mentioned(ask)), intent.slots, rng)

    said = {one.id: [one.id.replace("-", " "), *asked(one)] for one in rows.intents()}
    said |= {one.id: list(one.asks) for one in build.everyday(frames)}
    said |= {one.id: [*one.names, *one.asks[: -build.EVAL_ASKS]] for one in rows.cards()}
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.map(_meaning, said.values(), chunksize=16)
        return dict(zip(said, tqdm(found, desc="meanings", total=len(said), file=sys.stderr, disable=None), strict=True))


def _meaning(texts: Sequence[str]) -> bytes:
    """The mean direction of some texts, a signed byte a number."""
    return (127 * embed.centre(texts)).round().astype("int8").tobytes()


def neighbours(meanings: Mapping[str, bytes]) -> dict[str, list[str]]:
    """For each source of training rows the `NEIGHBOURS` intents or cards that mean most nearly the same, nearest first; none held out."""
    import numpy as np

    vectors = {id: np.frombuffer(meaning, np.int8).astype(np.int32) for id, meaning in meanings.items()}
    frozen, found = build.heldout(), dict[str, list[str]]()
    intents, cards = ([one.id for one in many if one.id not in frozen] for many in (rows.intents(), rows.cards()))
    for askers, others in (([*intents, *(one.id for one in build.everyday(rows.frames()))], intents), (cards, cards)):
        held = np.stack([vectors[id] for id in others])
        for id in askers:
            nearest = (others[at] for at in np.argsort(-(held @ vectors[id]), kind="stable")[: NEIGHBOURS + 1])
            found[id] = [other for other in nearest if other != id][:NEIGHBOURS]
    return found


def lines(found: Mapping[Kind, Sequence[Source]]) -> Iterator[dict[str, Any]]:
    """The rows of notes.jsonl; the first note of a source carries its names and keys."""
    for source in chain.from_iterable(found.values()):
        for number, note in enumerate(source.notes):
            first = {"names": source.names, "keys": source.keys, "meaning": base64.b64encode(source.meaning).decode()}
            yield asdict(note) | (first if number == 0 else {"names": (), "keys": (), "meaning": ""})


def trials(first: int = -build.EVAL_ASKS, end: int | None = None, heldout: bool = False) -> dict[Kind, list[Trial]]:
    """The asks from `first` to `end` of everything known (or held out), slots filled as in the evaluation rows, typed in a hurry."""
    frozen, known, rng = build.heldout(), rows.frames(), random.Random("retrieve")
    code, theory = [], []
    for intent in rows.intents():
        for ask in intent.asks[first:end] if (intent.id in frozen) == heldout else ():
            filled = rows.fill(intent, known, rng, rows.mentioned(ask))
            text = build.rough(build.say(ask, filled, intent.slots, rng), rng, (*filled.said.values(), *filled.code.values()))
            code.append(Trial(text, intent.id, build.schema(filled.frames, known, rng)))
    for one in rows.cards():
        theory += [Trial(build.rough(ask, rng, ()), one.id) for ask in one.asks[first:end] if (one.id in frozen) == heldout]
    return {"example": code, "card": theory}


def foreign_trials() -> list[Trial]:
    """The asks in other languages that training never sees, of every intent that is not held out."""
    frozen, known, rng, found = build.heldout(), rows.frames(), random.Random("retrieve"), []
    for intent in rows.intents():
        for language, asks in intent.asks_in.items() if intent.id not in frozen else ():
            filled = rows.fill(intent, known, rng, rows.mentioned(asks[-1]))
            found.append(Trial(build.say(asks[-1], filled, intent.slots, rng, language), intent.id))
    return found


def percent(hits: Sequence[bool]) -> float:
    """The share of True, 0-100."""
    return round(100 * sum(hits) / max(1, len(hits)), 1)


def measure(index: Index, asked: Sequence[Trial], schema: bool = False) -> dict[str, float]:
    """Recall of the right source among the first one, two and three, what `retrieve.choose` makes of it, and milliseconds a question."""
    ids = [source.notes[0].source for source in index.sources]
    places, chosen, seconds = [], [], []
    for trial in asked:
        own = retrieve.schema_names(trial.notebook) if schema else {}
        started = time.perf_counter()
        found = retrieve.choose(index, trial.text, own)
        seconds.append(time.perf_counter() - started)
        chosen.append([ids[at] for at in found])
        places.append([ids[at] for _, at in index.ranked(trial.text, own)[:3]])
    pairs = list(zip(asked, places, chosen, strict=True))
    return {
        "questions": len(asked),
        "recall_at_1": percent([trial.source in place[:1] for trial, place, _ in pairs]),
        "recall_at_2": percent([trial.source in place[:2] for trial, place, _ in pairs]),
        "recall_at_3": percent([trial.source in place for trial, place, _ in pairs]),
        "right_in_prompt": percent([trial.source in names for trial, _, names in pairs]),
        "nothing_found": percent([not names for names in chosen]),
        "notes_per_question": round(statistics.fmean(map(len, chosen)), 2),
        "ms_median": round(1000 * statistics.median(seconds), 2),
        "ms_max": round(1000 * max(seconds), 2),
    }


def report(strays: Path, every: int = 1) -> dict[str, Any]:
    """Every measurement, on indexes without the wordings that are asked. every: 1 for all questions, n for one in n.

    Of names and of questions in other languages, which are many, one in four.
    """
    indexes = {kind: retrieve.build(found) for kind, found in sources(-build.EVAL_ASKS).items()}
    kept, heldout = ({kind: asked[::every] for kind, asked in trials(heldout=held).items()} for held in (False, True))
    off = [row["text"] for row in rows.read(strays) if not row["topic"] and not row["recall"]][::every] if strays.exists() else []
    result: dict[str, Any] = {}
    for kind, index in indexes.items():
        silent = [not retrieve.choose(index, text, {}) for text in off]
        result[kind] = measure(index, kept[kind]) | {
            "sources": len(index.sources),
            "heldout_nothing_found": percent([not retrieve.choose(index, trial.text, {}) for trial in heldout[kind]]),
            "off_topic_nothing_found": percent(silent),
        }
    named = [Trial(f"what is {name}?", one.notes[0].source) for one in indexes["card"].sources for name in one.names]
    result["card"]["by_name"] = measure(indexes["card"], named[:: 4 * every])
    result["example"]["other_languages"] = measure(indexes["example"], foreign_trials()[:: 4 * every])
    result["example"]["with_notebook"] = measure(indexes["example"], kept["example"], schema=True)
    return result


def main(config: Config) -> None:
    """Write the notes, the neighbours and the measurement."""
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    found = meanings()
    build.NEAR.write_text(json.dumps(neighbours(found), separators=(",", ":")).replace("],", "],\n") + "\n", encoding="utf-8")
    rows.write(out, lines(sources(None, True, found) if config.kept else sources(-build.EVAL_ASKS, False, found)))
    if out.stat().st_size > MOST_BYTES:
        raise TwofoldError(f"{out} has {out.stat().st_size:,} bytes, over {MOST_BYTES:,}: shorten the keys")
    result = report(Path(config.strays)) | {"kilobytes": out.stat().st_size // 1000, "kept_wordings_indexed": config.kept}
    Path(config.results).parent.mkdir(parents=True, exist_ok=True)
    Path(config.results).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{out}: {result['kilobytes']} kB\n{json.dumps(result, indent=2)}")


if __name__ == "__main__":
    main(Config())
