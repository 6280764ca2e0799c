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
_MARK = re.compile("|".join(map(re.escape, _MARKS)))
_BLANK = re.compile(rf"(?:\s|{_MARK.pattern})*")
_LINE_END = re.compile(rf"[ \t]*(?:\n|{_MARK.pattern}|\Z)")
_LEADS = ("answer:", "assistant:", "response:")
_FENCE = re.compile(r"^[ \t]*```[^\n]*$", re.M)
_SENTENCE = re.compile(r".+?(?:[.!?](?=\s)|\n+|$)\s*", re.S)
MAX_PERIOD = 8


def form_of(adapter: str | None) -> Form:
    """What an adapter's answers look like."""
    return "code" if adapter == "code" else "prose" if adapter == "theory" else "free"


def _alike(text: str, word: str) -> bool:
    """True when text and word agree as far as both reach, letter case aside."""
    return all(one.casefold() == other.casefold() for one, other in zip(text, word, strict=False))


def _start(text: str, prompt: str, final: bool) -> str:
    """Drop chat marks, repetitions of the question and leads such as "Answer:" from the start; "" while one may still be coming.

    A question is repeated only where its line or sentence ends too: "overfitting" may well be answered by "Overfitting is ...".
    """
    while True:
        text = _BLANK.sub("", text, count=1)
        for word in (prompt, *_LEADS) if prompt else _LEADS:
            if not _alike(text, word):
                continue
            rest = text[len(word) :]
            if not final and (len(text) < len(word) or (word == prompt and not rest.strip(" \t"))):
                return ""
            ends = word != prompt or _LINE_END.match(rest) or (not word[-1].isalnum() and rest[0].isspace())
            if len(text) >= len(word) and ends:
                text = rest
                break
        else:
            return text


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
        bare = _until_loop(text.strip().strip("`").strip(), True) if final else ""
        return f"```python\n{bare}\n```" if bare and parses(bare) else bare
    if opening.end() == len(text) and not final:
        return ""
    body = text[opening.end() :].removeprefix("\n")
    closing = _FENCE.search(body)
    ended = final or closing is not None
    body = body[: closing.start()] if closing else body
    head, _, last = body.rpartition("\n")
    if re.fullmatch(r"[ \t]*`{0,3}", last):  # may become the closing fence
        body = head
    code = _until_loop(body, ended).strip("\n").rstrip()
    return f"```python\n{code}" + "\n```" * ended if code else ""


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
    return "".join(kept).strip()


def tree_of(code: str) -> ast.Module | None:
    """The syntax tree of code, or None where Python cannot parse it."""
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def parses(code: str) -> bool:
    """True when Python can parse the code."""
    return tree_of(code) is not None


def clean(raw: str, form: Form, prompt: str = "", *, final: bool) -> str:
    """Clean all raw text so far. final: no more comes. Linear in the length of the text for each call."""
    if not final:  # hold back what may become a mark
        held = max((size for mark in _MARKS for size in range(1, len(mark)) if raw.endswith(mark[:size])), default=0)
        raw = raw[: len(raw) - held]
    text = _start(raw.replace("\r\n", "\n").replace("\r", "\n"), prompt.strip(), final)
    mark = _MARK.search(text)
    ended = final or mark is not None
    text = text[: mark.start()] if mark else text
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
    """The Python inside the first fenced block of an answer that is Python or names no language, or ""."""
    blocks = re.finditer(r"^[ \t]*```([^\n]*)\n(.*?)(?:^[ \t]*```|\Z)", text, re.S | re.M)
    return next((block[2].removesuffix("\n") for block in blocks if block[1].strip().lower() in ("python", "py", "")), "")
