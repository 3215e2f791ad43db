"""A model as an ONNX file, and as a folder for model hubs."""

from __future__ import annotations

import os
from typing import Union

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
    choice = (input, half, features, patches, external_data, chunk)
    _opened(model)._native.export_onnx(os.fspath(path), choice)


def export_hub(
    model: Union[Model, PathLike],
    folder: PathLike,
    *,
    input: str = "normalised",
    half: bool = False,
    features: bool = False,
    patches: bool = False,
    external_data: bool = False,
    chunk: int = 0,
) -> None:
    """Writes a model, or that of a file, as a folder for model hubs: what `dm2 export --hub` writes.

    That is model.safetensors, onnx/model.onnx (of the arguments of export_onnx), config.json and README.md, a model
    card; one that is there is kept. Raises as export_onnx.
    """
    choice = (input, half, features, patches, external_data, chunk)
    _opened(model)._native.export_hub(os.fspath(folder), choice)


def _opened(model: Union[Model, PathLike]) -> Model:
    """The model, or that of a file."""
    model = model if isinstance(model, Model) else load(model, device="cpu")
    model._settle()
    return model
