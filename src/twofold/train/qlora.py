"""Stage 5: train one adapter (CODE, THEORY or your own) by QLoRA on a base frozen at its NF4 values.

rsLoRA (arXiv 2312.03732) on all linears; loss on the assistant's tokens only. The small base is de-quantised to bf16 first: the same values as the NF4
kernels compute with, several times faster. A 7B base stays in NF4 through bitsandbytes.
"""

import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twofold import prompts
from twofold.train import record
from twofold.train.quantize import dequantized
from twofold.types import TwofoldError

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Config:
    """What `twofold train code` and `twofold train theory` do."""

    adapter: str = "code"
    """Name of the adapter."""
    base: str = "out/base"
    """NF4 folder of stage 4, or any Mistral-family folder or hub id."""
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
    batch: int = 32
    """Rows per optimiser step."""
    micro: int = 32
    """Rows per forward pass."""
    length: int = 1536
    """Longest row in tokens; longer ones are left out and counted."""
    seed: int = 0
    """Seed of LoRA's first weights and of the row order."""
    steps: int = 0
    """Stop after this many steps; 0 = by epochs."""


def load_base(name: str) -> tuple[Any, Any]:
    """The frozen base model and its tokenizer. Folders of stage 4 come de-quantised to bf16, all else through bitsandbytes NF4."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    folder = Path(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if (folder / "config.json").exists() and "quantization_config" in json.loads((folder / "config.json").read_text()):
        config = AutoConfig.from_pretrained(folder)
        del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        weights = dequantized(folder)
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        model.load_state_dict(weights)
        model.to(device if device == "cuda" else torch.float32)
    elif folder.exists() or "/" in name:
        quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16)
        model = AutoModelForCausalLM.from_pretrained(name, quantization_config=quantized, dtype=torch.bfloat16, use_safetensors=True)
    else:
        raise TwofoldError(f"no base model in {name}: run `twofold train quantize` first, or name a hub id")
    model.requires_grad_(requires_grad=False)
    return model, AutoTokenizer.from_pretrained(name)


def examples(path: Path, tokenizer: Any, length: int) -> tuple[list[tuple[list[int], list[int]]], int]:
    """(ids, labels) of each row, labels -100 outside the last answer; and how many rows were too long."""
    special = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in prompts.SPECIALS}

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    found, long = [], 0
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            ids, answer = prompts.encode(json.loads(line)["messages"], tokenize, special)
            if len(ids) > length:
                long += 1
            else:
                found.append((ids, [token if spoken else IGNORED for token, spoken in zip(ids, answer, strict=True)]))
    return found, long


def batches(rows: Sequence[tuple[list[int], list[int]]], micro: int, rng: random.Random) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One pass in random order: (ids, labels, attention mask), each (micro, longest). Rows of like length share a batch, to waste little padding."""
    order = list(range(len(rows)))
    rng.shuffle(order)
    pool = micro * 16
    groups = []
    for at in range(0, len(order), pool):
        near = sorted(order[at : at + pool], key=lambda number: len(rows[number][0]))
        groups += [near[i : i + micro] for i in range(0, len(near), micro)]
    rng.shuffle(groups)
    for group in groups:
        longest = max(len(rows[number][0]) for number in group)
        ids = torch.zeros(len(group), longest, dtype=torch.long)
        labels = torch.full((len(group), longest), IGNORED)
        mask = torch.zeros(len(group), longest, dtype=torch.long)
        for row, number in enumerate(group):
            size = len(rows[number][0])
            ids[row, :size] = torch.tensor(rows[number][0])
            labels[row, :size] = torch.tensor(rows[number][1])
            mask[row, :size] = 1
        yield ids, labels, mask


