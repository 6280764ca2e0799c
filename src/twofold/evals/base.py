"""The base model without adapters, `twofold bench base`: loss by slice, completed functions, what is copied word for word.

Losses are those of pretraining's own validation rows (`train.pretrain.validation`), for any number of NF4 folders side by side. Functions
are completed greedily from signature and docstring and held to their tests. Long copies are looked for in samples that go on from the
first words of held-out documents.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twofold.datasets import check, rows
from twofold.evals import suite
from twofold.types import TwofoldError

if TYPE_CHECKING:
    import numpy as np

COMPLETIONS = rows.ROOT / "data" / "completions.toml"
SPAN = 50
"""Tokens of a copy that counts."""


@dataclass(frozen=True, slots=True)
class Config:
    """What is measured."""

    models: str = "shipped=src/twofold/weights/base"
    """Comma-separated name=folder pairs, each an NF4 base; functions and copies are those of the last."""
    corpus: str = "out/corpus"
    """Folder with the valid-*.npz of `twofold train corpus`; losses are left out where there are none."""
    text: str = ""
    """Folder with the corpus shards, for long copies; left out where empty."""
    rows: int = 12
    """Validation rows of a slice."""
    context: int = 1024
    """Tokens of a row."""
    samples: int = 500
    """Continuations that are looked through for long copies."""
    out: Path = Path("results/base.json")
    """Where the numbers go."""
    plot: Path = Path("docs/base.png")
    """Where the losses are drawn."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function to complete: imports, signature and docstring; a body that is right; tests."""

    id: str
    prompt: str
    body: str
    test: str


def functions(path: Path = COMPLETIONS) -> list[Function]:
    """Load the functions. Raises TwofoldError naming the file when it is not there."""
    import tomllib

    if not path.exists():
        raise TwofoldError(f"there is no {path}: it comes with a checkout of the project")
    return [Function(**table) for table in tomllib.loads(path.read_text(encoding="utf-8"))["function"]]


def plain(folder: Path) -> Any:
    """The model of an NF4 folder as transformers computes it from its de-quantised weights, float32."""
    from transformers import MistralConfig, MistralForCausalLM

    from twofold.train.quantize import dequantized

    shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape.pop("quantization_config", None)
    model = MistralForCausalLM(MistralConfig(**shape)).float().eval()
    model.load_state_dict(dequantized(folder / "model.safetensors"), strict=False)
    model.tie_weights()
    return model


