"""Reads event files that dm2 wrote with TensorBoard's own reader and compares every value.

    python3 tensorboard_check.py WRITE_TENSORBOARD [VENV]

WRITE_TENSORBOARD is the program built from write_tensorboard.cpp. Where this Python has no tensorboard package, one is
installed from PyPI into the virtual environment VENV, which a later run finds again. Exit status: 0 equal, 1 not, 77
where the package can be neither imported nor installed (ctest: SKIP_RETURN_CODE 77).
"""
import io
import math
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
import pypi  # noqa: E402

PACKAGES = ["tensorboard", "pillow", "setuptools<81"]


IMPORTS = "from tensorboard.backend.event_processing import event_accumulator; import PIL.Image"


def check_records(folder: str) -> None:
    """The record layer and the messages: checksums are checked by the reader, which drops a file's rest after a bad one."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto import event_pb2

    first, second = sorted(Path(folder).iterdir())
    assert first.name.startswith("events.out.tfevents."), first.name
    raw = list(RawEventFileLoader(str(first)).Load())
    events = [event_pb2.Event.FromString(record) for record in raw]
    assert events[0].file_version == "brain.Event:2", events[0]
    assert len(events) == 1 + 1 + 4 + 1 + 2 + 2, len(events)
    assert all(e.wall_time > 1.6e9 for e in events)
    # The same messages from protobuf's own writer have the same bytes: no field is unknown, out of order or repeated.
    assert all(e.SerializeToString(deterministic=True) == record for e, record in zip(events, raw))
    assert len(list(RawEventFileLoader(str(second)).Load())) == 2 + 298 + 1 + 1


def check_curves(reader) -> None:
    points = [(e.step, e.value) for e in reader.Scalars("loss/train")]
    want = [(0, 8.0), (1, 4.0)] + [(step, -float(step)) for step in range(2, 299)] + [(299, 1e-30), (5_000_000_000, 0.1)]
    assert [step for step, _ in points] == [step for step, _ in want], points
    assert all(math.isclose(got, value, rel_tol=1e-7) for (_, got), (_, value) in zip(points, want)), points
    assert not reader.Scalars("only/lost"), "a point of the lost steps is still there"
    assert math.isnan(reader.Scalars("odd/nan")[0].value)
    assert reader.Scalars("odd/infinity")[0].value == -math.inf


def check_pictures(reader) -> None:
    from PIL import Image

    images = reader.Images("maps")
    assert [(e.step, e.height, e.width) for e in images] == [(1, 20, 30), (299, 50, 70)], images
    with Image.open(io.BytesIO(images[1].encoded_image_string)) as picture:
        assert picture.size == (70, 50) and picture.mode == "RGB"
        assert all(picture.getpixel((x, y)) == (3 * x, 5 * y, 100) for x in range(70) for y in range(50))


def check_plugins(folder: str) -> None:
    """What the pages of the user interface ask for: curves, pictures and texts under their plugins."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    reader = EventAccumulator(folder, size_guidance={"tensors": 0})
    reader.Reload()
    assert "loss/train" in reader.PluginTagToContent("scalars")
    assert "maps" in reader.PluginTagToContent("images")
    assert list(reader.PluginTagToContent("text")) == ["configuration"]
    assert reader.Tensors("configuration")[0].tensor_proto.string_val[0].decode() == "| epochs | 300 |\n\u00fc"


def check(program: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, folder], check=True)
        check_records(folder)
        reader = EventAccumulator(folder, size_guidance={"scalars": 0, "images": 0})
        reader.Reload()
        check_curves(reader)
        check_pictures(reader)
        check_plugins(folder)
    print("TensorBoard's reader finds every curve, picture and text")


if __name__ == "__main__":
    pypi.run(check, __file__, PACKAGES, IMPORTS)
