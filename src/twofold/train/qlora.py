"""Stage 5: train one adapter (CODE, THEORY or your own) by QLoRA on a base frozen at its NF4 values.

rsLoRA (arXiv 2312.03732) on all linears; loss on the assistant's tokens only; rows packed side by side (`train/packed.py`). Where memory
allows, the base is de-quantised to bf16 once: the same values as in NF4, faster. Several GPUs through `accelerate launch`.
"""

import itertools
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twofold import prompts
from twofold.engines.folders import find
from twofold.engines.libraries import import_bitsandbytes, quiet
from twofold.engines.local import NAMED
from twofold.train import record
from twofold.train.packed import GIB, IGNORED, Decoder, Pack, Plan, Row, Shape, packs, plan
from twofold.train.quantize import dequantized
from twofold.types import TwofoldError

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Config:
    """What `twofold train code` and `twofold train theory` do."""

    adapter: str = "code"
    """Name of the adapter."""
    base: str = "out/base"
    """NF4 folder of stage 4, any Mistral-family folder or hub id, or mistral-7b."""
    data: str = ""
    """Chat rows (JSON Lines); empty takes data/train.jsonl for code, data/train_theory.jsonl for theory."""
    out: str = ""
    """Where the adapter is written; empty takes out/<adapter>."""
    rank: int = 16
    """LoRA rank; the same for all adapters that are to serve together."""
    lr: float = 1e-3
    """Peak learning rate (2e-4 for a 7B base)."""
    epochs: float = 3.0
    """Passes over the rows."""
    batch: int = 16384
    """Tokens per optimiser step, over all GPUs; at least one forward pass on each."""
    micro: int = 8192
    """Tokens per forward pass on one GPU; rows are packed side by side up to this."""
    length: int = 1536
    """Longest row in tokens; longer ones are left out and counted."""
    seed: int = 0
    """Seed of LoRA's first weights and of the row order."""
    steps: int = 0
    """Stop after this many steps; 0 = by epochs."""
    evaluations: int = 10
    """How often the held-out rows (1 %, at most one in 50) are evaluated over the run; the best adapter is kept."""
    patience: int = 4
    """Stop after this many evaluations without a better one; 0 = never."""
    memory: float = 0.0
    """GiB of GPU memory that the run may take; 20 suits a card of 24 GB. 0 = all that is free. Decides what is computed twice."""
    price: float = 2.5
    """Dollars an hour of one GPU, for the estimate."""
    snapshot_minutes: float = 10.0
    """Time between snapshots; a run that was stopped goes on when it is started again with the same settings."""


def load_base(name: str, device: torch.device | None = None) -> tuple[Any, Any]:
    """The frozen base model and its tokenizer. Folders of stage 4 come de-quantised to bf16, all else through bitsandbytes NF4."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    if not Path(name).exists() and len(Path(name).parts) > 1 and Path(name).parent.is_dir():
        raise TwofoldError(f"no base model in {name}: run `twofold train quantize` first, or name a hub id")
    folder = find(NAMED.get(name, name))
    if not (folder / "config.json").exists():
        raise TwofoldError(f"no base model in {folder}: run `twofold train quantize` first, or name a hub id")
    config = AutoConfig.from_pretrained(folder)
    quantised = getattr(config, "quantization_config", None)
    if quantised and not quantised.get("bnb_4bit_use_double_quant") and (folder / "model.safetensors").exists():
        del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        weights = dequantized(folder / "model.safetensors")
        weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
        model.load_state_dict(weights)
        model.to(device if device and device.type == "cuda" else torch.float32)
    else:
        import_bitsandbytes()
        nf4 = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
        )
        quantise = {} if quantised else {"quantization_config": nf4}
        where = {"device_map": {"": device}} if device and device.type == "cuda" else {}
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, use_safetensors=True, **quantise, **where)
    model.requires_grad_(requires_grad=False)
    return model, AutoTokenizer.from_pretrained(folder)


def examples(path: Path, tokenizer: Any, length: int) -> tuple[list[Row], int]:
    """(ids, labels) of each row, labels -100 outside the assistant's answers; and how many rows were too long."""
    special = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in prompts.SPECIALS}

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    found, long = [], 0
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                ids, answer = prompts.encode(json.loads(line)["messages"], tokenize, special)
            except (ValueError, KeyError, TypeError, TwofoldError) as error:
                raise TwofoldError(f"line {number} of {path} is no chat row ({type(error).__name__}: {error})") from None
            if not any(answer):
                raise TwofoldError(f"line {number} of {path} has no answer: its last message must be the assistant's")
            if len(ids) > length:
                long += 1
            else:
                found.append((ids, [token if spoken else IGNORED for token, spoken in zip(ids, answer, strict=True)]))
    return found, long


