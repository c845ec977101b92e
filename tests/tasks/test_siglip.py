"""SigLIP: published counts, initial values, the loss by hand, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.drawn import drawn
from tests.tasks.test_clip import KEY, batch_of, task_of
from tests.tiny_pairs import CLIP, SIGLIP
from vit_jax import UserError
from vit_jax.models import siglip
from vit_jax.nn.parameter_count import parameter_count


# As transformers counts them; SigLIP 2 of any aspect ratio has the parameters of the one for 256 pixels.
@pytest.mark.parametrize(("vocabulary", "size", "count"), [(32000, 224, 203_155_970), (256000, 256, 375_234_050)])
def test_published_counts(vocabulary, size, count):
    def counted(depth, text_depth):
        model = siglip.build(variant="B/16", vocab_size=vocabulary, depth=depth, text={"depth": text_depth})
        return parameter_count(model, size)

    one = counted(1, 1)
    assert one + 11 * (counted(2, 1) - one) + 11 * (counted(1, 2) - one) == count


def test_sizes_of_the_text_tower():
    of_text = {v: siglip.build(variant=v, depth=1).text for v in ("B/16", "L/16", "So400m/14", "g-opt/16")}
    assert [text.width for text in of_text.values()] == [768, 1024, 1152, 1152]
    assert (of_text["g-opt/16"].depth, of_text["g-opt/16"].style.mlp_dim) == (27, 4304)
    assert siglip.build(variant="g-opt/16", depth=1).embed_dim == 1536
    assert {(text.mask, text.max_length, text.style.activation) for text in of_text.values()} == {
        (None, 64, "gelu_tanh")
    }


@pytest.mark.long
def test_the_loss_by_hand():
    """From the embeddings, in float64; initial values are t' = log 10 and b = -10."""
    task, batch = task_of(SIGLIP, name="siglip"), batch_of()
    variables = jax.jit(task.init)(KEY, batch)
    params = variables["params"]
    assert set(params) == {
        "encoder", "pool", "text", "image_projection", "text_projection", "logit_scale", "logit_bias",
    }  # fmt: skip
    np.testing.assert_allclose(params["logit_scale"], np.log(10), rtol=1e-6)
    assert params["logit_bias"] == -10
    for leaf in (params["text"]["embedding"], params["encoder"]["pos_embedding"]):
        np.testing.assert_allclose(leaf.std(), leaf.shape[-1] ** -0.5, rtol=0.15)

    names = frozenset({"image_embedding", "text_embedding", "logit_bias"})
    found, (loss, (metrics, _)) = jax.jit(
        lambda v: (task.outputs(v, batch, names, KEY), task.loss(v, batch, KEY, jnp.int32(0)))
    )(variables)
    images, texts = (np.asarray(found[f"{side}_embedding"], np.float64) for side in ("image", "text"))
    logits = 10 * images @ texts.T - 10
    sign = 2 * np.eye(8) - 1
    np.testing.assert_allclose(loss, np.log1p(np.exp(-sign * logits)).sum() / 8, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], loss, rtol=1e-6)
    assert found["logit_bias"].tolist() == [-10] * 8
    assert task.objective == "sigmoid"


def test_the_text_is_read_at_the_last_place_and_sees_all():
    model = siglip.build(**{k: v for k, v in SIGLIP.items() if k != "name"}, vocab_size=259)
    ids = np.array([[1, 70, 2, 0, 0], [1, 71, 2, 0, 0], [1, 70, 2, 0, 5]])
    inputs = model.example_inputs((8, 8))
    found = jax.jit(lambda v: model.apply(v, ids=ids)["text_embedding"])(drawn(model.init, KEY, *inputs))
    assert min(np.abs(found[0] - found[i]).max() for i in (1, 2)) > 1e-3
    assert model.text_tower.ends(ids).tolist() == [4, 4, 4]


def test_a_model_without_a_bias_is_refused():
    with pytest.raises(UserError, match="learned bias"):
        task_of(CLIP, name="siglip")
