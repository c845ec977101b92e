"""MAR against what its authors' code computed, with every parameter random."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import vit_jax
from tests.shared_golden import Golden, assert_close
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.families import compvis_kl, mar_authors
from vit_jax.checkpoints.published import Sidecar
from vit_jax.checkpoints.source import model_shapes, nested, open_source
from vit_jax.errors import UserError
from vit_jax.models import mar
from vit_jax.models.mar import Passes, build, fill_in, masked_counts
from vit_jax.nn.init_shapes import init_shapes

KWARGS = {
    "grid": [8, 8], "channels": 4, "patch_size": 2, "num_classes": 10, "width": 32, "depth": 2, "num_heads": 4,
    "mlp_dim": 128, "buffer": 6, "head_width": 24, "head_depth": 2, "mask_ratio_min": 0.7,
}  # fmt: skip
LABELS = np.array([3, 7])


@pytest.fixture(scope="module")
def golden():
    return Golden("mar")


@pytest.fixture(scope="module")
def run(golden):
    """Compiled methods of the model with the authors' parameters, read by their names and written back."""
    tensors, model = golden.under("mar"), build(**KWARGS)
    names = mar_authors.name_map(KWARGS, {})
    names.check(tensors, "mar.npz")
    ours = dict(names.read(tensors.__getitem__, model_shapes("mar", KWARGS, None)[0], "mar.npz"))
    for name, tensor in names.write(ours).items():
        np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)
    variables = {"params": nested(ours)}

    def call(method, *args, **static):
        return jax.jit(lambda v, *a: model.apply(v, *a, method=method, **static))(variables, *args)

    call.model, call.variables = model, variables
    return call


def test_encoder_and_decoder_are_the_authors(golden, run):
    tokens, order = golden["tokens"], golden["orders"]
    latents = golden["latent"].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(run.model.patchify(latents), tokens)
    np.testing.assert_array_equal(run.model.unpatchify(tokens), latents)
    masked, least = np.array([12, 12]), run.model.least_masked
    assert least == 12
    encoded = run("encode", tokens, order, masked, LABELS, least=least, train=False)
    # The authors have what is visible in the order of the image.
    sorted_places = np.argsort(order[:, least:], axis=1)[..., None]
    visible = np.take_along_axis(np.asarray(encoded)[:, 6:], sorted_places, axis=1)
    assert_close(np.concatenate([encoded[:, :6], visible], axis=1), golden["encoder_out"])
    for start in (12, 5):  # what is masked beyond what is needed changes nothing
        assert_close(run("__call__", tokens, order, masked, LABELS, least=start), golden["decoder_out"])
    nothing = run("encode", 9 * tokens, order, np.array([16, 16]), np.array([10, 10]), least=12, train=False)
    assert_close(nothing[:, :6], golden["encoder_out_nothing_visible_unconditional"])


@pytest.mark.parametrize("name", ["guided", "constant", "plain"])
def test_samples_are_the_authors(golden, run, name):
    meta, order = golden.meta[f"sampler_{name}"], golden[f"sampler_{name}/orders"]
    how = Passes(
        meta["num_iter"], meta["cfg"], meta["cfg_schedule"], head_steps=10, temperature=meta["temperature"]
    )  # fmt: skip
    masked = masked_counts(16, how.count)
    assert (-np.diff(masked)).tolist() == meta["tokens_per_step"]
    # Their noise is that of the places in the order of the image, of all images one after the other.
    most = max(meta["tokens_per_step"])
    noise = np.zeros((how.count, 11, 2, most, 16), np.float32)
    for i, count in enumerate(meta["tokens_per_step"]):
        places = np.argsort(np.argsort(order[:, masked[i + 1] : masked[i + 1] + count], axis=1), axis=1)
        stored = [golden[f"sampler_{name}/first_noise_{i}"], *golden[f"sampler_{name}/step_noise_{i}"]]
        for n, drawn in enumerate(stored):
            drawn = drawn[: 2 * count].reshape(2, count, 16)
            noise[i, n, :, :count] = np.take_along_axis(drawn, places[..., None], axis=1)
    noise = jnp.asarray(noise)
    labels = jnp.asarray(LABELS if meta["labels"] else [10, 10])
    found = jax.jit(lambda variables: fill_in(
        run.model, variables, labels, jnp.asarray(order), lambda i: noise[i, 0], lambda i, n: noise[i, 1 + n], how,
        golden["table/sampler_timestep_map"],
    ))(run.variables)  # fmt: skip
    assert_close(found.transpose(0, 3, 1, 2), golden[f"sampler_{name}/latent"])


