"""Five tasks of other kinds go through the unedited loop: what the contract promises to later papers."""

import dataclasses
import functools
import itertools
import json
import re
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from vit_jax import UserError
from vit_jax.checkpoints.steps import find
from vit_jax.checkpoints.store import read_params
from vit_jax.tasks import Task, chosen
from vit_jax.training import program
from vit_jax.training.config import run_config
from vit_jax.training.experiment import Experiment
from vit_jax.training.loop import train


class ToyPipeline:
    """Random batches as a pure function of the step."""

    def __init__(self, make):
        self._make = make

    def batch(self, step, slices=1, index=0):
        rows = self._make(np.random.default_rng(step))
        return {k: np.split(v, slices)[index] for k, v in rows.items()}

    def iterate(self, start_step, slices=1, index=0):
        return self._forever(start_step, slices, index)

    def _forever(self, step, slices, index):
        while True:
            yield self.batch(step, slices, index)
            step += 1


def points(rng):
    x = rng.normal(size=(16, 4)).astype(np.float32)
    return {"x": x, "label": (x[:, 0] > 0).astype(np.int32)}


def run(task, make, workdir, devices=1, **settings):
    values = {
        "seed": 0, "steps": 6, "batch_size": 16, "log_every": 3, "task": {"name": "toy"}, "data": {},
        "optim": {"name": "sgd", "learning_rate": 0.1}, **settings,
    }  # fmt: skip
    summary = train(Experiment(run_config(values), values, task, ToyPipeline(make)), workdir, jax.devices()[:devices])
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return summary, rows, *read_params(find(workdir))


class NormNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2, name="head")(nn.BatchNorm(use_running_average=not train, momentum=0.5, name="encoder")(x))


@dataclasses.dataclass(frozen=True)
class Watched(Task):
    """A weight that goes from one extreme to the other, and back."""

    def init(self, rng, batch):
        return {"params": {"weight": jnp.zeros(())}, "model_state": {}}

    def loss(self, variables, batch, rng, step):
        used = jnp.where((step == 2) | (step == 3), 5.0, 1.0)
        return 0 * variables["params"]["weight"], ({"used": (2 * used, jnp.float32(2))}, {})

    def remarks(self, averages):
        return {"used": f"only {averages['used']:.0f} is in use"} if averages["used"] < 2 else {}


def test_what_a_task_remarks_is_said_once_until_it_is_no_longer_so(tmp_path, capsys):
    run(Watched(), points, tmp_path, log_every=1)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("remark")]
    assert said == [f"remark: at step {step} only 1 is in use" for step in (1, 5)]


@dataclasses.dataclass(frozen=True)
class BatchNormClassifier(Task):
    model: nn.Module = NormNet()

    def init(self, rng, batch):
        variables = self.model.init(rng, batch["x"], train=False)
        return {"params": variables["params"], "model_state": {"batch_stats": variables["batch_stats"]}}

    def loss(self, variables, batch, rng, step):
        collections = {"params": variables["params"], **variables["model_state"]}
        logits, state = self.model.apply(collections, batch["x"], train=True, mutable=["batch_stats"])
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], 1)
        return losses.mean(), ({"loss": (losses.sum(), jnp.float32(losses.size))}, state)

    def outputs(self, variables, batch, names, rng):
        collections = {"params": variables["params"], **variables["model_state"]}
        return chosen(names, {"logits": self.model.apply(collections, batch["x"], False)})


def test_batch_norm_classifier(tmp_path):
    _, rows, _, state = run(BatchNormClassifier(), points, tmp_path)
    mean = np.zeros(4)
    for step in range(6):
        mean = 0.5 * mean + 0.5 * points(np.random.default_rng(step))["x"].mean(0)
    np.testing.assert_allclose(state["batch_stats"]["encoder"]["mean"], mean, atol=1e-6)
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]


def test_batch_norm_refuses_accumulation(tmp_path):
    with pytest.raises(UserError, match="statistics of whole batches"):
        run(BatchNormClassifier(), points, tmp_path, microbatch=4)


