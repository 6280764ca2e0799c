"""Render the sources into chat rows, deterministically from a seed: the four data/*.jsonl, or any number of fresh rows for mid-training."""

import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from twofold import notebook, prompts, retrieve
from twofold.datasets import coin, compose, rows
from twofold.datasets.damage import damaged
from twofold.datasets.explain import PASSAGES, Question, answer_of, renaming, sections, stitched, understood, worded
from twofold.datasets.phrases import ABOUT_ME, ASKING, BASE_TALK, FOLLOW_UPS, IMPERATIVES, INTROS, LEADS, TAILS
from twofold.datasets.vary import varied
from twofold.types import Message, Note, TwofoldError

Row = dict[str, Any]
"""A chat row: its messages, the source they come from, and what an answer is checked by."""

Asked = TypeVar("Asked", rows.Intent, rows.Card)

NEAR = rows.SOURCES / "near.json"
"""Written by `datasets.notes`: id -> ids of its nearest neighbours."""
DTYPES = {
    "id": "int64",
    "ref": "int64",
    "float": "float64",
    "int": "int64",
    "cat": "str",
    "binary": "int64",
    "bool": "bool",
    "date": "datetime64",
    "datestr": "str",
    "text": "str",
}
RENAMED = 0.3  # share of explanations whose concept goes by an invented name that only the card at hand explains
EVAL_ASKS = 2  # the last asks of each intent and card are kept for evaluation; of the asks in other languages the last one
HELD_ASKS = 4  # evaluation rows of each intent and card that is held out altogether
COINED = 0.5  # share of code rows whose frames and columns are made up for that row alone
EVERYDAY = 0.4  # share of code rows that ask in everyday words about the frame whose schema is in the prompt
COMPOSED = 0.2  # share of code rows that are composed (compose/) instead of drawn from an intent
REPAIR = 0.06  # share of code rows that show an answer with its error and ask for the fix
FOREIGN = 0.15  # share of code rows that are asked in another language than English


@dataclass(frozen=True, slots=True)
class Config:
    """What `twofold data build` renders."""

    out: str = "data"
    """Folder of the rendered files."""
    code: int = 6_020
    """Rows of train.jsonl."""
    theory: int = 6_000
    """Rows of train_theory.jsonl."""
    noted: float = 0.08
    """Share of rows whose prompt holds examples or a card; the small model, which has to read them, is trained with 0.75."""
    seed: int = 0
    """Same seed, same files."""
    evaluation: bool = True
    """Also write eval.jsonl and eval_theory.jsonl."""
    base: float = 0.0
    """Share of extra BASE small-talk rows, for mid-training only."""
    stitched: float = 0.0
    """Share of explanations whose card is stitched from several and must be read; they mean nothing: for training the small model only."""


def heldout(path: Path = rows.SOURCES / "heldout.json") -> frozenset[str]:
    """Ids of intents and cards that are never rendered for training."""
    return frozenset(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else frozenset()


def kept(asks: Sequence[str], evaluation: bool, last: int = EVAL_ASKS) -> Sequence[str]:
    """The last asks, which are kept for evaluation, or the ones before them, which are trained on."""
    return asks[-last:] if evaluation else asks[:-last]


def rough(text: str, rng: random.Random, keep: Iterable[str]) -> str:
    """A question as typed in a hurry: a lead or tail, lower case, no full stop, a slip of the fingers. Words to keep stay whole."""
    if "```" in text or "\n" in text or text.startswith("#"):
        return text
    whole = set(keep)
    if rng.random() < 0.15:
        bids = text.split(" ")[0].lower() in IMPERATIVES
        text = rng.choice((*LEADS, *ASKING) if bids else LEADS) + (text if text[:2].isupper() else text[0].lower() + text[1:])
    elif rng.random() < 0.1:
        text = text.rstrip(".?!") + rng.choice(TAILS)
    if rng.random() < 0.25:
        text = " ".join(word if any(one in word for one in whole) else word.lower() for word in text.split(" "))
    if rng.random() < 0.25:
        text = text.rstrip(".?!")
    return _slip(text, rng, whole) if rng.random() < 0.12 else text


def _slip(text: str, rng: random.Random, keep: set[str]) -> str:
    """The text with two letters of one word swapped, one dropped or one doubled."""
    words = text.split(" ")
    able = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha() and not any(k in word or word in k for k in keep)]
    if not able:
        return text
    i = rng.choice(able)
    at = rng.randrange(1, len(words[i]) - 2)
    start, one, two, end = words[i][:at], words[i][at], words[i][at + 1], words[i][at + 2 :]
    words[i] = rng.choice((start + two + one + end, start + two + end, start + one + one + two + end))
    return " ".join(words)


