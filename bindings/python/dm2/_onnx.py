"""A model as an ONNX file."""

from __future__ import annotations

import os
from typing import Union

from . import _dm2
from ._model import Model, PathLike, load


def export_onnx(
    model: Union[Model, PathLike],
    path: PathLike,
    *,
    input: str = "normalised",
    half: bool = False,
    features: bool = False,
    patches: bool = False,
    external_data: bool = False,
    chunk: int = 0,
) -> None:
    """Writes a model, or that of a file, as an ONNX file: what `dm2 export` writes, of the model's weights as they are.

    The input is called pixel_values, of any batch. input: "normalised", float [batch, 3, height, width]; "unit", the
    same from 0 to 1; "bytes", uint8 [batch, height, width, 3]. The output is logits; features and patches are further
    ones. half: weights and most of the computation in half precision. external_data: weights in PATH.data. chunk:
    tokens of a scan's chunk, 0: what costs least.

    Raises ValueError for an argument that makes no sense, FileNotFoundError or RuntimeError where the file cannot be
    written.
    """
    if not hasattr(_dm2.Model, "export_onnx"):
        raise RuntimeError("this dm2 was built without dm2/io/onnx")
    model = model if isinstance(model, Model) else load(model, device="cpu")
    model._native.export_onnx(os.fspath(path), input, half, features, patches, external_data, chunk)
