"""dm2.export_onnx and export_hub: what onnxruntime computes with the file is what the model computes."""

import json

import dm2
import numpy as np
import pytest
from conftest import GOLDEN, distance


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


def test_a_hub_folder_holds_the_model_and_its_card(micro, checkpoint, tmp_path):
    dm2.export_hub(checkpoint, tmp_path / "hub", patches=True)
    files = sorted(str(p.relative_to(tmp_path / "hub")) for p in (tmp_path / "hub").rglob("*") if p.is_file())
    assert files == ["README.md", "config.json", "model.safetensors", "onnx/model.onnx"]
    card = (tmp_path / "hub" / "README.md").read_text()
    assert checkpoint.name in card and "changed since" not in card
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["num_classes"] == 10
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 64), np.float32)
    assert (dm2.load(tmp_path / "hub" / "model.safetensors", device="cpu")(images) == micro(images)).all()
    dm2.export_onnx(checkpoint, tmp_path / "alone.onnx", patches=True)
    assert (tmp_path / "hub" / "onnx" / "model.onnx").read_bytes() == (tmp_path / "alone.onnx").read_bytes()


def test_what_is_written_to_the_parameters_is_exported_and_said(checkpoint, tmp_path):
    model = dm2.load(checkpoint, device="cpu")
    dict(model.named_parameters())["head.bias"][...] = 7
    dm2.export_hub(model, tmp_path / "hub")
    assert "changed since" in (tmp_path / "hub" / "README.md").read_text()
    again = dm2.load(tmp_path / "hub" / "model.safetensors", device="cpu")
    assert (again.state_dict()["head.bias"] == 7).all()
