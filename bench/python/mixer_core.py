"""Times dm2.torch beside mamba_ssm's Triton kernels on a GPU, and compares their results.

    python bench/python/mixer_core.py [--batch 256] [--length 197] [--repeats 20] [--chunks 64 128 256] [--mamba FOLDER]

Two pairs, forward and backward each, at the shape of DeMansia 2 Tiny (8 heads of 48 channels, a state of 128), in
bfloat16: the scan (dm2.torch.ssd beside mamba_chunk_scan_combined), and the bidirectional mixer between its
projections (dm2.torch.mixer_core beside conv1d and SiLU of PyTorch, mamba_chunk_scan_combined and the gated RMSNorm
of mamba_ssm, for both directions). The mixer is also computed in float64 by the specification in tests/reference,
from the same bfloat16 inputs, on a part of the batch: that tells whose error is whose. Prints a line each; returns 1
where a result is wrong, 2 without a GPU.

Times are medians of CUDA events with the L2 cache overwritten before each run. mamba_ssm is left out where it is
missing, which is said. Its Triton kernels are Python, and need triton and einops beside; --mamba takes them from a
folder of its sources, where what it compiles has not been built. Triton tries many variants of each at the first call
with a chunk's size, for a minute or more.
"""

import argparse
import statistics
import sys
import types
from pathlib import Path

import torch
import torch.nn.functional as F

import dm2.torch

# the executable specification
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "reference"))
import demansia2_ref as reference  # noqa: E402
from exact_mixer import exact_mixer  # noqa: E402

HEADS, HEADDIM, STATE, TAPS = 8, 48, 128, 4
INNER, CHANNELS = HEADS * HEADDIM, HEADS * HEADDIM + 2 * STATE

def find_theirs(sources):
    """Sets mamba_ssm's kernels; returns why there are none, or an empty text."""
    global mamba_chunk_scan_combined, rmsnorm_fn
    if sources:  # the package's own __init__ imports what is compiled
        package = types.ModuleType("mamba_ssm")
        package.__path__ = [str(Path(sources) / "mamba_ssm")]
        sys.modules["mamba_ssm"] = package
    try:
        from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    except Exception as problem:  # Triton, einops or mamba_ssm itself
        return f"{type(problem).__name__}: {problem}"
    return ""


def relative(got, want):
    """Norm of the difference over the norm of what is wanted; infinite where it is no number."""
    error = ((got.double() - want.double()).norm() / want.double().norm()).item()
    return error if error == error else float("inf")


def medians(call, cotangent, leaves, repeats):
    """Milliseconds of forward and of backward."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    forward, backward = [], []
    for i in range(repeats + 3):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        flush.zero_()
        marks[0].record()
        out = call()
        marks[1].record()
        flush.zero_()
        marks[2].record()
        torch.autograd.grad(out, leaves, cotangent)
        marks[3].record()
        torch.cuda.synchronize()
        if i >= 3:
            forward.append(marks[0].elapsed_time(marks[1]))
            backward.append(marks[2].elapsed_time(marks[3]))
    return statistics.median(forward), statistics.median(backward)


class Report:
    def __init__(self, repeats, chunks):
        """chunks: of mamba_ssm's scan; none where it is left out."""
        self.repeats, self.chunks, self.wrong = repeats, chunks, False

    def time(self, name, call, cotangent, leaves):
        forward, backward = medians(call, cotangent, leaves, self.repeats)
        print(f"{name}: forward {forward * 1000:.1f} us, backward {backward * 1000:.1f} us", flush=True)

    def compare(self, name, got, want, most):
        for what, one, other in zip(("result", *(f"gradient {i}" for i in range(len(got)))), got, want):
            error = relative(one, other) if other.abs().max() > 0 else float(one.abs().max())
            mark = "" if error <= most else "  WRONG"
            self.wrong |= bool(mark)
            print(f"  {name}, {what}: relative error {error:.2e}{mark}", flush=True)


def gradients(call, cotangent, leaves):
    out = call()
    return [out, *torch.autograd.grad(out, leaves, cotangent)]


def normal(*shape, dtype=torch.bfloat16, scale=1.0):
    return (scale * torch.randn(shape, device="cuda", dtype=torch.float32)).to(dtype).requires_grad_()


def bench_scan(report, batch, length):
    x, b, c = normal(batch, length, HEADS, HEADDIM), normal(batch, length, 1, STATE), normal(batch, length, 1, STATE)
    dt = F.softplus(torch.randn(batch, length, HEADS, device="cuda") - 4).requires_grad_()
    a = (-torch.empty(HEADS, device="cuda").uniform_(1, 16)).requires_grad_()
    d = torch.ones(HEADS, device="cuda").requires_grad_()
    leaves, cotangent = [x, dt, a, b, c, d], torch.randn_like(x)
    ours = lambda: dm2.torch.ssd(x, dt, a, b, c, d)
    report.time("dm2.torch.ssd", ours, cotangent, leaves)
    part = [
        one[:2].detach().double().requires_grad_() if one.ndim > 1 else one.detach().double().requires_grad_()
        for one in leaves
    ]
    small = [one[:2].detach().requires_grad_() if one.ndim > 1 else one.detach().requires_grad_() for one in leaves]
    exact = gradients(lambda: reference.ssd(*part), cotangent[:2].double(), part)
    report.compare("dm2 against float64", gradients(lambda: dm2.torch.ssd(*small), cotangent[:2], small), exact, 2e-2)
    if not report.chunks:
        return
    for chunk in report.chunks:
        theirs = lambda: mamba_chunk_scan_combined(x, dt, a, b, c, chunk, D=d)
        report.time(f"mamba_chunk_scan_combined, chunks of {chunk}", theirs, cotangent, leaves)
    theirs = lambda: mamba_chunk_scan_combined(small[0], *small[1:5], report.chunks[-1], D=small[5])
    report.compare("mamba_ssm against float64", gradients(theirs, cotangent[:2], small), exact, 5e-2)
    report.compare(
        "dm2 against mamba_ssm",
        gradients(lambda: dm2.torch.ssd(*small), cotangent[:2], small),
        gradients(theirs, cotangent[:2], small),
        5e-2,
    )


