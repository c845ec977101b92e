"""Measurements of samples and reconstructions: their numbers against loops and other libraries' formulas, and all of
them in one evaluation of a toy generator."""

import contextlib
import itertools
import math
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import vit_jax.tasks
from tests.tiny import tiny_config, untrained
from tests.toy_generator import trained as trained_generator
from vit_jax import UserError
from vit_jax.evaluators import codebook, fid, frechet, judged_accuracy, nearest_training, reconstruction
from vit_jax.evaluators.codebook import code_use, count_codes
from vit_jax.evaluators.feature_neighbours import nearest, neighbourhood
from vit_jax.evaluators.fid import prepared
from vit_jax.evaluators.frechet_distance import Gaussian, Moments, frechet_distance, read_gaussian
from vit_jax.evaluators.image_quality import psnr, ssim
from vit_jax.evaluators.inception_score import InceptionScore, inception_score
from vit_jax.evaluators.judge import Judge, judge
from vit_jax.evaluators.kid import kernel_distance, kernel_distances
from vit_jax.evaluators.pictures import Pictures, Some
from vit_jax.evaluators.precision_recall import PrecisionRecall
from vit_jax.training.evaluation import evaluate_loaded

DIGITS = {"name": "digits", "split": "train"}


def features(n, width=4, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (n, width)).astype(np.float32)


def test_moments_do_not_depend_on_how_rows_come():
    rows = (features(1500, 3) @ features(3, 3, 1) + [1e4, 0, -7]).astype(np.float32)
    for parts in ([rows], [rows[:1], rows[1:5], rows[5:]]):
        moments = Moments.of(parts)
        np.testing.assert_allclose(moments.mean, rows.mean(0, dtype=np.float64), rtol=1e-12)
        np.testing.assert_allclose(moments.covariance(), np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-9)


