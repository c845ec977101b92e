"""Name maps: bijections that carry numbers over bit for bit, and say what does not fit."""

import numpy as np
import pytest

import vit_jax
from vit_jax.checkpoints.families import compvis_vqgan
from vit_jax.checkpoints.name_map import NameMap, conv, dense, fused, linear, norm, same, transpose
from vit_jax.checkpoints.safetensors import write_safetensors
from vit_jax.checkpoints.source import model_shapes
from vit_jax.checkpoints.transfer import flat_arrays
from vit_jax.errors import UserError

MAP = NameMap(
    [
        conv("stem/kernel", "stem.weight"),
        *dense("fc", "mlp.fc"),
        *norm("norm", "ln"),
        fused(
            ("q/kernel", "k/kernel"),
            "qk.weight",
            [linear("q/kernel", "", (4, 2, 3), 2), linear("k/kernel", "", (4, 2, 3), 2)],
        ),
        linear("out/kernel", "out.weight", (2, 3, 4)),
        same("probe", "probe", (1, 1, 4), (4,)),
    ],
    ignored=("*.num_batches_tracked",),
)
FILE = {
    "stem.weight": (5, 3, 2, 2), "mlp.fc.weight": (7, 4), "mlp.fc.bias": (7,), "ln.weight": (4,), "ln.bias": (4,),
    "qk.weight": (12, 4), "out.weight": (4, 6), "probe": (4,),
}  # fmt: skip
OURS = {
    "stem/kernel": (2, 2, 3, 5), "fc/kernel": (4, 7), "fc/bias": (7,), "norm/scale": (4,), "norm/bias": (4,),
    "q/kernel": (4, 2, 3), "k/kernel": (4, 2, 3), "out/kernel": (2, 3, 4), "probe": (1, 1, 4),
}  # fmt: skip


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in FILE.items()}


def read(tensors, shapes=OURS, name_map=MAP):
    name_map.check(tensors, "x.file")
    return dict(name_map.read(tensors.__getitem__, shapes, "x.file"))


def test_there_and_back_is_bit_exact(tensors):
    ours = read(tensors)
    assert {name: array.shape for name, array in ours.items()} == OURS
    back = MAP.write(ours)
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


def test_they_compute_the_same(tensors):
    ours, x = read(tensors), np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(x @ ours["fc/kernel"], x @ tensors["mlp.fc.weight"].T, rtol=1e-6)
    q = np.einsum("bd,dhf->bhf", x, ours["q/kernel"]).reshape(3, 6)
    np.testing.assert_allclose(q, x @ tensors["qk.weight"][:6].T, rtol=1e-5, atol=1e-6)
    heads = q.reshape(3, 2, 3)
    np.testing.assert_allclose(
        np.einsum("bhf,hfd->bd", heads, ours["out/kernel"]), q @ tensors["out.weight"].T, rtol=1e-5, atol=1e-6
    )


def test_what_does_not_fit_is_named(tensors):
    read(tensors | {"bn.num_batches_tracked": np.zeros(())})
    with pytest.raises(UserError, match=r"x.file has no tensor 'mlp.fc.bias'\. The nearest is 'mlp.fc.bais'"):
        read({("mlp.fc.bais" if name == "mlp.fc.bias" else name): t for name, t in tensors.items()})
    with pytest.raises(UserError, match=r"has a tensor 'ln2.weight' that this model does not.* 'ln.weight'"):
        read(tensors | {"ln2.weight": np.zeros(4)})
    with pytest.raises(UserError, match=r"'ln.weight' of shape \[5\], which makes norm/scale \[5\] .* needs \[4\]"):
        read(tensors | {"ln.weight": np.zeros(5)})
    with pytest.raises(UserError, match=r"'qk.weight' of shape \[13, 4\], which the model cannot take"):
        read(tensors | {"qk.weight": np.zeros((13, 4))})


def test_no_hole_is_left(tensors):
    with pytest.raises(UserError, match="has nothing for the parameter head/bias"):
        read(tensors, OURS | {"head/bias": (3,)})
    with pytest.raises(UserError, match="for probe, which the model does not have"):
        read(tensors, {name: shape for name, shape in OURS.items() if name != "probe"})
    with pytest.raises(UserError, match="no place for head/bias"):
        MAP.write(read(tensors) | {"head/bias": np.zeros(3)})


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32])
def test_transpose(dtype):
    x = np.arange(35, dtype=dtype).reshape(5, 7)
    np.testing.assert_array_equal(transpose(x), x.T)
    assert transpose(x).flags.c_contiguous and transpose(x).flags.owndata
    assert transpose(x[:0]).shape == (7, 0)


def test_what_only_training_needs_is_left_out_and_said_to_be(tmp_path):
    """A codebook that moving averages made, with these and the discriminator that it was trained against."""
    kwargs = {"channels": 4, "multipliers": [1, 2], "num_blocks": 1, "attention_levels": [], "norm_groups": 2,
              "latent_channels": 3, "num_codes": 5}  # fmt: skip
    params, _ = model_shapes("vqgan", kwargs, (16, 16))
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in params.items()}
    tensors = compvis_vqgan.name_map(kwargs, {}).write(arrays)
    average = {"quantize.embedding.embed_avg": np.ones((5, 3), np.float32)}
    of_training = {**average, "loss.discriminator.main.0.bias": np.ones(4, np.float32)}
    write_safetensors(tmp_path / "model.safetensors", tensors | of_training)
    loaded = vit_jax.load(tmp_path / "model.safetensors", overrides={"norm_groups": 2})
    (said,) = [remark for remark in loaded.metadata["source"]["remarks"] if "training" in remark]
    assert said == "what only training needs is left out: 'loss.discriminator.main.0.bias' and 1 more"
    np.testing.assert_array_equal(
        flat_arrays(loaded.params)["decoder/conv_in/kernel"], arrays["decoder/conv_in/kernel"]
    )
    assert not loaded.model_state
    plain = NameMap(MAP.entries, training=("*_avg",))
    assert plain.left_out(["probe", "b_avg", "a_avg"]) == ["a_avg", "b_avg"]
    with pytest.raises(UserError, match="has a tensor 'b_average'"):
        plain.check([*FILE, "b_average"], "x.file")