def main(config: Config) -> None:
    """Train the adapter; write it with its run.json and log.jsonl. Ctrl-C keeps what was learnt."""
    from peft import LoraConfig, get_peft_model
    from tqdm import tqdm

    name = {"code": "train.jsonl", "theory": "train_theory.jsonl"}.get(config.adapter)
    data = Path(config.data) if config.data else default_rows(name)
    out = Path(config.out or f"out/{config.adapter}")
    if not data.exists():
        raise TwofoldError(f"no rows in {data}: run `twofold data build`, or name your own with --data")
    torch.manual_seed(config.seed)
    rng = random.Random(config.seed)
    base, tokenizer = load_base(config.base)
    device = next(base.parameters()).device
    rows, long = examples(data, tokenizer, config.length)
    held = rows[:: max(50, len(rows) // 100)]
    rows = [row for number, row in enumerate(rows) if number % max(50, len(rows) // 100)]
    model = get_peft_model(
        base, LoraConfig(r=config.rank, lora_alpha=config.rank, use_rslora=True, lora_dropout=0.0, target_modules=list(LINEARS), task_type="CAUSAL_LM")
    )
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.data = weight.data.float()
    optimiser = torch.optim.AdamW(trained, lr=config.lr, weight_decay=0.0, betas=(0.9, 0.95))
    per_epoch = math.ceil(len(rows) / config.batch)
    total = config.steps or math.ceil(per_epoch * config.epochs)
    accumulate = max(1, config.batch // config.micro)

    def loss_of(ids: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            hidden = model.base_model.model.model(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
            wanted = labels[:, 1:].to(device)
            spoken = wanted != IGNORED
            logits = model.base_model.model.lm_head(hidden[:, :-1][spoken])  # only where the answer is: most of a row is prompt
        return torch.nn.functional.cross_entropy(logits.float(), wanted[spoken])

    @torch.no_grad()
    def evaluate() -> float:
        model.eval()
        losses = [float(loss_of(*batch)) for batch in batches(held, config.micro, random.Random(0))]
        model.train()
        return sum(losses) / len(losses)

    out.mkdir(parents=True, exist_ok=True)
    log = (out / "log.jsonl").open("w", encoding="utf-8")
    model.train()
    started, tokens, step, first = time.perf_counter(), 0, 0, evaluate()
    stream = (batch for _ in range(10_000) for batch in batches(rows, config.micro, rng))
    bar = tqdm(range(total), desc=config.adapter, file=sys.stderr, disable=None, unit="step")
    try:
        for step in bar:
            lr = config.lr * min(1.0, (step + 1) / 20) * (1 - step / total)
            for group in optimiser.param_groups:
                group["lr"] = lr
            value = 0.0
            for _ in range(accumulate):
                batch = next(stream)
                loss = loss_of(*batch)
                (loss / accumulate).backward()
                value += float(loss.detach()) / accumulate
                tokens += int(batch[2].sum())
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            if step % 10 == 0:
                log.write(json.dumps({"step": step, "loss": round(value, 4), "lr": round(lr, 7), "tokens": tokens}) + "\n")
                bar.set_postfix(loss=f"{value:.3f}")
    except KeyboardInterrupt:
        print(f"stopped at step {step} of {total}; the adapter so far is kept", file=sys.stderr)
    log.close()
    last, seconds = evaluate(), time.perf_counter() - started
    for weight in trained:
        weight.data = weight.data.to(torch.bfloat16)
    model.peft_config["default"].base_model_name_or_path = "" if Path(config.base).exists() else config.base
    model.save_pretrained(out, safe_serialization=True)
    numbers = {"rows": len(rows), "too_long": long, "steps": step + 1, "tokens": tokens, "seconds": round(seconds, 1),
               "tokens_per_s": round(tokens / seconds), "valid_loss_before": round(first, 4), "valid_loss": round(last, 4)}  # fmt: skip
    record.write(out, config, numbers, [data])
    print(f"{out}: {json.dumps(numbers)}")


def default_rows(name: str | None) -> Path:
    """The project's rows for CODE or THEORY. Raises TwofoldError for an adapter that has none."""
    if not name:
        raise TwofoldError("an adapter of your own needs rows: --data FILE.jsonl with {\"messages\": [...]} lines")
    return Path("data") / name
