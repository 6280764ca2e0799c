"""`twofold serve` over a real socket: OpenAI's forms, several answers, stops, keys, errors, and clients that go away."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import pytest

from conftest import serving
from twofold import cli, server
from twofold.engines.scripted import Scripted
from twofold.types import Message, Request, Route, Sampling, TwofoldError

MESSAGES = [{"role": "user", "content": "what is a mean"}]
HELD = threading.Event()  # set once an endless answer was closed


def say(messages: Sequence[Message], adapter: str, sampling: Sampling) -> Any:
    """What the scripted engine says: who it is, what it was asked, and how."""
    text = messages[-1]["content"]
    if text == "endless":
        return endless()
    if text == "fail late":
        return failing()
    if text == "fail":
        raise TwofoldError("the question is too long: shorten it")
    if text == "crash":
        raise RuntimeError("boom")
    if text == "count":
        return [f"{number} " for number in range(sampling.max_new_tokens)]
    return f"{adapter} {sampling.seed} {sampling.temperature:g}: {text}"


def endless() -> Iterator[str]:
    try:
        while True:
            yield "word "
            time.sleep(0.005)
    finally:
        HELD.set()


def failing() -> Iterator[str]:
    yield "so far "
    raise TwofoldError("the model went away: ask again")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    engine = Scripted(say)
    engine.count = lambda text: len(text.split())  # type: ignore[attr-defined]
    with serving(engine) as address:
        yield address


def post(url: str, content: str = "hello", model: str = "code", **more: Any) -> httpx2.Response:
    body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
    return httpx2.post(f"{url}/chat/completions", json=body, timeout=10)


def streamed(response: httpx2.Response) -> list[Any]:
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def test_the_models_are_the_adapters_and_the_assistant(url: str) -> None:
    listed = httpx2.get(f"{url}/models").json()
    assert [(one["id"], one["parent"]) for one in listed["data"]] == [
        ("base", None),
        ("code", "base"),
        ("theory", "base"),
        ("twofold", None),
    ]
    assert httpx2.get(url.replace("/v1", "/health")).json() == {"status": "ok", "model": "scripted"}


def test_an_answer_in_one_piece(url: str) -> None:
    answer = post(url, "plot x", seed=3, temperature=0.5, model="theory").json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [{"index": 0, "message": {"role": "assistant", "content": "theory 3 0.5: plot x"}, "finish_reason": "stop"}]
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}


def test_an_answer_as_it_comes(url: str) -> None:
    response = post(url, "plot x", stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, usage = streamed(response)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert len([text for text in texts if text]) == 5  # the scripted engine's words, none held back
    assert "".join(texts) == "code None 0: plot x"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert usage["usage"]["completion_tokens"] == 5


def test_several_answers_are_one_batch(url: str) -> None:
    whole = post(url, "x", n=3, seed=4, temperature=1).json()
    assert [one["message"]["content"] for one in whole["choices"]] == ["code 4 1: x", "code 5 1: x", "code 6 1: x"]
    parts = streamed(post(url, "x", n=3, seed=4, temperature=1, stream=True))
    told = {(one["index"], one["delta"].get("content")) for part in parts for one in part["choices"] if one["delta"].get("content")}
    assert told == {(0, "code 4 1: x"), (1, "code 5 1: x"), (2, "code 6 1: x")}


@pytest.mark.parametrize("stream", [False, True])
def test_length_and_stops_end_an_answer(url: str, stream: bool) -> None:
    def said(**more: Any) -> tuple[str, str]:
        response = post(url, "count", stream=stream, **more)
        if not stream:
            choice = response.json()["choices"][0]
            return choice["message"]["content"], choice["finish_reason"]
        choices = [chunk["choices"][0] for chunk in streamed(response)]
        return "".join(one["delta"].get("content", "") for one in choices), choices[-1]["finish_reason"]

    assert said(max_tokens=3) == ("0 1 2 ", "length")
    assert said(max_completion_tokens=2) == ("0 1 ", "length")
    assert said(max_tokens=9, stop="3 4 5") == ("0 1 2 ", "stop")  # over three pieces
    assert said(max_tokens=4, stop=["3 x", "3 y"]) == ("0 1 2 3 ", "length")  # held back, then sent


def test_a_stop_is_cut_wherever_it_falls() -> None:
    for size in range(1, 8):
        text, sent, held, hit = "one STOP two", "", "", False
        for at in range(0, len(text), size):
            ready, held, hit = server.cut(held + text[at : at + size], ("STOP", "STOOP"))
            sent += ready
            if hit:
                break
        assert (sent, hit) == ("one ", True)


def test_twofold_routes_guards_and_says_who_spoke(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Request] = []

    def decide(request: Request) -> Route:
        seen.append(request)
        return Route(None, "not about data science") if "soup" in request.text else Route("theory", "asks for an explanation")

    monkeypatch.setattr("twofold.assistant.decide", decide)
    monkeypatch.setattr("twofold.retrieve.nearest", lambda *_, **__: ())
    talk = [{"role": "system", "content": "Be brief."}, *MESSAGES, {"role": "assistant", "content": "A sum."}, *MESSAGES]
    answer = post(url, model="twofold", messages=talk).json()
    assert answer["choices"][0]["message"]["content"].startswith("theory None 0: ")
    assert answer["twofold"] == {"chip": "THEORY", "why": "asks for an explanation", "sources": []}
    assert [message["content"] for message in seen[0].history] == ["what is a mean", "A sum."]
    parts = streamed(post(url, "a soup recipe", model="twofold", stream=True))
    assert "data science" in "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
    assert parts[-1]["twofold"]["chip"] == "GUARDED"


@pytest.mark.parametrize(
    ("more", "status", "param"),
    [
        ({"model": "gpt"}, 404, "model"),
        ({"model": None}, 400, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"temperature": float("1e9")}, 400, "temperature"),
        ({"n": 0}, 400, "n"),
        ({"n": 2, "model": "twofold"}, 400, "n"),
        ({"max_tokens": True}, 400, "max_tokens"),
        ({"seed": 1.5}, 400, "seed"),
        ({"stop": ["a"] * 5}, 400, "stop"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"messages": [{"role": "user", "content": "fail"}]}, 400, None),
        ({"messages": [{"role": "user", "content": "fail"}], "stream": True}, 400, None),
    ],
)
def test_errors_are_openais(url: str, more: dict[str, Any], status: int, param: str | None) -> None:
    response = post(url, **more)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert "\n" not in error["message"]


def test_other_errors_too(url: str) -> None:
    assert httpx2.get(f"{url}/embeddings").json()["error"]["message"].startswith("Not Found: there are /v1/models")
    assert httpx2.get(f"{url}/chat/completions").status_code == 405
    assert httpx2.post(f"{url}/chat/completions", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert httpx2.post(f"{url}/chat/completions", content=b"{}").status_code == 415
    parts = post(url, "fail late", stream=True).text
    assert "so far" in parts
    assert '"the model went away: ask again"' in parts
    assert "[DONE]" not in parts


@pytest.mark.filterwarnings("ignore")
def test_a_crash_is_an_error_of_the_server_and_not_its_end(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("CRITICAL", "uvicorn.error"):
        response = post(url, "crash")
    assert response.status_code == 500
    assert response.json()["error"] == {"message": "the answer failed: boom", "type": "server_error", "param": None, "code": None}
    assert post(url, "x").status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_its_answer(url: str, stream: bool) -> None:
    HELD.clear()
    body = {"model": "code", "messages": [{"role": "user", "content": "endless"}], "stream": stream, "max_tokens": 1 << 20}
    if stream:
        with httpx2.stream("POST", f"{url}/chat/completions", json=body) as response:
            assert "word" in next(text for text in response.iter_text() if "word" in text)
    else:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{url}/chat/completions", json=body, timeout=0.2)
    assert HELD.wait(5)


def test_requests_run_at_once(url: str) -> None:
    """Two endless answers, and a third request that is answered meanwhile."""
    body = {"model": "code", "messages": [{"role": "user", "content": "endless"}], "stream": True, "max_tokens": 1 << 20}
    with (
        httpx2.stream("POST", f"{url}/chat/completions", json=body) as one,
        httpx2.stream("POST", f"{url}/chat/completions", json=body) as two,
    ):
        first, second = one.iter_text(), two.iter_text()
        for _ in range(5):
            assert next(first)
            assert next(second)
        assert post(url, "x").json()["choices"][0]["message"]["content"] == "code None 0: x"


def test_a_key_is_asked_for_where_one_is_set() -> None:
    with serving(Scripted(say), key="s3cret") as url:
        for headers in ({}, {"Authorization": "Bearer other"}):
            response = httpx2.get(f"{url}/models", headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
            assert httpx2.post(f"{url}/chat/completions", json={}, headers=headers).status_code == 401
        assert httpx2.get(f"{url}/models", headers={"Authorization": "Bearer s3cret"}).status_code == 200


def test_an_open_host_needs_a_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TWOFOLD_API_KEY", raising=False)
    assert cli.main(["serve", "--host", "0.0.0.0"]) == 2
    assert "TWOFOLD_API_KEY" in capsys.readouterr().err


def test_serve_opens_the_model_and_listens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[dict[str, Any]] = []
    monkeypatch.setattr(server, "open_engine", lambda model: Scripted(say, name=model))
    monkeypatch.setattr(server.uvicorn, "run", lambda _, **how: ran.append(how))
    assert cli.main(["serve", "--model", "small", "--port", "8123"]) == 0
    assert "http://127.0.0.1:8123/v1" in capsys.readouterr().out
    assert (ran[0]["host"], ran[0]["port"]) == ("127.0.0.1", 8123)
