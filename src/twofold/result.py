"""An answer in a notebook: what a program wants of it, rich in Jupyter, plain in a terminal."""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from twofold import notebook
from twofold.draw import chip_for, proof_html
from twofold.receipt import Receipt
from twofold.sandbox import Outcome
from twofold.status import ladder, line, pace
from twofold.types import Reply

_ITEM = re.compile(r"\s*(?:[-*•]|\d+\.) ")
MOST_LINES = 20  # of what a run printed, in a terminal


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot that a trial run drew."""

    png: bytes

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True, slots=True)
class Result:
    """One answer, or a snapshot of it while it grows."""

    question: str
    reply: Reply
    speed: float = 0.0
    """Tokens a second."""
    receipt: Receipt | None = None
    """What it was made from, once it is done; `%twofold receipt ID` makes it again."""
    waiting: str = ""
    """What it waits for: the model, while that loads."""
    placed: bool = False
    """True when the code was put into the next cell."""
    stopped: bool = False

    @property
    def code(self) -> str:
        """The Python of the answer, "" for an explanation."""
        return self.reply.code

    @property
    def text(self) -> str:
        """The whole answer, as it was shown."""
        return self.reply.text

    @property
    def proof(self) -> tuple[str, ...]:
        """The rungs that the code has passed."""
        return self.reply.proof

    @property
    def figures(self) -> tuple[Picture, ...]:
        """Plots of the trial run."""
        return tuple(map(Picture, self.reply.run.plots)) if self.reply.run else ()

    @property
    def frame(self) -> Any:
        """The first rows of the last table that the trial run made, as a DataFrame; None where it made none."""
        tables = self.reply.run.frames if isinstance(self.reply.run, Outcome) else ()
        return notebook.frame_of(tables[-1].columns, tables[-1].head) if tables else None

    def __repr__(self) -> str:
        """The answer as plain text, with its ladder and its status line."""
        return "\n".join(part for part in (self.text, *told(self)) if part)

    def _repr_html_(self) -> str:
        return page(self)


def told(result: Result) -> Iterator[str]:
    """What stands below an answer in a terminal: what was wrong, changes, the ladder, what the trial run printed, the status line."""
    reply = result.reply
    if reply.done and reply.wrong:
        yield f"  was wrong {reply.wrong}"
    if reply.done and reply.code and reply.route.adapter != "theory":
        yield from (f"  repaired  {words}" for words in reply.repairs)
        yield from (f"  changes   {words}" for words in reply.changes)
        for rung, state, reason in ladder(reply):
            yield f"  {'not run' if state == 'open' else state:9} {rung}{f': {reason}' if reason else ''}"
        if isinstance(reply.run, Outcome) and reply.run.ok:
            said = "\n".join(filter(None, (reply.run.stdout.strip(), reply.run.result)))
            yield from (f"  | {one}" for one in said.splitlines()[:MOST_LINES])
    yield result.waiting or (f"stopped · {line(reply, result.speed)}" if result.stopped else line(reply, result.speed))


@cache
def _style() -> str:
    return Path(__file__).with_name("notebook.css").read_text(encoding="utf-8")


def page(result: Result) -> str:
    """The answer as HTML that follows the notebook's light or dark theme; no script, nothing fetched."""
    reply = result.reply
    status = result.waiting or ("stopped" if result.stopped else reply.step or pace(reply, result.speed))
    head = f"<div class='head'>{chip_for(reply)}<span class='status' role='status'>{html.escape(status)}</span></div>"
    if reply.code and reply.done and result.placed:
        body = f"<details><summary>The code, as it stands in the next cell</summary>{_code(reply.code)}</details>"
    elif reply.code and reply.done:
        body = _code(reply.code)
    else:
        body = prose(reply.text)
    shown = reply.step or (reply.done and reply.code and reply.route.adapter != "theory")
    return f"<div class='twofold'><style>{_style()}</style>{head}<div class='body'>{body}</div>{proof_html(reply) if shown else ''}</div>"


def _code(code: str) -> str:
    return f"<pre class='code'>{html.escape(code)}</pre>"


def prose(text: str) -> str:
    """Paragraphs, fences, inline code, bold words and lists as HTML; formulas between dollars stay as they are, for MathJax."""
    parts: list[str] = []
    for place, block in enumerate(re.split(r"^[ \t]*```[^\n]*\n?", text, flags=re.M)):
        if place % 2:
            parts.append(_code(block.rstrip("\n")))
            continue
        for paragraph in filter(str.strip, re.split(r"\n\s*\n", block)):
            lines = paragraph.strip().splitlines()
            if all(map(_ITEM.match, lines)):
                items = [_inline(_ITEM.sub("", one, count=1)) for one in lines]
                parts.append(f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>")
            else:
                parts.append(f"<p>{_inline(' '.join(lines))}</p>")
    return "".join(parts)


def _inline(text: str) -> str:
    escaped = html.escape(text, quote=False)
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", escaped)
