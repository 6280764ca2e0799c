"""A chat as a notebook that runs top to bottom: questions as headings, explanations as Markdown and LaTeX, code as cells.

A chat's code wants data that a file does not have. The first cell makes it: frames saved beside the notebook where the user asks for
that, else made-up ones with the columns that schema and code tell of, so that no value of the user's is written. Where the sandbox is
strong the cells are tried in their order, and code that fails there stands as text with its reason; elsewhere such cells are tagged, so
that a run goes on behind them.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from twofold import clean, sandbox, verify
from twofold.receipt import Receipt
from twofold.types import Message, Reply, Route, TwofoldError
from twofold.verify import names
from twofold.verify.guess import guess

ROWS = 60
"""Rows of a made-up frame."""
LIMITS = sandbox.Limits(wall=90.0, cpu=80)
_MATH = re.compile(r"\$\$.+?\$\$|\$[^$\n]+?\$|\\\[.+?\\\]|\\\(.+?\\\)", re.S)
_FORMULA = re.compile(r"[\\^_=<>+*/|]|^\s*\w\s*$")
_TRY = """
import json as _j
_said = {}
for _n, _text in enumerate(_cells):
    try:
        exec(compile(_text, f"<cell {_n}>", "exec"), globals())
    except BaseException as _error:
        _said[_n] = f"{type(_error).__name__}: {_error}"[:200]
    import sys as _s
    if "matplotlib.pyplot" in _s.modules:
        _s.modules["matplotlib.pyplot"].close("all")
"""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer."""

    question: str
    reply: Reply
    receipt: Receipt | None = None


def exchanges(turns: Sequence[Message]) -> list[Exchange]:
    """The questions and answers of a conversation of which only the words are left."""
    pairs = [(one["content"], other["content"]) for one, other in pairwise(turns) if (one["role"], other["role"]) == ("user", "assistant")]
    found = []
    for question, text in pairs:
        code = clean.code_of(text)
        adapter = "code" if code else "theory"
        found.append(Exchange(question, Reply(text, Route(adapter, ""), adapter=adapter, code=code, done=True)))
    return found


def write(path: Path, chat: Sequence[Exchange], schema: str = "", frames: Mapping[str, Any] | None = None) -> None:
    """Write a chat as a notebook. schema: the notebook block that tells of its frames; frames: (name -> DataFrame), saved beside the
    notebook in a folder of its name as far as the code reads them; None: made-up ones take their place.

    Raises TwofoldError when there is nothing to write, nbformat is missing or the place cannot be written.
    """
    if not chat:
        raise TwofoldError("there is nothing to export yet: ask something first")
    if path.suffix != ".ipynb":
        raise TwofoldError(f"{path.name} is no notebook: give a name that ends in .ipynb")
    codes = [one.reply.code for one in chat if clean.parses(one.reply.code)]
    wanted = _wanted(codes)
    given = {name: frame for name, frame in (frames or {}).items() if name in wanted}
    made = {} if frames is not None else guess("", _known(schema, wanted), "\n".join(codes), wanted, rows=ROWS)
    try:
        lead = _saved(given, path) if given else _made_up(made)
        path.write_text(_document(chat, lead, {**given, **made}, bool(given)), encoding="utf-8")
    except OSError as error:
        raise TwofoldError(f"cannot write {path} ({error.strerror}): choose another place") from None


def _wanted(codes: Sequence[str]) -> list[str]:
    """Variables that the cells together read and do not make; what is called like a function is none."""
    try:
        tree = ast.parse("\n".join(codes))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [name for name in names.free(tree) if verify.inputs.may_be_data(tree, name) and name not in verify.repair.COMMON]


def _known(schema: str, wanted: Sequence[str]) -> str:
    """The lines of a schema that tell of wanted frames."""
    return "\n".join(line for line in schema.splitlines() if line.partition(":")[0].strip('"') in wanted)


def _saved(frames: Mapping[str, Any], path: Path) -> str:
    folder = path.with_name(f"{path.stem}-data")
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["import pandas as pd", ""]
    for name, frame in frames.items():
        try:
            frame.to_parquet(folder / f"{name}.parquet")
            lines.append(f"{name} = pd.read_parquet({f'{folder.name}/{name}.parquet'!r})")
        except (ImportError, ValueError, TypeError):  # no pyarrow, or columns that it cannot hold
            frame.to_csv(folder / f"{name}.csv", index=False)
            dates = [str(column) for column, dtype in zip(frame.columns, frame.dtypes, strict=True) if str(dtype).startswith("datetime")]
            lines.append(f"{name} = pd.read_csv({f'{folder.name}/{name}.csv'!r}{f', parse_dates={dates!r}' if dates else ''})")
    return "\n".join(lines)


