"""EfficientViT: published sizes to the parameter, maps, drop path, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.checkpoints.channels import fit_channels
from vit_jax.models.efficientvit import EfficientViTEncoder, build
from vit_jax.models.efficientvit_variants import VARIANTS
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.parameter_count import parameter_count

TINY = {"widths": [4, 4, 8, 8, 16], "depths": [1, 2, 1, 1, 1], "head_width": 4, "head_widths": [8, 12]}
# Parameters with 1000 classes and multiply-adds at 224 in billions, of timm's models; of the trunks for SAM parameters
# alone, of the authors' package efficientsam.
PUBLISHED = {
    "B0": (3_410_008, "0.10"), "B1": (9_102_024, "0.52"), "B2": (24_330_712, "1.58"), "B3": (48_646_056, "3.95"),
    "L1": (52_654_088, "5.26"), "L2": (63_707_016, "6.95"), "L3": (246_037_288, "27.59"),
}  # fmt: skip


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_sizes(variant):
    parameters, billions = PUBLISHED[variant]
    model = build(variant, num_classes=1000)
    assert parameter_count(model, 64) == parameters
    assert f"{model.flops((224, 224)) / 2e9:.2f}" == billions


@pytest.fixture(scope="module")
def tiny():
    model = build("B1", num_classes=3, **TINY)
    images = np.random.default_rng(0).normal(size=(2, 32, 64, 3)).astype(np.float32)
    return model, jax.jit(model.init)(jax.random.key(0), images), images


@pytest.mark.long
def test_a_residual_branch_starts_as_nothing(tiny):
    _, variables, _ = tiny
    zero = {
        "/".join(key.key for key in path[:-1])
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
        if path[-1].key == "scale" and not leaf.any()
    }
    branches = {"stage_0/block_00/project/norm", "stage_1/block_00/project/norm"}
    branches |= {f"stage_{i}/block_00/{part}/norm" for i in (3, 4) for part in ("attention/proj", "mbconv/project")}
    assert zero == {f"encoder/{name}" for name in branches}


@pytest.mark.long
def test_layers_have_all_parameters_of_the_trunk(tiny):
    model, variables, _ = tiny
    names = ["/".join(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])]
    beginnings = [begin for layer in model.layers() for begin in layer]
    assert beginnings[:3] == ["encoder/stage_0/stem", "encoder/stage_0/block_00", "encoder/stage_1/downsample"]
    for name in names:
        fitting = [begin for begin in beginnings if name.startswith(begin + "/")]
        assert len(fitting) == name.startswith("encoder/"), name


def test_rates_of_drop_path_grow_over_the_residual_branches():
    """As the authors' code counts them: (i + 1) / n of the rate, after those that are skipped."""
    encoder: EfficientViTEncoder = build("B1", num_classes=0, drop_path_rate=0.5, drop_path_skip=1, **TINY).encoder
    rates = [rate for stage in encoder._stages(parent=None) for rate in stage.drop_path_rates]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.long
def test_dropped_paths_leave_the_shortcut(tiny):
    _, variables, images = tiny
    model = build("B1", num_classes=3, drop_path_rate=0.9, **TINY)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)

    @jax.jit
    def run(variables, key):
        return model.apply(variables, images, train=True, rngs={"drop_path": key}, mutable=["batch_stats"])[0]["tokens"]

    first, second = (run(variables, jax.random.key(seed)) for seed in range(2))
    assert np.isfinite(first).all() and not np.allclose(first, second)


def applied(variables, images, **arguments):
    model = build("B1", num_classes=3, **TINY, **arguments)
    return jax.jit(model.apply)(variables, images)


@pytest.mark.long
def test_both_ways_of_convolving_give_the_same(tiny):
    _, variables, images = tiny
    found = [applied(variables, images, conv_implementation=one)["tokens"] for one in ("products", "convolution")]
    np.testing.assert_allclose(*found, atol=1e-5)


@pytest.mark.long
def test_parameters_are_float32_and_half_precision_is_near(tiny):
    _, variables, images = tiny
    variables = jax.tree.map(lambda leaf: jnp.where(leaf == 0, 0.05, leaf), variables)
    found, exact = applied(variables, images, dtype="bfloat16"), applied(variables, images)
    assert found["tokens"].dtype == jnp.bfloat16 and found["logits"].dtype == jnp.float32
    np.testing.assert_allclose(found["logits"], exact["logits"], atol=0.05 * np.abs(exact["logits"]).max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "B9"}, "There is no EfficientViT named 'B9'. Did you mean 'B"),
        ({"widths": [8, 8]}, r"widths=\[8, 8\] is not one number for each of the 5 stages of B1"),
        ({"depths": [1, 0, 1, 1, 1]}, r"depths=\[1, 0, 1, 1, 1\] leaves stage 1 without a block"),
        ({"head_widths": [8]}, r"head_widths=\[8\] are not two numbers"),
        ({"conv_implementation": "xla"}, "Unknown conv_implementation 'xla'"),
    ],
)
def test_what_does_not_exist_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        build(**{"variant": "B1", "num_classes": 3, **arguments})


def test_a_trunk_for_sam_has_a_map_more():
    model = build("XL1", num_classes=0)
    images = jax.ShapeDtypeStruct((1, 128, 64, 3), np.float32)
    outputs = init_shapes(lambda x: model.init_with_output(jax.random.key(0), x, maps=True)[0], images)
    found = {stride: leaf.shape[1:] for stride, leaf in outputs["maps"].items()}
    assert found == {4: (32, 16, 64), 8: (16, 8, 128), 16: (8, 4, 256), 32: (4, 2, 512), 64: (2, 1, 1024)}


def test_images_of_one_channel_fit_after_the_first_kernel_is_summed(tiny):
    _, variables, _ = tiny
    grey = fit_channels(variables["params"], 1)["encoder"]["stage_0"]["stem"]["conv"]["kernel"]
    three = variables["params"]["encoder"]["stage_0"]["stem"]["conv"]["kernel"]
    np.testing.assert_allclose(grey[:, :, 0], three.sum(2), atol=1e-7)


def test_an_image_smaller_than_the_last_stride_is_refused():
    assert set(VARIANTS) > set(PUBLISHED)
    for variant, stride in (("B0", 32), ("XL0", 64)):
        images = jax.ShapeDtypeStruct((1, stride - 1, 64, 3), np.float32)
        message = (
            f"An image of {stride - 1}x64 pixels is smaller than the last map's stride of {stride}. Give images of"
        )
        with pytest.raises(UserError, match=message):
            init_shapes(build(variant, num_classes=0).init, jax.random.key(0), images)
