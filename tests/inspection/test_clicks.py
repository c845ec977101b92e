"""What is seen of a click: the answers, and where the decoder's tokens look."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from vit_jax.checkpoints.load import Loaded
from vit_jax.checkpoints.prompted import Masks
from vit_jax.commands import visualize
from vit_jax.commands.main import main
from vit_jax.data.drawing import image_png
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.inspection.clicks import answers_figure, click_attention, takes_clicks
from vit_jax.models import sam
from vit_jax.tasks.sam import SegmentAnything

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def loaded():
    trunk = {
        "name": "vit",
        "variant": "mu/8",
        "width": 16,
        "depth": 1,
        "num_heads": 2,
        "mlp_dim": 16,
        "pooling": "mean",
    }
    model = sam.build(trunk, width=16, decoder_heads=2, decoder_mlp_dim=16, mask_channels=4, iou_hidden=8)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    rng = np.random.default_rng(1)
    drawn = jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(x.dtype), dict(shapes))
    variables = {"params": drawn.pop("params"), "model_state": drawn}
    fields = build_fields({"image": {"name": "image"}}, Context(Preprocess((32, 32)), ()))
    metadata = {"labels": [], "model": {"name": "sam", "kwargs": {"trunk": trunk}}}
    return Loaded(epath.Path("x"), SegmentAnything(model, {}, 1), variables, fields, metadata)


def test_answers_lie_over_the_image_with_the_click():
    """The first of them where its mask is, and the photo where none is; a model without prompts takes no click."""
    masks = np.zeros((2, 32, 32), bool)
    masks[0, :8], masks[1, 8:] = True, True
    found = Masks(masks, np.float32([0.9, 0.25]), np.float32([1, 1]), np.zeros((2, 8, 8), np.float32))
    figure = answers_figure(IMAGE, found, (16.0, 24.0))
    assert [text.get_text() for axis in figure.axes for text in axis.texts] == [
        "answer 1, predicted IoU 0.90", "answer 2, predicted IoU 0.25"
    ]  # fmt: skip
    none = answers_figure(IMAGE, dataclasses.replace(found, masks=np.zeros_like(masks)), (16.0, 24.0))
    drawn, plain = (np.asarray(each.axes[0].images[0].get_array(), np.float32) for each in (figure, none))
    assert drawn.shape == plain.shape and np.abs(drawn - plain).max() > 0.2
    assert not takes_clicks(SimpleNamespace(model=object()))


@pytest.mark.long
def test_tokens_look_at_the_whole_image_together(loaded):
    assert takes_clicks(loaded)
    ask = loaded.prompted(IMAGE)
    maps = click_attention(loaded, ask, (10.0, 20.0))
    assert list(maps) == ["predicted IoU", "mask 0", "mask 1", "mask 2", "mask 3", "the click", "no box"]
    for one in maps.values():
        assert one.shape == (4, 4) and one.min() > 0 and one.sum() == pytest.approx(1, abs=1e-5)
    elsewhere = click_attention(loaded, ask, (30.0, 5.0))
    assert np.abs(maps["mask 1"] - elsewhere["mask 1"]).max() > 1e-4
    figure = answers_figure(IMAGE, ask(points=[(10, 20)]), (10, 20))
    said = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert [text[:8] for text in said] == ["answer 1", "answer 2", "answer 3"]


@pytest.mark.long
def test_the_command_draws_them(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(visualize, "open_loaded", lambda arguments: loaded)
    (tmp_path / "photo.png").write_bytes(image_png(IMAGE))
    out = tmp_path / "inside"
    assert main(["visualize", "--checkpoint", "x", str(tmp_path / "photo.png"), "--output", str(out)]) == 0
    names = {path.name for path in out.glob("*.png")}
    assert {"01_photo_click.png", "01_photo_click_tokens.png", "01_photo_rollout.png"} <= names
    assert "What a click into the middle may mean" in (out / "report.html").read_text()
