"""Render the sources into chat rows, deterministically from a seed: the four data/*.jsonl, or any number of fresh rows for mid-training."""

import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from twofold import notebook, prompts, retrieve
from twofold.datasets import coin, compose, rows
from twofold.datasets.phrases import ABOUT_ME, ASKING, BASE_TALK, CUES, FOLLOW_UPS, IMPERATIVES, INTROS, LEADS, QUESTIONS, TAILS
from twofold.types import Message, Note, TwofoldError

Asked = TypeVar("Asked", rows.Intent, rows.Card)

DTYPES = {
    "id": "int64",
    "ref": "int64",
    "float": "float64",
    "int": "int64",
    "cat": "str",
    "binary": "int64",
    "date": "datetime64",
    "datestr": "str",
    "text": "str",
}
RENAMED = 0.3  # share of explanations whose concept goes by an invented name that only the card at hand explains
EVAL_ASKS = 2  # the last asks of each intent and card are kept for evaluation; of the asks in other languages the last one
HELD_ASKS = 4  # evaluation rows of each intent and card that is held out altogether
COINED = 0.5  # share of code rows whose frames and columns are made up for that row alone
COMPOSED = 0.35  # share of code rows that are composed (compose.py) instead of drawn from an intent
REPAIR = 0.06  # share of code rows that show an answer with its error and ask for the fix
FOREIGN = 0.15  # share of code rows that are asked in another language than English

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
    "any": ("definition", "how", "when?", "pitfall?"),
}


@dataclass(frozen=True, slots=True)
class Config:
    """What `twofold data build` renders."""

    out: str = "data"
    """Folder of the rendered files."""
    code: int = 6_300
    """Rows of train.jsonl."""
    theory: int = 6_100
    """Rows of train_theory.jsonl."""
    seed: int = 0
    """Same seed, same files."""
    evaluation: bool = True
    """Also write eval.jsonl and eval_theory.jsonl."""
    base: float = 0.0
    """Share of extra BASE small-talk rows, for mid-training only."""


def heldout(path: Path = rows.SOURCES / "heldout.json") -> frozenset[str]:
    """Ids of intents and cards that are never rendered for training."""
    return frozenset(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else frozenset()


def rough(text: str, rng: random.Random, keep: Iterable[str]) -> str:
    """A question as typed in a hurry: a lead or tail, lower case, no full stop, a slip of the fingers. Words to keep stay whole."""
    if "```" in text or text.startswith("#"):
        return text
    kept = set(keep)
    if rng.random() < 0.15:
        bids = text.split(" ")[0].lower() in IMPERATIVES
        text = rng.choice((*LEADS, *ASKING) if bids else LEADS) + (text if text[:2].isupper() else text[0].lower() + text[1:])
    if rng.random() < 0.1:
        text = text.rstrip(".?!") + rng.choice(TAILS)
    if rng.random() < 0.25:
        text = " ".join(word if any(k in word for k in kept) else word.lower() for word in text.split(" "))
    if rng.random() < 0.25:
        text = text.rstrip(".?!")
    if rng.random() < 0.12:
        words = text.split(" ")
        able = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha() and not any(k in word or word in k for k in kept)]
        if able:
            i = rng.choice(able)
            at = rng.randrange(1, len(words[i]) - 2)
            word = words[i]
            words[i] = rng.choice(
                (word[:at] + word[at + 1] + word[at] + word[at + 2 :], word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:])
            )
            text = " ".join(words)
    return text