@dataclasses.dataclass(frozen=True)
class TwoViewTeacher(Task):
    """The student's view of an example is pulled to what the moving average says of another view."""

    model: nn.Module = nn.Dense(3)
    product: str = "params"

    def init(self, rng, batch):
        return {"params": {"encoder": self.model.init(rng, batch["x"])["params"]}, "model_state": {}}

    def loss(self, variables, batch, rng, step):
        noise = jax.random.normal(rng, (2, *batch["x"].shape))
        student = self.model.apply({"params": variables["params"]["encoder"]}, batch["x"] + noise[0])
        teacher = self.model.apply({"params": variables["ema"]["encoder"]}, batch["x"] + noise[1])
        distances = jnp.square(student - teacher).sum(-1)
        return distances.mean(), ({"loss": (distances.sum(), jnp.float32(distances.size))}, {})

    def outputs(self, variables, batch, names, rng):
        return chosen(names, {"features": self.model.apply({"params": variables["params"]["encoder"]}, batch["x"])})


@pytest.mark.long
def test_teacher_is_the_moving_average_after_the_optimizer(tmp_path):
    history = []
    for steps in range(1, 4):
        run(TwoViewTeacher(), points, tmp_path / str(steps), ema_decay=0.75, steps=steps)
        history.append([read_params(find(tmp_path / str(steps)), p)[0]["encoder"]["kernel"] for p in ("params", "ema")])
    (_, before), (params, ema), _ = history
    np.testing.assert_allclose(ema, 0.75 * before + 0.25 * params, rtol=1e-6)
    assert not np.allclose(ema, params)


@pytest.mark.long
def test_the_teachers_decay_may_follow_a_schedule(tmp_path):
    """Cosine from 0.5 to 1 over four steps: the average after update t keeps 0.5 + 0.25 (1 - cos(pi t / 4))."""
    history = []
    for stop in range(1, 5):
        decay = {"name": "cosine", "start": 0.5, "end": 1.0}
        run(TwoViewTeacher(), points, tmp_path / str(stop), ema_decay=decay, steps=4, stop_at=stop)
        history.append([read_params(find(tmp_path / str(stop)), p)[0]["encoder"]["kernel"] for p in ("params", "ema")])
    for t, ((_, before), (params, ema)) in enumerate(itertools.pairwise(history), 2):
        keep = 0.5 + 0.25 * (1 - np.cos(np.pi * t / 4))
        np.testing.assert_allclose(ema, keep * before + (1 - keep) * params, rtol=1e-6)
    np.testing.assert_array_equal(history[-1][1], history[-2][1])


@dataclasses.dataclass(frozen=True)
class Adversarial(Task):
    """A generator, a discriminator that only its own term moves, and a frozen third network."""

    generator: nn.Module = nn.Dense(4)
    discriminator: nn.Module = nn.Dense(1)
    judge: nn.Module = nn.Dense(2)

    def init(self, rng, batch):
        keys = jax.random.split(rng, 3)
        nets = {"generator": self.generator, "discriminator": self.discriminator, "judge": self.judge}
        params = {n: net.init(k, batch["x"])["params"] for (n, net), k in zip(nets.items(), keys, strict=True)}
        return {"params": params, "model_state": {}}

    def loss(self, variables, batch, rng, step, *, static):
        params, fixed = variables["params"], jax.lax.stop_gradient
        fake = self.generator.apply({"params": params["generator"]}, batch["x"])
        score = lambda p, x: self.discriminator.apply({"params": p}, x).mean()  # noqa: E731
        fool = (
            -score(fixed(params["discriminator"]), fake)
            + jnp.square(self.judge.apply({"params": params["judge"]}, fake)).mean()
        )
        tell = jax.nn.softplus(score(params["discriminator"], fixed(fake)) - score(params["discriminator"], batch["x"]))
        one = jnp.float32(1)
        return fool * static + tell, ({"fool": (fool, one), "tell": (tell, one)}, {})

    def static(self, step):
        return 0 if step < 2 else 1  # the generator starts after two steps: one more compilation

    def outputs(self, variables, batch, names, rng):
        return chosen(
            names, {"samples": self.generator.apply({"params": variables["params"]["generator"]}, batch["x"])}
        )


