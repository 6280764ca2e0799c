"""Sources and rows: load intents, cards and frames from TOML; fill an intent's slots; the JSONL form of a row."""

import json
import random
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any, TypeVar

from twofold.twin import ISO, Column, column
from twofold.types import TwofoldError

T = TypeVar("T")

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "data" / "sources"

_KINDS: dict[str, tuple[str, ...]] = {
    "numeric": ("float", "int"),
    "integer": ("int",),
    "category": ("cat",),
    "binary": ("binary",),
    "date": ("date",),
    "datestr": ("datestr",),
    "text": ("text",),
    "id": ("id",),
    "any": ("float", "int", "cat", "binary", "date"),
}
_FILES = {"csv": "csv", "xlsx": "xlsx", "json": "json", "parquet": "parquet", "png": "png"}
_NEW_COLUMNS = (
    "score",
    "ratio",
    "flag",
    "bucket",
    "level",
    "group",
    "total",
    "index_value",
    "rank",
    "share",
    "delta",
    "signal",
    "label",
    "is_high",
)
_SLOT = re.compile(r"(?P<kind>[a-z]+)(?P<digit>\d*)(?:\[(?P<least>\d+)(?:-(?P<most>\d+))?\])?(?:@(?P<frame>\w+))?$")


@dataclass(frozen=True, slots=True)
class Follow:
    """A follow-up turn: what is asked next, the whole new answer, its check."""

    asks: tuple[str, ...]
    solution: str
    check: str


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing that people want done in code. data/sources/README.md defines the fields."""

    id: str
    topic: str
    level: str
    needs: tuple[str, ...]
    slots: Mapping[str, Any]
    asks: tuple[str, ...]
    solution: str
    check: str
    alternatives: tuple[str, ...] = ()
    follow: tuple[Follow, ...] = ()
    asks_in: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Asks in other languages, by ISO 639-1 code; from sources/asks_in."""
    frame: str = ""
    """The one frame it is about, whose schema the prompt must show; "" for any that has the columns."""


@dataclass(frozen=True, slots=True)
class Card:
    """One concept. data/sources/README.md defines the fields."""

    id: str
    topic: str
    level: str
    names: tuple[str, ...]
    names_in: Mapping[str, str]
    definition: tuple[str, ...]
    intuition: tuple[str, ...]
    how: tuple[str, ...]
    why: tuple[str, ...]
    when: tuple[str, ...]
    pitfalls: tuple[str, ...]
    example: tuple[str, ...]
    versus: tuple[Mapping[str, str], ...]
    misconceptions: tuple[Mapping[str, str], ...]
    asks: tuple[str, ...]
    asks_in: Mapping[str, str]
    must: tuple[str, ...]
    must_not: tuple[str, ...]
    formula: str = ""
    demo: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """A named frame schema."""

    name: str
    columns: tuple[Column, ...]

    def of(self, kinds: Sequence[str]) -> list[str]:
        """Names of the columns whose kind is one of these."""
        return [col.name for col in self.columns if col.kind in kinds]


@dataclass(frozen=True, slots=True)
class Task:
    """One thing asked in everyday words about a frame called df, or about none. data/sources/README.md defines the fields."""

    id: str
    asks: tuple[str, ...]
    solution: str
    frame: Frame | None = None
    check: str = ""
    """What its result must pass; "" for one that is only run."""


@dataclass(frozen=True, slots=True)
class Filled:
    """An intent's slots with values: how each is said, how it is written in code, and which frames stand behind which variables."""

    said: Mapping[str, str]
    code: Mapping[str, str]
    frames: Mapping[str, Frame]
    files: Mapping[str, str] = field(default_factory=dict)
    """Input file name -> variable whose data it holds."""


def _tables(folder: Path, key: str) -> Iterable[tuple[Path, dict[str, Any]]]:
    for path in sorted(folder.glob("*.toml")):
        for table in _parsed(path).get(key, []):
            yield path, table


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise TwofoldError(f"{path}: not valid TOML: {error}") from error


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _build(kind: type[T], path: Path, table: dict[str, Any]) -> T:
    try:
        return kind(**{name: _frozen(value) for name, value in table.items()})
    except TypeError as error:
        raise TwofoldError(f"{path}: {table.get('id', 'entry without id')}: {error}") from error


def intents(folder: Path = SOURCES / "code") -> list[Intent]:
    """Load every code intent, in file order. Raises TwofoldError naming the file and the entry."""
    spoken = asks_in(folder.parent / "asks_in")
    found = []
    for path, table in _tables(folder, "intent"):
        follow = tuple(_build(Follow, path, one) for one in table.pop("follow", []))
        others = dict(spoken.get(table.get("id", ""), {}))
        table["asks"] = [*others.pop("en", ()), *table.get("asks", ())]  # the last ones stay last: they are kept for evaluation
        found.append(_build(Intent, path, {**table, "follow": follow, "asks_in": others}))
    return found


