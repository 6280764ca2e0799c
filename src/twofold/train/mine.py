"""Questions and answers that the corpus holds already: a cell under its heading or comment, a passage under its title.

Tutorials explain what the next cell does, and guides say under a title what a thing is. Put into the form of a chat, with the schema
that the notebook's own code betrays, they show a model far more tasks and ideas than can be written by hand. They are not run and not
checked: they are for pretraining only, the adapters never see them.
"""

import ast
import builtins
import random
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from twofold import notebook, prompts
from twofold.clean import tree_of
from twofold.datasets import coin
from twofold.datasets.build import fenced
from twofold.datasets.phrases import QUESTIONS
from twofold.types import Message, Note

LIBRARIES = frozenset(("pandas", "numpy", "matplotlib", "seaborn", "sklearn", "scipy", "statsmodels"))
FREE = frozenset(("X", "y", "X_train", "X_test", "y_train", "y_test", "x", "model"))  # names an answer may use without a schema
NAMING = frozenset(
    ("groupby", "sort_values", "set_index", "nlargest", "nsmallest", "pivot_table", "drop", "dropna", "drop_duplicates", "boxplot", "plot")
)
"""Methods of a frame whose first argument names columns."""
OUTDATED = re.compile(
    r"distplot|factorplot|\.append\(\{|\.append\(pd|inplace\s*=|\.ix\[|iteritems|as_matrix|sklearn\.cross_validation|get_ipython|display\(|squared=False|tsplot|pd\.Panel"
    r"|\.applymap|fillna\(method|np\.(float|int|bool|object)\b|load_boston|plot_confusion_matrix|get_feature_names\(|sns\.set\(|delim_whitespace|https?:|\.cuda|tqdm"
)
_FENCE = re.compile(r"```(\w*)\n(.*?)```", re.S)
_UNFIT = re.compile(
    r"https?:|\\|\$|<|\||exercise|todo|solution|question|answer|figure|see |click|chapter|lecture|tutorial|credit|licen|install"
    r"|above|below|previous|table of|this (book|section|notebook)|_{3}",
    re.I,
)
_OPENING = re.compile(r"^(now,?|next,?|first,?|then,?|finally,?|here,?|so,?|again,?|also,?|lastly,?|second,?)\s+", re.I)
_WE = re.compile(
    r"^(let'?s( now| also| first)?|let us|we('ll| will| can| could| now| then| also| first| should| need to| are going to)*|you can|i'?ll"
    r"|i will|i)\s+",
    re.I,
)
_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_TITLE = re.compile(r"^(#{1,5}|\*\*)\s*(?P<title>[^\n*#]+?)\s*\**:?\s*$", re.M)
_VAGUE = re.compile(
    r"^(introduction|overview|summary|conclusion|references?|setup|example|examples|exercises?|notes?|background|usage|contents?|abstract|discussion|results?|data|"
    r"motivation|appendix|further|additional|more|where|who|"
    r"see also|related|installation|getting started|imports?|step|part|chapter|section|goal|objectives?|welcome|about|acknowledg|license|"
    r"requirements|parameters|returns|attributes|methods?|todo|changelog|release|version|affiliat|support|community|contribut)",
    re.I,
)