def say(text: str, filled: rows.Filled, slots: Mapping[str, Any], rng: random.Random, language: str = "", loose: bool = False) -> str:
    """An ask with its slots in words: column names bare, quoted or in backticks, lists with "and" in English and commas elsewhere.

    loose: the schema is in the prompt, so that now and then unit_price is said as "unit price".
    """
    easy = loose and rng.random() < 0.2
    mark = rng.choices(("{}", "'{}'", "`{}`", '"{}"'), (76, 9, 8, 7))[0]
    said = dict(filled.said)
    for slot, spec in slots.items():
        bare = (
            isinstance(spec, str)
            and "[" not in spec
            and not spec.startswith(("frame", "level:", "value:"))
            and spec not in ("csv", "xlsx", "json", "parquet", "png")
        )
        quoted = re.search(r"""['"`]\$\{?""" + re.escape(slot) + r"\b", text)
        if bare and easy and spec != "newcol":
            said[slot] = said[slot].replace("_", " ").lower()
        elif bare and not quoted:
            said[slot] = mark.format(said[slot])
        elif language and isinstance(spec, str) and "[" in spec:
            said[slot] = ", ".join(json.loads(filled.code[slot]))
    return rows.substitute(text, said)


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
    ask = rng.choice(intent.asks[:-EVAL_ASKS])
    world = drawn_frames(intent.solution, intent.slots, known, rng)
    try:
        filled = rows.fill(intent, world, rng, rows.mentioned(ask))
    except TwofoldError:
        filled = rows.fill(intent, known, rng, rows.mentioned(ask))
    return Note("example", rows.substitute(ask, filled.said), rows.substitute(intent.solution, filled.code).strip(), intent.id)


def fenced(code: str) -> str:
    """Code as an answer shows it."""
    return f"```python\n{code.strip()}\n```"


def drawn_frames(code: str, slots: Mapping[str, Any], known: Mapping[str, rows.Frame], rng: random.Random) -> Mapping[str, rows.Frame]:
    """The frames that a row draws from: the known ones, or made-up ones, whose names hold blanks only where the code quotes each name."""
    if rng.random() >= COINED:
        return known
    named = [slot for slot, spec in slots.items() if isinstance(spec, str) and not spec.startswith("frame") and "[" not in spec]
    bare = (rf'(?<!")\$\{{?{re.escape(slot)}\b|\$\{{?{re.escape(slot)}\}}?(?!"|\w)' for slot in named)
    return coin.world(rng, spaced=not any(re.search(pattern, code) for pattern in bare))


def code_row(
    intent: rows.Intent,
    others: Sequence[rows.Intent],
    known: Mapping[str, rows.Frame],
    rng: random.Random,
    evaluation: bool = False,
    language: str = "",
) -> dict[str, Any]:
    """One chat row of an intent. evaluation: a wording kept from training, the bare question. language: "" draws English or another."""
    if not language and not evaluation and intent.asks_in and rng.random() < FOREIGN:
        language = rng.choice(list(intent.asks_in))
    if language:
        ask = rng.choice(intent.asks_in[language][-1:] if evaluation else intent.asks_in[language][:-1])
    else:
        ask = rng.choice(intent.asks[-EVAL_ASKS:] if evaluation else intent.asks[:-EVAL_ASKS])
    told = rows.mentioned(ask)
    silent = [slot for slot, spec in intent.slots.items() if slot not in told and isinstance(spec, str) and not spec.startswith("frame")]
    show = bool(silent) or rng.random() < (0.3 if evaluation else 0.35)
    names = (
        {slot for slot, spec in intent.slots.items() if spec == "frame"} if show else set()
    )  # a notebook block names the frame for the ask
    whole = "".join((intent.solution, intent.check, *(one.solution + one.check for one in intent.follow)))
    world = known if evaluation else drawn_frames(whole, intent.slots, known, rng)
    try:
        filled = rows.fill(intent, world, rng, told | names)
    except TwofoldError:  # a made-up frame may lack what this intent needs
        world = known
        filled = rows.fill(intent, world, rng, told | names)
    columns = {name for slot, name in filled.code.items() if isinstance(intent.slots[slot], str)}
    question = say(ask, filled, intent.slots, rng, language, loose=show and not evaluation)
    variable, frame = next(iter(filled.frames.items()))
    shown = schema(filled.frames, {**known, **world}, rng) if show else ""
    if not shown and not language and rng.random() < 0.08 and not filled.files:
        question = rng.choice(INTROS).format(df=variable, columns=", ".join(col.name for col in frame.columns)) + " " + question
    if not language:
        question = rough(question, rng, (*columns, *filled.said.values()))
    solution, check = intent.solution, intent.check
    turns: list[Message] = []
    notes: list[Note] = []
    drawn = rng.random()
    if not evaluation and drawn < 0.62:
        notes = [example(intent, known, rng)] if drawn < 0.5 else []
        near = [one for one in others if one.topic == intent.topic and one.id != intent.id]
        if rng.random() < 0.5 or not notes:
            notes.append(example(rng.choice(near if near and rng.random() < 0.7 else others), known, rng))
        rng.shuffle(notes)
        notes = list(retrieve.fit(notes, question, retrieve.BUDGET))
    if intent.follow and not language and rng.random() < 0.25:
        follow = rng.choice(intent.follow)
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": fenced(rows.substitute(solution, filled.code))}]
        asks = follow.asks[-1:] if evaluation else follow.asks[:-1]
        question = rough(say(rng.choice(asks), filled, intent.slots, rng), rng, columns)
        solution, check = follow.solution, follow.check
    messages = prompts.compose("code", question, notebook=shown, notes=notes, recalled=turns)
    code = rows.substitute(solution, filled.code).strip()
    if not evaluation and not language and rng.random() < REPAIR:
        messages = broken(messages, code, rng)
    return {
        "messages": [*messages, {"role": "assistant", "content": fenced(code)}],
        "source": f"intent:{intent.id}",
        "check": {"test": rows.substitute(check, filled.code), "frames": behind(filled.frames, known), "files": dict(filled.files)},
    }


