"""Classes that are texts: as CLIP and CHiLS have them, through predict, evaluate and evaluators as they are."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image

import vit_jax
from tests.tiny import tiny_config, untrained
from tests.tiny_pairs import CLIP, TEXT, pairs_config
from vit_jax import UserError
from vit_jax.commands import embeddings
from vit_jax.commands.main import main
from vit_jax.data.drawing import image_png
from vit_jax.evaluators import retrieval
from vit_jax.evaluators.zero_shot import ZeroShotAccuracy
from vit_jax.inspection import extract
from vit_jax.nn.subclasses import mapped_up, reweighted
from vit_jax.tasks import Ranked
from vit_jax.training.evaluation import evaluate_loaded
from vit_jax.training.inputs import build_inputs

NAMES = {"red": ["red", "crim"], "green": "green", "blue": "blue", "white": "white"}
TEMPLATES = ["{}", "a {}.", "{} dot"]
BELOW = {"red": ["pink", "rose"], "blue": ["navy"]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    model = {**CLIP, "text": {**TEXT, "max_length": 32}}
    return untrained(folder / "clip", pairs_config(folder, model, data__fields__text__length=32))


@pytest.fixture(scope="module")
def stored(checkpoint):
    return vit_jax.load(checkpoint)


@pytest.fixture(scope="module")
def loaded(stored):
    """Of other numbers, that tell images and texts apart."""
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), stored.params)
    return dataclasses.replace(stored, variables={"params": params, "model_state": {}})


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(6, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, colour in enumerate(((220, 30, 30), (30, 40, 220), (240, 240, 240))):
        (folder / f"{i}.png").write_bytes(image_png(np.full((12, 12, 3), colour, np.uint8)))
    return folder


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def classes_of(loaded, names, templates=TEMPLATES):
    """Restated: the mean of what is said of each class, made of length 1 again."""
    said = [[name] if isinstance(name, str) else name for name in names]
    prompts = [[template.replace("{}", one) for one in several for template in templates] for several in said]
    return np.stack([unit(loaded.embed_texts(each).astype(np.float64).mean(axis=0)) for each in prompts])


def softmax(x):
    shifted = np.exp(x - x.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@pytest.mark.long
def test_logits_are_those_of_ensembled_prompts(loaded, images):
    made = loaded.zero_shot(NAMES, TEMPLATES)
    scale = np.exp(np.float64(loaded.params["logit_scale"]))
    wanted = scale * loaded.embed_images(images).astype(np.float64) @ classes_of(loaded, NAMES.values()).T
    np.testing.assert_allclose(made.logits(images), wanted, atol=1e-5)
    assert made.labels == tuple(NAMES) and made.task.objective == "softmax"
    answers = made.task.answers({"logits": wanted}, made.fields)
    assert isinstance(answers[0], Ranked) and answers[0].names == tuple(NAMES)
    np.testing.assert_allclose([answer.probabilities for answer in answers], softmax(wanted), rtol=1e-4)
    # Whatever else the model gives is still there, and texts are.
    np.testing.assert_allclose(made.features(images), loaded.features(images), rtol=1e-5)
    np.testing.assert_array_equal(made.embed_texts(["red"]), loaded.embed_texts(["red"]))


@pytest.mark.long
def test_subclasses_are_mapped_up_and_weighted(loaded, images):
    """CHiLS: the class of the likeliest subclass, among which is the class itself; then times the class's own."""
    finer = classes_of(loaded, ["red", "pink", "rose", "green", "blue", "navy", "white"])
    parents = np.array([0, 0, 0, 1, 2, 2, 3])
    scale = np.exp(np.float64(loaded.params["logit_scale"]))
    embedded = loaded.embed_images(images).astype(np.float64)
    below = scale * embedded @ finer.T
    up = np.stack([below[:, parents == k].max(axis=1) for k in range(4)], axis=1)
    plain = ["red", "green", "blue", "white"]
    made = loaded.zero_shot(plain, TEMPLATES, hierarchy=BELOW, reweighted=False)
    np.testing.assert_allclose(made.logits(images), up, atol=1e-5)
    above = softmax(scale * embedded @ classes_of(loaded, plain).T)
    weighted = np.stack([softmax(below)[:, parents == k].max(axis=1) for k in range(4)], axis=1) * above
    made = loaded.zero_shot(plain, TEMPLATES, hierarchy=BELOW)
    np.testing.assert_allclose(np.exp(made.logits(images)), weighted, rtol=1e-4)