def losses(model: Any, found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Cross-entropy (nats a token) by slice of validation rows, each (rows, length + 1)."""
    import torch
    from tqdm import tqdm

    result = {}
    for name, ids in tqdm(found.items(), desc="loss", file=sys.stderr, disable=None):
        total = 0.0
        for row in torch.from_numpy(ids):
            with torch.inference_mode():
                logits = model(row[None, :-1]).logits[0]
            total += float(torch.nn.functional.cross_entropy(logits, row[1:]))
        result[name] = round(total / len(ids), 4)
    return result


def continued(model: Any, tokenizer: Any, prompts: Sequence[str], tokens: int, batch: int = 10) -> Iterator[list[int]]:
    """The tokens with which the model goes on, greedily, from each prompt, in order."""
    import torch
    from tqdm import tqdm

    for at in tqdm(range(0, len(prompts), batch), desc="continue", file=sys.stderr, disable=None):
        ids = [[0, *tokenizer.encode(text, add_special_tokens=False).ids] for text in prompts[at : at + batch]]
        longest = max(map(len, ids))
        padded = torch.tensor([[2] * (longest - len(one)) + one for one in ids])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in ids])
        with torch.inference_mode():
            out = model.generate(padded, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=2)
        yield from (one[longest:].tolist() for one in out)


def body_of(text: str) -> str:
    """The part of a continuation that belongs to the function: up to the first line that begins at the margin."""
    return re.split(r"\n(?=[^\s#)\]}])", f"\n{text}".rstrip("\ufffd"), maxsplit=1)[0].strip("\n")


def completed(model: Any, tokenizer: Any, asked: Sequence[Function]) -> dict[str, str]:
    """Run the model's own body of each function against its tests: "" or what went wrong, by id."""
    answers = continued(model, tokenizer, [one.prompt for one in asked], 160)
    tasks = []
    for one, ids in zip(asked, answers, strict=True):
        ended = ids[: ids.index(1)] if 1 in ids else ids
        tasks.append(check.Task(one.id, f"{one.prompt}{body_of(tokenizer.decode(ended))}\n", one.test, ()))
    return dict(check.execute_all(tasks, limit=10.0))


def spans(tokens: Sequence[int], size: int = SPAN) -> np.ndarray:
    """A 64-bit hash of each run of `size` tokens, shape (tokens - size + 1,)."""
    import numpy as np

    values = (np.asarray(tokens, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    if len(values) < size:
        return np.zeros(0, dtype=np.uint64)
    found = np.zeros(len(values) - size + 1, dtype=np.uint64)
    for at in range(size):  # wraps around, as a hash may
        found = found * np.uint64(0x100000001B3) + values[at : at + len(found)]
    return found


def copied(samples: Sequence[Sequence[int]], documents: Iterable[Sequence[int]]) -> dict[int, int]:
    """By number of the sample, in how many documents its most widespread copied run stands; samples without one are absent."""
    import numpy as np

    wanted = {int(value): number for number, tokens in enumerate(samples) for value in spans(tokens)}
    sought = np.array(sorted(wanted), dtype=np.uint64)
    held: dict[int, int] = {}
    for tokens in documents:
        for value in {int(one) for one in np.intersect1d(spans(tokens), sought)}:
            held[value] = held.get(value, 0) + 1
    found: dict[int, int] = {}
    for value, count in held.items():
        found[wanted[value]] = max(found.get(wanted[value], 0), count)
    return found


def corpus_tokens(folder: Path, tokenizer: Any) -> Iterator[list[int]]:
    """The tokens of every document of the corpus, a batch at a time encoded."""
    from tqdm import tqdm

    from twofold.train.corpus import documents, shards

    for shard in shards(folder):
        batch: list[str] = []
        for document in tqdm(documents(shard), desc=shard.name, file=sys.stderr, disable=None):
            batch.append(document["text"])
            if len(batch) == 256:
                yield from (one.ids for one in tokenizer.encode_batch_fast(batch, add_special_tokens=False))
                batch.clear()
        yield from (one.ids for one in tokenizer.encode_batch_fast(batch, add_special_tokens=False))


def openings(folder: Path, tokenizer: Any, count: int) -> list[str]:
    """The first words (32 tokens) of pieces of held-out documents, of every text slice alike."""
    from twofold.train import pretrain

    found = pretrain.validation(folder, 32, count)
    texts = [tokenizer.decode(row.tolist()) for name, part in found.items() if not name.startswith("chat") for row in part]
    return texts[:: max(1, len(texts) // count)][:count]


def draw(table: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Bits a byte by slice, a bar for each model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = sorted({name for one in table.values() for name in one})
    figure, axes = plt.subplots(figsize=(10, 4))
    width = 0.8 / len(table)
    for number, (model, bits) in enumerate(table.items()):
        axes.bar([at + number * width for at in range(len(names))], [bits.get(name, 0.0) for name in names], width, label=model)
    axes.set_xticks([at + 0.4 - width / 2 for at in range(len(names))], names, rotation=30, ha="right")
    axes.set(ylabel="bits a byte, held-out documents")
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(config: Config) -> None:
    """Measure, draw, write."""
    from tokenizers import Tokenizer

    from twofold.train import pretrain

    folders = {name: Path(folder) for name, _, folder in (pair.partition("=") for pair in config.models.split(","))}
    last = list(folders.values())[-1]
    tokenizer = Tokenizer.from_file(str(last / "tokenizer.json"))
    found = pretrain.validation(Path(config.corpus), config.context, config.rows)
    result: dict[str, Any] = {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "losses": {}, "bits_per_byte": {}}
    for name, folder in folders.items() if found else ():
        result["losses"][name] = losses(plain(folder), found)
        result["bits_per_byte"][name] = pretrain.bits_per_byte(result["losses"][name], found, folder / "tokenizer.json")
        print(name, result["losses"][name], flush=True)
    result["tokens_a_slice"] = {name: ids[:, 1:].size for name, ids in found.items()}
    if found:
        draw(result["bits_per_byte"], config.plot)
    asked = functions()
    for name, folder in folders.items():
        failed = completed(plain(folder), tokenizer, asked)
        passed = sum(not failure for failure in failed.values())
        low, high = suite.wilson(passed, len(asked))
        result.setdefault("completions", {})[name] = {"n": len(asked), "passed": passed, "percent": round(100 * passed / len(asked), 1)}
        result["completions"][name] |= {"interval": (round(low, 1), round(high, 1)), "failed": {k: v for k, v in failed.items() if v}}
        print(name, passed, "of", len(asked), flush=True)
    if config.text and found:
        samples = list(continued(plain(last), tokenizer, openings(Path(config.corpus), tokenizer, config.samples), 120))
        copies = copied(samples, corpus_tokens(Path(config.text), tokenizer))
        rare = [number for number, count in copies.items() if count < 3]
        result["copies"] = {"samples": len(samples), "span": SPAN, "copied": len(copies), "copied_from_fewer_than_3": len(rare)}
        result["copies"]["texts"] = [tokenizer.decode(samples[number])[:300] for number in rare[:10]]
        print(result["copies"], flush=True)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