def asked(folder: Path = SOURCES / "asked") -> list[Intent]:
    """Load the questions about one known frame, in everyday words, as intents with the frame's variable as their only slot."""
    found: list[Intent] = []
    for path, table in _tables(folder, "asked"):
        name = f"asked-{table.get('frame')}-{sum(one.frame == table.get('frame') for one in found) + 1}"
        form: dict[str, Any] = {**table, "id": name, "topic": "asked", "level": "basic", "needs": [], "slots": {"df": "frame"}}
        form |= {key: re.sub(r"\bdf\b", "$df", table[key].replace("$", "$$")) for key in ("solution", "check") if key in table}
        form["asks"] = [ask.replace("$", "$$") for ask in table.get("asks", ())]
        found.append(_build(Intent, path, form))
    return found


def tasks(folder: Path = SOURCES / "tasks") -> list[Task]:
    """Load the everyday tasks for training, each file with frames of its own, in file order. Raises TwofoldError naming file and entry."""
    found: list[Task] = []
    for path in sorted(folder.glob("*.toml")):
        source = _parsed(path)
        held = {name: _frame(name, table) for name, table in source.get("frames", {}).items()}
        for number, table in enumerate(source["task"]):
            frame = table.pop("frame", "")
            if frame and frame not in held:
                raise TwofoldError(f"{path}: task {number} is about the frame {frame!r}, which the file does not have")
            found.append(_build(Task, path, {**table, "id": f"{path.stem}-{number}", "frame": held.get(frame)}))
    return found