def test_weighting_can_change_the_answer():
    """The likeliest subclass belongs to class 0, which the classes themselves find unlikely."""
    finer, coarse = np.array([[3.0, 1.0, 2.8]]), np.array([[0.0, 2.0]])
    assert mapped_up(finer, (0, 0, 1), 2).tolist() == [[3.0, pytest.approx(2.8)]]
    found = np.asarray(reweighted(finer, coarse, (0, 0, 1)))
    np.testing.assert_allclose(np.exp(found), softmax(finer)[:, [0, 2]] * softmax(coarse), rtol=1e-5)
    assert found.argmax() == 1


def evaluation(loaded, cache=None, **evaluator):
    config = {**loaded.metadata["config"], "evals": {"val": evaluator}}
    return evaluate_loaded(loaded, config, cache)


@pytest.mark.long
def test_the_evaluator_and_the_classifier_agree(loaded, tmp_path):
    """The classification evaluator, as it is, on the classifier; the evaluator on the checkpoint."""
    names, cache = {"red": ["red", "crim"]}, tmp_path / "cache"
    once = evaluation(loaded, cache, name="zero_shot", names=names, templates=TEMPLATES, hierarchy=BELOW)
    kept = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(kept) == 3  # images, prompts, and subclasses' prompts
    assert evaluation(loaded, cache, name="zero_shot", names=names, templates=TEMPLATES, hierarchy=BELOW) == once
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == kept
    other = evaluation(loaded, cache, name="zero_shot", names=names, templates=["a {}."])
    assert len(list(cache.iterdir())) == 4 and "val/mapped_up_accuracy" not in other  # other prompts, same images
    for arm, chosen in (("", {}), ("mapped_up_", {"hierarchy": BELOW, "reweighted": False}), ("reweighted_", {"hierarchy": BELOW})):  # fmt: skip
        made = loaded.zero_shot(NAMES, TEMPLATES, **chosen)
        judged = evaluation(made, name="classification")
        assert once[f"val/{arm}accuracy"] == judged["val/accuracy"]
        assert once[f"val/{arm}balanced_accuracy"] == judged["val/balanced_accuracy"]
    assert once["val/examples"] == 16
    assert len({once[f"val/{arm}accuracy"] for arm in ("", "mapped_up_", "reweighted_")}) == 3


def test_recall_of_images_and_texts():
    """Any of an image's captions counts; what is as similar as the best that is right counts against it."""
    rng = np.random.default_rng(0)
    images, owners = (
        unit(rng.normal(size=(300, 5))),
        np.sort(np.concatenate([np.arange(300), rng.integers(0, 300, 99)])),
    )
    texts = unit(images[owners] + 0.4 * rng.normal(size=(399, 5)))

    def slowly(queries, own, found, belong):
        ranks = []
        for query, number in zip(queries, own, strict=True):
            order = np.argsort(-(found @ query))
            ranks.append(next(i for i, j in enumerate(order) if belong[j] == number))
        return ranks

    numbers = np.arange(300)
    assert retrieval.best_ranks(images, numbers, texts, owners).tolist() == slowly(images, numbers, texts, owners)
    assert retrieval.best_ranks(texts, owners, images, numbers).tolist() == slowly(texts, owners, images, numbers)
    alike = np.ones((4, 1))
    assert retrieval.best_ranks(alike, np.arange(4), alike, np.arange(4)).tolist() == [3] * 4


def test_the_retrieval_evaluator(loaded):
    """16 images of four colours, and the name of its colour for each."""
    found = evaluation(loaded, name="retrieval")
    data = np.load(loaded.metadata["config"]["data"]["eval"]["path"])
    images = loaded.embed_images(list(data["images"]))
    texts = loaded.embed_texts([str(text) for text in data["text"]])
    wanted = {
        "image_to_text": retrieval.best_ranks(images, np.arange(16), texts, np.arange(16)),
        "text_to_image": retrieval.best_ranks(texts, np.arange(16), images, np.arange(16)),
    }
    for way, ranks in wanted.items():
        for k in (1, 5, 10):
            assert found[f"val/{way}_r{k}"] == pytest.approx((ranks < k).mean(), abs=1e-6)
    assert (found["val/images"], found["val/texts"]) == (16, 16)