ABOUT = (
    "{name}",
    "tell me about {name}",
    "{name}?",
    "explain {name}",
    "what do you know about {name}",
    "what should i know about {name}",
    "describe {name}",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A task in words and the code that does it, as a notebook has them."""

    task: str
    code: str
    frames: Mapping[str, tuple[str, ...]]
    """Columns that the whole notebook uses, by frame variable that the code uses."""


def words(text: str) -> set[str]:
    """The first four letters of the words of a text, identifiers taken apart."""
    return {part.lower()[:4] for part in _PARTS.findall(text) if len(part) > 2}


def told(text: str) -> str:
    """A heading, comment or last line of prose as a task, or "" where it is none: 3-30 plain words that do not point elsewhere."""
    line = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("**", "").replace("__", "")
    line = re.sub(r"^\W*(\d+(\.\d+)*[.):]?\s+)?", "", line.strip()).rstrip(" :.-")
    for pattern in (_OPENING, _WE, _OPENING):
        line = pattern.sub("", line)
    if not 3 <= len(line.split()) <= 30 or _UNFIT.search(line) or not line.isascii() or not line[0].isalpha():
        return ""
    return line[0].upper() + line[1:] if line.split()[0].islower() else line


def _imports(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """(name, top module, statement) of every import at the top of a cell."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            for one in node.names:
                bound = f"import {one.name} as {one.asname}" if one.asname else f"import {one.name}"
                yield one.asname or one.name.split(".")[0], one.name.split(".")[0], bound
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for one in node.names:
                bound = f"from {node.module} import {one.name}" + (f" as {one.asname}" if one.asname else "")
                yield one.asname or one.name, node.module.split(".")[0], bound


def _columns(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(variable, column) of every df["column"], df[["a", "b"]], df.groupby("a")["b"] and plot(data=df, x="a")."""
    for node in ast.walk(tree):
        items: list[ast.expr] = []
        root: ast.expr = node if isinstance(node, ast.expr) else ast.Constant(None)
        if isinstance(node, ast.Subscript):
            items = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in NAMING:
            items = [
                *node.args[:1],
                *(one.value for one in node.keywords if one.arg in ("by", "subset", "columns", "index", "values", "on", "x", "y")),
            ]
        elif isinstance(node, ast.Call) and (data := [one.value for one in node.keywords if one.arg == "data"]):
            items, root = [one.value for one in node.keywords if one.arg in ("x", "y", "hue", "col")], data[0]
        while isinstance(root, ast.Subscript | ast.Call | ast.Attribute):
            root = root.func if isinstance(root, ast.Call) else root.value
        if isinstance(root, ast.Name):
            for item in items:
                for one in item.elts if isinstance(item, ast.List) else [item]:
                    if isinstance(one, ast.Constant) and isinstance(one.value, str) and 0 < len(one.value) < 40:
                        yield root.id, one.value


def _chunks(code: str) -> Iterator[tuple[str, str]]:
    """(comment, code under it) of a cell that comments on its parts."""
    for part in re.split(r"\n\s*\n|\n(?=# )", code):
        match = re.match(r"((?:#[^\n]*\n)+)(.+)", part, re.S)
        if match and "#" not in match[2]:
            yield " ".join(line.strip("# ") for line in match[1].splitlines()), match[2]


def cells(text: str) -> Iterator[Cell]:
    """The tasks of one notebook. Code stands alone: what it uses of the notebook's imports is put on top of it."""
    known: dict[str, tuple[str, str]] = {}
    columns: dict[str, dict[str, None]] = {}
    found: list[tuple[str, str]] = []
    at = 0
    for fence in _FENCE.finditer(text):
        prose, at = text[at : fence.start()].strip(), fence.end()
        if fence[1] != "python":
            continue
        code = "\n".join(line for line in fence[2].splitlines() if not line.lstrip().startswith(("%", "!"))).strip()
        tree = tree_of(code)
        if tree is None:
            continue
        known.update({name: (module, statement) for name, module, statement in _imports(tree)})
        for variable, column in _columns(tree):
            columns.setdefault(variable, {})[column] = None
        last = re.split(r"(?<=[.:?])\s+|\n", prose)[-1] if prose else ""
        found += [(last, code), *_chunks(code)]
    for said, code in found:
        task = told(said)
        tree = tree_of(code) if task and len(code) <= 700 and code.count("\n") < 14 and not OUTDATED.search(code) else None
        if tree is None or not any(not isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef) for node in tree.body):
            continue
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        made = {node.id for node in names if isinstance(node.ctx, ast.Store)} | {name for name, *_ in _imports(tree)}
        made |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)} | {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
        }
        used = {node.id for node in names if isinstance(node.ctx, ast.Load)} - made - set(dir(builtins))
        if any(module not in LIBRARIES and module not in sys.stdlib_module_names for _, module, _ in _imports(tree)):
            continue
        loose = {name for name in used if name not in known}
        if any(known[name][0] not in LIBRARIES and known[name][0] not in sys.stdlib_module_names for name in used - loose):
            continue
        frames = {name: tuple(columns[name]) for name in loose if len(columns.get(name, ())) >= 2}
        frames |= {
            name: tuple(columns[name]) for name in used & made if name in columns and len(columns[name]) >= 3 and _assigned(tree, name)
        }
        rest = loose - set(frames) - FREE
        if rest - {"df", "data"} or (not frames and not used):
            continue
        common = words(task) & words(code)
        if len(common) < (1 if len(task.split()) <= 5 else 2):
            continue
        top = sorted({known[name][1] for name in used - loose})
        body = code if code.startswith(("import ", "from ")) else "\n".join([*top, "", code]) if top else code
        yield Cell(task, body.replace("'", '"') if '"' not in body else body, frames)


