import threading

import pytest

from twofold.engines.later import Later
from twofold.engines.scripted import Scripted
from twofold.types import Sampling, TwofoldError


def test_opens_once_for_all_threads_and_only_when_needed() -> None:
    opened: list[str] = []

    def opener(model: str) -> Scripted:
        opened.append(model)
        return Scripted(lambda *_: "hello", name="real")

    engine = Later("small", opener)
    assert (engine.name, engine.settled(), opened) == ("small", False, [])
    threads = [threading.Thread(target=engine.open) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "".join(engine.generate([], "code", Sampling())) == "hello"
    assert (engine.name, engine.settled(), opened) == ("real", True, ["small"])


def test_a_failure_in_the_background_is_kept_and_the_next_call_tries_again() -> None:
    attempts = iter([TwofoldError("no weights: run make"), Scripted(lambda *_: "now")])

    def opener(_: str) -> Scripted:
        result = next(attempts)
        if isinstance(result, Exception):
            raise result
        return result

    engine = Later("small", opener)
    engine.start()
    assert engine.settled(10)
    assert str(engine.failure) == "no weights: run make"
    assert "base" in engine.adapters
    assert engine.failure is None


def test_the_callers_see_why_it_cannot_open() -> None:
    def opener(_: str) -> Scripted:
        raise TwofoldError("no such model")

    with pytest.raises(TwofoldError, match="no such model"):
        Later("none", opener).load("finance", "/tmp")
