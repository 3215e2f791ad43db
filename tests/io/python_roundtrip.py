"""Reads a file that dm2 wrote with the `safetensors` package and compares every value.

    python3 python_roundtrip.py WRITE_ROUNDTRIP

WRITE_ROUNDTRIP is the program built from write_roundtrip.cpp. Exit status: 0 equal, 1 not, 77 where safetensors or numpy
cannot be imported (ctest: SKIP_RETURN_CODE 77).
"""
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import numpy as np
    from safetensors import safe_open
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

RAMP = np.arange(12).reshape(3, 4)
EXPECTED = {
    "u8": RAMP.astype(np.uint8),
    "bool": (RAMP % 2).astype(bool),
    "i8": (RAMP - 5).astype(np.int8),
    "i16": (RAMP - 5).astype(np.int16),
    "i32": (RAMP - 5).astype(np.int32),
    "i64": (RAMP - 5).astype(np.int64),
    "f16": np.array([[1, 1.5, 2, 3]] * 3, np.float16),
    "f32": (RAMP - 5).astype(np.float32),
    "f64": (RAMP - 5).astype(np.float64),
    "turned": (RAMP - 5).astype(np.float32).T,
    "scalar": np.array(-5, np.int64),
    "empty": np.zeros((0, 4), np.float32),
}
METADATA = {"format": "pt", "text": 'caf\u00e9 "quoted"\n'}


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.safetensors"
        subprocess.run([sys.argv[1], str(path)], check=True)
        with safe_open(str(path), framework="np") as file:
            got = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata()
    wrong = [f"names {sorted(got)}"] if got.keys() != EXPECTED.keys() else []
    for name, want in EXPECTED.items():
        value = got.get(name)
        if value is None or value.dtype != want.dtype or value.shape != want.shape or not np.array_equal(value, want):
            wrong.append(f"{name}: {value!r}, expected {want!r}")
    if metadata != METADATA:
        wrong.append(f"metadata {metadata}, expected {METADATA}")
    print("\n".join(wrong) or f"{len(got)} tensors equal")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
