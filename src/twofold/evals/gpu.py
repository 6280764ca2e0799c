"""Mistral-7B on one NVIDIA GPU, `twofold bench gpu`: our decoder and every peer that is installed, in one run, into results/gpu.json.

The weights are random at the shape of Mistral-7B-Instruct-v0.3, made and quantised on the device layer by layer: speed and memory do not
depend on the values. All systems read the same NF4 bytes. The limit is what a copy in the same run moves, over the bytes that one token
must read. Training cells come from `evals.gpu_train`. What was not run is listed with the reason, and the file is written after every cell,
so that a run that is cut short keeps what it has.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from twofold.types import Message, Sampling, TwofoldError

if TYPE_CHECKING:
    import torch

    from twofold.engines.decoder import Decoder
    from twofold.engines.local import Local
    from twofold.engines.mistral import Shape, Weights

OURS, PLAIN, STATIC = "twofold", "transformers generate", "transformers generate, static cache"
ADAPTERS: Mapping[str, tuple[int, ...]] = {"none": (0,), "one": (1,), "mixed": (1, 2)}
"""What each kind of cell speaks with, in turn over the rows of its batch: slots of adapters, 0 for the base."""
PEERS = ("unsloth", "vllm")
"""Systems that take weights only from a folder or a hub; their own figures are quoted in docs/serving.md where there are any."""
Keep = Callable[[Sequence[Mapping[str, Any]], Mapping[str, str], Mapping[str, Any]], None]
"""Takes the cells of a task so far, what was not run and why, and the facts that they share."""
FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, ImportError, TwofoldError)
"""What one system may raise without stopping the others; torch's lack of memory is a RuntimeError."""
ASKS = ("What is a p-value", "Plot a histogram of price", "What is cross-validation?")
"""What the greedy tokens of a trained model are compared on."""
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "triton", "accelerate")


