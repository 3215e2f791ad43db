"""Training: the recipe of `dm2 train` as a call."""

from __future__ import annotations

import csv
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from . import _dm2

PathLike = Union[str, "os.PathLike[str]"]

# A configuration's fields whose flags have other names.
_fields = {"image": "--img-size", "channels": "--in-chans", "classes": "--num-classes"}
_stopped, _diverged, _incomplete = 5, 4, 1


@dataclass(frozen=True)
class TrainingResult:
    """What a training left."""

    folder: Path
    """The run's: checkpoints, steps.csv, epochs.csv and TensorBoard's events."""

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "last.safetensors"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.folder / "best.safetensors"

    @property
    def epochs(self) -> List[Dict[str, float]]:
        """A row of epochs.csv each: losses, accuracies, learning rate."""
        with open(self.folder / "epochs.csv", newline="") as file:
            return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _number(text: Optional[str]) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _words(flags: Dict[str, Any]) -> List[str]:
    """Keyword arguments as the program's flags: batch_size=32 is --batch-size 32, mix_token=False --no-mix-token."""
    words: List[str] = []
    for name, value in flags.items():
        flag = _fields.get(name, "--" + name.replace("_", "-"))
        if value is None:
            continue
        if isinstance(value, bool):
            if value:
                words.append(flag)
            elif name in ("mix_token", "model_ema"):
                words.append("--no-" + flag[2:])
        elif name in ("img_size", "image") and isinstance(value, (list, tuple)):
            words += [flag, "x".join(str(side) for side in value)]
        elif name == "attn_layers" and isinstance(value, (list, tuple)):
            words += [flag, ",".join(str(layer) for layer in value) or "none"]
        elif isinstance(value, (list, tuple)):
            words += [flag, *(_text(one) for one in value)]
        else:
            words += [flag, _text(value)]
    return words


def _text(value: Any) -> str:
    return (
        os.fspath(value) if isinstance(value, os.PathLike) else repr(value) if isinstance(value, float) else str(value)
    )


def train(
    data: Optional[PathLike] = None,
    *,
    model: str = "",
    output: PathLike = "runs",
    experiment: str = "",
    **flags: Any,
) -> TrainingResult:
    """Trains a model from folders of pictures, data/train/CLASS/... and data/val/CLASS/..., with the published recipe.

    Keyword arguments are the flags of `dm2 train`, with _ for -: batch_size, grad_accum_steps, epochs, lr, opt,
    num_classes, img_size, token_label_data, initial_checkpoint, resume="auto", overwrite=True, seed, workers, threads,
    device, stop_after and all others that `dm2 train --help` lists. True is a flag by itself; False leaves it out, and
    turns off mix_token and model_ema; None is as if it was not given. The same flags, seed and number of threads give
    the same bytes as the program.

    Ctrl-C ends the run after the present step, with a checkpoint, and raises KeyboardInterrupt.

    Raises ValueError for flags that make no sense, FileNotFoundError and RuntimeError for data, RuntimeError where the
    training diverged. Several processes: start Python by mpirun or srun.
    """
    words = [] if data is None else [os.fspath(data)]
    words += _words({"model": model or None, "output": output, "experiment": experiment or None, **flags})
    for stream in (sys.stdout, sys.stderr):  # what was printed before comes before the run's lines, in a pipe too
        if stream is not None:
            stream.flush()
    code = _dm2.train(words)
    start = flags.get("initial_checkpoint") or flags.get("pretrained")
    name = experiment or (Path(model).stem if model else Path(start).stem if start else "tiny")
    result = TrainingResult(Path(output) / name)
    if code == _diverged:
        raise RuntimeError("training diverged: a loss or gradient is not finite; the checkpoints are from before")
    if code == _incomplete:
        raise RuntimeError("check found something wrong with the pictures or label maps; nothing was trained")
    if code == _stopped:
        raise KeyboardInterrupt("stopped after a step, with a checkpoint in " + str(result.folder))
    return result
