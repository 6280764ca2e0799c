"""The values that travel: Message, Request, Sampling, Route, Note, Run, Reply."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict


class TwofoldError(Exception):
    """An expected failure. Its text is one line for the user and names the remedy."""


class Message(TypedDict):
    """One turn, in the form that JSONL rows, chat templates and OpenAI clients share."""

    role: Literal["system", "user", "assistant"]
    content: str


Mode = Literal["auto", "code", "explain"]
MODES: tuple[Mode, ...] = ("auto", "code", "explain")
Share = Literal["nothing", "schema", "levels", "values"]
SHARES: tuple[Share, ...] = ("nothing", "schema", "levels", "values")
"""How much of the user's data a prompt may tell, least first; see docs/notebook.md."""
RUNGS = ("parses", "names resolve", "runs on a twin", "checks pass", "ran on your data")
"""What can be proved about code, lowest first; see docs/verification.md."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question, with all that its answer may depend on."""

    text: str
    mode: Mode = "auto"
    """What kind of answer is wanted; "auto" lets the router decide."""
    adapter: str | None = None
    """A loaded adapter's name that must speak, whatever the router thinks."""
    guard: bool = True
    """Decline what is not data science; off, BASE answers it."""
    verify: bool = False
    """Run code before it is shown as proved, where the sandbox is strong or `consent` is given."""
    history: tuple[Message, ...] = ()
    """Earlier turns, oldest first. The surface owns them."""
    notebook: str = ""
    """Schema of the user's frames and variables, already rendered as text."""
    frames: tuple[tuple[str, Any], ...] = ()
    """(name, DataFrame) pairs that verification may copy."""
    n: int = 8
    """How many more answers verification may ask for at once when the first fails; 0 for none, and then no repair turn either."""
    consent: bool = False
    """The user asked for runs even where the sandbox is below "strong"."""
    share: Share = "schema"
    """How much of the data a prompt may tell: below "values" an error is shown to the model without what it quotes of the data."""
    setup: tuple[tuple[str, str], ...] = ()
    """(name, statement) pairs that bind variables of the notebook in a run: imports, plain values, what a frame of `frames` really is."""
    bound: frozenset[str] = frozenset()
    """Variables of the notebook that a run cannot have, such as models and functions; code that reads one is not run."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. temperature 0 is greedy and ignores top_p and seed."""

    max_new_tokens: int = 400
    temperature: float = 0.0
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    """Divides the score of tokens already generated (CTRL, arXiv 1909.05858); 1.0 is off."""
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a question goes, and why."""

    adapter: str | None
    """"code", "theory", "base" or another loaded adapter's name; None = declined."""
    why: str
    """What decided, in words for the user."""
    recall: bool = False
    """True when the question refers back to earlier turns."""
    language: str = "en"
    """ISO 639-1 code of the question."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Probabilities in 0-1: topic, code, recall."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something known that may help with the question: a solved example (CODE) or a concept card (THEORY)."""

    kind: Literal["example", "card"]
    title: str
    """The example's question, or the concept's name."""
    text: str
    """The example's code without a fence, or the card's prose."""
    source: str = ""
    """Id of the intent or card."""


@dataclass(frozen=True, slots=True)
class Run:
    """What was seen when code ran."""

    ok: bool
    stdout: str = ""
    error: str = ""
    plots: tuple[bytes, ...] = ()
    seconds: float = 0.0
    level: str = "none"


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer, or a snapshot of it while it grows. The last snapshot has done=True."""

    text: str
    route: Route
    adapter: str | None = None
    """The adapter that REALLY spoke; None when the engine was not touched."""
    code: str = ""
    """The Python of the answer's code block, without its fence."""
    run: Run | None = None
    proof: tuple[str, ...] = ()
    """What was proved about the code, rung by rung."""
    attempts: int = 0
    """How many answers the engine was asked for."""
    seconds: float = 0.0
    """From the question to this snapshot."""
    tokens: int = 0
    """Pieces that the engine has yielded so far."""
    done: bool = False
    sources: tuple[str, ...] = ()
    """Ids of the examples or cards that the prompt held."""
    failed: str = ""
    """The rung of RUNGS that the code failed; "" when none did."""
    reason: str = ""
    """Why that rung failed, in a line; with none failed, why the ladder ended below its top."""
    line: int = 0
    """The line of `code` where it fails; 0 when none is known."""
    repairs: tuple[str, ...] = ()
    """What verification repaired in the code, in words."""
    step: str = ""
    """What is being done now, for people: "verifying"; "" when done or while the answer streams."""
    changes: tuple[str, ...] = ()
    """What the code does to the frames it was given, in words, one frame each: rows, columns, dtypes. Seen on copies or twins."""
    wrong: str = ""
    """Of a corrected cell: what was wrong with it, in a line."""

    @property
    def chip(self) -> str:
        """ "GUARDED", or the name of the adapter that spoke in capitals; derived, so it cannot lie."""
        return "GUARDED" if self.route.adapter is None else (self.adapter or self.route.adapter).upper()
