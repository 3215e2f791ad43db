"""dm2 from Python through ctypes, without another package: classify.py LIBRARY MODEL PICTURE PROGRAM.

Says the same five classes as the program does, with the same bits, and that what fails says why.
"""

import ctypes
import json
import struct
import subprocess
import sys


class Prediction(ctypes.Structure):
    _fields_ = [("index", ctypes.c_int32), ("probability", ctypes.c_float)]


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
    assert dm2.dm2_close(handle) == 0
    assert dm2.dm2_close(handle) == 2, "a closed handle is found out"
    print("five classes, the program's bits:", [(p.index, p.probability) for p in best])


if __name__ == "__main__":
    main(*sys.argv[1:])
