"""An OpenAI-compatible server: `twofold serve`. Its models are the engine's adapters, and `twofold`, the whole assistant.

An adapter's name (code, theory, base) is the engine itself: messages in, raw text out, for programs such as `--model http://...`. `twofold`
routes the last question, guards the topic, adds retrieved notes and cleans the answer, for people. Requests run in threads, and the text is
sent as it comes; a client that goes away stops its answer within one token. https://platform.openai.com/docs/api-reference/chat
"""

import hmac
import json
import logging
import os
import time
import uuid
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from twofold import assistant, listen
from twofold.engines import BASE, Engine, open_engine
from twofold.types import Message, Reply, Sampling, TwofoldError
from twofold.types import Request as Question

ROUTED = "twofold"
"""The model that is the assistant and not an adapter."""
MOST = 32
"""Answers to one request (n)."""
LONGEST = 4 << 20
"""Bytes of a request's body."""
ROLES: Mapping[Any, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "developer": "system",  # OpenAI's newer word for it
    "user": "user",
    "assistant": "assistant",
}
UNSUPPORTED = ("tools", "functions", "logprobs", "logit_bias", "audio", "prediction")


class Refused(TwofoldError):
    """A request that cannot be served, as OpenAI's errors say it."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        """Keep what the error object will hold. param: the field of the request that is wrong."""
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for chat completions."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    n: int = 1
    stop: tuple[str, ...] = ()
    stream: bool = False
    usage: bool = False
    """Whether the stream ends with a count of tokens."""


class Part(NamedTuple):
    """The next text of one of the answers."""

    choice: int
    """Number of the answer."""
    text: str
    finish: str = ""
    """Why the answer ends here, "stop" or "length"; "" while it goes on."""
    tokens: int = 1
    reply: Reply | None = None
    """With the assistant: the snapshot, which says who speaks."""


def serve(model: str = "embedded", host: str = "127.0.0.1", port: int = 8000) -> None:
    """Open a model and serve it until Ctrl-C; TWOFOLD_API_KEY, where set, is asked of every client.

    Raises TwofoldError for an open host without a key, a port that cannot be had and a model that cannot be opened.
    """
    key = os.environ.get("TWOFOLD_API_KEY", "")
    listen.check(host, port, bool(key), "set TWOFOLD_API_KEY")
    print(f"twofold: opening {model} ...", flush=True)
    app = build(open_engine(model), key)
    print(f"twofold: http://{host}:{port}/v1 (Ctrl-C stops it)", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="critical", timeout_graceful_shutdown=2)  # `told` logs what fails


def build(engine: Engine, key: str = "") -> Starlette:
    """Make the application around an engine. key: what clients must send as their API key; "" for none."""

    def allowed(request: Request) -> None:
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if key and not hmac.compare_digest(sent.encode(), key.encode()):
            raise Refused("wrong or missing API key: send the server's TWOFOLD_API_KEY as your API key", None, 401, "invalid_api_key")

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "model": engine.name})

    async def models(request: Request) -> Response:
        allowed(request)
        return JSONResponse({"object": "list", "data": [card(name) for name in (BASE, *sorted(engine.adapters - {BASE}), ROUTED)]})

    async def completions(request: Request) -> Response:
        allowed(request)
        asked = read(await body_of(request))
        if asked.model not in (*engine.adapters, ROUTED):
            known = ", ".join((ROUTED, *sorted(engine.adapters)))
            raise Refused(f"no model is named {asked.model!r}; there are {known}", "model", 404, "model_not_found")
        parts = answers(asked, engine)
        first = await run_in_threadpool(next, parts)  # what goes wrong before the first text still gets a status of its own
        if not asked.stream:
            return await whole(asked, engine, first, parts, request)
        kept_fresh = {"Cache-Control": "no-store"}
        return StreamingResponse(events(asked, engine, first, parts), media_type="text/event-stream", headers=kept_fresh)

    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/chat/completions", completions, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={TwofoldError: refusal, HTTPException: refusal, Exception: refusal})


async def refusal(_: Request, error: Exception) -> Response:
    """Say an error in OpenAI's form."""
    if isinstance(error, HTTPException):
        error = Refused(f"{error.detail}: there are /v1/models, /v1/chat/completions and /health", None, error.status_code)
    return JSONResponse({"error": told(error)}, status_of(error))


def status_of(error: Exception) -> int:
    """The HTTP status of an error: a request's own, 400 for what the engine declines, 500 for what should not happen."""
    return error.status if isinstance(error, Refused) else 400 if isinstance(error, TwofoldError) else 500


def told(error: Exception) -> dict[str, Any]:
    """OpenAI's error object. What should not happen is logged."""
    if not isinstance(error, TwofoldError):
        logging.getLogger(__name__).error("the answer failed", exc_info=error)
        return {"message": f"the answer failed: {error}", "type": "server_error", "param": None, "code": None}
    param, code = (error.param, error.code) if isinstance(error, Refused) else (None, None)
    return {"message": str(error), "type": "invalid_request_error", "param": param, "code": code}


