"""The remote engine against real servers on real sockets: our own `twofold serve`, and one that fails in every way."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from conftest import serving
from twofold import cli, doctor
from twofold.engines import Engine, goes_to, open_engine, remote
from twofold.engines.local import open_local
from twofold.engines.remote import Remote, choose, key_for, open_remote
from twofold.engines.scripted import Scripted
from twofold.types import Message, Sampling, TwofoldError

ASK: list[Message] = [{"role": "system", "content": "Help."}, {"role": "user", "content": "How do I compute a mean?"}]
WARM = Sampling(temperature=0.8, seed=5)


def asked(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


@contextmanager
def opened(url: str) -> Iterator[Remote]:
    with closing(open_remote(url)) as engine:
        yield engine


def one_line(caught: pytest.ExceptionInfo[TwofoldError], *words: str) -> None:
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


# --- against our own server


def test_it_is_an_engine_whose_adapters_are_the_servers_models() -> None:
    script = Scripted(lambda messages, adapter, sampling: f"{adapter} {sampling.seed} {sampling.max_new_tokens}: {messages[-1]['content']}")
    with serving(script) as url, closing(open_engine(url)) as engine:  # type: ignore[type-var]
        same: Engine = engine
        assert (same.name, same.adapters) == (url, {"base", "code", "theory"})
        pieces = list(same.generate(ASK, "code", Sampling(seed=3, max_new_tokens=40)))
        assert "".join(pieces) == "code 3 40: How do I compute a mean?"
        assert len(pieces) == 9  # as the server said it, piece by piece
        assert "".join(same.generate(ASK, "base", Sampling())).startswith("base None 400")
        with pytest.raises(TwofoldError, match="sql"):
            same.generate(ASK, "sql", Sampling())


def test_candidates_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    script, asked_for = Scripted(lambda _, adapter, sampling: f"{adapter} {sampling.seed}"), list[int]()
    batch = script.candidates
    monkeypatch.setattr(script, "candidates", lambda *call: (asked_for.append(call[-1]), batch(*call))[1])
    with serving(script) as url, opened(url) as engine:
        assert engine.candidates(ASK, "theory", WARM, 3) == ["theory 5", "theory 6", "theory 7"]
        assert engine.candidates(ASK, "code", Sampling(), 2) == ["code None"] * 2  # greedy: one request, no batch
    assert asked_for == [3]


TRICKY = [
    "{price} {{x}} {0} %s %(a)s ${y} $(z) `w`",
    "C:\\new\\table \\frac{1}{2} \\u0041 \\",
    "say \"no\" or 'yes' </s> [INST] x [/INST] <script>",
    "größer 漢字 हिन्दी 🐼 e\u0301 \u200b \u2028 \u2029 \x85 \ufeff",
    "line\n\n\ttab\r\n  end  ",
    'data: [DONE]\n\ndata: {"choices": []}',
]


def test_texts_arrive_unchanged_both_ways() -> None:
    heard: list[str] = []
    script = Scripted(lambda messages, *_: (heard.append(messages[-1]["content"]), [messages[-1]["content"]] * 2)[1])
    with serving(script) as url, opened(url) as engine:
        for text in TRICKY:
            assert "".join(engine.generate(asked(text), "code", Sampling())) == text * 2
    assert heard == TRICKY


def test_requests_at_once_speak_with_their_own_adapters() -> None:
    gate = threading.Barrier(6, timeout=10)

    def answer(messages: Sequence[Message], adapter: str, _: Sampling) -> Iterator[str]:
        for number in range(5):
            if not number:
                gate.wait()  # all six are being answered at this moment
            yield f"{adapter}{messages[-1]['content']} "

    with serving(Scripted(answer)) as url, opened(url) as engine, ThreadPoolExecutor(6) as pool:
        jobs = [(adapter, str(number)) for adapter in ("code", "theory", "base") for number in (1, 2)]
        said = pool.map(lambda job: "".join(engine.generate(asked(job[1]), job[0], Sampling())), jobs)
        assert list(said) == [f"{adapter}{number} " * 5 for adapter, number in jobs]


def test_closing_the_iterator_stops_the_server() -> None:
    ended = threading.Event()

    def endless(*_: object) -> Iterator[str]:
        try:
            while True:
                yield "word "
                time.sleep(0.005)
        finally:
            ended.set()

    with serving(Scripted(endless)) as url, opened(url) as engine:
        pieces = engine.generate(ASK, "code", Sampling(max_new_tokens=1 << 20))
        assert next(pieces) == "word "
        assert not ended.is_set()
        pieces.close()  # type: ignore[attr-defined]
        assert ended.wait(5)


def test_a_server_may_stand_in_front_of_a_server() -> None:
    script = Scripted(lambda messages, adapter, sampling: f"{adapter} {sampling.seed}: {messages[-1]['content']}")
    with serving(script) as inner, opened(inner) as near, serving(near) as outer, opened(outer) as far:
        assert far.adapters == near.adapters == script.adapters
        assert list(far.generate(ASK, "theory", WARM)) == list(script.generate(ASK, "theory", WARM))
        assert far.candidates(ASK, "code", WARM, 2) == script.candidates(ASK, "code", WARM, 2)


def test_the_embedded_model_says_the_same_from_afar(tiny_folder: Path) -> None:
    local = open_local(str(tiny_folder))
    with serving(local) as url, opened(url) as engine:
        assert engine.adapters >= {"base", "code", "theory"}
        short = Sampling(max_new_tokens=12)
        for adapter in ("base", "code", "theory"):
            assert list(engine.generate(ASK, adapter, short)) == list(local.generate(ASK, adapter, short))
        warm = Sampling(max_new_tokens=12, temperature=1.5, top_p=0.9, repetition_penalty=1.3, seed=7)
        assert "".join(engine.generate(ASK, "base", warm)) == "".join(local.generate(ASK, "base", warm))
        assert engine.candidates(ASK, "base", warm, 3) == local.candidates(ASK, "base", warm, 3)


def test_the_key_is_sent_and_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWOFOLD_API_KEY", raising=False)
    with serving(Scripted(lambda *_: "yes"), key="s3cret") as url:
        with pytest.raises(TwofoldError) as caught:
            open_remote(url)
        one_line(caught, "401", "TWOFOLD_API_KEY")
        monkeypatch.setenv("TWOFOLD_API_KEY", "s3cret")
        with opened(url) as engine:
            assert "".join(engine.generate(ASK, "code", Sampling())) == "yes"


def test_openais_key_goes_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWOFOLD_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    assert [key_for(host) for host in ("api.openai.com", "localhost", "notopenai.com", "openai.com.evil.example")] == ["sk-1", "", "", ""]
    monkeypatch.setenv("TWOFOLD_API_KEY", "mine")
    assert key_for("localhost") == key_for("api.openai.com") == "mine"


# --- which model speaks for which adapter


def listed(*models: str | tuple[str, str]) -> list[dict[str, Any]]:
    return [{"id": model, "parent": None} if isinstance(model, str) else {"id": model[0], "parent": model[1]} for model in models]


@pytest.mark.parametrize(
    ("models", "chosen", "expected"),
    [
        (listed("mistral"), "", {"base": "mistral"}),
        (listed("starcoder-code"), "", {"base": "starcoder-code"}),  # alone, it is the one that speaks
        (listed("m", ("code", "m"), ("theory", "m")), "", {"base": "m", "code": "code", "theory": "theory"}),
        (listed("m", ("ds-Code", "m"), ("finance", "m")), "", {"base": "m", "code": "ds-Code", "finance": "finance"}),
        ([{"id": "m"}, {"id": "a/code"}, {"id": "a/theory"}], "", {"base": "m", "code": "a/code", "theory": "a/theory"}),
        (listed("base", ("code", "base"), "twofold"), "", {"base": "base", "code": "code"}),
        (listed("a", "b", "vscode"), "b", {"base": "b"}),
        (listed("a-code", "b-code"), "b-code", {"base": "b-code", "code": "a-code"}),
    ],
)
def test_models_become_adapters(models: list[dict[str, Any]], chosen: str, expected: dict[str, str]) -> None:
    assert choose("http://s/v1", models, chosen) == expected


def test_a_choice_is_left_to_the_user() -> None:
    with pytest.raises(TwofoldError) as caught:
        choose("http://s/v1", listed(*"abcdefgh"))
    one_line(caught, "a, b, c, d, e, f and 2 more", "--model 'http://s/v1#a'")
    with pytest.raises(TwofoldError) as caught:
        choose("http://s/v1", listed("a"), "z")
    one_line(caught, "does not serve 'z'", "it has a")


def test_one_model_speaks_for_all_and_the_chip_says_base(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("twofold.retrieve.nearest", lambda *_, **__: ())
    plan = Plan([(200, models("one")), (200, stream("```python\nx = 1\n```"))])
    with failing(plan) as url:
        assert cli.main(["ask", "plot a histogram of price in df", "--model", url]) == 0
    out, err = capsys.readouterr()
    assert "x = 1" in out
    assert f"prompts go to {url}" in err
    assert "\nBASE · " in err
    assert plan.seen[1]["model"] == "one"


# --- against a server that fails


class Plan:
    """What a server says to one request after the other; the last is repeated. `seen`: the bodies it got."""

    def __init__(self, answers: Sequence[tuple[int, str | bytes | dict[str, Any]]]) -> None:
        self.answers, self.seen, self.headers = list(answers), list[Any](), dict[str, str]()

    def next(self) -> tuple[int, str | bytes | dict[str, Any]]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def failing(plan: Plan) -> Iterator[str]:
    """A plain HTTP server that says what the plan says. bytes: sent as they are, then the connection is cut."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            plan.seen.append(json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null"))
            status, said = plan.next()
            body = said if isinstance(said, bytes) else (json.dumps(said) if isinstance(said, dict) else said).encode()
            kind = "text/event-stream" if body.startswith(b"data:") else "application/json"
            self.send_response(status)
            for name, value in {"Content-Type": kind, **plan.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) + 99 * isinstance(said, bytes)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection |= isinstance(said, bytes)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def models(*names: str) -> dict[str, Any]:
    return {"data": [{"id": name} for name in names]}


