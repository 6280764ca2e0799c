"""Training cells of `twofold bench gpu`: tokens a second, memory and losses of one QLoRA step on a 7B, ours and others' on equal rows.

Each system trains in a process of its own on the same packs of the project's rows, from the same NF4 base and the same first LoRA matrices;
only tokens of rows count, never padding. The processes start together, so that imports and the loading of kernels overlap, and take turns
on the card. Without weights at hand the base is random at the shape of Mistral-7B-v0.3: speed and memory do not depend on the values.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from twofold.types import TwofoldError

MISTRAL_7B = {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32768,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": None, "tie_word_embeddings": False,
    "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SIZE, LONGEST, MOST = 8192, 1536, 64
"""Tokens of a pack, tokens of a row at most, rows of a pack at most (the mean is 36)."""
EMBEDDED = Path(__file__).parents[1] / "weights" / "base"
PAGE = Path("docs/training.md")
"""Where the table goes, between its two marks."""
WARM = 3
"""Steps before the timed ones; the first compiles."""
LR = 2e-4
RANK = 16
GIB = 2**30
Row = tuple[list[int], list[int]]
Step = Callable[[Sequence[Row]], float]
"""One optimiser step on the rows of a pack; returns their mean loss."""


def train_cells(
    base: str = "", rows: Path = Path("data/train.jsonl"), *, timed: int = 5, systems: Sequence[str] = (), limit: float = 900
) -> Iterator[dict[str, Any]]:
    """Yield one cell a system, as they end: those named, or all. What cannot be run has no `tokens_per_second` and says why as `not_run`.

    base: an NF4 folder; empty makes a random one. rows: chat rows (JSON Lines), tokenised as the embedded model does, which fits any
    vocabulary of 16,384 or more. limit: seconds for all systems together. Raises TwofoldError without a GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise TwofoldError("training cells need a CUDA GPU")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        packs = scratch / "packs.json"
        packs.write_text(json.dumps(chosen_rows(rows, WARM + timed)))
        started = {name: _start(name, base or str(scratch / "base"), packs) for name in systems or SYSTEMS}
        if not base:
            random_base(scratch / "base")
        ends = time.monotonic() + limit
        for name, process in started.items():
            yield cell(name, _result(*process, ends - time.monotonic()))


def chosen_rows(path: Path, count: int) -> list[list[Row]]:
    """The rows of the first `count` packs, in the order of a seeded shuffle."""
    from transformers import AutoTokenizer

    from twofold.train.packed import filled
    from twofold.train.qlora import examples

    rows, _ = examples(path, AutoTokenizer.from_pretrained(EMBEDDED), LONGEST)
    found = [chosen for _, chosen in zip(range(count), filled(rows, SIZE, random.Random(0)), strict=False)]
    if len(found) < count:
        raise TwofoldError(f"{path} fills only {len(found)} packs of {SIZE} tokens, {count} are needed")
    return found


def cell(system: str, told: dict[str, Any]) -> dict[str, Any]:
    """The cell of results/gpu.json from what a system's process told."""
    found: dict[str, Any] = {"system": system, "task": "train", "batch": SIZE, "adapter": f"r={RANK}, new", "tokens_per_second": None}
    found |= {"first_token_ms": None, "switch_ms": None, "peak_gib": None, "limit_share": None}
    if "not_run" in told:
        return found | told
    rates = [tokens / seconds for tokens, seconds in zip(told["tokens"][WARM:], told["seconds"][WARM:], strict=True)]
    middle = median(rates)
    found |= {"tokens_per_second": round(middle), "peak_gib": round(told.pop("peak") / GIB, 2)}
    found["limit_share"] = round(100 * middle * told["flops_per_token"] / told["matmul_flops"], 1)
    return found | {"spread": [round(min(rates)), round(max(rates))], "samples": [round(rate) for rate in rates]} | told


