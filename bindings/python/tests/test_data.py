"""dm2.data: Pillow's and torchvision's bytes, and randomness that depends on (seed, epoch, index) alone."""

import pickle

import dm2
import numpy as np
import pytest
from conftest import GOLDEN

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def pictures_of(golden):
    arrays, _ = golden("images/images.safetensors")
    return arrays, sorted({name.split("/")[0] for name in arrays})


def test_pictures_decode_to_pillows_bytes(golden):
    arrays, names = pictures_of(golden)
    compared = 0
    for name in names:
        if f"{name}/rgb" in arrays:
            np.testing.assert_array_equal(dm2.data.decode(GOLDEN / "images" / name), arrays[f"{name}/rgb"], name)
            compared += 1
    assert compared >= 8


def test_the_evaluation_transform_is_torchvisions(golden):
    arrays, names = pictures_of(golden)
    transform, compared = dm2.data.EvaluationTransform(224), 0
    assert transform.resize == (256, 256)
    for name in names:
        if f"{name}/eval_224" not in arrays:
            continue
        want = arrays[f"{name}/eval_224"]
        np.testing.assert_array_equal(transform.pixels(GOLDEN / "images" / name), want, name)
        normal = (want.astype(np.float32) / np.float32(255) - MEAN) / STD
        np.testing.assert_array_equal(transform(GOLDEN / "images" / name), normal.transpose(2, 0, 1), name)
        compared += 1
    assert compared >= 8


def test_a_picture_of_pil_is_the_same_as_its_file():
    image = pytest.importorskip("PIL.Image")
    transform = dm2.data.TrainingTransform(64, seed=3)
    for name in ("photo.jpg", "palette.png", "alpha.png", "gray.jpg"):
        path = GOLDEN / "images" / name
        with image.open(path) as opened:
            np.testing.assert_array_equal(transform(opened, 5), transform(path, 5), name)


def test_a_training_picture_depends_on_seed_epoch_and_index_alone():
    path = GOLDEN / "images" / "photo.jpg"
    transform = dm2.data.TrainingTransform((96, 64), seed=7)
    first = transform(path, 3, 2)
    assert first.shape == (3, 96, 64) and first.dtype == np.float32 and np.isfinite(first).all()
    transform(path, 4, 2)
    np.testing.assert_array_equal(transform(path, 3, 2), first)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(transform))(path, 3, 2), first)
    for other in (
        transform(path, 4, 2),
        transform(path, 3, 1),
        dm2.data.TrainingTransform((96, 64), seed=8)(path, 3, 2),
    ):
        assert not np.array_equal(other, first)


def test_without_chance_the_training_transform_is_a_plain_crop():
    path = GOLDEN / "images" / "photo.jpg"
    still = dict(auto_augment="none", hflip=0.0, reprob=0.0)
    transform = dm2.data.TrainingTransform(64, **still)
    seen = set()
    for index in range(8):
        got, (top, left, height, width) = transform.with_crop(path, index)
        assert 0 <= top <= 1 and 0 <= left and top + height <= 1 + 1e-9 and left + width <= 1 + 1e-9
        assert 0.07 < height * width <= 1
        seen.add((top, left, height, width))
        pixels = np.rint((got.transpose(1, 2, 0) * STD + MEAN) * 255)
        np.testing.assert_allclose(got.transpose(1, 2, 0), (pixels / 255 - MEAN) / STD, atol=1e-5)  # bytes, normalised
    assert len(seen) == 8
    mirrored = dm2.data.TrainingTransform(
        64, auto_augment="none", hflip=1.0, reprob=0.0, scale=(1, 1), ratio=(4 / 3, 4 / 3)
    )
    upright = dm2.data.TrainingTransform(
        64, auto_augment="none", hflip=0.0, reprob=0.0, scale=(1, 1), ratio=(4 / 3, 4 / 3)
    )
    np.testing.assert_allclose(mirrored(path, 0)[..., ::-1], upright(path, 0), atol=0.02)


def test_bad_pictures_and_settings_are_refused():
    transform = dm2.data.TrainingTransform(64)
    with pytest.raises(RuntimeError, match="bad_bomb.png"):
        transform(GOLDEN / "images" / "bad_bomb.png", 0)
    with pytest.raises(RuntimeError, match="<bytes>: is neither a JPEG nor a PNG"):
        transform(b"not a picture", 0)
    with pytest.raises(FileNotFoundError, match="nowhere.jpg"):
        dm2.data.decode(GOLDEN / "nowhere.jpg")
    with pytest.raises(ValueError, match="flip"):
        dm2.data.TrainingTransform(64, hflip=2.0)
    with pytest.raises(ValueError, match="unknown key"):
        dm2.data.TrainingTransform(64, auto_augment="rand-m9-q3")
    with pytest.raises(ValueError):
        dm2.data.EvaluationTransform(0)(GOLDEN / "images" / "photo.jpg")


def test_a_folder_numbers_classes_and_draws_by_epoch(shapes):
    folder = dm2.data.Folder(shapes / "train", dm2.data.TrainingTransform(32, seed=1))
    assert folder.classes == ["disc", "square", "stripes"] and len(folder) == 36
    assert [label for _, label in folder.samples] == [0] * 12 + [1] * 12 + [2] * 12
    first, label = folder[20]
    assert label == 1 and first.shape == (3, 32, 32)
    folder.set_epoch(1)
    assert not np.array_equal(folder[20][0], first)
    folder.set_epoch(0)
    np.testing.assert_array_equal(folder[20][0], first)
    with pytest.raises(FileNotFoundError):
        dm2.data.Folder(shapes / "nowhere")


def test_a_data_loader_gives_the_same_with_any_number_of_workers(shapes):
    torch = pytest.importorskip("torch")
    folder = dm2.data.Folder(shapes / "train", dm2.data.TrainingTransform(32, seed=1))
    batches = [list(torch.utils.data.DataLoader(folder, batch_size=5, num_workers=workers)) for workers in (0, 2)]
    assert len(batches[0]) == 8
    for (a, la), (b, lb) in zip(*batches):
        assert torch.equal(a, b) and torch.equal(la, lb)