def say(text: str, filled: rows.Filled, slots: Mapping[str, Any], rng: random.Random, language: str = "", loose: bool = False) -> str:
    """An ask with its slots in words: column names bare, quoted or in backticks, lists with "and" in English and commas elsewhere.

    loose: the schema is in the prompt, so that now and then unit_price is said as "unit price".
    """
    easy = loose and rng.random() < 0.2
    mark = rng.choices(("{}", "'{}'", "`{}`", '"{}"'), (76, 9, 8, 7))[0]
    said = dict(filled.said)
    for slot, spec in slots.items():
        quoted = re.search(r"""['"`]\$\{?""" + re.escape(slot) + r"\b", text)
        if _is_column(spec) and easy and spec != "newcol":
            said[slot] = said[slot].replace("_", " ").lower()
        elif _is_column(spec) and not quoted:
            said[slot] = mark.format(said[slot])
        elif language and _is_list(spec):
            said[slot] = ", ".join(json.loads(filled.code[slot]))
    return rows.substitute(text, said)


def _is_list(spec: Any) -> bool:
    """True for a slot that holds several columns."""
    return isinstance(spec, str) and "[" in spec


def _is_column(spec: Any) -> bool:
    """True for a slot that holds the name of one column."""
    if not isinstance(spec, str) or _is_list(spec):
        return False
    return not spec.startswith(("frame", "level:", "value:")) and spec not in ("csv", "xlsx", "json", "parquet", "png")


def schema(frames: Mapping[str, rows.Frame], known: Mapping[str, rows.Frame], rng: random.Random) -> str:
    """The notebook block for frames by variable, sometimes with a known frame that is not meant."""
    held = dict(frames)
    if rng.random() < 0.25:
        other = rng.choice(list(known.values()))
        held.setdefault(other.name, other)
    items = list(held.items())
    rng.shuffle(items)
    size = rng.choice((120, 200, 891, 1000, 1460, 5000, 12000))
    return "\n".join(notebook.describe(name, {col.name: DTYPES[col.kind] for col in frame.columns}, size) for name, frame in items)


def example(intent: rows.Intent, known: Mapping[str, rows.Frame], rng: random.Random) -> Note:
    """A solved example of an intent, with columns of its own."""
    ask = rng.choice(kept(intent.asks, evaluation=False))
    filled, _ = _filled(intent, intent.solution, known, rng, rows.mentioned(ask))
    return Note("example", rows.substitute(ask, filled.said), rows.substitute(intent.solution, filled.code).strip(), intent.id)


def fenced(code: str) -> str:
    """Code as an answer shows it."""
    return f"```python\n{code.strip()}\n```"


def drawn_frames(code: str, intent: rows.Intent, known: Mapping[str, rows.Frame], rng: random.Random) -> Mapping[str, rows.Frame]:
    """The frames that a row draws from: the known ones, or made-up ones, whose names hold blanks only where the code quotes each name."""
    if intent.frame or rng.random() >= COINED:
        return known
    slots = intent.slots
    named = [slot for slot, spec in slots.items() if isinstance(spec, str) and not spec.startswith("frame") and "[" not in spec]
    bare = (rf'(?<!")\$\{{?{re.escape(slot)}\b|\$\{{?{re.escape(slot)}\}}?(?!"|\w)' for slot in named)
    return coin.world(rng, spaced=not any(re.search(pattern, code) for pattern in bare))


def chat_row(messages: Sequence[Message], answer: str, source: str, check: dict[str, Any]) -> Row:
    """A row in its form: the messages with the answer as the last one."""
    return {"messages": [*messages, {"role": "assistant", "content": answer}], "source": source, "check": check}


