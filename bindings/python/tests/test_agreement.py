"""One picture through Python, the program, libdm2 and onnxruntime: the same five classes and probabilities."""

import json
import subprocess
import sys

import dm2
import numpy as np
import pytest
from conftest import GOLDEN, ROOT

BUILD = ROOT / "build" / "release"
PROGRAM = BUILD / "examples" / "dm2"
LIBRARY = BUILD / "bindings" / "c" / "libdm2.so"


def same(best, told):
    """Whether a Prediction's list says what (class, probability) pairs say."""
    assert [p.index for p in best] == [index for index, _ in told]
    assert max(abs(p.probability - value) for p, (_, value) in zip(best, told)) < 1e-5


@pytest.mark.parametrize("name", ["photo.jpg", "rgb.png"])
def test_the_program_says_what_python_says(micro, checkpoint, name):
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM} is not built")
    picture = GOLDEN / "images" / name
    run = subprocess.run(
        [PROGRAM, "classify", "--device", "cpu", "-w", checkpoint, picture, "--json"], capture_output=True, check=True
    )
    (row,) = json.loads(run.stdout)
    same(micro.classify(picture)[0], [(p["class"], p["probability"]) for p in row["predictions"]])


def test_libdm2_says_what_the_program_says(checkpoint):
    if not LIBRARY.exists() or not PROGRAM.exists():
        pytest.skip("libdm2 or the program is not built")
    script = ROOT / "tests" / "c" / "classify.py"
    run = subprocess.run(
        [sys.executable, script, LIBRARY, checkpoint, GOLDEN / "images" / "photo.jpg", PROGRAM],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_onnxruntime_says_what_python_says(micro, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    dm2.export_onnx(micro, tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    picture = GOLDEN / "images" / "photo.jpg"
    (logits,) = session.run(["logits"], {"pixel_values": dm2.data.EvaluationTransform(64)(picture)[None]})
    odds = np.exp(np.float64(logits[0]) - logits[0].max())
    odds /= odds.sum()
    best = micro.classify(picture)[0]
    same(best, [(int(i), odds[i]) for i in np.argsort(-odds)[:5]])