def adapter_on(base: Any, rank: int) -> Any:
    """A peft model with fresh LoRA matrices in float32 on all linears of a base."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=rank, lora_alpha=rank, use_rslora=True, lora_dropout=0.0, target_modules=list(LINEARS), task_type="CAUSAL_LM")
    with quiet():
        model = get_peft_model(base, lora)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return model


def memory_plan(model: Any, config: Config, device: torch.device) -> Plan:
    """What is held and what is computed twice on this device. Raises TwofoldError where not even the thriftiest way fits."""
    if device.type != "cuda":
        return Plan(whole=True, recomputed=0, peak=0)
    if torch.cuda.get_device_capability(device) < (8, 0):
        raise TwofoldError("this GPU is older than Ampere and has no bf16: train on the CPU with CUDA_VISIBLE_DEVICES= or take another")
    free, _ = torch.cuda.mem_get_info(device)
    if config.memory:
        free = min(free, int(config.memory * GIB) - torch.cuda.memory_allocated(device))
    nf4 = any(weight.dtype == torch.uint8 for weight in model.parameters())
    chosen = plan(free, Shape.of(model.config), config.micro, config.rank, nf4)
    if chosen.peak > free:
        told = f"{chosen.peak / GIB:.1f} GiB of GPU memory are needed beside the base, {free / GIB:.1f} are free"
        raise TwofoldError(f"{told}: try --micro {config.micro // 2}")
    return chosen


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a run takes and what it costs, from a measured speed."""

    tokens: int
    """left to train on"""
    per_second: float
    """tokens, over all GPUs"""
    gpus: int
    price: float
    """dollars an hour of one GPU"""

    @property
    def hours(self) -> float:
        """Wall clock."""
        return self.tokens / self.per_second / 3600

    def __str__(self) -> str:
        """One line for the user."""
        cost = f", about ${self.hours * self.gpus * self.price:.2f} at ${self.price:.2f} a GPU hour" if self.gpus else ""
        minutes = self.hours * 60
        length = f"{minutes:.0f} min" if minutes < 120 else f"{self.hours:.1f} h"
        return f"{self.tokens / 1e6:.2f} M tokens at {self.per_second:,.0f} tokens/s: about {length}{cost}"