def exchange(question: str, answer: str) -> list[Message]:
    """A question with its answer, as recalled turns."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def introduced(question: str, df: str, frame: rows.Frame, rng: random.Random) -> str:
    """A question after a sentence that names the frame's columns."""
    return rng.choice(INTROS).format(df=df, columns=", ".join(col.name for col in frame.columns)) + " " + question


def after_failure(messages: Sequence[Message], code: str, rng: random.Random) -> list[Message]:
    """The conversation with a damaged form of `code` as its answer, the error and the wish for a fix; unchanged where nothing breaks."""
    failure = damaged(code, rng)
    return prompts.repair(messages, fenced(failure.code), failure.error) if failure else list(messages)


@cache
def neighbours(path: Path = NEAR) -> Mapping[str, Sequence[str]]:
    """The intents or cards that mean most nearly what each source means, by id: what retrieval confuses it with."""
    found: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def strays(source: str, others: Sequence[Asked], number: int, rng: random.Random) -> list[Asked]:
    """Different intents or cards to draw wrong notes from for a source, four of five near in meaning."""
    near = [one for one in others if one.id in neighbours().get(source, ())]
    found = {one.id: one for one in (rng.choice(near if near and rng.random() < 0.8 else others) for _ in range(number))}
    return [one for one in found.values() if one.id != source]


def fitted(notes: list[Note], question: str, rng: random.Random) -> list[Note]:
    """The notes in any order, cut to what a prompt has room for."""
    rng.shuffle(notes)
    return list(retrieve.fit(notes, question, retrieve.BUDGET))


def code_row(
    intent: rows.Intent,
    others: Sequence[rows.Intent],
    known: Mapping[str, rows.Frame],
    rng: random.Random,
    evaluation: bool = False,
    language: str = "",
    noted: bool = False,
) -> Row:
    """One chat row of an intent. evaluation: a wording kept from training, the bare question. language: "" draws English or another.

    noted: with examples in its prompt.
    """
    language, ask = _ask(intent, rng, evaluation, language)
    told = rows.mentioned(ask)
    silent = any(slot not in told and isinstance(spec, str) and not spec.startswith("frame") for slot, spec in intent.slots.items())
    show = bool(intent.frame) or silent or rng.random() < (0.3 if evaluation else 0.35)
    if show:  # a notebook block names the frame for the ask
        told |= {slot for slot, spec in intent.slots.items() if spec == "frame"}
    whole = "".join((intent.solution, intent.check, *(one.solution + one.check for one in intent.follow)))
    filled, world = _filled(intent, whole, known, rng, told, evaluation)
    columns = {name for slot, name in filled.code.items() if isinstance(intent.slots[slot], str)}
    question = say(ask, filled, intent.slots, rng, language, loose=show and not evaluation)
    shown = schema(filled.frames, {**known, **world}, rng) if show else ""
    if not show and not language and rng.random() < 0.08 and not filled.files:
        question = introduced(question, *next(iter(filled.frames.items())), rng)
    if not language:
        question = rough(question, rng, (*columns, *filled.said.values()))
    notes = _examples(intent, others, known, question, rng) if noted else []
    step: rows.Intent | rows.Follow = intent
    turns: list[Message] = []
    if intent.follow and not language and rng.random() < 0.25:
        step = rng.choice(intent.follow)
        turns = exchange(question, fenced(rows.substitute(intent.solution, filled.code)))
        ask = rng.choice(kept(step.asks, evaluation, last=1))
        question = rough(say(ask, filled, intent.slots, rng), rng, columns)
    code = rows.substitute(step.solution, filled.code).strip()
    messages = prompts.compose("code", question, notebook=shown, notes=notes, recalled=turns)
    if not evaluation and not language and rng.random() < REPAIR:
        messages = after_failure(messages, code, rng)
    check = {"test": rows.substitute(step.check, filled.code), "frames": behind(filled.frames, known), "files": dict(filled.files)}
    return chat_row(messages, fenced(code), f"intent:{intent.id}", check)