@pytest.mark.long
def test_generator_discriminator_and_a_frozen_network(tmp_path):
    groups = [{"match": "generator/.*", "name": "adamw", "learning_rate": 0.1},
              {"match": "discriminator/.*", "name": "sgd", "learning_rate": 0.01}]  # fmt: skip
    optim = {"groups": groups, "frozen": ["judge/.*"]}
    trees = {}
    for steps in (1, 2, 3):
        workdir = tmp_path / str(steps)
        _, rows, trees[steps], _ = run(Adversarial(), points, workdir, optim=optim, ema_decay=0.5, steps=steps)
    rates = {k: v for k, v in rows[-1].items() if "learning_rate" in k}
    assert rates == {"train/learning_rate/generator/.*": 0.1, "train/learning_rate/discriminator/.*": 0.01}
    kernels = {s: {n: np.asarray(p["kernel"]) for n, p in tree.items()} for s, tree in trees.items()}
    np.testing.assert_array_equal(kernels[1]["judge"], kernels[3]["judge"])
    # AdamW decays nothing and the gradient is zero until static() lets the generator's term in.
    np.testing.assert_array_equal(kernels[1]["generator"], kernels[2]["generator"])
    assert not np.array_equal(kernels[2]["generator"], kernels[3]["generator"])
    assert not np.array_equal(kernels[1]["discriminator"], kernels[2]["discriminator"])
    from orbax.checkpoint import v1 as ocp

    saved = ocp.metadata(find(tmp_path / "3"), checkpointable_name="state").metadata
    assert set(saved["ema"]) == {"generator", "discriminator"}
    assert "judge" not in str(jax.tree_util.tree_structure(saved["opt_state"]))


@dataclasses.dataclass(frozen=True)
class Penalised(Task):
    """A generator that learns in one of three steps; both parties' losses hold gradients: R1, and the weight by which
    the generator's two terms pull its last layer equally hard."""

    generator: nn.Module = nn.Dense(4)
    discriminator: nn.Module = nn.Sequential([nn.Dense(8), nn.tanh, nn.Dense(1)])

    def init(self, rng, batch):
        nets = {"generator": self.generator, "discriminator": self.discriminator}
        return {"params": {n: net.init(rng, batch["x"])["params"] for n, net in nets.items()}, "model_state": {}}

    def loss(self, variables, batch, rng, step):
        x, params, fixed = batch["x"], variables["params"], jax.lax.stop_gradient
        make = lambda p: self.generator.apply({"params": p}, x)  # noqa: E731
        score = lambda p, x: self.discriminator.apply({"params": p}, x)  # noqa: E731
        rebuild = lambda p: jnp.square(make(p) - 3 * x).mean()  # noqa: E731
        fool = lambda p: -score(fixed(params["discriminator"]), make(p)).mean()  # noqa: E731
        norms = [jnp.linalg.norm(jax.grad(of)(params["generator"])["kernel"]) for of in (rebuild, fool)]
        weight = fixed(jnp.clip(norms[0] / (norms[1] + 1e-4), 0, 1e4))
        r1 = jnp.square(jax.grad(lambda x: score(params["discriminator"], x).sum())(x)).sum(-1).mean()
        real, fake = score(params["discriminator"], x), score(params["discriminator"], fixed(make(params["generator"])))
        tell = jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean() + 10 * r1
        one = jnp.float32(1)
        total = rebuild(params["generator"]) + weight * fool(params["generator"]) + tell
        return total, ({"loss": (total, one), "weight": (weight, one), "r1": (r1, one)}, {})


