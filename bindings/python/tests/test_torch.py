"""dm2.torch: results and gradients of the plain PyTorch form, gradcheck, opcheck, torch.compile. Needs PyTorch."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")

import dm2.torch  # noqa: E402

sys.path.insert(0, str(ROOT / "tests" / "reference"))
import demansia2_ref as reference  # noqa: E402
from exact_mixer import exact_mixer  # noqa: E402


def scan_inputs(batch, length, heads, headdim, groups, d_state, dtype=torch.float64, seed=0):
    numbers = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=numbers, dtype=torch.float64).to(dtype)

    x, b, c = (
        normal(batch, length, heads, headdim),
        normal(batch, length, groups, d_state),
        normal(batch, length, groups, d_state),
    )
    dt = torch.nn.functional.softplus(normal(batch, length, heads))
    return [one.requires_grad_() for one in (x, dt, -normal(heads).exp(), b, c, normal(heads))]


def relative(got, want):
    """The largest difference over the largest number wanted; where that is 0, all have to be."""
    largest = want.abs().max()
    error = ((got - want).abs().max() / (largest if largest > 0 else 1)).item()
    return error if error == error else float("inf")


@pytest.mark.parametrize("length", [1, 7, 63, 64, 65, 130])
def test_the_scan_and_its_gradients_are_the_recurrences(length):
    inputs = scan_inputs(2, length, 4, 8, 2, 16)
    got, want = dm2.torch.ssd(*inputs), reference.ssd(*inputs)
    assert relative(got, want) < 1e-12
    cotangent = torch.randn(want.shape, generator=torch.Generator().manual_seed(1), dtype=want.dtype)
    ours, theirs = torch.autograd.grad(got, inputs, cotangent), torch.autograd.grad(want, inputs, cotangent)
    for one, other in zip(ours, theirs):
        assert relative(one, other) < 1e-10


def test_an_interpreter_that_called_an_operator_leaves_nothing_behind():
    """nanobind tells of objects that outlive the interpreter."""
    inputs = [one.detach() for one in scan_inputs(1, 7, 4, 8, 2, 16)]
    dm2.torch.ssd(*inputs)
    program = (
        "import torch, dm2.torch\n"
        "x, s = torch.rand(1, 7, 4, 8, dtype=torch.float64), torch.rand(1, 7, 2, 16, dtype=torch.float64)\n"
        "dm2.torch.ssd(x, x[..., 0].contiguous(), -x[0, 0, :, 0].contiguous(), s, s, x[0, 0, :, 0].contiguous())\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0 and "leaked" not in run.stderr, run.stderr


def test_the_scan_without_a_skip_and_in_float():
    inputs = [one.detach() for one in scan_inputs(3, 20, 4, 8, 2, 16, torch.float32)]
    want = reference.ssd(*(one.double() for one in inputs[:5]), torch.zeros(4, dtype=torch.float64))
    got = dm2.torch.ssd(*inputs[:5])
    assert got.dtype == torch.float32 and relative(got.double(), want) < 1e-5
    strided = inputs[0].transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(dm2.torch.ssd(strided, *inputs[1:5]), got)
    assert dm2.torch.ssd(*(one[:0] if one.ndim > 1 else one for one in inputs)).shape == (0, 20, 4, 8)


def test_gradcheck_of_the_scan():
    assert torch.autograd.gradcheck(dm2.torch.ssd, scan_inputs(2, 5, 4, 8, 2, 16))


def mixer_inputs(variant, batch=2, length=5, heads=4, headdim=8, groups=2, d_state=4, taps=3, dtype=torch.float64):
    numbers = torch.Generator().manual_seed(2)

    def normal(*shape):
        return torch.randn(shape, generator=numbers, dtype=torch.float64).to(dtype).requires_grad_()

    inner, channels = heads * headdim, heads * headdim + 2 * groups * d_state
    zxbcdt = normal(batch, length, inner + channels + heads)
    sides = [
        dm2.torch.Direction(
            normal(channels, 1, taps), normal(channels), normal(heads), normal(heads), normal(heads), normal(inner)
        )
        for _ in range(2)
    ]
    return zxbcdt, *sides, dict(headdim=headdim, d_state=d_state, groups=groups, variant=variant)


def flat(inputs):
    zxbcdt, forward, backward, sizes = inputs

    def call(z, *parameters):
        n = len(forward)
        return dm2.torch.mixer_core(
            z, dm2.torch.Direction(*parameters[:n]), dm2.torch.Direction(*parameters[n:]), **sizes
        )

    return call, [zxbcdt, *forward, *backward]


@pytest.mark.parametrize("variant", ["published", "bidirectional"])
@pytest.mark.parametrize("length", [1, 65])
def test_the_mixer_and_its_gradients_are_the_references(variant, length):
    inputs = mixer_inputs(variant, length=length)
    zxbcdt, forward, backward, sizes = inputs
    got, want = (
        dm2.torch.mixer_core(zxbcdt, forward, backward, **sizes),
        exact_mixer(zxbcdt, forward, backward, **sizes),
    )
    assert relative(got, want) < 1e-11
    cotangent = torch.randn(want.shape, generator=torch.Generator().manual_seed(1), dtype=want.dtype)
    leaves = [zxbcdt, *forward, *backward]
    ours = torch.autograd.grad(got, leaves, cotangent)
    theirs = torch.autograd.grad(want, leaves, cotangent, allow_unused=True)
    for one, other in zip(ours, theirs):
        if other is None:  # the published variant's second skip term
            assert not one.any()
        else:
            assert relative(one, other) < 1e-10


@pytest.mark.parametrize("variant", ["published", "bidirectional"])
def test_gradcheck_of_the_mixer(variant):
    call, leaves = flat(mixer_inputs(variant))
    assert torch.autograd.gradcheck(call, leaves)


def test_opcheck_of_both():
    torch.library.opcheck(torch.ops.dm2.ssd, scan_inputs(2, 5, 4, 8, 2, 16))
    zxbcdt, forward, backward, sizes = mixer_inputs("published")
    shape = [4, sizes["headdim"], sizes["d_state"], sizes["groups"], 3]
    torch.library.opcheck(torch.ops.dm2.mixer_core, (zxbcdt, [*forward, *backward], shape, True))


def test_torch_compile_gives_the_same():
    call, leaves = flat(mixer_inputs("bidirectional"))
    compiled = torch.compile(lambda *given: call(*given).square().sum(), backend="aot_eager", fullgraph=True)
    got, want = compiled(*leaves), call(*leaves).square().sum()
    assert relative(got, want) < 1e-12
    for one, other in zip(torch.autograd.grad(got, leaves[:-1]), torch.autograd.grad(want, leaves[:-1])):
        assert relative(one, other) < 1e-12


def test_shapes_that_disagree_are_refused():
    x, dt, a, b, c, d = (one.detach() for one in scan_inputs(2, 5, 4, 8, 2, 16))
    with pytest.raises(ValueError, match=r"ssd.dt: got \[2, 5, 3\], expected \[2, 5, 4\]"):
        dm2.torch.ssd(x, dt[..., :3], a, b, c, d)
    with pytest.raises(ValueError, match="groups must divide heads"):
        dm2.torch.ssd(x, dt, a, b[:, :, [0, 0, 0]], c[:, :, [0, 0, 0]], d)
    with pytest.raises(ValueError, match="not in float16 on cpu"):
        dm2.torch.ssd(x.half(), dt, a, b, c, d)
    zxbcdt, forward, backward, sizes = mixer_inputs("published")
    with pytest.raises(ValueError, match="mixer_core.backward.norm"):
        dm2.torch.mixer_core(zxbcdt, forward, backward._replace(norm=forward.norm[:3]), **sizes)
    with pytest.raises(ValueError, match="variant is 'both'"):
        dm2.torch.mixer_core(zxbcdt, forward, backward, **{**sizes, "variant": "both"})


def test_operands_that_lie_apart_or_at_odd_addresses():
    zxbcdt, forward, backward, sizes = mixer_inputs("bidirectional")
    want = dm2.torch.mixer_core(zxbcdt, forward, backward, **sizes)
    shifted = torch.empty(zxbcdt.numel() + 1, dtype=zxbcdt.dtype)[1:].view_as(zxbcdt).copy_(zxbcdt.detach())
    apart = zxbcdt.detach().transpose(0, 1).contiguous().transpose(0, 1)
    for one in (shifted, apart):
        assert torch.equal(dm2.torch.mixer_core(one, forward, backward, **sizes), want)
    # a gradient of one number, spread over all without memory of its own
    ours = torch.autograd.grad(want.sum(), zxbcdt)[0]
    got = dm2.torch.mixer_core(zxbcdt, forward, backward, **sizes)
    assert torch.equal(torch.autograd.grad(got, zxbcdt, torch.ones_like(got))[0], ours)


def test_shapes_are_told_without_memory():
    """Meta tensors, as torch.export and large models' construction use them."""
    zxbcdt, forward, backward, sizes = mixer_inputs("published", dtype=torch.float32)
    on_meta = [dm2.torch.Direction(*(one.to("meta") for one in side)) for side in (forward, backward)]
    got = dm2.torch.mixer_core(zxbcdt.to("meta"), *on_meta, **sizes)
    assert got.device.type == "meta" and got.shape == (2, 5, 64) and got.dtype == torch.float32
    (gradient,) = torch.autograd.grad(got.sum(), on_meta[0].norm)
    assert gradient.shape == on_meta[0].norm.shape
    x, dt, a, b, c, d = (one.detach().to("meta") for one in scan_inputs(2, 5, 4, 8, 2, 16, torch.bfloat16))
    got = dm2.torch.ssd(x, dt, a, b, c, d)
    assert got.shape == x.shape and got.dtype == torch.bfloat16


