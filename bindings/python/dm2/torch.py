"""The mixer of Mamba-2 as PyTorch operators: the scan alone, and the whole mixer between its projections.

    y = dm2.torch.ssd(x, dt, A, B, C, D)
    g = dm2.torch.mixer_core(zxbcdt, forward, backward, headdim=48, d_state=128)

Both differentiate, run under torch.compile, and compute on the CPU (float32, float64) and, where dm2 was built with
CUDA, on a GPU (bfloat16, float16, float32) on PyTorch's present stream. The code of a shape is compiled at its first
call, by the compiler that dm2 was built with, and kept in ~/.cache/dm2.
"""

from __future__ import annotations

import atexit
import threading
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from . import _dm2

__all__ = ["Direction", "mixer_core", "ssd"]

_operations: Dict[Tuple[Any, ...], "_dm2.Operation"] = {}
_locks: Dict[Tuple[Any, ...], threading.Lock] = {}
# PyTorch keeps its operators, and so this module, beyond the interpreter's end, where nanobind tells of what is left.
atexit.register(_operations.clear)


def _operation(what: str, shape: Tuple[Any, ...], x: Tensor, stream: int) -> "_dm2.Operation":
    """The compiled operation of that shape for x's type and device; on a GPU one a stream, as its scratch is."""
    threads = torch.get_num_threads() if x.device.type == "cpu" else 0
    key = (what, shape, x.dtype, x.device, stream, threads)
    with _locks.setdefault(key, threading.Lock()):  # others are not kept waiting while one is compiled
        if key not in _operations:
            device = x.device.type
            heads, headdim, d_state, groups, taps, variant = shape
            _operations[key] = _dm2.Operation(
                what, heads, headdim, d_state, groups, taps, variant, device, str(x.dtype)[len("torch.") :], threads
            )
        return _operations[key]


def _call(
    what: str, shape: Tuple[Any, ...], backward: bool, reads: Sequence[Tensor], writes: Sequence[Tensor], length: int
) -> None:
    """Computes on the tensors' memory. The first one read tells type, device and number of tokens."""
    x = reads[0]
    for one in (*reads, *writes):
        if one.device != x.device:
            raise ValueError(f"{what}: operands are on {x.device} and on {one.device}")
    rows = x.shape[0] * x.shape[1]
    if rows == 0:
        return
    addresses = [one.data_ptr() for one in reads], [one.data_ptr() for one in writes]
    if x.device.type != "cuda":
        _operation(what, shape, x, 0).call(backward, *addresses, rows, length, 0)
        return
    with torch.cuda.device(x.device):
        stream = torch.cuda.current_stream(x.device).cuda_stream
        _operation(what, shape, x, stream).call(backward, *addresses, rows, length, stream)


def _operand(x: Tensor) -> Tensor:
    """x in one piece; on a GPU at a multiple of 16 bytes, without which the kernels of 16 bits cannot be taken."""
    x = x.contiguous()
    return x.clone() if x.device.type == "cuda" and x.data_ptr() % 16 != 0 else x


def _beside(x: Tensor) -> torch.dtype:
    """The type of parameters, steps and sums beside x: float32 where x has 16 bits."""
    return x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32


def _require(what: str, name: str, got: Tensor, want: Sequence[int]) -> None:
    if tuple(got.shape) != tuple(want):
        raise ValueError(f"{what}.{name}: got {list(got.shape)}, expected {list(want)}")


# ---------------------------------------------------------------------------------------------------------- the scan


def _ssd_shape(x: Tensor, b: Tensor) -> Tuple[Any, ...]:
    return (x.shape[2], x.shape[3], b.shape[3], b.shape[2], 1, "published")


