"""An engine whose requests share each step: continuous batching over a Decoder, every row with its own adapter and sampling."""

import json
import math
import random
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from twofold.engines import BASE, require_new
from twofold.engines.decoder import Decoder, check, room
from twofold.engines.folders import check_adapter, find
from twofold.engines.kernels import Kernels
from twofold.engines.libraries import said
from twofold.engines.local import Local
from twofold.engines.mistral import Unsupported, gather, shape_of
from twofold.types import Sampling, TwofoldError

AHEAD = 4
"""Steps that a request may be computed ahead of its reader, so that a slow reader neither holds the others up nor runs away."""


@dataclass(eq=False, slots=True)
class Seat:
    """One request at the table: its rows of the cache, and the steps that its reader has not taken yet."""

    rows: dict[int, int]
    """Row -> number of the answer; rows leave as their answers end."""
    left: dict[int, int]
    """Row -> tokens that it may still get."""
    steps: deque[dict[int, int]] = field(default_factory=deque)
    """{number of the answer: token}, oldest first."""


class Resident(Local):
    """An engine on one GPU. Whoever needs a token computes a step for all who wait, so no thread of its own is needed.

    A request joins at the next step, and on a GPU the next step starts before this one's tokens are read. Draws depend on a request's own
    seed; its scores are the same in their last bits only among batches of one size.
    """

    def __init__(self, name: str, tokenizer: Any, model: Any, folder: Path | None = None, rows: int = 0, context: int = 0) -> None:
        """Take a model that has not computed yet. rows, context: 0 for as many as fit. Raises Unsupported or RuntimeError (`Decoder`)."""
        shape, on_gpu = shape_of(model), model.device.type == "cuda"
        if on_gpu:  # before the weights are taken from the model
            check(shape)
            if reason := trial():
                raise Unsupported(reason)
        if not (rows and context):
            rows, context = room(shape)
        self._decoder = Decoder(gather(model), rows, context)
        self._slots = {BASE: 0}
        self._free = list(range(rows))
        self._seats: list[Seat] = []
        self._flight: list[tuple[Seat, int]] = []  # the rows of the step that has been started and not been read
        super().__init__(name, tokenizer, model, folder)
        self._context = min(self._context, context)
        self._rest = threading.Condition(self._lock)

    def load(self, adapter: str, source: str | Path) -> None:
        """Add a LoRA adapter (peft folder or hub id, safetensors) under a name. Raises TwofoldError when it does not fit."""
        from safetensors.torch import load_file

        require_new(adapter, self.adapters)
        folder = find(str(source))
        check_adapter(folder, self._model)
        with said(f"The adapter in {folder} cannot be loaded: train it again or choose another"):
            config = json.loads((folder / "adapter_config.json").read_text())
            if config.get("rank_pattern") or config.get("alpha_pattern") or config.get("use_dora"):
                raise ValueError("every layer must have the same rank and alpha, and DoRA is not served")
            rank = int(config["r"])
            scaling = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
            tensors = load_file(folder / "adapter_model.safetensors")
            with self._lock:
                self._settle()
                slot = len(self._slots)
                self._decoder.write(slot, tensors, rank, scaling)
                self._slots[adapter] = slot
                self.adapters |= {adapter}
                self._folders[adapter] = folder

    def _ready(self) -> None:
        """Nothing: the decoder computes its first token when the first request comes."""

    def _steps(self, ids: list[int], adapter: str, sampling: Sampling, n: int) -> Iterator[dict[int, int]]:
        """Yield {answer: token} once a step; more answers than there are rows come in turns."""
        most, seed = self._decoder.rows, random.getrandbits(62) if sampling.seed is None else sampling.seed
        limit = min(sampling.max_new_tokens, self._context - len(ids))
        for first in range(0, n if limit > 0 else 0, most):
            numbers = range(first, min(n, first + most))
            seat = self._sit(ids, adapter, sampling, numbers, [(seed + number * 0x632BE5AB) % (1 << 62) for number in numbers], limit)
            try:
                while step := self._next(seat):
                    yield step
            finally:
                self._leave(seat)

    def _sit(self, ids: list[int], adapter: str, sampling: Sampling, numbers: range, seeds: list[int], limit: int) -> Seat:
        with self._rest:
            while len(self._free) < len(numbers):
                self._rest.wait()
            rows = [self._free.pop(0) for _ in numbers]
            try:
                self._decoder.begin(ids, rows, self._slots[adapter], sampling, seeds)
            except BaseException:
                self._free += rows
                raise
            seat = Seat(dict(zip(rows, numbers, strict=True)), dict.fromkeys(rows, limit))
            self._seats.append(seat)
            return seat

    def _next(self, seat: Seat) -> dict[int, int]:
        """The seat's next step; {} once all its answers have ended."""
        while True:
            if seat.steps:
                return seat.steps.popleft()
            with self._lock:
                if seat.steps:
                    continue
                if not seat.rows:
                    return {}
                if not self._flight:
                    self._start()
                self._settle()
                if self._decoder.kernels:
                    self._start()

    def _start(self) -> None:
        """Start a step for everyone who has not run too far ahead."""
        self._flight = [(seat, row) for seat in self._seats if len(seat.steps) < AHEAD for row in seat.rows]
        if self._flight:
            self._decoder.launch([row for _, row in self._flight])

    def _settle(self) -> None:
        """Hand out the tokens of the step that was started, if any; rows whose answers end leave."""
        if not self._flight:
            return
        flight, self._flight = self._flight, []
        steps: dict[Seat, dict[int, int]] = {}
        for (seat, row), token in zip(flight, self._decoder.collect(), strict=True):
            if row not in seat.rows:
                continue  # its reader has gone
            number = seat.rows[row]
            if token not in self._stop:
                steps.setdefault(seat, {})[number] = token
                seat.left[row] -= 1
            if token in self._stop or not seat.left[row]:
                self._drop(seat, [row])
        for seat, step in steps.items():
            seat.steps.append(step)

    def _leave(self, seat: Seat) -> None:
        with self._lock:
            self._drop(seat, list(seat.rows))
            self._seats.remove(seat)

    def _drop(self, seat: Seat, rows: Sequence[int]) -> None:
        for row in rows:
            del seat.rows[row]
            self._free.append(row)
        if rows:
            self._rest.notify_all()


def gpu() -> str:
    """The GPU that torch uses and its memory; "" where there is none."""
    if not torch.cuda.is_available():
        return ""
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    return f"{device.name}, {device.total_memory >> 30} GiB"


def trial() -> str:
    """Why the decoder cannot be used on this machine's GPU, in a line; "" where it can. Raises nothing. Compiles, captures and replays."""
    try:
        kernels = Kernels(group=4, vocabulary=1 << 15)
        x = torch.linspace(-1, 1, 512, device="cuda")
        weight, out = (torch.full((512,), one, dtype=torch.bfloat16, device="cuda") for one in (1.0, 0.0))

        def norm() -> None:
            kernels("rms_norm", (1, 1, 1), 512, x, weight, out, 512, 1e-6)

        norm()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            norm()
        out.zero_()
        graph.replay()
        torch.testing.assert_close(out.float(), x * x.pow(2).mean().rsqrt(), atol=1e-2, rtol=1e-2)
    except (RuntimeError, OSError, AssertionError, TwofoldError) as error:
        return " ".join(str(error).split())[:160]
    return ""
