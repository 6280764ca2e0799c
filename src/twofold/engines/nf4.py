"""NF4, the 4-bit form in which weights are stored (QLoRA, arXiv 2305.14314, appendix E): its values, and reading them back."""

import torch
from torch import Tensor

BLOCK = 64
"""Weights that share a scale."""
CODES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434,
    0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The 16 values of a code."""


def unpack(codes: Tensor, absmax: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """The matrix (rows, columns) that NF4 codes stand for: uint8, two a byte, the earlier in the high nibble. absmax: a float32 a block."""
    both = torch.stack([codes >> 4, codes & 15], dim=-1).reshape(-1, BLOCK)
    table = torch.tensor(CODES, device=codes.device)
    return (table[both.int()] * absmax.reshape(-1, 1)).to(dtype).reshape(rows, -1)