def behind(frames: Mapping[str, rows.Frame], known: Mapping[str, rows.Frame]) -> dict[str, Any]:
    """Frames by variable as a row's "check" holds them: a known frame's name, or the lines of a made-up one."""
    return {variable: one.name if known.get(one.name) == one else rows.lines(one) for variable, one in frames.items()}


def composed_row(known: Mapping[str, rows.Frame], rng: random.Random) -> dict[str, Any]:
    """One chat row of a composed task, over a made-up or a known frame."""
    frame = coin.frame(rng, spaced=True, wide=rng.random() < 0.4) if rng.random() < 0.75 else rng.choice(list(known.values()))
    if len(frame.of(("float", "int"))) < 3 or not frame.of(("cat",)):
        frame = coin.frame(rng, wide=True)
    df = "df" if rng.random() < 0.6 else frame.name
    show = df != "df" or rng.random() < 0.55
    task, family = compose.task(rng, frame, df, show)
    notes: list[Note] = []
    for likely, same in ((0.4, family), (0.3, None)):  # an example of the same family, one of another
        if rng.random() < likely:
            other, _ = compose.task(rng, coin.frame(rng, spaced=True), "df", False, same)
            notes.append(Note("example", other.ask, other.code, "composed"))
    rng.shuffle(notes)
    names = [col.name for col in frame.columns]
    shown = schema({df: frame}, known, rng) if show else ""
    question, code, check = rough(task.ask, rng, names), task.code, task.check
    if not show and rng.random() < 0.1:
        question = rng.choice(INTROS).format(df=df, columns=", ".join(names)) + " " + question
    turns: list[Message] = []
    if task.follow and rng.random() < 0.3:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": fenced(code)}]
        ask, code, check = task.follow
        question = rough(ask, rng, names)
    messages = prompts.compose("code", question, notebook=shown, notes=notes, recalled=turns)
    if rng.random() < REPAIR:
        messages = broken(messages, code, rng)
    return {
        "messages": [*messages, {"role": "assistant", "content": fenced(code)}],
        "source": "composed",
        "check": {"test": check, "frames": behind({df: frame}, known), "files": {}},
    }


