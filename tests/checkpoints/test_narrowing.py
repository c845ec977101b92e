"""Parameters that a program reads as bfloat16 alone, and how samples come out of them."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.checkpoints import sampling
from vit_jax.checkpoints.narrowing import narrowed
from vit_jax.checkpoints.sampling import drawing, sample, settings_of, shapes_of
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo, ddpm

RNG = np.random.default_rng(0)
SHORT = jnp.bfloat16


def short(x):
    return x.astype(SHORT)


def matrix():
    return RNG.normal(size=(4, 4)).astype(np.float32)


def of_scan(w, x):
    # One that is read from outside, one that goes from turn to turn, and a slice of one at each turn.
    def turn(carry, piece):
        return (
            short(carry[0]).astype(np.float32) * 2,
            carry[1] + short(carry[0]) @ short(w["cast"]) + short(piece),
        ), None

    return jax.lax.scan(turn, (w["carried"], short(x)), w["stacked"])[0][1]


def of_while(w, x):
    def going(carry):
        return (carry[0] < 3) & (short(w["asked"]).sum() < 1e9)

    def turn(carry):
        return carry[0] + 1, carry[1] @ short(w["cast"]) + w["whole"]

    return jax.lax.while_loop(going, turn, (0, x))[1]


def of_branches(w, x):
    # The second branch reads one of them in full.
    def second(a, b):
        return short(a) + short(b.sum())

    return jax.lax.cond(x[0, 0] > 0, lambda a, b: short(a) @ short(b), second, w["cast"], w["whole"])


def of_calls(w, x):
    inner = jax.jit(lambda a, b: short(a) @ short(b) + short(b * 2))
    return x, jax.checkpoint(inner)(w["cast"], w["whole"]), w["given"], short(w["twice"]) + short(w["twice"] + 1)


@pytest.mark.parametrize(
    "program, names, cast",
    [
        (of_scan, ("cast", "carried", "stacked"), {"cast", "stacked"}),
        (of_while, ("cast", "asked", "whole"), {"cast", "asked"}),
        (of_branches, ("cast", "whole"), {"cast"}),
        (of_calls, ("cast", "whole", "given", "twice", "unread"), {"cast"}),
        (lambda w, x: (w["half"].astype(np.float16), short(w["whole_numbers"])), ("half", "whole_numbers"), set()),
    ],
)
def test_what_is_read_in_one_shorter_type_has_it(program, names, cast):
    w = {name: np.arange(16).reshape(4, 4) if name == "whole_numbers" else matrix() for name in names}
    x, run, placed = matrix(), jax.jit(program), []
    before = run(w, x)

    def place(leaf):
        placed.append(leaf)
        return jnp.asarray(leaf)

    made = narrowed(w, run.trace(w, x), place)
    assert {name for name, leaf in made.items() if leaf.dtype == SHORT} == cast
    assert len(placed) == len(set(names) - {"unread"}) and isinstance(made.get("unread", w[names[0]]), np.ndarray)
    jax.tree.map(np.testing.assert_array_equal, run(made, x), before)
    shapes = narrowed(jax.eval_shape(lambda: w), run.trace(w, x))
    assert {name: leaf.dtype for name, leaf in shapes.items()} == {name: leaf.dtype for name, leaf in made.items()}


def of_a_diffusion(dtype):
    data = DataInfo((4, 4), ("a", "b"))
    model = dict(name="unet", channels=4, multipliers=(1,), num_blocks=1, norm_groups=2, attention_levels=(0,))
    task = ddpm.build(model=model | {"dtype": dtype}, data=data, steps=20, last=0.3, conditional=True, label_drop=0.1)
    shapes = init_shapes(task.init, jax.random.key(0), {})["params"]
    redrawn = jax.tree.map(lambda x: RNG.normal(0, 0.3, x.shape).astype(np.float32), shapes)
    return task, {"params": redrawn, "model_state": {}}, settings_of(task, {"steps": 2, "sampler": "ddim"}, "one")


def test_a_network_in_float32_stays_as_it_is():
    task, variables, settings = of_a_diffusion("float32")
    traced = drawing(task, settings).trace(variables, *shapes_of(task, settings, 2))
    kept = narrowed(variables, traced)
    assert all(a is b for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(variables), strict=True))


def test_samples_of_a_network_in_bfloat16_are_the_same_in_half_the_memory(monkeypatch):
    task, variables, settings = of_a_diffusion("bfloat16")
    program, shapes = drawing(task, settings), shapes_of(task, settings, 2)
    whole = program.trace(variables, *shapes)
    narrow = narrowed(variables, whole)
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (narrow, variables)]
    assert 0.5 < sizes[0] / sizes[1] < 0.6
    assert narrow["params"]["norm_out"]["scale"].dtype == np.float32
    # Nothing is computed otherwise: the casts are gone, and no other operation is.
    gone, come = Counter(operations(whole.jaxpr.jaxpr)), Counter(operations(program.trace(narrow, *shapes).jaxpr.jaxpr))
    assert {name for name, _ in gone - come} == {"convert_element_type"} and not come - gone

    given = []
    monkeypatch.setattr(sampling, "drawing", lambda *_: Recorded(program, given))
    [drawn] = sample(task, variables, range(2), settings=settings)
    assert [leaf.dtype for leaf in jax.tree.leaves(given[0])] == [leaf.dtype for leaf in jax.tree.leaves(narrow)]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(given[0]["params"]))
    labels = {"label": jnp.arange(2)}
    before = program(variables, labels, jnp.arange(2), np.uint32(0))
    np.testing.assert_allclose(drawn.images / 255, before, atol=0.51 / 255)


class Recorded:
    """A program that notes what variables it is given."""

    def __init__(self, program, given):
        self.trace, self._program, self._given = program.trace, program, given

    def __call__(self, variables, *rest):
        self._given.append(variables)
        return self._program(variables, *rest)


def operations(jaxpr):
    """Of each operation, within others too, its name and what it makes."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name, tuple(str(var.aval) for var in equation.outvars)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from operations(inner)