def _assigned(tree: ast.Module, name: str) -> bool:
    """True when the name's own subscript is the first thing assigned: the frame was there before."""
    targets = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
    return any(isinstance(one, ast.Subscript) and isinstance(one.value, ast.Name) and one.value.id == name for one in targets)


def _dtype(column: str, code: str, rng: random.Random) -> str:
    low = column.lower()
    if re.search(r"date|time|day$|_at$", low):
        return "datetime64"
    if re.search(
        r"name|type|class|region|city|country|state|category|gender|sex|species|status|id$|text|title|group|label", low
    ) and not re.search(r"_id$|^id$", low):
        return "str"
    if re.search(rf"""["']{re.escape(column)}["']\]\.str""", code):
        return "str"
    return rng.choice(("float64", "float64", "int64"))


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """The text with whole names replaced, all at once."""
    if not names:
        return text
    pattern = re.compile(r"(?<![\w.])(" + "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) + r")(?!\w)")
    return pattern.sub(lambda found: names[found[0]], text)


def _fresh(cell: Cell, rng: random.Random) -> dict[str, str]:
    """Made-up names for the columns that a cell's code quotes, where that can be done safely."""
    quoted = {column for columns in cell.frames.values() for column in columns if f'"{column}"' in cell.code and len(column) > 2}
    quoted = {column for column in quoted if re.search(rf"(?<!\w){re.escape(column)}(?!\w)", cell.task)}
    if any(re.search(rf"\.{re.escape(column)}\b|\b{re.escape(column)}\s*=", cell.code) for column in quoted):
        return {}
    made: dict[str, str] = {}
    for column in sorted(quoted):
        kind = {"datetime64": "date", "str": "cat"}.get(_dtype(column, cell.code, random.Random(0)), "float")
        new = coin.name(kind, rng, "snake")
        if new not in made.values():
            made[column] = new
    return made


def code_chat(cell: Cell, rng: random.Random) -> list[Message]:
    """A cell as a chat: mostly with its schema, half the time with its columns renamed, then perhaps with the original as an example."""
    swap = _fresh(cell, rng) if rng.random() < 0.5 else {}
    task, code = _renamed(cell.task, swap), _renamed(cell.code, swap)
    lines = []
    for variable, columns in cell.frames.items():
        named = [swap.get(column, column) for column in columns]
        used = [column for column in named if f'"{column}"' in code]
        rest = [column for column in named if column not in used]
        kept = [*used, *rng.sample(rest, min(len(rest), rng.randint(2, 10)))]
        rng.shuffle(kept)
        lines.append(
            notebook.describe(variable, {column: _dtype(column, code, rng) for column in kept}, rng.choice((150, 344, 891, 1000, 5000)))
        )
    shown = "\n".join(lines) if rng.random() < 0.75 else ""
    notes = [Note("example", cell.task, cell.code)] if swap and rng.random() < 0.6 else []
    if rng.random() < 0.5:
        task = task[0].lower() + task[1:]
    return [*prompts.compose("code", task, notebook=shown, notes=notes), {"role": "assistant", "content": fenced(code)}]


def passages(text: str) -> Iterator[tuple[str, str]]:
    """(title, one to three paragraphs of plain prose below it), 40 to 170 words that speak of the title."""
    plain = _FENCE.sub("\n\n```\n\n", text)
    marks = list(_TITLE.finditer(plain))
    for number, mark in enumerate(marks):
        title = re.sub(r"^[\d.\s]+", "", mark["title"]).strip(" `*_")
        body = plain[mark.end() : marks[number + 1].start() if number + 1 < len(marks) else len(plain)]
        if (
            not title.isascii()
            or not 1 <= len(title.split()) <= 8
            or _VAGUE.search(title)
            or len(title) < 3
            or re.search(r"[=(){}/\\<>_]", title)
        ):
            continue
        kept: list[str] = []
        for paragraph in re.split(r"\n\s*\n", body.strip()):
            one = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split()))
            if (
                not one
                or re.match(r"[-*+|>#!<`]|\d+\.|:::|\.\. ", one)
                or re.search(
                    r"https?:|<\w+|\bFigure \d|\b[Tt]his (notebook|tutorial|section|chapter|example|page|guide)|\bwe (will|shall)\b"
                    r"|\bclick\b|`{3}",
                    one,
                )
            ):
                break
            if len(" ".join((*kept, one)).split()) > 170 or one.endswith(":"):
                break
            kept.append(one)
        whole = " ".join(kept)
        if len(whole.split()) >= 40 and words(title) & words(whole) and re.search(r"\b(is|are|means|refers|measures|uses|allows)\b", whole):
            yield title, "\n\n".join(kept)


