"""Latent diffusion that goes by a mask, a depth or a control: what the U-Net reads, what is learned, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tasks.test_text_to_image import MODEL, RUN, L
from tests.tasks.test_text_to_image import config as text_config
from tests.tiny_pairs import write_pairs
from vit_jax import UserError
from vit_jax.checkpoints.given_pictures import check_pictures
from vit_jax.checkpoints.sampling import check_sample
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.evaluators.edge_agreement import EdgeAgreement
from vit_jax.evaluators.kept_pixels import KeptPixels
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo, controlnet, depth, inpaint, text_to_image
from vit_jax.tasks._latent_diffusion import LatentDiffusionTask
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

CONTROL = {key: value for key, value in MODEL["unet"].items() if key != "outputs"} | {
    "name": "controlnet",
    "hint_widths": [2, 4],
}
TEXT = {"image": {"name": "image"}, "text": {"name": "tokens", "length": L, "long": "cut"}}
DEPTH = {"depth": {"name": "dense", "dtype": "float32"}}
SIZE = (8, 4)


def reading(channels, **more):
    return {**MODEL, "unet": {**MODEL["unet"], "inputs": channels}, **more}


def config(folder, name):
    """A run of seconds of one of the tasks."""
    values = text_config(folder)
    values["task"] |= {"name": name}
    if name == "inpaint":
        values["model"] = {**RUN, "unet": {**RUN["unet"], "inputs": 5}}
        values["evals"] = {"kept": {"name": "kept_pixels", "count": 2, "settings": {"steps": 2}}}
    elif name == "depth":
        values["model"] = {**RUN, "unet": {**RUN["unet"], "inputs": 3}}
        path = write_pairs(folder)
        with np.load(path) as found:
            arrays = dict(found)
        arrays["depth"] = np.random.default_rng(0).uniform(1, 9, arrays["images"].shape[:3]).astype(np.float32)
        np.savez(folder / "depths.npz", **arrays)
        source = {"name": "arrays", "path": str(folder / "depths.npz"), "fields": ["text", "depth"]}
        values["data"] |= {"train": source, "eval": source}
        values["data"]["fields"] |= DEPTH
        values["evals"] = {"sheet": {"name": "samples", "of": "reconstruction", "count": 4}}
    else:
        values["model"] = RUN | {"control": {**CONTROL, "attention_levels": []}}
        values["data"]["fields"] |= {"control": {"name": "control"}}
        values["data"]["transform"] = {"name": "edges", "view": {"crop": "none", "flip": False}}
        values["evals"] = {"edges": {"name": "edge_agreement", "count": 2, "settings": {"steps": 2}}}
    return values


@functools.cache
def made(module, channels=2, controls=0, far=False, zeros=False, **more):
    data = DataInfo(SIZE, (), build_fields(TEXT | (DEPTH if far else {}), Context(Preprocess(SIZE))))
    model = reading(channels, **({"control": [CONTROL] * controls} if controls else {}))
    task = module.build(model=model, data=data, **{"steps": 20, "last": 0.3, **more})
    shapes = init_shapes(task.init, jax.random.key(0), {})["params"]

    def drawn(path, x):
        name = jax.tree_util.keystr(path)
        values = np.random.default_rng(sum(map(ord, name))).normal(0, 0.4, x.shape)
        values = 0 * values if zeros and "'control_" in name and "zero_" in name else values
        return values.astype(np.float32)

    return task, {"params": jax.tree_util.tree_map_with_path(drawn, shapes), "model_state": {}}


RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(-1, 1, (3, *SIZE, 3)).astype(np.float32)
MASK = RNG.integers(0, 2, (3, *SIZE, 1)).astype(np.float32)
IDS = RNG.integers(3, 200, (3, L))


@pytest.mark.long
def test_what_the_u_net_reads_beside_latents():
    """The mask at the nearest pixels and the latents of what is left; a depth of any scale from -1 to 1."""
    task, variables = made(inpaint, 5)
    given = {"image": IMAGE, "mask": MASK}
    beside, left = jax.jit(lambda v: (task._beside(v, given), task._apply(v, IMAGE * (MASK < 0.5), method="encode")))(
        variables
    )
    np.testing.assert_array_equal(beside[..., :1], MASK[:, ::2, ::2])
    np.testing.assert_allclose(beside[..., 1:], left, atol=1e-6)
    far, of = made(depth, 3, far=True)
    values = RNG.uniform(3, 80, (3, *SIZE)).astype(np.float32)
    found, scaled = (np.asarray(far._beside(of, {"depth": x})) for x in (values, 10 * values[..., None] + 7))
    np.testing.assert_allclose(found.min((1, 2, 3)), -1, atol=1e-6)
    np.testing.assert_allclose(found.max((1, 2, 3)), 1, atol=1e-6)
    np.testing.assert_allclose(scaled, found, atol=1e-4)


@pytest.mark.long
def test_a_network_that_sees_the_mask_keeps_nothing_by_force():
    """As one that sees no mask does, which begins with noise alone too, unless a strength says otherwise."""
    given = {"image": IMAGE, "mask": MASK, "text": IDS}
    for of, kept in ((made(inpaint, 5), False), (made(text_to_image), True)):
        for strength, begun in ((None, False), (0.5, True)):
            found = []

            def looked(task, variables):
                found.append(task.reverse_process(variables, given, task.sampling(steps=4, strength=strength)))  # noqa: B023
                return 0

            jax.eval_shape(functools.partial(looked, of[0]), of[1])
            assert (found[0].kept is not None) == kept and (found[0].begun is not None) == begun


@pytest.mark.long
def test_masks_of_training():
    """A quarter of everything; the others have boxes, which leave something nearly always."""
    task, _ = made(inpaint, 5)
    masks = np.asarray(jax.vmap(task._drawn_mask)(jax.random.split(jax.random.key(0), 400)))
    assert masks.shape == (400, *SIZE, 1) and set(np.unique(masks)) == {0, 1}
    share = masks.mean((1, 2, 3))
    assert 0.2 < (share == 1).mean() < 0.4 and 0.2 < np.median(share) < 0.8


@pytest.mark.long
def test_masks_of_samples_are_drawn_apart_from_their_noise(monkeypatch):
    """No draw of a mask has the key of a step: fold_in(key, n) is what split(key) gives too."""
    task, _ = made(inpaint, 5)
    keys = jax.random.split(jax.random.key(4), 40)
    monkeypatch.setattr(LatentDiffusionTask, "outputs", lambda self, variables, batch, names, rng: batch["mask"])
    masks = task.outputs({}, {"image": IMAGE, "text": IDS}, frozenset(), keys)
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, 2**31 - 1)
    np.testing.assert_array_equal(masks, jax.vmap(task._drawn_mask)(own))
    draws = jax.vmap(jax.random.split, (0, None))(own, 3).reshape(-1)
    steps = jax.vmap(lambda n: jax.vmap(jax.random.fold_in, (0, None))(keys, n))(jnp.arange(21)).reshape(-1)
    drawn, of_steps = ({*map(tuple, jax.random.key_data(each).tolist())} for each in (draws, steps))
    assert not drawn & of_steps


@pytest.mark.long
def test_what_is_learned_of_a_control():
    """Nothing is added at first, so that the loss is that of the text alone; the U-Net stays as it is."""
    task, variables = made(controlnet, controls=1, zeros=True, text_drop=0.1)
    batch = {"image": IMAGE, "text": IDS, "control": MASK.repeat(3, -1)}

    def loss(task, params):
        return task.loss({"params": params, "model_state": {}}, batch, jax.random.key(1), 0)[0]

    @jax.jit
    def of_each(params):
        value, gradient = jax.value_and_grad(functools.partial(loss, task))(params)
        return value, jax.tree.map(lambda x: jnp.abs(x).max(), gradient)

    value, gradient = of_each(variables["params"])
    plain, of_plain = made(text_to_image)
    of_plain = {name: variables["params"][name] for name in of_plain["params"]}
    np.testing.assert_allclose(value, jax.jit(functools.partial(loss, plain))(of_plain), rtol=1e-6)
    learned = {name: max(jax.tree.leaves(tree)) for name, tree in gradient.items()}
    assert learned["control_0"] > 0 and learned["unet"] == learned["autoencoder"] == learned["text"] == 0
    assert task.locked_when_loaded == ("autoencoder", "text", "unet")


def test_each_control_drops_what_is_its_own(monkeypatch):
    """Two alike dropped the same; a single one has the keys that it always had."""
    task, variables = made(controlnet, controls=2)
    keys, seen = list(jax.random.split(jax.random.key(0))), []
    monkeypatch.setattr(controlnet, "in_training", lambda *given: seen.append(given[3]) or (None, None))
    monkeypatch.setattr(controlnet, "together", lambda added: None)
    network = task._denoiser(variables, {"control": MASK.repeat(6, -1)}, keys)

    @jax.jit
    def of_each():
        network(jnp.zeros((len(MASK), 4, 2, 2)), jnp.zeros(len(MASK)), jnp.zeros((len(MASK), L, 8)))
        return [jax.random.key_data(jnp.stack(each)) for each in seen]

    first, second = of_each()
    np.testing.assert_array_equal(first, jax.random.key_data(jnp.stack(keys)))
    assert len({tuple(row) for row in np.concatenate([first, second]).tolist()}) == 4


def test_steps_that_are_controlled():
    task, _ = made(controlnet, controls=2)
    settings = task.sampling(steps=4, control_scale=[1.5, 0.5], control_start=(0, 0.25), control_end=(0.5, 1.0))
    scales = task._scales(settings, {})
    kept = task._noising(settings).timesteps
    np.testing.assert_array_equal(scales[:, kept[::-1]], [[1.5, 1.5, 0, 0], [0, 0.5, 0.5, 0.5]])
    assert scales.sum() == 4.5
    # Of an image to begin with, shares are of the steps that are left.
    settings = task.sampling(steps=4, strength=0.5, control_end=0.5)
    np.testing.assert_array_equal(task._scales(settings, {"image": IMAGE})[0, kept], [0, 1, 0, 0])
    for settings, message in (
        ({"control_scale": (1.0, 1.0, 1.0)}, "3 numbers, and there are 2"),
        ({"control_start": 0.5, "control_end": 0.5}, "from 0.5 to 0.5"),
    ):
        with pytest.raises(UserError, match=message):
            task._scales(task.sampling(steps=4, **settings), {})


@pytest.mark.long
def test_evaluators_that_do_not_give_what_is_needed_are_refused_before_training():
    """Tracing alone; with what the task needs, and it takes, there is nothing to refuse."""
    for given, evaluator, refused in (
        ((inpaint, 5), KeptPixels.gives, "draws nothing without an image"),
        ((depth, 3, 0, True), ("depth",), "draws nothing without a depth"),
        ((controlnet, 2, 1), EdgeAgreement.gives, "draws nothing without a control"),
    ):
        task, variables = made(*given)
        check_sample(task, variables, {"steps": 2}, pictures=evaluator)
        with pytest.raises(UserError, match=refused):
            check_sample(task, variables, {"steps": 2})
    task, variables = made(controlnet, controls=2)
    with pytest.raises(UserError, match="There are 1 controls, and the model has 2"):
        check_sample(task, variables, {"steps": 2}, pictures=EdgeAgreement.gives)
    task, variables = made(text_to_image)
    check_sample(task, variables, {"steps": 2}, pictures=KeptPixels.gives)
    with pytest.raises(UserError, match="'text_to_image' takes no control"):
        check_sample(task, variables, {"steps": 2}, pictures=EdgeAgreement.gives)


@pytest.mark.long
def test_a_run_that_would_draw_of_nothing_does_not_begin(tmp_path):
    values = config(tmp_path, "inpaint")
    values["evals"] = {"sheet": {"name": "samples", "count": 4, "settings": {"steps": 2}}}
    with pytest.raises(UserError, match="'sheet' would fail: The task 'inpaint' draws nothing without"):
        train(build_experiment(values), tmp_path / "run", jax.devices()[:1])


def test_what_does_not_fit_is_refused():
    task, _ = made(inpaint, 5)
    with pytest.raises(UserError, match="'inpaint' draws nothing without an image"):
        check_pictures(task, task.sampling(), {})
    with pytest.raises(UserError, match="'inpaint' draws nothing without a mask"):
        check_pictures(task, task.sampling(), {"image": IMAGE})
    far, _ = made(depth, 3, far=True)
    with pytest.raises(UserError, match="'depth' draws nothing without a depth"):
        check_pictures(far, far.sampling(), {})
    led, _ = made(controlnet, controls=2)
    with pytest.raises(UserError, match="There are 1 controls, and the model has 2"):
        check_pictures(led, led.sampling(), {"control": IMAGE})
    for message, module, more in (
        ("reads 2 channels, and this task gives it 5", inpaint, {}),
        ("reads 2 channels, and this task gives it 3", depth, {"far": True}),
        ("how far away", depth, {"channels": 3}),
        ("nothing that control goes through", controlnet, {}),
    ):
        with pytest.raises(UserError, match=message):
            made(module, **more)
    data = DataInfo(SIZE, (), build_fields(TEXT, Context(Preprocess(SIZE))))
    for values, message in (({"channels": 8}, "another size"), ({"hint_widths": [2]}, "does not fit")):
        with pytest.raises(UserError, match=message):
            controlnet.build(model=MODEL | {"control": CONTROL | values}, data=data)
    with pytest.raises(UserError, match="adds nothing to a U-Net"):
        controlnet.build(model=MODEL | {"control": MODEL["autoencoder"]}, data=data)
