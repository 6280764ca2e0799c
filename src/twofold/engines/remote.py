"""An engine on another machine: any server that speaks OpenAI's chat completions, each adapter a model name of that server.

The wire format: https://platform.openai.com/docs/api-reference/chat/streaming. Text is sent as it is; the server applies its chat template.
"""

import json
import os
import re
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2

from twofold.engines import BASE, require, require_new
from twofold.types import Message, Sampling, TwofoldError

TIMEOUT = httpx2.Timeout(120.0, connect=10.0)
"""Seconds: for the connection, and between two pieces of an answer. A busy server's first piece may wait in a queue."""
WAITS = (0.5, 2.0)
"""Seconds before each further try where a server is busy or stumbles (429, 5xx); its own Retry-After counts for more."""
MOST_WAIT = 30.0
BUSY = (429, 500, 502, 503, 504)
LISTED = 6  # names of models that an error shows


def open_remote(address: str) -> "Remote":
    """Open "http://host:port/v1" or, where a server has many models, ".../v1#model". Raises TwofoldError when nobody answers there."""
    try:
        url = httpx2.URL(address)
        if not url.host:
            raise ValueError("it names no host")
    except (httpx2.InvalidURL, ValueError, TypeError) as error:
        raise TwofoldError(f"{address!r} is no address of a server ({error}): it looks like http://localhost:8000/v1") from None
    if url.userinfo:
        raise TwofoldError("the address holds a password: take it out and set TWOFOLD_API_KEY") from None
    path = url.path.rstrip("/") or "/v1"
    return Remote(str(url.copy_with(path=path, fragment=None, query=None)), url.fragment, key_for(url.host))


def key_for(host: str) -> str:
    """The API key for a host: TWOFOLD_API_KEY; OPENAI_API_KEY only for OpenAI's own, because no other server should learn that key."""
    theirs = os.environ.get("OPENAI_API_KEY", "") if f".{host}".endswith(".openai.com") else ""
    return os.environ.get("TWOFOLD_API_KEY", "") or theirs


