"""DALL-E's discrete VAE against its authors' package and FLAVA's codebook, every parameter drawn anew."""

import json

import jax
import numpy as np
import pytest
import torch

from tests.parity.oracle import assert_close, images, nested_params, read, to_torch, write
from vit_jax.checkpoints.families import dall_e as family
from vit_jax.checkpoints.families import hf_flava_codebook
from vit_jax.checkpoints.published import Sidecar
from vit_jax.models import dvae

dall_e = pytest.importorskip("dall_e")
transformers = pytest.importorskip("transformers")
utils = pytest.importorskip("dall_e.utils")

RNG = np.random.default_rng(0)
X = np.tanh(images(16, 24, batch=2))


def redrawn(model):
    """Convolutions that keep the size of what they get, although each block counts for little."""
    with torch.no_grad():
        for name, x in model.named_parameters():
            scale = np.prod(x.shape[1:]) ** -0.5 if x.ndim > 1 else 0.1
            scale *= 3 if "res_path" in name else 1
            x.copy_(torch.from_numpy((scale * RNG.normal(size=tuple(x.shape))).astype(np.float32)))
    return model.eval()


def tensors_of(prefix, model):
    return {prefix + name: np.ascontiguousarray(x.detach().numpy()) for name, x in model.state_dict().items()}


def channels_last(x):
    return x.detach().permute(0, 2, 3, 1).numpy()


def call(ours, *args, **options):
    apply = jax.jit(lambda p, *a: ours.model.apply({"params": p}, *a, **options))
    return jax.tree.map(np.asarray, apply(nested_params(ours), *args))


@pytest.fixture(scope="module")
def authors():
    """The smallest that the package makes."""
    encoder = redrawn(dall_e.Encoder(n_hid=64, n_blk_per_group=2, vocab_size=512))
    decoder = redrawn(dall_e.Decoder(n_init=8, n_hid=64, n_blk_per_group=2, vocab_size=512))
    return encoder, decoder, tensors_of("encoder.", encoder) | tensors_of("decoder.", decoder)


def test_the_authors_encoder_and_decoder(authors):
    encoder, decoder, tensors = authors
    ours = read(family, tensors)
    pixels = utils.map_pixels(to_torch(X) * 0.5 + 0.5)
    with torch.no_grad():
        logits = encoder(pixels)
        indices = logits.argmax(1)
        shares = torch.nn.functional.one_hot(indices, 512).permute(0, 3, 1, 2).float()
        statistics = decoder(shares)
        decoded = utils.unmap_pixels(torch.sigmoid(statistics[:, :3]))
        soft = decoder(torch.softmax(logits, 1))
    found = call(ours, X)
    assert_close(found["code_logits"], channels_last(logits), "dVAE logits")
    np.testing.assert_array_equal(found["indices"], indices.reshape(2, -1))
    assert len(set(indices.flatten().tolist())) > 4
    assert_close(found["location"], channels_last(statistics[:, :3]), "dVAE location")
    assert_close(found["log_scale"], channels_last(statistics[:, 3:]), "dVAE log scale")
    pictures = np.clip(found["reconstruction"] * 0.5 + 0.5, 0, 1)
    assert_close(pictures, channels_last(decoded), "dVAE images")
    grids = ours.model.grids((16, 24))
    assert_close(call(ours, found["indices"], grids=grids, method="detokenize"), found["reconstruction"], "from tokens")
    # Between codes: the decoder of shares.
    latents = call(ours, X, method="encode")
    location = call(ours, latents, method=lambda m, z: m.decoder.decode(z))
    assert_close(location, channels_last(soft), "dVAE, shares of codes")


def test_the_authors_encoder_alone(authors):
    encoder, _, tensors = authors
    ours = read(family, {name: x for name, x in tensors.items() if name.startswith("encoder.")})
    with torch.no_grad():
        logits = encoder(utils.map_pixels(to_torch(X) * 0.5 + 0.5))
    assert_close(call(ours, X)["code_logits"], channels_last(logits), "dVAE's encoder")


def test_flava_s_codebook(tmp_path):
    config = transformers.FlavaImageCodebookConfig(num_blocks_per_group=1, hidden_size=8, vocab_size=40)
    theirs = redrawn(transformers.FlavaImageCodebook(config))
    ours = read(hf_flava_codebook, tensors_of("", theirs), Sidecar(config=json.loads(config.to_json_string())))
    pixels = to_torch(np.asarray(dvae.squeezed(X)))
    with torch.no_grad():
        logits, indices = theirs(pixels), theirs.get_codebook_indices(pixels)
    found = call(ours, X)
    assert_close(found["code_logits"], channels_last(logits), "FLAVA's codebook")
    np.testing.assert_array_equal(found["indices"], indices.reshape(2, -1))
    write(ours, tmp_path, ours.metadata(labels=()))
    again = transformers.FlavaImageCodebook.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert_close(channels_last(again(pixels)), channels_last(logits), "FLAVA's codebook, written again")
