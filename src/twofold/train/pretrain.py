"""Stage 3: pretrain the small Mistral-architecture model from nothing, on one CPU, one GPU or several (torchrun).

Forward weights are bf16 on a GPU (float32 on a CPU) and are rewritten after every step from float32 masters that the optimiser owns; in the
last part of training they are rewritten rounded to NF4, so that the gradient passes straight through the rounding and the model learns to
live with it.
Sources: Muon, K. Jordan 2024; match_rms_adamw, arXiv 2502.16982; z-loss, PaLM (arXiv 2204.02311); the mix and schedule, docs/training.md.
"""

import itertools
import json
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twofold.train import record
from twofold.train.quantize import dequantized, round_nf4
from twofold.types import TwofoldError

T = TypeVar("T")

# Shares of each slice, by phase. Slices that have no file are left out and the others scaled up.
EARLY = {
    "notebook": 18, "code": 30, "python": 13, "docs": 8, "prose": 9, "multilingual": 2,
    "mined-code": 2, "mined-theory": 4, "chat-code": 9, "chat-theory": 5,
}  # fmt: skip
LATE = {
    "notebook": 17, "code": 19, "python": 7, "docs": 8, "prose": 6, "multilingual": 2,
    "mined-code": 3, "mined-theory": 6, "chat-code": 20, "chat-theory": 12,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Config:
    """What `twofold train pretrain` does."""

    corpus: str = "out/corpus"
    """Folder of token files from stage 2."""
    tokenizer: str = "out/tokenizer"
    """Tokenizer folder, copied beside the weights."""
    out: str = "out/pretrain"
    """Where snapshots, log.jsonl, loss.png and the final model/ are written."""
    minutes: float = 20.0
    """Wall-clock budget of the training loop; every schedule follows it."""
    steps: int = 0
    """Stop after this many steps and let schedules follow the step count instead; 0 = by the clock."""
    layers: int = 14
    """Transformer blocks."""
    hidden: int = 768
    """Width of the residual stream."""
    mlp: int = 2048
    """Width inside the gated MLP."""
    heads: int = 6
    """Query heads."""
    kv_heads: int = 2
    """Key and value heads."""
    head_dim: int = 128
    """Width of a head."""
    batch_tokens: int = 262_144
    """Tokens per optimiser step over all devices."""
    micro_tokens: int = 65_536
    """Tokens per forward pass on one device."""
    context: int = 1024
    """Sequence length until the late phase."""
    late_context: int = 2048
    """Sequence length in the late phase."""
    late: float = 0.6
    """Progress (0-1) at which the late mix and context begin."""
    chat: float = 0.0
    """Share of the chat slices in the late mix (0-1); 0 = as in LATE."""
    nf4: float = 0.7
    """Progress at which forward weights are rounded to NF4."""
    decay_from: float = 0.4
    """Progress at which the learning rate begins to fall to zero."""
    lr: float = 3e-3
    """Peak learning rate of all parameters."""
    weight_decay: float = 0.25
    """Decoupled weight decay of matrices."""
    warmup: int = 100
    """Steps over which the learning rate rises."""
    z_loss: float = 1e-4
    """Weight of the squared log-partition, which keeps logits from drifting."""
    clip: float = 1.0
    """Largest gradient norm."""
    max_attention_logit: float = 80.0
    """Rescale q and k of a layer whose largest attention logit in a check exceeds this."""
    seed: int = 0
    """Seed of weights and data order."""
    snapshot_minutes: float = 10.0
    """Time between snapshots; a run started again with the same out goes on from the last."""
    compile: bool = True
    """Use torch.compile on a GPU."""
    init: str = ""
    """Model folder (NF4 or bf16, of this shape and tokenizer) whose weights the run goes on from; empty = random weights."""
    wait_for: str = ""
    """Comma-separated slices without which training does not begin (files may arrive while it runs)."""


def late_mix(chat: float) -> dict[str, float]:
    """The late shares with another share of chats (0-1; 0 = as they are); all else keeps its proportions."""
    chats = sum(share for name, share in LATE.items() if name.startswith("chat-"))
    rest = sum(LATE.values()) - chats
    if not chat:
        return dict(LATE)
    return {name: share * (chat / chats if name.startswith("chat-") else (1 - chat) / rest) for name, share in LATE.items()}


def rotary(length: int, width: int, theta: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """cos and sin tables, each (length, width), in the half-rotation layout of transformers' Mistral."""
    frequency = 1.0 / theta ** (torch.arange(0, width, 2).float() / width)
    angle = torch.outer(torch.arange(length).float(), frequency)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to x (batch, heads, length, width)."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


class Norm(nn.Module):
    """RMSNorm with a learnt scale, computed in float32."""

    def __init__(self, width: int) -> None:  # noqa: D107
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention."""

    def __init__(self, config: Config) -> None:  # noqa: D107
        super().__init__()
        self.heads, self.kv_heads, self.width = config.heads, config.kv_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden, config.heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden, config.kv_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden, config.kv_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.heads * config.head_dim, config.hidden, bias=False)

    def queries_keys(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated queries (batch, heads, length, width) and keys (batch, kv_heads, length, width)."""
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.heads, self.width).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.kv_heads, self.width).transpose(1, 2)
        return rotate(q, cos, sin), rotate(k, cos, sin)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # noqa: D102
        batch, length, _ = x.shape
        q, k = self.queries_keys(x, cos, sin)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.width).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """The gated MLP."""

    def __init__(self, config: Config) -> None:  # noqa: D107
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden, config.mlp, bias=False)
        self.up_proj = nn.Linear(config.hidden, config.mlp, bias=False)
        self.down_proj = nn.Linear(config.mlp, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and MLP, each behind a norm, each added to the residual stream."""

    def __init__(self, config: Config) -> None:  # noqa: D107
        super().__init__()
        self.input_layernorm = Norm(config.hidden)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config.hidden)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # noqa: D102
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class Model(nn.Module):
    """The decoder; parameters carry the names that transformers' MistralModel uses."""

    def __init__(self, config: Config, vocabulary: int) -> None:  # noqa: D107
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, config.hidden)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config.hidden)
        cos, sin = rotary(max(config.context, config.late_context), config.head_dim)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        generator = torch.Generator().manual_seed(config.seed)
        for name, weight in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(weight)
            elif weight.ndim == 2:
                std = config.hidden**-0.5 if "embed" in name else weight.shape[1] ** -0.5
                weight.data.normal_(0.0, std, generator=generator)

    def hidden(self, ids: Tensor) -> Tensor:
        """Final hidden states (batch, length, hidden) of token ids (batch, length)."""
        length = ids.shape[1]
        x = self.embed_tokens(ids)
        cos, sin = self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype)  # type: ignore[index]
        for block in self.layers:
            x = block(x, cos, sin)
        return self.norm(x)  # type: ignore[no-any-return]

    def logits(self, ids: Tensor) -> Tensor:
        """Logits (batch, length, vocabulary)."""
        return F.linear(self.hidden(ids), self.embed_tokens.weight)

    def forward(self, ids: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
        """Loss to minimise and plain cross-entropy (nats a token) for ids and targets, each (batch, length)."""
        return self.loss(self.hidden(ids), targets, z_loss)

    def loss(self, hidden: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
        """The two losses of `forward` from final hidden states (batch, length, hidden)."""
        logits = F.linear(hidden, self.embed_tokens.weight).float().flatten(0, 1)
        z = logits.logsumexp(-1)
        entropy = (z - logits.gather(1, targets.flatten()[:, None]).squeeze(1)).mean()
        return entropy + z_loss * z.square().mean(), entropy.detach()

    def compile_regions(self) -> None:
        """torch.compile the block (once for all layers) and the loss: as fast as the whole graph, a fraction of the time to compile."""
        for block in self.layers:
            block.compile(dynamic=False)
        self.loss = torch.compile(self.loss, dynamic=False)  # type: ignore[method-assign]

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # type: ignore[untyped-decorator]
    def largest_attention_logits(self, ids: Tensor) -> list[float]:
        """The largest attention logit of each layer, over ids (batch, length)."""
        length = ids.shape[1]
        x = self.embed_tokens(ids)
        cos, sin = self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype)  # type: ignore[index]
        found = []
        for block in self.layers:
            attention = block.self_attn
            q, k = attention.queries_keys(block.input_layernorm(x), cos, sin)  # type: ignore[union-attr, operator]
            k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
            found.append(float((q.float() @ k.float().transpose(-1, -2)).amax() / q.shape[-1] ** 0.5))
            x = block(x, cos, sin)
        return found


def start_from(model: Model, folder: Path) -> None:
    """Give a model the weights of a folder. Raises TwofoldError when there are none or they are of another shape."""
    if not (folder / "model.safetensors").exists():
        raise TwofoldError(f"no model.safetensors in {folder}: name the folder of a quantised or exported model with --init")
    found = {name.removeprefix("model."): value.float() for name, value in dequantized(folder / "model.safetensors").items()}
    wanted = dict(model.named_parameters())
    odd = sorted(name for name in wanted if name not in found or found[name].shape != wanted[name].shape)
    if odd:
        raise TwofoldError(f"{folder} is of another shape or vocabulary ({odd[0]}, {len(odd)} in all): --init wants the same")
    for name, weight in wanted.items():
        weight.data.copy_(found[name])


def newton_schulz(stack: Tensor) -> Tensor:
    """Approximately orthogonalise each matrix of a stack (n, rows, columns) in bf16: five quintic iterations."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = stack.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (torch.linalg.vector_norm(x.float(), dim=(1, 2), keepdim=True).to(x.dtype) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x  # type: ignore[no-any-return]


class Optimiser:
    """Float32 masters of a model's parameters: Muon, batched over equal shapes, for block matrices; AdamW for the rest."""

    def __init__(self, model: nn.Module, config: Config, orthogonalise: Any = newton_schulz) -> None:  # noqa: D107
        self.config, self.orthogonalise = config, orthogonalise
        named = dict(model.named_parameters())
        self.rest = [weight for name, weight in named.items() if weight.ndim != 2 or "embed" in name]
        shapes: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for name, weight in named.items():
            if weight.ndim == 2 and "embed" not in name:
                shapes.setdefault(tuple(weight.shape), []).append(weight)
        self.stacks = list(shapes.values())
        self.masters = [torch.stack([weight.data.float() for weight in stack]) for stack in self.stacks]
        self.momenta = [torch.zeros_like(master) for master in self.masters]
        self.rest_masters = [weight.data.float().clone() for weight in self.rest]
        self.first = [torch.zeros_like(master) for master in self.rest_masters]
        self.second = [torch.zeros_like(master) for master in self.rest_masters]
        self.count = 0

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {name: getattr(self, name) for name in ("masters", "momenta", "rest_masters", "first", "second", "count")}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back a `state`. Raises TwofoldError when it is one of another shape."""
        for name in ("masters", "rest_masters"):
            if [one.shape for one in state[name]] != [one.shape for one in getattr(self, name)]:
                raise TwofoldError("the snapshot is of a model of another shape or vocabulary: choose another --out, or delete it")
        self.count = state["count"]
        for name in ("masters", "momenta", "rest_masters", "first", "second"):
            for mine, saved in zip(getattr(self, name), state[name], strict=True):
                mine.copy_(saved)

    @torch.no_grad()
    def write_forward(self, nf4: bool) -> None:
        """Rewrite the model's forward weights from the masters, the matrices rounded to NF4 when asked."""
        for stack, master in zip(self.stacks, self.masters, strict=True):
            values = round_nf4(master) if nf4 else master
            torch._foreach_copy_([weight.data for weight in stack], list(values.unbind(0)))
        torch._foreach_copy_([weight.data for weight in self.rest], self.rest_masters)

    @torch.no_grad()
    def step(self, lr: float) -> Tensor:
        """One update from the gradients in place. Returns the gradient norm before clipping."""
        self.count += 1
        config = self.config
        grads = [torch.stack([weight.grad for weight in stack]).float() for stack in self.stacks]  # type: ignore[misc]
        rest = [weight.grad.float() for weight in self.rest]  # type: ignore[union-attr]
        norm = torch.stack([grad.square().sum() for grad in (*grads, *rest)]).sum().sqrt()
        scale = (config.clip / (norm + 1e-6)).clamp(max=1.0)
        beta = 0.85 + 0.1 * min(1.0, self.count / 300)
        for grad, momentum, master in zip(grads, self.momenta, self.masters, strict=True):
            grad.mul_(scale)
            momentum.lerp_(grad, 1 - beta)
            update = self.orthogonalise(grad.lerp_(momentum, beta)).float()  # Nesterov
            master.mul_(1 - lr * config.weight_decay).sub_(update, alpha=lr * 0.2 * math.sqrt(max(master.shape[1:])))
        for grad, first, second, master in zip(rest, self.first, self.second, self.rest_masters, strict=True):
            grad.mul_(scale)
            first.lerp_(grad, 0.1)
            second.lerp_(grad.square(), 0.05)
            unbiased = first / (1 - 0.9**self.count)
            master.sub_(unbiased / ((second / (1 - 0.95**self.count)).sqrt() + 1e-10), alpha=lr)
        return norm


class Slice:
    """One slice's token pieces, read in a new random order every epoch as one endless stream. New files join what is left of the epoch."""

    def __init__(self, seed: str) -> None:  # noqa: D107
        self.random = np.random.default_rng(hash_seed(seed))
        self.files: list[str] = []
        self.tokens: list[np.ndarray] = []
        self.pieces: list[tuple[int, int, int]] = []
        self.order = np.zeros(0, dtype=np.int64)
        self.at = self.epochs = 0
        self.left = np.zeros(0, dtype=np.uint16)

    def add(self, path: Path) -> None:
        """Take in one token file."""
        with np.load(path) as data:
            tokens, starts = data["tokens"], data["starts"]
        number, before = len(self.tokens), len(self.pieces)
        self.files.append(path.name)
        self.tokens.append(tokens)
        self.pieces += [(number, int(start), int(end)) for start, end in itertools.pairwise(starts)]
        rest = np.concatenate([self.order[self.at :], np.arange(before, len(self.pieces))])
        self.order, self.at = self.random.permutation(rest), 0

    def state(self) -> dict[str, Any]:
        """The place in the stream. Arrays are shared, not copied: nothing writes into them."""
        place = {"files": list(self.files), "at": self.at, "epochs": self.epochs, "random": self.random.bit_generator.state}
        return place | {"order": torch.from_numpy(self.order), "left": torch.from_numpy(self.left)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to the place of a `state`, once its files have been added."""
        self.at, self.epochs, self.random.bit_generator.state = state["at"], state["epochs"], state["random"]
        self.order, self.left = state["order"].numpy(), state["left"].numpy()

    def size(self) -> int:
        """Unique tokens."""
        return sum(len(tokens) for tokens in self.tokens)

    def take(self, count: int) -> np.ndarray:
        """The next `count` tokens of the stream."""
        parts, have = [self.left], len(self.left)
        while have < count:
            if self.at == len(self.order):
                self.order, self.at, self.epochs = self.random.permutation(len(self.pieces)), 0, self.epochs + 1
            number, start, end = self.pieces[self.order[self.at]]
            self.at += 1
            parts.append(self.tokens[number][start:end])
            have += end - start
        flat = np.concatenate(parts)
        self.left = flat[count:]
        return flat[:count]


def hash_seed(text: str) -> int:
    """A number from a text, the same in every process."""
    import zlib

    return zlib.crc32(text.encode())


class Mixture:
    """Batches drawn from all slices of a folder by their shares; looks for files that arrive while training runs."""

    def __init__(self, folder: Path, seed: str) -> None:  # noqa: D107
        self.folder, self.seed = folder, seed
        self.slices: dict[str, Slice] = {}
        self.known: set[Path] = set()
        self.random = np.random.default_rng(hash_seed(seed))
        self.lock = threading.Lock()  # batches are drawn in a thread of their own
        self.refresh()

    def refresh(self) -> None:
        """Take in new files."""
        for path in sorted(set(self.folder.glob("*.npz")) - self.known):
            self.known.add(path)
            name = path.name.split(".")[0]
            if not name.startswith("valid-") and ".part." not in path.name:
                with self.lock:
                    self.slices.setdefault(name, Slice(f"{self.seed}/{name}")).add(path)

    def state(self) -> dict[str, Any]:
        """The place in all streams."""
        with self.lock:
            return {"random": self.random.bit_generator.state, "slices": {name: one.state() for name, one in self.slices.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to the place of a `state`; files that it does not know are taken in as new. Raises TwofoldError when one is gone."""
        self.slices, self.known = {}, set()
        self.random.bit_generator.state = state["random"]
        for name, place in state["slices"].items():
            self.slices[name] = Slice(f"{self.seed}/{name}")
            for file in place["files"]:
                if not (self.folder / file).exists():
                    raise TwofoldError(f"{self.folder / file} is gone, and the snapshot needs it: bring it back, or choose another --out")
                self.known.add(self.folder / file)
                self.slices[name].add(self.folder / file)
            self.slices[name].restore(place)
        self.refresh()

    def batch(self, shares: Mapping[str, float], rows: int, length: int) -> np.ndarray:
        """Token ids (rows, length + 1)."""
        with self.lock:
            names = [name for name in shares if name in self.slices and self.slices[name].size()]
            if not names:
                raise TwofoldError(f"no token files in {self.folder}: run `twofold train corpus` first")
            weights = np.array([shares[name] for name in names], dtype=float)
            drawn = self.random.choice(len(names), size=rows, p=weights / weights.sum())
            return np.stack([self.slices[names[number]].take(length + 1) for number in drawn]).astype(np.int64)


def validation(folder: Path, length: int, rows: int) -> dict[str, np.ndarray]:
    """Fixed validation rows (up to rows, length + 1) by slice, from the files that are there now."""
    found: dict[str, list[np.ndarray]] = {}
    for path in sorted(folder.glob("valid-*.npz")):
        with np.load(path) as data:
            found.setdefault(path.name.split(".")[0].removeprefix("valid-"), []).append(data["tokens"])
    result = {}
    for name, parts in found.items():
        flat = np.concatenate(parts)
        count = min(rows, len(flat) // (length + 1))
        if count:
            starts = np.linspace(0, len(flat) - length - 1, count).astype(int)
            result[name] = np.stack([flat[at : at + length + 1] for at in starts]).astype(np.int64)
    return result


def bits_per_byte(losses: Mapping[str, float], found: Mapping[str, np.ndarray], tokenizer_file: Path) -> dict[str, float]:
    """Losses (nats a token) of validation rows by slice as bits per byte of the text behind them: comparable over tokenizers."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    result = {}
    for name, rows in found.items():
        size = sum(len(text.encode()) for text in tokenizer.decode_batch(rows[:, 1:].tolist()))
        result[name] = round(losses[name] / math.log(2) * rows[:, 1:].size / size, 4)
    return result


def learning_rate(config: Config, progress: float, step: int) -> float:
    """Warm up over steps, hold, then fall linearly to zero at progress 1."""
    fall = 1.0 if progress < config.decay_from else (1 - progress) / (1 - config.decay_from)
    return config.lr * min(1.0, (step + 1) / max(1, config.warmup)) * max(fall, 0.0)


def export(model_state: Mapping[str, Tensor], config: Config, out: Path, vocabulary: int) -> None:
    """Write a folder that AutoModelForCausalLM loads (bf16 safetensors), with the tokenizer beside it."""
    import shutil

    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": value.to(torch.bfloat16).contiguous().cpu() for name, value in model_state.items()}
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    shape = {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": vocabulary, "hidden_size": config.hidden,
        "intermediate_size": config.mlp, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads, "head_dim": config.head_dim, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "max_position_embeddings": max(config.context, config.late_context), "sliding_window": None, "tie_word_embeddings": True,
        "rope_theta": 10_000.0, "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"}, "attention_dropout": 0.0,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "dtype": "bfloat16", "use_cache": True,
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(shape, indent=2) + "\n")
    for file in Path(config.tokenizer).glob("*"):
        if file.name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
            shutil.copy(file, out / file.name)


def plot(log: Path, out: Path) -> None:
    """Draw the loss curves of a log.jsonl: training loss, validation by slice, learning rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    train = [line for line in lines if "loss" in line]
    valid = [line for line in lines if "valid" in line]
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5))
    axes[0].plot([line["tokens"] / 1e6 for line in train], [line["loss"] for line in train], lw=0.8)
    axes[0].set(xlabel="million tokens", ylabel="training loss (nats/token)", ylim=(None, max(5.0, train[-1]["loss"] + 1)))
    for name in sorted({name for line in valid for name in line["valid"]}):
        points = [(line["tokens"] / 1e6, line["valid"][name]) for line in valid if name in line["valid"]]
        axes[1].plot(*zip(*points, strict=True), marker="o", label=name)
        axes[1].legend(fontsize=8)
    axes[1].set(xlabel="million tokens", ylabel="validation loss (nats/token)")
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _prefetch(make: Callable[[], T], depth: int = 4) -> Generator[T, None, None]:
    """Run make() ahead of its use in one thread; what it raises comes out here."""
    pool = ThreadPoolExecutor(1)
    ahead = deque(pool.submit(make) for _ in range(depth))
    try:
        while True:
            ahead.append(pool.submit(make))
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def main(config: Config) -> None:
    """Train, log, snapshot, evaluate, export. Under torchrun every rank runs this; rank 0 writes."""
    from tqdm import tqdm

    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if ranks > 1:
        torch.distributed.init_process_group("nccl" if cuda else "gloo")
    tokenizer_file = Path(config.tokenizer) / "tokenizer.json"
    if not tokenizer_file.exists():
        raise TwofoldError(f"no tokenizer in {config.tokenizer}: run `twofold train tokenizer` first")
    vocabulary = len(json.loads(tokenizer_file.read_text(encoding="utf-8"))["model"]["vocab"])
    out, corpus = Path(config.out), Path(config.corpus)
    out.mkdir(parents=True, exist_ok=True)
    data = Mixture(corpus, f"{config.seed}/{rank}")
    while config.wait_for and not set(config.wait_for.split(",")) <= set(data.slices):
        time.sleep(1)
        data.refresh()

    model: Any = Model(config, vocabulary)
    if config.init:
        start_from(model, Path(config.init))
    model.to(device)
    optimiser = Optimiser(model, config, torch.compile(newton_schulz) if cuda and config.compile else newton_schulz)
    if cuda:
        model.to(torch.bfloat16)
    parameters = sum(weight.numel() for weight in model.parameters())
    step, tokens, spent, nf4 = 0, 0, 0.0, False
    snapshot, mine = out / "snapshot.pt", out / (f"snapshot-{rank}.pt" if rank else "snapshot.pt")
    if snapshot.exists():
        saved = torch.load(snapshot, map_location=device, weights_only=True)
        optimiser.restore(saved["optimiser"])
        step, tokens, spent, nf4 = (saved[name] for name in ("step", "tokens", "spent", "nf4"))
        del saved  # as large as the model and its optimiser
        left = torch.load(mine, map_location="cpu", weights_only=True) if mine.exists() else {}
        if left.get("step") == step:
            data.restore(left["data"])
        else:  # this rank was cut off before it had written its place: another order of the same data
            data.random = np.random.default_rng((config.seed, rank, step))
        if rank == 0:
            print(f"goes on from step {step}, {tokens / 1e6:.0f} M tokens")
    if cuda and config.compile:
        model.compile_regions()
    accumulate = max(1, config.batch_tokens // (config.micro_tokens * ranks))
    stage, drawn = {"late": False}, itertools.count(step * accumulate)

    def make() -> tuple[np.ndarray, dict[str, Any]]:
        """A batch and the place behind it. By the clock, batches drawn ahead are still early ones when the late phase begins."""
        ahead = next(drawn) // accumulate
        late = ahead / config.steps >= config.late if config.steps else stage["late"]
        length = config.late_context if late else config.context
        rows = data.batch(late_mix(config.chat) if late else EARLY, max(1, config.micro_tokens // length), length)
        return rows, data.state()

    log = out / "log.jsonl"
    if rank == 0:  # what came after the snapshot is done again
        past = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        log.write_text("".join(f"{line}\n" for line in past if json.loads(line)["step"] <= step), encoding="utf-8")

    def note(**values: Any) -> None:
        if rank == 0:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # type: ignore[untyped-decorator]  # other shapes: compiling costs more than they do
    def evaluate(nf4: bool) -> dict[str, float]:
        optimiser.write_forward(nf4)
        losses = {}
        for name, rows in validation(corpus, config.context, 64).items():
            total = [float(model(*(torch.from_numpy(part).to(device) for part in (chunk[:, :-1], chunk[:, 1:])), 0.0)[1]) * len(chunk)
                     for chunk in np.array_split(rows, max(1, len(rows) // 16))]  # fmt: skip
            losses[name] = round(sum(total) / len(rows), 4)
        return losses

    def save() -> None:
        held = {"step": step, "data": place}
        if rank == 0:
            held |= {"optimiser": optimiser.state(), "tokens": tokens, "spent": spent, "nf4": nf4}
        torch.save(held, mine.with_suffix(".part"))
        mine.with_suffix(".part").replace(mine)

    flops = 6 * parameters + 6 * config.layers * config.heads * config.head_dim * config.context
    optimiser.write_forward(nf4)
    place, batches = data.state(), _prefetch(make)
    form = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
    bar = tqdm(total=100, desc="pretrain", file=sys.stderr, disable=None if rank == 0 else True, bar_format=form)
    base, began, window = spent, time.perf_counter(), (time.perf_counter(), tokens)
    next_snapshot = base + config.snapshot_minutes * 60
    progress = step / config.steps if config.steps else spent / (config.minutes * 60)
    next_check = 0.15 * (math.floor(progress / 0.15) + 1)
    try:
        while True:
            spent = base + time.perf_counter() - began
            progress = step / config.steps if config.steps else spent / (config.minutes * 60)
            if ranks > 1:  # all ranks go by the clock of the first
                shared = torch.tensor([progress, spent], dtype=torch.float64, device=device)
                torch.distributed.broadcast(shared, 0)
                progress, spent = shared.tolist()
            if progress >= 1.0:
                break
            stage["late"] = progress >= config.late
            nf4_next = progress >= config.nf4
            lr = learning_rate(config, progress, step)
            entropy, seen = torch.zeros((), device=device), 0
            for _ in range(accumulate):
                rows, behind = next(batches)
                ids = torch.from_numpy(rows)
                ids = ids.pin_memory().to(device, non_blocking=True) if cuda else ids
                loss, plain = model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), config.z_loss)
                (loss / accumulate).backward()
                entropy += plain / accumulate
                seen += ids[:, 1:].numel() * ranks
            if ranks > 1:
                sums = [torch.distributed.all_reduce(weight.grad, async_op=True) for weight in model.parameters()]
                for one in sums:
                    one.wait()
                torch._foreach_div_([weight.grad for weight in model.parameters()], ranks)
            norm = optimiser.step(lr)
            model.zero_grad(set_to_none=True)
            step, tokens, place, nf4 = step + 1, tokens + seen, behind, nf4_next
            optimiser.write_forward(nf4)
            if step % 10 == 0 or step <= 3:
                now = time.perf_counter()
                value = float(entropy)
                rate = (tokens - window[1]) / (now - window[0])
                window = (now, tokens)
                note(step=step, tokens=tokens, loss=round(value, 4), norm=round(float(norm), 3), lr=round(lr, 6), tokens_per_s=round(rate),
                     mfu=round(rate * flops / ranks / 989e12, 3) if cuda else None, seconds=round(spent, 1), nf4=nf4)  # fmt: skip
                bar.n = round(100 * progress, 1)
                bar.set_postfix_str(f"step {step}, loss {value:.3f}, {rate / 1e3:.0f} k tokens/s")
                if not math.isfinite(value):
                    raise TwofoldError(f"the loss is {value} at step {step}: lower --lr, or go back to {snapshot}")
            if step % 50 == 0:
                data.refresh()
            if progress >= next_check:
                next_check += 0.15
                logits = model.largest_attention_logits(ids[:4, : min(512, config.context)])
                if ranks > 1:
                    shared = torch.tensor(logits, device=device)
                    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
                    logits = shared.tolist()
                _rescale_attention(model, optimiser, logits, config.max_attention_logit)
                note(step=step, tokens=tokens, valid=evaluate(nf4), attention_logits=[round(value, 1) for value in logits])
                optimiser.write_forward(nf4)
                window = (time.perf_counter(), tokens)
            if spent > next_snapshot:
                next_snapshot += config.snapshot_minutes * 60
                save()
    except KeyboardInterrupt:
        save()
        raise
    finally:
        batches.close()
        bar.close()
    save()
    if ranks > 1:
        torch.distributed.destroy_process_group()
    if rank:
        return
    full, rounded = evaluate(nf4=False), evaluate(nf4=True)
    note(step=step, tokens=tokens, valid=rounded)
    optimiser.write_forward(nf4=False)
    masters: dict[int, Tensor] = {}
    for stack, master in zip(optimiser.stacks, optimiser.masters, strict=True):
        masters.update({id(weight): one for weight, one in zip(stack, master, strict=True)})
    masters.update({id(weight): one for weight, one in zip(optimiser.rest, optimiser.rest_masters, strict=True)})
    state = {name: masters[id(weight)] for name, weight in model.named_parameters()}
    torch.save(state, out / "masters.pt")
    export(state, config, out / "model", vocabulary)
    plot(log, out / "loss.png")

    def mixed(losses: Mapping[str, float]) -> float:
        shares = {name: LATE.get(name, 0) for name in losses}
        return round(sum(losses[name] * share for name, share in shares.items()) / max(1, sum(shares.values())), 4)

    numbers = {
        "parameters": parameters, "steps": step, "tokens": tokens, "seconds": round(spent, 1),
        "tokens_per_s": round(tokens / max(spent, 1e-9)), "gpu": torch.cuda.get_device_name() if cuda else "cpu", "ranks": ranks,
        "loss": {"mixed": mixed(rounded), **rounded},
        "bits_per_byte": bits_per_byte(rounded, validation(corpus, config.context, 64), tokenizer_file),
        "loss_unrounded": {"mixed": mixed(full), **full}, "nf4_penalty": round(mixed(rounded) - mixed(full), 4),
        "unique_tokens": {name: one.size() for name, one in data.slices.items()},
        "epochs": {name: one.epochs for name, one in data.slices.items()},
    }  # fmt: skip
    record.write(out, config, numbers, [tokenizer_file, *sorted(corpus.glob("*.npz"))])
    print(json.dumps(numbers, indent=1))


@torch.no_grad()
def _rescale_attention(model: Model, optimiser: Optimiser, largest: list[float], limit: float) -> None:
    """Shrink q and k of each layer whose largest attention logit is over the limit, so that it comes down to the limit."""
    for block, value in zip(model.layers, largest, strict=True):
        if value > limit:
            for weight in (block.self_attn.q_proj.weight, block.self_attn.k_proj.weight):  # type: ignore[union-attr]
                for stack, master in zip(optimiser.stacks, optimiser.masters, strict=True):
                    for number, one in enumerate(stack):
                        if one is weight:
                            master[number] *= math.sqrt(limit / value)