def broken(messages: Sequence[Message], code: str, rng: random.Random) -> list[Message]:
    """The conversation with a damaged form of `code` as its answer, the error and the wish for a fix; unchanged where nothing breaks."""
    lines = code.splitlines()
    literals = [
        (at, found) for at, line in enumerate(lines) for found in re.findall(r'\["(\w{3,})"\]', line) if not line.lstrip().startswith("#")
    ]
    imports = [at for at, line in enumerate(lines) if re.match(r"import \w+(\.\w+)* as (\w+)$|from [\w.]+ import (\w+)$", line)]
    how = rng.choice(("column", "column", "import", "bracket", "name"))
    if how == "import" and imports:
        gone = rng.choice(imports)
        name = lines[gone].split()[-1]
        used = next((at for at, line in enumerate(lines) if at != gone and re.search(rf"\b{name}\b", line)), None)
        if used is None:
            return list(messages)
        bad, at, error = [line for line in lines if line != lines[gone]], used - (gone < used), f"NameError: name '{name}' is not defined"
    elif how == "bracket":
        ends = [at for at, line in enumerate(lines) if line.endswith((")", "]"))]
        if not ends:
            return list(messages)
        at = rng.choice(ends)
        bad = [*lines[:at], lines[at][:-1], *lines[at + 1 :]]
        error = f"SyntaxError: '{dict(zip(')]', '([', strict=True))[lines[at][-1]]}' was never closed"
        return prompts.repair(messages, fenced("\n".join(bad)), f'File "<cell>", line {at + 1}\n    {bad[at].strip()}\n{error}')
    elif how == "name" and (found := [at for at, line in enumerate(lines) if re.search(r"\bdf\b", line)]):
        at, wrong = found[0], rng.choice(("data", "d", "frame", "dataframe"))
        bad, error = [re.sub(r"\bdf\b", wrong, line) for line in lines], f"NameError: name '{wrong}' is not defined"
    elif literals:
        at, name = rng.choice(literals)
        wrong = rng.choice((name.capitalize(), name.lower() + "s", name.replace("_", ""), name[:-1], name.upper()))
        if wrong == name:
            return list(messages)
        bad, error = [*lines[:at], lines[at].replace(f'"{name}"', f'"{wrong}"'), *lines[at + 1 :]], f"KeyError: '{wrong}'"
    else:
        return list(messages)
    trace = f'Traceback (most recent call last):\n  File "<cell>", line {at + 1}, in <module>\n    {bad[at].strip()}\n'
    return prompts.repair(messages, fenced("\n".join(bad)), trace + error)


def sections(card: rows.Card, rng: random.Random | None = None) -> dict[str, str]:
    """One paraphrase of each part of a card; the first ones without an rng."""
    pick = (lambda options: options[0]) if rng is None else rng.choice
    parts = {
        name: pick(getattr(card, name)) for name in ("definition", "intuition", "how", "why", "when", "example") if getattr(card, name)
    }
    return (
        parts | {"pitfalls": " ".join(card.pitfalls), "pitfall": pick(card.pitfalls)} | ({"formula": card.formula} if card.formula else {})
    )


def card_note(card: rows.Card, parts: Mapping[str, str] | None = None) -> Note:
    """A card as it stands in a prompt: labelled lines."""
    parts = parts or sections(card)
    lines = [
        f"{name.capitalize()}: {parts[name]}"
        for name in ("definition", "intuition", "how", "why", "when", "pitfalls", "formula", "example")
        if name in parts
    ]
    lines += [f"Versus {one['other']}: {one['text']}" for one in card.versus if "versus" not in parts or parts["versus"] == one["text"]]
    return Note("card", card.names[0], "\n".join(lines), card.id)


def answer_of(kind: str, parts: Mapping[str, str], rng: random.Random) -> str:
    """The reference explanation for a kind of question, from a card's parts."""
    used = []
    for part in PARTS[kind]:
        name = part.rstrip("?")
        if name in parts and not (part.endswith("?") and rng.random() < 0.5):
            used.append(parts[name])
    if len(used) > 2 and sum(len(one.split()) for one in used) > 110:
        return " ".join(used[:-1]) + "\n\n" + used[-1]
    return " ".join(used)


def kind_of(ask: str, card: rows.Card) -> tuple[str, str]:
    """What a hand-written ask wants, by its words; for a comparison also the text that makes it."""
    low = ask.lower()
    rest = low
    for name in sorted(card.names, key=len, reverse=True):  # "leaky ReLU" does not speak of ReLU
        rest = rest.replace(name.lower(), " ")
    for one in card.versus:
        if any(word in rest for word in (one["other"].lower(), *[part for part in one["other"].lower().split() if len(part) > 5])):
            return "versus", one["text"]
    return next((kind for kind, pattern in CUES.items() if re.search(pattern, low) and (kind != "formula" or card.formula)), "any"), ""


