"""What an answer was made from: weights, adapter, exact prompts, sampling, libraries. `replay` makes it again and says what changed.

A Recorder stands between the assistant and an engine and keeps every call, so a receipt holds all that a model was told for an answer, the
calls of verification among them, and nothing that it was not.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from twofold.engines import Engine
from twofold.types import Message, Sampling, TwofoldError

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an engine, and what it said."""

    messages: tuple[Message, ...]
    adapter: str
    sampling: Sampling
    answers: tuple[str, ...]
    """What came back, as the engine said it: one answer of `generate`, several of `candidates`."""
    pieces: int
    """How many pieces `generate` yielded, about one token each; 0 for `candidates`."""
    whole: bool = True
    """False when the answer was stopped before its end."""
    batch: bool = False
    """True for `candidates`."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """All that an answer was made from."""

    question: str
    model: str
    calls: tuple[Call, ...]
    weights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Adapter -> file -> SHA-256 of what spoke for it, the base among it."""
    machine: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that compute, processor and threads."""

    @property
    def id(self) -> str:
        """Eight hexadecimal digits of what was asked, of whom, and what it said."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode("utf-8", "replace")).hexdigest()[:8]

    @property
    def prompts(self) -> tuple[str, ...]:
        """Each call's messages as text, exactly as the engine got them."""
        return tuple("\n\n".join(f"[{message['role']}]\n{message['content']}" for message in call.messages) for call in self.calls)


@dataclass(frozen=True, slots=True)
class Replay:
    """How a second making went."""

    same: bool
    """True when every answer came out equal, token by token."""
    tokens: int
    """Pieces that were compared."""
    changed: tuple[str, ...] = ()
    """What differs between then and now, in words: weights, libraries, the first other token."""


class Recorder:
    """An Engine that passes every call on to another and keeps what was asked and said."""

    def __init__(self, engine: Engine) -> None:
        """Wrap an engine; nothing is loaded here."""
        self._engine = engine
        self.calls: list[Call] = []

    @property
    def name(self) -> str:
        """The engine's name."""
        return self._engine.name

    @property
    def adapters(self) -> frozenset[str]:
        """The engine's adapters."""
        return self._engine.adapters

    def generate(self, messages: Sequence[Message], adapter: str, sampling: Sampling) -> Iterator[str]:
        """Stream from the engine and keep the call, also when it is stopped."""
        return self._kept(self._engine.generate(messages, adapter, sampling), tuple(messages), adapter, sampling)

    def _kept(self, pieces: Iterator[str], messages: tuple[Message, ...], adapter: str, sampling: Sampling) -> Iterator[str]:
        said: list[str] = []
        whole = False
        try:
            for piece in pieces:
                said.append(piece)
                yield piece
            whole = True
        finally:
            if close := getattr(pieces, "close", None):
                close()
            self.calls.append(Call(messages, adapter, sampling, ("".join(said),), len(said), whole))

    def candidates(self, messages: Sequence[Message], adapter: str, sampling: Sampling, n: int) -> list[str]:
        """Return n answers of the engine and keep the call."""
        answers = self._engine.candidates(messages, adapter, sampling, n)
        self.calls.append(Call(tuple(messages), adapter, sampling, tuple(answers), 0, batch=True))
        return answers

    def load(self, adapter: str, source: str | Path) -> None:
        """Load one more adapter."""
        self._engine.load(adapter, source)

    def weights(self, adapter: str) -> Mapping[str, str]:
        """SHA-256 of each file that speaks for an adapter; empty where the engine cannot tell."""
        return _weights(self._engine, adapter)

    def receipt(self, question: str) -> Receipt:
        """The receipt of all calls so far. The weights of what spoke are hashed, once an engine."""
        spoke = dict.fromkeys(call.adapter for call in self.calls)
        return Receipt(question, self.name, tuple(self.calls), {name: dict(self.weights(name)) for name in spoke}, machine())


def _weights(engine: Engine, adapter: str) -> Mapping[str, str]:
    tell = getattr(engine, "weights", None)
    return tell(adapter) if tell else {}


def machine() -> dict[str, str]:
    """Versions of what computes, and how many processors share the work: sums in another order may end in another token."""
    return {"python": platform.python_version(), "processor": f"{platform.machine()}, {os.cpu_count()} cores", **_versions()}


@cache
def _versions() -> Mapping[str, str]:
    """Versions of the libraries; looking them up takes 20 ms, and they do not change while this process lives."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def replay(receipt: Receipt, engine: Engine) -> Replay:
    """Make every call of a receipt again and compare. Raises TwofoldError where the adapter is gone or the prompt does not fit."""
    changed: list[str] = [] if engine.name == receipt.model else [f"model: {receipt.model}, now {engine.name}"]
    for adapter, files in receipt.weights.items():
        now = _weights(engine, adapter) if adapter in engine.adapters else {}
        gone = [name for name in files if now.get(name) != files[name]]
        changed += [f"weights of {adapter}: {', '.join(gone)}"] if gone else []
    here = machine()
    changed += [f"{name}: {then}, now {here.get(name, 'missing')}" for name, then in receipt.machine.items() if here.get(name) != then]
    same, tokens = True, 0
    for number, call in enumerate(receipt.calls, 1):
        for then, now_said, pieces in _again(call, engine):
            tokens += pieces
            if then != now_said and same:
                same = False
                at = next((i for i, (a, b) in enumerate(zip(then, now_said, strict=False)) if a != b), min(len(then), len(now_said)))
                changed.append(f"answer {number} differs from character {at + 1}: {then[at : at + 24]!r}, now {now_said[at : at + 24]!r}")
    return Replay(same, tokens, tuple(changed))


def _again(call: Call, engine: Engine) -> Iterator[tuple[str, str, int]]:
    """Each answer of a call as it was, as it is now, and how many pieces that took."""
    if call.batch:
        answers = engine.candidates(call.messages, call.adapter, call.sampling, len(call.answers))
        yield from ((then, now, len(now.split())) for then, now in zip(call.answers, answers, strict=True))
        return
    said: list[str] = []
    pieces = engine.generate(call.messages, call.adapter, call.sampling)
    try:
        for piece in pieces if call.whole or call.pieces else ():
            said.append(piece)
            if not call.whole and len(said) >= call.pieces:
                break
    finally:
        if close := getattr(pieces, "close", None):
            close()
    yield call.answers[0], "".join(said), len(said)


def as_json(receipt: Receipt) -> dict[str, Any]:
    """A receipt as plain values; `from_json` reads them back."""
    return {"id": receipt.id, **asdict(receipt)}


def from_json(values: object) -> Receipt:
    """Read a receipt back. Raises TwofoldError for what is none, or is not as it was written."""
    try:
        assert isinstance(values, dict)
        calls = tuple(
            Call(
                tuple(Message(role=message["role"], content=str(message["content"])) for message in call["messages"]),
                str(call["adapter"]),
                Sampling(**call["sampling"]),
                tuple(map(str, call["answers"])),
                int(call["pieces"]),
                bool(call["whole"]),
                bool(call["batch"]),
            )
            for call in values["calls"]
        )
        receipt = Receipt(str(values["question"]), str(values["model"]), calls, values["weights"], values["machine"])
    except (AssertionError, KeyError, TypeError, ValueError):
        raise TwofoldError("this is no receipt: give a file that `%twofold receipt ID FILE` has written") from None
    if receipt.id != values.get("id"):
        raise TwofoldError("the receipt was changed after it was written: its id does not fit what it holds")
    return receipt