class Remote:
    """A server's models under our adapters' names. Requests run at once, each on a connection of its own; threads may share this."""

    def __init__(self, url: str, model: str = "", key: str = "") -> None:
        """Ask the server which models it has. model: the one that is BASE, where the server does not say. Raises TwofoldError."""
        self.name = url
        self._client = httpx2.Client(timeout=TIMEOUT, headers={"Authorization": f"Bearer {key}"} if key else {})
        self.close = weakref.finalize(self, self._client.close)
        """Close the connections that are kept for further requests; done anyway once nobody holds the engine."""
        self._batches = True  # the server answers n > 1 in one request, as far as is known
        self.models = choose(url, self._listed(), model)
        """Adapter -> the server's model that speaks for it; always holds "base"."""

    @property
    def adapters(self) -> frozenset[str]:
        """Names of the adapters that the server has; without CODE and THEORY there, its one model speaks for all, as BASE."""
        return frozenset(self.models)

    def generate(self, messages: Sequence[Message], adapter: str, sampling: Sampling) -> Iterator[str]:
        """Yield text as it comes; closing the iterator closes the connection. Raises TwofoldError at once for an unknown adapter."""
        require(adapter, self.adapters)
        return self._text(messages, adapter, sampling)

    def _text(self, messages: Sequence[Message], adapter: str, sampling: Sampling) -> Generator[str]:
        with closing(self._stream(messages, adapter, sampling)) as pieces:
            for _, text in pieces:
                if text:
                    yield text

    def candidates(self, messages: Sequence[Message], adapter: str, sampling: Sampling, n: int) -> list[str]:
        """Return n sampled answers from one request, or from n at once where the server does not know "n". Raises like `generate`."""
        require(adapter, self.adapters)
        if n > 1 and sampling.temperature <= 0:
            return ["".join(self._text(messages, adapter, sampling))] * n
        answers: dict[int, str] = {}
        if self._batches:
            try:
                with closing(self._stream(messages, adapter, sampling, n)) as pieces:
                    for index, text in pieces:
                        answers[index] = answers.get(index, "") + text
            except Declined:  # perhaps for its n; if not, the next request says why
                answers = {}
        missing = [index for index in range(n) if index not in answers]
        answers |= self._apart(messages, adapter, sampling, missing)
        self._batches = not missing
        return [answers[index] for index in range(n)]

    def _apart(self, messages: Sequence[Message], adapter: str, sampling: Sampling, which: Sequence[int]) -> dict[int, str]:
        """Answers by number, each from a request of its own, with seeds counted up."""
        if not which:
            return {}
        stopped = threading.Event()

        def one(index: int) -> str:
            seeded = sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + index)
            said: list[str] = []
            with closing(self._text(messages, adapter, seeded)) as pieces:
                for text in pieces:
                    said.append(text)
                    if stopped.is_set():
                        break
            return "".join(said)

        with ThreadPoolExecutor(len(which)) as pool:
            try:
                return dict(zip(which, pool.map(one, which), strict=True))
            finally:
                stopped.set()  # Ctrl-C ends the requests, too

    def load(self, adapter: str, source: str | Path) -> None:
        """Have the server load an adapter from a folder of its own disk (vLLM's load_lora_adapter). Raises TwofoldError with the remedy."""
        require_new(adapter, self.adapters)
        with self._told():
            response = self._client.post(f"{self.name}/load_lora_adapter", json={"lora_name": adapter, "lora_path": str(source)})
        if response.status_code in (403, 404, 405, 501):
            raise TwofoldError(
                f"adapters are loaded on the server, and {self.name} takes none while it runs: start it with --lora-modules "
                f"{adapter}={source}, or start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
            )
        self._check(response, adapter)
        self.models = {**self.models, adapter: adapter}

    def _listed(self) -> list[Mapping[str, Any]]:
        with self._told():
            response = self._client.get(f"{self.name}/models")
        if response.status_code == 404:
            raise TwofoldError(f"{self.name} has no list of models: an OpenAI-compatible address mostly ends in /v1")
        self._check(response)
        try:
            listed = [model for model in response.json()["data"] if isinstance(model["id"], str)]
        except (ValueError, KeyError, TypeError):
            raise TwofoldError(f"{self.name}/models is no list of models: is this an OpenAI-compatible server?") from None
        return listed

    def _stream(self, messages: Sequence[Message], adapter: str, sampling: Sampling, n: int = 1) -> Generator[tuple[int, str]]:
        """Yield (number of the answer, its next text), for each answer once more at its end."""
        model = self.models[adapter]
        body: dict[str, Any] = {"model": model, "messages": list(messages), "stream": True, "max_tokens": sampling.max_new_tokens}
        body |= {"temperature": sampling.temperature} | ({"top_p": sampling.top_p} if sampling.temperature > 0 else {})
        body |= {} if sampling.seed is None else {"seed": sampling.seed}
        body |= {"n": n} if n > 1 else {}
        body |= {} if sampling.repetition_penalty == 1.0 else {"repetition_penalty": sampling.repetition_penalty}  # vLLM knows it
        with self._told(), closing(self._events(body, model)) as events:
            unfinished = set(range(n))
            for event in events:
                if event.data == "[DONE]":
                    return
                for index, text, ended in self._choices(event.data):
                    unfinished -= {index} if ended else set()
                    if text or ended:
                        yield index, text
            if unfinished:
                raise httpx2.RemoteProtocolError("the stream ended early")

    def _events(self, body: Mapping[str, Any], model: str) -> Generator[httpx2.ServerSentEvent]:
        """The events of a streamed answer; a server that is busy or stumbles before the first one is asked again."""
        for wait in (*WAITS, None):
            with self._client.sse(f"{self.name}/chat/completions", method="POST", json=body) as source:
                response = source.response
                if response.status_code == 200:
                    yield from source
                    return
                response.read()
                if response.status_code not in BUSY or wait is None:
                    self._check(response, model)  # raises
            after = response.headers.get("Retry-After", "")
            time.sleep(min(float(after), MOST_WAIT) if after.isdigit() else wait or 0.0)

    def _choices(self, data: str) -> Iterator[tuple[int, str, bool]]:
        """Read one event: (number of the answer, text, whether it has ended)."""
        try:
            event = json.loads(data)
            if "error" in event:
                raise TwofoldError(f"{self.name} broke off the answer: {said(event)}")
            for choice in event["choices"]:
                yield int(choice.get("index", 0)), (choice.get("delta") or {}).get("content") or "", bool(choice.get("finish_reason"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise TwofoldError(f"{self.name} sends no chat completions: is this an OpenAI-compatible server?") from None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what can go wrong on the way into one line that names the remedy."""
        try:
            yield
        except httpx2.ConnectTimeout:
            raise TwofoldError(f"{self.name} does not answer: check the address, and that a firewall lets you through") from None
        except httpx2.TimeoutException:
            raise TwofoldError(f"{self.name} was silent for {TIMEOUT.read:.0f} s: it may be overloaded, ask again") from None
        except httpx2.ConnectError as error:
            raise TwofoldError(f"{self.name} cannot be reached ({short(error)}): is the server running there?") from None
        except (httpx2.ReadError, httpx2.RemoteProtocolError) as error:
            raise TwofoldError(f"{self.name} cut the answer off ({short(error)}): ask again, and look at the server's log") from None
        except httpx2.SSEError:
            raise TwofoldError(f"{self.name} sends no stream of events: is this an OpenAI-compatible server?") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise TwofoldError(f"{self.name} cannot be asked ({short(error)}): check the address") from None

    def _check(self, response: httpx2.Response, model: str = "") -> None:
        """Raise TwofoldError with the remedy unless the server agreed."""
        status = response.status_code
        if status == 200:
            return
        try:
            why = said(response.json())
        except ValueError:
            why = response.reason_phrase
        if status in (401, 403):
            raise TwofoldError(f"{self.name} does not let you in ({status}: {why}): set TWOFOLD_API_KEY to a key that it knows")
        if status == 404 and model:
            raise TwofoldError(
                f"{self.name} does not serve the model {model!r} (404: {why}): start twofold again, it reads the list of models"
            )
        if status == 429:
            raise TwofoldError(f"{self.name} is busy or your quota is spent (429: {why}): wait and ask again")
        if status >= 500:
            raise TwofoldError(f"{self.name} failed ({status}: {why}): ask again, and look at the server's log")
        if 300 <= status < 400:
            raise TwofoldError(f"{self.name} has moved to {response.headers.get('Location', 'another address')}: use that address")
        raise Declined(f"{self.name} declines the request ({status}: {why}): shorten the question or clear the history if it is too long")


class Declined(TwofoldError):
    """The server does not take a request as it is (400, 422)."""


def choose(url: str, listed: Sequence[Mapping[str, Any]], model: str = "") -> dict[str, str]:
    """Which model speaks for which adapter, from a server's list.

    A name that is or ends in code or theory ("mistral-code") is that adapter; what names a parent (vLLM's LoRA adapters) is one under its
    own name; BASE is `model`, or what is named base, or the only other one. Raises TwofoldError where that leaves a choice.
    """
    parents = {str(one["id"]): one.get("parent") for one in listed}
    if model and model not in parents:
        raise TwofoldError(f"{url} does not serve {model!r}; it has {names(list(parents))}")
    roles = {name: role(name) for name in parents if name != model}
    others = [name for name in roles if not roles[name] and not parents[name]]
    base = model or next((name for name in parents if roles[name] == BASE), "")
    if not base and len(parents) == 1:
        base = next(iter(parents))
    if not base and len(others) == 1:
        base = others[0]
    if not base:
        example = (others or list(parents) or ["NAME"])[0]
        raise TwofoldError(f"{url} serves {names(others or list(parents))}: choose one, as in --model '{url}#{example}'")
    chosen = {name: name for name, parent in parents.items() if parent and not roles.get(name)}
    chosen |= {kind: name for name, kind in reversed(roles.items()) if kind in ("code", "theory") and name != base}
    return chosen | {BASE: base}


def role(name: str) -> str:
    """The adapter that a model's name says it is: "code", "theory", "base", or ""."""
    found = re.search(r"(?:^|[-_/.:])(code|theory|base)$", name, re.IGNORECASE)
    return found[1].lower() if found else ""


def names(models: Sequence[str]) -> str:
    """A few names for a message."""
    more = f" and {len(models) - LISTED} more" if len(models) > LISTED else ""
    return (", ".join(models[:LISTED]) or "no model") + more


def said(answer: Any) -> str:
    """What an error says, in one short line: OpenAI's form, FastAPI's, or what there is."""
    found = answer.get("error", answer) if isinstance(answer, dict) else answer
    if isinstance(found, dict):
        found = found.get("message") or found.get("detail") or found
    return short(found)


def short(what: object) -> str:
    """One line of at most 200 characters."""
    return " ".join(str(what).split())[:200] or type(what).__name__
