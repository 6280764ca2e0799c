"""The streaming output cleaner: no echo, no chat marks, one tidy code block or prose, no loops.

`clean` is a pure function of all raw text so far. It is monotone: what it returns for a beginning of a text is a beginning of what it
returns for the whole, so a surface may print the growth and never takes anything back.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from typing import Literal

Form = Literal["code", "prose", "free"]

_MARKS = ("[INST]", "[/INST]", "<s>", "</s>", "<pad>")
_LEAD = re.compile(r"\s*(?:(?:Answer|Assistant|Response)\s*:\s*)?", re.I)
_LEADS = ("answer:", "assistant:", "response:")
_FENCE = re.compile(r"^[ \t]*```[^\n]*$", re.M)
_SENTENCE = re.compile(r".+?(?:[.!?](?=\s)|\n+|$)\s*", re.S)
MAX_PERIOD = 8


def form_of(adapter: str | None) -> Form:
    """What an adapter's answers look like."""
    return "code" if adapter == "code" else "prose" if adapter == "theory" else "free"


def _without_marks(text: str, final: bool) -> tuple[str, bool]:
    """Cut at the first chat mark; hold back an end that may become one. Returns the text and whether a mark ended it."""
    at = min((found for mark in _MARKS if (found := text.find(mark)) >= 0), default=-1)
    if at == 0 or (at > 0 and not text[:at].strip()):  # an echoed opening mark: what follows is still wanted
        mark = next(mark for mark in _MARKS if text.startswith(mark, at))
        return _without_marks(text[at + len(mark) :], final)
    if at > 0:
        return text[:at], True
    if not final:
        for size in range(min(7, len(text)), 0, -1):
            if any(mark.startswith(text[-size:]) for mark in _MARKS):
                return text[:-size], False
    return text, final


def _without_echo(text: str, prompt: str, final: bool) -> str:
    """Drop a repetition of the question and a lead such as "Answer:" from the start; hold everything while it may still be one."""
    body = text.lstrip()
    for _ in range(2):
        if prompt and body.casefold().startswith(prompt.casefold()):
            body = body[len(prompt) :].lstrip()
        elif not final and prompt.casefold().startswith(body.casefold()):
            return ""
        lead = _LEAD.match(body)
        rest = body[lead.end() :] if lead else body
        if not final and rest == body and any(word.startswith(body.casefold()) for word in _LEADS):
            return ""
        body = rest
    return body


def _loops(lines: list[str]) -> bool:
    """True when the last line completes a third repetition in a row of a block of up to MAX_PERIOD lines."""
    return any(
        len(lines) >= 3 * period
        and lines[-period:] == lines[-2 * period : -period] == lines[-3 * period : -2 * period]
        and sum(len(line.strip()) for line in lines[-period:]) > 3
        for period in range(1, MAX_PERIOD + 1)
    )


def _until_loop(text: str, final: bool) -> str:
    """Whole lines up to where they begin to repeat for the third time, then the unfinished line unless it would complete a loop."""
    lines: list[str] = []
    whole, _, partial = text.rpartition("\n")
    for line in whole.split("\n") if whole or text.startswith("\n") else []:
        lines.append(line)
        if _loops(lines):
            return "\n".join(lines[:-1])
    if not final:
        for period in range(1, MAX_PERIOD + 1):
            if len(lines) >= period and lines[-period].startswith(partial) and _loops([*lines, lines[-period]]):
                return "\n".join(lines)
        return "\n".join([*lines, partial])
    return "\n".join(lines if _loops([*lines, partial]) else [*lines, partial])


def _code(text: str, final: bool) -> str:
    opening = _FENCE.search(text)
    if not opening:
        bare = text.strip().strip("`").strip() if final else ""
        return f"```python\n{_until_loop(bare, True)}\n```" if bare and parses(bare) else bare if final else ""
    if opening.end() == len(text) and not final:
        return ""
    body = text[opening.end() :].removeprefix("\n")
    closing = _FENCE.search(body)
    if closing:
        return f"```python\n{_until_loop(body[: closing.start()], True).strip(chr(10)).rstrip()}\n```"
    if final:
        return f"```python\n{_until_loop(body, True).strip(chr(10)).rstrip()}\n```"
    head, _, last = body.rpartition("\n")
    if re.fullmatch(r"[ \t]*`{0,3}", last):  # may become the closing fence
        body = head
    return f"```python\n{_until_loop(body, False).strip(chr(10))}".rstrip()


def _prose(text: str, final: bool) -> str:
    fences = list(_FENCE.finditer(text))
    outside, at = [], 0
    for number, fence in enumerate(fences):
        if number % 2 == 0:
            outside.append(text[at : fence.start()])
        at = fence.end()
    if len(fences) % 2 == 0:
        outside.append(text[at:])
    plain = "".join(outside)
    if not final:
        last = plain.rpartition("\n")[2]
        if last.strip().startswith("`") and not last.strip().strip("`"):  # may become a fence
            plain = plain[: len(plain) - len(last)]
    seen: set[str] = set()
    kept: list[str] = []
    sentences = [match.group() for match in _SENTENCE.finditer(plain)]
    for number, sentence in enumerate(sentences):
        key = " ".join(sentence.split())
        growing = not final and number == len(sentences) - 1
        if growing and any(one.startswith(key) for one in seen):
            break
        if key and key in seen:
            continue
        if key and not growing:
            seen.add(key)
        kept.append(sentence)
    return "".join(kept).rstrip()


def parses(code: str) -> bool:
    """True when Python can parse the code."""
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def clean(raw: str, form: Form, prompt: str = "", *, final: bool) -> str:
    """Clean all raw text so far. final: no more comes. Linear in the length of the text for each call."""
    text, ended = _without_marks(raw.replace("\r\n", "\n").replace("\r", "\n" if final else "\r"), final)
    text = _without_echo(text, prompt.strip(), ended)
    if form == "code":
        return _code(text, ended)
    if form == "prose":
        return _prose(text, ended)
    return _until_loop(text, ended).rstrip()


def stream(pieces: Iterable[str], form: Form, prompt: str = "") -> Iterator[str]:
    """Turn raw pieces into growing cleaned texts, each a beginning of the next; the last one is final."""
    raw = shown = ""
    for piece in pieces:
        raw += piece
        text = clean(raw, form, prompt, final=False)
        if len(text) > len(shown):
            shown = text
            yield shown
    text = clean(raw, form, prompt, final=True)
    if text != shown:
        yield text


def code_of(text: str) -> str:
    """The Python inside the first fenced block of an answer, or ""."""
    block = re.search(r"```(?:python|py)?\n(.*?)(?:\n```|\Z)", text, re.S)
    return block.group(1) if block else ""
