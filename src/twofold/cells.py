"""A notebook's cells as text: which lines speak to the assistant, their options, and what a question refers to.

What stands after the options is the user's question. It is never formatted, expanded, split or unquoted: only `@name`, where the notebook
has data of that name, loses its @, and what `@In[3]`, `@Out[3]` and `@Err` point at is put below the question.
"""

import re
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twofold import notebook
from twofold.redact import redact
from twofold.types import Share, TwofoldError

MAGICS = ("ask", "fix", "explain")
MOST = 2_000
"""Characters of a cell, an output or an error that a reference brings along."""
_CELL = re.compile(rf"%%({'|'.join(MAGICS)})(?:[ \t]+(?!\n)(.*?))?[ \t]*\r?\n?\Z", re.S)
_LINE = re.compile(rf"([ \t]*)((?:[A-Za-z_]\w*[ \t]*=[ \t]*)?)%({'|'.join(MAGICS)})(?:[ \t]+(.*?))?(\r?\n)?\Z", re.S)
_OPTION = re.compile(r"\s*(--?[A-Za-z][\w-]*)(?:=(\S+))?(?=\s|$)")
_WORD = re.compile(r'\s*(?:"([^"]*)"|(\S+))')
_REFERENCE = re.compile(r"(?<![\w@.`])@(?:(In|Out)\[(\d+)\]|(Err)\b|([A-Za-z_]\w*))")


def verbatim(lines: list[str]) -> list[str]:
    """Turn lines that speak to the assistant into calls that hold the text as it was typed.

    A transformer of IPython's, to be put before its own: those cut prompts such as `>>> ` out of a question, read a question mark at its
    end as a wish for help, and a backslash as a line to be continued. Each call ends in a semicolon: the answer shows itself.
    """
    start = next((place for place, line in enumerate(lines) if line.strip()), 0)
    if lines and (match := _CELL.match(lines[start])):
        body = "".join(lines[start + 1 :])
        kind, rest = ("cell", f", {body!r}") if body.strip() else ("line", "")
        return [f"get_ipython().run_{kind}_magic({match[1]!r}, {match[2] or ''!r}{rest});\n"]
    if not any(_LINE.match(line) for line in lines) or (lines and lines[start].startswith("%%")):
        return lines
    made: list[str] = []
    for line in lines:
        match = _LINE.match(line)
        if match and not _inside(made):
            made.append(f"{match[1]}{match[2]}get_ipython().run_line_magic({match[3]!r}, {match[4] or ''!r});{match[5] or ''}")
        else:
            made.append(line)
    return made


def _inside(lines: Iterable[str]) -> bool:
    """True when a text ends within a string of several lines or an open bracket."""
    plain = iter(["pass\n" if line.lstrip().startswith(("%", "!")) else line for line in lines])
    try:
        for _ in tokenize.generate_tokens(lambda: next(plain, "")):
            pass
    except tokenize.TokenError as error:
        return bool(re.search("multi-line|triple-quoted", str(error.args[0])))
    except SyntaxError:
        return False
    return False


def options(line: str, known: Mapping[str, bool]) -> tuple[dict[str, str], str]:
    """Read the options at the beginning of a line; the rest comes back as it is, without outer blanks.

    known: option -> whether a value follows it. Options end with the first word that is none, or with `--`. Raises TwofoldError for a long
    option that nobody knows and for a missing value; a short one begins the question ("-3 % a year").
    """
    found: dict[str, str] = {}
    while match := _OPTION.match(line):
        name, value = match[1], match[2]
        if name not in known:
            if name.startswith("--"):
                raise TwofoldError(f"there is no option {name}; there are {', '.join(known)}; -- ends the options")
            break
        line = line[match.end() :]
        if known[name] and value is None:
            word = _WORD.match(line)
            if not word:
                raise TwofoldError(f"{name} needs a value")
            value, line = word[1] if word[1] is not None else word[2], line[word.end() :]
        found[name] = value or ""
    line = line.strip()
    return found, line[2:].strip() if line.startswith("--") and line[2:3] in ("", " ", "\n") else line


