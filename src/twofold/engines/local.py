"""An engine on this machine: any causal model of transformers in 4-bit NF4 (bitsandbytes) with peft LoRA adapters, embedded or 7B alike."""

import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # comes with accelerate; ships no types
import torch
from torch.nn.functional import linear

from twofold.engines import BASE, require, require_new
from twofold.engines.folders import check_adapter, find, hashes, keep, kept_folder, line, trained_on, verify_weights
from twofold.engines.libraries import import_bitsandbytes, packed_weights_kept, quiet, said, threads, unpack
from twofold.types import Message, Sampling, TwofoldError

NAMED = {"mistral-7b": "mistralai/Mistral-7B-Instruct-v0.3"}
PACKAGE = Path(__file__).parents[1]
ROOM = 64
"""Tokens of the context that a prompt must leave for its answer."""
LARGE = 1 << 30
"""Bytes of a plain model from which on its quantised form is kept in the user's cache."""
NUCLEUS = 512
"""top_p looks among this many likeliest tokens: a full sort of 16,384 took 1.1 ms a token, this takes 0.06."""


def open_local(model: str = "embedded", *, adapters: Mapping[str, str | Path] | None = None) -> "Local":
    """Open "embedded", "mistral-7b", a local folder or a hub id "owner/name", ready to answer.

    A folder that holds base/ is used with the adapters beside it (code/, theory/); for any other model they are taken from out/code and
    out/theory when those were trained on a base of the same folder name. `adapters` (name -> folder or hub id) replaces that choice.
    A base that is not yet quantised becomes NF4 while it loads; a large one is kept in that form in the user's cache, and loads from there
    the next time. On a GPU the engine is a `Resident` where that is possible, else a plain `Local` whose `plain` says why.
    Raises TwofoldError, one line with the remedy, when any of this cannot be.
    """
    source = NAMED.get(model, model)
    if model in NAMED and not torch.cuda.is_available():
        raise TwofoldError(f"{model} needs an NVIDIA GPU that torch can use, and none is here: see `twofold doctor`, or use embedded.")
    if model == "embedded":
        source = str(PACKAGE / "weights")
        verify_weights(PACKAGE / "weights")
    home = find(source)
    base, beside = (home / "base", home) if (home / "base").is_dir() else (home, Path("out"))
    if adapters is None:
        adapters = {name: beside / name for name in ("code", "theory") if beside is home or trained_on(beside / name, source)}
    with quiet(), said(f"The model in {base} cannot be loaded: choose another folder, or save it again"):
        tokenizer, loaded = _load_base(base)
        engine = _engine(model, tokenizer, loaded, base)
    for name, adapter in adapters.items():
        engine.load(name, adapter)
    return engine


def _engine(name: str, tokenizer: Any, model: Any, folder: Path) -> "Local":
    """The engine that serves a loaded model best on this machine."""
    if not torch.cuda.is_available():
        if model.get_memory_footprint() < LARGE:
            unpack(model)
        return Local(name, tokenizer, model, folder)
    from twofold.engines.mistral import Unsupported
    from twofold.engines.resident import Resident

    try:
        return Resident(name, tokenizer, model, folder)
    except (Unsupported, RuntimeError) as error:
        engine = Local(name, tokenizer, model, folder)
        engine.plain = line(error)
        return engine


