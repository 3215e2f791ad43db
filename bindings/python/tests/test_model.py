"""dm2.Model: numbers of the published PyTorch code, weights both ways, arrays without copies, errors, threads."""

import threading
import time

import dm2
import numpy as np
import pytest
from conftest import GOLDEN, distance, read_safetensors

from dm2 import _dm2


@pytest.mark.parametrize("which, name", [("ema", "epoch=0-step=2-EMA.ckpt"), ("raw", "epoch=0-step=2.ckpt")])
def test_a_published_checkpoint_gives_the_published_logits(golden, which, name):
    arrays, _ = golden("lightning/logits.safetensors")
    model = dm2.load(GOLDEN / "lightning" / name, device="cpu", weights="auto" if which == "ema" else "raw")
    wanted = [key for key in arrays if key != "image"]
    found = [key for key in wanted if distance(model(arrays["image"]), arrays[key]) < 2e-5]
    assert len(found) == 1, {key: distance(model(arrays["image"]), arrays[key]) for key in wanted}


def micro_of_golden(golden, file="model_micro.safetensors"):
    import json

    arrays, metadata = golden(file)
    config = json.loads(metadata["config"])
    model = dm2.create("micro", device="cpu", **config)
    state = {key[len("param/") :]: value for key, value in arrays.items() if key.startswith("param/")}
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, value)
    model.load_state_dict(state)
    return model, arrays, config


def test_logits_features_and_patches_are_the_references(golden):
    model, arrays, config = micro_of_golden(golden)
    assert model.config == config
    images = arrays["image"]
    assert distance(model(images), arrays["eval/logits"]) < 2e-5
    features = model.forward_features(images)
    assert features.shape == (4, 17, 32)
    assert distance(features, arrays["eval/features"]) < 2e-5
    cls, patches = model.forward_patches(images)
    assert patches.shape == (4, 4, 4, 10)
    assert distance(cls + patches.reshape(4, 16, 10).max(1) / 2, arrays["eval/logits"]) < 2e-5


def test_a_configuration_that_is_not_compiled_in_is_compiled(golden):
    model, arrays, _ = micro_of_golden(golden, "model_bidirectional.safetensors")
    assert distance(model(arrays["image"]), arrays["eval/logits"]) < 2e-5


def test_batches_of_any_size_give_each_picture_its_own_numbers(micro):
    images = np.random.default_rng(0).standard_normal((19, 3, 64, 64), np.float32)
    whole = micro(images)
    assert whole.shape == (19, 10) and np.isfinite(whole).all()
    for i in (0, 7, 8, 18):
        assert distance(micro(images[i : i + 1]), whole[i : i + 1]) < 1e-5
    assert micro(images[:0]).shape == (0, 10)


def test_state_dict_goes_out_and_back(micro):
    state = micro.state_dict()
    arrays, _ = read_safetensors(GOLDEN / "lightning" / "epoch=0-step=2-EMA.safetensors")
    assert set(state) == {name.removeprefix("model.") for name in arrays}
    for name, value in arrays.items():
        np.testing.assert_array_equal(state[name.removeprefix("model.")], value)
    other = dm2.create("micro", device="cpu", seed=5)
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
    assert distance(other(images), micro(images)) > 1e-3
    other.load_state_dict(state)
    np.testing.assert_array_equal(other(images), micro(images))


def test_a_state_that_does_not_fit_is_refused_whole(micro):
    before, state = micro.state_dict(), micro.state_dict()
    state["stranger"] = np.zeros(3)
    del state["cls_token"]
    state["head.weight"] = np.zeros((10, 31), np.float32)
    state["pos_embed"] = state["pos_embed"] + 1
    with pytest.raises(ValueError) as told:
        micro.load_state_dict(state)
    for part in (
        "'stranger' is not of this model",
        "'cls_token' is missing",
        "'head.weight' is [10, 31], expected [10, 32]",
    ):
        assert part in str(told.value)
    for name, value in micro.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_parameters_are_the_models_memory(checkpoint):
    model = dm2.load(checkpoint, device="cpu")
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
    before = model(images)
    parameters = dict(model.named_parameters())
    assert parameters["head.bias"].dtype == np.float32 and "patch_embed.bn1.running_mean" not in parameters
    again = dict(model.named_parameters())
    assert np.shares_memory(parameters["head.bias"], again["head.bias"])
    parameters["head.bias"][...] += 1
    assert distance(model(images), before + 1) < 1e-5
    kept = parameters["head.bias"]
    del model, parameters, again  # the array keeps the memory
    assert np.isfinite(kept).all()


def test_a_picture_is_the_same_as_path_bytes_pixels_and_pil(micro):
    image = pytest.importorskip("PIL.Image")
    path = GOLDEN / "images" / "photo.jpg"
    want = micro(path)
    assert want.shape == (1, 10)
    opened = image.open(path)
    forms = [str(path), path.read_bytes(), dm2.data.decode(path), opened]
    for one in forms:
        np.testing.assert_array_equal(micro(one), want)
    assert distance(micro(forms), np.repeat(want, 4, 0)) < 1e-6  # sums go by batches of another size
    transform = dm2.data.EvaluationTransform(64)
    np.testing.assert_array_equal(micro(transform(path)[None]), want)