@dataclass(frozen=True, slots=True)
class Failure:
    """A cell that failed."""

    cell: str
    error: str
    """Its traceback with only the cell's own lines, the cell named `<cell>`."""


@dataclass(frozen=True, slots=True)
class Book:
    """What a question may refer to."""

    names: Mapping[str, Any]
    inputs: Sequence[str] = ()
    """Cells by their number; the first is empty."""
    outputs: Mapping[int, Any] | None = None
    failure: Failure | None = None


def resolve(question: str, book: Book, share: Share) -> tuple[str, tuple[str, ...]]:
    """A question with what it refers to below it, and the variables that it points at with `@name`.

    Values of outputs and errors are told as far as `share` allows. Raises TwofoldError for a cell, an output or an error that is not there.
    """
    named: list[str] = []
    below: dict[str, str] = {}

    def replaced(match: re.Match[str]) -> str:
        kind, number, err, name = match.groups()
        if name is not None:
            if notebook.kind_of(book.names.get(name)) is None:
                return match[0]
            named.append(name)
            return name
        label = "Err" if err else f"{kind}[{number}]"
        below.setdefault(label, _pointed(label, kind, int(number or 0), book, share))
        return label

    text = _REFERENCE.sub(replaced, question)
    return "\n\n".join([text, *below.values()]), tuple(dict.fromkeys(named))


def _pointed(label: str, kind: str | None, number: int, book: Book, share: Share) -> str:
    if kind == "In":
        if not 0 < number < len(book.inputs):
            raise TwofoldError(f"there is no cell In[{number}]; the last is In[{len(book.inputs) - 1}]")
        return f"{label}:\n{fenced(book.inputs[number])}"
    if kind == "Out":
        if book.outputs is None or number not in book.outputs:
            raise TwofoldError(f"cell {number} left no output; outputs are of {', '.join(map(str, book.outputs or ())) or 'none'}")
        return _output(label, book.outputs[number], share)
    if book.failure is None:
        raise TwofoldError("no cell has failed since the extension was loaded, so there is no @Err")
    return f"{label}:\n{fenced(book.failure.cell)}\n{shown_error(book, book.failure, share)}"


def shown_error(book: Book, failure: Failure, share: Share) -> str:
    """A failure's error as far as a level of sharing tells it: below "values" what it quotes stays only where cell or schema say it too."""
    if share == "values":
        return failure.error[-MOST:]
    return redact(failure.error, f"{failure.cell}\n{notebook.told(book.names, share)}")[-MOST:]


def _output(label: str, value: object, share: Share) -> str:
    if share == "nothing":
        return f"{label}: not shared"
    if told := notebook.variable(label, value, share):
        return told.replace(notebook.safe_name(label), label)
    plain = share == "values" and type(value) in (int, float, bool, str, list, tuple, dict)
    return f"{label}: {repr(value)[:MOST] if plain else type(value).__name__}"


def fenced(code: str) -> str:
    """Code in a fence, its middle left out where it is long."""
    code = code.strip("\n")
    if len(code) > MOST:
        code = f"{code[: MOST // 2]}\n# ...\n{code[-MOST // 2 :]}"
    return f"```python\n{code}\n```"


def moved(error: str, lines: int) -> str:
    """A traceback of a cell whose first lines were taken away."""
    return re.sub(r'(File "<cell>", line )(\d+)', lambda match: f"{match[1]}{max(1, int(match[2]) - lines)}", error)


def without_magics(cell: str) -> tuple[str, str]:
    """A cell's leading lines that are IPython's alone (`%matplotlib inline`, `!ls`, blank lines), and its Python."""
    lines = cell.splitlines(keepends=True)
    start = next((place for place, line in enumerate(lines) if line.strip() and line[0] not in "%!"), len(lines))
    return "".join(lines[:start]), "".join(lines[start:])