def write_page(cells: Sequence[dict[str, Any]], page: Path) -> None:
    """Replace what stands between the marks of a page by the training cells as a table, where the time goes, and what was not run."""
    head, begin, rest = page.read_text(encoding="utf-8").partition("<!-- bench gpu: train -->\n")
    _, end, tail = rest.partition("<!-- end -->")
    if begin and end:
        page.write_text(head + begin + table(cells) + "\n" + end + tail, encoding="utf-8")
        draw(cells, page.with_name("gpu-training.png"))


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a system, then our milliseconds by kind of kernel."""
    run = [one for one in cells if one["task"] == "train" and one["tokens_per_second"]]
    lines = ["| system | tokens/s | spread | of the limit | peak | loss of the last step |", "|---|--:|--:|--:|--:|--:|"]
    for one in sorted(run, key=lambda one: -one["tokens_per_second"]):
        low, high = one["spread"]
        numbers = f"{one['tokens_per_second']:,} | {low:,}-{high:,} | {one['limit_share']:.0f} %"
        lines.append(f"| {one['system']} | {numbers} | {one['peak_gib']:.1f} GiB | {one['losses'][-1]:.3f} |")
    profiled = [one for one in run if "profile" in one]
    kinds = list(dict.fromkeys(kind for one in profiled for kind in one["profile"]["kinds_ms"]))
    lines += ["", f"| milliseconds a step | {' | '.join(one['system'] for one in profiled)} |", "|---|" + "--:|" * len(profiled)]
    spent = {kind: [f"{one['profile']['kinds_ms'].get(kind, 0):.0f}" for one in profiled] for kind in kinds}
    lines += [f"| {kind} | {' | '.join(values)} |" for kind, values in spent.items()]
    versions = {name: version for one in run for name, version in one["versions"].items()}
    lines += ["", f"{run[0]['card']}; {', '.join(f'{name} {version}' for name, version in versions.items())}.", ""] if run else []
    return "\n".join(lines + [f"Not run: {one['system']} ({one['not_run']})." for one in cells if "not_run" in one])


def draw(cells: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw tokens a second of each system as bars."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    run = sorted((one for one in cells if one["tokens_per_second"]), key=lambda one: one["tokens_per_second"])
    figure, axis = plt.subplots(figsize=(8, 0.6 + 0.5 * len(run)), layout="constrained")
    bars = axis.barh([f"{one['system']}, {one['peak_gib']:.1f} GiB" for one in run], [one["tokens_per_second"] for one in run])
    axis.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    axis.set_xlabel("tokens of rows a second")
    axis.margins(x=0.12)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _start(system: str, base: str, packs: Path) -> "tuple[subprocess.Popen[bytes], Path]":
    """A process that prepares and then waits for its turn, and where it writes: .out, .err; .turn is its turn."""
    code = "import sys; from twofold.evals.gpu_train import once; once(*sys.argv[1:])"
    files = packs.parent / "".join(letter if letter.isalnum() else "-" for letter in system)
    turn = files.with_suffix(".turn")
    turn.unlink(missing_ok=True)
    with files.with_suffix(".out").open("wb") as out, files.with_suffix(".err").open("wb") as errors:
        given = [sys.executable, "-c", code, system, base, str(packs), str(turn)]
        quiet = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "HF_HUB_OFFLINE": "1"}  # little fragmentation; nothing is fetched
        return subprocess.Popen(given, stdout=out, stderr=errors, env=os.environ | quiet), files


def _result(process: "subprocess.Popen[bytes]", files: Path, limit: float) -> dict[str, Any]:
    files.with_suffix(".turn").touch()
    try:
        process.wait(timeout=max(limit, 0.1))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return {"not_run": "not finished in the time given"}
    if process.returncode:
        said = files.with_suffix(".err").read_text(errors="replace").strip().splitlines()
        return {"not_run": (said or [f"exit code {process.returncode}"])[-1][:300]}
    return json.loads(files.with_suffix(".out").read_text().splitlines()[-1])  # type: ignore[no-any-return]


def once(system: str, base: str, packs: str, turn: str) -> None:
    """Measure one system in this process and print one JSON object."""
    import torch

    prepare = SYSTEMS[system]()  # its imports, before its turn
    _touch()
    given: list[list[Row]] = json.loads(Path(packs).read_text())
    while not Path(turn).exists():
        time.sleep(0.05)
    speed = _matmul_flops()
    run, flags = prepare(base)
    seconds, losses = run(given)
    told = {
        "tokens": [sum(len(ids) for ids, _ in rows) for rows in given],
        "seconds": [round(one, 4) for one in seconds],
        "losses": [round(loss, 4) for loss in losses],
        "peak": torch.cuda.max_memory_allocated(),
        "matmul_flops": round(speed),
        "flops_per_token": 4 * _linears(base),  # forward, and backward to the inputs: the weights are frozen
        "flags": flags,
        "versions": _versions(),
        "card": torch.cuda.get_device_name(),
    }
    if system.startswith("twofold"):
        told["profile"] = _profile(lambda: run(given[-1:]))
    print(json.dumps(told), flush=True)


def _profile(step: Callable[[], Any]) -> dict[str, Any]:
    """Milliseconds of one step by kind of kernel, and the ten longest kernels. Products over 0.3 ms are the base's, shorter ones LoRA's."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    kinds: dict[str, float] = {}
    kernels = []
    for event in seen.key_averages():
        total = event.self_device_time_total / 1000
        if total and str(event.device_type).endswith("CUDA"):
            kernels.append([event.key[:120], event.count, round(total, 2)])
            name = event.key.lower()
            product = any(word in name for word in ("nvjet", "gemm", "xmma", "cutlass::kernel", "splitk"))
            if "flash" in name:
                kind = "attention"
            elif product:
                kind = "products with the base" if total / event.count > 0.3 else "products with LoRA"
            elif "triton" in name:
                kind = "de-quantisation" if "bitwise" in name or "rshift" in name else "fused elementwise"
            else:
                kind = "loss, optimiser, other"
            kinds[kind] = round(kinds.get(kind, 0.0) + total, 2)
    kernels.sort(key=lambda one: -one[2])
    return {"kinds_ms": kinds, "kernels": kernels[:10]}