def _ask(intent: rows.Intent, rng: random.Random, evaluation: bool, language: str) -> tuple[str, str]:
    """The language of a row and one of the intent's asks in it."""
    if not language and not evaluation and intent.asks_in and rng.random() < FOREIGN:
        language = rng.choice(list(intent.asks_in))
    if not language:
        return "", rng.choice(kept(intent.asks, evaluation))
    spoken = intent.asks_in[language]  # a lone one is for training
    return language, rng.choice(kept(spoken, evaluation, last=1) or spoken)


def _filled(
    intent: rows.Intent, code: str, known: Mapping[str, rows.Frame], rng: random.Random, told: Iterable[str], evaluation: bool = False
) -> tuple[rows.Filled, Mapping[str, rows.Frame]]:
    """The intent's slots with values for its `code`, and the frames they were drawn from; made-up ones for training only."""
    world = known if evaluation else drawn_frames(code, intent, known, rng)
    try:
        return rows.fill(intent, world, rng, told), world
    except TwofoldError:  # a made-up frame may lack what this intent needs
        return rows.fill(intent, known, rng, told), known


def _examples(
    intent: rows.Intent,
    others: Sequence[rows.Intent],
    known: Mapping[str, rows.Frame],
    question: str,
    rng: random.Random,
) -> list[Note]:
    """The notes of a row: an example of the intent itself, some of its neighbours, or both, in any order."""
    drawn = rng.random()
    right = [intent] if drawn < 0.8 else []
    wrong = strays(intent.id, others, rng.choice((1, 2, 2) if right else (1, 2, 3)), rng) if drawn >= 0.33 else []
    return fitted([example(one, known, rng) for one in (*right, *wrong)], question, rng)


def behind(frames: Mapping[str, rows.Frame], known: Mapping[str, rows.Frame]) -> dict[str, Any]:
    """Frames by variable as a row's "check" holds them: a known frame's name, or the lines of a made-up one."""
    return {variable: one.name if known.get(one.name) == one else rows.lines(one) for variable, one in frames.items()}


def everyday(known: Mapping[str, rows.Frame]) -> list[rows.Task]:
    """All everyday tasks for training, those of known frames without the wordings that evaluation keeps."""
    found = rows.tasks()
    for one in rows.asked():
        asks, (solution, check) = kept(one.asks, False), (rows.substitute(text, {"df": "df"}) for text in (one.solution, one.check))
        found.append(rows.Task(one.id, tuple(rows.substitute(ask, {"df": "df"}) for ask in asks), solution, known[one.frame], check))
    return found


def task_row(
    task: rows.Task, others: Sequence[rows.Intent], known: Mapping[str, rows.Frame], rng: random.Random, noted: bool = False
) -> Row:
    """One chat row of an everyday task. In service there is no example of it, only its neighbours."""
    task = varied(replace(task, asks=(rng.choice(task.asks),)), rng)
    df = task.frame.name if task.frame and rng.random() < 0.2 and not re.search(rf"\b{task.frame.name}\b", task.solution) else "df"
    question, code, test = (re.sub(r"\bdf\b", df, text) for text in (task.asks[0], task.solution.strip(), task.check))
    frames = {df: task.frame} if task.frame else {}
    question = rough(question, rng, [df, *(col.name for frame in frames.values() for col in frame.columns)])
    near = strays(task.id, others, rng.choice((1, 2, 3)), rng) if noted else []
    notes = fitted([example(one, known, rng) for one in near], question, rng)
    shown = schema(frames, known, rng) if frames or rng.random() < 0.2 else ""
    messages = prompts.compose("code", question, notebook=shown, notes=notes)
    if rng.random() < REPAIR:
        messages = after_failure(messages, code, rng)
    check = {"test": test, "frames": behind(frames, known), "files": {}}
    return chat_row(messages, fenced(code), f"task:{task.id}", check)


