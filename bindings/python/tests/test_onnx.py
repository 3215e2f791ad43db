"""dm2.export_onnx: what onnxruntime computes with the file is what the model computes."""

import dm2
import numpy as np
import pytest
from conftest import GOLDEN, distance

from dm2 import _dm2

if not hasattr(_dm2.Model, "export_onnx"):
    pytest.skip("built without dm2/io/onnx", allow_module_level=True)


def test_onnxruntime_gives_the_models_numbers(micro, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    images = np.random.default_rng(0).standard_normal((3, 3, 64, 64), np.float32)
    dm2.export_onnx(micro, tmp_path / "model.onnx", features=True, patches=True)
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    logits, features, patches = session.run(["logits", "features", "patches"], {"pixel_values": images})
    assert distance(logits, micro(images)) < 1e-4
    assert distance(features, micro.forward_features(images)) < 1e-4
    assert distance(patches, micro.forward_patches(images)[1]) < 1e-4


def test_a_file_is_exported_with_bytes_as_its_input(micro, checkpoint, tmp_path):
    dm2.export_onnx(checkpoint, tmp_path / "model.onnx", input="bytes")
    assert (tmp_path / "model.onnx").stat().st_size > 500_000
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    path = GOLDEN / "images" / "photo.jpg"
    pixels = dm2.data.EvaluationTransform(64).pixels(path)[None]
    (logits,) = session.run(["logits"], {"pixel_values": pixels})
    assert distance(logits, micro(path)) < 1e-4


def test_arguments_that_make_no_sense_are_refused(micro, tmp_path):
    with pytest.raises(ValueError, match="input is 'words'"):
        dm2.export_onnx(micro, tmp_path / "model.onnx", input="words")
    with pytest.raises(ValueError, match="chunk"):
        dm2.export_onnx(micro, tmp_path / "model.onnx", chunk=-1)
    with pytest.raises(FileNotFoundError, match="model.onnx: cannot be created"):
        dm2.export_onnx(micro, tmp_path / "nowhere" / "model.onnx")
    assert not list(tmp_path.iterdir())
