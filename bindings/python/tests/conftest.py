"""What the tests of the Python package share: golden files, and a cache of compiled models of their own."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden"

# scripts/python_tests keeps compiled models between runs; else they go where dm2 puts them.
if os.environ.get("DM2_TEST_CACHE"):
    os.environ["XDG_CACHE_HOME"] = os.environ["DM2_TEST_CACHE"]


def read_safetensors(path):
    """Arrays and metadata of a safetensors file, read independently of dm2."""
    types = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}
    raw = Path(path).read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    arrays = {}
    for name, told in header.items():
        begin, end = told["data_offsets"]
        part = np.frombuffer(raw[8 + size + begin : 8 + size + end], types[told["dtype"]])
        arrays[name] = part.reshape(told["shape"])
    return arrays, metadata


def distance(got, want):
    """The largest difference over the largest number wanted; infinite for what is no number."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    error = np.max(np.abs(got - want)) / np.max(np.abs(want))
    return error if np.isfinite(error) else np.inf


@pytest.fixture(scope="session")
def golden():
    return lambda name: read_safetensors(GOLDEN / name)


@pytest.fixture(scope="session")
def checkpoint():
    """A Lightning checkpoint of the published training code, with averaged weights."""
    return GOLDEN / "lightning" / "epoch=0-step=2-EMA.ckpt"


@pytest.fixture(scope="session")
def micro(checkpoint):
    import dm2

    return dm2.load(checkpoint, device="cpu")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A set of pictures in three classes, drawn here: discs, squares and stripes."""
    from PIL import Image

    root = tmp_path_factory.mktemp("shapes")
    numbers = np.random.default_rng(1)
    y, x = np.mgrid[:48, :48]
    for part, count in (("train", 12), ("val", 4)):
        for label, name in enumerate(("disc", "square", "stripes")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                cy, cx, r = numbers.integers(16, 32), numbers.integers(16, 32), numbers.integers(8, 15)
                inside = [
                    (y - cy) ** 2 + (x - cx) ** 2 < r * r,
                    np.maximum(abs(y - cy), abs(x - cx)) < r,
                    (y + x + cx) // 6 % 2 == 0,
                ][label]
                colours = numbers.integers(0, 256, (2, 3))
                pixels = np.where(inside[..., None], colours[0], colours[1]).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def run_python(text, *arguments, **variables):
    """Runs a program in a new interpreter; returns its result."""
    return subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        timeout=600,
    )