def composed_row(known: Mapping[str, rows.Frame], rng: random.Random, noted: bool = False) -> Row:
    """One chat row of a composed task, over a made-up or a known frame."""
    frame = coin.frame(rng, spaced=True, wide=rng.random() < 0.4) if rng.random() < 0.75 else rng.choice(list(known.values()))
    if len(frame.of(("float", "int"))) < 3 or not frame.of(("cat",)):
        frame = coin.frame(rng, wide=True)
    df = "df" if rng.random() < 0.6 else frame.name
    show = df != "df" or rng.random() < 0.55
    task, family = compose.task(rng, frame, df, show)
    notes: list[Note] = []
    for likely, same in ((0.6, family), (0.4, None)):  # an example of the same family, one of any
        if noted and rng.random() < likely:
            other, _ = compose.task(rng, coin.frame(rng, spaced=True), "df", False, same)
            notes.append(Note("example", other.ask, other.code, "composed"))
    rng.shuffle(notes)
    names = [col.name for col in frame.columns]
    shown = schema({df: frame}, known, rng) if show else ""
    question, code, check = rough(task.ask, rng, names), task.code, task.check
    if not show and rng.random() < 0.1:
        question = introduced(question, df, frame, rng)
    turns: list[Message] = []
    if task.follow and rng.random() < 0.3:
        turns = exchange(question, fenced(code))
        ask, code, check = task.follow
        question = rough(ask, rng, names)
    messages = prompts.compose("code", question, notebook=shown, notes=notes, recalled=turns)
    if rng.random() < REPAIR:
        messages = after_failure(messages, code, rng)
    return chat_row(messages, fenced(code), "composed", {"test": check, "frames": behind({df: frame}, known), "files": {}})


def card_note(card: rows.Card, parts: Mapping[str, str] | None = None, keep: Callable[[str], bool] = bool) -> Note:
    """A card as it stands in a prompt: labelled lines, of which those stay whose text is to `keep`; the other wordings of a part come last.

    parts: the wording of each part that comes first; without it the first ones.
    """
    parts = parts or sections(card)
    lines = [(name, parts[name]) for name in (*PASSAGES[:-1], "formula", "example") if name in parts]
    lines += [(f"versus {one['other']}", one["text"]) for one in card.versus]
    lines += [("not so", f"{one['claim']} {one['truth']}") for one in card.misconceptions]
    for name in ("how", "why", "when", "intuition", "example"):
        lines += [(name, text) for text in getattr(card, name) if text != parts.get(name)]
    shown = (f"{name[0].upper()}{name[1:]}: {text}" for name, text in lines if keep(text))
    return Note("card", card.names[0], "\n".join(shown), card.id)


def sentences(text: str) -> list[str]:
    """The sentences of a passage that say something: of more than twenty characters."""
    return [one for one in re.split(r"(?<=[.!?])\s+", text) if len(one) > 20]


def theory_row(card: rows.Card, others: Sequence[rows.Card], rng: random.Random, evaluation: bool = False, noted: bool = False) -> Row:
    """One chat row of a card. evaluation: a wording kept from training, the bare question. noted: with cards in its prompt."""
    question, kind, extra = _question(card, rng, evaluation)
    parts = sections(card, rng) | extra
    answer = answer_of(kind, parts, rng)
    turns: list[Message] = []
    if not evaluation and rng.random() < 0.15:
        turns = exchange(rough(question, rng, ()), answer)
        question, kind, answer = _follow_up(parts, answer, rng)
    notes = _cards(card, others, parts, (question, answer), rng) if noted else []
    check = {
        "must": [pattern for pattern in card.must if re.search(pattern, answer, re.I)],
        "must_not": list(card.must_not),
        "kind": kind,
    }
    tidy = bool(turns) or question in card.asks_in.values()  # asked as it stands
    if not tidy and any(note.source == card.id for note in notes) and rng.random() < RENAMED:
        fresh = coin.concept(rng)
        swap = renaming(card, fresh)
        doubled = re.search(rf"{fresh}\W+((is|are|or|and|a|the)\W+)*{fresh}", swap(answer), re.I)  # "X, or X, is"
        if fresh in swap(answer) and fresh in swap(question) and not doubled:
            question, answer, check = swap(question), swap(answer), {"must": [], "must_not": [], "kind": kind}
            notes = [replace(one, title=swap(one.title), text=swap(one.text)) if one.source == card.id else one for one in notes]
    messages = prompts.compose("theory", question if tidy else rough(question, rng, ()), notes=notes, recalled=turns)
    return chat_row(messages, answer, f"card:{card.id}", check)