def direction():
    one = lambda *shape: normal(*shape, dtype=torch.float32, scale=0.3)
    return dm2.torch.Direction(
        one(CHANNELS, 1, TAPS),
        one(CHANNELS),
        (one(HEADS) - 4).detach().requires_grad_(),
        torch.empty(HEADS, device="cuda").uniform_(0, 2.7).requires_grad_(),
        torch.ones(HEADS, device="cuda").requires_grad_(),
        torch.ones(INNER, device="cuda").requires_grad_(),
    )


def their_direction(zxbcdt, p, chunk):
    z, xbc, dt = zxbcdt.split([INNER, CHANNELS, HEADS], -1)
    xbc = F.conv1d(
        xbc.transpose(1, 2), p.conv.to(xbc.dtype), p.conv_bias.to(xbc.dtype), padding=TAPS - 1, groups=CHANNELS
    )
    x, b, c = F.silu(xbc[..., : zxbcdt.shape[1]]).transpose(1, 2).split([INNER, STATE, STATE], -1)
    batch, length, _ = x.shape
    y = mamba_chunk_scan_combined(
        x.reshape(batch, length, HEADS, HEADDIM),
        dt,
        -torch.exp(p.A_log),
        b.reshape(batch, length, 1, STATE),
        c.reshape(batch, length, 1, STATE),
        chunk,
        D=p.D,
        dt_bias=p.dt_bias,
        dt_softplus=True,
    )
    return rmsnorm_fn(y.reshape(batch, length, INNER), p.norm, None, z=z, eps=1e-5, norm_before_gate=False)


def their_mixer(zxbcdt, sides, chunk):
    return torch.cat(
        [their_direction(zxbcdt, sides[0], chunk), their_direction(zxbcdt.flip(1), sides[1], chunk).flip(1)], -1
    )


def bench_mixer(report, batch, length):
    z, sides = normal(batch, length, INNER + CHANNELS + HEADS), (direction(), direction())
    leaves = [z, *sides[0], *sides[1]]
    cotangent = torch.randn(batch, length, 2 * INNER, device="cuda", dtype=torch.bfloat16)
    sizes = dict(headdim=HEADDIM, d_state=STATE)
    report.time(
        "dm2.torch.mixer_core, bidirectional",
        lambda: dm2.torch.mixer_core(z, *sides, variant="bidirectional", **sizes),
        cotangent,
        leaves,
    )
    report.time("dm2.torch.mixer_core, published", lambda: dm2.torch.mixer_core(z, *sides, **sizes), cotangent, leaves)
    part = z[:2].detach().double().requires_grad_()
    doubled = tuple(dm2.torch.Direction(*(one.detach().double().requires_grad_() for one in side)) for side in sides)
    exact = gradients(
        lambda: exact_mixer(part, *doubled, variant="bidirectional", **sizes),
        cotangent[:2].double(),
        [part, *doubled[0], *doubled[1]],
    )
    small = z[:2].detach().requires_grad_()
    few = [small, *sides[0], *sides[1]]
    got = gradients(lambda: dm2.torch.mixer_core(small, *sides, variant="bidirectional", **sizes), cotangent[:2], few)
    report.compare("dm2 against float64", got, exact, 3e-2)
    if not report.chunks:
        return
    for chunk in report.chunks:
        report.time(
            f"mamba_ssm, both directions, chunks of {chunk}", lambda: their_mixer(z, sides, chunk), cotangent, leaves
        )
    theirs = gradients(lambda: their_mixer(small, sides, report.chunks[-1]), cotangent[:2], few)
    report.compare("mamba_ssm against float64", theirs, exact, 6e-2)
    report.compare("dm2 against mamba_ssm", got, theirs, 6e-2)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--length", type=int, default=197)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 128, 256], help="of mamba_ssm's scan")
    parser.add_argument("--mamba", metavar="FOLDER", help="mamba_ssm's sources, of which nothing need be built")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("mixer_core.py: PyTorch finds no GPU", file=sys.stderr)
        return 2
    missing = find_theirs(asked.mamba)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print(
        f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {asked.batch} x {asked.length} tokens, bfloat16"
    )
    if missing:
        print(f"mamba_ssm's Triton kernels are left out: {missing}")
    report = Report(asked.repeats, [] if missing else asked.chunks)
    bench_scan(report, asked.batch, asked.length)
    bench_mixer(report, asked.batch, asked.length)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