_DEFINED = re.compile(
    r"(?:(?<=\. )|^)(?P<text>(?:In \w+(?: \w+)?, )?(?:(?:A|An|The) )?[*_]{1,2}(?P<term>[A-Za-z][\w -]{2,40}?)[*_]{1,2}(?: \([^)]{1,30}\))?"
    r" (?:is|are|refers to|means|measures|describes) [^.\n]{30,260}\.(?: [A-Z][^.\n]{20,200}\.)?)",
    re.M,
)


def definitions(text: str) -> Iterator[tuple[str, str]]:
    """(term, one or two sentences that define it) where a text sets a new term in bold or italics."""
    for found in _DEFINED.finditer(text):
        said = re.sub(r"[*_]{1,2}([^*_]+)[*_]{1,2}", r"\1", found["text"])
        if not re.search(r"https?:|\]\(|<\w|\\\\|this (section|chapter|notebook)|[Ff]igure|```", said) and said.isascii():
            yield found["term"].strip(), said


def defines(title: str, text: str) -> bool:
    """True when a passage begins by saying what its title is, in a voice that is not a walk-through's."""
    first = re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]
    voice = re.search(r"\b([Ww]e|[Oo]ur|[Ll]et's|I|[Hh]ere|[Yy]ou)\b", text)
    return words(title) <= words(first) and bool(re.search(r"\b(is|are|means|refers|measures|describes)\b", first)) and not voice


def theory_chat(title: str, text: str, rng: random.Random, other: tuple[str, str] = ("", "")) -> list[Message]:
    """A passage as a chat. One that defines its title is asked for with itself as the card at hand or without, any other always with it.

    With the card the title is now and then an invented name, in the card as in the question. other: a passage that may stand beside it.
    """
    clear = defines(title, text)
    lead = title.split()[0].lower()
    asks = lead in ("how", "why", "what", "when", "which", "can", "do", "does", "is", "should") or title.endswith("?")
    kind = rng.choice(("what", "what", "simple", "short" if len(text.split()) < 60 else "what"))
    name = title if re.search(r"[A-Z]{2}", title) else title[0].lower() + title[1:]
    question = title if asks else rng.choice(QUESTIONS[kind] if clear else ABOUT).replace("{name}", name)
    notes: list[Note] = []
    if not clear or rng.random() < 0.5:
        swap = re.compile(re.escape(name), re.I)
        if not asks and rng.random() < 0.4 and swap.search(text):
            fresh = coin.concept(rng)
            question, text, title = swap.sub(fresh, question), swap.sub(fresh, text), fresh
        paragraphs = text.split("\n\n")
        notes = [_card(title, paragraphs)]
        if other[0] and rng.random() < 0.4:
            notes.insert(rng.randint(0, 1), _card(other[0], other[1].split("\n\n")))
        if len(paragraphs) > 1 and rng.random() < 0.5:
            text = "\n\n".join(paragraphs[:1])
    return [*prompts.compose("theory", question, notes=notes), {"role": "assistant", "content": text}]


def _card(title: str, paragraphs: list[str]) -> Note:
    labels = ("Definition", "How", "Why")
    return Note("card", title, "\n".join(f"{label}: {one}" for label, one in zip(labels, paragraphs, strict=False)))


def chats(document: Mapping[str, Any], seed: int = 0) -> Iterator[tuple[str, list[Message]]]:
    """(slice, messages) of all that a document of the corpus holds: "mined-code" from cells, "mined-theory" from running text."""
    text, kind = document["text"], document["kind"]
    rng = random.Random(f"{seed}/{len(text)}/{text[:200]}")
    if "```python" in text:
        for cell in cells(text):
            yield "mined-code", code_chat(cell, rng)
    if kind in ("notebook", "docs", "prose"):
        last = ("", "")
        for title, body in (*passages(text), *definitions(text)):
            yield "mined-theory", theory_chat(title, body, rng, last)
            last = (title, body)