def card(name: str) -> dict[str, Any]:
    """One entry of the list of models; an adapter names its parent, as vLLM's do."""
    parent = None if name in (BASE, ROUTED) else BASE
    return {"id": name, "object": "model", "created": 0, "owned_by": "twofold", "parent": parent}


# what is asked


async def body_of(request: Request) -> Mapping[str, Any]:
    """The request's JSON object. Raises Refused for anything else."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise Refused("send Content-Type: application/json", status=415)  # no page of another site can, without asking first
    raw = b""
    async for piece in request.stream():
        raw += piece
        if len(raw) > LONGEST:
            raise Refused(f"the request is over {LONGEST >> 20} MiB: send the part that matters", status=413)
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise Refused(f"the body is no JSON ({error})") from None
    if not isinstance(body, dict):
        raise Refused("the body is no JSON object")
    return body


def read(body: Mapping[str, Any]) -> Asked:
    """Read a request's fields. Raises Refused for what is missing, wrong or not to be had here; null means not given."""
    given = {name: value for name, value in body.items() if value is not None}
    for name in UNSUPPORTED:
        if given.get(name):
            raise Refused(f"{name} is not supported here: leave it out", name)
    if given.get("response_format", {"type": "text"}) != {"type": "text"}:
        raise Refused("only text is answered here: leave response_format out", "response_format")
    if not isinstance(model := given.get("model"), str):
        raise Refused("model is missing: name one of /v1/models", "model")
    stop = given.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not (isinstance(stop, list) and len(stop) <= 4 and all(isinstance(one, str) and one for one in stop)):
        raise Refused("stop is a text or up to 4 of them", "stop")
    normal = Sampling()
    most = "max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"
    sampling = Sampling(
        max_new_tokens=int(number(given, most, normal.max_new_tokens, 1, 1 << 20, integer=True)),
        temperature=number(given, "temperature", normal.temperature, 0, 2),
        top_p=number(given, "top_p", normal.top_p, 0, 1),
        repetition_penalty=number(given, "repetition_penalty", normal.repetition_penalty, 0.01, 10),
        seed=int(number(given, "seed", 0, -(2**63), 2**63 - 1, integer=True)) if "seed" in given else None,
    )
    n = int(number(given, "n", 1, 1, MOST, integer=True))
    options = given.get("stream_options", {})
    usage = isinstance(options, dict) and bool(options.get("include_usage"))
    return Asked(model, messages_of(given.get("messages")), sampling, n, tuple(stop), bool(given.get("stream")), usage)


def number(given: Mapping[str, Any], name: str, default: float, low: float, high: float, *, integer: bool = False) -> float:
    """A number of a request, within bounds."""
    value = given.get(name, default)
    kinds = (int,) if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise Refused(f"{name} must be {'a whole number' if integer else 'a number'} from {low:g} to {high:g}", name)
    return value