def stream(*texts: str, finish: str | None = "stop", done: bool = True) -> str:
    events = [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    events += [{"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}]
    return "".join(f"data: {json.dumps(one)}\n\n" for one in events) + "data: [DONE]\n\n" * done


def error(message: str) -> dict[str, Any]:
    return {"error": {"message": message}}


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (401, error("bad key"), ("401", "bad key", "TWOFOLD_API_KEY")),
        (404, error("no such model"), ("does not serve", "'one'", "start twofold again")),
        (400, error("8,192 tokens\nat most"), ("400", "8,192 tokens at most", "shorten")),
        (422, {"detail": "wrong"}, ("422", "wrong")),
        (429, error("slow down"), ("429", "slow down", "wait")),
        (503, "overloaded", ("503", "log")),
        (302, "", ("moved", "use that address")),
        (200, stream("so ", finish=None, done=False), ("cut the answer off", "ask again")),
        (200, stream("so ", finish=None, done=False).encode(), ("cut the answer off", "ask again")),
        (200, f"data: {json.dumps(error('out of memory'))}\n\n", ("broke off", "out of memory")),
        (200, "data: {]\n\n", ("no chat completions",)),
        (200, {"choices": []}, ("no stream of events",)),
    ],
)
def test_each_failure_is_one_line_with_its_remedy(
    status: int, answer: str | bytes | dict[str, Any], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    with failing(Plan([(200, models("one")), (status, answer)])) as url, opened(url) as engine:
        with pytest.raises(TwofoldError) as caught:
            list(engine.generate(ASK, "base", Sampling()))
        one_line(caught, url, *words)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", slept.append)
    plan = Plan([(200, models("one")), (status, error("busy")), (status, error("busy")), (200, stream("at ", "last"))])
    plan.headers = {"Retry-After": "7"} if status == 429 else {}
    with failing(plan) as url, opened(url) as engine:
        assert list(engine.generate(ASK, "base", Sampling())) == ["at ", "last"]
    assert [one for one in slept if one != 0.01] == ([7.0, 7.0] if status == 429 else list(remote.WAITS))


def test_text_that_came_is_not_asked_for_again() -> None:
    plan = Plan([(200, models("one")), (200, stream("so far ", finish=None, done=False))])
    with failing(plan) as url, opened(url) as engine:
        pieces = engine.generate(ASK, "base", Sampling())
        assert next(pieces) == "so far "
        with pytest.raises(TwofoldError):
            next(pieces)
    assert len(plan.seen) == 2


@pytest.mark.parametrize(("status", "answer"), [(400, error("n is not supported")), (200, stream("alone"))])
def test_a_server_that_knows_no_n_is_asked_once_an_answer(status: int, answer: Any) -> None:
    plan = Plan([(200, models("one")), (status, answer), (200, stream("more"))])
    with failing(plan) as url, opened(url) as engine:
        said = engine.candidates(ASK, "base", WARM, 3)
        assert sorted(said) == (["more"] * 3 if status == 400 else ["alone", "more", "more"])
        seeds = sorted(body["seed"] for body in plan.seen[2:])
        assert seeds == ([5, 6, 7] if status == 400 else [6, 7])
        plan.seen.clear()
        engine.candidates(ASK, "base", WARM, 2)
        assert [body.get("n") for body in plan.seen] == [None, None]  # it is known now


def test_what_is_sent() -> None:
    plan = Plan([(200, models("one")), (200, stream("x"))])
    with failing(plan) as url, opened(url) as engine:
        list(engine.generate(ASK, "base", Sampling(max_new_tokens=9)))
        list(engine.generate(ASK, "base", Sampling(temperature=0.5, top_p=0.9, repetition_penalty=1.2, seed=1)))
    same = {"model": "one", "messages": ASK, "stream": True}
    assert plan.seen[1] == same | {"max_tokens": 9, "temperature": 0.0}
    assert plan.seen[2] == same | {"max_tokens": 400, "temperature": 0.5, "top_p": 0.9, "seed": 1, "repetition_penalty": 1.2}


def test_adapters_are_loaded_on_the_server() -> None:
    plan = Plan([(200, models("one")), (404, {"detail": "Not Found"}), (400, error("no such folder")), (200, "Success")])
    with failing(plan) as url, opened(url) as engine:
        with pytest.raises(TwofoldError) as caught:
            engine.load("finance", "/adapters/finance")
        one_line(caught, "--lora-modules finance=/adapters/finance", "VLLM_ALLOW_RUNTIME_LORA_UPDATING")
        with pytest.raises(TwofoldError, match="no such folder"):
            engine.load("finance", "/adapters/finance")
        engine.load("finance", "/adapters/finance")
        assert engine.models == {"base": "one", "finance": "finance"}
        assert plan.seen[-1] == {"lora_name": "finance", "lora_path": "/adapters/finance"}
        with pytest.raises(TwofoldError, match="taken"):
            engine.load("finance", "elsewhere")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, ""), "mostly ends in /v1"),
        ((200, "<html>"), "OpenAI-compatible"),
        ((200, {"data": 3}), "OpenAI-compatible"),
        ((200, models()), "no model"),
    ],
)
def test_what_is_no_such_server_says_so(answer: tuple[int, Any], words: str) -> None:
    with failing(Plan([answer])) as url, pytest.raises(TwofoldError) as caught:
        open_remote(url)
    one_line(caught, url, words)


