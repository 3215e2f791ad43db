"""Arrays and pictures of other packages, as the compiled part takes them."""

from __future__ import annotations

import os
import sys
from typing import Any, List, Optional, Tuple, Union

import numpy as np


def is_tensor(x: Any) -> bool:
    """Whether x is a PyTorch tensor; PyTorch is not imported for that."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_picture_file(x: Any) -> bool:
    """Whether x is a PIL picture; Pillow is not imported for that."""
    image = sys.modules.get("PIL.Image")
    return image is not None and isinstance(x, image.Image)


def host_array(x: Any) -> Any:
    """x for the compiled part: a NumPy array, or a tensor on the host, without copying numbers that lie well."""
    if is_tensor(x):
        x = x.detach()
        return (x if x.device.type == "cpu" else x.cpu()).contiguous()
    return np.asarray(x, order="C")  # ascontiguousarray would make a list of a scalar


def is_on_gpu(x: Any, index: Optional[int]) -> bool:
    """Whether x is a PyTorch tensor on the CUDA device of that number."""
    return index is not None and is_tensor(x) and x.device.type == "cuda" and x.device.index == index


def like(array: np.ndarray, x: Any) -> Any:
    """A result as what the input was: a tensor on its device for a tensor, else the array. The host's is no copy."""
    if not is_tensor(x):
        return array
    import torch

    return torch.from_numpy(array).to(x.device)


def picture(x: Any) -> Union[str, bytes, np.ndarray]:
    """One picture for the compiled part: a path, a JPEG's or PNG's bytes, or pixels [height, width, 3]."""
    if isinstance(x, (str, os.PathLike)):
        return os.fspath(x) if isinstance(os.fspath(x), str) else os.fsdecode(x)
    if isinstance(x, (bytes, bytearray, memoryview)):
        return bytes(x)
    if is_picture_file(x):
        return np.ascontiguousarray(x.convert("RGB"))
    pixels = host_array(x)
    pixels = pixels if isinstance(pixels, np.ndarray) else pixels.numpy()
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise TypeError(
            "a picture is a path, a file's bytes, a PIL picture, or an array [height, width, 3] of bytes; "
            f"this is an array {list(pixels.shape)} of {pixels.dtype}"
        )
    return pixels


def is_one_picture(x: Any) -> bool:
    """Whether x is a picture and not several."""
    return isinstance(x, (str, os.PathLike, bytes, bytearray, memoryview)) or is_picture_file(x)


def is_floating(x: Any) -> bool:
    """Whether x is an array or tensor of floating numbers: a normalised batch."""
    if is_tensor(x):
        return bool(x.is_floating_point())
    return isinstance(x, np.ndarray) and np.issubdtype(x.dtype, np.floating)


def pictures(x: Any) -> Tuple[List[Union[str, bytes, np.ndarray]], bool]:
    """The pictures of an argument, and whether it is one by itself."""
    if is_one_picture(x):
        return [picture(x)], True
    if is_tensor(x) or isinstance(x, np.ndarray):
        if x.ndim == 3:
            return [picture(x)], True
        if x.ndim != 4:
            raise TypeError(
                f"pictures of bytes are [height, width, 3] or [batch, height, width, 3], not {list(x.shape)}"
            )
    return [picture(one) for one in x], False
