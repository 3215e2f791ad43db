"""Pictures as the model sees them: decoding and transforms, equal to Pillow's and torchvision's numbers.

    transform = dm2.data.TrainingTransform(224, seed=0)
    folder = dm2.data.Folder("imagenet/train", transform)
    loader = torch.utils.data.DataLoader(folder, batch_size=64, shuffle=True, num_workers=8)
    for epoch in range(300):
        folder.set_epoch(epoch)          # before the loader starts its workers
        for pictures, classes in loader: ...

What a training picture looks like depends on (seed, epoch, index) alone, never on the worker that makes it.
"""

from __future__ import annotations

import os
from typing import Any, Callable, List, Optional, Sequence, Tuple, Union

import numpy as np

from . import _arrays, _dm2

Size = Union[int, Sequence[int]]


def _extent(size: Size) -> Tuple[int, int]:
    """Height and width."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def decode(picture: Any) -> np.ndarray:
    """The pixels [height, width, 3], bytes, of a path, of a JPEG's or PNG's bytes, or of a PIL picture."""
    return _dm2.decode(_arrays.picture(picture))


class EvaluationTransform:
    """What evaluation does to a picture: resize, crop at the centre, normalise with ImageNet's statistics.

    size: pixels a side, or height and width. resize: what the picture is resized to cover before it is cropped, 8/7 of
    the size where it is left out (224: 256). Called with a path, a file's bytes, a PIL picture or pixels, it gives
    float32 [3, height, width].
    """

    def __init__(self, size: Size = 224, resize: Optional[Size] = None) -> None:
        self.size = _extent(size)
        self.resize = (self.size[0] * 8 // 7, self.size[1] * 8 // 7) if resize is None else _extent(resize)

    def __repr__(self) -> str:
        return f"EvaluationTransform({self.size}, resize={self.resize})"

    def pixels(self, picture: Any) -> np.ndarray:
        """The same before it is normalised: bytes [height, width, 3]."""
        return _dm2.evaluation_pixels(_arrays.picture(picture), self.size, self.resize)

    def __call__(self, picture: Any) -> np.ndarray:
        return _dm2.normalised(self.pixels(picture))


class TrainingTransform:
    """The recipe's random change of a training picture: flip, RandAugment, crop, normalise, erase.

    The arguments are the flags of `dm2 train`: auto_augment (timm's text, or "none"), hflip, scale, ratio, reprob,
    re_area, re_ratio. Called with a picture (as EvaluationTransform), its index in the set and the epoch, it gives
    float32 [3, height, width]: the very numbers that dm2.train computes with, for the same seed.
    """

    def __init__(
        self,
        size: Size = 224,
        *,
        seed: int = 0,
        auto_augment: str = "rand-m9-mstd0.5-inc1",
        hflip: float = 0.5,
        scale: Tuple[float, float] = (0.08, 1.0),
        ratio: Tuple[float, float] = (3 / 4, 4 / 3),
        reprob: float = 0.25,
        re_area: Tuple[float, float] = (0.02, 1 / 3),
        re_ratio: Tuple[float, float] = (0.3, 3.3),
    ) -> None:
        self._arguments = (_extent(size), seed, auto_augment, hflip, scale, ratio, reprob, re_area, re_ratio)
        self._native = _dm2.TrainingChange(*self._arguments)

    def __getstate__(self) -> Tuple[Any, ...]:  # a DataLoader sends it to its workers
        return self._arguments

    def __setstate__(self, arguments: Tuple[Any, ...]) -> None:
        self._arguments = arguments
        self._native = _dm2.TrainingChange(*arguments)

    def __call__(self, picture: Any, index: int, epoch: int = 0) -> np.ndarray:
        return self.with_crop(picture, index, epoch)[0]

    def with_crop(
        self, picture: Any, index: int, epoch: int = 0
    ) -> Tuple[np.ndarray, Tuple[float, float, float, float]]:
        """The same, and the crop as fractions of the picture: top, left, height, width."""
        return self._native.apply(_arrays.picture(picture), index, epoch)


class Folder:
    """Pictures in class folders, ROOT/CLASS/NAME.jpg, as a map-style data set for torch.utils.data.DataLoader.

    An item is (float32 [3, height, width], class). order: "natural" (class2 before class10, as dm2.train numbers them)
    or "plain" (as torchvision does).
    """

    def __init__(
        self,
        root: Union[str, "os.PathLike[str]"],
        transform: Union[TrainingTransform, Callable[[Any], Any], None] = None,
        order: str = "natural",
    ) -> None:
        if order not in ("natural", "plain"):
            raise ValueError(f"order is '{order}', expected natural or plain")
        self.classes: List[str]
        self.samples: List[Tuple[str, int]]
        self.classes, self.samples = _dm2.list_folder(os.fspath(root), order == "natural")
        if not os.path.exists(self.samples[0][0]):
            raise ValueError(
                f"{os.fspath(root)} is a packed set, which dm2.train reads; Folder reads folders of classes"
            )
        self.transform = EvaluationTransform() if transform is None else transform
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that a TrainingTransform draws for."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tuple[Any, int]:
        path, label = self.samples[index]
        if isinstance(self.transform, TrainingTransform):
            return self.transform(path, index, self.epoch), label
        return self.transform(path), label