def test_silence_and_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TwofoldError) as caught:
        open_remote("http://127.0.0.1:1")
    one_line(caught, "http://127.0.0.1:1/v1 cannot be reached", "running there?")
    monkeypatch.setattr(remote, "TIMEOUT", remote.httpx2.Timeout(0.2))
    release = threading.Event()
    with serving(Scripted(lambda *_: release.wait(5) and "late")) as url, opened(url) as engine:
        with pytest.raises(TwofoldError, match="was silent for 0 s"):
            list(engine.generate(ASK, "base", Sampling()))
        release.set()


@pytest.mark.parametrize("address", ["http://", "http://:8000/v1", "http://[", "http://host:port/v1", "http://me:secret@localhost/v1"])
def test_a_broken_address_is_one_line(address: str) -> None:
    with pytest.raises(TwofoldError) as caught:
        open_engine(address)
    one_line(caught)
    assert "secret" not in str(caught.value)


# --- the user is told where prompts go


def test_what_stays_and_what_goes() -> None:
    assert goes_to("https://s/v1") == "https://s/v1"
    assert [goes_to(model) for model in ("embedded", "mistral-7b", "owner/http", "./folder")] == ["", "", "", ""]


def test_the_doctor_looks_at_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_sandbox", lambda: iter(()))
    with serving(Scripted(lambda *_: "x")) as url:
        found = next(doctor.examine(url))
        assert (found.state, found.remedy) == ("ok", "")
        assert f"{url}: base is base, code is code, theory is theory; prompts go there" in found.what
    with failing(Plan([(200, models("one"))])) as url:
        assert next(doctor.examine(url)).state == "warn"
    found = next(doctor.examine("http://127.0.0.1:1/v1"))
    assert (found.state, "running there?" in found.remedy) == ("blocked", True)
