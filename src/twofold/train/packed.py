"""Chat rows side by side in one row of fixed length, and a Mistral decoder that computes them without one seeing another.

The layers are plain functions over the weights of a peft model, compiled once for all of them; the peft model itself stays the owner of
the LoRA matrices and writes the adapter. Attention is varlen attention (torch.nn.attention.varlen) on a GPU and one call a row elsewhere,
which means the same. LoRA costs little extra memory traffic, because its narrow products ride on the wide ones: see `_Adapted`.
Sources: LoRA (arXiv 2106.09685), rsLoRA (2312.03732), QLoRA (2305.14314), activation checkpointing (1604.06174).
"""

import functools
import inspect
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from twofold.engines.nf4 import BLOCK, unpack
from twofold.types import TwofoldError

IGNORED = -100
CHUNK = 2048
"""Answer tokens whose logits are held at a time."""
GIB = 2**30
Row = tuple[list[int], list[int]]
"""Token ids and labels of one chat; labels are IGNORED where nothing is to be learnt."""


class Pack(NamedTuple):
    """Rows side by side: tensors of `size` tokens, and where each row begins."""

    ids: Tensor
    """(size,) token ids, 0 after the last row"""
    targets: Tensor
    """(size,) the token that each position should say next, IGNORED where there is none"""
    positions: Tensor
    """(size,) position inside the own row"""
    starts: Tensor
    """(one more than rows and pieces at most,) int32: row n is starts[n] to starts[n + 1]; the rest is cut likewise, then empty"""
    tokens: int
    """tokens of rows, without what is left"""

    def to(self, device: Any) -> "Pack":
        """The same on a device."""
        tensors = [one.to(device, non_blocking=True) for one in self[:4]]
        return Pack(tensors[0], tensors[1], tensors[2], tensors[3], self.tokens)


def packs(rows: Sequence[Row], size: int, longest: int, rng: random.Random | None = None) -> Iterator[Pack]:
    """All rows once, in random order (or as they are), in packs of `size` tokens. No row may exceed `longest`, nor that `size`."""
    most = _most(rows, size)
    for chosen in filled(rows, size, rng):
        yield pack(chosen, size, longest, most)


def filled(rows: Sequence[Row], size: int, rng: random.Random | None = None) -> Iterator[list[Row]]:
    """The rows of each pack.

    A row that does not fit any more gives way to the longest of the next 256 that does, so that little is left over.
    """
    order = list(range(len(rows)))
    if rng:
        rng.shuffle(order)
    while order:
        chosen: list[Row] = []
        room = size
        for _ in range(_most(rows, size)):
            near = [at for at, number in enumerate(order[:256]) if len(rows[number][0]) <= room]
            if not near:
                break
            first = near[0] if near[0] == 0 else max(near, key=lambda at: len(rows[order[at]][0]))
            chosen.append(rows[order.pop(first)])
            room -= len(chosen[-1][0])
        yield chosen


def _most(rows: Sequence[Row], size: int) -> int:
    """Rows that a pack holds at most, a quarter more than fit on average: each costs attention memory, used or not."""
    return math.ceil(1.25 * size * len(rows) / max(1, sum(len(ids) for ids, _ in rows)))


def pack(rows: Sequence[Row], size: int, longest: int, most: int) -> Pack:
    """Put rows, at most `most`, side by side. Raises ValueError where they do not fit."""
    ids: list[int] = []
    targets: list[int] = []
    positions: list[int] = []
    starts = [0]
    for row, labels in rows:
        ids += row
        targets += [*labels[1:], IGNORED]
        positions += range(len(row))
        starts.append(len(ids))
    tokens = len(ids)
    while starts[-1] < size:
        starts.append(min(size, starts[-1] + longest))
    starts += [size] * (most + math.ceil(size / longest) + 1 - len(starts))  # what is left takes as many pieces at most
    if tokens > size or len(rows) > most:
        raise ValueError(f"{len(rows)} rows of {tokens} tokens do not fit in {size}")
    left = size - tokens
    return Pack(
        torch.tensor(ids + [0] * left),
        torch.tensor(targets + [IGNORED] * left),
        torch.tensor([*positions, *(at % longest for at in range(left))]),
        torch.tensor(starts, dtype=torch.int32),
        tokens,
    )


# Memory


