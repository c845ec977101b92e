"""Images encoded once: what is in the files, what training reads of them, and which tokenizer may go with them."""

import contextlib
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import vit_jax
import vit_jax.models
import vit_jax.tasks
from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.data.encoded_files import Header, read_array
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.fields.encoded import Encoded
from vit_jax.data.sources import encoded
from vit_jax.naming import build_model
from vit_jax.training.encoding import encode, tokenizer_in
from vit_jax.training.experiment import build_experiment
from vit_jax.training.inputs import build_inputs
from vit_jax.training.loop import train

COUNT = 22
PLAIN = {"name": "supervised", "crop": "none", "flip": False}
FROZEN = {"name": "sgd", "learning_rate": 0.1, "frozen": ["tokenizer/.*"]}


@contextlib.contextmanager
def toys():
    with pytest.MonkeyPatch.context() as patch:
        for package in (vit_jax.tasks, vit_jax.models):
            folder = Path(__file__).parents[1] / "toys" / package.__name__.rpartition(".")[2]
            patch.setattr(package, "__path__", [*package.__path__, str(folder)])
        yield


@pytest.fixture(autouse=True)
def with_toys():
    with toys():
        yield


def config(folder, codes=8, **changes):
    return {
        "seed": 0, "steps": 1, "batch_size": 8, "log_every": 1, "task": {"name": "toy_tokenizer"},
        "model": {"name": "toy_tokenizer", "codes": codes},
        "data": {"image_size": 8, "train": {"name": "arrays", "path": str(folder / "images.npz")}, "num_threads": 0,
                 "transform": PLAIN},
        "optim": {"name": "sgd", "learning_rate": 0.1}, **changes,
    }  # fmt: skip