def test_the_distance_of_known_gaussians():
    """In one axis (m1 - m2)^2 + (s1 - s2)^2; the axes of both may be turned; of equal ones it is 0."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    (mean, sigma), (mean2, sigma2) = ((rng.normal(size=5), rng.uniform(0, 2, 5)) for _ in range(2))
    sigma[0] = 0  # singular
    one, other = (Gaussian(turn @ m, turn * s**2 @ turn.T) for m, s in ((mean, sigma), (mean2, sigma2)))
    expected = np.square(mean - mean2).sum() + np.square(sigma - sigma2).sum()
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-7)


def test_statistics_in_files(tmp_path):
    gaussian = Moments.of([features(20)]).gaussian()
    (tmp_path / "statistics.npz").write_bytes(gaussian.to_npz())
    again = read_gaussian(tmp_path / "statistics.npz")
    np.testing.assert_array_equal(again.covariance, gaussian.covariance)
    np.savez(tmp_path / "other.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))
    np.savez(tmp_path / "half.npz", mu=np.zeros(3))
    for name, what in (("other", "sigma .2, 2"), ("half", "holds no statistics"), ("none", "holds no statistics")):
        with pytest.raises(UserError, match=what):
            read_gaussian(tmp_path / f"{name}.npz")
    with pytest.raises(UserError, match="Features of 4 and 3 numbers are not compared"):
        frechet_distance(gaussian, Moments.of([features(20, 3)]).gaussian())


def test_a_covariance_needs_as_many_samples_as_features():
    Moments.of([features(4)]).covariance()
    with pytest.raises(UserError, match="There are 3 samples for the covariance of 4 features"):
        Moments.of([features(3)]).covariance()


def test_neighbours_by_loops():
    real, made, k = features(600, 3), features(520, 3, 1, 0.7), 3  # more than one block

    def reach(x):
        return [np.sort([np.linalg.norm(a - b) for j, b in enumerate(x) if i != j])[k - 1] for i, a in enumerate(x)]

    real, made = real[:90], made[:70]
    balls = np.linalg.norm(made[:, None] - real[None], axis=-1)
    in_real, in_made = balls <= np.array(reach(real)), balls <= np.array(reach(made))[:, None]
    found = neighbourhood(real, made, k)
    assert 0.1 < found.coverage < found.precision < found.recall < 0.95
    assert found.precision == in_real.any(1).mean() and found.recall == in_made.any(0).mean()
    assert found.density == pytest.approx(in_real.sum() / (k * 70)) and found.coverage == in_real.any(0).mean()


def test_neighbours_in_blocks_and_far_from_zero():
    real, made = features(600, 3), features(520, 3, 1, 0.7)
    apart = np.linalg.norm(made[:, None].astype(np.float64) - real[None], axis=-1)
    index, distance = nearest(made, real)
    np.testing.assert_array_equal(index, apart.argmin(1))
    np.testing.assert_allclose(distance, apart.min(1), rtol=1e-12)
    shifted = neighbourhood(real.astype(np.float64) + 1e5, made.astype(np.float64) + 1e5, 3)
    assert shifted == neighbourhood(real, made, 3)
    assert neighbourhood(real, real, 3).precision == neighbourhood(real, real, 3).coverage == 1
    with pytest.raises(UserError, match="There are 3 samples for k=3"):
        neighbourhood(real, made[:3], 3)


def test_the_kernel_distance_by_loops():
    real, made = features(7), features(5, seed=1, shift=0.5)

    def mean(first, second):
        pairs = [(x, y) for (i, x), (j, y) in itertools.product(enumerate(first), enumerate(second))
                 if first is not second or i != j]  # fmt: skip
        return np.mean([(np.float64(x) @ y / 4 + 1) ** 3 for x, y in pairs])

    assert kernel_distance(real, made) == pytest.approx(mean(real, real) + mean(made, made) - 2 * mean(real, made))
    same = kernel_distances(features(400), features(300, seed=1), 20, 100)
    assert len(same) == 20 and abs(same.mean()) < 3 * same.std() / math.sqrt(20) + 0.02
    with pytest.raises(UserError, match="at least two"):
        kernel_distances(real, made[:1], 2, 10)


def test_the_inception_score_of_known_answers():
    sure = 1e4 * np.eye(5)[np.arange(50) % 5]
    assert inception_score(sure, 2) == pytest.approx((5, 0))
    assert inception_score(np.zeros((50, 5)), 1) == pytest.approx((1, 0))
    logits = features(30, 5).astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    by_hand = [np.exp(np.mean(np.sum(p * np.log(p / p.mean(0)), 1))) for p in (shares[:15], shares[15:])]
    assert inception_score(logits, 2) == pytest.approx((np.mean(by_hand), np.std(by_hand)), rel=1e-6)
    with pytest.raises(UserError, match="There are 30 images for 31 splits"):
        inception_score(logits, 31)


@pytest.mark.parametrize("size", [(32, 48), (330, 310)])
def test_what_inception_sees(size):
    """ "clean" is Pillow's bicubic of floats; "tensorflow" is bilinear between upper left corners."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    planes = [Image.fromarray(image[..., c].astype(np.float32)).resize((299, 299), Image.BICUBIC) for c in range(3)]
    expected = np.stack([np.asarray(plane) for plane in planes], -1).clip(0, 255)
    np.testing.assert_allclose(128 * prepared(image[None], "clean")[0] + 128, expected, atol=2e-3)
    found = 128 * np.asarray(prepared(image[None], "tensorflow")[0]) + 128
    for y, x in ((0, 0), (17, 200), (298, 298)):
        (top, low, down), (left, right, along) = (
            (int(at), min(int(at) + 1, side - 1), at - int(at))
            for at, side in ((y * (size[0] / 299), size[0]), (x * (size[1] / 299), size[1]))
        )
        upper, lower = ((1 - along) * image[row, left] + along * image[row, right] for row in (top, low))
        np.testing.assert_allclose(found[y, x], (1 - down) * upper + down * lower, atol=2e-3)
    exact = np.random.default_rng(1).integers(0, 256, (1, 299, 299, 3)).astype(np.uint8)
    np.testing.assert_allclose(prepared(exact, "pytorch"), exact / 127.5 - 1, atol=1e-6)


