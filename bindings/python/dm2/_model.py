"""A model for inference: dm2.load, dm2.create and what they give."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from . import _arrays, _dm2

PathLike = Union[str, "os.PathLike[str]"]


class Prediction(NamedTuple):
    """A class and how likely the model holds it."""

    index: int  # type: ignore[assignment]  # in the place of a tuple's method
    """The class's number."""
    name: str
    """Its name; the number as a text where the model has no names."""
    probability: float
    """Softmax over all classes."""


class Model:
    """A DeMansia 2 with its weights. dm2.load and dm2.create make it.

    Calls release the interpreter's lock while they compute. One model computes for one thread at a time (others wait);
    several models on several threads do not disturb each other.
    """

    def __init__(self, native: "_dm2.Model") -> None:
        self._native = native
        self._classes = int(json.loads(native.configuration)["classes"])
        self._given_out = False

    def __repr__(self) -> str:
        return f"<dm2.Model {self._native.name} on {self.device}, {self.precision}>"

    @property
    def config(self) -> Dict[str, Any]:
        """The configuration: image, patch, depth, dim, classes and the others, under their names in a checkpoint."""
        return dict(json.loads(self._native.configuration))

    @property
    def name(self) -> str:
        """The preset's name and what differs: "tiny with classes 37"."""
        return self._native.name

    @property
    def device(self) -> str:
        """Where it computes: "cpu" or "cuda"."""
        return self._native.device

    @property
    def precision(self) -> str:
        """The numbers that it computes in: "fp32" on a CPU; "bf16", "fp16", "fp32" or "tf32" on a GPU."""
        return self._native.precision

    @property
    def notices(self) -> List[str]:
        """What was assumed of the file, left out or not understood, a line each."""
        return list(self._native.notices)

    @property
    def class_names(self) -> List[str]:
        """A name for each class, or none at all. May be assigned."""
        return list(self._native.class_names)

    @class_names.setter
    def class_names(self, names: Sequence[str]) -> None:
        self._native.class_names = list(names)

    def __call__(self, images: Any) -> Any:
        """Logits [batch, classes].

        images: an array or tensor [batch, channels, height, width] of normalised float32 numbers, of the model's size
        (dm2.data.EvaluationTransform makes them); or pictures of any size, which get the evaluation transform: a path,
        a JPEG's or PNG's bytes, a PIL picture, an array [height, width, 3] of bytes, or a list of such.

        The result is a tensor for a tensor, else an array. Numbers on the host are read where they lie, and a tensor's
        result shares the array's memory. Normalised numbers of a tensor on the model's GPU are read there, and the
        logits written, in the order of PyTorch's present stream; other tensors on a GPU go through the host. Such a call
        is a CUDA graph already, and cannot be captured in another.
        """
        if _arrays.is_floating(images):
            return self._forward(images, _dm2.Wanted.logits)
        sources, _ = _arrays.pictures(images)
        self._settle()
        return _arrays.like(self._native.picture_logits(sources), images)

    def forward_features(self, images: Any) -> Any:
        """What the heads read, [batch, patches + 1, dim]: every token after the last norm. images: as for a call."""
        return self._forward(self._input(images), _dm2.Wanted.features)

    def forward_patches(self, images: Any) -> Tuple[Any, Any]:
        """The class token's logits [batch, classes], and each patch's [batch, rows, columns, classes]."""
        return self._forward(self._input(images), _dm2.Wanted.patches)

    def classify(self, images: Any, top: int = 5) -> List[List[Prediction]]:
        """The `top` best classes of each picture, best first. images: as for a call; one picture is a list of one."""
        logits = _arrays.host_array(self(images))
        names = self._native.class_names
        return [
            [Prediction(index, names[index] if names else str(index), probability) for index, probability in row]
            for row in _dm2.best(logits, top)
        ]

    def named_parameters(self) -> Iterator[Tuple[str, np.ndarray]]:
        """Name and values of each trained parameter, in the published order.

        The arrays are the model's own memory: what is written to them counts from the next call on.
        """
        self._given_out = True
        for name, array, kind in self._native.entries():
            if kind == "parameter":
                yield name, array

    def state_dict(self, *, torch: bool = False) -> Dict[str, Any]:
        """Copies of all parameters, running statistics and step counts under the published PyTorch code's names.

        torch: as tensors, for a module's load_state_dict; else as arrays.
        """
        state: Dict[str, Any] = {name: array.copy() for name, array, _ in self._native.entries()}
        if torch:
            import torch as package

            return {name: package.from_numpy(array) for name, array in state.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a state_dict, of arrays or of tensors, all of it or none.

        Raises ValueError naming every entry that is missing, that the model has not, or of another shape; the model is
        unchanged then.
        """
        entries = self._native.entries()
        known = {name for name, _, _ in entries}
        problems = [f"'{name}' is not of this model" for name in state if name not in known]
        values: List[Tuple[np.ndarray, np.ndarray]] = []
        for name, array, _ in entries:
            if name not in state:
                problems.append(f"'{name}' is missing")
                continue
            value = _arrays.host_array(state[name])
            value = value if isinstance(value, np.ndarray) else _as_numpy(value)
            if value.shape != array.shape:
                problems.append(f"'{name}' is {list(value.shape)}, expected {list(array.shape)}")
            elif not np.issubdtype(value.dtype, np.number):
                problems.append(f"'{name}' is of {value.dtype}, expected numbers")
            values.append((array, value))
        if problems:
            more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
            raise ValueError("load_state_dict: " + "; ".join(problems[:10]) + more)
        for array, value in values:
            array[...] = value
        self._native.weights_changed()

    def save(self, path: PathLike, metadata: Optional[Mapping[str, str]] = None) -> None:
        """Writes weights, configuration and class names to a safetensors file, whole or not at all."""
        self._native.save(os.fspath(path), dict(metadata or {}))

    def _settle(self) -> None:
        """Weights may have been written to through named_parameters."""
        if self._given_out:
            self._native.weights_changed()

    def _forward(self, images: Any, what: "_dm2.Wanted") -> Any:
        self._settle()
        if what == _dm2.Wanted.logits and _arrays.is_on_gpu(images, self._native.device_index):
            return self._forward_device(images)
        array = _arrays.host_array(images)
        if str(array.dtype) not in ("float32", "torch.float32"):
            raise TypeError(f"normalised pictures are float32, these are {array.dtype}")
        if array.ndim == 3:
            array = array[None]
        result = self._native.forward(array, what)
        if isinstance(result, tuple):
            return tuple(_arrays.like(one, images) for one in result)
        return _arrays.like(result, images)

    def _forward_device(self, images: Any) -> Any:
        """Logits of a tensor on the model's GPU, without a copy."""
        import torch

        if images.dtype != torch.float32:
            raise TypeError(f"normalised pictures are float32, these are {images.dtype}")
        images = images.detach().contiguous()
        images = images[None] if images.ndim == 3 else images
        if images.data_ptr() % 16 != 0:  # a part of another tensor; kernels read 16 bytes at a time
            images = images.clone()
        logits = torch.empty((images.shape[0], self._classes), dtype=torch.float32, device=images.device)
        with torch.cuda.device(images.device):
            if torch.cuda.is_current_stream_capturing():
                raise RuntimeError("a model's call cannot be captured in a CUDA graph: it is one already")
            stream = torch.cuda.current_stream(images.device).cuda_stream
            self._native.forward_device(images, logits, stream)
        return logits

    def _input(self, images: Any) -> Any:
        """The normalised form of what a call takes."""
        if _arrays.is_floating(images):
            return images
        from .data import EvaluationTransform

        transform = EvaluationTransform(self.config["image"])
        sources, _ = _arrays.pictures(images)
        return _arrays.like(np.stack([transform(one) for one in sources]), images)


def _as_numpy(tensor: Any) -> np.ndarray:
    """A host tensor as an array; bfloat16, which NumPy has not, as float32."""
    import torch

    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _fields(fields: Mapping[str, Any]) -> str:
    """Fields of a configuration as JSON; one number for image is a square."""
    out = dict(fields)
    if isinstance(out.get("image"), int):
        out["image"] = [out["image"]] * 2
    return json.dumps(out)


def load(
    path: PathLike,
    *,
    device: str = "auto",
    precision: str = "",
    weights: str = "auto",
    class_names: Optional[Sequence[str]] = None,
    model: str = "",
    threads: int = 0,
    batch: int = 0,
    **fields: Any,
) -> Model:
    """The model in a file: a Lightning .ckpt, a torch .pt or .pth, or safetensors.

    device: "cuda", "cpu", or "auto": a GPU where there is one that works. precision: of a GPU, "bf16", "fp16", "fp32"
    or "tf32". weights: of a checkpoint, "ema", "raw", or "auto": the averages where it has any. class_names: in the
    place of the file's. threads: that compute on a CPU, 0: one a processor. batch: pictures computed at once (8; 64 on
    a GPU). model and fields (image=384, eps=1e-6 ...) say what the file does not tell.

    The code of a configuration that is not compiled in is compiled by the C++ compiler that dm2 was built with, once,
    and kept in ~/.cache/dm2: half a minute.

    Raises FileNotFoundError where there is no such file, RuntimeError where it holds no DeMansia 2 or is damaged, or
    where no compiler is found that is needed, ValueError for an argument that makes no sense.
    """
    native = _dm2.Model.load(os.fspath(path), model, _fields(fields), weights, device, precision, threads, batch)
    out = Model(native)
    if class_names is not None:
        out.class_names = class_names
    return out


def create(
    model: str = "tiny",
    *,
    seed: int = 0,
    device: str = "auto",
    precision: str = "",
    threads: int = 0,
    batch: int = 0,
    **fields: Any,
) -> Model:
    """A model with the random weights that a training of that seed begins with.

    model: "tiny", "small", another preset, or a .toml or .json file of fields. fields (classes=37, image=384 ...) lie
    over it. The others are as of load.
    """
    return Model(_dm2.Model.create(model, _fields(fields), seed, device, precision, threads, batch))
