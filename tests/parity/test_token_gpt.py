"""GPTs over tokens of images beside transformers' GPT-2 and ImageGPT, every parameter drawn anew."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

import vit_jax
from tests.parity.oracle import TOLERANCE, error, files_beside, read
from vit_jax import UserError
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.families import hf_imagegpt
from vit_jax.checkpoints.name_map import linear, same
from vit_jax.checkpoints.parts.gpt import layers
from vit_jax.checkpoints.source import nested, open_source
from vit_jax.models import token_gpt

V, CONDITIONS, LENGTH = 20, 3, 12


def drawn_anew(model):
    torch.manual_seed(3)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_(0, 0.3)
    return model.eval()


def inputs(conditions):
    rng = np.random.default_rng(0)
    return rng.integers(0, conditions, 3), rng.integers(0, V, (3, LENGTH))


def compare(model, params, theirs, conditions):
    """All logits, and of the cache, one token after the other."""
    params = jax.tree.map(jnp.asarray, params)
    first, tokens = inputs(conditions)
    ids = np.concatenate([V + first[:, None], tokens[:, :-1]], axis=1)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(ids), output_hidden_states=True)
    logits = wanted.logits.numpy()[..., :V]
    found = jax.jit(model.apply)({"params": params}, first, tokens)
    for name, ours, reference in (
        ("tokens", found["tokens"], wanted.hidden_states[-1].numpy()),
        ("logits", found["logits"], logits),
    ):
        largest = error(np.asarray(ours), reference)
        print(
            f"\nPARITY {type(theirs).__name__}, {name} | {largest:.1e}, reference up to {np.abs(reference).max():.1f}"
        )
        assert largest < TOLERANCE

    @jax.jit
    def step(ids, i, cache):
        before, place = jnp.full((3, 1), i - 1), jnp.full((3, 1), i)
        x, cache = model.apply({"params": params}, ids, before, place, cache, i, method="further")
        return model.apply({"params": params}, x[:, 0], method="logits"), cache

    cache = model.transformer.new_cache(3, LENGTH)
    assert sum(x.nbytes for x in cache) == 2 * 2 * 3 * LENGTH * 32 * 4  # keys and values of all layers
    for i in range(LENGTH):
        ours, cache = step(ids[:, i : i + 1], i, cache)
        assert error(np.asarray(ours), np.asarray(found["logits"])[:, i]) < 1e-5


def test_gpt2():
    """A class is a word of GPT-2's vocabulary behind those of the image; its head is one of its own."""
    config = transformers.GPT2Config(
        vocab_size=V + CONDITIONS, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=4, tie_word_embeddings=False,
        activation_function="gelu", bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    theirs = drawn_anew(transformers.GPT2LMHeadModel(config))
    state = {name: x.detach().numpy() for name, x in theirs.state_dict().items()}
    state["lm_head.weight"] = state["lm_head.weight"][:V]  # of a class nobody asks how likely it is
    entries = [
        same("transformer/embedding", "transformer.wte.weight"), same("transformer/pos_embedding", "transformer.wpe.weight"),
        same("transformer/norm/scale", "transformer.ln_f.weight"), same("transformer/norm/bias", "transformer.ln_f.bias"),
        linear("head/kernel", "lm_head.weight"),
    ]  # fmt: skip
    for i in range(2):
        for j, leaf, name in ((j, *pair) for j in (1, 2) for pair in (("scale", "weight"), ("bias", "bias"))):
            entries.append(same(f"transformer/block_{i:02d}/norm{j}/{leaf}", f"transformer.h.{i}.ln_{j}.{name}"))
        entries += layers(f"transformer/block_{i:02d}", f"transformer.h.{i}", 32, 4)
    assert {name for entry in entries for name in entry.theirs} == state.keys()
    params = {}
    for entry in entries:
        params |= dict(zip(entry.ours, entry.read(*(state[name] for name in entry.theirs)), strict=True))
    model = token_gpt.build(vocab_size=V, num_tokens=LENGTH, num_conditions=CONDITIONS, width=32, depth=2, num_heads=4)
    compare(model, nested(params), theirs, CONDITIONS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("igpt")
    config = transformers.ImageGPTConfig(vocab_size=V + 1, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=4)
    model = drawn_anew(transformers.ImageGPTForCausalImageModeling(config))
    model.save_pretrained(folder)
    return model, folder


def test_igpt(saved):
    theirs, folder = saved
    loaded = vit_jax.load(folder)
    compare(loaded.model, loaded.params, theirs, 1)


def test_the_names_are_a_bijection_and_files_of_ours_are_read_by_transformers(saved, tmp_path):
    theirs, folder = saved
    found = read(hf_imagegpt, load_file(folder / "model.safetensors"), files_beside(folder))
    assert found.kwargs["activation"] == "quick_gelu" and found.kwargs["num_conditions"] == 1
    export(open_source(folder), tmp_path / "out", "transformers")
    written, before = (load_file(path / "model.safetensors") for path in (tmp_path / "out", folder))
    assert written.keys() == before.keys() and all(written[key].tobytes() == before[key].tobytes() for key in before)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "imagegpt"
    again, told = type(theirs).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told[key] for key in ("unexpected_keys", "mismatched_keys", "missing_keys"))
    ids = torch.from_numpy(inputs(1)[1])
    with torch.no_grad():
        np.testing.assert_array_equal(again.eval()(ids).logits, theirs(ids).logits)


def test_an_image_processor_of_transformers_makes_it_a_generator(tmp_path):
    """Tokens of photos are theirs, images are drawn, and both files are written again."""
    config = transformers.ImageGPTConfig(vocab_size=V + 1, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    drawn_anew(transformers.ImageGPTForCausalImageModeling(config)).save_pretrained(tmp_path / "in")
    clusters = np.random.default_rng(0).uniform(-1, 1, (V, 3)).astype(np.float32)
    size = {"height": 4, "width": 4}
    theirs = transformers.ImageGPTImageProcessor(clusters=clusters.tolist(), size=size)
    theirs.save_pretrained(tmp_path / "in")
    loaded = vit_jax.load(tmp_path / "in")
    photo = np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    ids = theirs(photo, input_data_format="channels_last", return_tensors="np")["input_ids"]
    ours = loaded.outputs(loaded.preprocess(photo)[None], ("indices", "features"))
    np.testing.assert_array_equal(ours["indices"], ids.reshape(1, 16))
    assert ours["features"].shape == (1, 32)
    images = loaded.sample(2, seed=3, top_k=5).images
    near = np.abs(images[..., None, :] - (clusters * 127.5 + 127.5)).max(-1).min(-1)
    assert images.shape == (2, 4, 4, 3) and near.max() <= 0.51  # colours of the palette, rounded

    export(open_source(tmp_path / "in"), tmp_path / "out", "transformers")
    again = transformers.ImageGPTImageProcessor.from_pretrained(tmp_path / "out")
    np.testing.assert_array_equal(np.float32(again.clusters), clusters)
    np.testing.assert_array_equal(vit_jax.load(tmp_path / "out").sample(2, seed=3, top_k=5).images, images)
    file = tmp_path / "in" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"clusters": [[1, 2]]}))
    with pytest.raises(UserError, match="clusters.*is not 20 colours"):
        vit_jax.load(tmp_path / "in")


@pytest.mark.parametrize(
    ("variant", "size", "count"),
    [("S", (512, 24, 8), 76_682_240), ("M", (1024, 36, 8), 455_489_536), ("L", (1536, 48, 16), 1_362_914_304)],
)
def test_published_sizes(variant, size, count):
    width, depth, heads = size
    with torch.device("meta"):
        config = transformers.ImageGPTConfig(n_embd=width, n_layer=depth, n_head=heads)
        theirs = transformers.ImageGPTForCausalImageModeling(config)
    shapes = {name: tuple(x.shape) for name, x in theirs.named_parameters()}
    found = hf_imagegpt.describe(shapes, vit_jax.checkpoints.published.Sidecar(config.to_dict()))
    assert found.kwargs["variant"] == variant and "width" not in found.kwargs
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == count
