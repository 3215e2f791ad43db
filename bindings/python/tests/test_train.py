"""dm2.train: a run, its resumption to the same bytes, errors."""

import dm2
import numpy as np
import pytest
from conftest import run_python

FLAGS = dict(
    model="micro",
    image=32,
    batch_size=12,
    grad_accum_steps=1,
    epochs=3,
    warmup_epochs=1,
    lr=1e-3,
    workers=1,
    threads=1,
    device="cpu",
    image_interval=0,
)


def test_a_run_and_its_resumption_end_in_the_same_bytes(shapes, tmp_path):
    whole = dm2.train(shapes, output=tmp_path, experiment="whole", **FLAGS)
    assert whole.folder == tmp_path / "whole" and len(whole.epochs) == 3
    assert all(np.isfinite(list(row.values())[0]) for row in whole.epochs)
    first = dm2.train(shapes, output=tmp_path, experiment="parts", stop_after=1, **FLAGS)
    assert len(first.epochs) == 1
    parts = dm2.train(
        shapes, output=tmp_path, experiment="parts", resume="auto", workers=1, threads=1, device="cpu", image_interval=0
    )
    assert parts.last.read_bytes() == whole.last.read_bytes()
    model = dm2.load(whole.best, device="cpu")
    assert model.class_names == ["disc", "square", "stripes"] and model.config["classes"] == 3
    (best,) = model.classify(shapes / "val" / "disc" / "0.png", top=3)
    assert sum(one.probability for one in best) == pytest.approx(1, abs=1e-5)


def test_flags_and_data_that_make_no_sense_are_refused(shapes, tmp_path):
    flags = {**FLAGS, "output": tmp_path}
    with pytest.raises(ValueError, match="no_such_flag|no-such-flag"):
        dm2.train(shapes, no_such_flag=3, **flags)
    with pytest.raises(ValueError, match="batch-size"):
        dm2.train(shapes, **{**flags, "batch_size": 1000})
    with pytest.raises(ValueError, match="no pictures: give DIR"):
        dm2.train(**flags)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        dm2.train(shapes / "nowhere", **flags)
    with pytest.raises(ValueError, match="start the program dm2 anew"):
        dm2.train(shapes, processes=2, **flags)
    with pytest.raises(ValueError, match="classes"):
        dm2.train(shapes, num_classes=7, **flags)


def test_an_interrupt_ends_a_run_with_a_checkpoint(shapes, tmp_path):
    text = """
import os, signal, sys, threading, time
import dm2
steps = os.path.join(sys.argv[2], "run", "steps.csv")
before = signal.getsignal(signal.SIGINT)
def interrupt():
    while not os.path.exists(steps) or len(open(steps).readlines()) < 3:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
try:
    dm2.train(sys.argv[1], output=sys.argv[2], experiment="run", model="micro", image=32, batch_size=4,
              grad_accum_steps=1, epochs=100000, workers=1, threads=1, device="cpu", log_interval=1, image_interval=0)
except KeyboardInterrupt as told:
    print("interrupted:", told)
assert signal.getsignal(signal.SIGINT) is before
"""
    done = run_python(text, shapes, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "interrupted: stopped after a step" in done.stdout
    assert (tmp_path / "run" / "last.safetensors").exists()
