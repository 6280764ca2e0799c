import asyncio
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from twofold.engines.later import Later
from twofold.engines.scripted import Scripted
from twofold.types import Request, Route, TwofoldError

pytest.importorskip("gradio")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gradio's own, at import
    from twofold import app


@pytest.fixture(autouse=True)
def _router(monkeypatch: pytest.MonkeyPatch) -> None:
    def decide(request: Request) -> Route:
        if "soup" in request.text:
            return Route(None, "not about data science") if request.guard else Route("base", "guard is off")
        return Route(request.adapter or "theory", "asks for an explanation", recall=True)

    monkeypatch.setattr("twofold.assistant.decide", decide)


def ready(answer: Any) -> Later:
    engine = Later("small", lambda _: Scripted(answer))
    engine.open()
    return engine


def ask(
    engine: Later, text: str, turns: app.Turns = (), *, guard: bool = True, kept: int = 6, adapter: str = "auto"
) -> Iterator[tuple[Any, ...]]:
    return app.answer(engine, text, [], turns, "auto", guard, kept, adapter)


def test_the_chip_comes_before_the_answer_and_the_answer_becomes_history() -> None:
    steps = list(ask(ready(lambda *_: "A mean is a sum divided by a count."), "what is a mean"))
    assert "THEORY" in steps[1][3]
    assert steps[1][1][-1]["content"] == ""
    *_, (box, shown, turns, chip, status) = steps
    assert shown[-1]["content"] == "A mean is a sum divided by a count."
    assert turns == ({"role": "user", "content": "what is a mean"}, {"role": "assistant", "content": shown[-1]["content"]})
    assert "asks for an explanation" in chip
    assert " s" in status
    assert box["submit_btn"] is True
    assert steps[0][0]["stop_btn"] is True


def test_the_guard_answers_while_the_model_is_still_loading() -> None:
    engine = Later("slow", lambda _: pytest.fail("the guard needs no engine"))
    *_, (_, shown, _, chip, _) = ask(engine, "a soup recipe")
    assert "GUARDED" in chip
    assert shown[-1]["content"]


def test_a_question_waits_visibly_for_the_model() -> None:
    loaded = threading.Event()

    def opener(_: str) -> Scripted:
        loaded.wait(10)
        return Scripted(lambda *_: "At last.")

    engine = Later("slow", opener)
    assert "loading slow" in app.model_badge(engine)
    engine.start()
    answer = ask(engine, "what is a mean")
    next(answer)
    assert "THEORY" in next(answer)[3]
    assert "waiting for the model" in next(answer)[4]
    loaded.set()
    *_, (_, shown, _, _, _) = answer
    assert shown[-1]["content"] == "At last."
    assert "ready" in app.model_badge(engine)


def test_closing_stops_the_engine() -> None:
    stopped: list[bool] = []

    def endless(*_: object) -> Iterator[str]:
        try:
            while True:
                time.sleep(0.01)
                yield "more and more words "
        finally:
            stopped.append(True)

    answer = ask(ready(endless), "what is a mean")
    for _ in range(4):
        next(answer)
    answer.close()  # type: ignore[attr-defined]
    assert stopped == [True]


def test_memory_keeps_the_last_exchanges() -> None:
    seen: list[int] = []
    turns: app.Turns = tuple({"role": role, "content": f"{role} {i}"} for i in range(5) for role in ("user", "assistant"))  # type: ignore[misc]
    engine = ready(lambda messages, *_: seen.append(sum("assistant" in m["content"] for m in messages)) or "Yes.")
    for kept in (0, 1):
        list(ask(engine, "why", turns, kept=kept))
    assert seen[0] == 0
    assert seen[1] == 1


@pytest.mark.parametrize(
    ("text", "adapter", "message"),
    [(" ", "auto", "the question is empty"), ("x" * 30_000, "auto", "question too long"), ("what is a mean", "nobody", "unknown adapter")],
)
def test_errors_are_said_in_the_chat_and_not_remembered(text: str, adapter: str, message: str) -> None:
    *_, (box, shown, turns, chip, _) = ask(ready(lambda *_: "x"), text, adapter=adapter)
    assert "no answer" in chip
    assert message in shown[-1]["content"]
    assert turns == ()
    assert box["submit_btn"] is True


def test_a_crash_of_the_engine_leaves_the_page_alive() -> None:
    def crash(*_: object) -> str:
        raise RuntimeError("out of memory")

    *_, (box, shown, turns, _, _) = ask(ready(crash), "what is a mean")
    assert "out of memory" in shown[-1]["content"]
    assert (turns, box["submit_btn"]) == ((), True)


def test_an_adapter_is_loaded_by_name_and_chosen() -> None:
    engine = ready(lambda *_: "x")
    note, choice = app.load_adapter(engine, " finance ", "some/finance")
    assert "finance is loaded" in note
    assert (choice["value"], choice["choices"][0]) == ("finance", "auto")
    assert "folder" in app.load_adapter(engine, "", "")[0]
    assert "taken" in app.load_adapter(engine, "code", "some/x")[0]


def test_words_from_outside_are_escaped() -> None:
    assert "<script>" not in app.chip_html("<script>", "<script>")
    failed = Later("x")
    failed.failure = TwofoldError("<script>")
    failed._settled.set()
    assert "<script>" not in app.model_badge(failed)


@pytest.mark.parametrize(
    ("host", "open_to_others"), [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("box", True)]
)
def test_an_open_host_needs_auth(host: str, open_to_others: bool) -> None:
    assert app.is_loopback(host) is not open_to_others
    if open_to_others:
        with pytest.raises(TwofoldError, match="TWOFOLD_AUTH"):
            app.serve(host=host)


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(TwofoldError, match="--port"):
            app.serve(port=taken.getsockname()[1])


def test_build_lays_out_a_page_without_warnings() -> None:
    async def build() -> Any:
        return app.build(ready(lambda *_: "x"))

    page = asyncio.run(build())  # in a running loop gradio makes none of its own, which it would never close
    assert page.title == "Data Science Notebook Assistant"
    assert page.analytics_enabled is False