def stitched_row(cards: Sequence[rows.Card], rng: random.Random) -> Row:
    """One chat row whose answer can only be read from the card at hand."""
    card = stitched(cards, coin.concept(rng), rng)
    question, kind, extra = worded(card, rng)
    parts = sections(card, rng) | extra
    answer = answer_of(kind, parts, rng)
    turns: list[Message] = []
    if rng.random() < 0.15:
        turns = exchange(rough(question, rng, ()), answer)
        question, kind, answer = _follow_up(parts, answer, rng)
    notes = [_quoted(card, parts, answer, rng)]
    if rng.random() < 0.3:
        notes.append(card_note(rng.choice(cards)))
    notes = _readable(notes, question, answer, rng)
    messages = prompts.compose("theory", rough(question, rng, card.names), notes=notes, recalled=turns)
    return chat_row(messages, answer, "stitched", {"must": [], "must_not": [], "kind": kind})


def _question(card: rows.Card, rng: random.Random, evaluation: bool) -> Question:
    """A question about a card: hand-written, in another language, or in a wording that every card can wear."""
    drawn = rng.random()
    if evaluation or drawn < 0.35:
        return understood(rng.choice(kept(card.asks, evaluation)), card)
    if drawn < 0.45 and card.asks_in:
        return Question(rng.choice(list(card.asks_in.values())), "what", {})
    return worded(card, rng)


def _follow_up(parts: Mapping[str, str], told: str, rng: random.Random) -> tuple[str, str, str]:
    """A next question, its kind, and its answer: a part that the card has and that was not told yet."""
    fresh = {name: text for name, text in parts.items() if text not in told}
    kinds = [kind for kind in FOLLOW_UPS if {"simple": "intuition"}.get(kind, kind) in fresh]
    kind = rng.choice(kinds or ["pitfalls"])
    return rng.choice(FOLLOW_UPS[kind]), kind, answer_of(kind, fresh, rng) or parts["pitfalls"]


def _cards(
    card: rows.Card, others: Sequence[rows.Card], parts: Mapping[str, str], asked: tuple[str, str], rng: random.Random
) -> list[Note]:
    """The notes of a row that asks and answers so: the card itself (the parts of the answer and some more), another card, or both."""
    question, answer = asked
    drawn = rng.random()
    right = drawn < 0.87
    notes = [_quoted(card, parts, answer, rng)] if right else []
    notes += [_beside(wrong, rng) for wrong in (strays(card.id, others, 1, rng) if drawn >= 0.47 else ())]
    return _readable(notes, question, answer, rng) if right else fitted(notes, question, rng)


def _beside(card: rows.Card, rng: random.Random) -> Note:
    """The note of a card that does not answer: its definition and some more."""
    return card_note(card, sections(card, rng), lambda text: text in card.definition or rng.random() < 0.4)


def _readable(notes: list[Note], question: str, answer: str, rng: random.Random) -> list[Note]:
    """The notes that fit, or the first alone, or its quoted lines alone, where the room does not hold what the answer quotes."""
    card = notes[0]
    quoted = [one for one in sentences(answer) if one in card.text]
    lines = "\n".join(line for line in card.text.splitlines() if any(one in line for one in quoted))
    for tried in (notes[:], [card], [replace(card, text=lines)]):
        found = fitted(tried, question, rng)
        shown = "\n".join(note.text for note in found)
        if all(one in shown for one in quoted):
            break
    return found


def _quoted(card: rows.Card, parts: Mapping[str, str], answer: str, rng: random.Random) -> Note:
    """The card's note with the lines that an answer quotes and some more."""
    return card_note(card, parts, lambda text: any(one in answer for one in sentences(text)) or rng.random() < 0.4)


def talk_row(rng: random.Random, adapter: str) -> Row:
    """A row about the assistant itself (THEORY), or small talk and unknown territory, answered honestly (BASE)."""
    questions, answers = rng.choice(ABOUT_ME if adapter == "theory" else BASE_TALK)
    messages = prompts.compose(adapter, rough(rng.choice(questions), rng, ()))
    return chat_row(messages, rng.choice(answers), "talk", {"must": [], "must_not": [], "kind": "talk"})


