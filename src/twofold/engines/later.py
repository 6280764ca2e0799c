"""Later: an engine that opens when something first needs it, so that a declined question never loads a model."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread

from twofold.engines import Engine, open_engine
from twofold.types import Message, Sampling


class Later:
    """An Engine that opens at the first call that needs it, or in the background after `start`; one opening serves all threads.

    An opening that failed is tried again by the next call, because the remedy may have been applied meanwhile.
    """

    def __init__(self, model: str = "embedded", opener: Callable[[str], Engine] | None = None) -> None:
        """Remember what to open, and how if not with `open_engine`; nothing is loaded here."""
        self.model = model
        self.failure: Exception | None = None
        """Why the last opening failed; None while none has."""
        self.waiting: Callable[[float], None] | None = None
        """Called ten times a second, with the seconds so far, while a call waits for the opening; with it, the opening runs in the
        background, and Ctrl-C ends the waiting and not the imports."""
        self._thread: Thread | None = None
        self._opener = opener or open_engine
        self._engine: Engine | None = None
        self._lock = Lock()
        self._settled = Event()

    def open(self) -> Engine:
        """Return the engine itself, opening it if nobody has: in this thread, or in the background where `waiting` is set."""
        if self.waiting is None or self._engine is not None:
            return self._open()
        started = time.monotonic()
        if self._thread is None or not self._thread.is_alive():
            self.failure = None
            self.start()
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.1)
            self.waiting(time.monotonic() - started)
        if self.failure is not None:
            raise self.failure
        return self._open()

    def _open(self) -> Engine:
        with self._lock:
            if self._engine is None:
                try:
                    self._engine, self.failure = self._opener(self.model), None
                except Exception as error:
                    self.failure = error
                    raise
                finally:
                    self._settled.set()
            return self._engine

    def start(self) -> None:
        """Open in a background thread; `settled` and `failure` say how that went."""

        def attempt() -> None:
            with suppress(Exception):  # kept in self.failure, and raised again for whoever asks next
                self._open()

        self._thread = Thread(target=attempt, name="open-engine", daemon=True)
        self._thread.start()

    def settled(self, timeout: float = 0.0) -> bool:
        """Wait at most `timeout` seconds; True once an opening has succeeded or failed."""
        return self._settled.wait(timeout)

    @property
    def name(self) -> str:
        """The engine's name, or what will be opened."""
        return self._engine.name if self._engine else self.model

    @property
    def adapters(self) -> frozenset[str]:
        """The engine's adapters; opens it."""
        return self.open().adapters

    def generate(self, messages: Sequence[Message], adapter: str, sampling: Sampling) -> Iterator[str]:
        """Stream from the engine; opens it."""
        return self.open().generate(messages, adapter, sampling)

    def candidates(self, messages: Sequence[Message], adapter: str, sampling: Sampling, n: int) -> list[str]:
        """Return n sampled answers from the engine; opens it."""
        return self.open().candidates(messages, adapter, sampling, n)

    def load(self, adapter: str, source: str | Path) -> None:
        """Load one more adapter; opens the engine."""
        self.open().load(adapter, source)

    def weights(self, adapter: str) -> Mapping[str, str]:
        """SHA-256 of each file that speaks for an adapter, empty where the engine cannot tell; opens it."""
        tell = getattr(self.open(), "weights", None)
        return tell(adapter) if tell else {}
