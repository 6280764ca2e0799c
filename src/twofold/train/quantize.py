"""Stage 4: round the linears to NF4 and write them in the form that bitsandbytes stores.

NF4: QLoRA (arXiv 2305.14314), appendix E; blocks of 64, nearest code, absmax in float32. Bit-equal to bitsandbytes 0.50
(tests/test_quantize.py), whose serialised form (functional.QuantState.as_dict) this writes, so that transformers loads the folder as any
pre-quantised one.
"""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twofold.engines.nf4 import BLOCK, CODES, unpack
from twofold.train import record
from twofold.types import TwofoldError

# The thresholds that bitsandbytes' kernels compare with (dQuantizeNF4): close to the midpoints of neighbouring codes.
EDGES = (
    -0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544, -0.23460740596055984, -0.13791173323988914,
    -0.045525018125772476, 0.03979014977812767, 0.1202552504837513, 0.2035212516784668, 0.2920137718319893, 0.3893125355243683,
    0.5016634166240692, 0.6427869200706482, 0.8614784181118011,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Config:
    """What `twofold train quantize` does."""

    model: str = "out/pretrain"
    """Folder of a pretraining run (masters.pt and model/)."""
    out: str = "out/base"
    """Where the NF4 folder is written."""


def codes_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (uint8, shape (n / 64, 64)) and absmax (float32, (n / 64,)) of values with n elements, n a multiple of 64."""
    blocks = values.float().reshape(-1, BLOCK)
    absmax = blocks.abs().amax(1)
    scaled = blocks * torch.where(absmax > 0, 1.0 / absmax, 0.0)[:, None]
    edges = torch.tensor(EDGES, device=values.device)
    return torch.bucketize(scaled, edges).to(torch.uint8), absmax


def round_nf4(values: Tensor) -> Tensor:
    """The values that NF4 storage gives back, same shape, float32. Blocks run along the last dimension, whose size must divide by 64."""
    codes, absmax = codes_of(values)
    table = torch.tensor(CODES, device=values.device)
    return (table[codes.long()] * absmax[:, None]).reshape(values.shape)


def pack(name: str, values: Tensor) -> dict[str, Tensor]:
    """The tensors that bitsandbytes stores for a matrix called `name`."""
    codes, absmax = codes_of(values)
    flat = codes.reshape(-1)
    state = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": "bfloat16", "shape": list(values.shape)}
    return {
        name: ((flat[0::2] << 4) | flat[1::2])[:, None].contiguous(),
        f"{name}.absmax": absmax.contiguous(),
        f"{name}.quant_map": torch.tensor(CODES),
        f"{name}.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }


def is_linear(name: str) -> bool:
    """True for the matrices that are stored in NF4: the seven linears of each block."""
    return name.endswith("_proj.weight")


def main(config: Config) -> None:
    """Write the NF4 folder of a pretraining run."""
    from safetensors.torch import save_file
    from tqdm import tqdm

    source, out = Path(config.model), Path(config.out)
    if not (source / "masters.pt").exists():
        raise TwofoldError(f"no masters.pt in {source}: run `twofold train pretrain` first")
    state: dict[str, Tensor] = torch.load(source / "masters.pt", map_location="cpu", weights_only=True)
    tensors: dict[str, Tensor] = {}
    for name, values in tqdm(state.items(), desc="quantize", file=sys.stderr, disable=None):
        full = f"model.{name}"
        tensors |= pack(full, values) if is_linear(name) else {full: values.to(torch.bfloat16).contiguous()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    shape: dict[str, Any] = json.loads((source / "model" / "config.json").read_text())
    shape["quantization_config"] = {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_use_double_quant": False, "bnb_4bit_quant_storage": "uint8",
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(shape, indent=2) + "\n")
    for file in (source / "model").glob("*"):
        if file.name not in ("model.safetensors", "config.json"):
            shutil.copy(file, out / file.name)
    size = (out / "model.safetensors").stat().st_size
    record.write(out, config, {"bytes": size}, [source / "masters.pt"])
    print(f"{out}: {size / 2**20:.0f} MiB")


def dequantized(file: Path, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """The tensors of a file that holds NF4 matrices (`pack`): the matrices as dtype, the others as stored. Needs no bitsandbytes."""
    from safetensors.torch import load_file

    tensors = load_file(file)
    result = {}
    for name, values in tensors.items():
        if f"{name}.absmax" in tensors:
            rows, _ = json.loads(bytes(tensors[f"{name}.quant_state.bitsandbytes__nf4"].tolist()))["shape"]
            result[name] = unpack(values, tensors[f"{name}.absmax"], rows, dtype)
        elif ".absmax" not in name and ".quant_" not in name:
            result[name] = values
    return result
