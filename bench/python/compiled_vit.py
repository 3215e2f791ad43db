"""Times timm's plain vision transformers under torch.compile on a GPU: what dm2's figures stand beside.

    python bench/python/compiled_vit.py [--models NAME ...] [--batch 256 1024] [--train 256] [--seconds 1] [--device cuda]

For each model, in bfloat16 with random weights and pictures of 224 pixels on the device: inference at each --batch, and
forward, cross entropy and backward at --train (0: not). Both are compiled as a whole (fullgraph) and replayed as one
CUDA graph, as dm2's benchmarks are, so that neither side waits for its host; the gradients lie in buffers that every replay
overwrites. Logits and gradients are first compared with those of the model in float32, uncompiled, from the same
weights and pictures. Prints a line each: the median of runs of --seconds. Returns 1 where a result is wrong, 2 where
there is no timm or no GPU.

With --device cpu it compiles and compares, and times nothing that means anything.
"""

import argparse
import statistics
import sys
import time

import torch
import torch.nn.functional as F

try:
    import timm
except ImportError:
    print("timm is missing: pip install timm", file=sys.stderr)
    sys.exit(2)

MODELS = ("vit_tiny_patch16_224", "deit_tiny_patch16_224", "deit_small_patch16_224")
CLASSES = 1000


class Replayed:
    """A call as a CUDA graph; on a CPU the call itself."""

    def __init__(self, call, device):
        self.device = device
        if device != "cuda":
            self.replay = call
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # compiles, and takes its memory
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        self.replay = graph.replay

    def median(self, seconds):
        """Milliseconds of a call: the median of runs of some calls each, which last so long together."""
        once = self.run(3) / 3
        calls = max(1, round(seconds / 7 / once))
        return 1000 * statistics.median(self.run(calls) / calls for _ in range(7))

    def run(self, calls):
        self.wait()
        begin = time.perf_counter()
        for _ in range(calls):
            self.replay()
        self.wait()
        return time.perf_counter() - begin

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()


def relative(got, want):
    """Norm of the difference over the norm of what is wanted; infinite where it is no number."""
    error = ((got.double() - want.double()).norm() / want.double().norm()).item()
    return error if error == error else float("inf")


def compiled(model):
    """For the batch that it is called with: for batches of any size, which a second one would ask for, it is slower."""
    return torch.compile(model, fullgraph=True, dynamic=False)


class Rival:
    """One model, and the same in float32 as the oracle."""

    def __init__(self, name, options):
        self.options, self.device = options, options.device
        torch.manual_seed(1)
        self.exact = timm.create_model(name, num_classes=CLASSES).to(self.device)
        self.model = timm.create_model(name, num_classes=CLASSES).to(self.device, torch.bfloat16)
        self.model.load_state_dict(self.exact.state_dict())
        self.exact.load_state_dict({k: v.float() for k, v in self.model.state_dict().items()})  # the same numbers

    def pictures(self, batch):
        return torch.randn(batch, 3, 224, 224, device=self.device, dtype=torch.bfloat16)

    def inference(self, batch):
        """Milliseconds, and how far some logits are from the oracle's."""
        model = compiled(self.model.eval())
        x, held = self.pictures(batch), {}

        def call():
            with torch.no_grad():
                held["y"] = model(x)
        replayed = Replayed(call, self.device)
        replayed.replay()
        replayed.wait()
        few = min(batch, 32)
        with torch.no_grad():
            error = relative(held["y"][:few], self.exact.eval()(x[:few].float()))
        return replayed.median(self.options.seconds), error

    def training(self, batch):
        """Milliseconds of forward, loss and backward, how far the gradient is from the oracle's, and bytes."""
        model = compiled(self.model.train())
        x, y = self.pictures(batch), torch.randint(CLASSES, (batch,), device=self.device)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

        def call():
            for p in self.model.parameters():
                p.grad = None
            F.cross_entropy(model(x).float(), y).backward()
        replayed = Replayed(call, self.device)
        replayed.replay()
        replayed.wait()
        held = torch.cuda.max_memory_allocated() if self.device == "cuda" else 0
        self.exact.train().zero_grad()
        for i in range(0, batch, 64):  # what a batch of float32 takes fits then
            loss = F.cross_entropy(self.exact(x[i:i + 64].float()), y[i:i + 64], reduction="sum") / batch
            loss.backward()
        pairs = zip(self.model.parameters(), self.exact.parameters())
        got, want = (torch.cat([t.grad.flatten().float() for t in side]) for side in zip(*pairs))
        return replayed.median(self.options.seconds), relative(got, want), held


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="NAME")
    parser.add_argument("--batch", type=int, nargs="*", default=[256, 1024])
    parser.add_argument("--train", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU", file=sys.stderr)
        return 2
    torch.set_float32_matmul_precision("highest")
    wrong = 0
    print(f"timm {timm.__version__}, torch {torch.__version__}, "
          f"{torch.cuda.get_device_name() if options.device == 'cuda' else 'CPU'}", flush=True)
    for name in options.models:
        rival = Rival(name, options)
        for batch in options.batch:
            ms, error = rival.inference(batch)
            wrong += error > 0.05
            print(f"{name}, inference, batch {batch}: {ms:.3f} ms, {1000 * batch / ms:.0f} pictures/s, logits {error:.1e}", flush=True)
        if options.train:
            ms, error, held = rival.training(options.train)
            wrong += error > 0.2
            print(f"{name}, forward + backward, batch {options.train}: {ms:.3f} ms, {1000 * options.train / ms:.0f} pictures/s, "
                  f"gradient {error:.1e}, {held / 1e6:.0f} MB", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
