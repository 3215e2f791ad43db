"""DeMansia 2, a bidirectional Mamba-2 vision classifier.

    import dm2
    model = dm2.load("model.safetensors")
    for best in model.classify("photo.jpg")[0]:
        print(best.name, best.probability)

dm2.data has the exact transforms, dm2.train the training recipe, dm2.torch the mixer as PyTorch operators.
"""

from . import data
from ._dm2 import cuda_problem
from ._dm2 import version as __version__
from ._model import Model, Prediction, create, load
from ._onnx import export_hub, export_onnx
from ._train import TrainingResult, train

__all__ = [
    "Model",
    "Prediction",
    "TrainingResult",
    "__version__",
    "create",
    "cuda_problem",
    "data",
    "export_hub",
    "export_onnx",
    "load",
    "train",
]