@dataclass(frozen=True, slots=True)
class Config:
    """What is measured."""

    what: Literal["all", "decode", "train"] = "all"
    """Which cells; those of the other kind stay in the file as they are"""
    runs: int = 5
    """Timed runs of a cell; the median counts"""
    tokens: int = 64
    """Tokens of a run of our decoder"""
    peer_tokens: int = 16
    """Tokens of a run of a peer, which takes longer"""
    prompt: int = 512
    """Tokens of the prompt"""
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Sizes of batches"""
    layers: int = 32
    """Layers of the random model; fewer for a trial"""
    checked: str = "embedded"
    """A trained model whose greedy tokens are compared with plain transformers; empty for none"""
    out: Path = Path("results/gpu.json")
    """Where the cells go"""
    page: Path = Path("docs/serving.md")
    """Where the table of decoding goes, between its two marks; the plot stands beside it"""


def main(config: Config) -> None:
    """Measure, write and print. Raises TwofoldError where there is no GPU."""
    from twofold.engines import resident

    if not (card := resident.gpu()):
        raise TwofoldError("No GPU that torch can use is here: `twofold doctor` says more, and `twofold bench cpu` measures the processor.")
    result = json.loads(config.out.read_text()) if config.out.exists() else {}
    shared = {"card": card, "when": f"{datetime.now(UTC):%Y-%m-%d}", "versions": versions()}
    config.out.parent.mkdir(parents=True, exist_ok=True)

    def keep(task: str, cells: Sequence[Mapping[str, Any]], not_run: Mapping[str, str], facts: Mapping[str, Any]) -> None:
        merge(result, task, cells, not_run, shared | dict(facts))
        config.out.write_text(json.dumps(result, indent=1) + "\n")

    for task in ("decode", "train") if config.what == "all" else (config.what,):
        (decode if task == "decode" else train)(config, partial(keep, task))
    if config.page.exists() and any(cell["task"] == "decode" for cell in result["cells"]):
        write_page(result, config.page)
    print(table(result))


def merge(
    result: dict[str, Any], task: str, cells: Sequence[Mapping[str, Any]], not_run: Mapping[str, str], facts: Mapping[str, Any]
) -> None:
    """Put the cells of a task, what of it was not run and its facts in the place of older ones. With no cells, older cells stay."""
    if cells or "cells" not in result:
        result["cells"] = [cell for cell in result.get("cells", []) if cell["task"] != task] + list(cells)
        result["facts"] = result.get("facts", {}) | {task: dict(facts)}
    result["not_run"] = result.get("not_run", {}) | {task: dict(not_run)}


def train(_: Config, keep: Keep) -> None:
    """Keep the training cells, one more at a time, and write the table of docs/training.md."""
    from twofold.evals import gpu_train

    found: list[dict[str, Any]] = []
    for one in gpu_train.train_cells():
        found.append(one)
        not_run = {cell["system"]: cell["not_run"] for cell in found if "not_run" in cell}
        keep([cell for cell in found if "not_run" not in cell], not_run, {})
    if gpu_train.PAGE.exists():
        gpu_train.write_page(found, gpu_train.PAGE)


def versions() -> dict[str, str]:
    """Versions of what the systems are made of, as installed."""
    found = {}
    for name in (*PACKAGES, *PEERS):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


# decoding


def decode(config: Config, keep: Keep) -> None:
    """Keep the decoding cells, one more at a time: our decoder first, then the greedy tokens of a trained model, then the peers."""
    import torch

    from twofold.engines.mistral import gather

    not_run = {name: f"{'no cell is written for it' if importlib.util.find_spec(name) else 'not installed'}" for name in PEERS}
    copy = copy_speed()
    model = random_model(config.layers)
    torch.cuda.synchronize()
    shape = model.config
    linears = sum(one.in_features * one.out_features for one in model.modules() if type(one).__name__ == "Linear4bit")
    needed = linears * (0.5 + 1 / 64) + 2 * shape.vocab_size * shape.hidden_size
    facts: dict[str, Any] = {
        "copy_tb_s": round(copy / 1e12, 3), "bytes_a_token": int(needed), "limit_tokens_per_second": round(copy / needed, 1),
        "shape": f"{shape.num_hidden_layers} layers, hidden {shape.hidden_size}, MLP {shape.intermediate_size}, {shape.vocab_size} tokens",
        "flags": {OURS: "NF4 double quant, scales unfolded to fp16, one CUDA graph a batch size, programmatic dependent launch",
                  PLAIN: "generate, greedy, dynamic cache, NF4 double quant, bf16, peft LoRA r=16 on all linears",
                  STATIC: "the same with cache_implementation=static, which transformers does not compile for bitsandbytes"},
        "prompt_tokens": config.prompt, "checks": {},
    }  # fmt: skip
    cells: list[dict[str, Any]] = []

    def add(system: str, batch: int, adapter: str, rates: list[float], peak: float, **more: Any) -> None:
        share = 100 * median(rates) / batch * needed / copy
        spread = [round(min(rates), 2), round(max(rates), 2)]
        cell = {"system": system, "task": "decode", "batch": batch, "adapter": adapter, "tokens_per_second": round(median(rates), 2)}
        cell |= {"first_token_ms": None, "switch_ms": None, "peak_gib": round(peak, 2), "limit_share": round(share, 1)}
        cells.append(cell | {"spread": spread, "samples": [round(rate, 2) for rate in rates]} | more)
        keep(cells, not_run, facts)
        print(f"{system:38} batch {batch:3} {adapter:6} {cells[-1]['tokens_per_second']:9.1f} tok/s", file=sys.stderr, flush=True)

    def attempt(name: str, work: Callable[..., Any], *given: Any) -> Any:
        try:
            return work(*given)
        except FAILURES as error:
            not_run[name] = " ".join(str(error).split())[:160]
        finally:
            keep(cells, not_run, facts)

    weights = attempt(OURS, gather, model)  # takes the weights away from the model
    del model
    for batch in config.batches if weights else ():
        facts["checks"] |= attempt(f"{OURS}, batch {batch}", ours, config, weights, batch, add) or {}
    del weights
    torch.cuda.empty_cache()
    if config.checked:
        facts["checks"]["greedy"] = attempt("greedy tokens of a trained model", greedy, config.checked)
    static = {"cache_implementation": "static", "disable_compile": True}  # as `generate` itself decides for bitsandbytes
    model = attempt("peers", random_model, config.layers)
    for kind, run in {PLAIN: {}, STATIC: static}.items() if model else ():
        attempt(kind, generate, config, model, kind, run, add)


def ours(config: Config, weights: Weights, batch: int, add: Callable[..., None]) -> dict[str, float]:
    """Measure our decoder with room for one size of batch, so that its cache counts in the peak; return how far its logits are off."""
    import torch

    from twofold.engines.decoder import Decoder

    torch.cuda.empty_cache()
    decoder = Decoder(weights, batch, config.prompt + config.runs * config.tokens + 128)  # the switches are 80 steps
    for slot in (1, 2):
        decoder.write(slot, random_adapter(weights.shape, slot), 16, 1.0)
    ids = random_prompt(config.prompt, weights.shape.vocabulary)
    errors = {f"logits_relative_error_batch_{batch}": logits_error(decoder, ids, batch)}
    errors["prompt_relative_error"] = prompt_error(decoder, ids)
    torch.cuda.reset_peak_memory_stats()  # what the checks took is no part of it
    for adapter, slots in ADAPTERS.items():
        if batch > 1 or adapter != "mixed":
            cell(config, decoder, ids, adapter, [slots[row % len(slots)] for row in range(batch)], add)
    return errors


def cell(config: Config, decoder: Decoder, ids: list[int], adapter: str, slots: Sequence[int], add: Callable[..., None]) -> None:
    """Measure our decoder with one adapter a row; at batch 1 the first token too, and what a change of adapter costs."""
    import torch

    rows = range(len(slots))

    def start() -> None:
        for row in rows:
            decoder.begin(ids, [row], slots[row], Sampling(), [row])

    def steps(count: int) -> None:
        for _ in range(count):
            decoder.launch(rows)
            decoder.collect()

    def first() -> None:
        start()
        steps(1)

    first()
    steps(3)  # the graph was captured in the first
    rates = [len(slots) * config.tokens / seconds(lambda: steps(config.tokens)) for _ in range(config.runs)]
    more: dict[str, Any] = {}
    if len(slots) == 1:
        firsts = [1e3 * seconds(first) for _ in range(config.runs + 2)][2:]
        more |= {"first_token_ms": round(median(firsts), 2), "first_token_samples": [round(one, 2) for one in firsts]}
    if adapter == "one" and len(slots) == 1:
        switches = [1e3 * seconds(partial(decoder.switch, 0, slot)) for slot in (2, 1) * config.runs]
        more |= {"switch_ms": round(median(switches), 4), "switch_samples": [round(one, 4) for one in switches]}
        more |= {"step_ms": round(step_ms(decoder, False), 4), "step_after_switch_ms": round(step_ms(decoder, True), 4)}
    add(OURS, len(slots), adapter, rates, torch.cuda.max_memory_allocated() / 2**30, **more)


def step_ms(decoder: Decoder, switch: bool, count: int = 40) -> float:
    """Median time of a step of row 0, with or without another adapter each time; the switch itself is not in it."""

    def step() -> None:
        decoder.launch([0])
        decoder.collect()

    times = []
    for i in range(count):
        if switch:
            decoder.switch(0, 1 + i % 2)
        times.append(1e3 * seconds(step))
    return median(times)


def logits_error(decoder: Decoder, ids: list[int], batch: int) -> float:
    """Largest relative error (Frobenius, per row) of the kernels' logits against `mistral.forward` in bf16, adapters mixed."""
    import torch

    from twofold.engines.mistral import Unpacker, forward

    worst, slots = 0.0, [row % 3 for row in range(batch)]
    for row in range(batch):
        decoder.begin(ids[: 50 + 7 * row], [row], slots[row], Sampling(), [0])
    state = decoder._state.clone()
    expected = [
        forward(decoder.weights, decoder.stacks, decoder.cache, Unpacker(decoder.kernels),
                state[row : row + 1, :1].long(), [int(state[row, 1])], [row], [slots[row]]).float() @ decoder.weights.head.float().T
        for row in range(batch)
    ]  # fmt: skip
    decoder._lanes.copy_(torch.tensor([*range(batch), *[batch] * (32 - batch)], dtype=torch.int32))
    decoder._seated = []  # the next launch seats its rows again
    got = decoder.compute(batch)
    for row in range(batch):
        worst = max(worst, float((got[row] - expected[row][0]).norm() / expected[row][0].norm()))
    return round(worst, 5)


