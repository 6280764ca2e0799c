"""The seam to a language model: the Engine protocol and open_engine."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from twofold.types import Message, Sampling, TwofoldError

BASE = "base"


class Engine(Protocol):
    """A model with named adapters. The adapter is an argument of each call, never a state of the engine."""

    @property
    def name(self) -> str:
        """What answers, for people: "embedded", a hub id, a path."""
        ...

    @property
    def adapters(self) -> frozenset[str]:
        """Names that `generate` accepts; always holds "base"."""
        ...

    def generate(self, messages: Sequence[Message], adapter: str, sampling: Sampling) -> Iterator[str]:
        """Yield text as it comes, about one token a piece. Closing the iterator stops the computation within one token."""
        ...

    def candidates(self, messages: Sequence[Message], adapter: str, sampling: Sampling, n: int) -> list[str]:
        """Return n sampled answers, computed as one batch."""
        ...

    def load(self, adapter: str, source: str | Path) -> None:
        """Make one more adapter usable under a name, without a restart. Raises TwofoldError when the source does not fit."""
        ...


def require(adapter: str, adapters: frozenset[str]) -> None:
    """Raise TwofoldError when no adapter of that name is loaded."""
    if adapter not in adapters:
        raise TwofoldError(f"No adapter is named {adapter!r}; loaded are {', '.join(sorted(adapters))}.")


def require_new(adapter: str, adapters: frozenset[str]) -> None:
    """Raise TwofoldError when one more adapter cannot have that name."""
    if not adapter.isidentifier():
        raise TwofoldError(f"{adapter!r} cannot name an adapter: use letters, digits and underscores.")
    if adapter in adapters:
        raise TwofoldError(f"The name {adapter!r} is taken: choose another.")


def goes_to(model: str) -> str:
    """The address that prompts go to with a model; "" when they stay on this machine."""
    return model if model.startswith(("http://", "https://")) else ""


def open_engine(model: str = "embedded") -> Engine:
    """Open "embedded", "mistral-7b", a local folder, a hub id or the address of an OpenAI-compatible server.

    Raises TwofoldError with the remedy when that cannot be.
    """
    if goes_to(model):
        from twofold.engines.remote import open_remote

        return open_remote(model)
    from twofold.engines.local import open_local  # torch loads only when an engine is wanted

    return open_local(model)
