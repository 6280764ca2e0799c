"""Train the encoder that `twofold.embed` serves: the first blocks of the base model learn to put questions that want the same together.

Two phases of contrastive learning (InfoNCE, arXiv 1807.03748, with all other texts of a batch as negatives). First on pairs that documents
hold by themselves: a task and its cell, a title and its passage, a sentence and the next paragraph. Then on two wordings of one intent or
card, or a wording and the text it should find, mixed with the first kind so that nothing is forgotten; three heads on the same mean state
learn the router's labels beside it. Held-out intents and cards, the last wordings of each and the router's tests are never shown.
"""

import itertools
import multiprocessing
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twofold import embed
from twofold.datasets import build, rows
from twofold.train import corpus, mine, pretrain, record, router
from twofold.train.quantize import is_linear, pack
from twofold.types import TwofoldError

LABELS = ("topic", "code", "recall")
"""What the heads tell, in the order of `embed.Sense`."""
QUESTIONS = ("what is {}", "explain {}", "{}?", "why {}", "how does {} work", "when do i use {}")
NEIGHBOURS = 6
"""Pairs of neighbouring paragraphs drawn from one document."""
LOW = 0.05
"""Share of tokens that a text loses in training, so that no single word decides."""


@dataclass(frozen=True, slots=True)
class Config:
    """What `twofold train embed` does."""

    corpus: str = "corpus"
    """Folder of text shards for the first phase (docs/training.md tells their form); empty leaves that phase out."""
    drop: str = ""
    """File with lines shard TAB line number of documents to leave out."""
    base: str = "src/twofold/weights/base"
    """NF4 folder whose first blocks are the start and whose token embeddings stay."""
    out: str = "src/twofold/weights"
    """Folder for encoder.safetensors."""
    run: str = "out/embed"
    """Folder for run.json."""
    blocks: int = 4
    """Blocks of the base that are kept."""
    pair_steps: int = 600
    """Steps on pairs from documents."""
    pair_batch: int = 1536
    """Pairs a step."""
    ask_steps: int = 700
    """Steps on wordings of intents and cards."""
    ask_batch: int = 768
    """Intents and cards a step, two texts of each."""
    router_batch: int = 512
    """Questions with the router's labels a step."""
    router_share: float = 0.5
    """Weight of their loss."""
    pair_lr: float = 3e-4
    """Peak learning rate of the first phase."""
    ask_lr: float = 2e-4
    """Peak learning rate of the second."""
    temperature: float = 0.05
    """Of InfoNCE."""
    pairs: int = 300_000
    """Pairs kept, drawn from all."""
    seed: int = 0
    """Seed of every draw."""