def run(values, workdir):
    return train(build_experiment(values), workdir, jax.devices()[:1])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Images of two classes, two tokenizers, and what they encoded, in shards of 10 images."""
    folder = tmp_path_factory.mktemp("encoded")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(COUNT) % 2, label_names=["even", "odd"])
    with toys():
        for name, codes in (("discrete", 8), ("continuous", None)):
            run(config(folder, codes), folder / name)
            loaded = vit_jax.load(folder / name)
            encode(loaded, loaded.metadata["config"], folder / f"{name}_rows", mirrored=True, shard=10)
    return folder, images


def stage_two(folder, name, **changes):
    rows = str(folder / f"{name}_rows")
    field = "indices" if name == "discrete" else "latents"
    data = {"image_size": 8, "train": {"name": "encoded", "directory": rows}, "num_threads": 0,
            "fields": {field: {"name": "encoded", "directory": rows}, "label": {"name": "classes"}}}  # fmt: skip
    codes = 8 if name == "discrete" else None
    task = {"name": "toy_token_histogram", "tokenizer": {"name": "toy_tokenizer", "codes": codes}}
    values = config(folder, task=task, data=data, optim=FROZEN, init_from={"tokenizer": str(folder / name)}, steps=2)
    return {**values, "model": None} | changes


@pytest.mark.long
def test_rows_are_what_the_tokenizer_gives(made):
    folder, images = made
    for name, output in (("discrete", "indices"), ("continuous", "moments")):
        loaded, source = vit_jax.load(folder / name), encoded.build(str(folder / f"{name}_rows"))
        assert len(source) == COUNT and source.label_names == ("even", "odd") and source.header.views[1] == "mirrored"
        np.testing.assert_array_equal(source.labels, np.arange(COUNT) % 2)
        prepared = np.stack([loaded.preprocess(image) for image in images])
        both = [np.asarray(loaded.outputs({"image": x}, (output,))[output]) for x in (prepared, prepared[:, :, ::-1])]
        rows = np.stack([source[i]["indices" if name == "discrete" else "latents"] for i in range(COUNT)])
        assert rows.dtype == (np.uint16 if name == "discrete" else np.float16)
        np.testing.assert_allclose(rows, np.stack(both, 1), rtol=2e-3, atol=1e-3)
    header = json.loads((folder / "discrete_rows" / "header.json").read_text())
    assert header["vocab_size"] == 8 and header["shape"] == [16] and header["grids"] == [[4, 4]]
    assert len(header["tokenizer"]) == 64


@pytest.mark.long
def test_a_directory_is_gone_on_with(made, tmp_path, capsys):
    folder, _ = made
    command = ["encode", "--checkpoint", str(folder / "discrete"), "--output", str(tmp_path / "rows"), "--shard", "10"]
    assert main(command) == 0
    assert "22 images as indices 16" in capsys.readouterr().out
    kept = (tmp_path / "rows/rows_00000.npy").stat().st_mtime_ns
    (tmp_path / "rows/rows_00001.npy").unlink()
    read_array.cache_clear()
    with pytest.raises(UserError, match="has 12 of 22 images. Run the same 'vit_jax encode' again"):
        encoded.build(str(tmp_path / "rows"))
    assert main(command) == 0
    assert (tmp_path / "rows/rows_00000.npy").stat().st_mtime_ns == kept
    whole, again = encoded.build(str(folder / "discrete_rows")), encoded.build(str(tmp_path / "rows"))
    for i in range(COUNT):
        np.testing.assert_array_equal(whole[i]["indices"][:1], again[i]["indices"])
    assert main([*command, "--mirrored"]) == 2
    assert "holds images encoded otherwise: its views is ('plain',), here it is" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("x")
    for change, message in (
        (["--output", str(tmp_path / "other")], "holds other files"),
        (["--what", "moment"], "This tokenizer gives no 'moment'. Did you mean 'moments'?"),
        (["--shard", "0"], "--shard is 0"),
    ):
        assert main([*command, *change]) == 2
        assert message in capsys.readouterr().err


def test_batches_without_an_image_are_as_the_source_has_them(made):
    folder, _ = made
    for name in ("discrete", "continuous"):
        inputs = build_inputs(stage_two(folder, name)["data"])
        source = inputs.train_source()
        batch = inputs.train_pipeline(source, 8, seed=0).batch(0)
        on_device = jax.jit(inputs.on_device(2))(dict(batch), jax.random.key(0))
        assert set(batch) == {"indices" if name == "discrete" else "latents", "label", "corrupt"}
        for key, array in on_device.items():
            assert array.dtype == batch[key].dtype
            np.testing.assert_array_equal(array, batch[key])


def test_views_and_latents_are_drawn_by_seed_and_element(made):
    folder, _ = made
    inputs = build_inputs(stage_two(folder, "continuous")["data"])
    source = inputs.train_source()
    pipeline = inputs.train_pipeline(source, 2 * COUNT, seed=3)
    first = pipeline.batch(0)
    np.testing.assert_array_equal(
        first["latents"], inputs.train_pipeline(source, 2 * COUNT, seed=3).batch(0)["latents"]
    )
    assert (first["latents"] != inputs.train_pipeline(source, 2 * COUNT, seed=4).batch(0)["latents"]).any()
    # Each is near one of the views of an image, and not the mean itself.
    mean, spread = np.split(np.stack([source[i]["latents"] for i in range(COUNT)]).astype(np.float32), 2, -1)
    z = (first["latents"][:, None, None] - mean) / np.exp(0.5 * spread)
    nearest = np.square(z).mean((3, 4, 5)).reshape(len(z), -1)
    assert 0.6 < nearest.min(1).mean() < 1.4 and set(nearest.argmin(1) % 2) == {0, 1}
    # Evaluation: the mean of the first view.
    evaluated = next(iter(inputs.eval_pipeline(COUNT, "x", stage_two(folder, "continuous")["data"]["train"]).iterate()))
    np.testing.assert_array_equal(evaluated["latents"], mean[:, 0])


@pytest.mark.long
def test_a_run_on_rows_and_its_tokenizer(made, tmp_path):
    folder, _ = made
    run(stage_two(folder, "discrete"), tmp_path / "run")
    row = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    source = encoded.build(str(folder / "discrete_rows"))
    seen = [np.mean(source[i]["indices"], -1) for i in range(COUNT)]
    assert np.min(seen) <= row["train/seen"] <= np.max(seen)
    loaded = vit_jax.load(tmp_path / "run")  # without the rows
    assert loaded.fields["indices"].to_json() == {"name": "encoded", "shape": [16], "vocab_size": 8, "moments": False}
    # A decoder that learned goes on with the same tokens; another encoder does not.
    learning = {"name": "sgd", "learning_rate": 0.1, "frozen": ["encoder/.*", "codes"]}
    run(config(folder, optim=learning, init_from=str(folder / "discrete")), tmp_path / "decoder")
    run(stage_two(folder, "discrete", init_from={"tokenizer": str(tmp_path / "decoder")}), tmp_path / "second")
    run(config(folder, seed=1), tmp_path / "other")
    for init_from, message in (
        (
            {"tokenizer": str(tmp_path / "other")},
            "encoded by the tokenizer [0-9a-f]{12}, and this run's is [0-9a-f]{12}",
        ),
        ({"tokenizer": str(folder / "continuous")}, "encoded by the tokenizer"),
    ):
        with pytest.raises(UserError, match=message):
            run(stage_two(folder, "discrete", init_from=init_from), tmp_path / "refused")
    larger = stage_two(folder, "discrete")
    larger["data"] = {**larger["data"], "image_size": 12}
    with pytest.raises(UserError, match="images of 8x8 pixels to maps of 4x4, and the tokenizer makes 6x6 of 12x12"):
        run(larger, tmp_path / "larger")


def test_more_codes_than_indices_hold(made, tmp_path):
    loaded = vit_jax.load(made[0] / "discrete")
    task = dataclasses.replace(loaded.task, model=build_model({"name": "toy_tokenizer", "codes": 2**16 + 1})[0])
    with pytest.raises(
        UserError, match="The 65,537 codes of this tokenizer are more than the 65,536 that indices hold"
    ):
        encode(dataclasses.replace(loaded, task=task), loaded.metadata["config"], tmp_path / "rows")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "takes a directory, or a shape"),
        ({"directory": "x", "shape": [4]}, "takes a directory, or a shape"),
        ({"directory": "nowhere"}, "nowhere holds no encoded images"),
    ],
)
def test_fields_that_are_none(section, message):
    with pytest.raises(UserError, match=message):
        build_fields({"indices": {"name": "encoded", **section}}, Context())


def test_a_row_of_another_shape_and_a_damaged_header(tmp_path):
    field = Encoded((4,), 8)
    with pytest.raises(UserError, match="x is \\[3\\], and the field holds \\[4\\]"):
        field.read(np.zeros(3, np.uint16), "x", None)
    for text, message in (
        ("{", "could not be read"),
        ('{"format": 2}', "another version"),
        ('{"format": 1}', "damaged"),
    ):
        (tmp_path / "header.json").write_text(text)
        with pytest.raises(UserError, match=message):
            Header.read(tmp_path)
    with pytest.raises(UserError, match="makes no tokens of images"):
        tokenizer_in(type("L", (), {"model": None, "path": "x", "preprocess": None}))