def test_codes():
    counts = count_codes(np.array([[0, 1], [1, 3]]), 8)
    assert counts.tolist() == [1, 2, 0, 1, 0, 0, 0, 0]
    assert code_use(counts) == {"codes_used": 3, "perplexity": pytest.approx(2**1.5), "bits": 1.5, "live": 3 / 8}
    with pytest.raises(UserError, match="indices from 0 to 9, and 8 codes"):
        count_codes(np.array([0, 9]), 8)

    parts = [{"indices": np.array([[0, 1, 1], [7, 7, 7]]), "valid": np.array([1, 0])},
             {"indices": np.array([[2, 1, 3]]), "valid": np.ones(1)}]  # fmt: skip
    evaluator = codebook.build(lambda source: None, vocab_size=8, scales=(1, 2))
    found = evaluator.metrics(lambda pipeline: parts)
    assert (found["codes_used"], found["codes_used_0"], found["codes_used_1"]) == (4, 2, 2)
    assert found["bits_0"] == 1 and found["bits_1"] == pytest.approx(-0.75 * np.log2(0.75) + 0.5)
    assert codebook.build(lambda source: None, vocab_size=8).metrics(lambda pipeline: parts)["codes_used"] == 4
    with pytest.raises(UserError, match="An image has 4 tokens, and scales=.1, 2. are 3"):
        evaluator.measure(lambda batch, names: {"indices": np.zeros((2, 4), int)}, {"valid": np.ones(2)})


def test_reconstructions():
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (3, 12, 14, 3)).astype(np.float32)
    made = np.clip(images + rng.normal(0, 0.1, images.shape), -0.2, 1.2).astype(np.float32)
    made[2] = images[2]
    evaluator, files = reconstruction.build(lambda source: None), {}

    class Run:
        keep = staticmethod(lambda name, make: files.update({name: make().decode()}))

        def __call__(self, pipeline):
            for rows, valid in ((slice(0, 2), [1, 1]), (slice(1, 3), [0, 1])):
                batch = {"original": images[rows], "reconstruction": made[rows]}
                measured = evaluator.measure(lambda _, names, batch=batch: batch, {"valid": np.array(valid)})
                yield jax.device_get(measured)

    found = evaluator.metrics(Run())
    byte = [np.round(255 * np.clip(x, 0, 1)).astype(np.uint8) for x in (images, made)]
    assert found["psnr"] == pytest.approx(np.mean([psnr(byte[0][i], byte[1][i]) for i in range(2)]))
    assert found["ssim"] == pytest.approx(np.mean([ssim(byte[0][i], byte[1][i]) for i in range(3)]))
    assert found["l1"] == pytest.approx(np.abs(byte[0].astype(float) - byte[1]).mean() / 255)
    squared = np.square((byte[0].astype(float) - byte[1]) / 255).mean()
    assert found["psnr_of_mean"] == pytest.approx(-10 * np.log10(squared))
    assert (found["exact"], found["images"]) == (pytest.approx(1 / 3), 3)
    assert files["per_image.csv"].splitlines()[3].startswith("2,inf,1.0")
    # Of the codes alone, where there is more than codes.
    other = reconstruction.build(lambda source: None, of="discrete_reconstruction")
    batch = {"original": images, "discrete_reconstruction": images}
    part = jax.device_get(other.measure(lambda _, names: {name: batch[name] for name in names}, {"valid": np.ones(3)}))
    assert other.metrics(type("Given", (Run,), {"__call__": lambda self, pipeline: [part]})())["exact"] == 1
    with pytest.raises(UserError, match="Images of 8x9 pixels are smaller"):
        small = np.zeros((1, 9, 8, 3))
        evaluator.measure(lambda *_: {"original": small, "reconstruction": small}, {"valid": np.ones(1)})