def _touch() -> None:
    """Use the kernels of attention and of matrix products once: loading them can take a minute."""
    import torch

    q = torch.randn(1, 8, 256, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True).sum().backward()  # type: ignore[no-untyped-call]
    (q @ q.mT).sum().backward()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()


def _matmul_flops() -> float:
    """Floating-point operations a second of a large bf16 product: the ceiling that `limit_share` is a share of."""
    import torch

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    a @ b
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(10):
        a @ b
    torch.cuda.synchronize()
    return 10 * 2 * 8192**3 / (time.perf_counter() - begun)


def _linears(base: str) -> int:
    from transformers import AutoConfig

    from twofold.train.packed import Shape

    return Shape.of(AutoConfig.from_pretrained(base)).linears()


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "transformers", "peft", "bitsandbytes", "trl", "unsloth"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def timed_steps(step: Step, given: Sequence[Sequence[Row]]) -> tuple[list[float], list[float]]:
    """Seconds and loss of one step a pack."""
    import torch

    seconds: list[float] = []
    losses: list[float] = []
    for rows in given:
        if len(seconds) == WARM and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        losses.append(step(rows))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return seconds, losses


def _optimiser(weights: Sequence[Any]) -> Callable[[], None]:
    """AdamW as in `train/qlora.py`, as one call that clips, steps and clears."""
    import torch

    adam = torch.optim.AdamW(list(weights), lr=LR, weight_decay=0.0, betas=(0.9, 0.95), fused=True)

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)

    return update


# The systems: each first imports, then takes the base and returns what runs the packs, with the flags worth telling.

Runner = Callable[[list[list[Row]]], tuple[list[float], list[float]]]
Prepare = Callable[[str], tuple[Runner, dict[str, Any]]]


def ours(memory: float = 0.0) -> Prepare:
    """The decoder, memory plan and loss of `train/qlora.py`, in so many GiB (0: all)."""
    import torch

    from twofold.train import packed, qlora

    device = torch.device("cuda", 0)
    if torch.cuda.is_available():  # varlen attention's kernels too, before the turn
        q = torch.randn(64, 8, 128, device=device, dtype=torch.bfloat16, requires_grad=True)
        packed.attend(q, q, q, torch.tensor([0, 32, 64], device=device, dtype=torch.int32), 32).sum().backward()  # type: ignore[no-untyped-call]

    def prepare(base: str) -> tuple[Runner, dict[str, Any]]:
        if memory:
            torch.cuda.set_per_process_memory_fraction(min(1.0, memory * GIB / torch.cuda.mem_get_info(device)[1]))
        model = frozen(base)
        chosen = qlora.memory_plan(model, qlora.Config(memory=memory, micro=SIZE, rank=RANK), device)
        step = our_step(model, chosen, device, compiled=True)
        return lambda given: timed_steps(step, given), {
            "base": "bf16" if chosen.whole else "NF4",
            "recomputed": chosen.recomputed,
            "memory": memory,
        }

    return prepare