def test_a_model_of_pictures_and_texts_is_probed_with_labels(loaded, photos, tmp_path):
    """Most have learned from data without a field of that name, and neighbours are found all the same."""
    section = loaded.metadata["config"]["data"]["eval"]
    fields = {name: field for name, field in loaded.metadata["fields"].items() if name != "label"}
    without = dataclasses.replace(loaded, metadata={**loaded.metadata, "fields": fields})
    asked = {"name": "knn", "k": 1, "train": section}
    assert evaluation(without, **asked) == evaluation(loaded, **asked) == {"val/accuracy": 1.0}  # each finds itself
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"path": f"{photos}/0.png", "text": "red"}) + "\n")
    unlabelled = {"name": "pairs", "path": str(tmp_path / "pairs.jsonl"), "root": "/"}
    with pytest.raises(UserError, match="need the class of every example, and this source has none"):
        evaluation(without, **{**asked, "train": unlabelled})


def test_all_captions_of_an_image_belong_to_it(stored, photos, tmp_path):
    """Read as the data reads texts, numbered by their image; each image once."""
    rows = [{"path": f"{photos}/{i}.png", "text": texts} for i, texts in enumerate((["red", "a red"], "blue", ["w"]))]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = {"name": "pairs", "path": str(tmp_path / "pairs.jsonl"), "root": "/"}
    inputs = build_inputs(stored.metadata["config"]["data"])
    evaluator = retrieval.build(functools.partial(inputs.eval_pipeline, 2, "x"), section)
    texts = [evaluator.texts.source[i] for i in range(len(evaluator.texts.source))]
    assert [(one["text"], one["label"]) for one in texts] == [("red", 0), ("a red", 0), ("blue", 1), ("w", 2)]
    with evaluator.texts.iterate() as batches:
        parts = list(batches)
    assert [part["label"].tolist() for part in parts] == [[0, 0], [1, 2]] and parts[0]["text"].shape == (2, 32)
    with evaluator.images.iterate() as batches:
        parts = list(batches)
    assert [part["label"].tolist() for part in parts] == [[0, 1], [2, 0]] and parts[1]["valid"].tolist() == [1, 0]
    assert set(parts[0]) == {"image", "label", "valid", "index"}


def test_one_label_an_image():
    class Several:
        def features(self, pipeline, output):
            return np.eye(3, dtype=np.float32), np.ones((3, 2), np.int32)

    with pytest.raises(UserError, match="several labels an image"):
        ZeroShotAccuracy(None, None, ("a", "b")).metrics(Several())


def test_what_is_refused(loaded, tmp_path):
    with pytest.raises(UserError, match="does not compare images with texts"):
        vit_jax.load(untrained(tmp_path / "vit", tiny_config())).zero_shot(["a", "b"])
    with pytest.raises(UserError, match="There is an empty label"):
        loaded.zero_shot(["a", ""])
    with pytest.raises(UserError, match="has two parents"):
        loaded.zero_shot(["a", "b"], hierarchy={"a": ["c"], "b": ["c"]})
    with pytest.raises(UserError, match="Zero-shot classes are not trained"):
        loaded.zero_shot(["a", "b"]).task.loss({}, {}, None, 0)
    for evaluator, message in (
        ({"name": "zero_shot", "names": ["red", "blue"]}, "There are 4 classes and names for 2"),
        ({"name": "zero_shot", "templates": ["a photo"]}, "has no place for a class"),
        ({"name": "retrieval", "source": {"name": "digits", "split": "test"}}, "has no text"),
    ):
        with pytest.raises(UserError, match=message):
            evaluation(loaded, **evaluator)


