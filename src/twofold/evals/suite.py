"""Put evaluation rows to an engine, bare or through the whole assistant, and count.

greedy: the row's own messages, no retrieval. pipeline: `assistant.ask` as in service, with code verified (on the frames of the row where
its prompt shows their schema, as a notebook would hand them over, else on twins), but the adapter is given (the router has seen the kept
wordings, and is measured on its own test split) and retrieval searches an index without them. unverified and unaided: the same without
verification, without retrieval. Held-out intents and cards are in neither index. Every engine answer is kept in a file, so that Ctrl-C
loses nothing and a larger run continues a smaller one.
"""

import hashlib
import json
import math
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from twofold import clean, retrieve
from twofold.assistant import ask
from twofold.datasets import build, check, notes, rows
from twofold.engines import Engine
from twofold.types import Message, Request, Sampling

Mode = Literal["greedy", "pipeline", "unverified", "unaided"]
Row = Mapping[str, Any]
WEIGHTS = Path(__file__).parents[1] / "weights"


class Said(NamedTuple):
    """One answer as the engine gave it."""

    text: str
    pieces: int
    """Pieces of text, about one a token."""
    first: float
    """Seconds to the first piece."""
    seconds: float


UNSAID = Said("", 0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """A cleaned answer to a row."""

    row: Row
    text: str
    said: Said
    sources: tuple[str, ...] = ()
    """Ids of the notes in the prompt."""
    attempts: int = 1
    """How many answers the engine was asked for."""
    seconds: float = 0.0
    """From the question to the finished answer, verification included; 0 where a kept answer was used."""


class Remembered:
    """An Engine that keeps whole answers in a JSON Lines file and repeats them; what was measured when they were made comes back too."""

    def __init__(self, engine: Engine, path: Path) -> None:
        """Read what is kept. The file must belong to these weights: see `fingerprint`."""
        self.name = engine.name
        self.last = UNSAID
        """The answer that ended last."""
        self.fresh = True
        """False once a kept answer was repeated; whoever measures sets it."""
        self._engine, self._path = engine, path
        self._kept: dict[str, Said] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            with suppress(ValueError):  # a line that a stopped run left unfinished
                key, *said = json.loads(line)
                self._kept[key] = Said(*said)

    @property
    def adapters(self) -> frozenset[str]:
        """The engine's adapters."""
        return self._engine.adapters

    def generate(self, messages: Sequence[Message], adapter: str, sampling: Sampling) -> Iterator[str]:
        """Yield a kept answer as one piece, or the engine's, kept once it is whole."""
        key = hashlib.sha256(json.dumps([list(messages), adapter, asdict(sampling)], sort_keys=True).encode()).hexdigest()
        if key not in self._kept:
            started, first, pieces = time.perf_counter(), 0.0, []
            for piece in self._engine.generate(messages, adapter, sampling):
                first = first or time.perf_counter() - started
                pieces.append(piece)
                yield piece
            self._keep(key, Said("".join(pieces), len(pieces), round(first, 4), round(time.perf_counter() - started, 4)))
        else:
            self.fresh = False
            yield self._kept[key].text
        self.last = self._kept[key]

    def _keep(self, key: str, said: Said) -> None:
        self._kept[key] = said
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps([key, *said], ensure_ascii=True) + "\n")

    def candidates(self, messages: Sequence[Message], adapter: str, sampling: Sampling, n: int) -> list[str]:
        """n kept answers, or the engine's, kept together."""
        key = hashlib.sha256(json.dumps([list(messages), adapter, asdict(sampling), n], sort_keys=True).encode()).hexdigest()
        if key not in self._kept:
            started = time.perf_counter()
            found = self._engine.candidates(messages, adapter, sampling, n)
            self._keep(key, Said(json.dumps(found), n, 0.0, round(time.perf_counter() - started, 4)))
        return list(json.loads(self._kept[key].text))

    def load(self, adapter: str, source: str | Path) -> None:
        """Load one more adapter into the engine. Kept answers know adapters by name only."""
        self._engine.load(adapter, source)


def fingerprint(model: str) -> str:
    """16 hexadecimal digits for a model's weights: the safetensors in its folder, or its name where it is a hub id."""
    folder = WEIGHTS if model == "embedded" else Path(model)
    digest = hashlib.sha256(b"" if folder.is_dir() else model.encode())
    for path in sorted(folder.rglob("*.safetensors")) if folder.is_dir() else ():
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


@contextmanager
def unseen_index(aided: bool = True) -> Iterator[None]:
    """Let `retrieve` search an index without the wordings that evaluation asks, or find nothing (aided=False), as long as this lasts."""
    indexes = {kind: retrieve.build(found if aided else ()) for kind, found in notes.sources(-build.EVAL_ASKS).items()}
    usual = retrieve.load
    retrieve.load = indexes.__getitem__  # type: ignore[assignment]  # the same call, less a path that nobody passes
    try:
        yield
    finally:
        retrieve.load = usual


def sample(found: Iterable[Row], part: str, limit: int, seed: int) -> list[Row]:
    """Up to `limit` rows of a slice, in random order; a smaller sample is the beginning of a larger one."""
    drawn = [row for row in found if row["slice"] == part]
    random.Random(f"{seed}/{part}").shuffle(drawn)
    return drawn[:limit]


def request_of(row: Row, adapter: str) -> Request:
    """A row's question as a surface would ask it, for a given adapter; with the frames where their schema is in the prompt."""
    *history, last = row["messages"][1:-1]
    question, notebook, frames = last["content"], "", {}
    if question.startswith("Notebook:\n"):
        notebook, _, question = question.removeprefix("Notebook:\n").partition("\n\n")
        frames = check.make_frames(rows.behind(row["check"].get("frames", {}), rows.frames()))
    return Request(question, adapter=adapter, notebook=notebook, history=tuple(history), frames=tuple(frames.items()))


def answer(row: Row, engine: Remembered, adapter: str, mode: Mode) -> Answer:
    """Put one row to the engine. Every mode but greedy searches the index that `retrieve.load` gives: see `unseen_index`."""
    request, code = request_of(row, adapter), "test" in row["check"]
    if mode == "greedy":
        raw = "".join(engine.generate(row["messages"][:-1], adapter, Sampling()))
        return Answer(row, clean.clean(raw, "code" if code else "prose", request.text, final=True), engine.last)
    engine.fresh = True
    reply = ask(replace(request, verify=code and mode != "unverified", consent=True), engine, Sampling(seed=0))
    return Answer(row, reply.text, engine.last, reply.sources, reply.attempts, reply.seconds if engine.fresh else 0.0)


def share(hits: Sequence[bool], name: str) -> dict[str, Any]:
    """{name: percent, name_interval: [low, high]}, the Wilson score interval at 95 % (Wilson 1927)."""
    low, high = wilson(sum(hits), len(hits))
    return {name: round(100 * sum(hits) / max(1, len(hits)), 1), f"{name}_interval": [round(low, 1), round(high, 1)]}


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share, in percent; 0 to 100 when n is 0."""
    if not n:
        return 0.0, 100.0
    p, square = hits / n, z * z / n
    middle, half = p + square / 2, z * math.sqrt(p * (1 - p) / n + square / (4 * n))
    return 100 * max(0.0, (middle - half) / (1 + square)), 100 * min(1.0, (middle + half) / (1 + square))