class Encoder(nn.Module):
    """What `embed.Encoder` computes, in torch and for batches."""

    def __init__(self, base: pretrain.Model) -> None:  # noqa: D107
        super().__init__()
        self.embed_tokens, self.layers, self.norm = base.embed_tokens, base.layers, base.norm
        self.embed_tokens.requires_grad_(requires_grad=False)
        for name in ("cos", "sin"):
            self.register_buffer(name, base.get_buffer(name), persistent=False)
        hidden = base.embed_tokens.weight.shape[1]
        self.proj, self.heads = nn.Linear(hidden, embed.SIZE, bias=False), nn.Linear(hidden, len(LABELS))

    def forward(self, ids: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (batch, SIZE) and logits (batch, 3) of padded ids (batch, length); real marks what is no padding."""
        length = ids.shape[1]
        x = self.embed_tokens(ids)
        cos, sin = self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype)  # type: ignore[index]
        for block in self.layers:
            assert isinstance(block, pretrain.Block)
            states, attention = block.input_layernorm(x), block.self_attn
            q, k = attention.queries_keys(states, cos, sin)
            v = attention.v_proj(states).view(*states.shape[:2], attention.kv_heads, attention.width).transpose(1, 2)
            y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=real[:, None, None], enable_gqa=True)
            x = x + attention.o_proj(y.transpose(1, 2).flatten(2))
            x = x + block.mlp(block.post_attention_layernorm(x))
        mean = (self.norm(x).float() * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return F.normalize(self.proj(mean), dim=-1), self.heads(mean)


def document_pairs(document: dict[str, Any], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Two texts of a document that belong together, some times over."""
    text = document["text"]
    if "```python" in text:
        yield from ((cell.task, cell.code) for cell in mine.cells(text))
    for title, body in (*mine.passages(text), *mine.definitions(text)):
        yield title if rng.random() < 0.5 else rng.choice(QUESTIONS).replace("{}", title.lower()), body[:400]
        sentences = re.split(r"(?<=[.!?])\s+", body)
        if len(sentences) > 3:
            at = rng.randrange(1, len(sentences) - 1)
            yield sentences[at], " ".join(sentences[:at] + sentences[at + 1 :])[:400]
    prose = (" ".join(part.split()) for part in re.split(r"\n\s*\n", re.sub(r"```.*?```", "", text, flags=re.S)))
    paragraphs = [part for part in prose if 80 < len(part) < 900 and part[0].isalpha() and "http" not in part]
    for at in rng.sample(range(len(paragraphs) - 1), min(NEIGHBOURS, len(paragraphs) - 1)) if paragraphs else ():
        said = [part for part in re.split(r"(?<=[.!?。！？])\s*", paragraphs[at]) if len(part) > 15] or [paragraphs[at]]
        yield rng.choice(said)[:300], paragraphs[at + 1][:400]


def pairs(config: Config) -> list[tuple[str, str]]:
    """The pairs of all shards with running text, at most `config.pairs`, in random order; a process a shard."""
    from tqdm import tqdm

    shards = corpus.shards(Path(config.corpus))
    with ProcessPoolExecutor(min(len(shards), os.cpu_count() or 1), multiprocessing.get_context("spawn")) as pool:
        parts = pool.map(shard_pairs, shards, itertools.repeat(config))
        found = [pair for part in tqdm(parts, desc="shards", total=len(shards), file=sys.stderr, disable=None) for pair in part]
    random.Random(config.seed).shuffle(found)
    return found[: config.pairs]


def shard_pairs(shard: Path, config: Config) -> list[tuple[str, str]]:
    """The pairs of one shard."""
    rng, found = random.Random(f"{config.seed}/{shard.name}"), list[tuple[str, str]]()
    dropped = {tuple(line.split("\t")[:2]) for line in Path(config.drop).read_text().splitlines()} if config.drop else set()
    for number, document in enumerate(corpus.documents(shard)):
        if document["kind"] != "code" and (shard.name, str(number)) not in dropped and corpus.wanted(document["text"]):
            found += document_pairs(document, rng)
    return found


def wordings(config: Config) -> list[tuple[list[str], list[str], list[str]]]:
    """For each intent and card that is not held out: its asks, the same in other languages, and other texts of it."""
    rng, known, frozen, found = random.Random(config.seed), rows.frames(), build.heldout(), []
    for intent in rows.intents():
        if intent.id in frozen:
            continue

        def said(ask: str, language: str = "en", intent: rows.Intent = intent) -> str:
            filled = rows.fill(intent, known, rng, rows.mentioned(ask))
            text = build.say(ask, filled, intent.slots, rng, language)
            return build.rough(text, rng, (*filled.said.values(), *filled.code.values())) if language == "en" else text

        asks = [said(ask) for ask in intent.asks[: -build.EVAL_ASKS] for _ in range(3)]
        foreign = [said(ask, language) for language, many in intent.asks_in.items() for ask in many[:-1] for _ in range(2)]
        texts = [build.example(intent, known, random.Random(f"{intent.id}/{number}")).text for number in range(2)]
        found.append((asks, foreign, [f"{intent.id.replace('-', ' ')} {intent.topic}", *texts]))
    for card in rows.cards():
        if card.id not in frozen:
            asks = list(card.asks[: -build.EVAL_ASKS])
            note = build.card_note(card).text
            lines = [line.partition(": ")[2] or line for line in note.splitlines()[:12]]
            claims = [wrong["claim"] for wrong in card.misconceptions]
            rough = [build.rough(ask, rng, ()) for ask in asks]
            found.append((asks + rough, [*card.asks_in.values(), *card.names_in.values()], [*card.names, *claims, *lines, note]))
    return found


def two_of(wording: tuple[list[str], list[str], list[str]], rng: random.Random) -> tuple[str, str]:
    """What somebody asks and another text that means the same."""
    asks, foreign, texts = wording
    draw, others = rng.random(), rng.random()
    first = rng.choice(foreign if foreign and others < 0.3 else asks)
    second = rng.choice(asks if draw < 0.4 or not texts else texts if draw < 0.8 or not foreign else foreign)
    return first, second


class Batches:
    """Texts as padded token ids on a device, each text tokenised once."""

    def __init__(self, tokenizer: Any, device: torch.device, seed: int) -> None:  # noqa: D107
        self._tokenizer, self._device, self._rng = tokenizer, device, np.random.default_rng(seed)
        self._known: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str], low: float = 0.0) -> tuple[Tensor, Tensor]:
        """Ids and their mask, each (texts, longest); `low` is the share of tokens left out."""
        if missing := [text for text in texts if text not in self._known]:
            encoded = self._tokenizer.encode_batch_fast(missing, add_special_tokens=False)
            self._known |= {text: one.ids[: embed.MOST] for text, one in zip(missing, encoded, strict=True)}
        found = [np.asarray(self._known[text] or [0]) for text in texts]
        if low:
            found = [one[self._rng.random(len(one)) >= low] if len(one) > 4 else one for one in found]
        width = max(1, *map(len, found))
        ids, real = np.zeros((len(found), width), np.int64), np.zeros((len(found), width), bool)
        real[:, 0] = True
        for number, one in enumerate(found):
            ids[number, : len(one)], real[number, : len(one)] = one, True
        return torch.from_numpy(ids).to(self._device), torch.from_numpy(real).to(self._device)


def contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """InfoNCE both ways over unit vectors (batch, SIZE): row i of the one belongs to row i of the other."""
    scores = first @ second.T / temperature
    right = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


def descend(model: Encoder, steps: int, lr: float, loss_of: Callable[[], Tensor], name: str) -> float:
    """AdamW with 30 steps of warm-up and a linear end; returns the mean loss of the last fifty steps."""
    from tqdm import trange

    device = next(model.parameters()).device.type
    wanted = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(wanted, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    last: list[float] = []
    for step in (bar := trange(steps, desc=name, file=sys.stderr, disable=None)):
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 30) * max(0.02, 1 - step / steps)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = loss_of()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(wanted, 1.0)
        optimiser.step()
        last = [*last[-49:], float(loss.detach())]
        bar.set_postfix(loss=f"{sum(last) / len(last):.3f}", refresh=False)
    return round(sum(last) / max(1, len(last)), 4)


def tensors(model: Encoder) -> dict[str, Tensor]:
    """What the file holds: linears of the blocks in NF4, everything else but the token embeddings in float16."""
    found: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        if "embed_tokens" not in name:
            values = weight.data.cpu()
            found |= pack(name, values) if is_linear(name) else {name: values.half().contiguous()}
    return found


def main(config: Config) -> None:
    """Train both phases and write the encoder."""
    from safetensors.torch import save_file

    started, base = time.perf_counter(), Path(config.base)
    if not (base / "tokenizer.json").exists():
        raise TwofoldError(f"no base model in {base}: name its NF4 folder with --base")
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("high")
    tokenizer, _ = corpus.load_tokenizer(config.base)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    whole = pretrain.Model(pretrain.Config(), tokenizer.get_vocab_size())
    pretrain.start_from(whole, base)
    whole.layers = whole.layers[: config.blocks]
    model = Encoder(whole).to(device)
    batches, rng = Batches(tokenizer, device, config.seed), random.Random(config.seed)
    numbers: dict[str, Any] = {}

    found = pairs(config) if config.corpus else []

    def paired(count: int) -> Tensor:
        drawn = rng.sample(found, min(count, len(found)))
        first, second = (model(*batches([pair[side] for pair in drawn]))[0] for side in (0, 1))
        return contrast(first, second, config.temperature)

    if found:
        numbers["pairs"] = len(found)
        numbers["pair_loss"] = descend(model, config.pair_steps, config.pair_lr, lambda: paired(config.pair_batch), "pairs")

    asked = wordings(config)
    train, _, weak, _ = router.gather(router.Config())
    labelled = [row for row in (*train, *weak) if row.text.strip()]
    weights = [row.weight for row in labelled]

    def routed() -> Tensor:
        drawn = rng.choices(labelled, weights, k=config.router_batch)
        logits = model(*batches([row.text for row in drawn], LOW))[1].float()
        truth = [(row.topic, None if row.intent is None else row.intent == "code", row.recall) for row in drawn]
        losses = []
        for head, labels in enumerate(zip(*truth, strict=True)):
            known = torch.tensor([label is not None for label in labels], device=device)
            right = torch.tensor([bool(label) for label in labels], device=device, dtype=torch.float32)
            losses.append(F.binary_cross_entropy_with_logits(logits[known, head], right[known]))
        return torch.stack(losses).sum()

    def worded() -> Tensor:
        drawn = [two_of(one, rng) for one in rng.sample(asked, min(config.ask_batch, len(asked)))]
        first, second = (model(*batches([pair[side] for pair in drawn], 2 * LOW))[0] for side in (0, 1))
        loss = contrast(first, second, config.temperature) + config.router_share * routed()
        return loss + 0.3 * paired(config.pair_batch // 6) if found else loss

    numbers |= {"intents_and_cards": len(asked), "router_rows": len(labelled)}
    numbers["ask_loss"] = descend(model, config.ask_steps, config.ask_lr, worded, "asks")
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors(model), out / "encoder.safetensors", {"format": "pt"})
    numbers["minutes"] = round((time.perf_counter() - started) / 60, 1)
    record.write(Path(config.run), config, numbers, [base / "model.safetensors"])
    print(f"{out / 'encoder.safetensors'}: {(out / 'encoder.safetensors').stat().st_size / 2**20:.0f} MiB, {numbers}")


if __name__ == "__main__":
    main(Config())