@pytest.mark.long
def test_several_discriminator_steps_for_each_of_the_generator(tmp_path):
    """Both parties as a loop by hand moves them, the generator in steps 2 and 5, in a run that stops in between."""
    adam = {"name": "adamw", "b1": 0.5, "learning_rate": 0.1}
    groups = [{"match": "generator/.*", **adam, "every": 3, "offset": 1, "schedule": {"name": "linear"}},
              {"match": "discriminator/.*", **adam}]  # fmt: skip
    for stop in (3, None):
        _, logged, found, _ = run(Penalised(), points, tmp_path, optim={"groups": groups}, stop_at=stop, log_every=1)
    task, adam = Penalised(), optax.scale_by_adam(0.5, 0.999)

    @functools.partial(jax.jit, static_argnums=2)
    def by_hand(trained, batch, rates):
        gradients, (metrics, _) = jax.grad(lambda p: task.loss({"params": p}, batch, None, 0), has_aux=True)(trained[0])
        params, states = map(dict, trained)
        for party, rate in rates:
            change, states[party] = adam.update(gradients[party], states[party])
            params[party] = jax.tree.map(lambda p, u, rate=rate: p - rate * u, params[party], change)
        return (params, states), metrics

    key = program.random_key(0, 0, program.INIT)
    fresh = jax.jit(lambda: task.init(key, points(np.random.default_rng(0)))["params"])()
    trained, history = (fresh, jax.jit(lambda p: {n: adam.init(p[n]) for n in p})(fresh)), []
    for step in range(6):
        turns = (("discriminator", 0.1), *((("generator", {1: 0.1, 4: 0.05}[step]),) if step % 3 == 1 else ()))
        trained, metrics = by_hand(trained, points(np.random.default_rng(step)), turns)
        history.append({f"train/{n}": float(s) for n, (s, _) in jax.device_get(metrics).items()})
    for row, expected in zip(logged, history, strict=True):
        np.testing.assert_allclose([row[k] for k in expected], list(expected.values()), rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, trained[0])
    assert min(row["train/r1"] for row in logged) > 0 and len({row["train/weight"] for row in logged}) == 6


@dataclasses.dataclass(frozen=True)
class PaddedTokens(Task):
    """Next-token prediction where padding has no loss, so the mean's denominator varies between microbatches."""

    model: nn.Module = nn.Sequential([nn.Embed(11, 8), nn.Dense(11)])
    whole_batch: str = "the number of tokens that count differs between microbatches"

    def init(self, rng, batch):
        return {"params": self.model.init(rng, batch["tokens"])["params"], "model_state": {}}

    def loss(self, variables, batch, rng, step):
        logits = jax.nn.log_softmax(self.model.apply({"params": variables["params"]}, batch["tokens"][:, :-1]))
        losses = -jnp.take_along_axis(logits, batch["tokens"][:, 1:, None], 2)[..., 0]
        counts = (batch["tokens"][:, 1:] > 0).astype(jnp.float32)
        total, weight = (losses * counts).sum(), counts.sum()
        return total / weight, ({"loss": (total, weight)}, {})

    def outputs(self, variables, batch, names, rng):
        return chosen(names, {"logits": self.model.apply({"params": variables["params"]}, batch["tokens"])})


def counting(rng):
    start, length = rng.integers(1, 10, (16, 1)), rng.integers(2, 7, (16, 1))
    steps = np.arange(6)[None]
    return {"tokens": np.where(steps < length, (start + steps - 1) % 10 + 1, 0).astype(np.int32)}


def test_tokens_with_padding(tmp_path):
    optim = {"name": "adamw", "learning_rate": 0.05}
    _, rows, _, _ = run(PaddedTokens(), counting, tmp_path, optim=optim, steps=60, log_every=30)
    assert rows[-1]["train/loss"] < 0.5 * rows[0]["train/loss"]


def test_a_varying_denominator_refuses_accumulation(tmp_path):
    with pytest.raises(UserError, match="number of tokens that count differs"):
        run(PaddedTokens(), counting, tmp_path, microbatch=4)
    assert not (tmp_path / "config.json").exists()


def test_unknown_attributes_are_refused_with_the_nearest_right_one():
    for attributes, sentence in (
        ({"whole_bacth": "negatives"}, "unknown attribute 'whole_bacth'. Did you mean 'whole_batch'?"),
        ({"__annotations__": {"whole_bacth": str}, "whole_bacth": "x"}, "Did you mean 'whole_batch'?"),
        ({"outputs_of": lambda self: None}, "Did you mean 'outputs'?"),
        ({"__annotations__": {"zap": ClassVar[int]}, "zap": 1}, "unknown attribute 'zap'. Make it a field, or"),
    ):
        with pytest.raises(UserError, match=re.escape(sentence)):
            type("Toy", (Task,), attributes)
    toy = type("Toy", (Task,), {"__annotations__": {"temperature": float, "model": Any}, "_own": 1})
    # Although the base has a model of None.
    with pytest.raises(TypeError, match="'temperature' and 'model'"):
        dataclasses.dataclass(frozen=True)(toy)()