def prompt_error(decoder: Decoder, ids: list[int]) -> float:
    """Relative error (Frobenius) of the keys and values that a prompt leaves through its graph, against operations started one by one."""
    import torch

    from twofold.engines.mistral import Unpacker, forward

    decoder.begin([*ids, 0], [0], 1, Sampling(), [0])
    spare = decoder.rows
    given = torch.tensor([ids], device=decoder.weights.device)
    forward(decoder.weights, decoder.stacks, decoder.cache, Unpacker(decoder.kernels), given, [0], [spare], [1])
    parts = decoder.cache.keys, decoder.cache.values
    got, expected = (torch.cat([part[:, row, :, : len(ids)].float().flatten() for part in parts]) for row in (0, spare))
    return round(float((got - expected).norm() / expected.norm()), 5)


def generate(config: Config, model: Any, system: str, how: Mapping[str, Any], add: Callable[..., None]) -> None:
    """Measure `generate` of transformers, plain and through peft, at batch 1 and, with a dynamic cache, 8."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    lora = LoraConfig(r=16, lora_alpha=16, target_modules=[f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")])
    ids = torch.tensor([random_prompt(config.prompt, model.config.vocab_size)], device="cuda")

    def run(speaker: Any, batch: int, tokens: int, **more: Any) -> None:
        many = ids.repeat(batch, 1)
        count = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
        with torch.inference_mode():
            speaker.generate(input_ids=many, attention_mask=torch.ones_like(many), **count, **how, **more)

    def measure(speaker: Any, batch: int, adapter: str, tell: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run(speaker, batch, 2, **tell)
        firsts = [seconds(lambda: run(speaker, batch, 1, **tell)) for _ in range(config.runs)]
        times = [seconds(lambda: run(speaker, batch, 1 + config.peer_tokens, **tell)) - median(firsts) for _ in range(config.runs)]
        first = {"first_token_ms": round(1e3 * median(firsts), 2), "first_token_samples": [round(1e3 * one, 2) for one in firsts]}
        peak = torch.cuda.max_memory_allocated() / 2**30
        add(system, batch, adapter, [batch * config.peer_tokens / one for one in times], peak, **(first if batch == 1 else {}), **more)

    measure(model, 1, "none", {}, {})
    adapted: PeftModel = get_peft_model(model, lora, adapter_name="code").eval()
    try:
        adapted.add_adapter("theory", lora)
        switches = [1e3 * seconds(partial(adapted.set_adapter, name)) for name in ("theory", "code") * config.runs]
        switch = {"switch_ms": round(median(switches), 3), "switch_samples": [round(one, 3) for one in switches]}
        measure(adapted, 1, "one", {}, switch)
        if not how:
            measure(adapted, 8, "one", {}, {})
            measure(adapted, 8, "mixed", {"adapter_names": ["code", "theory"] * 4}, {})
    finally:
        adapted.unload()


def greedy(model: str, tokens: int = 64) -> list[dict[str, Any]]:
    """Compare greedy tokens of a trained model with plain transformers on this GPU: each adapter alone, then all in one batch.

    Where they first differ, `gap` is the distance of the two best logits of plain transformers there, in the logits' own units: bf16
    cannot tell apart what is closer than about 1/128 of their size.
    """
    from twofold.engines.local import PACKAGE, Local, _load_base, open_local

    own = open_local(model)
    home = PACKAGE / "weights" if model == "embedded" else Path(model)
    base = home / "base" if (home / "base").is_dir() else home
    plain = Local("plain", *_load_base(base), folder=base)
    for name in sorted(own.adapters - {"base"}):
        plain.load(name, own._folders[name])
    return [row for ask in ASKS for row in compared(own, plain, ask, tokens)]


def compared(own: Local, plain: Local, question: str, tokens: int) -> list[dict[str, Any]]:
    """A row for each adapter of `greedy`."""
    import torch

    ask: list[Message] = [{"role": "user", "content": question}]
    ids, sampling, names = own._prompt(ask, "base"), Sampling(tokens), sorted(own.adapters)
    mixed: dict[str, list[int]] = {name: [] for name in names}
    streams: dict[str, Iterator[dict[int, int]]] = {name: own._steps(ids, name, sampling, 1) for name in names}
    while streams:
        for name in list(streams):
            if step := next(streams[name], None):
                mixed[name].append(step[0])
            else:
                del streams[name]
    found = []
    for name in names:
        expected = [step[0] for step in plain._steps(ids, name, sampling, 1)]
        alone = [step[0] for step in own._steps(ids, name, sampling, 1)]
        differ = next((i for i, (a, b) in enumerate(zip(expected, alone, strict=False)) if a != b), None)
        gap = None
        if differ is not None:
            best = plain._step(torch.tensor([ids + expected[:differ]]), plain._cache(), name)[0].topk(2).values
            gap = round(float(best[0] - best[1]), 4)
        row = {"question": question, "adapter": name, "tokens": len(expected), "equal": alone == expected}
        row |= {"equal_in_mixed_batch": mixed[name] == alone, "first_difference": differ, "gap": gap}
        found.append(row | {"engine": engine_of(own)})
    return found


def engine_of(engine: Local) -> str:
    """Which engine answers, and why it is not the resident one if it is not."""
    return f"{type(engine).__name__}{f' ({engine.plain})' if engine.plain else ''}"


# what all cells share


def seconds(work: Callable[[], Any]) -> float:
    """Seconds of some work on the GPU, from idle to idle."""
    import torch

    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def copy_speed(size: int = 1 << 30) -> float:
    """Bytes a second, read and written, of a copy on the device; the median of 20."""
    import torch

    a, b = (torch.empty(size, dtype=torch.uint8, device="cuda").random_() for _ in range(2))
    times = []
    for _ in range(25):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch gives it no types
        start.record()
        b.copy_(a)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return float(2 * size / median(times[5:]))


def random_prompt(length: int, vocabulary: int) -> list[int]:
    """Token ids, the same at every call."""
    import torch

    return torch.randint(5, vocabulary, (length,), generator=torch.Generator().manual_seed(0)).tolist()


def random_model(layers: int) -> Any:
    """Mistral-7B-Instruct-v0.3 in NF4 double quant with random weights, on the GPU; nothing of it is ever held in bf16 but one matrix."""
    import torch
    from torch import nn
    from transformers import MistralConfig, MistralForCausalLM

    from twofold.engines.libraries import import_bitsandbytes

    import_bitsandbytes()
    from bitsandbytes.nn import Linear4bit, Params4bit

    heads = {"num_attention_heads": 32, "num_key_value_heads": 8}
    shape = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": layers, **heads}
    room = {"vocab_size": 32768, "max_position_embeddings": 32768, "rope_theta": 1e6, "sliding_window": None, "rms_norm_eps": 1e-5}
    torch.manual_seed(0)
    with torch.device("meta"):
        model = MistralForCausalLM(MistralConfig(**shape, **room)).bfloat16()
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, linear in list(part.named_children()):
                if not isinstance(linear, nn.Linear):
                    continue
                values = torch.randn(linear.weight.shape, dtype=torch.bfloat16, device="cuda").mul_(linear.in_features**-0.5)
                packed = Linear4bit(linear.in_features, linear.out_features, False, torch.bfloat16, True, "nf4", device="meta")
                packed.weight = Params4bit(values, requires_grad=False, compress_statistics=True, quant_type="nf4").to("cuda")
                setattr(part, name, packed)
    for module in model.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            if value.is_meta:
                shape_of = value.shape
                real = torch.ones(shape_of) if len(shape_of) == 1 else torch.randn(shape_of, device="cuda").mul_(shape_of[1] ** -0.5)
                setattr(module, name, nn.Parameter(real.to("cuda", torch.bfloat16), requires_grad=False))
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config, device="cuda")
    model.is_loaded_in_4bit = True  # what peft asks
    return model.eval()


def random_adapter(shape: Shape, seed: int) -> dict[str, torch.Tensor]:
    """LoRA matrices of rank 16 on all linears, by the names of peft's files."""
    import torch

    from twofold.engines.mistral import FUSED

    dice, tensors = torch.Generator("cuda").manual_seed(seed), {}
    for name, (rows, columns) in shape.sizes.items():
        for layer in range(shape.layers):
            for part, count in zip(FUSED[name], rows, strict=True):
                key = f"base_model.model.model.layers.{layer}.{part}.lora_"
                tensors[f"{key}A.weight"] = torch.randn(16, columns, generator=dice, device="cuda") * columns**-0.5
                tensors[f"{key}B.weight"] = torch.randn(count, 16, generator=dice, device="cuda") * 0.1
    return tensors


