"""How torch, transformers and bitsandbytes behave here: quick to import, quiet, few threads, and errors of one line."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psutil  # type: ignore[import-untyped]  # comes with accelerate; ships no types
import torch

from twofold.engines.folders import line
from twofold.types import TwofoldError


def import_bitsandbytes() -> None:
    """Import bitsandbytes without two effects of that import that cost and that nothing here needs.

    It decorates optimisers with torch.compile, which imports torch._inductor (1.0 s), and where the package `kernels` is installed it
    downloads a native library from the hub (bitsandbytes 0.50, backends/cpu/ops.py).
    """
    if "bitsandbytes" in sys.modules:
        return
    hidden = sys.modules.pop("kernels", None)
    sys.modules["kernels"] = None  # type: ignore[assignment]  # an import of it now raises ImportError
    try:
        with mock.patch.object(torch, "compile", lambda function=None, **_: function or (lambda f: f)):
            import bitsandbytes  # noqa: F401
    finally:
        del sys.modules["kernels"]
        if hidden is not None:
            sys.modules["kernels"] = hidden


class Unpacked(torch.nn.Linear):
    """A linear layer without bias, in bfloat16, for processors on which products of NF4 or bfloat16 matrices are slow.

    A product with few rows reads the matrix once, and half the bytes win; one with more rows computes, and float32 is up to seven times
    faster where the processor has no bfloat16 of its own (AMD EPYC with AVX2, 200 rows: 9 ms for 68).
    """

    FEW = 4
    """Rows from which float32 is faster."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply (..., in_features) to (..., out_features), in the input's type."""
        if input.numel() < self.FEW * self.in_features:
            return torch.nn.functional.linear(input, self.weight)
        return torch.nn.functional.linear(input.float(), self.weight.float()).to(input.dtype)


def unpack(model: torch.nn.Module) -> None:
    """Replace, in place and before the first forward pass, the NF4 layers of a model on the CPU by `Unpacked` ones of the same values.

    Only where bitsandbytes has no kernel for this processor: it wants AVX512-BF16 (0.50, nn/modules.py), which most desktops lack, and
    without it de-quantises every matrix for every token. 100 M parameters, one thread, a prompt of 560 tokens: the first token after 1.6 s
    and 20 more a second like this, after 10 s and 4 a second before; 0.15 GB more memory.
    """
    from bitsandbytes.functional import dequantize_4bit, has_avx512bf16
    from bitsandbytes.nn import Linear4bit

    if has_avx512bf16():
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Linear4bit) and layer.bias is None:
                plain = Unpacked(layer.in_features, layer.out_features, bias=False, device="meta")
                values = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
                plain.weight = torch.nn.Parameter(values.to(torch.bfloat16), requires_grad=False)
                setattr(parent, name, plain)


@contextmanager
def packed_weights_kept() -> Iterator[None]:
    """Let peft ask for a state dict without harm to weights that a CPU has computed with.

    bitsandbytes 0.50 packs NF4 weights for the CPU at the first forward pass and unpacks them, in place, for any state dict. Without double
    quantisation it then leaves the scales transposed, so that the next pass computes nonsense (_convert_weight_packed_for_cpu_inverse).
    """
    import bitsandbytes

    with mock.patch.object(bitsandbytes.nn.Linear4bit, "_save_to_state_dict", torch.nn.Module._save_to_state_dict):
        yield


def block_scales(state: Any) -> torch.Tensor:
    """Largest magnitudes of the blocks of a bitsandbytes QuantState, float32, double quantisation undone (arXiv 2305.14314, section 3)."""
    if not state.nested:
        return state.absmax.float()  # type: ignore[no-any-return]
    from bitsandbytes.functional import dequantize_blockwise

    return (dequantize_blockwise(state.absmax, state.state2) + state.offset).float()  # type: ignore[no-any-return]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings, log lines and progress bars from the user's terminal while a model loads."""
    from transformers.utils import logging as talk

    before, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talk.set_verbosity(before)
        if bars:
            talk.enable_progress_bar()


@contextmanager
def said(what: str) -> Iterator[None]:
    """Turn what libraries raise on bad input into one line for the user."""
    from jinja2 import TemplateError
    from safetensors import SafetensorError

    lookups = (KeyError, TypeError, AttributeError, AssertionError)  # a config that names what the library lacks, a shape it cannot pack
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise TwofoldError("There is not enough memory for this model: close programs or use embedded.") from None
    except (OSError, ValueError, RuntimeError, ImportError, TemplateError, SafetensorError, *lookups) as error:
        raise TwofoldError(f"{what} ({line(error)}).") from None


def threads(size: int) -> int:
    """Count the threads for weights of so many bytes: the physical cores that this process may use, but one for a small model.

    OpenMP threads spin while they wait. On two cores, 100 M parameters: 2 threads give 60 tokens/s and 1 gives 52 while nothing else
    runs, but 2-8 against 50 beside one busy process, such as the user's own kernel. OMP_NUM_THREADS overrides.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2, or no quota ("max")
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed) - (size < 1 << 30))