@pytest.fixture(scope="module", autouse=True)
def toys():
    """The toy generator is a task like any other."""
    with pytest.MonkeyPatch.context() as patch:
        folder = Path(__file__).parents[1] / "toys" / "tasks"
        patch.setattr(vit_jax.tasks, "__path__", [*vit_jax.tasks.__path__, str(folder)])
        yield


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """What evaluators of samples say of a toy generator, by a judge that nobody trained."""
    folder = tmp_path_factory.mktemp("judged")
    path = str(untrained(folder / "judge", tiny_config(), signed=True))
    generator = trained_generator(folder)
    test = {"name": "digits", "split": "test"}
    common = {"judge": path, "source": test, "count": 70}
    both = {**common, "train": DIGITS}
    evals = {
        "frechet": {"name": "frechet", **both},
        "warmer": {"name": "frechet", **both, "settings": {"temperature": 3.0}},
        "near": {"name": "precision_recall", **both},
        "kid": {"name": "kid", **both, "subsets": 5, "size": 50},
        "score": {"name": "inception_score", **common, "splits": 2},
        "accuracy": {"name": "judged_accuracy", **common},
        "copies": {"name": "nearest_training", "train": DIGITS, "source": test, "count": 40},
        "like": {"name": "nearest_training", "train": DIGITS, "source": test, "count": 40, "judge": path},
    }
    loaded = vit_jax.load(generator)
    values = {**loaded.metadata["config"], "evals": evals}
    return judge(path), evaluate_loaded(loaded, values), loaded, values


@pytest.mark.long
def test_all_of_them_on_one_generator(judged):
    by, found, *_ = judged
    assert by.name.startswith("judge@") and len(by.name) == 14
    assert found["frechet/real"] < found["frechet/blurred"] < found["frechet/noise"]
    assert found[f"frechet/frechet({by.name})"] > found["frechet/real"] and found["frechet/images"] == 70
    assert found[f"warmer/frechet({by.name})"] != found[f"frechet/frechet({by.name})"]
    assert found["near/real_precision"] > found["near/precision"] and found["near/real_recall"] > 0.5
    assert found[f"kid/kid({by.name})"] > found["kid/real"] + found["kid/real_std"]
    assert 1 <= found[f"score/score({by.name})"] <= 10 and 1 <= found["score/real"] <= 10
    assert 0 <= found[f"accuracy/accuracy({by.name})"] <= 1
    assert found["copies/copies"] == 0 and found["copies/distance"] > found["copies/real_distance"] > 0
    assert found["like/distance"] > 0


@pytest.mark.long
def test_the_distance_is_that_of_the_judge_s_features(judged):
    """Written out: its features of the generator's samples and of the real images."""
    by, found, loaded, _ = judged
    model = vit_jax.load(by._loaded.path)
    digits = vit_jax.data.sources.digits.build("test")
    real = np.stack([model.preprocess(digits[i]["image"]) for i in range(len(digits))])
    made = np.stack([model.preprocess(image) for image in loaded.sample(70).images])
    statistics = [Moments.of([np.asarray(model.features(x))]).gaussian() for x in (made, real)]
    assert found[f"frechet/frechet({by.name})"] == pytest.approx(frechet_distance(*statistics), rel=1e-4)


@pytest.mark.parametrize(
    ("evaluator", "what"),
    [
        ({"name": "frechet", "train": DIGITS, "count": 8}, "There are 8 samples for the covariance of 32 features"),
        ({"name": "frechet", "train": DIGITS, "of": "reconstruction"}, "does not give 'original'"),
    ],
)
def test_what_cannot_be_measured(judged, evaluator, what):
    by, _, loaded, values = judged
    evals = {"it": {"judge": str(by._loaded.path), "source": DIGITS, **evaluator}}
    with pytest.raises(UserError, match=what):
        evaluate_loaded(loaded, {**values, "evals": evals})