def asks_in(folder: Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """Load further asks: id of an intent or card -> language -> asks; "en" adds English wordings to its own."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for path in sorted(folder.glob("*.toml")):
        for name, languages in _parsed(path).items():
            entry = found.setdefault(name, {})
            for language, asks in languages.items():
                entry[language] = (*entry.get(language, ()), *asks)
    return found


def cards(folder: Path = SOURCES / "theory") -> list[Card]:
    """Load every concept card, in file order. Raises TwofoldError naming the file and the entry."""
    further = asks_in(folder.parent / "asks_in")
    found = []
    for path, table in _tables(folder, "card"):
        table["asks"] = [*further.get(table.get("id", ""), {}).get("en", ()), *table.get("asks", ())]  # the last stay last, as above
        found.append(_build(Card, path, table))
    return found


def frames(path: Path = SOURCES / "frames.toml") -> dict[str, Frame]:
    """Load the frame schemas by name."""
    return {name: _frame(name, table) for name, table in _parsed(path).items()}


def _frame(name: str, table: Mapping[str, str]) -> Frame:
    return Frame(name, tuple(column(col, spec) for col, spec in table.items()))


def lines(frame: Frame) -> dict[str, str]:
    """A frame's columns as the lines of a frames file."""
    found = {}
    for col in frame.columns:
        rest = {
            "float": f" {col.low:g} {col.high:g}",
            "int": f" {col.low:g} {col.high:g}",
            "cat": f" {'|'.join(col.levels)}",
            "binary": f" {col.high:g}",
            "bool": f" {col.high:g}",
            "date": f" {col.start} {col.freq}",
            "datestr": f" {col.start} {col.freq}{'' if col.form == ISO else ' ' + col.form}",
            "ref": f" {col.target}",
        }.get(col.kind, "")
        found[col.name] = f"{col.kind}{'?' if col.nulls else ''}{rest}"
    return found


def behind(forms: Mapping[str, str | Mapping[str, str]], known: Mapping[str, Frame]) -> dict[str, Frame]:
    """The frames of a row's "check" by variable: each form is a known frame's name, or the lines of a made-up one."""
    return {
        variable: known[form] if isinstance(form, str) else Frame(variable, tuple(column(name, line) for name, line in form.items()))
        for variable, form in forms.items()
    }


def words(names: Sequence[str]) -> str:
    """Names as a list in prose: a, b and c."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _pick_frame(
    known: Mapping[str, Frame], slots: Mapping[str, Any], rng: random.Random, told: Iterable[str]
) -> tuple[Frame, Frame | None, str]:
    """A frame that has the columns these slots want, with a second one and their shared key where a slot asks for it."""
    paired = any(value in ("frame2", "key") for value in slots.values() if isinstance(value, str))
    names = list(known)
    rng.shuffle(names)
    for name in names:
        frame = known[name]
        links = [col for col in frame.columns if col.kind == "ref"]
        if paired and not links:
            continue
        other = known[links[0].target] if paired else None
        if _columns_for(slots, frame, other, rng, told) is not None:
            return frame, other, links[0].name if paired else ""
    raise TwofoldError(f"no frame has the columns for slots {dict(slots)}")


def _columns_for(
    slots: Mapping[str, Any], frame: Frame, other: Frame | None, rng: random.Random, told: Iterable[str]
) -> dict[str, list[str]] | None:
    """Distinct columns for every column slot, or None when the frame lacks some. A slot that is not told gets the first that fits."""
    chosen: dict[str, list[str]] = {}
    used: set[tuple[str, str]] = set()
    order = sorted(slots, key=lambda slot: str(slots[slot]).startswith("any"))  # the choosiest first
    for slot in order:
        match = _SLOT.match(slots[slot]) if isinstance(slots[slot], str) else None
        if not match or match["kind"] not in _KINDS:
            continue
        source = other if match["frame"] and slots.get(match["frame"]) == "frame2" else frame
        if source is None:
            return None
        free = [name for name in source.of(_KINDS[match["kind"]]) if (source.name, name) not in used]
        least = int(match["least"] or 1)
        if len(free) < least:
            return None
        count = rng.randint(least, min(int(match["most"] or least), len(free)))
        chosen[slot] = rng.sample(free, count) if slot in told else free[:least]
        used.update((source.name, name) for name in chosen[slot])
    return chosen


def fill(intent: Intent, known: Mapping[str, Frame], rng: random.Random, mentioned: Iterable[str] | None = None) -> Filled:
    """Draw a value for every slot. Slots that are not mentioned in the ask take their first value, the frame is then called df."""
    slots = intent.slots
    known = {intent.frame: known[intent.frame]} if intent.frame else known
    told = set(slots if mentioned is None else mentioned)
    frame, other, key = _pick_frame(known, slots, rng, told)
    columns = _columns_for(slots, frame, other, rng, told)
    while columns is None:
        columns = _columns_for(slots, frame, other, rng, told)
    said: dict[str, str] = {}
    code: dict[str, str] = {}
    behind: dict[str, Frame] = {}
    files: dict[str, str] = {}
    main = "df"
    for slot, spec in slots.items():
        if slot in columns:
            match = _SLOT.match(spec)
            names = columns[slot]
            listed = match is not None and match["least"] is not None
            said[slot] = words(names)
            code[slot] = json.dumps(names) if listed else names[0]
        elif spec == "frame":
            main = "df" if slot not in told or (rng.random() < 0.7 and other is None) else frame.name
            said[slot], code[slot] = main, main
            behind[main] = frame
        elif spec == "frame2" and other is not None:
            said[slot], code[slot] = other.name, other.name
            behind[other.name] = other
        elif spec == "key":
            said[slot], code[slot] = key, key
        elif spec == "newcol":
            taken = {col.name for col in frame.columns}
            said[slot] = code[slot] = rng.choice([name for name in _NEW_COLUMNS if name not in taken])
        elif isinstance(spec, str) and spec in _FILES:
            stem = rng.choice([frame.name, frame.name, "data", f"{frame.name}_2024", f"raw_{frame.name}"])
            name = f"{stem}.{_FILES[spec]}"
            said[slot] = code[slot] = name
            files[name] = main
        elif isinstance(spec, str) and spec.startswith(("level:", "value:")):
            what, _, of = spec.partition(":")
            col = next(col for col in (*frame.columns, *(other.columns if other else ())) if col.name == columns[of][0])
            value = rng.choice(col.levels) if what == "level" else typical(col, rng)
            said[slot] = code[slot] = value
        elif isinstance(spec, Mapping):
            option = rng.choice(list(spec)) if slot in told else next(iter(spec))
            said[slot], code[slot] = rng.choice(list(spec[option])), option
        elif isinstance(spec, Sequence) and not isinstance(spec, str):
            said[slot] = code[slot] = str(rng.choice(list(spec)) if slot in told else spec[0])
        else:
            raise TwofoldError(f"{intent.id}: slot {slot} = {spec!r} is of no known kind")
    if not behind:
        behind[main] = frame
    return Filled(said, code, behind, files)


def typical(col: Column, rng: random.Random) -> str:
    """A round number that values of a numeric column lie on both sides of."""
    value = col.low + (col.high - col.low) * rng.uniform(0.3, 0.6)
    step = 10 ** (len(str(int(max(col.high - col.low, 1)))) - 2)
    if step >= 1 and value >= step:
        return str(int(value / step) * int(step))
    return str(round(value)) if col.kind == "int" else f"{value:.1f}"


def mentioned(text: str) -> set[str]:
    """Names of the slots that a text speaks of."""
    return set(Template(text).get_identifiers())


def substitute(text: str, values: Mapping[str, str]) -> str:
    """Put values for $name marks; $$ is a dollar sign. Raises TwofoldError for a mark without a value."""
    try:
        return Template(text).substitute(values)
    except (KeyError, ValueError) as error:
        raise TwofoldError(f"slot without a value: {error} in {text[:80]!r}") from error


def read(path: Path) -> list[dict[str, Any]]:
    """Read a JSON Lines file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON Lines file, replacing it at once when complete."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    part.replace(path)