def test_two_threads_at_once_give_what_each_gives_alone():
    inputs = [[one.detach() for one in scan_inputs(2, length, 4, 8, 2, 16)] for length in (130, 65)]
    want = [dm2.torch.ssd(*one) for one in inputs]
    with ThreadPoolExecutor(4) as pool:
        for i, got in enumerate(pool.map(lambda i: dm2.torch.ssd(*inputs[i % 2]), range(40))):
            assert torch.equal(got, want[i % 2])


def test_a_gradient_of_a_gradient_is_refused():
    x, *others = scan_inputs(2, 5, 4, 8, 2, 16)
    (first,) = torch.autograd.grad(dm2.torch.ssd(x, *others).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="dm2.*ssd_backward"):
        torch.autograd.grad(first.sum(), x)


def test_a_module_of_pytorch_and_a_model_exchange_weights(micro):
    """state_dict as tensors is what a module with the published names loads, and back."""
    state = micro.state_dict(torch=True)
    module = torch.nn.Module()
    for name, value in state.items():
        owner = module
        *path, last = name.split(".")
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        owner.register_buffer(last, torch.zeros_like(value))
    module.load_state_dict(state)
    other = dm2.create("micro", device="cpu", seed=9)
    other.load_state_dict(module.state_dict())
    images = torch.randn(2, 3, 64, 64)
    got = other(images)
    assert isinstance(got, torch.Tensor) and torch.equal(got, micro(images))
    half = {name: value.to(torch.bfloat16) if value.is_floating_point() else value for name, value in state.items()}
    other.load_state_dict(half)
    assert relative(other(images), micro(images)) < 0.1


def test_logits_are_the_references_in_pytorch(micro):
    config = micro.config
    config["attn_layers"] = tuple(config["attn_layers"])
    config["image"] = tuple(config["image"])
    p = {name: torch.from_numpy(value).double() for name, value in micro.state_dict().items()}
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    want = reference.forward_eval(images.double(), p, reference.Config(**config))
    assert relative(micro(images).double(), want) < 2e-5