def test_reconstructions_are_compared_with_their_originals(judged):
    """An evaluator of images takes what a task makes of them, and the label of the image."""
    by, *_ = judged
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (6, 8, 8, 3)).astype(np.float32)
    outputs = {"original": images, "reconstruction": 1.5 * images}
    real = types.SimpleNamespace(source=range(6))
    evaluator = frechet.Frechet(real, "reconstruction", 3, 0, {}, real, str(by._loaded.path))
    assert evaluator.sampling is None
    with pytest.raises(UserError, match="There are 6 samples for the covariance of 32 features"):
        evaluator.check()
    part = evaluator.measure(lambda batch, names: outputs, {"valid": np.array([1] * 5 + [0]), "label": np.arange(6)})
    found = evaluator.pictures(lambda pipeline: [jax.device_get(part)])
    np.testing.assert_array_equal(found.made, np.round(255 * np.clip(1.5 * images[:5], 0, 1)))
    np.testing.assert_array_equal(found.original, np.round(255 * images[:5]))
    assert found.conditions["label"].tolist() == [0, 1, 2, 3, 4]


def test_too_few_images_are_found_before_any_is_drawn(judged):
    by, *_ = judged
    few, many = (types.SimpleNamespace(source=range(n)) for n in (3, 40))
    asked = (0, {})
    path = str(by._loaded.path)
    for evaluator, what in (
        (PrecisionRecall(many, "samples", 3, *asked, many, path, 3), "There are 3 samples for k=3"),
        (PrecisionRecall(few, "samples", 40, *asked, many, path, 3), "There are 3 real images for k=3"),
        (PrecisionRecall(many, "samples", 40, *asked, few, path, 3), "There are 3 other real images for k=3"),
        (InceptionScore(many, "samples", 9, *asked, path, 10), "There are 9 images for 10 splits"),
        (InceptionScore(few, "reconstruction", 40, *asked, path, 10), "There are 3 images for 10 splits"),
    ):
        with pytest.raises(UserError, match=what):
            evaluator.check()
    PrecisionRecall(many, "samples", 40, *asked, many, path, 3).check()
    InceptionScore(many, "samples", 10, *asked, path, 10).check()


def test_a_judge_sees_real_images_once(judged, monkeypatch):
    """However many samples it sees between, and again and again as a run trains."""
    by, *_ = judged
    fresh, seen = Judge(by._loaded, "judge"), []

    def stream(parts, output="features"):
        for part in parts:
            seen.append(len(part))
            yield np.asarray(part, np.float32).reshape(len(part), -1)[:, :2]

    monkeypatch.setattr(fresh, "stream", stream)
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (5, 4, 4, 3)).astype(np.uint8), "valid": np.array([1, 1, 1, 1, 0])}
    real = types.SimpleNamespace(description="real", iterate=lambda: contextlib.nullcontext([batch]))
    for number in range(12):
        assert len(fresh.pipeline(real)) == 4 and len(fresh.gaussian(real).mean) == 2
        fresh.images(np.full((6, 4, 4, 3), number, np.uint8))
    assert seen.count(4) == 2 and seen.count(6) == 12
    # What has no description may change.
    unnamed = types.SimpleNamespace(description=None, iterate=real.iterate)
    assert [len(fresh.gaussian(unnamed).mean) for _ in range(2)] == [2, 2] and seen.count(4) == 4


def test_parts_of_a_stream_are_one_program_ahead_of_who_takes_them(judged, monkeypatch):
    by, *_ = judged
    fresh, rows, events = Judge(by._loaded, "judge"), [], []

    def outputs(images, count, output):
        rows.append(count)
        events.append("run")
        return np.concatenate([images[:, 0, 0], np.zeros((count - len(images), 3))])

    monkeypatch.setattr(fresh, "_outputs", outputs)
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3)).astype(np.uint8)
    found = []
    for part in fresh.stream([images[:4], images[4:8], images[8:8], images[8:]]):
        events.append("take")
        found.append(part)
    np.testing.assert_array_equal(np.concatenate(found), images[:, 0, 0])
    assert rows == [4, 4, 4] and events == ["run", "run", "take", "run", "take", "take"]
    del events[:]
    assert list(fresh.stream([])) == [] and not events