def main(config: Config) -> None:
    """Train the adapter; write it with its run.json and log.jsonl. Ctrl-C keeps what was learnt; the same command goes on from there.

    A run that was killed goes on from its last snapshot, to the same losses. Each process of `accelerate launch` takes every n-th pack.
    """
    from accelerate import PartialState
    from accelerate.utils import reduce
    from tqdm import tqdm

    name = {"code": "train.jsonl", "theory": "train_theory.jsonl"}.get(config.adapter)
    data = Path(config.data) if config.data else default_rows(name)
    out = Path(config.out or f"out/{config.adapter}")
    if not data.exists():
        raise TwofoldError(f"no rows in {data}: run `twofold data build`, or name your own with --data")
    state = PartialState()
    device, world = state.device if state.device.type == "cuda" else torch.device("cpu"), state.num_processes
    with quiet():
        base, tokenizer = load_base(config.base, device)
    longest = min(config.length, config.micro)
    rows, long = examples(data, tokenizer, longest)
    every = max(50, len(rows) // 100)
    held, rows = rows[::every], [row for number, row in enumerate(rows) if number % every]
    if not rows:
        raise TwofoldError(f"{data} holds {len(held)} rows of at most {longest} tokens, {long} longer ones: at least 2 are needed")
    chosen = memory_plan(base, config, device)
    torch.manual_seed(config.seed)
    model = adapter_on(base, config.rank)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    decoder = Decoder(model, chosen, longest, compiled=device.type == "cuda")
    optimiser = torch.optim.AdamW(trained, lr=config.lr, weight_decay=0.0, betas=(0.9, 0.95), fused=True)
    accumulate = max(1, config.batch // (config.micro * world))
    epoch = sum(1 for _ in packs(rows, config.micro, longest, random.Random(config.seed)))
    total = config.steps or math.ceil(epoch * config.epochs / (accumulate * world))

    def summed(values: list[float]) -> list[float]:
        """The sums of a few numbers over all processes."""
        return reduce(torch.tensor(values, dtype=torch.float64, device=device), "sum").tolist()  # type: ignore[no-any-return]

    def step_on(given: Sequence[Pack]) -> tuple[float, int]:
        """Leave the gradient of the mean loss over the answer tokens of all processes' packs; return that mean and the tokens."""
        losses = []
        for one in given:
            loss = decoder.loss(one.to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        said = sum(int((one.targets != IGNORED).sum()) for one in given)
        total_loss, answers, tokens = summed([float(sum(losses)), said, sum(one.tokens for one in given)])
        for weight in trained:
            weight.grad = reduce(weight.grad, "sum") / answers
        return total_loss / answers, int(tokens)

    @torch.no_grad()
    def evaluate() -> float:
        loss, answers = 0.0, 0.0
        for one in itertools.islice(packs(held, config.micro, longest), state.process_index, None, world):
            loss += float(decoder.loss(one.to(device)))
            answers += int((one.targets != IGNORED).sum())
        loss, answers = summed([loss, answers])
        return loss / answers

    def stream() -> Iterator[Pack]:
        """This process's packs, epoch after epoch."""
        rng = random.Random(config.seed)
        endless = itertools.chain.from_iterable(packs(rows, config.micro, longest, rng) for _ in itertools.count())
        return itertools.islice(endless, state.process_index, None, world)

    def save() -> None:
        """All that the same command needs to go on."""
        if state.is_main_process:
            kept = {"config": asdict(config), "weights": trained, "best_weights": best, "optimiser": optimiser.state_dict(), **done}
            torch.save(kept, snapshot.with_suffix(".part"))
            snapshot.with_suffix(".part").replace(snapshot)

    def take(weights: Sequence[Tensor]) -> None:
        for weight, value in zip(trained, weights, strict=True):
            weight.data.copy_(value.data)
        decoder.refresh()

    out.mkdir(parents=True, exist_ok=True)
    snapshot, log = out / "snapshot.pt", out / "log.jsonl"
    done: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0, "first": 0.0, "best": math.inf, "worse": 0}
    best = [weight.detach().clone() for weight in trained]
    saved = torch.load(snapshot, map_location=device, weights_only=True) if snapshot.exists() else {}
    if saved.get("config") == asdict(config):
        done, best = {name: saved[name] for name in done}, saved["best_weights"]
        optimiser.load_state_dict(saved["optimiser"])
        take(saved["weights"])
        lines = [line for line in log.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] < done["step"]]
        tell(state, f"goes on from step {done['step']} of {total}")
    else:
        done["first"], lines = evaluate(), []
    if state.is_main_process:
        log.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    # What lies ahead, by the speed of a few packs whose gradients are dropped; the first compiles.
    trial = list(itertools.islice(stream(), 3))
    for number, one in enumerate(trial):
        if number == 1:
            began = _clock(device)
        step_on([one])
        optimiser.zero_grad(set_to_none=True)
    speed = sum(one.tokens for one in trial[1:]) * world / (_clock(device) - began)
    left = int((total - done["step"]) * accumulate * world / epoch * sum(len(ids) for ids, _ in rows))
    ahead = Estimate(left, speed, world if device.type == "cuda" else 0, config.price)
    held_in = str(base.lm_head.weight.dtype).removeprefix("torch.") if chosen.whole else "NF4"
    tell(state, f"{config.adapter}: {ahead} ({held_in} base, {chosen.recomputed} of {decoder.shape.layers} layers computed twice)")

    ours, finished = stream(), False
    for _ in range(done["step"] * accumulate):  # the order goes on where it was
        next(ours)
    began = time.perf_counter() - done["seconds"]
    next_snapshot = done["seconds"] + config.snapshot_minutes * 60
    each = max(1, total // max(1, config.evaluations))
    watched = None if state.is_main_process else True  # None: where the output is a terminal
    bar = tqdm(total=total, initial=done["step"], desc=config.adapter, file=sys.stderr, disable=watched, unit="step")
    try:
        while (step := done["step"]) < total:
            lr = config.lr * min(1.0, (step + 1) / 20) * (1 - step / total)
            for group in optimiser.param_groups:
                group["lr"] = lr
            loss, tokens = step_on([next(ours) for _ in range(accumulate)])
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            decoder.refresh()
            done |= {"step": step + 1, "tokens": done["tokens"] + tokens, "seconds": time.perf_counter() - began}
            line = {"step": step, "loss": round(loss, 4), "lr": round(lr, 7), "tokens": done["tokens"]}
            if (step + 1) % each == 0 or step + 1 == total:
                line["valid_loss"] = round(value := evaluate(), 4)
                done["worse"] = 0 if value < done["best"] else done["worse"] + 1
                if not done["worse"]:
                    done["best"], best = value, [weight.detach().clone() for weight in trained]
            if state.is_main_process and (step % 10 == 0 or "valid_loss" in line):
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            bar.update()
            rate = done["tokens"] / done["seconds"]
            bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} tokens/s, ${done['seconds'] / 3600 * ahead.gpus * config.price:.2f}")
            if config.patience and done["worse"] >= config.patience:
                tell(state, f"no better for {config.patience} evaluations: stopped at step {done['step']} of {total}, the best is kept")
                break
            if done["seconds"] > next_snapshot:
                next_snapshot += config.snapshot_minutes * 60
                save()
        finished = True
    except KeyboardInterrupt:
        save()
        tell(state, f"stopped at step {done['step']} of {total}; the adapter so far is kept, the same command goes on")
    finally:
        bar.close()
    if finished:
        take(best)
    final = evaluate()
    if not state.is_main_process:
        return
    for weight in trained:
        weight.data = weight.data.to(torch.bfloat16)
    # A local base goes by its folder's name: the whole path would tell where it was trained, and mean nothing elsewhere.
    named = Path(config.base).name if Path(config.base).exists() else NAMED.get(config.base, config.base)
    model.peft_config["default"].base_model_name_or_path = named
    with quiet():
        model.save_pretrained(out, safe_serialization=True)
    if finished:
        snapshot.unlink(missing_ok=True)
    numbers = {"rows": len(rows), "too_long": long, "steps": done["step"], "of": total, "tokens": done["tokens"],
               "seconds": round(done["seconds"], 1), "tokens_per_s": round(done["tokens"] / max(done["seconds"], 1e-9)),
               "estimated_seconds": round(ahead.hours * 3600, 1), "gpus": ahead.gpus,
               "base_held_in": held_in, "recomputed": chosen.recomputed,
               "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2) if device.type == "cuda" else None,
               "valid_loss_before": round(done["first"], 4), "valid_loss": round(final, 4)}  # fmt: skip
    record.write(out, config, numbers, [data])
    print(f"{out}: {json.dumps(numbers)}")


def tell(state: Any, line: str) -> None:
    """Say something once, above the progress bar."""
    if state.is_main_process:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)


def _clock(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def default_rows(name: str | None) -> Path:
    """The project's rows for CODE or THEORY. Raises TwofoldError for an adapter that has none."""
    if not name:
        raise TwofoldError('an adapter of your own needs rows: --data FILE.jsonl with {"messages": [...]} lines')
    return Path("data") / name