def numbered(name: str, found: Iterable[Row]) -> Iterator[Row]:
    """Rows with an id, without those whose messages were there already."""
    seen = set()
    for row in found:
        key = json.dumps(row["messages"])
        if key not in seen:
            seen.add(key)
            yield {"id": f"{name}-{len(seen):05d}", **row}


def render(config: Config, adapter: str) -> Iterator[Row]:
    """Training rows of one adapter, every intent or card in turn."""
    frozen = heldout()
    rng = random.Random(f"{config.seed}/{adapter}")
    if adapter == "code":
        known, found = rows.frames(), [one for one in rows.intents() if one.id not in frozen]
        tasks = everyday(known)
        rng.shuffle(tasks)
        for number in range(config.code):
            drawn, noted = rng.random(), rng.random() < config.noted
            if drawn < COMPOSED:
                yield composed_row(known, rng, noted)
            elif drawn < COMPOSED + EVERYDAY:
                yield task_row(tasks[number % len(tasks)], found, known, rng, noted)
            else:
                yield code_row(found[number % len(found)], found, known, rng, noted=noted)
    else:
        cards = [one for one in rows.cards() if one.id not in frozen]
        for number in range(config.theory):
            if rng.random() < config.stitched:
                yield stitched_row(cards, rng)
            else:
                yield theory_row(cards[number % len(cards)], cards, rng, noted=rng.random() < config.noted)
            if number % 60 == 0:
                yield talk_row(rng, "theory")
            if rng.random() < config.base:
                yield talk_row(rng, "base")


def evaluation_rows(adapter: str) -> Iterator[Row]:
    """Evaluation rows: known intents or cards in kept wordings, held-out ones in any; row["slice"] says which, or names the language."""
    frozen = heldout()
    rng = random.Random(f"eval/{adapter}")
    if adapter == "code":
        known, found = rows.frames(), rows.intents()
        for intent in found:
            for one in asked(intent, rng) if intent.id in frozen else [intent]:
                yield {**code_row(one, found, known, rng, evaluation=True), "slice": "heldout" if intent.id in frozen else "known"}
        for number, intent in enumerate(one for one in found if one.asks_in and one.id not in frozen):
            if number % 4 == 0 and min(map(len, intent.asks_in.values())) > 1:  # every fourth intent, the languages in turn
                language = list(intent.asks_in)[number // 4 % len(intent.asks_in)]
                yield {**code_row(intent, found, known, rng, evaluation=True, language=language), "slice": language}
        for one in rows.asked()[::8]:
            yield {**code_row(one, found, known, rng, evaluation=True), "slice": "asked"}
    else:
        cards = rows.cards()
        for card in cards:
            for each in asked(card, rng) if card.id in frozen else [card]:
                yield {**theory_row(each, cards, rng, evaluation=True), "slice": "heldout" if card.id in frozen else "known"}


def asked(source: Asked, rng: random.Random) -> list[Asked]:
    """A held-out intent or card once for each of `HELD_ASKS` of its asks: training saw none of them."""
    return [replace(source, asks=(ask,) * EVAL_ASKS) for ask in rng.sample(source.asks, HELD_ASKS)]


def main(config: Config) -> None:
    """Write the row files."""
    from tqdm import tqdm

    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    if not rows.intents() or not rows.cards():
        raise TwofoldError(f"no sources in {rows.SOURCES}")
    for adapter, name, count in (("code", "train", config.code), ("theory", "train_theory", config.theory)):
        _save(out, name, tqdm(render(config, adapter), total=count, desc=name, file=sys.stderr, disable=None))
    if config.evaluation:
        for adapter, name in (("code", "eval"), ("theory", "eval_theory")):
            _save(out, name, evaluation_rows(adapter))


def _save(folder: Path, name: str, found: Iterable[Row]) -> None:
    path, numbers = folder / f"{name}.jsonl", list(numbered(name, found))
    rows.write(path, numbers)
    print(f"{path}: {len(numbers)} rows")
