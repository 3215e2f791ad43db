"""dm2.torch and models on a GPU: the specification's results and gradients, streams, torch.compile, no copies."""

import sys
import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

import dm2  # noqa: E402
import dm2.torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests" / "reference"))
import demansia2_ref as reference  # noqa: E402
from exact_mixer import exact_mixer  # noqa: E402

HEADS, HEADDIM, STATE = 8, 48, 128
BOUNDS = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float32: 1e-5}


def relative(got, want):
    """Norm of the difference over the norm of what is wanted; where that is 0, all have to be."""
    norm = want.double().norm()
    error = ((got.double() - want.double()).norm() / (norm if norm > 0 else 1)).item()
    return error if error == error else float("inf")


def scan_inputs(batch, length, dtype):
    torch.manual_seed(length)
    x = torch.randn(batch, length, HEADS, HEADDIM, device="cuda").to(dtype)
    b, c = (torch.randn(batch, length, 1, STATE, device="cuda").to(dtype) for _ in range(2))
    dt = torch.nn.functional.softplus(torch.randn(batch, length, HEADS, device="cuda") - 4)
    a = -torch.empty(HEADS, device="cuda").uniform_(1, 16)
    return [one.requires_grad_() for one in (x, dt, a, b, c, torch.randn(HEADS, device="cuda"))]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("length", [1, 63, 197, 300])
def test_the_scan_and_its_gradients_are_the_recurrences(dtype, length):
    inputs = scan_inputs(2, length, dtype)
    doubled = [one.detach().double().requires_grad_() for one in inputs]
    got, want = dm2.torch.ssd(*inputs), reference.ssd(*doubled)
    cotangent = torch.randn_like(got)
    assert got.dtype == dtype and relative(got, want) < BOUNDS[dtype]
    ours = torch.autograd.grad(got, inputs, cotangent)
    theirs = torch.autograd.grad(want, doubled, cotangent.double())
    for one, other in zip(ours, theirs):
        assert relative(one, other) < 2 * BOUNDS[dtype]


def mixer_inputs(dtype, batch=2, length=197):
    torch.manual_seed(1)
    inner, channels = HEADS * HEADDIM, HEADS * HEADDIM + 2 * STATE
    normal = lambda *shape: (0.3 * torch.randn(shape, device="cuda")).requires_grad_()
    sides = [
        dm2.torch.Direction(
            normal(channels, 1, 4), normal(channels), normal(HEADS), normal(HEADS), normal(HEADS), normal(inner)
        )
        for _ in range(2)
    ]
    return torch.randn(batch, length, inner + channels + HEADS, device="cuda").to(dtype).requires_grad_(), sides


def mixer(z, sides, variant="bidirectional"):
    return dm2.torch.mixer_core(z, *sides, headdim=HEADDIM, d_state=STATE, variant=variant)


@pytest.mark.parametrize(
    "dtype, variant",
    [(torch.bfloat16, "published"), (torch.bfloat16, "bidirectional"), (torch.float16, "bidirectional")],
)
def test_the_mixer_and_its_gradients_are_the_references(dtype, variant):
    z, sides = mixer_inputs(dtype)
    leaves = [z, *sides[0], *sides[1]]
    doubled = [one.detach().double().requires_grad_() for one in leaves]
    got = mixer(z, sides, variant)
    exact = (dm2.torch.Direction(*doubled[1:7]), dm2.torch.Direction(*doubled[7:]))
    want = exact_mixer(doubled[0], *exact, headdim=HEADDIM, d_state=STATE, variant=variant)
    assert relative(got, want) < 1.5 * BOUNDS[dtype]
    cotangent = torch.randn_like(got)
    ours = torch.autograd.grad(got, leaves, cotangent)
    theirs = torch.autograd.grad(want, doubled, cotangent.double(), allow_unused=True)
    for i, (one, other) in enumerate(zip(ours, theirs)):
        if other is None:
            assert not one.any()
        else:
            assert relative(one, other) < 4 * BOUNDS[dtype], i