def _made_up(frames: Mapping[str, Any]) -> str:
    """Code that makes frames anew from text within it."""
    if not frames:
        return ""
    lines = ["# Made-up data with the columns that the chat speaks of: put your own in its place.", "from io import StringIO", ""]
    lines += ["import pandas as pd", ""]
    for name, frame in frames.items():
        dates = [str(column) for column, dtype in zip(frame.columns, frame.dtypes, strict=True) if str(dtype).startswith("datetime")]
        text = frame.to_csv(index=False, float_format="%.6g").replace("\\", "\\\\").replace('"""', "'''")
        lines.append(f'{name} = pd.read_csv(StringIO("""\\\n{text}"""){f", parse_dates={dates!r}" if dates else ""})')
        grouped = [column for column, dtype in frame.dtypes.items() if dtype == "category"]
        lines += [f"{name}[{column!r}] = {name}[{column!r}].astype('category')" for column in grouped]
    return "\n".join(lines)


def _tried(codes: Sequence[str], frames: Mapping[str, Any]) -> dict[int, str] | None:
    """Which cells fail when all run in their order, and why; None where that cannot be known."""
    try:
        if verify.may_run(False):
            return None
        prelude = f"_cells = {list(codes)!r}\n"
        outcome = sandbox.run(prelude + _TRY, frames=list(frames.items()), limits=LIMITS, after="print(_j.dumps(_said))")
        told = json.loads(outcome.after) if outcome.ok else None
    except (TwofoldError, ValueError):
        return None
    return {int(number): str(why) for number, why in told.items()} if isinstance(told, dict) else None


def _document(chat: Sequence[Exchange], lead: str, frames: Mapping[str, Any], own: bool) -> str:
    try:
        from nbformat import v4, validate, writes
    except ModuleNotFoundError:
        raise TwofoldError("nbformat is not installed: pip install twofold[notebook]") from None
    runs = [place for place, one in enumerate(chat) if one.reply.code and clean.parses(one.reply.code) and not one.reply.failed]
    told = _tried([chat[place].reply.code for place in runs], frames)
    failed = None if told is None else {runs[number]: why for number, why in told.items()}
    made = [v4.new_markdown_cell("# Questions and answers"), *([v4.new_code_cell(lead)] if lead else [])]
    for place, one in enumerate(chat):
        about = {"twofold": {"chip": one.reply.chip, "proof": list(one.reply.proof)} | ({"receipt": one.receipt.id} if one.receipt else {})}
        made.append(v4.new_markdown_cell(_heading(one.question)))
        if place in runs and not (failed and place in failed):
            sure = failed is not None or (own and "ran on your data" in one.reply.proof)
            made.append(v4.new_code_cell(one.reply.code, metadata=about | ({} if sure else {"tags": ["raises-exception"]})))
        elif one.reply.code:
            reason = (failed or {}).get(place) or one.reply.reason or "Python cannot read it"
            text = f"```python\n{one.reply.code}\n```\n\nNot a cell, because it fails: {_plain(reason)}"
            made.append(v4.new_markdown_cell(text, metadata=about))
        else:
            made.append(v4.new_markdown_cell(markdown(one.reply.text), metadata=about))
    for number, cell in enumerate(made):
        cell["id"] = f"cell-{number}"  # the same chat, the same file
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = v4.new_notebook(cells=made, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    validate(document)
    return str(writes(document)) + "\n"


def _heading(question: str) -> str:
    """A question of one line as a heading, a longer one as a quotation."""
    lines = question.strip().splitlines()
    if len(lines) == 1 and len(lines[0]) <= 160:
        return f"## {_plain(lines[0])}"
    return "## Question\n\n" + "\n".join(f"> {line if '```' in question else _plain(line)}" for line in lines)


def _plain(text: str) -> str:
    """Text as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|$~])", r"\\\1", text)


def markdown(text: str) -> str:
    """An explanation as Jupyter's Markdown: LaTeX between dollars; dollars that are money and `<` that is no tag escaped."""
    parts: list[str] = []
    at = 0
    for match in _MATH.finditer(text):
        inner = match[0]
        money = inner.startswith("$") and not inner.startswith("$$") and not _FORMULA.search(inner[1:-1])
        if money:
            continue
        parts += [_words(text[at : match.start()]), _dollars(inner)]
        at = match.end()
    return "".join([*parts, _words(text[at:])])


def _dollars(formula: str) -> str:
    if formula.startswith("\\("):
        return f"${formula[2:-2].strip()}$"
    return f"$${formula[2:-2].strip()}$$" if formula.startswith("\\[") else formula


def _words(text: str) -> str:
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"(?<!\\)\$", r"\\$", text))
