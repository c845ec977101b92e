"""What is carried over from one checkpoint to another model, and what is said about it."""

import jax
import numpy as np
import pytest

from tests.tiny import tiny_run
from vit_jax import UserError
from vit_jax.checkpoints.store import find, read_params
from vit_jax.checkpoints.transfer import init_from
from vit_jax.models import vit
from vit_jax.nn.posemb import interpolate_posemb


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    tiny_run(folder, model__representation_size=16)
    params, _ = read_params(find(folder))
    return folder, jax.tree.map(np.asarray, params)


def shapes(size=(8, 8), **kwargs):
    model = vit.build(**{"variant": "mu/4", "num_classes": 5, "pooling": "mean", **kwargs})
    return jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, *size, 3), np.float32))["params"]


def test_bare_path_takes_all_but_the_head(pretrained):
    folder, params = pretrained
    found, [report] = init_from(shapes((16, 24)), str(folder))
    assert report.missing == ("head/bias", "head/kernel")
    assert report.resized == ("encoder/pos_embedding (2, 2) -> (4, 6)",)
    assert report.unused == ("head/bias", "head/kernel", "pre_logits/bias", "pre_logits/kernel")
    np.testing.assert_array_equal(found["encoder/norm/scale"], params["encoder"]["norm"]["scale"])
    resized = interpolate_posemb(params["encoder"]["pos_embedding"], (4, 6))
    np.testing.assert_array_equal(found["encoder/pos_embedding"], resized)
    assert "resized    1  encoder/pos_embedding (2, 2) -> (4, 6)" in str(report)
    assert "pre_logits (2 arrays)" not in str(report) and "unused     4" in str(report)


@pytest.mark.parametrize("sources", ["{}", {"encoder": "{}"}])
def test_positions_are_resized_as_their_source_says(sources, tmp_path):
    tiny_run(tmp_path, model__posemb_resize="bicubic_antialias")
    params, _ = read_params(find(tmp_path))
    sources = str(tmp_path) if isinstance(sources, str) else {"encoder": str(tmp_path)}
    found, _ = init_from(shapes((16, 24)), sources)
    positions = np.asarray(params["encoder"]["pos_embedding"])
    np.testing.assert_array_equal(
        found["encoder/pos_embedding"], interpolate_posemb(positions, (4, 6), "bicubic_antialias")
    )


def test_subtrees_from_sources(pretrained):
    folder, params = pretrained
    found, [report] = init_from({"trunk": shapes()["encoder"]}, {"trunk": f"{folder}::encoder"})
    np.testing.assert_array_equal(found["trunk/norm/bias"], params["encoder"]["norm"]["bias"])
    assert not report.missing and not report.unused


def test_a_run_starts_from_it_with_a_zero_head(pretrained, tmp_path):
    folder, params = pretrained
    tiny_run(tmp_path, init_from=folder, steps=1, model__representation_size=16, ema_decay=0.9,
             optim__learning_rate=0.0, optim__schedule__warmup_steps=0)  # fmt: skip
    for product in ("params", "ema"):
        now, _ = read_params(find(tmp_path), product)
        assert not np.any(now["head"]["kernel"])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), now["encoder"], params["encoder"])


@pytest.mark.parametrize(
    ("kwargs", "sources", "message"),
    [
        ({"width": 16}, "{}", "of shape .* the model needs"),
        ({}, {"trunk": "{}"}, "fills 'trunk', which the model does not have"),
        ({}, {"encoder": "{}::head"}, "no parameter in common"),
        ({}, "{}-gone", "There is no checkpoint at"),
    ],
)
def test_mistakes_get_a_sentence(pretrained, kwargs, sources, message):
    fill = lambda text: text.format(pretrained[0])  # noqa: E731
    sources = fill(sources) if isinstance(sources, str) else {k: fill(v) for k, v in sources.items()}
    with pytest.raises(UserError, match=message):
        init_from(shapes(**kwargs), sources)


def test_resuming_wins_over_init_from(pretrained, tmp_path):
    folder, _ = pretrained
    changes = {"init_from": folder, "model__representation_size": 16}
    tiny_run(tmp_path / "parts", stop_at=3, **changes)
    tiny_run(tmp_path / "parts", **changes)
    tiny_run(tmp_path / "whole", **changes)
    trees = [read_params(find(tmp_path / name))[0] for name in ("parts", "whole")]
    jax.tree.map(np.testing.assert_array_equal, *trees)
