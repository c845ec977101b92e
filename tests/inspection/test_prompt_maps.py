"""Where a tiny latent diffusion looks for the words of its prompt: as arrays, and as the picture of `visualize`."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.commands.test_visualize import made
from tests.tasks.test_text_to_image import MODEL, config
from tests.tiny import tiny_config, untrained
from vit_jax import UserError
from vit_jax.commands.diffusion_pictures import _words
from vit_jax.commands.main import main
from vit_jax.data.tokenizers import clip_bpe
from vit_jax.inspection import prompt_maps
from vit_jax.inspection.figures import overlay
from vit_jax.inspection.texts import split_words
from vit_jax.nn.multi_head import MultiHeadAttention
from vit_jax.nn.style import BlockStyle
from vit_jax.tasks import example_keys

UNET = {**MODEL["unet"], "multipliers": [1, 1], "attention_levels": [0, 1]}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    values = config(folder) | {"evals": {}, "model": {**MODEL, "unet": UNET}}
    values["data"]["image_size"] = [8, 4]
    values["task"] |= {"steps": 60}
    return untrained(folder / "run", values, signed=True)


@pytest.fixture(scope="module")
def loaded(workdir):
    return vit_jax.load(workdir)


ASKED = {"steps": 3, "guidance": 2.0, "seed": 4}


@pytest.fixture(scope="module")
def found(loaded):
    return prompt_maps.prompt_maps(loaded, "ab", **ASKED)


@pytest.mark.long
def test_shares_are_those_of_the_forward_pass_at_each_step(loaded, found):
    """By the queries and keys that the layers compute, seeing the prompt's tokens and no negative ones."""
    task, settings = loaded.task, loaded.task.sampling(steps=3, guidance=2.0)
    conditions = {name: jnp.asarray(x) for name, x in task.conditions(["ab"], settings).items()}
    network, grids = {"params": loaded.params["unet"]}, {(4, 2): [], (2, 1): []}

    @jax.jit
    def captured(variables):
        process = task.reverse_process(variables, conditions, settings)
        keys = example_keys(4, {"index": jnp.arange(1)})
        context = task.model.apply({"params": variables["params"]}, conditions["text"], method="context")
        wanted = lambda module, _: module.name in ("query", "key") and module.path[-2] == "cross"  # noqa: E731

        def of_step(step):
            given = (step[0], jnp.full(1, step[1]), context)
            return task.model.unet.apply(network, *given, capture_intermediates=wanted)[1]["intermediates"]

        return jax.lax.map(of_step, (process.trail(keys).xt, jnp.asarray(process.noising.timesteps)[::-1]))

    found_of_all = captured(loaded.variables)
    for i in range(3):
        step = jax.tree.map(lambda x: x[i], found_of_all)  # noqa: B023
        layers = jax.tree.leaves(step, is_leaf=lambda node: isinstance(node, dict) and "query" in node)
        assert len(layers) == 2 * 3 + 1
        for layer in layers:
            q, k = (np.asarray(layer[name]["__call__"][0][0], np.float64) for name in ("query", "key"))
            logits = np.einsum("thd,shd->hts", q, k) / np.sqrt(q.shape[-1])
            weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            grid = {8: (4, 2), 2: (2, 1)}[len(q)]
            grids[grid].append(weights.mean(0).T.reshape(-1, *grid))
    assert list(found.maps) == list(grids)
    for grid, maps in found.maps.items():
        np.testing.assert_allclose(maps, np.mean(grids[grid], axis=0), atol=1e-5)
        np.testing.assert_allclose(maps.sum(0), 1, atol=1e-5)
    assert found.maps[4, 2].std((1, 2)).max() > 1e-3


@pytest.mark.long
def test_the_image_is_the_sample_and_words_are_those_of_the_prompt(loaded, found):
    drawn = loaded.sample(1, prompts=["ab"], batch_size=1, **ASKED).images[0]
    assert np.abs(found.image.astype(int) - drawn).max() <= 1
    assert found.words[1:3] == ("a", "b") and np.flatnonzero(~found.special).tolist() == [1, 2]
    assert found.together.shape == (len(found.words), 4, 2)
    np.testing.assert_array_equal(found.together[0, :, 0] > 0, True)


