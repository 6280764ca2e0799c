"""The Mistral decoder (arXiv 2310.06825) as one plain function over weights that another library has loaded, with stacked LoRA adapters.

Same arithmetic as transformers' MistralForCausalLM in bf16, but each row of a batch names its adapter and its place in a static cache. It
runs wherever torch runs: it reads prompts on a GPU, and is the reference for the kernels that decode there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from twofold.engines.libraries import block_scales
from twofold.engines.nf4 import BLOCK, unpack

FUSED: Mapping[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The four matrices of a layer, and the projections that each is made of, from its first row on."""
MOST = 2048
"""Tokens of a prompt that are computed at once."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model, in elements."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    context: int
    eps: float

    @property
    def sizes(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """(rows of each projection, columns) of the four matrices."""
        kv = self.kv_heads * self.head
        return {
            "qkv": ((self.heads * self.head, kv, kv), self.hidden),
            "o": ((self.hidden,), self.heads * self.head),
            "up": ((self.inner, self.inner), self.hidden),
            "down": ((self.hidden,), self.inner),
        }


@dataclass(slots=True)
class Packed:
    """A fused matrix in NF4."""

    w: Tensor
    """(rows, columns / 2) uint8; the earlier weight in the high nibble, as bitsandbytes stores it. On a GPU in tiles, see `tiled`."""
    scale: Tensor
    """(rows, columns / 64): fp16 and in tiles on a GPU, float32 elsewhere."""
    halves: bool = False
    """Whether its tiles hold 8 rows of each half (gate and up)."""
    plain: Tensor | None = None
    """Its bf16 values, kept once computed where there is no kernel to unpack them."""

    def values(self) -> Tensor:
        """The weights in bf16 (rows, columns)."""
        if self.plain is None:
            self.plain = unpack(self.w, self.scale.float(), len(self.w), torch.bfloat16)
        return self.plain


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: two norms (hidden,) and four matrices by the names of FUSED."""

    before: Tensor
    after: Tensor
    matrices: Mapping[str, Packed]


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's weights, all bf16 but the packed matrices."""

    shape: Shape
    embedding: Tensor
    head: Tensor
    norm: Tensor
    layers: tuple[Layer, ...]
    rope: Tensor
    """(context, 2, head): cosines and sines of each position, rounded to bf16 as transformers rounds them."""

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.embedding.device


class Unsupported(Exception):
    """This model, or this GPU, is not one that the own decoder serves; the text says why."""


def shape_of(model: Any) -> Shape:
    """Sizes of a causal model that transformers has loaded. Raises Unsupported when it is not a Mistral."""
    config = model.config
    if config.model_type not in ("mistral", "llama") or getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        raise Unsupported(f"a {config.model_type} model is not a Mistral")
    if getattr(config, "sliding_window", None):
        raise Unsupported("attention with a sliding window is not served")
    if config.hidden_act != "silu":
        raise Unsupported(f"the activation {config.hidden_act} is not served")
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = (config.num_attention_heads, config.num_key_value_heads, head)
    room = (config.vocab_size, config.max_position_embeddings, config.rms_norm_eps)
    for part in (layer.get_submodule(part) for layer in model.model.layers for parts in FUSED.values() for part in parts):
        state = getattr(part.weight, "quant_state", None)
        if state is None or state.quant_type != "nf4" or state.blocksize != BLOCK or part.bias is not None or part.in_features % BLOCK:
            raise Unsupported("a layer is not in NF4 with blocks of 64")
    return Shape(config.num_hidden_layers, config.hidden_size, config.intermediate_size, *heads, *room)


def gather(model: Any) -> Weights:
    """Take the weights of a causal model that transformers has loaded in NF4, before its first forward pass. Raises Unsupported.

    On a GPU they are taken away from the model, which cannot compute any more, so that nothing is held twice. The scales of double
    quantisation are unfolded to fp16 (1/32 byte a weight: 0.2 GiB for 7 B).
    """
    shape, body = shape_of(model), model.model
    with torch.no_grad():
        layers = tuple(
            Layer(
                layer.input_layernorm.weight.detach(),
                layer.post_attention_layernorm.weight.detach(),
                {name: _fuse([layer.get_submodule(part) for part in parts], name == "up") for name, parts in FUSED.items()},
            )
            for layer in body.layers
        )
        embedding = body.embed_tokens.weight.detach()
        places = torch.arange(shape.context, device=embedding.device)[None]
        rope = torch.stack([table[0] for table in body.rotary_emb(embedding[:1, None], places)], 1)
    return Weights(shape, embedding, model.lm_head.weight.detach(), body.norm.weight.detach(), layers, rope)