def messages_of(given: object) -> tuple[Message, ...]:
    """The conversation. Its texts are strings, or lists of text parts, which are joined."""
    if not (isinstance(given, list) and given):
        raise Refused("messages must be a list with the conversation, oldest first", "messages")
    messages: list[Message] = []
    for at, one in enumerate(given):
        spoke = one.get("role") if isinstance(one, dict) else None
        if not isinstance(spoke, str) or spoke not in ROLES:
            raise Refused(f"messages[{at}] needs a role: system, user or assistant", "messages")
        content = one.get("content")
        if isinstance(content, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            content = "".join(part["text"] for part in content)
        if not isinstance(content, str):
            raise Refused(f"messages[{at}] needs a text as its content", "messages")
        messages.append({"role": ROLES[spoke], "content": content})
    return tuple(messages)


# what is answered


def answers(asked: Asked, engine: Engine) -> Generator[Part]:
    """The parts of all answers as they come, each answer's last one with its `finish`.

    Closing this stops the engine; only a batch (n > 1) ends by itself. Raises TwofoldError for what the engine declines.
    """
    if asked.model == ROUTED:
        yield from routed(asked, engine)
    elif asked.n == 1:
        yield from spoken(asked, engine)
    else:
        for index, text in enumerate(engine.candidates(asked.messages, asked.model, asked.sampling, asked.n)):
            sent, held, stopped = cut(text, asked.stop)
            tokens = count(engine, text) or 0
            yield Part(index, sent if stopped else sent + held, finish_of(asked, tokens, stopped), tokens)


def spoken(asked: Asked, engine: Engine) -> Iterator[Part]:
    """One answer as the engine says it."""
    tokens, held, stopped = 0, "", False
    pieces = engine.generate(asked.messages, asked.model, asked.sampling)
    try:
        for piece in pieces:
            tokens += 1
            sent, held, stopped = cut(held + piece, asked.stop)
            yield Part(0, sent)
            if stopped:
                break
    finally:
        if close := getattr(pieces, "close", None):
            close()
    yield Part(0, held, finish_of(asked, tokens, stopped), 0)


def routed(asked: Asked, engine: Engine) -> Iterator[Part]:
    """One answer of the assistant, which writes the system text itself: those of the request are left out."""
    if asked.n > 1:
        raise Refused(f"{ROUTED} gives one answer: leave n out, or ask an adapter", "n")
    said = [message for message in asked.messages if message["role"] != "system"]
    if not said or said[-1]["role"] != "user":
        raise Refused("the conversation must end with the user's question", "messages")
    question = Question(said[-1]["content"], history=tuple(said[:-1]))
    shown, held, stopped, tokens = 0, "", False, 0
    with closing(assistant.stream(question, engine, asked.sampling)) as replies:  # type: ignore[type-var]  # a generator
        for reply in replies:
            sent, held, stopped = cut(held + reply.text[shown:], asked.stop)
            yield Part(0, sent, tokens=reply.tokens - tokens, reply=reply)
            shown, tokens = len(reply.text), reply.tokens
            if stopped:
                break
    yield Part(0, held, finish_of(asked, tokens, stopped), 0, reply)


def cut(text: str, stops: Sequence[str]) -> tuple[str, str, bool]:
    """Split a text into what may be sent, what is held back because a stop may begin there, and whether a stop was found (held is "")."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    if found:
        return text[: min(found)], "", True
    held = max((size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)
    return text[: len(text) - held], text[len(text) - held :], False


def finish_of(asked: Asked, tokens: int, stopped: bool) -> str:
    """Why an answer ended: by itself or at a stop, or because it may have no more tokens."""
    return "length" if tokens >= asked.sampling.max_new_tokens and not stopped else "stop"


def count(engine: Engine, text: str) -> int | None:
    """Tokens in a text, None where the engine cannot tell."""
    tell = getattr(engine, "count", None)
    return int(tell(text)) if tell else None


def usage_of(asked: Asked, engine: Engine, completion: int) -> dict[str, int] | None:
    """OpenAI's count of tokens: the request's texts without the chat template around them, and the answers; None if nobody can tell."""
    counts = [count(engine, message["content"]) for message in asked.messages]
    prompt = sum(filter(None, counts))
    if None in counts:
        return None
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


# how it is sent


async def flow(first: Part, parts: Generator[Part]) -> AsyncGenerator[Part]:
    """The parts, each computed in a thread. However this ends, the engine stops."""
    part: Part | None = first
    try:
        while part is not None:
            yield part
            part = await run_in_threadpool(next, parts, None)
    finally:
        parts.close()


async def events(asked: Asked, engine: Engine, first: Part, parts: Generator[Part]) -> AsyncGenerator[str]:
    """The stream of a response, as server-sent events."""
    head = head_of(asked, "chat.completion.chunk")
    tokens = 0
    try:
        for index in range(asked.n):
            yield event(head | {"choices": [{"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        async with aclosing(flow(first, parts)) as flowing:
            async for part in flowing:
                tokens += part.tokens
                if part.text:
                    yield event(head | {"choices": [{"index": part.choice, "delta": {"content": part.text}, "finish_reason": None}]})
                if part.finish:
                    yield event(head | who(part) | {"choices": [{"index": part.choice, "delta": {}, "finish_reason": part.finish}]})
    except Exception as error:  # noqa: BLE001  the surface: the client is told, whatever the engine does
        yield event({"error": told(error)})
        return
    if asked.usage:
        yield event(head | {"choices": [], "usage": usage_of(asked, engine, tokens)})
    yield "data: [DONE]\n\n"


async def whole(asked: Asked, engine: Engine, first: Part, parts: Generator[Part], request: Request) -> Response:
    """The response in one piece."""
    texts, ends, tokens, more = [""] * asked.n, ["stop"] * asked.n, 0, dict[str, Any]()
    async with aclosing(flow(first, parts)) as flowing:
        async for part in flowing:
            texts[part.choice] += part.text
            ends[part.choice] = part.finish or ends[part.choice]
            tokens += part.tokens
            more = who(part)
            if await request.is_disconnected():
                return Response(status_code=499)  # nobody reads it; nginx's number for a client that went away
    said = [{"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": ends[i]} for i, text in enumerate(texts)]
    return JSONResponse(head_of(asked, "chat.completion") | more | {"choices": said, "usage": usage_of(asked, engine, tokens)})


def head_of(asked: Asked, kind: str) -> dict[str, Any]:
    """What all chunks of a response share."""
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": asked.model}


def who(part: Part) -> dict[str, Any]:
    """Who spoke and why, beside OpenAI's fields; nothing for an adapter, which was asked by name."""
    reply = part.reply
    return {"twofold": {"chip": reply.chip, "why": reply.route.why, "sources": list(reply.sources)}} if reply else {}


def event(values: Mapping[str, Any]) -> str:
    """One server-sent event; JSON keeps it on a line of ASCII."""
    return f"data: {json.dumps(values)}\n\n"
