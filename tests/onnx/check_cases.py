"""Holds every ONNX file that write_cases writes against the checker, shape inference and what the model computes.

    python3 check_cases.py WRITE_CASES [VENV]

The golden folder is beside this one. Packages are installed from PyPI into VENV where this Python has none. Exit status: 0
all agree, 1 not, 77 where the packages can be neither imported nor installed.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
import pypi  # noqa: E402

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
PACKAGES = ["onnx", "onnxruntime", "numpy", "safetensors", "pillow"]
IMPORTS = "import numpy, onnx, onnxruntime, safetensors, PIL"
TYPES = {1: "float32", 2: "uint8", 7: "int64", 10: "float16"}


def session(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def difference(got, want):
    """|got - want| / |want|; NaN where either has one, which no comparison accepts."""
    import numpy as np

    got, want = got.astype(np.float64), want.astype(np.float64)
    assert got.shape == want.shape, (got.shape, want.shape)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def check_graph(path, config):
    """The file is valid, its shapes follow from its input, and no value is larger than it need be."""
    import onnx

    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(path))
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)], model.opset_import
    assert {n.domain for n in model.graph.node} == {""}
    metadata = {p.key: p.value for p in model.metadata_props}
    assert json.loads(metadata["config"]) == config, metadata
    named = {n.name for n in model.graph.node}
    assert len(named) == len(model.graph.node)
    known = {v.name for v in inferred.graph.value_info} | {v.name for v in model.graph.output}
    missing = {name for node in model.graph.node for name in node.output} - known
    assert not missing, f"{path.name}: no shape is inferred of {sorted(missing)[:3]}"
    tokens = config["image"][0] // config["patch"] * (config["image"][1] // config["patch"]) + 1
    heads = config["expand"] * config["dim"] // config["headdim"]
    largest = 0
    for value in inferred.graph.value_info:
        size = 1
        for d in value.type.tensor_type.shape.dim:
            assert d.dim_value or d.dim_param, f"{path.name}: {value.name} has an unknown extent"
            size *= d.dim_value or 1
        largest = max(largest, size)
    if path.name.startswith("long"):
        assert largest * 4 < heads * tokens * tokens, f"{path.name}: a value of {largest} numbers"
    if ".external" in path.name:
        data = Path(str(path) + ".data")
        assert path.stat().st_size < 2_000_000 and data.stat().st_size > 1000, "the weights are not outside"


def check_case(path, inputs, config):
    kind = path.name.split(".")[1]
    tolerance = 1e-2 if "half" in kind else 1e-4
    check_graph(path, config)
    if kind == "bytes":
        x = inputs["pixel_bytes"]
    elif kind == "unit":
        x = (inputs["pixel_bytes"].transpose(0, 3, 1, 2) / 255).astype("float32")
    else:
        x = inputs["pixel_values"]
    net = session(path)
    worst = 0.0
    names = [o.name for o in net.get_outputs()]
    assert names == ["logits", "features", "patches"], names
    for count in {1, len(x)}:  # any batch
        got = dict(zip(names, net.run(None, {"pixel_values": x[:count]})))
        for name in names:
            if name not in inputs:
                continue
            assert got[name].dtype == "float32"
            error = difference(got[name], inputs[name][:count])
            assert error <= tolerance, f"{path.name}: {name} of {count} differ by {error:.2e}"
            worst = max(worst, error)
    print(f"{path.name}: {worst:.1e}", flush=True)


def check(program: str) -> None:
    from safetensors import safe_open

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, folder, str(GOLDEN)], check=True)
        count = 0
        for stored in sorted(Path(folder).glob("*.safetensors")):
            with safe_open(str(stored), framework="np") as file:
                inputs = {name: file.get_tensor(name) for name in file.keys()}
                config = json.loads(file.metadata()["config"])
            for path in sorted(Path(folder).glob(stored.stem + ".*onnx")):
                check_case(path, inputs, config)
                count += 1
        assert count >= 50, count
    print(f"{count} files agree")


if __name__ == "__main__":
    pypi.run(check, __file__, PACKAGES, IMPORTS)