@pytest.mark.long
def test_predict_takes_labels(checkpoint, stored, photos, tmp_path, capsys):
    (tmp_path / "names.json").write_text(json.dumps(NAMES))
    argv = ["predict", "--checkpoint", str(checkpoint), str(photos), "--labels"]
    assert (
        main([*argv, str(tmp_path / "names.json"), "--templates", "photo", "--output", str(tmp_path / "x.jsonl")]) == 0
    )
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    made = stored.zero_shot(NAMES, "photo")
    logits = made.logits(np.stack([made.preprocess(path) for path in sorted(photos.iterdir())]))
    assert [row["predictions"][0][0] for row in rows] == [tuple(NAMES)[i] for i in np.argmax(logits, axis=1)]
    np.testing.assert_allclose([p for _, p in rows[0]["predictions"]], -np.sort(-softmax(logits)[0]), rtol=1e-4)
    (tmp_path / "twice.json").write_text(json.dumps({"a": ["c"], "b": ["c"]}))
    for wrong, message in (
        (["a cat"], "There is no label set named 'a cat'"),
        (["a cat, "], "There is an empty label"),
        (["a, b", "--templates", "photos of"], "There are no templates 'photos of'"),
        (["a, b", "--hierarchy", str(tmp_path / "twice.json")], "The subclass 'c' has two parents, 'a' and 'b'"),
    ):
        assert main([*argv, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main([*argv[:-1], "--templates", "photo"]) == 2
    assert "--templates is of labels" in capsys.readouterr().err


@pytest.mark.long
def test_retrieve_ranks_pictures_and_texts(checkpoint, stored, photos, tmp_path, capsys):
    argv = ["retrieve", "--checkpoint", str(checkpoint)]
    page = tmp_path / "page.html"
    assert main([*argv, "red", str(photos), "--output", str(page), "--top", "2"]) == 0
    paths = sorted(photos.iterdir())
    cosines = stored.embed_images(paths) @ stored.embed_texts("red")[0]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [str(paths[i]) for i in np.argsort(-cosines)[:2]]
    assert [float(line.split()[0]) for line in lines] == pytest.approx(-np.sort(-cosines)[:2], abs=6e-4)
    assert page.read_text().count("<img") == 2

    (tmp_path / "texts.txt").write_text("red\nblue <b>\n")
    assert main([*argv, str(paths[0]), "--texts", str(tmp_path / "texts.txt"), "--output", str(page)]) == 0
    assert {line.strip().split("  ")[1] for line in capsys.readouterr().out.splitlines()} == {"red", "blue <b>"}
    assert "blue &lt;b&gt;" in page.read_text() and "blue <b>" not in page.read_text()

    for wrong, message in (
        (["red"], "There is nothing to rank"),
        (["red", str(photos), "--text", "blue"], "There are both images and texts to rank"),
        ([" ", str(photos)], "The text to rank by is empty"),
        ([str(photos), "--text", "red"], "has 3 images"),
        (["red", str(photos), "--top", "0"], "--top is 0"),
    ):
        assert main([*argv, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_one_image_by_itself_is_not_its_rows(loaded, photos):
    path = next(photos.iterdir())
    pixels = np.zeros((20, 30, 3), np.uint8)
    for one in (path, str(path), path.read_bytes(), pixels, pixels / 255, Image.fromarray(pixels)):
        with pytest.raises(UserError, match="This is one image, not several"):
            loaded.embed_images(one)


def test_embeddings_of_files_are_kept(loaded, photos, tmp_path, monkeypatch):
    """With --cache, until one of them changes; what cannot be read is said every time."""
    paths, cache = sorted(photos.iterdir()), str(tmp_path / "cache")
    kept, rows, unreadable = embeddings.embedded(loaded, paths, 2, "image_embedding", cache)
    assert kept == paths and not unreadable
    np.testing.assert_allclose(rows, loaded.embed_images(paths), atol=1e-6)
    with monkeypatch.context() as patched:
        patched.setattr(embeddings, "embed_files", lambda *_: pytest.fail("embedded again"))
        np.testing.assert_array_equal(embeddings.embedded(loaded, paths, 2, "image_embedding", cache)[1], rows)
    broken = tmp_path / "broken.png"
    for data in (b"x", paths[0].read_bytes()):
        broken.write_bytes(data)
        for _ in range(2):
            kept, _, unreadable = embeddings.embedded(loaded, [paths[0], broken], 2, "image_embedding", cache)
            assert (len(kept), len(unreadable)) == ((1, 1) if data == b"x" else (2, 0))


@pytest.mark.long
def test_visualize_compares_images_with_texts(checkpoint, photos, tmp_path):
    argv = ["visualize", "--checkpoint", str(checkpoint), str(photos), "--text", "red", "--text", "blue"]
    assert main([*argv, "--output", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "similarity.png"]


def test_the_attention_of_its_images_can_be_had(loaded, images):
    weights = extract.attention_weights(loaded, images[:1])
    assert weights.shape[1:3] == (1, loaded.model.encoder.style.num_heads)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