class Local:
    """A base model and its adapters, all resident. One token of one request is computed at a time, so requests interleave and never mix."""

    def __init__(self, name: str, tokenizer: Any, model: Any, folder: Path | None = None) -> None:
        """Take a loaded tokenizer and causal model, and make it ready to answer. folder: where the model was loaded from, for `weights`."""
        self.name = name
        self.adapters = frozenset({BASE})
        self.plain = ""
        """Why a model on a GPU is decoded by plain transformers; "" where it is not, or where there is no GPU."""
        self._folders = {BASE: folder} if folder else {}
        self._hashes: dict[str, dict[str, str]] = {}
        self._tokenizer, self._model = tokenizer, model
        self._peft: Any = None  # the PeftModel around self._model, from the first adapter on
        self._speaking = BASE  # the adapter that the model's layers add now: each step sets it and computes under the lock
        self._lock = threading.Lock()
        self._stop = set(_special(tokenizer).values()) | {tokenizer.eos_token_id}
        self._context = int(model.config.max_position_embeddings)
        self._ready()

    def generate(self, messages: Sequence[Message], adapter: str, sampling: Sampling) -> Iterator[str]:
        """Yield text token by token, never half a character. Raises TwofoldError at once for an unknown adapter or too long a prompt."""
        return detokenise(self._tokenizer, (step[0] for step in self._steps(self._prompt(messages, adapter), adapter, sampling, 1)))

    def candidates(self, messages: Sequence[Message], adapter: str, sampling: Sampling, n: int) -> list[str]:
        """Return n sampled answers from one prefill and one batch; at temperature 0 all are the same. Raises like `generate`."""
        rows: list[list[int]] = [[] for _ in range(n)]
        for step in self._steps(self._prompt(messages, adapter), adapter, sampling, n):
            for row, token in step.items():
                rows[row].append(token)
        return ["".join(detokenise(self._tokenizer, row)) for row in rows]

    def load(self, adapter: str, source: str | Path) -> None:
        """Add a LoRA adapter (peft folder or hub id, safetensors) under a name. Raises TwofoldError when it does not fit."""
        require_new(adapter, self.adapters)
        folder = find(str(source))
        check_adapter(folder, self._model)
        failed = f"The adapter in {folder} cannot be loaded: train it again or choose another"
        with self._lock, quiet(), packed_weights_kept(), said(failed):
            from peft import PeftModel
            from peft.tuners.lora import LoraLayer

            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self._model, str(folder), adapter_name=adapter)
            else:
                self._peft.load_adapter(str(folder), adapter_name=adapter)
            for layer in self._model.modules():
                if isinstance(layer, LoraLayer):
                    layer.forward = self._forward(layer.eval())
            self.adapters |= {adapter}
            self._folders[adapter] = folder

    def weights(self, adapter: str) -> Mapping[str, str]:
        """SHA-256 of each file of the base and of an adapter, read once. Raises TwofoldError for an unknown adapter."""
        require(adapter, self.adapters)
        for name in {BASE, adapter} & self._folders.keys() - self._hashes.keys():
            self._hashes[name] = hashes(self._folders[name])
        return {**self._hashes.get(BASE, {}), **self._hashes.get(adapter, {})}

    def count(self, text: str) -> int:
        """Tokens in a text."""
        return len(_plain_ids(self._tokenizer, text))

    def _ready(self) -> None:
        """Compute one token: in that call bitsandbytes repacks its weights for this CPU."""
        self._step(torch.tensor([self._prompt([{"role": "user", "content": self.name}], BASE)]), self._cache(), BASE)

    def _prompt(self, messages: Sequence[Message], adapter: str) -> list[int]:
        require(adapter, self.adapters)
        ids = prompt_ids(self._tokenizer, messages)
        if len(ids) > self._context - ROOM:
            room = self._context - ROOM
            raise TwofoldError(f"The question with its history is {len(ids)} tokens, {room} fit: shorten it or clear the history.")
        return ids

    def _steps(self, ids: list[int], adapter: str, sampling: Sampling, n: int) -> Iterator[dict[int, int]]:
        """Yield {row: token} once a step, for the rows of n that have not ended. One prefill serves all; ended rows leave the batch."""
        cache, dice = self._cache(), torch.Generator()
        dice.seed() if sampling.seed is None else dice.manual_seed(sampling.seed)
        rows: list[list[int]] = [[] for _ in range(n)]
        alive, feed = list(range(n)), torch.tensor([ids])
        for done in range(min(sampling.max_new_tokens, self._context - len(ids))):
            logits = self._step(feed, cache, adapter)
            if not done:
                cache.batch_repeat_interleave(n)
                logits = logits.expand(n, -1)
            step = dict(zip(alive, _choose(logits, [rows[row] for row in alive], sampling, dice), strict=True))
            step = {row: token for row, token in step.items() if token not in self._stop}
            if not step:
                return
            yield step
            for row, token in step.items():
                rows[row].append(token)
            if len(step) < len(alive):
                cache.batch_select_indices(torch.tensor([i for i, row in enumerate(alive) if row in step]))
                alive = list(step)
            feed = torch.tensor([[token] for token in step.values()])

    def _step(self, feed: torch.Tensor, cache: Any, adapter: str) -> torch.Tensor:
        """Compute logits (rows, vocabulary), float32 on the CPU, of the token after `feed` (rows, tokens)."""
        with self._lock, torch.inference_mode():
            self._speaking = adapter
            out = self._model(input_ids=feed.to(self._model.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
            return out.logits[:, -1].float().cpu()  # type: ignore[no-any-return]

    def _forward(self, layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the forward pass of a LoRA layer, without the checks and the state of peft's own.

        One token then takes 13.7 ms, not 16.5, and a change of adapter nothing, not 4 ms (100 M parameters, two cores). Only plain LoRA
        matrices reach this place: `check_adapter` declines biases, DoRA and the like.
        """
        base = layer.base_layer
        matrices = {name: (a.weight, layer.scaling[name], layer.lora_B[name].weight) for name, a in layer.lora_A.items()}

        def forward(x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = base(x)
            if self._speaking not in matrices:
                return out
            a, scaling, b = matrices[self._speaking]
            return out + linear(linear(x.to(a.dtype), a) * scaling, b).to(out.dtype)

        return forward

    def _cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._model.config)


@torch.inference_mode()
def _choose(logits: torch.Tensor, rows: list[list[int]], sampling: Sampling, dice: torch.Generator) -> list[int]:
    """Pick one token a row from logits (rows, vocabulary); `rows` are the tokens each row has generated so far."""
    if sampling.repetition_penalty != 1.0:
        seen = torch.zeros_like(logits, dtype=torch.bool)
        for i, row in enumerate(rows):
            seen[i, row] = True
        penalty = sampling.repetition_penalty
        logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    if sampling.temperature <= 0:
        return logits.argmax(-1).tolist()
    scores, tokens = (logits / sampling.temperature).softmax(-1).topk(min(NUCLEUS, logits.shape[-1]))
    before = scores.cumsum(-1) - scores  # the likeliest token has nothing before it and always stays
    kept = scores.masked_fill(before >= max(sampling.top_p, 1e-6), 0.0)
    return tokens.gather(-1, kept.multinomial(1, generator=dice))[:, 0].tolist()


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation that ends with the user's turn. What people and models wrote never becomes a special token.

    The template sees placeholders; its special tokens are found before the contents are put in. Between special tokens, template text and
    content are encoded together, as training does. Raises TwofoldError when roles do not alternate.
    """
    if not messages or messages[-1]["role"] != "user":
        raise TwofoldError("A conversation must end with the user's question.")
    marks = [{"role": m["role"], "content": f"\ue000{i}\ue001" if m["content"] else ""} for i, m in enumerate(messages)]
    with said("The conversation does not fit the chat template"):
        rendered = tokenizer.apply_chat_template(marks, tokenize=False)
    special, ids = _special(tokenizer), list[int]()
    for part in re.split("(" + "|".join(map(re.escape, sorted(special, key=len, reverse=True))) + ")", rendered):
        if part in special:
            ids.append(special[part])
        else:
            ids += _plain_ids(tokenizer, re.sub("\ue000([0-9]+)\ue001", lambda mark: messages[int(mark[1])]["content"], part))
    return ids


def detokenise(tokenizer: Any, tokens: Iterable[int]) -> Iterator[str]:
    """Yield the text of tokens as they come. Bytes of an unfinished character wait for the rest; at the end they are dropped.

    Each piece is decoded behind the piece before it, because SentencePiece drops the space in front of a first token.
    """
    ids: list[int] = []
    start = read = 0
    before = text = ""
    for token in tokens:
        ids.append(token)
        before, text = tokenizer.decode(ids[start:read]), tokenizer.decode(ids[start:])
        if len(text) > len(before) and not text.endswith("\ufffd"):
            yield text[len(before) :]
            start, read = read, len(ids)
            before = text
    if rest := text[len(before) :].rstrip("\ufffd"):
        yield rest


def _load_base(folder: Path) -> tuple[Any, Any]:
    """Return the tokenizer, with the project's chat template, and the causal model in 4 bit from a folder, on a GPU if there is one."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        raise TwofoldError(f"{folder} holds no model (no readable config.json): choose another folder.") from None
    quantised = "quantization_config" in config
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if not size:
        raise TwofoldError(f"{folder} holds no safetensors weights: choose another folder, or save the model with save_pretrained.")
    if not quantised and size >= LARGE and (kept := kept_folder(folder)).is_dir():
        return _load_base(kept)
    _require_memory(folder, size, quantised)
    import_bitsandbytes()
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    bf16 = torch.bfloat16
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=bf16)
    only = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(str(folder), **only)
    tokenizer.chat_template = (PACKAGE / "chat_template.jinja").read_text()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), threads(size)))
    how: dict[str, Any] = {} if quantised else {"quantization_config": nf4}
    if torch.cuda.is_available():
        how["device_map"] = {"": torch.cuda.current_device()}
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=bf16, use_safetensors=True, **only, **how).eval()
    if not quantised and size >= LARGE:
        keep(model, tokenizer, kept_folder(folder))
    return tokenizer, model


def _require_memory(folder: Path, size: int, quantised: bool) -> None:
    """Raise TwofoldError when weights of so many bytes on disk will not fit on the GPU, or in memory where there is none."""
    if torch.cuda.is_available():
        need, free = int(size * (1.1 if quantised else 0.35)) + (1 << 30), torch.cuda.mem_get_info()[0]
        what, remedy = "GPU memory", "close what else uses the GPU"
    else:
        need, free = int(size * (1.5 if quantised else 0.45)), psutil.virtual_memory().available
        what, remedy = "memory", "close programs"
    if need > free:
        raise TwofoldError(f"{folder} needs about {need >> 20} MiB of {what} and {free >> 20} are free: {remedy} or use embedded.")


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) if text else []


def _special(tokenizer: Any) -> dict[str, int]:
    return {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