def _question(card: rows.Card, rng: random.Random, evaluation: bool) -> tuple[str, str, dict[str, str]]:
    """A question about a card, its kind, and parts that the kind needs beyond the card's own."""
    extra: dict[str, str] = {}
    drawn = rng.random()
    if evaluation or drawn < 0.35:
        ask = rng.choice(card.asks[-EVAL_ASKS:] if evaluation else card.asks[:-EVAL_ASKS])
        kind, compared = kind_of(ask, card)
        return ask, kind, {"versus": compared} if compared else extra
    if drawn < 0.45 and card.asks_in:
        return rng.choice(list(card.asks_in.values())), "what", extra
    kinds = [
        kind
        for kind in QUESTIONS
        if (kind != "versus" or card.versus) and (kind != "misconception" or card.misconceptions) and (kind != "formula" or card.formula)
    ]
    kind = rng.choice([*kinds, "what", "what", "how", "simple", "any"])
    template = rng.choice(QUESTIONS["what" if kind == "any" else kind])
    names = [name for name in card.names if len(name) > 1]
    values = {"name": rng.choice([names[0], names[0], *names])}
    if kind == "versus":
        one = rng.choice(card.versus)
        values["other"], extra["versus"] = one["other"], one["text"]
    if kind == "misconception":
        one = rng.choice(card.misconceptions)
        values["claim"], extra["truth"] = (
            one["claim"].rstrip("."),
            rng.choice(("No. ", "Not quite. ", "That is a common misconception. ", "")) + one["truth"],
        )
    text = template
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text, kind, extra


def theory_row(card: rows.Card, others: Sequence[rows.Card], rng: random.Random, evaluation: bool = False) -> dict[str, Any]:
    """One chat row of a card. evaluation: a wording kept from training, the bare question."""
    question, kind, extra = _question(card, rng, evaluation)
    parts = sections(card, rng) | extra
    answer = answer_of(kind, parts, rng)
    turns: list[Message] = []
    if not evaluation and rng.random() < 0.15:
        turns = [{"role": "user", "content": rough(question, rng, ())}, {"role": "assistant", "content": answer}]
        kind = rng.choice(list(FOLLOW_UPS))
        question = rng.choice(FOLLOW_UPS[kind])
        answer = (
            answer_of(kind, {name: text for name, text in parts.items() if text not in answer or name in ("pitfalls",)} or parts, rng)
            or parts["why"]
        )
    notes: list[Note] = []
    drawn = rng.random()
    if not evaluation and drawn < 0.72:
        if drawn < 0.6:
            kept = {name: text for name, text in parts.items() if name not in ("truth", "pitfall") and (rng.random() < 0.85)}
            notes = [card_note(card, kept or parts)]
        near = [one for one in others if one.topic == card.topic and one.id != card.id]
        if not notes or rng.random() < 0.3:
            wrong = rng.choice(near if near and rng.random() < 0.7 else others)
            if wrong.id != card.id:
                notes.append(card_note(wrong, sections(wrong, rng)))
        rng.shuffle(notes)
        notes = list(retrieve.fit(notes, question, retrieve.BUDGET))
    must, must_not = [pattern for pattern in card.must if turns or re.search(pattern, answer, re.I)], list(card.must_not)
    if any(note.source == card.id for note in notes) and not turns and question not in card.asks_in.values() and rng.random() < RENAMED:
        fresh = coin.concept(rng)
        swap = renaming(card, fresh)
        if fresh in swap(answer) and fresh in swap(question):
            question, answer, must, must_not = swap(question), swap(answer), [], []
            notes = [Note(note.kind, swap(note.title), swap(note.text), note.source) if note.source == card.id else note for note in notes]
    as_typed = question if turns or question in card.asks_in.values() else rough(question, rng, ())
    messages = prompts.compose("theory", as_typed, notes=notes, recalled=turns)
    return {
        "messages": [*messages, {"role": "assistant", "content": answer}],
        "source": f"card:{card.id}",
        "check": {"must": must, "must_not": must_not, "kind": kind},
    }