# what people read


def table(result: Mapping[str, Any]) -> str:
    """The decoding cells as a Markdown table, best first in each batch and adapter."""
    rows = ["| batch | adapter | system | tokens/s | spread | of the limit | first token | switch | peak |"]
    rows.append("|--:|---|---|--:|--:|--:|--:|--:|--:|")
    cells = [cell for cell in result["cells"] if cell["task"] == "decode"]
    order = list(ADAPTERS)
    for cell in sorted(cells, key=lambda one: (one["batch"], order.index(one["adapter"]), -one["tokens_per_second"])):
        first = f"{cell['first_token_ms']:.1f} ms" if cell["first_token_ms"] else ""
        switch = f"{cell['switch_ms']:.3f} ms" if cell["switch_ms"] is not None else ""
        low, high = cell["spread"]
        numbers = f"{cell['tokens_per_second']:,.0f} | {low:,.0f}-{high:,.0f} | {cell['limit_share']:.0f} %"
        rows.append(
            f"| {cell['batch']} | {cell['adapter']} | {cell['system']} | {numbers} | {first} | {switch} | {cell['peak_gib']:.1f} GiB |"
        )
    return "\n".join(rows)


def write_page(result: Mapping[str, Any], page: Path) -> None:
    """Replace what stands between the marks of a page by the table, the facts and the plot, which is drawn beside the page."""
    head, begin, rest = page.read_text(encoding="utf-8").partition("<!-- bench gpu: decode -->\n")
    _, end, tail = rest.partition("<!-- end -->")
    if not (begin and end):
        return
    facts, not_run = result["facts"]["decode"], result["not_run"]["decode"]
    draw(result, page.with_name("decode.png"))
    lines = [
        f"{facts['card']}, {facts['when']}; {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}.",
        f"A copy moves {facts['copy_tb_s']} TB/s and a token must read {facts['bytes_a_token'] / 1e9:.2f} GB, so the limit at batch 1 is "
        f"{facts['limit_tokens_per_second']:.0f} tokens/s. {facts['shape']}, prompt of {facts['prompt_tokens']} tokens, medians.",
        "", table(result), "", "![tokens a second by batch, adapter and system](decode.png)", "",
        *(f"Not run: {name} ({why})." for name, why in not_run.items()),
    ]  # fmt: skip
    page.write_text(head + begin + "\n".join(lines) + "\n" + end + tail, encoding="utf-8")


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the decoding cells with one adapter or a mixture as bars, on a logarithmic scale because the systems lie so far apart."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    cells = [cell for cell in result["cells"] if cell["task"] == "decode" and cell["adapter"] != "none"]
    groups = sorted({(cell["batch"], cell["adapter"]) for cell in cells}, key=lambda one: (one[0], one[1] == "mixed"))
    systems = list(dict.fromkeys(cell["system"] for cell in cells))
    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    width = 0.8 / len(systems)
    for i, system in enumerate(systems):
        mine = {(cell["batch"], cell["adapter"]): cell["tokens_per_second"] for cell in cells if cell["system"] == system}
        places = [groups.index(group) + i * width for group in mine]
        axis.bar_label(axis.bar(places, list(mine.values()), width, label=system), fmt="{:,.0f}", fontsize=8)
    names = [f"batch {batch}, {adapter}" for batch, adapter in groups]
    axis.set_xticks([i + width * (len(systems) - 1) / 2 for i in range(len(groups))], names)
    axis.set_yscale("log")
    axis.set_ylabel("tokens a second")
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
