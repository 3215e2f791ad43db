"""dm2 from Python through ctypes, without another package: classify.py LIBRARY MODEL PICTURE PROGRAM.

Says the same five classes as the program does, with the same bits, exports the same files, and what fails says why.
"""

import ctypes
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path


class Prediction(ctypes.Structure):
    _fields_ = [("index", ctypes.c_int32), ("probability", ctypes.c_float)]


class ExportOptions(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t)] + [
        (name, ctypes.c_int32) for name in ("input", "half", "features", "patches", "external_data", "chunk")
    ] + [("class_names", ctypes.POINTER(ctypes.c_char_p))]


def check_export(dm2, handle, model, program):
    """An ONNX file and a hub's folder are those that the program writes, byte by byte."""
    options = ExportOptions(size=ctypes.sizeof(ExportOptions), input=2, features=1, external_data=1)
    with tempfile.TemporaryDirectory() as name:
        ours, theirs = Path(name) / "ours", Path(name) / "theirs"
        for folder in (ours, theirs):
            folder.mkdir()
        status = dm2.dm2_export_onnx(handle, bytes(ours / "m.onnx"), ctypes.byref(options))
        assert status == 0, dm2.dm2_last_error()
        flags = ["--uint8", "--features", "--external-data"]
        subprocess.run([program, "export", model, theirs / "m.onnx", *flags], check=True, capture_output=True)
        assert dm2.dm2_export_hub(handle, bytes(ours / "hub"), None) == 0, dm2.dm2_last_error()
        subprocess.run([program, "export", model, "--hub", theirs / "hub"], check=True, capture_output=True)
        files = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (ours, theirs)]
        assert len(files[0]) == 6 and files[0] == files[1], [list(one) for one in files]
        wrong = ExportOptions(size=1)
        assert dm2.dm2_export_onnx(handle, bytes(ours / "no.onnx"), ctypes.byref(wrong)) == 1
        assert not (ours / "no.onnx").exists()


def main(library, model, picture, program):
    dm2 = ctypes.CDLL(library)
    dm2.dm2_last_error.restype = ctypes.c_char_p
    handle = ctypes.c_void_p()
    assert dm2.dm2_open(model.encode(), None, ctypes.byref(handle)) == 0, dm2.dm2_last_error()
    with open(picture, "rb") as file:
        data = file.read()
    best = (Prediction * 5)()
    size = ctypes.c_size_t(len(data))
    assert dm2.dm2_classify_encoded(handle, data, size, 5, best) == 0, dm2.dm2_last_error()

    told = subprocess.run(
        [program, "classify", "--weights", model, "--device", "cpu", "--json", picture],
        check=True, capture_output=True, text=True).stdout
    theirs = json.loads(told)[0]["predictions"]
    assert [p.index for p in best] == [p["class"] for p in theirs], theirs
    for ours, their in zip(best, theirs):
        # the program prints as many digits as tell one float from all others
        assert struct.pack("f", ours.probability) == struct.pack("f", their["probability"]), (ours, their)

    assert dm2.dm2_classify_encoded(handle, b"no picture", ctypes.c_size_t(10), 5, best) == 4
    assert b"picture" in dm2.dm2_last_error()
    check_export(dm2, handle, model, program)
    assert dm2.dm2_close(handle) == 0
    assert dm2.dm2_close(handle) == 2, "a closed handle is found out"
    print("five classes, the program's bits:", [(p.index, p.probability) for p in best])


if __name__ == "__main__":
    main(*sys.argv[1:])