def test_two_streams_at_once_give_what_each_gives_alone():
    inputs = [mixer_inputs(torch.bfloat16, batch, 197) for batch in (8, 5)]
    want = [mixer(*one) for one in inputs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in inputs]
    for _ in range(5):
        got = []
        for stream, one in zip(streams, inputs):
            with torch.cuda.stream(stream):
                got.append(mixer(*one))
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(got, want))


def test_operands_at_odd_addresses_and_in_pieces():
    """A view one element into its memory, and one whose rows lie apart: the same numbers, the same bits."""
    z, sides = mixer_inputs(torch.bfloat16)
    want = mixer(z, sides)
    cotangent = torch.randn_like(want)
    gradient = torch.autograd.grad(want, z, cotangent)[0]
    shifted = torch.empty(z.numel() + 1, dtype=z.dtype, device="cuda")[1:].view_as(z).copy_(z.detach())
    assert shifted.data_ptr() % 16 != 0
    apart = torch.empty(*z.shape[:2], z.shape[2] + 3, dtype=z.dtype, device="cuda")[..., 1:-2].copy_(z.detach())
    for one in (shifted, apart):
        got = mixer(one.requires_grad_(), sides)
        assert torch.equal(got, want)
        assert relative(torch.autograd.grad(got, one, cotangent)[0], gradient) < 1e-6
    x, *others = (one.detach() for one in scan_inputs(2, 197, torch.bfloat16))
    shifted = torch.empty(x.numel() + 1, dtype=x.dtype, device="cuda")[1:].view_as(x).copy_(x)
    assert torch.equal(dm2.torch.ssd(shifted, *others), dm2.torch.ssd(x, *others))


def test_types_and_devices_that_do_not_fit_are_refused():
    inputs = [one.detach() for one in scan_inputs(2, 5, torch.float32)]
    with pytest.raises(ValueError, match="not in float64 on cuda"):
        dm2.torch.ssd(*(one.double() for one in inputs))
    with pytest.raises(ValueError, match="ssd: operands are on cuda:0 and on cpu"):
        dm2.torch.ssd(*inputs[:5], inputs[5].cpu())
    with pytest.raises(ValueError, match="ssd: operands are on cpu and on cuda:0"):
        dm2.torch.ssd(inputs[0].cpu(), *inputs[1:])


def test_torch_compile_gives_the_same():
    z, sides = mixer_inputs(torch.bfloat16)
    call = lambda z: mixer(z, sides).float().square().mean()
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    assert relative(compiled(z), call(z)) < 1e-6
    assert torch.equal(torch.autograd.grad(compiled(z), z)[0], torch.autograd.grad(call(z), z)[0])


def test_a_graph_replays_the_mixer():
    z, sides = mixer_inputs(torch.bfloat16)
    with torch.no_grad():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            want = mixer(z, sides)  # its scratch is there before the capture
            side.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=side):
                got = mixer(z, sides)
        graph.replay()
        torch.cuda.synchronize()
    assert torch.equal(got, want)


@pytest.fixture(scope="module")
def on_gpu(checkpoint):
    return dm2.load(checkpoint, device="cuda", batch=6)


def pictures(batch, seed=0):
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed)).cuda()


@pytest.fixture(scope="module")
def in_eights(checkpoint):
    """The same model, whose calls on the host are cut as on_gpu's are on the GPU: at multiples of four pictures."""
    return dm2.load(checkpoint, device="cuda", batch=8)


@pytest.mark.parametrize("batch", [1, 3, 6, 8, 9, 17])
def test_a_models_logits_of_a_tensor_on_its_gpu_are_the_hosts(on_gpu, in_eights, batch):
    images = pictures(batch)
    got, want = on_gpu(images), in_eights(images.cpu())
    assert got.device == images.device and got.shape == (batch, 10) and want.device.type == "cpu"
    assert torch.equal(got.cpu(), want)
    assert relative(got.cpu(), on_gpu(images.cpu())) < BOUNDS[torch.bfloat16]  # products of other sizes round otherwise
    assert on_gpu(images[:0]).shape == (0, 10)
    assert torch.equal(on_gpu(images[0]), on_gpu(images[:1]))


