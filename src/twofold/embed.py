"""The small encoder: what a question means, as a vector, and how likely it is data science and wants code. NumPy, no torch.

The first blocks of the embedded base model, trained on (`train.embed`) to put questions that want the same thing close together: attention
looks both ways, the mean of the final states is projected to a unit vector, and three linear heads read the same mean. The file holds NF4
blocks (`train.quantize.pack`), rounded to about a tenth of a percent of recall; the token embeddings are the base model's own.

Limits: the first `MOST` tokens of a text are read. One text at a time, 15-40 ms on one core; 85 MB of memory once loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twofold.types import TwofoldError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHTS = Path(__file__).with_name("weights")
"""Where base/ (token embeddings, tokenizer) and encoder.safetensors lie."""
SIZE = 128
"""Numbers in a vector."""
MOST = 64
"""Tokens of a text that are read."""
LONGEST = 1_000
"""Characters of a text that are looked at: more than `MOST` tokens have."""
HEADS, KV_HEADS, WIDTH = 6, 2, 128
"""Attention: query heads, key and value heads, numbers a head."""
THETA = 10_000.0
EPSILON = 1e-6
_BLOCK = 64
_FLAT = 6.0
"""Logits are kept within this: a text unlike all training is no certainty."""


@dataclass(frozen=True, slots=True)
class Sense:
    """What the encoder makes of a text: a unit vector, (SIZE,) float32, and logits within 6: data science, wants code, refers back."""

    vector: NDArray[np.float32]
    topic: float
    code: float
    recall: float


@dataclass(frozen=True, slots=True)
class Block:
    """One block's matrices, float32, each applied as x @ matrix: qkv (hidden, q + k + v), out, gate and up together, down; two norms."""

    qkv: NDArray[np.float32]
    out: NDArray[np.float32]
    gate_up: NDArray[np.float32]
    down: NDArray[np.float32]
    before: NDArray[np.float32]
    between: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Encoder:
    """A loaded encoder, immutable. embedding: bfloat16 bits, (vocabulary, hidden) uint16, mapped from the base model's file."""

    tokenizer: Any
    embedding: NDArray[np.uint16]
    blocks: tuple[Block, ...]
    norm: NDArray[np.float32]
    projection: NDArray[np.float32]
    heads: NDArray[np.float32]
    bias: NDArray[np.float32]

    def senses(self, texts: Sequence[str]) -> list[Sense]:
        """Read some texts at once, half the time of one after the other. An empty one means nothing: a vector of zeros, logits of 0.

        One thread computes: the matrices are small, and BLAS threads that wait for a busy core cost ten times what they save.
        """
        with _one_thread():
            return self._senses(texts)

    def _senses(self, texts: Sequence[str]) -> list[Sense]:
        import numpy as np

        read = [self.tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids[:MOST] for text in texts]
        ids, ends = [token for one in read for token in one], np.cumsum([0, *map(len, read)])
        spans = [(a, b) for a, b in pairwise(ends.tolist()) if b > a]
        if not spans:
            return [_nothing() for _ in texts]
        x: NDArray[Any] = (self.embedding[ids].astype(np.uint32) << 16).view(np.float32)
        for block in self.blocks:
            qkv = _normed(x, block.before) @ block.qkv
            x = x + np.concatenate([_attention(qkv[a:b]) for a, b in spans]) @ block.out
            gate, up = np.split(_normed(x, block.between) @ block.gate_up, 2, axis=1)
            x = x + (gate / (1.0 + np.exp(-gate)) * up) @ block.down
        x = _normed(x, self.norm)
        means = iter([x[a:b].mean(0) for a, b in spans])
        return [self._sensed(next(means)) if one else _nothing() for one in read]

    def _sensed(self, mean: NDArray[np.float32]) -> Sense:
        import numpy as np

        vector = self.projection @ mean
        topic, code, recall = (min(max(float(score), -_FLAT), _FLAT) for score in self.heads @ mean + self.bias)
        return Sense(vector / np.linalg.norm(vector), topic, code, recall)


@cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # ships no types

    return ThreadpoolController()


def _one_thread() -> AbstractContextManager[Any]:
    return _libraries().limit(limits=1, user_api="blas")  # type: ignore[no-any-return]


def _nothing() -> Sense:
    import numpy as np

    return Sense(np.zeros(SIZE, np.float32), 0.0, 0.0, 0.0)