def test_classify_names_and_orders_classes(micro):
    path = GOLDEN / "images" / "photo.jpg"
    logits = np.asarray(micro(path), np.float64)[0]
    softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    (best,) = micro.classify(path, top=3)
    assert [one.index for one in best] == list(np.argsort(-logits)[:3])
    np.testing.assert_allclose([one.probability for one in best], np.sort(softmax)[::-1][:3], rtol=1e-5)
    assert best[0].name == str(best[0].index)
    try:
        micro.class_names = [f"class {i}" for i in range(10)]
        assert micro.classify(path, top=1)[0][0].name == f"class {best[0].index}"
        with pytest.raises(ValueError, match="there are 3 class names, the model has 10 classes"):
            micro.class_names = ["a", "b", "c"]
    finally:
        micro.class_names = []


def test_save_and_load_keep_every_bit_and_the_names(micro, tmp_path):
    micro.class_names = [f"class {i}" for i in range(10)]
    try:
        micro.save(tmp_path / "model.safetensors", {"note": "mine"})
    finally:
        micro.class_names = []
    again = dm2.load(tmp_path / "model.safetensors", device="cpu")
    assert again.class_names[3] == "class 3" and again.config == micro.config
    for name, value in again.state_dict().items():
        np.testing.assert_array_equal(value, micro.state_dict()[name])
    with pytest.raises(ValueError, match="dm2's own"):
        micro.save(tmp_path / "other.safetensors", {"config": "{}"})
    assert not (tmp_path / "other.safetensors").exists()


def test_numbers_on_the_host_are_read_where_they_lie():
    a = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert _dm2.address(a) == a.ctypes.data
    torch = pytest.importorskip("torch")
    t = torch.arange(24, dtype=torch.float32)
    assert _dm2.address(t) == t.data_ptr()
    from dm2 import _arrays

    result = _arrays.like(a, t)
    assert result.data_ptr() == a.ctypes.data


def test_errors_are_pythons_with_the_programs_text(micro, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.ckpt"):
        dm2.load(tmp_path / "nowhere.ckpt")
    (tmp_path / "text.safetensors").write_text("no weights at all, but a text of some length")
    with pytest.raises(RuntimeError, match="text.safetensors"):
        dm2.load(tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match=r"pictures: got \[1, 3, 32, 32\], expected \[batch, 3, 64, 64\]"):
        micro(np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(TypeError, match="float64"):
        micro(np.zeros((1, 3, 64, 64)))
    with pytest.raises(ValueError, match="no field is called colour"):
        dm2.create("micro", colour=3)
    with pytest.raises(ValueError, match="is none of"):
        dm2.create("enormous")
    with pytest.raises(ValueError, match="device is 'cuda:0', expected auto, cpu or cuda"):
        dm2.create("micro", device="cuda:0")
    with pytest.raises(ValueError, match="weights is 'old'"):
        dm2.load(GOLDEN / "lightning" / "epoch=0-step=2.ckpt", weights="old")
    with pytest.raises(ValueError, match="k is 0"):
        micro.classify(np.zeros((1, 3, 64, 64), np.float32), top=0)
    with pytest.raises(RuntimeError, match="bad_truncated.jpg"):
        micro(GOLDEN / "images" / "bad_truncated.jpg")
    with pytest.raises(TypeError, match="a picture is a path"):
        micro([np.zeros((4, 4), np.uint8)])
    if dm2.cuda_problem():
        with pytest.raises(ValueError, match="--device cuda: "):
            dm2.create("micro", device="cuda")


def test_the_lock_is_released_while_a_model_computes(micro):
    images = np.random.default_rng(0).standard_normal((256, 3, 64, 64), np.float32)
    began, done, ticks = threading.Event(), threading.Event(), 0

    def compute():
        began.set()
        micro(images)
        done.set()

    thread = threading.Thread(target=compute)
    thread.start()
    began.wait()
    while not done.is_set():  # counts only if this thread runs while the other is inside
        ticks += 1
        time.sleep(0.0005)
    thread.join()
    assert ticks > 2


def test_two_models_on_two_threads_do_not_disturb_each_other(checkpoint):
    models = [dm2.load(checkpoint, device="cpu", threads=1) for _ in range(2)]
    images = [np.random.default_rng(i).standard_normal((16, 3, 64, 64), np.float32) for i in range(2)]
    want = [model(one) for model, one in zip(models, images)]
    assert distance(want[0], want[1]) > 1e-3
    failures = []

    def work(i):
        for _ in range(10):
            if not np.array_equal(models[i](images[i]), want[i]):
                failures.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_one_model_on_two_threads_computes_for_one_after_the_other(micro):
    images = [np.random.default_rng(i).standard_normal((9, 3, 64, 64), np.float32) for i in range(2)]
    want = [micro(one) for one in images]
    got = [None, None]

    def work(i):
        got[i] = [micro(images[i]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        for one in got[i]:
            np.testing.assert_array_equal(one, want[i])