def test_a_models_logits_on_the_gpu_are_those_in_float32(on_gpu, micro):
    images = pictures(5, seed=3)
    assert relative(on_gpu(images).cpu(), micro(images.cpu())) < 2 * BOUNDS[torch.bfloat16]


def profiled(call):
    """Names of what the CPU and the GPU did in a call and its work."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        call()
        torch.cuda.synchronize()
    return [event.name for event in profile.events()]


def test_nothing_of_a_tensor_on_the_gpu_goes_through_the_host(on_gpu):
    images = pictures(4)
    on_gpu(images)  # weights go to the device
    names = profiled(lambda: on_gpu(images))
    assert [name for name in names if "Memcpy DtoD" in name]  # the logits': the GPU's work is seen
    assert not [name for name in names if "HtoD" in name or "DtoH" in name]


def test_logits_that_are_kept_cost_no_graph(on_gpu):
    """They are at another address with each call; the pictures are not."""
    images, kept = pictures(7), []
    keep = lambda: kept.append(on_gpu(images))
    assert [name for name in profiled(keep) if "GraphInstantiate" in name]
    names = [name for _ in range(3) for name in profiled(keep)]
    assert len({one.data_ptr() for one in kept}) == 4
    assert len([name for name in names if "GraphLaunch" in name]) == 3
    assert not [name for name in names if "GraphInstantiate" in name]
    assert all(torch.equal(one, kept[0]) for one in kept)


def test_a_call_that_is_captured_is_refused(on_gpu):
    images = pictures(2)
    want = on_gpu(images)
    with pytest.raises(RuntimeError, match="cannot be captured"):
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            on_gpu(images)
    assert torch.equal(on_gpu(images), want)


def test_another_current_device_does_not_matter(on_gpu):
    """On a machine of one GPU only that a new thread's calls are the same."""
    images, last = pictures(3), torch.cuda.device_count() - 1
    want, got = on_gpu(images), []

    def call():
        torch.cuda.set_device(last)
        got.extend((on_gpu(images), on_gpu(images.cpu()), torch.cuda.current_device()))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert torch.equal(got[0], want) and torch.equal(got[1], want.cpu()) and got[2] == last


def test_a_models_call_keeps_to_the_present_stream(on_gpu):
    """What fills the pictures is slow and in the same stream; so is what reads the logits."""
    images, want = torch.zeros(4, 3, 64, 64, device="cuda"), on_gpu(pictures(4, seed=5)).clone()
    source, large = pictures(4, seed=5), torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()) as _:
        for _ in range(20):
            large = large @ large / 4096
        images.copy_(source)
        doubled = on_gpu(images) * 2
        images.zero_()
    torch.cuda.synchronize()
    assert torch.equal(doubled, want * 2)


def test_views_that_lie_badly_and_other_types_on_the_gpu(on_gpu):
    images = pictures(3)
    want = on_gpu(images)
    shifted = torch.empty(images.numel() + 1, device="cuda")[1:].view_as(images).copy_(images)
    assert shifted.data_ptr() % 16 != 0
    assert torch.equal(on_gpu(shifted), want)
    assert torch.equal(on_gpu(images.to(memory_format=torch.channels_last)), want)
    with pytest.raises(TypeError, match="float32"):
        on_gpu(images.half())
    with pytest.raises(ValueError, match=r"got \[3, 3, 64, 32\]"):
        on_gpu(images[..., :32])


def test_weights_that_are_written_to_count_on_the_gpu(on_gpu):
    images, before = pictures(2), on_gpu(pictures(2)).clone()
    bias = dict(on_gpu.named_parameters())["head.bias"]
    bias += 1
    assert relative(on_gpu(images), before + 1) < 1e-2
    bias -= 1


def test_a_model_on_the_cpu_takes_a_tensor_on_the_gpu_through_the_host(micro):
    images = pictures(2)
    got = micro(images)
    assert got.device == images.device and torch.equal(got.cpu(), micro(images.cpu()))
