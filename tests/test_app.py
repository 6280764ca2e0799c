import asyncio
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from twofold import listen
from twofold.draw import short
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
    assert listen.is_loopback(host) is not open_to_others
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


@pytest.fixture
def _code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twofold.assistant.decide", lambda _: Route("code", "asks for code"))


@pytest.fixture
def frame(tmp_path: Path) -> Any:
    path = tmp_path / "sales.csv"
    path.write_text("region,price\nNorth,10\nSouth,20\nNorth,\n")
    loaded, row, about = app.load_data(str(path))
    assert (row["visible"], about) == (True, "<b>df</b> 3 rows × 2 columns: <code>region</code>, <code>price</code>")
    return loaded


def proved(code: str, frame: Any) -> list[tuple[Any, ...]]:
    engine = ready(lambda *_: f"```python\n{code}\n```")
    return list(app.answer(engine, "price by region", [], (), "auto", True, 6, "auto", True, frame))


@pytest.mark.usefixtures("_code")
def test_verified_answers_carry_their_steps_plot_and_seconds(frame: Any) -> None:
    steps = proved("df['prise'].plot(title='Prices')", frame)
    assert any("verifying" in status for *_, status in steps)
    *_, (_, shown, turns, _, _) = steps
    drawn = shown[-1]["content"].value
    assert shown[-2]["content"] == "```python\ndf['price'].plot(title='Prices')\n```"
    assert turns[-1]["content"] == shown[-2]["content"]
    assert drawn.count("class='passed'") == 5
    assert "Repaired: column &#x27;prise&#x27;" in drawn
    assert "src='data:image/png;base64," in drawn
    assert "ran on your data in" in drawn


@pytest.mark.usefixtures("_code")
def test_a_failed_rung_tells_its_reason_and_line(frame: Any) -> None:
    *_, (_, shown, _, _, _) = proved("df['<script>'].sum()", frame)
    drawn = shown[-1]["content"].value
    assert "class='failed'" in drawn
    assert drawn.count("class='open'") == 3
    assert "<script>" not in drawn
    assert "<pre class='line'><b>1</b>" in drawn


@pytest.mark.usefixtures("_code")
def test_results_are_text_or_a_table(frame: Any) -> None:
    *_, (_, shown, _, _, _) = proved("out = df.groupby('region').sum()\nout", frame)
    assert "<caption>out: 2 × 1</caption>" in shown[-1]["content"].value
    *_, (_, shown, _, _, _) = proved("print('<b>')\ndf['price'].sum() / 7", frame)
    assert "&lt;b&gt;" in shown[-1]["content"].value
    assert "4.28" in shown[-1]["content"].value
    assert (short("391.40393939"), short("1.5"), short("v1.2.3.4.5")) == ("391.404", "1.5", "v1.2.3.4.5")


def test_explanations_have_no_steps(frame: Any) -> None:
    engine = ready(lambda *_: "A mean is a sum divided by a count.")
    *_, (_, shown, _, _, _) = app.answer(engine, "what is a mean", [], (), "auto", True, 6, "auto", True, frame)
    assert shown[-1]["content"] == "A mean is a sum divided by a count."


@pytest.mark.parametrize(("level", "on"), [("strong", True), ("medium", False), ("weak", False)])
def test_the_switch_is_on_where_the_sandbox_is_strong(level: str, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twofold.sandbox.level", lambda: level)
    switch = app.level_of_sandbox()
    assert (switch["value"], switch["label"]) == (on, f"Verify ({level})")
    assert app.warn(True)["visible"] is not on
    assert app.warn(False)["visible"] is False


def test_a_file_that_is_no_table_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"<script>")
    loaded, row, about = app.load_data(str(tmp_path / "bad.parquet"))
    assert (loaded, row["visible"]) == (None, True)
    assert "cannot read bad.parquet" in about
    assert "<script>" not in about


def test_the_page_says_where_questions_go() -> None:
    assert app.stays("embedded") == "It stays on this machine."
    assert app.stays("http://box:8000/v1") == "Questions go to http://box:8000/v1."