def _normed(x: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    scaled: NDArray[np.float32] = weight * (x / np.sqrt((x * x).mean(1, keepdims=True) + EPSILON))
    return scaled


@cache
def _rotary(length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    import numpy as np

    angles = np.outer(np.arange(length), THETA ** -(np.arange(0, WIDTH, 2) / WIDTH))
    both = np.concatenate([angles, angles], axis=1).astype(np.float32)
    return np.cos(both)[:, None], np.sin(both)[:, None]


def _attention(qkv: NDArray[Any]) -> NDArray[np.float32]:
    """Grouped-query attention of every token to every token: (tokens, heads of q, k and v) to (tokens, HEADS * WIDTH)."""
    import numpy as np

    split = qkv.reshape(len(qkv), HEADS + 2 * KV_HEADS, WIDTH)
    qk, v = split[:, : HEADS + KV_HEADS], split[:, HEADS + KV_HEADS :]
    cos, sin = _rotary(len(qkv))
    half = WIDTH // 2
    qk = qk * cos + np.concatenate([-qk[..., half:], qk[..., :half]], axis=2) * sin
    q = qk[:, :HEADS].reshape(len(qkv), KV_HEADS, -1, WIDTH)
    scores: NDArray[Any] = np.einsum("qghw,kgw->ghqk", q, qk[:, HEADS:], optimize=True) * WIDTH**-0.5
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed: NDArray[np.float32] = np.einsum("ghqk,kgw->qghw", scores / scores.sum(-1, keepdims=True), v, optimize=True)
    return mixed.reshape(len(qkv), -1)


def read(folder: Path = WEIGHTS) -> Encoder:
    """Read an encoder. Raises TwofoldError when a file of it is missing or of another shape."""
    import numpy as np
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    remedy = "reinstall twofold, or run `twofold train embed`"
    try:
        tensors = load_file(folder / "encoder.safetensors")
        tokenizer = Tokenizer.from_file(str(folder / "base" / "tokenizer.json"))
        embedding = _mapped(folder / "base" / "model.safetensors", "model.embed_tokens.weight")
    except Exception as error:  # the libraries raise bare Exceptions of their own
        raise TwofoldError(f"the encoder cannot be read ({error}): {remedy}") from error
    tokenizer.encode_special_tokens = True
    hidden = embedding.shape[1]

    def matrix(name: str) -> NDArray[np.float32]:
        """An NF4 matrix as float32, transposed: (in, out)."""
        packed, codes = tensors[f"{name}.weight"].reshape(-1), tensors[f"{name}.weight.quant_map"]
        pairs = np.stack([np.repeat(codes, 16), np.tile(codes, 16)], axis=1)[packed]  # a byte is two codes, the high half first
        values = pairs.reshape(-1, _BLOCK) * tensors[f"{name}.weight.absmax"][:, None]
        shape = json.loads(bytes(tensors[f"{name}.weight.quant_state.bitsandbytes__nf4"]))["shape"]
        return values.reshape(shape).T  # type: ignore[no-any-return]

    def block(number: int) -> Block:
        at = f"layers.{number}"
        parts = {name: matrix(f"{at}.self_attn.{name}_proj") for name in "qkvo"}
        parts |= {name: matrix(f"{at}.mlp.{name}_proj") for name in ("gate", "up", "down")}
        return Block(
            np.concatenate([parts["q"], parts["k"], parts["v"]], axis=1), parts["o"],
            np.concatenate([parts["gate"], parts["up"]], axis=1), parts["down"],
            vector(f"{at}.input_layernorm.weight"), vector(f"{at}.post_attention_layernorm.weight"),
        )  # fmt: skip

    def vector(name: str) -> NDArray[np.float32]:
        return tensors[name].astype(np.float32)  # type: ignore[no-any-return]

    count = sum(name.endswith("input_layernorm.weight") for name in tensors)
    projection, heads = vector("proj.weight"), vector("heads.weight")
    if projection.shape != (SIZE, hidden) or heads.shape != (3, hidden):
        raise TwofoldError(f"the encoder in {folder} is of another shape: {remedy}")
    blocks = tuple(block(number) for number in range(count))
    return Encoder(tokenizer, embedding, blocks, vector("norm.weight"), projection, heads, vector("heads.bias"))


def _mapped(path: Path, name: str) -> NDArray[np.uint16]:
    """A bfloat16 tensor of a safetensors file as its bits, mapped and not read: NumPy has no bfloat16.

    The form: eight bytes of length, a JSON header, data (https://huggingface.co/docs/safetensors, "Format").
    """
    import numpy as np

    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))[name]
    if entry["dtype"] != "BF16":
        raise TwofoldError(f"{name} in {path} is {entry['dtype']}, not BF16")
    return np.memmap(path, np.uint16, "r", 8 + size + entry["data_offsets"][0], tuple(entry["shape"]))


@cache
def load() -> Encoder:
    """Return the packaged encoder, read once a process (0.2 s)."""
    return read()


def sense(text: str) -> Sense:
    """Read one text with the packaged encoder; the last few texts are remembered."""
    return _sense(text[:LONGEST])


@lru_cache(256)
def _sense(text: str) -> Sense:
    return load().senses([text])[0]


def centre(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the mean direction of texts that mean the same, a unit vector of (SIZE,); zeros for none."""
    import numpy as np

    total = np.sum([np.zeros(SIZE, np.float32), *(one.vector for one in load().senses(texts))], axis=0)
    unit: NDArray[np.float32] = total / (float(np.linalg.norm(total)) or 1.0)
    return unit