def test_layers_of_a_name_are_noted_and_compute_the_same():
    """Those of another name are not; a place's weights are those of its query."""
    layer, other = (MultiHeadAttention(BlockStyle(num_heads=2, mlp_dim=4), name=name) for name in ("cross", "self"))
    rng = np.random.default_rng(0)
    x, memory = (jnp.asarray(rng.normal(size=(2, n, 4)), jnp.float32) for n in (8, 3))
    variables = layer.init(jax.random.key(0), x, memory, train=False)
    plain = layer.apply(variables, x, memory, train=False)[0]
    with prompt_maps.noted_attention("cross") as noted:
        np.testing.assert_allclose(layer.apply(variables, x, memory, train=False)[0], plain, atol=1e-6)
        other.apply(variables, x, memory, train=False)
    assert [weights.shape for weights in noted] == [(2, 2, 8, 3)]
    np.testing.assert_allclose(noted[0].sum(-1), 1, atol=1e-6)
    layer.apply(variables, x, memory, train=False)
    assert len(noted) == 1


def test_maps_of_layers_by_their_resolution():
    """Rows before columns, and the mean of the layers of a resolution."""
    fine, coarse = (np.random.default_rng(n).uniform(size=(1, 2, n, 3)).astype(np.float32) for n in (8, 2))
    found = prompt_maps._by_grid([fine, coarse, 3 * fine], (4, 2))
    assert set(found) == {(4, 2), (2, 1)}
    np.testing.assert_allclose(found[4, 2][1, 3, 0], 2 * fine[0, :, 6, 1].mean(), rtol=1e-6)
    np.testing.assert_allclose(found[2, 1][2, 1, 0], coarse[0, :, 1, 2].mean(), rtol=1e-6)


def test_words_of_several_tokens_are_put_together():
    """CLIP's tokens say where a word ends, not where one begins."""
    tokenizer = clip_bpe.build()
    ids = [tokenizer.bos_id, *tokenizer.encode("a zwiebelfish, red"), tokenizer.eos_id, tokenizer.eos_id]
    words, special, first = split_words(tokenizer, np.array(ids))
    assert words == ("[start]", "a", "zwiebelfish", ",", "red", "[end]", "[end]")
    assert special.tolist() == [True, False, False, False, False, True, True]
    assert first[3] - first[2] > 1


def test_pictures(monkeypatch):
    """Of maps that no model made: two words between a start and padding, at two resolutions."""
    rng = np.random.default_rng(0)
    maps = {grid: rng.uniform(size=(4, *grid)) for grid in ((4, 2), (2, 1))}
    maps = {grid: values / values.sum(0) for grid, values in maps.items()}
    words, special = ("[start]", "a", "b", "[end]"), np.array([True, False, False, True])
    found = prompt_maps.PromptMaps(words, special, maps, rng.integers(0, 256, (8, 4, 3), np.uint8))
    monkeypatch.setattr(prompt_maps, "prompt_maps", lambda *_: found)
    monkeypatch.setattr("vit_jax.commands.diffusion_pictures._WORDS", 1)
    pictures = list(_words(None, "ab", 2))
    assert [each.name for each in pictures] == ["words_02", "words_02_2"]
    first, shown = pictures[0], found.together[1].mean()
    assert f"a {shown:.1%}; start" in first.caption
    titles = [axes.get_title() for axes in first.figure.axes]
    assert titles == ["sample", "a", "", "", "", ""]
    tiles = [axes.images[0].get_array() for axes in first.figure.axes]
    for row, maps in zip((1, 3, 5), (found.together, *found.maps.values()), strict=True):
        np.testing.assert_allclose(tiles[row], overlay(found.image, maps[1]), atol=1 / 120)


def test_another_model_reads_no_words(tmp_path):
    loaded = vit_jax.load(untrained(tmp_path, tiny_config()))
    assert not prompt_maps.reads_words(loaded)
    with pytest.raises(UserError, match="draws no images of texts by diffusion"):
        prompt_maps.prompt_maps(loaded, "a")


@pytest.mark.long
def test_the_command(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr("vit_jax.commands.diffusion_pictures._COUNTS", (1,))  # each is a program
    output = tmp_path / "inside"
    assert main(["visualize", "--checkpoint", str(workdir), "--prompt", "$ab", "--output", str(output)]) == 0
    assert made(output) == ["film_strip.png", "one_against_many.png", "report.html", "schedule.png", "words_01.png"]
    assert cv2.imread(str(output / "words_01.png")).std() > 5