def our_step(model: Any, chosen: Any, device: Any, compiled: bool) -> Step:
    """One optimiser step on one pack by `train/packed.py`."""
    import torch

    from twofold.train import packed, qlora

    torch.manual_seed(0)
    with_adapter = qlora.adapter_on(model, RANK)
    decoder = packed.Decoder(with_adapter, chosen, LONGEST, compiled)
    weights = [weight for weight in with_adapter.parameters() if weight.requires_grad]
    update = _optimiser(weights)

    def step(rows: Sequence[Row]) -> float:
        one = packed.pack(rows, SIZE, LONGEST, MOST).to(device)
        loss = decoder.loss(one) / (one.targets != packed.IGNORED).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        update()
        decoder.refresh()
        return float(loss.detach())

    return step


def frozen(base: str) -> Any:
    """The base as transformers loads it, on the GPU where there is one."""
    import torch
    from transformers import AutoModelForCausalLM

    where = {"": 0} if torch.cuda.is_available() else None
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, device_map=where).requires_grad_(requires_grad=False)


def plain() -> Prepare:
    """transformers + peft as in their guides: gradient checkpointing, padded batches of like length, at most as many tokens as a pack."""
    import peft
    import transformers

    def prepare(base: str) -> tuple[Runner, dict[str, Any]]:
        step = plain_step(frozen(base))
        return lambda given: timed_steps(step, given), {"checkpointing": True, "attention": "sdpa", "padded_tokens_at_a_time": SIZE}

    _ = peft, transformers
    return prepare


def plain_step(model: Any) -> Step:
    """One optimiser step on the rows of a pack by plain transformers + peft."""
    import torch

    from twofold.train import qlora

    torch.manual_seed(0)
    with_adapter = qlora.adapter_on(model, RANK)
    with_adapter.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with_adapter.train()
    device = model.device
    update = _optimiser([weight for weight in with_adapter.parameters() if weight.requires_grad])

    def step(rows: Sequence[Row]) -> float:
        answers = sum(label >= 0 for _, labels in rows for label in labels[1:])
        total = 0.0
        for group in _padded(rows):
            longest = max(len(ids) for ids, _ in group)
            ids, labels, mask = (torch.zeros(len(group), longest, dtype=torch.long) for _ in range(3))
            labels -= 100
            for at, (row, spoken) in enumerate(group):
                ids[at, : len(row)], labels[at, : len(row)], mask[at, : len(row)] = torch.tensor(row), torch.tensor(spoken), 1
            with torch.autocast(device.type, torch.bfloat16):
                given = {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}
                loss = with_adapter(**given, num_items_in_batch=answers).loss
            loss.backward()
            total += float(loss.detach())
        update()
        return total

    return step


def _padded(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in groups of like length, each at most SIZE tokens with its padding."""
    groups: list[list[Row]] = [[]]
    for row in sorted(rows, key=lambda row: -len(row[0])):
        if groups[-1] and (len(groups[-1]) + 1) * len(groups[-1][0][0]) > SIZE:
            groups.append([])
        groups[-1].append(row)
    return groups


def trl() -> Prepare:
    """TRL's SFTTrainer + peft: padding-free packs, gradient checkpointing."""
    import datasets
    import torch
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from twofold.train import qlora

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                if len(self.seconds) == WARM:
                    torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            self.begun = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self.begun)

    def prepare(base: str) -> tuple[Runner, dict[str, Any]]:
        from transformers import AutoTokenizer

        model = frozen(base)
        torch.manual_seed(0)
        with_adapter = qlora.adapter_on(model, RANK)
        flags = {"padding_free": True, "gradient_checkpointing": True, "attention": model.config._attn_implementation, "bf16": True}

        def run(given: list[list[Row]]) -> tuple[list[float], list[float]]:
            columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "seq_lengths": []}
            for rows in given:
                columns["input_ids"].append([token for ids, _ in rows for token in ids])
                columns["labels"].append([token for _, labels in rows for token in labels])
                columns["seq_lengths"].append([len(ids) for ids, _ in rows])
            config = SFTConfig(
                output_dir=str(Path(base).parent / "trl"), per_device_train_batch_size=1, max_steps=len(given), learning_rate=LR,
                lr_scheduler_type="constant", adam_beta2=0.95, weight_decay=0.0, max_grad_norm=1.0, bf16=True, gradient_checkpointing=True,
                gradient_checkpointing_kwargs={"use_reentrant": False}, logging_steps=1, save_strategy="no", report_to="none",
                padding_free=True, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}, train_sampling_strategy="sequential",
                optim="adamw_torch_fused", disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
            )  # fmt: skip
            clock = Clock()
            words = AutoTokenizer.from_pretrained(base)
            trainer = SFTTrainer(
                with_adapter, config, train_dataset=datasets.Dataset.from_dict(columns), processing_class=words, callbacks=[clock]
            )
            trainer.train()
            return clock.seconds, [line["loss"] for line in trainer.state.log_history if "loss" in line]

        return run, flags

    return prepare


