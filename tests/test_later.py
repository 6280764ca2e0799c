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


def test_waiting_is_told_and_an_interrupt_ends_the_waiting_alone() -> None:
    gate, opened, told = threading.Event(), list[str](), list[float]()

    def opener(model: str) -> Scripted:
        gate.wait(10)
        opened.append(model)
        return Scripted(lambda *_: "hello")

    def interrupt(seconds: float) -> None:
        told.append(seconds)
        raise KeyboardInterrupt

    engine = Later("small", opener)
    engine.waiting = interrupt
    with pytest.raises(KeyboardInterrupt):
        engine.open()
    engine.waiting = told.append
    gate.set()
    assert "".join(engine.generate([], "code", Sampling())) == "hello"
    assert opened == ["small"]
    assert told


def test_a_failed_opening_behind_is_raised_and_tried_again() -> None:
    attempts = iter([TwofoldError("no weights: run make"), Scripted(lambda *_: "now")])

    def opener(_: str) -> Scripted:
        result = next(attempts)
        if isinstance(result, Exception):
            raise result
        return result

    engine = Later("small", opener)
    engine.waiting = lambda _: None
    with pytest.raises(TwofoldError, match="no weights"):
        engine.open()
    assert "base" in engine.adapters
