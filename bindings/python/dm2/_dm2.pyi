"""The compiled part of dm2; the package's modules wrap it."""

from enum import Enum
from typing import Any, Dict, List, Sequence, Tuple, Union

import numpy as np

Picture = Union[str, bytes, np.ndarray]
Pair = Tuple[float, float]

version: str

class Wanted(Enum):
    logits = 0
    features = 1
    patches = 2

class Model:
    @staticmethod
    def load(
        path: str, model: str, fields: str, weights: str, device: str, precision: str, threads: int, batch: int
    ) -> "Model": ...
    @staticmethod
    def create(
        model: str, fields: str, seed: int, device: str, precision: str, threads: int, batch: int
    ) -> "Model": ...
    @property
    def configuration(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def notices(self) -> List[str]: ...
    class_names: List[str]
    def forward(self, pictures: Any, what: Wanted) -> Any: ...
    def picture_logits(self, pictures: List[Picture]) -> np.ndarray: ...
    def entries(self) -> List[Tuple[str, np.ndarray, str]]: ...
    def weights_changed(self) -> None: ...
    def save(self, path: str, metadata: Dict[str, str]) -> None: ...
    def export_onnx(
        self, path: str, input: str, half: bool, features: bool, patches: bool, external_data: bool, chunk: int
    ) -> None: ...

class TrainingChange:
    def __init__(
        self,
        size: Tuple[int, int],
        seed: int,
        auto_augment: str,
        hflip: float,
        scale: Pair,
        ratio: Pair,
        reprob: float,
        re_area: Pair,
        re_ratio: Pair,
    ) -> None: ...
    def apply(
        self, picture: Picture, index: int, epoch: int
    ) -> Tuple[np.ndarray, Tuple[float, float, float, float]]: ...

class Operation:
    def __init__(
        self,
        what: str,
        heads: int,
        headdim: int,
        d_state: int,
        groups: int,
        d_conv: int,
        variant: str,
        device: str,
        type: str,
        threads: int,
    ) -> None: ...
    def call(
        self, backward: bool, reads: Sequence[int], writes: Sequence[int], rows: int, length: int, stream: int
    ) -> None: ...

def cuda_problem() -> str: ...
def decode(picture: Picture) -> np.ndarray: ...
def evaluation_pixels(picture: Picture, crop: Tuple[int, int], resize: Tuple[int, int]) -> np.ndarray: ...
def normalised(pixels: np.ndarray) -> np.ndarray: ...
def list_folder(root: str, natural: bool) -> Tuple[List[str], List[Tuple[str, int]]]: ...
def best(logits: Any, k: int) -> List[List[Tuple[int, float]]]: ...
def address(array: Any) -> int: ...
def train(words: List[str]) -> int: ...
