"""An engine made from a plain function, so that tests need neither a model nor a mocking library."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from twofold.engines import BASE, require, require_new
from twofold.types import Message, Sampling

Answer = Callable[[Sequence[Message], str, Sampling], str | Iterable[str]]


class Scripted:
    """An Engine that answers with `answer(messages, adapter, sampling)`: a whole text, streamed by words, or the pieces themselves.

    `candidates` calls `answer` n times with seeds counted up from `sampling.seed` (None counts as 0), so that answers may vary.
    """

    def __init__(self, answer: Answer, adapters: Iterable[str] = ("code", "theory"), name: str = "scripted") -> None:
        """Keep the function; "base" is always among the adapters."""
        self.name = name
        self.adapters = frozenset({BASE, *adapters})
        self._answer = answer

    def generate(self, messages: Sequence[Message], adapter: str, sampling: Sampling) -> Iterator[str]:
        """Yield the answer piece by piece. Raises TwofoldError at once for an unknown adapter."""
        require(adapter, self.adapters)
        return self._pieces(messages, adapter, sampling)

    def _pieces(self, messages: Sequence[Message], adapter: str, sampling: Sampling) -> Iterator[str]:
        answer = self._answer(messages, adapter, sampling)
        yield from re.findall(r"\S+\s*|\s+", answer) if isinstance(answer, str) else answer

    def candidates(self, messages: Sequence[Message], adapter: str, sampling: Sampling, n: int) -> list[str]:
        """Return n answers, one call of the function each."""
        first = sampling.seed or 0
        return ["".join(self.generate(messages, adapter, replace(sampling, seed=first + i))) for i in range(n)]

    def load(self, adapter: str, source: str | Path) -> None:  # noqa: ARG002 - the protocol names a source; a script needs none
        """Accept one more name. Raises TwofoldError when the name cannot be used."""
        require_new(adapter, self.adapters)
        self.adapters |= {adapter}