def test_fid_reads_and_writes_statistics(judged, tmp_path, monkeypatch):
    """With a small network in the place of Inception, which alone it is called so with."""
    by, _, loaded, values = judged
    section = {"name": "fid", "inception": str(by._loaded.path), "source": DIGITS, "count": 50}
    with pytest.raises(UserError, match="is not the Inception network of FID"):
        evaluate_loaded(loaded, {**values, "evals": {"it": section}})
    monkeypatch.setattr(fid, "inception", lambda path, resizing: judge(path))
    files = {}
    first = evaluate_loaded(
        loaded, {**values, "evals": {"it": section}}, keep=lambda name, make: files.update({name: make()})
    )
    assert first["it/images"] == 50 and set(files) == {"it_statistics.npz", "it_real_statistics.npz"}
    (tmp_path / "real.npz").write_bytes(files["it_real_statistics.npz"])
    section["statistics"] = str(tmp_path / "real.npz")
    again = evaluate_loaded(loaded, {**values, "evals": {"it": {**section, "source": None}}})
    assert again["it/fid"] == pytest.approx(first["it/fid"], rel=1e-9)


def test_copies_are_found(judged):
    """Samples that are training images, but for a little noise, are nearer than nearly all real ones."""
    rng = np.random.default_rng(0)
    train, unseen = (rng.integers(0, 256, (50, 4, 4, 3)).astype(np.uint8) for _ in range(2))
    made = np.concatenate([np.clip(train[:10] ^ 1, 0, 255), rng.integers(0, 256, (10, 4, 4, 3)).astype(np.uint8)])

    class Pipeline(list):
        source, description, fields = property(len), None, None

    given = {"pictures": lambda self, run: Pictures(made, None, {})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_training, "read", lambda x: iter([x]))
        patch.setattr(nearest_training, "some", lambda x, count: x[:count])
        patch.setattr(nearest_training.NearestTraining, "pictures", given["pictures"])
        evaluator = nearest_training.NearestTraining(unseen, "samples", 20, 0, {}, train, None, 0.05)
        found = evaluator.metrics(None)
    assert found["copies"] == pytest.approx(0.5, abs=0.051)
    assert found["distance"] < found["real_distance"]


def test_some_of_a_source():
    """The same ones each time, in their order, from everywhere."""

    class Numbers(list):
        label_names = ("a",)

    chosen = Some(Numbers(range(100)), 10)
    found = [chosen[i] for i in range(len(chosen))]
    assert found == sorted(set(found)) and len(found) == 10 and found[-1] > 60 and found[0] < 40
    assert found == [Some(Numbers(range(100)), 10)[i] for i in range(10)]
    assert len(Some(Numbers(range(5)), 10)) == 5


def test_judged_classes(judged):
    by, *_ = judged
    evaluator = judged_accuracy.JudgedAccuracy(None, "samples", 3, 0, {}, str(by._loaded.path), ("7", "cat"))
    with pytest.raises(UserError, match="The judge knows no class 'cat'"):
        evaluator.check()


def test_classes_are_compared_by_their_names(monkeypatch):
    """The judge has them in another order, and the null class is none of them."""
    seen = {"made": np.array([0, 2, 1, 0, 1]), "real": np.array([2, 1, 1])}
    by = types.SimpleNamespace(
        name="judge@0", labels=("cat", "dog", "bird"), images=lambda images, output: np.eye(3)[seen["made"]],
        pipeline=lambda data, output: np.eye(3)[seen["real"]],
    )  # fmt: skip
    monkeypatch.setattr(judged_accuracy, "judge", lambda path: by)
    given = {"label": np.array([2, 1, 1, 2, 3])}
    monkeypatch.setattr(judged_accuracy.JudgedAccuracy, "pictures", lambda self, run: Pictures(None, None, given))
    batches = contextlib.nullcontext([{"label": np.array([2, 0, 1]), "valid": np.ones(3)}])
    real = types.SimpleNamespace(iterate=lambda: batches)
    evaluator = judged_accuracy.JudgedAccuracy(real, "samples", 5, 0, {}, "judge", ("dog", "bird", "cat"))
    # Asked for a cat, a bird, a bird, a cat and nothing.
    assert evaluator.metrics(None) == {"accuracy(judge@0)": pytest.approx(3 / 5), "real": pytest.approx(2 / 3)}
    given.clear()
    with pytest.raises(UserError, match="were not asked to be of a class"):
        evaluator.metrics(None)
