"""decode.cu on this machine's GPU: compiled by the NVRTC library that torch brings, launched through the CUDA driver.

No compiler and no headers are needed. Launches go to torch's current stream, so a CUDA graph of torch can hold them.
"""

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_name("decode.cu")
LEAST = (8, 0)
"""Compute capability that the tensor-core instructions of decode.cu need."""
TABLE, STAGE, FACTORS = 256 * 32 * 4, 2176, 32 * 4
"""Bytes of shared memory of a matrix kernel: its look-up table, one stage of copies of a warp, a factor for each lane."""

Argument = torch.Tensor | int | float | ctypes.Structure


class Matrix(ctypes.Structure):
    """`struct Matrix` of decode.cu, which says what each field is."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("w", "scale", "x", "a", "b", "t", "ready", "slot", "out", "half_out")),
        *((name, ctypes.c_void_p) for name in ("square", "used", "next_square", "next_used", "next")),
        *((name, ctypes.c_int) for name in ("m", "k", "lanes", "slots", "subs", "rank", "splits", "cut1", "cut2", "hidden")),
        *((name, ctypes.c_float) for name in ("eps", "gain")),
    ]


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute: an id, and a union of 64 bytes."""

    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int * 16)]


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [
        *((name, ctypes.c_uint) for name in ("gx", "gy", "gz", "bx", "by", "bz", "shared")),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    ]


OVERLAP = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
MAX_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


class Kernels:
    """The kernels of decode.cu for one vocabulary and one number of query heads to a KV head."""

    def __init__(self, group: int, vocabulary: int, overlap: bool = True, source: str | None = None) -> None:
        """Compile for the current device. overlap: let a kernel start while the one before it ends (compute capability 9.0 on).

        Raises RuntimeError, which says what NVRTC or the driver said, where that cannot be.
        """
        device = torch.cuda.get_device_properties(torch.cuda.current_device())
        if (device.major, device.minor) < LEAST:
            raise RuntimeError(f"{device.name} has compute capability {device.major}.{device.minor}, 8.0 is needed")
        torch.cuda.current_stream().synchronize()  # the driver's context exists from here on
        self._driver = _library("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        self._multiprocessors = device.multi_processor_count
        self._overlap = overlap and device.major >= 9
        source = source or SOURCE.read_text()
        names = ("STAGES", "WARPS", "GRID")
        self._stages, self._warps, self._most = (int(source.partition(f"#define {name} ")[2].split()[0]) for name in names)
        image = _compile(source, f"sm_{device.major}{device.minor}", group, vocabulary)
        self._module = ctypes.c_void_p()
        self._check(self._driver.cuModuleLoadData(ctypes.byref(self._module), image))
        self._found: dict[str, ctypes.c_void_p] = {}
        self._grids: dict[str, int] = {}
        self._shared: dict[str, int] = {}

    def __call__(
        self, name: str, grid: tuple[int, int, int], threads: int, *arguments: Argument, shared: int = 0, first: bool = False
    ) -> None:
        """Launch a kernel on the current stream. int is int32, float is float32. first: wait for all work before it, always."""
        values = [_argument(one) for one in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        attribute = _Attribute(OVERLAP, 0, (ctypes.c_int * 16)(1))
        count = int(self._overlap and not first)
        stream = torch.cuda.current_stream().cuda_stream
        config = _Config(*grid, threads, 1, 1, shared, stream, ctypes.pointer(attribute), count)
        self._check(self._driver.cuLaunchKernelEx(ctypes.byref(config), self._function(name), pointers, None))

    def matrix(self, kind: str, matrix: Matrix) -> None:
        """Launch store, add or silu: y = W x + B A x for up to 32 lanes."""
        tiles = 1 if matrix.lanes <= 8 else 2 if matrix.lanes <= 16 else 4
        name, warps = f"{kind}_{tiles}", self._warps
        shared = TABLE + self._stages * warps * STAGE + tiles * warps * 512 + FACTORS + tiles * 16 * matrix.subs * matrix.rank
        if self._shared.get(name) != shared:
            self._check(self._driver.cuFuncSetAttribute(self._function(name), MAX_SHARED, shared))
            blocks, size = ctypes.c_int(), ctypes.c_size_t(shared)
            occupancy = self._driver.cuOccupancyMaxActiveBlocksPerMultiprocessor
            self._check(occupancy(ctypes.byref(blocks), self._function(name), warps * 32, size))
            self._shared[name] = shared
            self._grids[name] = min(blocks.value, self._most) * self._multiprocessors
        jobs = (matrix.slots - 1) * (matrix.subs * matrix.rank // 16) * matrix.splits
        units = jobs + matrix.m // 16
        self(name, (min(units, self._grids[name]), 1, 1), warps * 32, matrix, shared=shared)

    def unpack(self, w: torch.Tensor, scale: torch.Tensor, out: torch.Tensor, halves: bool) -> None:
        """Write the bf16 values (rows, columns) of a matrix that `mistral.tiled` has laid out."""
        rows, columns = out.shape
        self("unpack", (columns // 256, rows // 16, 1), 256, w, scale, out, rows, columns, int(halves), first=True)

    def _function(self, name: str) -> ctypes.c_void_p:
        if name not in self._found:
            function = ctypes.c_void_p()
            self._check(self._driver.cuModuleGetFunction(ctypes.byref(function), self._module, name.encode()))
            self._found[name] = function
        return self._found[name]

    def _check(self, code: int) -> None:
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(code, ctypes.byref(text))
            raise RuntimeError(f"CUDA: {(text.value or b'error').decode()} ({code})")


def _argument(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return ctypes.c_int(value)
    return ctypes.c_float(value) if isinstance(value, float) else value


@cache
def _library(*names: str) -> ctypes.CDLL:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise RuntimeError(f"{names[0]} is not on this machine")


@cache
def _compile(source: str, architecture: str, group: int, vocabulary: int) -> bytes:
    """Return machine code."""
    major = str(torch.version.cuda).partition(".")[0]
    names = (f"nvrtc64_{major}0_0.dll",) if sys.platform == "win32" else (f"libnvrtc.so.{major}", "libnvrtc.so")
    nvrtc, program, size = _library(*names), ctypes.c_void_p(), ctypes.c_size_t()
    options = [f"-arch={architecture}", f"-DGROUP={group}", f"-DVOCAB={vocabulary}", "-std=c++17"]
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"decode.cu", 0, None, None)
    try:
        if nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*(one.encode() for one in options))):
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, log)
            raise RuntimeError(f"decode.cu does not compile for {architecture}: {log.value.decode()}")
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        image = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, image)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return image.raw