def renaming(card: rows.Card, fresh: str) -> Callable[[str], str]:
    """A function that calls a card's concept by another name wherever a text speaks of it."""
    names = sorted((name for name in card.names if len(name) > 3 or name.isupper()), key=len, reverse=True)
    pattern = re.compile(r"(?<!\w)(" + "|".join(re.escape(name) for name in names) + r")(?!\w)", re.I)

    def swap(text: str) -> str:
        return pattern.sub(
            lambda found: fresh.capitalize() if found.start() == 0 or text[: found.start()].endswith((". ", "\n", ": ")) else fresh, text
        )

    return swap if names else lambda text: text


def talk_row(rng: random.Random, adapter: str) -> dict[str, Any]:
    """A row about the assistant itself (THEORY), or small talk and unknown territory, answered honestly (BASE)."""
    questions, answers = rng.choice(ABOUT_ME if adapter == "theory" else BASE_TALK)
    messages = prompts.compose(adapter, rough(rng.choice(questions), rng, ()))
    return {
        "messages": [*messages, {"role": "assistant", "content": rng.choice(answers)}],
        "source": "talk",
        "check": {"must": [], "must_not": [], "kind": "talk"},
    }


def numbered(name: str, found: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows with an id, without those whose messages were there already."""
    seen = set()
    for row in found:
        key = json.dumps(row["messages"])
        if key not in seen:
            seen.add(key)
            yield {"id": f"{name}-{len(seen):05d}", **row}


def render(config: Config, adapter: str) -> Iterator[dict[str, Any]]:
    """Training rows of one adapter, every intent or card in turn."""
    frozen = heldout()
    rng = random.Random(f"{config.seed}/{adapter}")
    if adapter == "code":
        known, found = rows.frames(), [one for one in rows.intents() if one.id not in frozen]
        for number in range(config.code):
            composed = rng.random() < COMPOSED
            yield composed_row(known, rng) if composed else code_row(found[number % len(found)], found, known, rng)
    else:
        cards = [one for one in rows.cards() if one.id not in frozen]
        for number in range(config.theory):
            yield theory_row(cards[number % len(cards)], cards, rng)
            if number % 60 == 0:
                yield talk_row(rng, "theory")
            if rng.random() < config.base:
                yield talk_row(rng, "base")


def evaluation_rows(adapter: str) -> Iterator[dict[str, Any]]:
    """Evaluation rows: known intents or cards in kept wordings, held-out ones in any; row["slice"] says which, or names the language."""
    frozen = heldout()
    rng = random.Random(f"eval/{adapter}")
    if adapter == "code":
        known, found = rows.frames(), rows.intents()
        for intent in found:
            for one in asked(intent, rng) if intent.id in frozen else [intent]:
                yield {**code_row(one, found, known, rng, evaluation=True), "slice": "heldout" if intent.id in frozen else "known"}
        for number, intent in enumerate(one for one in found if one.asks_in and one.id not in frozen):
            if number % 4 == 0:  # every fourth intent, the languages in turn
                language = list(intent.asks_in)[number // 4 % len(intent.asks_in)]
                yield {**code_row(intent, found, known, rng, evaluation=True, language=language), "slice": language}
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
    for adapter, name, count in (("code", "train.jsonl", config.code), ("theory", "train_theory.jsonl", config.theory)):
        found = list(
            numbered(name.removesuffix(".jsonl"), tqdm(render(config, adapter), total=count, desc=name, file=sys.stderr, disable=None))
        )
        rows.write(out / name, found)
        print(f"{out / name}: {len(found)} rows")
    if config.evaluation:
        for adapter, name in (("code", "eval.jsonl"), ("theory", "eval_theory.jsonl")):
            found = list(numbered(name.removesuffix(".jsonl"), evaluation_rows(adapter)))
            rows.write(out / name, found)
            print(f"{out / name}: {len(found)} rows")
