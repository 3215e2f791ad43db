"""Reads a file that dm2 wrote with the `safetensors` package and compares every value.

    python3 python_roundtrip.py WRITE_ROUNDTRIP [VENV]

WRITE_ROUNDTRIP is the program built from write_roundtrip.cpp. Where this Python has no safetensors package, one is installed
from PyPI into the virtual environment VENV. Exit status: 0 equal, 1 not, 77 where it can be neither imported nor installed.
"""
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
import pypi  # noqa: E402


def check(program: str) -> None:
    import numpy as np
    from safetensors import safe_open

    ramp = np.arange(12).reshape(3, 4)
    expected = {
        "u8": ramp.astype(np.uint8),
        "bool": (ramp % 2).astype(bool),
        "i8": (ramp - 5).astype(np.int8),
        "i16": (ramp - 5).astype(np.int16),
        "i32": (ramp - 5).astype(np.int32),
        "i64": (ramp - 5).astype(np.int64),
        "f16": np.array([[1, 1.5, 2, 3]] * 3, np.float16),
        "f32": (ramp - 5).astype(np.float32),
        "f64": (ramp - 5).astype(np.float64),
        "turned": (ramp - 5).astype(np.float32).T,
        "scalar": np.array(-5, np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.safetensors"
        subprocess.run([program, str(path)], check=True)
        with safe_open(str(path), framework="np") as file:
            got = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata()
    assert got.keys() == expected.keys(), sorted(got)
    for name, want in expected.items():
        value = got[name]
        assert value.dtype == want.dtype and value.shape == want.shape and np.array_equal(value, want), (name, value, want)
    assert metadata == {"format": "pt", "text": 'caf\u00e9 "quoted"\n'}, metadata
    print(f"{len(got)} tensors equal")


if __name__ == "__main__":
    pypi.run(check, __file__, ["safetensors", "numpy"], "import numpy, safetensors")