class Shape(NamedTuple):
    """What the layers of a model are like; all of it fixed for compiled code."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    width: int
    vocabulary: int
    eps: float

    @staticmethod
    def of(config: Any) -> "Shape":
        """The shape that a Mistral-like transformers configuration tells."""
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return Shape(
            config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads,
            config.num_key_value_heads, width, config.vocab_size, config.rms_norm_eps,
        )  # fmt: skip

    def linears(self) -> int:
        """Weights in the seven linears of all layers."""
        attention = self.hidden * self.width * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.mlp)

    def kept(self) -> int:
        """Bytes a token that a layer keeps for its backward pass, in bf16."""
        return 2 * (4 * self.hidden + 2 * self.width * (self.heads + self.kv_heads) + 3 * self.mlp) + 4 * self.heads


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run spends the memory there is."""

    whole: bool
    """The base is held in bf16, at its NF4 values: nothing is de-quantised while training."""
    recomputed: int
    """Of so many layers, the first ones, only the input is kept; their forward pass is computed twice."""
    peak: int
    """Bytes expected beyond what is allocated already."""


def plan(free: int, shape: Shape, tokens: int, rank: int, nf4: bool = True) -> Plan:
    """Choose by the bytes that are free once the base is loaded: first no layer computed twice, then a bf16 base, as far as there is room.

    A layer computed twice costs 1/3 of its time again, an NF4 base only about 5 % (at 8 k tokens), and both cost memory alike.
    """
    sides = 7 * shape.hidden + 2 * shape.width * (shape.heads + shape.kv_heads) + 3 * shape.mlp  # in and out of the seven linears
    trained = 16 * rank * sides * shape.layers  # float32 weight, gradient and AdamW's two moments
    logits = 14 * CHUNK * shape.vocabulary
    passing = 2 * tokens * shape.kept() + 8 * shape.hidden * shape.mlp  # one layer's own work, and its matrices where they were NF4
    fixed = trained + logits + passing + GIB // 2
    inputs, kept = 2 * shape.hidden * tokens, shape.kept() * tokens
    whole = 2 * shape.linears() if nf4 else 0
    if fixed + shape.layers * kept + whole <= free:
        return Plan(True, 0, fixed + shape.layers * kept + whole)
    spare = free - fixed - shape.layers * inputs
    recomputed = shape.layers - max(0, min(shape.layers, spare // (kept - inputs)))
    return Plan(not nf4, recomputed, fixed + recomputed * inputs + (shape.layers - recomputed) * kept)


# Linears


def _beside(matrix: Tensor, lora: Tensor) -> Tensor:
    """[W B] for B (out, r), [W; A] for A (r, in)."""
    return torch.cat([matrix, lora], dim=1 if len(lora) == len(matrix) else 0)


def _unpack_beside(codes: Tensor, absmax: Tensor, lora: Tensor, rows: int) -> Tensor:
    return _beside(unpack(codes, absmax, rows, lora.dtype), lora)


@functools.cache
def _unpack_compiled() -> Callable[..., Tensor]:
    return torch.compile(_unpack_beside, dynamic=False)


@torch.library.custom_op("twofold::nf4_beside", mutates_args=())
def nf4_beside(codes: Tensor, absmax: Tensor, lora: Tensor, rows: int, after: Tensor) -> Tensor:  # noqa: ARG001  see below
    """De-quantise W and put a LoRA matrix beside it.

    `after` is not read. It holds the backward pass's call back until there is a gradient: the compiler would otherwise see that it equals
    the forward pass's call and keep the bf16 matrix of every layer in between.
    """
    return (_unpack_compiled() if codes.is_cuda else _unpack_beside)(codes, absmax, lora, rows)


@nf4_beside.register_fake
def _(codes: Tensor, absmax: Tensor, lora: Tensor, rows: int, after: Tensor) -> Tensor:  # noqa: ARG001  the signature is the operator's
    columns = codes.numel() * 2 // rows
    return lora.new_empty((rows, columns + lora.shape[1]) if len(lora) == rows else (rows + len(lora), columns))


class Group(NamedTuple):
    """Linears that read the same input, stacked along their outputs."""

    weight: Tensor
    """frozen: NF4 codes, or the matrix itself with room for a LoRA matrix beside it, [W B] or [W; A] (`Decoder.refresh` fills it)"""
    absmax: Tensor | None
    a: tuple[Tensor, ...]
    """(rank, in) of each, float32"""
    b: tuple[Tensor, ...]
    """(out, rank) of each, float32"""

    def lora(self, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A (r, in) with the scale in it, and B (out, r) of the whole group, block by block."""
        b: Tensor = torch.block_diag(*self.b)  # type: ignore[no-untyped-call]
        return (scale * torch.cat(self.a)).to(dtype), b.to(dtype)


class _Adapted(torch.autograd.Function):
    """y = x W' + (x A') B', the narrow products riding on the wide one.

    Where the output is the wide side, [x, xA'] [W B]' computes y in one product, and y need not be read again to add LoRA's part; where the
    input is, [dy, dyB] [W; A] does the same for the gradient of x. W is frozen: it gets no gradient, and is not kept where it was NF4.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, absmax: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
        wide = len(b) > a.shape[1]
        both = weight if absmax is None else nf4_beside(weight, absmax, b if wide else a, len(b), x)
        xa = x @ a.T
        ctx.save_for_backward(x, xa, weight, absmax, a, b)
        return torch.cat([x, xa], 1) @ both.T if wide else x @ both[: len(b)].T + xa @ b.T

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, xa, weight, absmax, a, b = ctx.saved_tensors
        wide = len(b) > a.shape[1]
        both = weight if absmax is None else nf4_beside(weight, absmax, b if wide else a, len(b), dy)
        dxa = dy @ b
        dx = dy @ both[:, : a.shape[1]] + dxa @ a if wide else torch.cat([dy, dxa], 1) @ both
        return dx, None, None, dxa.T @ x, dy.T @ xa


def adapted(x: Tensor, group: Group, scale: float) -> Tensor:
    """The group's output (tokens, sum of outs) for x (tokens, in)."""
    a, b = group.lora(scale, x.dtype)
    return _Adapted.apply(x, group.weight, group.absmax, a, b)  # type: ignore[no-any-return, no-untyped-call]


# Layers


def attend(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int) -> Tensor:
    """Causal attention inside each row only: q (tokens, heads, width), k and v (tokens, kv_heads, width), starts as in `Pack`."""
    if q.is_cuda and q.dtype != torch.float32:
        from torch.nn.attention.varlen import varlen_attn

        grouped: dict[str, Any] = {"enable_gqa": True} if _GROUPED else {}
        return varlen_attn(q, k, v, starts, starts, longest, longest, window_size=(-1, 0), **grouped)  # type: ignore[return-value]
    rows = []
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        if begin < end:
            one, two, three = (side[begin:end].transpose(0, 1)[None] for side in (q, k, v))
            rows.append(F.scaled_dot_product_attention(one, two, three, is_causal=True, enable_gqa=True)[0].transpose(0, 1))
    return torch.cat(rows)


def _takes_grouped() -> bool:
    """True where varlen attention wants to be told of grouped queries (torch 2.12); before, it takes them as they come."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "enable_gqa" in inspect.signature(varlen_attn).parameters


_GROUPED = _takes_grouped()


class Layer(NamedTuple):
    """The weights of one decoder layer."""

    before: Tensor
    qkv: Group
    out: Group
    between: Tensor
    gate_up: Group
    down: Group


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


def layer(x: Tensor, p: Layer, cos: Tensor, sin: Tensor, starts: Tensor, longest: int, shape: Shape, scale: float) -> Tensor:
    """One decoder layer over x (tokens, hidden); cos and sin are (tokens, 1, width)."""
    heads, kv = shape.heads * shape.width, shape.kv_heads * shape.width
    q, k, v = torch.split(adapted(_norm(x, p.before, shape.eps), p.qkv, scale), [heads, kv, kv], dim=1)
    q, k, v = (side.reshape(len(x), -1, shape.width) for side in (q, k, v))
    spoken = attend(_rotate(q, cos, sin), _rotate(k, cos, sin), v.contiguous(), starts, longest)
    x = x + adapted(spoken.reshape(len(x), -1), p.out, scale)
    gate, up = adapted(_norm(x, p.between, shape.eps), p.gate_up, scale).chunk(2, dim=1)
    return x + adapted(F.silu(gate) * up, p.down, scale)


class _AnswerLoss(torch.autograd.Function):
    """Summed cross-entropy under a frozen head. Gradients are computed with the loss, so that logits never outlive their chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: Tensor) -> Tensor:
        total, grads = hidden.new_zeros((), dtype=torch.float32), []
        for part, wanted in zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True):
            scores = (part @ head.T).float().log_softmax(-1)
            total += F.nll_loss(scores, wanted, reduction="sum")
            slope = scores.exp_().to(head.dtype)
            slope[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
            grads.append(slope @ head)
        ctx.save_for_backward(torch.cat(grads) if grads else torch.zeros_like(hidden))
        return total

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * d.to(grad.dtype), None, None


class Decoder:
    """A peft model's base and LoRA matrices, laid out for packed rows. The peft model gives up the weights of its linears."""

    def __init__(self, model: Any, chosen: Plan, longest: int, compiled: bool) -> None:
        """Take over a peft model with LoRA on all seven linears; `longest` row in tokens. Raises TwofoldError for layers not known."""
        causal = model.base_model.model
        _check(causal.config, longest)
        self.shape, self.plan, self.longest = Shape.of(causal.config), chosen, longest
        self._embed, self._rotary, self._last = causal.model.embed_tokens, causal.model.rotary_emb, causal.model.norm.weight
        self._head = causal.lm_head.weight
        self.scale = float(causal.model.layers[0].self_attn.q_proj.scaling["default"])
        self._beside: list[tuple[Tensor, Tensor, float]] = []  # where beside a bf16 matrix which LoRA matrix goes, times what
        self.layers = [self._take(one) for one in causal.model.layers]
        self._layer: Callable[..., Tensor] = torch.compile(layer, dynamic=False) if compiled else layer
        self.refresh()

    def _take(self, one: Any) -> Layer:
        attention, mlp = one.self_attn, one.mlp
        return Layer(
            one.input_layernorm.weight, self._group(attention.q_proj, attention.k_proj, attention.v_proj), self._group(attention.o_proj),
            one.post_attention_layernorm.weight, self._group(mlp.gate_proj, mlp.up_proj), self._group(mlp.down_proj),
        )  # fmt: skip

    def _group(self, *linears: Any) -> Group:
        a = tuple(linear.lora_A["default"].weight for linear in linears)
        b = tuple(linear.lora_B["default"].weight for linear in linears)
        found = [_frozen(linear.base_layer) for linear in linears]
        rows, columns, rank = sum(len(one) for one in b), a[0].shape[1], sum(len(one) for one in a)
        if any(absmax is None for _, absmax in found) or self.plan.whole:
            dtype = self._head.dtype
            both = torch.zeros((rows, columns + rank) if rows > columns else (rows + rank, columns), dtype=dtype, device=a[0].device)
            row, beside = 0, columns if rows > columns else rows
            for (weight, absmax), one, two in zip(found, a, b, strict=True):
                both[row : row + len(two), :columns] = weight if absmax is None else unpack(weight, absmax, len(two), dtype)
                if rows > columns:
                    self._beside.append((both[row : row + len(two), beside : beside + len(one)], two, 1.0))
                else:
                    self._beside.append((both[beside : beside + len(one)], one, self.scale))
                row, beside = row + len(two), beside + len(one)
            weight, absmax = both, None
        else:
            weight, absmax = torch.cat([one for one, _ in found]), torch.cat([one for _, one in found])  # type: ignore[misc]
        for linear in linears:
            linear.base_layer.weight = torch.nn.Parameter(torch.empty(0, device=a[0].device), requires_grad=False)
        return Group(weight, absmax, a, b)

    @torch.no_grad()
    def refresh(self) -> None:
        """Put the LoRA matrices beside those that are held in bf16; due whenever they have changed."""
        if self._beside:
            places, weights, factors = (list(column) for column in zip(*self._beside, strict=True))
            torch._foreach_copy_(places, torch._foreach_mul(weights, factors))

    def hidden(self, pack: Pack) -> Tensor:
        """Final hidden states (size, hidden)."""
        x = self._embed(pack.ids).requires_grad_(torch.is_grad_enabled())  # like the input of every other layer: one compilation serves all
        cos, sin = (side[0][:, None].to(x.dtype) for side in self._rotary(x, pack.positions[None]))
        given = (cos, sin, pack.starts, self.longest, self.shape, self.scale)
        for number, one in enumerate(self.layers):
            if number < self.plan.recomputed and torch.is_grad_enabled():
                x = checkpoint(self._layer, x, one, *given, use_reentrant=False, preserve_rng_state=False)
            else:
                x = self._layer(x, one, *given)
        return _norm(x, self._last, self.shape.eps)

    def logits(self, pack: Pack) -> Tensor:
        """Logits (size, vocabulary)."""
        return F.linear(self.hidden(pack), self._head)

    def loss(self, pack: Pack) -> Tensor:
        """Cross-entropy, summed over the tokens of answers."""
        spoken = (pack.targets != IGNORED).nonzero()[:, 0]  # logits only there: most of a row is prompt
        return _AnswerLoss.apply(self.hidden(pack)[spoken], pack.targets[spoken], self._head)  # type: ignore[no-any-return, no-untyped-call]


def _check(config: Any, longest: int) -> None:
    """Raise TwofoldError for a model that `layer` does not compute as transformers would."""
    biased = getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)
    if config.model_type not in ("mistral", "llama") or config.hidden_act != "silu" or biased:
        raise TwofoldError(f"adapters are trained on Mistral's and Llama's layers, not on {config.model_type}'s: choose another base")
    window = getattr(config, "sliding_window", None)
    if window and window < longest:
        raise TwofoldError(f"this base attends to {window} tokens at most: train with --length {window}")


def _frozen(linear: Any) -> tuple[Tensor, Tensor | None]:
    """A base layer's matrix and None, or its NF4 codes and float32 scales. Raises TwofoldError for any other form."""
    state = getattr(linear.weight, "quant_state", None)
    if state is None:
        return linear.weight.data, None
    if state.quant_type != "nf4" or state.blocksize != BLOCK:
        kind = f"{state.quant_type} in blocks of {state.blocksize}"
        raise TwofoldError(f"the base is quantised as {kind}: only NF4 in blocks of 64 can be trained on")
    absmax = state.absmax
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        absmax = dequantize_blockwise(absmax, state.state2) + state.offset
    return linear.weight.data.reshape(-1), absmax.float()
