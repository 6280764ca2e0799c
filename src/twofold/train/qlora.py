"""Stage 5: train one adapter (CODE, THEORY or your own) by QLoRA on a base frozen at its NF4 values.

rsLoRA (arXiv 2312.03732) on all linears; loss on the assistant's tokens only. The small base is de-quantised to bf16 first: the same values
as the NF4 kernels compute with, several times faster. A 7B base stays in NF4 through bitsandbytes.
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
    snapshot_minutes: float = 10.0
    """Time between snapshots; a run that was stopped goes on when it is started again with the same settings."""


def load_base(name: str) -> tuple[Any, Any]:
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
        weights = dequantized(folder)
        weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
        model.load_state_dict(weights)
        model.to("cuda" if torch.cuda.is_available() else torch.float32)
    else:
        import_bitsandbytes()
        nf4 = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
        )
        quantise = {} if quantised else {"quantization_config": nf4}
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, use_safetensors=True, **quantise)
    model.requires_grad_(requires_grad=False)
    return model, AutoTokenizer.from_pretrained(folder)


def examples(path: Path, tokenizer: Any, length: int) -> tuple[list[tuple[list[int], list[int]]], int]:
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


def batches(rows: Sequence[tuple[list[int], list[int]]], micro: int, rng: random.Random) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One pass in random order: (ids, labels, attention mask), each (micro, longest). Rows of like length share a batch: less padding."""
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
    """Train the adapter; write it with its run.json and log.jsonl. Ctrl-C keeps what was learnt; the same command goes on from there."""
    name = {"code": "train.jsonl", "theory": "train_theory.jsonl"}.get(config.adapter)
    data = Path(config.data) if config.data else default_rows(name)
    out = Path(config.out or f"out/{config.adapter}")
    if not data.exists():
        raise TwofoldError(f"no rows in {data}: run `twofold data build`, or name your own with --data")
    torch.manual_seed(config.seed)
    with quiet():
        base, tokenizer = load_base(config.base)
    rows, long = examples(data, tokenizer, config.length)
    every = max(50, len(rows) // 100)
    held, rows = rows[::every], [row for number, row in enumerate(rows) if number % every]
    if not rows:
        raise TwofoldError(f"{data} holds {len(held)} rows of at most {config.length} tokens, {long} longer ones: at least 2 are needed")
    from peft import LoraConfig, get_peft_model
    from tqdm import tqdm

    lora = LoraConfig(
        r=config.rank, lora_alpha=config.rank, use_rslora=True, lora_dropout=0.0, target_modules=list(LINEARS), task_type="CAUSAL_LM"
    )
    with quiet():
        model = get_peft_model(base, lora)
    device = next(base.parameters()).device
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.data = weight.data.float()
    optimiser = torch.optim.AdamW(trained, lr=config.lr, weight_decay=0.0, betas=(0.9, 0.95))
    micro = min(config.micro, config.batch)
    accumulate = config.batch // micro
    total = config.steps or math.ceil(math.ceil(len(rows) / config.batch) * config.epochs)

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
        losses = [float(loss_of(*batch)) for batch in batches(held, micro, random.Random(0))]
        model.train()
        return sum(losses) / len(losses)

    def save() -> None:
        """All that the same command needs to go on."""
        state = {"config": asdict(config), "weights": trained, "optimiser": optimiser.state_dict(), **done}
        torch.save(state, snapshot.with_suffix(".part"))
        snapshot.with_suffix(".part").replace(snapshot)

    out.mkdir(parents=True, exist_ok=True)
    snapshot, done = out / "snapshot.pt", {"step": 0, "tokens": 0, "seconds": 0.0, "first": 0.0}
    saved = torch.load(snapshot, map_location=device, weights_only=True) if snapshot.exists() else {}
    if saved.get("config") == asdict(config):
        done = {name: saved[name] for name in done}
        optimiser.load_state_dict(saved["optimiser"])
        for weight, value in zip(trained, saved["weights"], strict=True):
            weight.data.copy_(value.data)
        print(f"goes on from step {done['step']} of {total}", file=sys.stderr)
    else:
        done["first"] = evaluate()
    rng, finished = random.Random(config.seed), False
    stream = itertools.chain.from_iterable(batches(rows, micro, rng) for _ in itertools.count())
    for _ in range(int(done["step"]) * accumulate):  # the order goes on where it was
        next(stream)
    log = (out / "log.jsonl").open("a" if done["step"] else "w", encoding="utf-8")
    model.train()
    began = time.perf_counter() - done["seconds"]
    next_snapshot = done["seconds"] + config.snapshot_minutes * 60
    bar = tqdm(total=total, initial=int(done["step"]), desc=config.adapter, file=sys.stderr, disable=None, unit="step")
    try:
        while (step := int(done["step"])) < total:
            lr = config.lr * min(1.0, (step + 1) / 20) * (1 - step / total)
            for group in optimiser.param_groups:
                group["lr"] = lr
            value, seen = 0.0, 0
            for _ in range(accumulate):
                batch = next(stream)
                loss = loss_of(*batch)
                (loss / accumulate).backward()  # type: ignore[no-untyped-call]
                value += float(loss.detach()) / accumulate
                seen += int(batch[2].sum())
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            done |= {"step": step + 1, "tokens": done["tokens"] + seen, "seconds": time.perf_counter() - began}
            bar.update()
            if step % 10 == 0:
                log.write(json.dumps({"step": step, "loss": round(value, 4), "lr": round(lr, 7), "tokens": done["tokens"]}) + "\n")
                bar.set_postfix(loss=f"{value:.3f}")
            if done["seconds"] > next_snapshot:
                next_snapshot += config.snapshot_minutes * 60
                save()
        finished = True
    except KeyboardInterrupt:
        save()
        print(f"stopped at step {done['step']} of {total}; the adapter so far is kept, the same command goes on", file=sys.stderr)
    finally:
        bar.close()
        log.close()
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
               "valid_loss_before": round(done["first"], 4), "valid_loss": round(evaluate(), 4)}  # fmt: skip
    record.write(out, config, numbers, [data])
    print(f"{out}: {json.dumps(numbers)}")


def default_rows(name: str | None) -> Path:
    """The project's rows for CODE or THEORY. Raises TwofoldError for an adapter that has none."""
    if not name:
        raise TwofoldError('an adapter of your own needs rows: --data FILE.jsonl with {"messages": [...]} lines')
    return Path("data") / name