def _fuse(parts: Sequence[Any], halves: bool) -> Packed:
    w = torch.cat([part.weight.data.reshape(part.out_features, -1) for part in parts])
    scale = torch.cat([block_scales(part.weight.quant_state).reshape(part.out_features, -1) for part in parts])
    if not w.is_cuda:
        return Packed(w, scale)
    for part in parts:
        part.weight.data = w.new_empty(0)
    return Packed(*tiled(w, scale.half(), halves), halves)


def tiled(w: Tensor, scale: Tensor, halves: bool) -> tuple[Tensor, Tensor]:
    """Lay a matrix (rows, columns / 2) and its scales (rows, columns / 64) out as decode.cu reads them, in the same shapes.

    A tile is 16 rows; with halves, 8 rows of the upper half and the same 8 of the lower. In a tile, 64 columns come after the other; there
    thread 4 g + q of a warp has 8 bytes of row g and 8 of row g + 8, those of the columns 16 q to 16 q + 15. Scales: 256 columns after
    the other, there for each g the four of row g and the four of row g + 8.
    """
    rows, bytes_ = w.shape
    if halves:
        w, scale = (part.view(2, rows // 16, 8, -1).transpose(0, 1).reshape(rows, -1) for part in (w, scale))
    w = w.view(rows // 16, 2, 8, bytes_ // 32, 4, 8).permute(0, 3, 2, 4, 1, 5).reshape(rows, bytes_)
    return w, scale.view(rows // 16, 2, 8, bytes_ // 128, 4).permute(0, 3, 2, 1, 4).reshape(rows, -1)


class Stacks:
    """All adapters' LoRA matrices, one slot each; slot 0 is BASE and stays zero.

    a[name][layer]: (slots, projections * rank, columns); b[name][layer]: (slots, rows, rank), with the adapter's scaling in it. fp16 on a
    GPU, float32 elsewhere. The tensors never move, so a captured graph sees an adapter that is written later.
    """

    def __init__(self, shape: Shape, device: torch.device, slots: int, rank: int) -> None:
        """Make room for slots - 1 adapters up to a rank, a multiple of 16."""
        self.shape, self.slots, self.rank = shape, slots, rank
        kind = torch.float16 if device.type == "cuda" else torch.float32
        self.a: dict[str, Tensor] = {}
        self.b: dict[str, Tensor] = {}
        for name, (rows, columns) in shape.sizes.items():
            self.a[name] = torch.zeros(shape.layers, slots, len(rows) * rank, columns, dtype=kind, device=device)
            self.b[name] = torch.zeros(shape.layers, slots, sum(rows), rank, dtype=kind, device=device)

    def write(self, slot: int, tensors: Mapping[str, Tensor], scaling: float) -> None:
        """Put an adapter into a slot: tensors by the names of peft's file, (rank, columns), (rows, rank). What is absent adds nothing."""
        for name, (rows, _) in self.shape.sizes.items():
            self.a[name][:, slot].zero_()
            self.b[name][:, slot].zero_()
            for layer in range(self.shape.layers):
                first = 0
                for i, (part, count) in enumerate(zip(FUSED[name], rows, strict=True)):
                    key = f"base_model.model.model.layers.{layer}.{part}.lora_"
                    if f"{key}A.weight" in tensors:
                        a, b = tensors[f"{key}A.weight"], tensors[f"{key}B.weight"].float() * scaling
                        self.a[name][layer, slot, i * self.rank : i * self.rank + len(a)] = a.to(self.a[name])
                        self.b[name][layer, slot, first : first + count, : len(a)] = b.to(self.b[name])
                    first += count

    def copy(self, other: "Stacks") -> None:
        """Take over all slots of a smaller or equal stack."""
        for name, (rows, _) in self.shape.sizes.items():
            for i in range(len(rows)):
                mine, its = i * self.rank, i * other.rank
                self.a[name][:, : other.slots, mine : mine + other.rank] = other.a[name][:, :, its : its + other.rank]
            self.b[name][:, : other.slots, :, : other.rank] = other.b[name]


@dataclass(slots=True)
class Cache:
    """Keys and values of `rows` conversations, (layers, rows, KV heads, context, head) bf16 each, allocated once."""

    keys: Tensor
    values: Tensor

    @classmethod
    def make(cls, shape: Shape, rows: int, context: int, device: torch.device) -> "Cache":
        """Allocate; the values start at zero, because what a mask hides is still multiplied."""
        size = (shape.layers, rows, shape.kv_heads, context, shape.head)
        return cls(*(torch.zeros(size, dtype=torch.bfloat16, device=device) for _ in range(2)))

    def share(self, source: int, rows: Sequence[int], length: int) -> None:
        """Copy the first `length` positions of a row to others."""
        for row in rows:
            for part in (self.keys, self.values):
                part[:, row, :, :length] = part[:, source, :, :length]


@dataclass(slots=True)
class Unpacker:
    """Gives a packed matrix as bf16: from its own values, or through `kernels` into one buffer that all matrices share."""

    kernels: Any = None
    room: Tensor | None = field(default=None)

    def __call__(self, packed: Packed) -> Tensor:
        """(rows, columns) bf16; with kernels, valid until the next call on this stream."""
        if self.kernels is None:
            return packed.values()
        rows, columns = packed.w.shape[0], packed.w.shape[1] * 2
        if self.room is None or self.room.numel() < rows * columns:
            self.room = torch.empty(rows * columns, dtype=torch.bfloat16, device=packed.w.device)
        out = self.room[: rows * columns].view(rows, columns)
        self.kernels.unpack(packed.w, packed.scale, out, packed.halves)
        return out


@torch.inference_mode()
def forward(
    weights: Weights,
    stacks: Stacks,
    cache: Cache,
    unpack: Unpacker,
    ids: Tensor,
    starts: Sequence[int],
    rows: Sequence[int] | Tensor,
    slots: Sequence[int] | Tensor,
) -> Tensor:
    """Compute tokens and store their keys and values; return the last hidden state of each row, normed, (rows, hidden) bf16.

    ids: (rows, tokens); row i continues cache row rows[i] from position starts[i] with the adapter in slots[i]. A prompt is one row, and is
    computed with views where several rows need gathers: on a GPU the time of a prompt goes into starting operations. Rows and slots that
    are int64 tensors on the device are read there, so that a captured graph serves any row and adapter; then all starts are 0.
    """
    shape, device, (count, length) = weights.shape, weights.device, ids.shape
    alone, upto = count == 1 and not isinstance(rows, Tensor), max(starts) + length
    places = torch.arange(length, device=device).expand(count, -1)  # (rows, tokens)
    if any(starts):
        places = places + torch.tensor(starts, device=device)[:, None]
    seats = rows if isinstance(rows, Tensor) else torch.tensor(rows, device=device)
    speaking = isinstance(slots, Tensor) or any(slots)
    chosen = slots if isinstance(slots, Tensor) else torch.tensor(slots, device=device) if speaking else seats
    tables = weights.rope[None, starts[0] : upto] if alone else weights.rope[places]  # (rows, tokens, 2, head)
    cos, sin = (part[:, :, None] for part in tables.unbind(2))
    causal = length > 1 and not any(starts)
    mask = None if causal else (torch.arange(upto, device=device) <= places[..., None])[:, None]  # (rows, 1, tokens, positions)

    def turn(x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return x * cos + torch.cat([-right, left], -1) * sin

    def adapters(stack: Tensor, wide: torch.dtype) -> Tensor:
        return (stack[slots[0] : slots[0] + 1] if alone else stack[chosen]).to(wide)

    def times(x: Tensor, name: str, index: int) -> Tensor:
        y = linear(x, unpack(weights.layers[index].matrices[name]))
        if not speaking:
            return y
        wide = x.dtype if x.is_cuda else torch.float32
        inner = x.to(wide) @ adapters(stacks.a[name][index], wide).mT  # (rows, tokens, projections * rank)
        outer, first = adapters(stacks.b[name][index], wide), 0
        for part, size in zip(torch.split(inner, stacks.rank, -1), shape.sizes[name][0], strict=True):
            y[..., first : first + size] += (part @ outer[:, first : first + size].mT).to(y.dtype)
            first += size
        return y

    def kept(part: Tensor, new: Tensor) -> Tensor:
        """Write (rows, tokens, KV heads, head) into a layer's cache; return what the rows hold now, (rows, KV heads, positions, head)."""
        if alone:
            part[rows[0], :, starts[0] : upto] = new[0].transpose(0, 1)
            return part[rows[0] : rows[0] + 1, :, :upto]
        part[seats[:, None], :, places] = new
        return part[seats, :, :upto]

    x = weights.embedding[ids]
    for index, layer in enumerate(weights.layers):
        qkv = times(_norm(x, layer.before, shape.eps), "qkv", index).view(count, length, -1, shape.head)
        q, k = torch.split(turn(qkv[:, :, : -shape.kv_heads]), [shape.heads, shape.kv_heads], 2)
        seen = kept(cache.keys[index], k), kept(cache.values[index], qkv[:, :, -shape.kv_heads :])
        heads = scaled_dot_product_attention(q.transpose(1, 2), *seen, attn_mask=mask, is_causal=causal, enable_gqa=True)
        x = x + times(heads.transpose(1, 2).reshape(count, length, -1), "o", index)
        gate, up = times(_norm(x, layer.after, shape.eps), "up", index).chunk(2, -1)
        x = x + times(silu(gate) * up, "down", index)
    return _norm(x[:, -1], weights.norm, shape.eps)


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if x.is_cuda:
        return rms_norm(x, weight.shape, weight, eps)  # one launch; it rounds once less than transformers does
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def pieces(length: int) -> Iterator[tuple[int, int]]:
    """Borders of the pieces in which a prompt of some length is computed."""
    return ((first, min(first + MOST, length)) for first in range(0, length, MOST))