def test_stages_change_nothing(run, monkeypatch):
    """With room in the encoder for what is known, or for all of an image."""
    rng, order = (
        np.random.default_rng(0),
        jnp.asarray(np.random.default_rng(1).permuted(np.tile(np.arange(16), (2, 1)), axis=1)),
    )
    noise, labels = jnp.asarray(rng.normal(size=(2, 2, 2, 11, 16)), jnp.float32), jnp.asarray(LABELS)

    def drawn():
        return jax.jit(lambda variables: fill_in(
            run.model, variables, labels, order, lambda i: noise[i, 0], lambda i, n: noise[i, 1 + n],
            Passes(2, 2.0, head_steps=1), np.array([500]),
        ))(run.variables)  # fmt: skip

    whole = drawn()
    monkeypatch.setattr(mar, "_OF_A_STAGE", 1)
    np.testing.assert_allclose(drawn(), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant, count", [("b", 207_924_768), ("l", 478_326_304), ("h", 942_403_104)])
def test_sizes_are_the_papers(variant, count):
    model = build(variant, grid=[16, 16], channels=16, num_classes=1000)
    shapes = init_shapes(functools.partial(model.init, train=False), jax.random.key(0), *model.example_inputs(None))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_files_of_the_authors_are_recognised(golden):
    shapes = {name: tensor.shape for name, tensor in golden.under("mar").items()}
    for prefixes, prefix in ((("",), ""), (("model.",), "model."), (("model.", "model_ema."), "model_ema.")):
        both = {f"{p}{name}": shape for p in prefixes for name, shape in shapes.items()}
        published = mar_authors.describe(both, Sidecar())
        assert published.layout["prefix"] == prefix
        # What a file cannot say: patches, here of 2, and heads narrower than 64.
        wanted = {**KWARGS, "grid": [4, 4], "channels": 16, "num_heads": 1}
        assert published.kwargs == {k: v for k, v in wanted.items() if k not in ("patch_size", "mask_ratio_min")}
        mar_authors.name_map(published.kwargs, published.layout).check(both, "file")
    assert mar_authors.describe({"z_proj.weight": (3, 3)}, Sidecar()) is None


def test_with_its_autoencoder_a_file_draws_images(golden, tmp_path):
    """Of 4x4 latents of 16 channels, by MAR in the names of its authors and the autoencoder in those of CompVis."""
    kwargs = {"latent_width": 16, "channels": 32, "multipliers": [1, 2], "num_blocks": 1, "scale": 0.5,
              "attention_levels": [], "middle_attention": False}  # fmt: skip
    rng, shapes = np.random.default_rng(0), model_shapes("kl_autoencoder", kwargs, (8, 8))[0]
    flat = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    vae = {f"vae.{name}": x for name, x in compvis_kl.name_map(kwargs, {}).write(flat).items()}
    loss = {"vae.loss.logvar": np.zeros((), np.float32)}  # which the autoencoder was trained with
    save_file(golden.under("mar") | vae | loss, tmp_path / "both.safetensors")
    loaded = vit_jax.load(tmp_path / "both.safetensors")
    assert loaded.task.image_size == (8, 8) and loaded.task.model.num_classes == 10
    np.testing.assert_array_equal(loaded.params["tokenizer"]["quant_conv"]["kernel"], flat["quant_conv/kernel"])
    assert "what only training needs is left out: 'vae.loss.logvar'" in loaded.metadata["source"]["remarks"]
    assert loaded.task.sampling_costs(loaded.task.sampling()) == {"tokens": 16, "passes": 16}


def test_a_pass_fills_in_at_least_one():
    assert masked_counts(16, 16).tolist() == list(range(16, -1, -1))
    assert masked_counts(256, 1).tolist() == [256, 0]
    assert masked_counts(256, 256).min() == 0 and (np.diff(masked_counts(256, 256)) < 0).all()


def test_what_cannot_be_built_is_said():
    with pytest.raises(UserError, match="Patches of 3 do not divide latents of 8x8"):
        build(**{**KWARGS, "patch_size": 3})
    with pytest.raises(UserError, match="no MAR named 'xl'"):
        build("xl", grid=[4, 4], channels=4, num_classes=2)


def test_a_file_there_and_back(golden, tmp_path):
    """Read, written and bit for bit the same; of the two of a training file the average."""
    tensors = golden.under("mar")
    both = {f"model_ema.{name}": x for name, x in tensors.items()} | {
        f"model.{name}": 0 * x for name, x in tensors.items()
    }
    save_file(both, tmp_path / "both.safetensors")
    [path] = export(open_source(tmp_path / "both.safetensors"), tmp_path / "out.safetensors", "mar")
    back = load_file(path)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)
    # A model that would be read as another one is not written.
    source = open_source(tmp_path / "both.safetensors", overrides={"num_heads": 4})
    with pytest.raises(UserError, match="mar cannot keep"):
        export(source, tmp_path / "other.safetensors", "mar")