def unsloth(checkpointing: bool | str = False) -> Prepare:
    """Unsloth, packed rows."""
    from unsloth import FastLanguageModel  # isort: skip  # first: it changes the others
    import torch

    from twofold.train.qlora import LINEARS

    def prepare(base: str) -> tuple[Runner, dict[str, Any]]:
        model, _ = FastLanguageModel.from_pretrained(base, max_seq_length=SIZE, dtype=torch.bfloat16, load_in_4bit=True)
        model = FastLanguageModel.get_peft_model(
            model, r=RANK, lora_alpha=RANK, use_rslora=True, lora_dropout=0, target_modules=list(LINEARS), random_state=0,
            use_gradient_checkpointing=checkpointing,
        )  # fmt: skip
        FastLanguageModel.for_training(model, use_gradient_checkpointing=checkpointing)
        update = _optimiser([weight for weight in model.parameters() if weight.requires_grad])

        def step(rows: Sequence[Row]) -> float:
            lengths = [len(ids) for ids, _ in rows]
            ids = torch.tensor([[token for row, _ in rows for token in row]], device="cuda")
            labels = torch.tensor([[token for _, spoken in rows for token in (-100, *spoken[1:])]], device="cuda")
            places = torch.cat([torch.arange(length) for length in lengths])[None].cuda()
            with torch.autocast("cuda", torch.bfloat16):
                sizes = torch.tensor(lengths, dtype=torch.int32, device="cuda")
                loss = model(input_ids=ids, labels=labels, position_ids=places, packed_seq_lengths=sizes).loss
            loss.backward()
            update()
            return float(loss.detach())

        return lambda given: timed_steps(step, given), {"checkpointing": checkpointing, "packed": True}

    return prepare


SYSTEMS: dict[str, Callable[[], Prepare]] = {
    "twofold": ours,
    "twofold, 24 GB card": lambda: ours(20.0),
    "TRL + peft": trl,
    "transformers + peft": plain,
    "Unsloth": unsloth,
    "Unsloth, its checkpointing": lambda: unsloth("unsloth"),
}


def random_base(folder: Path, shape: dict[str, Any] = MISTRAL_7B) -> None:
    """Write an NF4 folder (double-quantised, as transformers saves one) of random weights, quantised matrix by matrix."""
    import torch
    from bitsandbytes.functional import quantize_4bit
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    nf4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
           "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_use_double_quant": True, "bnb_4bit_quant_storage": "uint8"}  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape))
    torch.manual_seed(0)
    tensors = {}
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            tensors[name] = torch.ones(weight.shape, dtype=torch.bfloat16)
            continue
        value = torch.randn(weight.shape, dtype=torch.bfloat16, device=device) * (1.0 if "embed" in name else weight.shape[1] ** -0.5)
        if "_proj" in name:
            value, state = quantize_4bit(value, quant_type="nf4", compress_statistics=True)
            tensors |= {f"{name}.{key}": part.cpu() for key, part in state.as_dict(packed=True).items()}
        tensors[name] = value.cpu()
    folder.mkdir(parents=True, exist_ok=True)
    for file in EMBEDDED.iterdir():
        if "token" in file.name or file.suffix == ".jinja":
            shutil.copy(file, folder)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(shape | {"dtype": "bfloat16", "quantization_config": nf4}))
    torch.cuda.empty_cache()
