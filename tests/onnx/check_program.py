"""Runs the lines of docs/onnx.md, and dm2 export, as a user does.

    python3 check_program.py DM2 [VENV]

DM2 is the program dm2. Packages are installed from PyPI into VENV where this Python has none. Exit status: 0 all agree, 1
not, 77 where the packages can be neither imported nor installed.
"""
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from check_cases import GOLDEN, IMPORTS, PACKAGES, difference, session  # noqa: E402
import pypi  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent


def run(*words, status=0):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    assert done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def predictions(dm2, weights, picture, classes):
    """dm2 classify's probabilities by class."""
    text = subprocess.run([dm2, "classify", "--weights", weights, picture, "--json", "--top", str(classes)],
                          capture_output=True, text=True, check=True).stdout
    return {p["class"]: p["probability"] for p in json.loads(text)[0]["predictions"]}


def check_document(dm2):
    """docs/onnx.md's lines give dm2 classify's classes and probabilities."""
    import numpy as np

    text = (ROOT / "docs" / "onnx.md").read_text()
    shell, code = (re.search(f"```{kind}\n(.*?)```", text, re.S).group(1) for kind in ("sh", "python"))
    Path("dm2").symlink_to(dm2)
    Path("examples").symlink_to(ROOT / "examples")
    for picture in ("rgb.png", "wide.png"):
        Path("photo.png").unlink(missing_ok=True)
        Path("photo.png").symlink_to(GOLDEN / "images" / picture)
        Path("quick.onnx").unlink(missing_ok=True)
        run("bash", "-ec", shell)
        seen, output = {}, io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(code, "docs/onnx.md", "exec"), seen)
        lines = output.getvalue().splitlines()
        assert len(lines) == 5, lines
        want = predictions(dm2, "examples/weights/quick.safetensors", "photo.png", len(seen["names"]))
        got = seen["probabilities"]
        assert len(got) == len(want) == 14
        worst = max(abs(float(got[k]) - want[k]) for k in want)
        assert worst <= 1e-5, f"{picture}: probabilities differ by {worst:.1e}"
        assert list(np.argsort(-got)[:5]) == sorted(want, key=lambda k: -want[k])[:5]
        print(f"docs/onnx.md, {picture}: probabilities differ by {worst:.1e}")


def check_checkpoint(dm2):
    """Each set of weights of a Lightning checkpoint gives the published code's logits."""
    from safetensors import safe_open

    with safe_open(str(GOLDEN / "lightning" / "logits.safetensors"), framework="np") as file:
        want = {name: file.get_tensor(name) for name in file.keys()}
    for flag, name in (("--raw", "epoch=0-step=2"), ("--ema", "epoch=0-step=2-EMA")):
        checkpoint = GOLDEN / "lightning" / "epoch=0-step=2.ckpt"
        run(dm2, "export", checkpoint, f"lightning{flag}.onnx", flag, "--model", "micro")
        (logits,) = session(f"lightning{flag}.onnx").run(["logits"], {"pixel_values": want["image"]})
        error = difference(logits, want[f"{name}/logits"])
        assert error <= 1e-4, f"{flag}: {error:.1e}"
        print(f"Lightning checkpoint, {flag}: {error:.1e}")


def check_hub(dm2):
    """A hub's folder is read by safetensors, onnxruntime and dm2, and says the same in each."""
    import onnx
    from safetensors import safe_open

    weights = ROOT / "examples" / "weights" / "quick.safetensors"
    run(dm2, "export", weights, "--hub", "hub")
    files = sorted(str(p.relative_to("hub")) for p in Path("hub").rglob("*") if p.is_file())
    assert files == ["README.md", "config.json", "model.safetensors", "onnx/model.onnx"], files
    config = json.loads(Path("hub/config.json").read_text())
    pretrained = config["pretrained_cfg"]
    assert config["architecture"] == "demansia2_quick" and config["num_classes"] == 14 == len(config["label_names"])
    assert pretrained["input_size"] == [3, 48, 48] and pretrained["crop_pct"] == 0.875
    assert pretrained["mean"] == [0.485, 0.456, 0.406] and pretrained["std"] == [0.229, 0.224, 0.225]
    assert pretrained["interpolation"] == "bilinear" and config["num_features"] == 96
    with safe_open("hub/model.safetensors", framework="np") as file, safe_open(str(weights), framework="np") as own:
        assert json.loads(file.metadata()["config"]) == config["model_args"]
        assert json.loads(file.metadata()["class_names"]) == config["label_names"]
        assert file.metadata()["format"] == "pt"
        assert set(file.keys()) == set(own.keys())
        assert all((file.get_tensor(k) == own.get_tensor(k)).all() for k in file.keys())
    onnx.checker.check_model("hub/onnx/model.onnx", full_check=True)
    shape = session("hub/onnx/model.onnx").get_inputs()[0].shape
    assert shape == ["batch", 3, 48, 48], shape
    picture = str(GOLDEN / "images" / "rgb.png")
    assert predictions(dm2, "hub/model.safetensors", picture, 14) == predictions(dm2, str(weights), picture, 14)
    card = Path("hub/README.md").read_text()
    assert card.startswith("---\n") and "library_name: dm2" in card and "quick.safetensors" in card
    assert "Licence" in card and "To fill in" in card
    Path("hub/README.md").write_text("filled in")
    assert "--force replaces it" in run(dm2, "export", weights, "--hub", "hub", status=2)
    run(dm2, "export", weights, "--hub", "hub", "--force")
    assert Path("hub/README.md").read_text() == "filled in"
    print("hub folder: read by safetensors, onnxruntime and dm2")


def check_refusals(dm2):
    """Command lines that make no sense, and files that are none, leave nothing behind."""
    weights = ROOT / "examples" / "weights" / "quick.safetensors"
    before = set(os.listdir("."))
    run(dm2, "export", weights, status=2)
    run(dm2, "export", weights, "a.onnx", "--hub", "b", status=2)
    run(dm2, "export", weights, "a.onnx", "--uint8", "--normalise", status=2)
    run(dm2, "export", weights, "a.onnx", "--num-classes", "15", status=2)
    assert "logits.safetensors" in run(dm2, "export", GOLDEN / "lightning" / "logits.safetensors", "a.onnx", status=3)
    assert "missing.ckpt" in run(dm2, "export", "missing.ckpt", "a.onnx", status=3)
    run(dm2, "export", weights, "no/such/folder/a.onnx", status=3)
    assert set(os.listdir(".")) == before, set(os.listdir(".")) - before
    run(dm2, "export", weights, "a.onnx")
    assert "--force replaces it" in run(dm2, "export", weights, "a.onnx", status=2)
    run(dm2, "export", weights, "a.onnx", "--force", "--fp16", "--external-data", "--features", "--patches")
    assert {"a.onnx", "a.onnx.data"} <= set(os.listdir("."))
    print("refusals: as documented")


def check(program: str) -> None:
    dm2 = str(Path(program).resolve())
    for one in (check_document, check_checkpoint, check_hub, check_refusals):
        with tempfile.TemporaryDirectory() as folder:
            here = os.getcwd()
            os.chdir(folder)
            try:
                one(dm2)
            finally:
                os.chdir(here)


if __name__ == "__main__":
    pypi.run(check, __file__, PACKAGES, IMPORTS)
