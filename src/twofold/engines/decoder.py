"""Decoding with everything resident: rows of a static cache, all adapters in stacks, one CUDA graph for each size of batch.

A step computes one token for the rows it is given. What a row is (its last token, position, adapter, sampling) stands on the device
under the row's number, so a graph needs only the list of rows, and a change of adapter is one number written. Without CUDA the same state
goes through `mistral.forward`, which is the reference and the test.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from twofold.engines.kernels import Kernels, Matrix
from twofold.engines.mistral import FUSED, Cache, Shape, Stacks, Unpacker, Unsupported, Weights, forward, pieces
from twofold.types import Sampling

BUCKETS = (1, 2, 4, 8, 16, 32)
LENGTHS = (64, 128, 256, 384, 512, 640, 768, 896, 1024)
"""Tokens of prompts that are read by a captured graph: shorter ones are filled up, longer ones keep a GPU busy without."""
SLOTS, RANK = 4, 16
"""Room for BASE and three adapters of rank 16 at first; it grows when more come."""
LONGEST = 8192
"""Tokens of context that a row has at most."""
SHARE = 0.6
"""Of the free GPU memory, what the cache may take."""
SPLITS = 32  # most parts that attention cuts a cache into; decode.cu has room for as many
SHRINK = 64.0  # of decode.cu: the MLP's inner values are stored divided by it


def room(shape: Shape) -> tuple[int, int]:
    """Rows and context that the GPU's free memory allows: up to 32 rows of 8192 tokens. Raises Unsupported when not even one row fits."""
    context = min(shape.context, LONGEST)
    free = SHARE * torch.cuda.mem_get_info()[0]
    while (rows := int(free / (4 * shape.layers * shape.kv_heads * shape.head * context)) - 1) < 1:
        if (context := context // 2) < 512:
            raise Unsupported("the GPU has no memory left for a cache: close what else uses it")
    return max(bucket for bucket in BUCKETS if bucket <= rows), context


def check(shape: Shape) -> None:
    """Raise Unsupported where the kernels do not serve a shape."""
    group = shape.heads // shape.kv_heads
    if shape.head != 128 or group > 8 or shape.vocabulary > 1 << 15:
        raise Unsupported("heads of 128, at most 8 of them to a KV head, and at most 32,768 tokens are served")
    if any(columns % 256 or any(size % 16 for size in rows) for rows, columns in shape.sizes.values()):
        raise Unsupported("the sizes of the matrices are not multiples of 256 and 16")


class Decoder:
    """A model that decodes rows; not safe to call from two threads at once."""

    def __init__(self, weights: Weights, rows: int, context: int, overlap: bool = True, source: str | None = None) -> None:
        """Allocate for `rows` conversations of at most `context` tokens; where the weights are on a GPU, compile the kernels.

        overlap, source: for measurements, see `Kernels`. Raises Unsupported or RuntimeError where the kernels cannot serve.
        """
        self.weights, self.rows, self.context = weights, rows, context
        shape, device = weights.shape, weights.device
        self.kernels: Kernels | None = None
        if device.type == "cuda":
            check(shape)
            self.kernels = Kernels(shape.heads // shape.kv_heads, shape.vocabulary, overlap, source)
        self.stacks = Stacks(shape, device, SLOTS, RANK)
        self.cache = Cache.make(shape, rows + 1, context, device)  # the last row is nobody's: lanes that are left over write there
        self._unpack = Unpacker(self.kernels)
        self._state = torch.zeros(rows + 1, 3, dtype=torch.int32, device=device)  # token, position, slot
        self._knobs = torch.ones(rows + 1, 3, device=device)  # temperature, top_p, repetition penalty
        self._seeds = torch.zeros(rows + 1, dtype=torch.int64, device=device)
        self._seen = torch.zeros(rows + 1, shape.vocabulary, dtype=torch.uint8, device=device)
        self._chosen = torch.zeros(BUCKETS[-1], dtype=torch.int32, device=device)
        self._running: list[int] = []
        self._seated: list[int] = []
        self._graphs: dict[int, Any] = {}
        self._given = torch.zeros(2 + LENGTHS[-1], dtype=torch.int64, device=device)  # what a reader reads
        self._readers: dict[tuple[int, bool], Callable[[], Any]] = {}
        self._logits: Tensor | None = None
        if self.kernels:
            self._allocate()

    # adapters

    def write(self, slot: int, tensors: Mapping[str, Tensor], rank: int, scaling: float) -> None:
        """Put an adapter into a slot from 1 on. Where a slot or a rank has no room, room is made and the graphs are captured again."""
        stacks = self.stacks
        slots, width = stacks.slots, stacks.rank
        while slots <= slot:
            slots *= 2
        width = max(width, 16 * math.ceil(rank / 16))
        if (slots, width) != (stacks.slots, stacks.rank):
            self.stacks = Stacks(self.weights.shape, self.weights.device, slots, width)
            self.stacks.copy(stacks)
            if self.kernels:
                self._allocate()
        self.stacks.write(slot, tensors, scaling)

    # rows

    def begin(self, ids: Sequence[int], rows: Sequence[int], slot: int, sampling: Sampling, seeds: Sequence[int]) -> None:
        """Give rows a prompt: its tokens but the last go into the cache once, the last is what the first step feeds."""
        device = self.weights.device
        at = torch.tensor(rows, device=device)
        self._state[at] = torch.tensor([ids[-1], len(ids) - 1, slot], dtype=torch.int32, device=device)
        self._knobs[at] = torch.tensor([sampling.temperature, sampling.top_p, sampling.repetition_penalty], device=device)
        self._seeds[at] = torch.tensor(seeds, device=device)
        self._seen[at] = 0
        self._prompt(ids[:-1], rows[0], slot)
        self.cache.share(rows[0], rows[1:], len(ids) - 1)

    def _prompt(self, ids: Sequence[int], row: int, slot: int) -> None:
        """Put the keys and values of tokens into a row's cache, from its first position on."""
        device = self.weights.device
        length = next((one for one in LENGTHS if len(ids) <= one <= self.context), 0)
        if not (self.kernels and length):
            for start, end in pieces(len(ids)):
                piece = torch.tensor([ids[start:end]], device=device)
                forward(self.weights, self.stacks, self.cache, self._unpack, piece, [start], [row], [slot])
            return
        self._given[: length + 2].copy_(torch.tensor([row, slot, *ids, *[0] * (length - len(ids))]))
        if (key := (length, slot > 0)) not in self._readers:
            self._readers[key] = self._reader(*key)
        self._readers[key]()

    def _reader(self, length: int, adapted: bool) -> Callable[[], Any]:
        """What reads `_given` (row, slot, so many tokens): a captured graph: starting 2,000 operations takes longer than computing them.

        What the tokens behind a prompt leave in the cache is never seen: each position is written before it is read.
        """

        def read() -> None:
            row, slot, ids = self._given[:1], self._given[1:2], self._given[2 : length + 2]
            forward(self.weights, self.stacks, self.cache, self._unpack, ids[None], [0], row, slot if adapted else [0])

        if not self.kernels:
            return read
        read()  # loads what the first launches load
        torch.cuda.synchronize()
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                read()
        except RuntimeError:  # no memory for a graph: the same, started one by one
            return read
        return graph.replay

    def switch(self, row: int, slot: int) -> None:
        """Let another adapter speak in a row from its next token on."""
        self._state[row, 2] = slot

    def launch(self, rows: Sequence[int]) -> None:
        """Start one step of some rows, at most 32; on a GPU it returns at once."""
        self._running = list(rows)
        if self.kernels is None:
            self._chosen[: len(rows)] = torch.tensor(self._reference(self._running), dtype=torch.int32)
            return
        bucket = next(one for one in BUCKETS if one >= len(rows))
        lanes = [*rows, *[self.rows] * (BUCKETS[-1] - len(rows))]
        if lanes != self._seated:
            self._lanes.copy_(torch.tensor(lanes, dtype=torch.int32))
            self._seated = lanes
        if bucket not in self._graphs:
            self._graphs[bucket] = self._capture(bucket)
        self._graphs[bucket].replay()
        self._host.copy_(self._chosen, non_blocking=True)
        self._done.record()

    def collect(self) -> list[int]:
        """Wait for the step that was started and return a token for each of its rows."""
        if self.kernels is None:
            return self._chosen[: len(self._running)].tolist()
        self._done.synchronize()
        return self._host[: len(self._running)].tolist()

    # without CUDA

    def _reference(self, rows: list[int]) -> list[int]:
        tokens, places, slots = self._state[rows].T.tolist()
        hidden = forward(self.weights, self.stacks, self.cache, self._unpack, torch.tensor(tokens)[:, None], places, rows, slots)
        logits = linear(hidden, self.weights.head).float()
        knobs, seeds = self._knobs[rows].tolist(), self._seeds[rows].tolist()
        picked = []
        for i, row in enumerate(rows):
            temperature, top_p, penalty = knobs[i]
            draw = uniform(seeds[i], places[i])
            picked.append(choose(logits[i], self._seen[row].bool(), temperature, top_p, penalty, draw))
            self._state[row, :2] = torch.tensor([picked[i], places[i] + 1])
            self._seen[row, picked[i]] = 1
        return picked

    # with CUDA

    def _allocate(self) -> None:
        """Make the buffers of a step; graphs that point to older ones are forgotten."""
        shape, device, most = self.weights.shape, self.weights.device, BUCKETS[-1]
        sizes = shape.sizes.values()

        def buffer(*size: int, kind: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(size, dtype=kind, device=device)

        half, number = torch.float16, torch.int32
        self._residual = buffer(most, shape.hidden)
        self._x = buffer(most, shape.hidden, kind=half)
        self._squares = [(buffer(most, shape.hidden // 16), buffer(most)) for _ in range(2)]  # and the scale that x carries
        self._qkv = buffer(most, (shape.heads + 2 * shape.kv_heads) * shape.head)
        self._attended = buffer(most, shape.heads * shape.head, kind=half)
        self._inner = buffer(most, shape.inner, kind=half)
        self._last = buffer(most, shape.hidden, kind=torch.bfloat16)
        self._t = buffer(max(_splits(columns) * len(rows) for rows, columns in sizes) * most * self.stacks.rank)
        self._ready = buffer(4 * shape.layers, kind=number)
        self._parts = buffer(most * shape.heads * SPLITS * shape.head)
        self._tops = buffer(most * shape.heads * SPLITS * 2)
        self._count = buffer(most * shape.kv_heads, kind=number)
        self._slot, self._position = buffer(most, kind=number), buffer(most, kind=number)
        self._lanes = torch.full((most,), self.rows, dtype=number, device=device)
        self._seated = []
        self._rope = torch.cat([part[: self.context, : shape.head // 2] for part in self.weights.rope.float().unbind(1)], 1).contiguous()
        self._host: Tensor = torch.zeros(most, dtype=number).pin_memory()
        self._done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch gives it no types
        self._graphs, self._readers = {}, {}
        self._pool = torch.cuda.graph_pool_handle()  # one for all readers, which never run at once

    def _capture(self, bucket: int) -> Any:
        seated = self._lanes.clone()
        self._lanes.fill_(self.rows)
        self.compute(bucket)  # loads what the first launches load
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.compute(bucket)
        self._lanes.copy_(seated)
        return graph

    @torch.inference_mode()
    def compute(self, count: int) -> Tensor:
        """Launch the kernels of one step for the first `count` lanes; return their logits (count, vocabulary), float32."""
        run, weights, shape, stacks = self.kernels, self.weights, self.weights.shape, self.stacks
        assert run is not None
        splits = min(SPLITS, max(1, 528 // (shape.kv_heads * count)))
        first, second = self._squares
        onward = [*(layer.before for layer in weights.layers), weights.norm]
        source = self._lanes, self._state, weights.embedding, onward[0]
        begun = self._residual, self._x, *first, self._slot, self._position, self._ready
        run("begin", (count, 1, 1), 256, *source, *begun, shape.hidden, len(self._ready), float(shape.eps), first=True)

        def matrix(kind: str, index: int, name: str, x: Tensor, out: Tensor, norms: Sequence[Tensor], gain: float = 1.0) -> None:
            (rows, columns), packed = shape.sizes[name], weights.layers[index].matrices[name]
            ready = self._ready[index * 4 + list(FUSED).index(name) :]
            half_out = self._inner if kind == "silu" else self._x
            tensors = (packed.w, packed.scale, x, stacks.a[name][index], stacks.b[name][index], self._t, ready, self._slot, out, half_out)
            cuts = (rows[0], rows[0] + rows[1] if len(rows) > 2 else sum(rows)) if len(rows) > 1 else (rows[0], rows[0])
            sizes = (sum(rows), columns, count, stacks.slots, len(rows), stacks.rank, _splits(columns), *cuts, shape.hidden)
            run.matrix(kind, Matrix(*(one.data_ptr() for one in (*tensors, *norms)), *sizes, shape.eps, gain))

        for index, layer in enumerate(weights.layers):
            matrix("store", index, "qkv", self._x, self._qkv, (*first, *second, layer.after))
            cache = self.cache.keys[index], self.cache.values[index], self._lanes, self._position, self._rope
            sizes = (shape.heads, shape.kv_heads, self.context, shape.head**-0.5 * math.log2(math.e))
            joining = self._parts, self._tops, self._count
            grid, attention = (splits, shape.kv_heads, count), "attention_few" if count < 8 else "attention_many"
            run(attention, grid, 256, self._qkv, *cache, *joining, self._attended, *sizes)
            matrix("add", index, "o", self._attended, self._residual, (*first, *second, layer.after))
            matrix("silu", index, "up", self._x, self._residual, (*second, *first, layer.after))
            matrix("add", index, "down", self._inner, self._residual, (*second, *first, onward[index + 1]), SHRINK)
        run("rms_norm", (count, 1, 1), 512, self._residual, weights.norm, self._last, shape.hidden, float(shape.eps))
        self._logits = torch.mm(self._last[:count], weights.head.T, out_dtype=torch.float32)
        knobs = self._lanes, self._state, self._knobs, self._seeds, self._seen, self._chosen, self.rows
        run("sample", (count, 1, 1), 1024, self._logits, *knobs)
        return self._logits


def _splits(columns: int) -> int:
    """Slices of a matrix's columns that its LoRA projection is computed in: at most the blocks that a GPU of 132 leaves without a tile."""
    return max(1, min(8, columns // 1024))


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) of 24 bits: splitmix64 (Steele et al., OOPSLA 2014) of a row's seed and position. decode.cu draws the same."""
    most = (1 << 64) - 1
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & most
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & most
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & most
    return float((z ^ (z >> 31)) >> 40) / (1 << 24)


def choose(logits: Tensor, seen: Tensor, temperature: float, top_p: float, penalty: float, draw: float) -> int:
    """Pick a token from logits (vocabulary,), float32. Of equally likely tokens at the border of top_p all stay."""
    if penalty != 1.0:
        logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    if temperature <= 0:
        return int(logits.argmax())
    scores = ((logits - logits.max()) / temperature).exp()
    if top_p < 1.0:
        falling = scores.sort(descending=True).values
        enough = falling.cumsum(0) >= max(top_p, 1e-6) * scores.sum()
        scores = torch.where(scores >= falling[enough.int().argmax()], scores, 0.0)
    upto = scores.cumsum(0)
    return min(int(torch.searchsorted(upto, draw * upto[-1], right=True)), len(scores) - 1)