@torch.library.custom_op("dm2::ssd", mutates_args=())
def _ssd(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    reads = [_operand(one) for one in (x, dt, a, b, c, d)]
    y = torch.empty_like(reads[0])
    _call("ssd", _ssd_shape(x, b), False, reads, [y], x.shape[1])
    return y


@_ssd.register_fake
def _(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@torch.library.custom_op("dm2::ssd_backward", mutates_args=())
def _ssd_backward(
    dy: Tensor, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    reads = [_operand(one) for one in (x, dt, a, b, c, d, dy)]
    dx, ddt, db, dc = (torch.empty_like(reads[i]) for i in (0, 1, 3, 4))
    da, dd = torch.zeros_like(reads[2]), torch.zeros_like(reads[5])
    _call("ssd", _ssd_shape(x, b), True, reads, [dx, ddt, da, db, dc, dd], x.shape[1])
    return dx, ddt, da, db, dc, dd


@_ssd_backward.register_fake
def _(
    dy: Tensor, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, dt, a, b, c, d = (torch.empty(one.shape, dtype=one.dtype, device=one.device) for one in (x, dt, a, b, c, d))
    return x, dt, a, b, c, d


def _ssd_setup(ctx: Any, inputs: Tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _ssd_gradient(ctx: Any, dy: Tensor) -> Tuple[Tensor, ...]:
    return tuple(_ssd_backward(dy, *ctx.saved_tensors))


_ssd.register_autograd(_ssd_gradient, setup_context=_ssd_setup)


def ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor] = None) -> Tensor:
    """The selective scan of Mamba-2 (Dao & Gu 2024, arXiv 2405.21060), y like x.

    h_t = exp(dt_t A) h_(t-1) + dt_t B_t x_t,  y_t = C_t h_t + D x_t

    x: [batch, length, heads, headdim]. dt: [batch, length, heads], after softplus, so 0 or more: else y may be
    NaN. A: [heads], negative. B and C: [batch, length, groups, d_state]; head h reads group h // (heads // groups).
    D: [heads], or None. Those are mamba_ssm's mamba_chunk_scan_combined, without a chunk's size, initial states and z.

    On a CPU all are of x's type; on a GPU dt, A and D are float32 where x has 16 bits, and are converted to it.
    headdim is at most 128, d_state 256. Raises ValueError for shapes that disagree.
    """
    if x.ndim != 4 or B.ndim != 4:
        raise ValueError(f"ssd: x and B have 4 dimensions, not {x.ndim} and {B.ndim}")
    batch, length, heads, _ = x.shape
    _require("ssd", "dt", dt, (batch, length, heads))
    _require("ssd", "A", A, (heads,))
    _require("ssd", "B", B, (batch, length, *B.shape[2:]))
    _require("ssd", "C", C, B.shape)
    beside = _beside(x)
    skip = torch.zeros(heads, dtype=beside, device=x.device) if D is None else D.to(beside)
    _require("ssd", "D", skip, (heads,))
    return _ssd(x, dt.to(beside), A.to(beside), B.to(x.dtype), C.to(x.dtype), skip)


# ------------------------------------------------------------------------------------------ the mixer's inside


class Direction(NamedTuple):
    """One direction's parameters, named as in the published state dict (the second's have _b there)."""

    conv: Tensor
    """conv1d.weight, [channels of x, B and C, 1, taps]; the last tap is the present token."""
    conv_bias: Tensor
    """conv1d.bias, [channels]."""
    dt_bias: Tensor
    """[heads]; dt = softplus(projected dt + dt_bias)."""
    A_log: Tensor
    """[heads]; A = -exp(A_log)."""
    D: Tensor
    """[heads], the skip term. In the published variant the second direction reads the first one's."""
    norm: Tensor
    """norm.weight, [heads * headdim], of the gated RMSNorm."""


def _mixer_reads(zxbcdt: Tensor, parameters: Sequence[Tensor], published: bool) -> List[Tensor]:
    reads = [_operand(zxbcdt), *(_operand(one) for one in parameters)]
    if published:
        reads[11] = reads[5]  # both directions' skip term
    return reads


def _mixer_shape(sizes: Sequence[int], published: bool) -> Tuple[Any, ...]:
    return (*sizes, "published" if published else "bidirectional")


def _keeps_factors(zxbcdt: Tensor) -> bool:
    """Whether the forward leaves the norms' factors, which spare the backward a scan."""
    return zxbcdt.device.type == "cuda" and zxbcdt.dtype == torch.bfloat16


def _mixer_outputs(zxbcdt: Tensor, sizes: Sequence[int]) -> Tuple[Tensor, Tensor]:
    batch, length, _ = zxbcdt.shape
    heads, headdim, _, groups, _ = sizes
    g = torch.empty((batch, length, 2 * heads * headdim), dtype=zxbcdt.dtype, device=zxbcdt.device)
    kept = (batch, length, 2, groups) if _keeps_factors(zxbcdt) else (0,)
    return g, torch.empty(kept, dtype=torch.float32, device=zxbcdt.device)


@torch.library.custom_op("dm2::mixer_core", mutates_args=())
def _mixer_core(zxbcdt: Tensor, parameters: List[Tensor], sizes: List[int], published: bool) -> Tuple[Tensor, Tensor]:
    g, factors = _mixer_outputs(zxbcdt, sizes)
    writes = [g, factors] if factors.numel() else [g]
    reads = _mixer_reads(zxbcdt, parameters, published)
    _call("mixer_core", _mixer_shape(sizes, published), False, reads, writes, zxbcdt.shape[1])
    return g, factors


@_mixer_core.register_fake
def _(zxbcdt: Tensor, parameters: List[Tensor], sizes: List[int], published: bool) -> Tuple[Tensor, Tensor]:
    return _mixer_outputs(zxbcdt, sizes)


@torch.library.custom_op("dm2::mixer_core_backward", mutates_args=())
def _mixer_core_backward(
    dg: Tensor, zxbcdt: Tensor, parameters: List[Tensor], g: Tensor, factors: Tensor, sizes: List[int], published: bool
) -> List[Tensor]:
    reads = [*_mixer_reads(zxbcdt, parameters, published), _operand(dg)]
    if factors.numel():
        reads += [g, factors]
    gradients = [torch.zeros_like(one, memory_format=torch.contiguous_format) for one in parameters]
    dz = torch.empty_like(reads[0])
    writes = [dz, *gradients]
    if published:
        writes[11] = writes[5]
    _call("mixer_core", _mixer_shape(sizes, published), True, reads, writes, zxbcdt.shape[1])
    return [dz, *gradients]


@_mixer_core_backward.register_fake
def _(
    dg: Tensor, zxbcdt: Tensor, parameters: List[Tensor], g: Tensor, factors: Tensor, sizes: List[int], published: bool
) -> List[Tensor]:
    return [torch.empty(one.shape, dtype=one.dtype, device=one.device) for one in (zxbcdt, *parameters)]


def _mixer_setup(ctx: Any, inputs: Tuple[Any, ...], output: Tuple[Tensor, Tensor]) -> None:
    zxbcdt, parameters, ctx.sizes, ctx.published = inputs
    g, factors = output
    ctx.mark_non_differentiable(factors)
    ctx.save_for_backward(zxbcdt, g, factors, *parameters)


def _mixer_gradient(ctx: Any, dg: Tensor, _: Any) -> Tuple[Any, ...]:
    zxbcdt, g, factors, *parameters = ctx.saved_tensors
    out = _mixer_core_backward(dg, zxbcdt, parameters, g, factors, ctx.sizes, ctx.published)
    return out[0], list(out[1:]), None, None


_mixer_core.register_autograd(_mixer_gradient, setup_context=_mixer_setup)


def mixer_core(
    zxbcdt: Tensor,
    forward: Direction,
    backward: Direction,
    *,
    headdim: int,
    d_state: int,
    groups: int = 1,
    variant: str = "published",
) -> Tensor:
    """The bidirectional mixer between its input and output projections: [batch, length, 2 * heads * headdim].

    Of each direction: convolution, SiLU, softplus, scan, gate and gated RMSNorm; the first direction's channels, then
    the second's.

    zxbcdt: [batch, length, channels], the input projection's result, channels [z, x, B, C, dt]. variant: "published",
    whose second direction reverses the channels and not the tokens, and leaves its result's channels in reverse; or
    "bidirectional", which reverses the tokens. Parameters are float32 on a GPU, else of zxbcdt's type, and are
    converted to it. Raises ValueError for shapes that disagree.

    At Tiny's shape that is layers.I.mixer of the published model: heads 8, headdim 48, d_state 128.
    """
    if variant not in ("published", "bidirectional"):
        raise ValueError(f"mixer_core: variant is '{variant}', expected published or bidirectional")
    if zxbcdt.ndim != 3:
        raise ValueError(f"mixer_core: zxbcdt has 3 dimensions, not {zxbcdt.ndim}")
    heads = forward.A_log.shape[0]
    inner, channels = heads * headdim, heads * headdim + 2 * groups * d_state
    taps = forward.conv.shape[-1]
    _require("mixer_core", "zxbcdt", zxbcdt, (*zxbcdt.shape[:2], inner + channels + heads))
    want = {"conv": (channels, 1, taps), "conv_bias": (channels,), "norm": (inner,)}
    parameters = []
    for side, direction in (("forward", forward), ("backward", backward)):
        for name, one in direction._asdict().items():
            _require("mixer_core", f"{side}.{name}", one, want.get(name, (heads,)))
            parameters.append(one.to(_beside(zxbcdt)))
    return _mixer_core(zxbcdt, parameters, [heads, headdim, d_state, groups, taps], variant == "published")[0]
