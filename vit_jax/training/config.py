"""Run configuration: the top-level keys, overriding single values, and comparing two runs' configs."""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.ranges import Count, Decay, Natural, check_seed
from vit_jax.training.config_file import load_config, parse_arg, parse_value, plain, shipped_configs
from vit_jax.training.durations import UNITS, check_duration, in_steps, is_duration, optim_in_steps, sections_in_steps

# Config files import from here what they are written with.
__all__ = [
    "RunConfig", "differences", "flatten", "load_config", "override", "parse_arg", "parse_value", "plain", "run_config",
    "shipped_configs",
]  # fmt: skip

# A run may be started again in its workdir with other values for these: they change what is logged, measured and
# saved, on which devices and how fast the run goes, not what a step computes. What another length does to the schedules
# is looked at in `vit_jax.training.resume`.
_MAY_DIFFER = (
    "steps",
    "stop_at",
    "log_every",
    "trackers",
    "gradient_norms",
    "eval_every",
    "checkpoint",
    "mesh",
    "model.scan",
    "model.remat",
    "data.eval_batch_size",
    "data.num_threads",
    "data.num_workers",
)


@dataclasses.dataclass(frozen=True)
class Ema:
    """An exponential moving average of parameters, and of the running statistics that go with them.

    Args:
        decay: a number, or a section: see `vit_jax.training.schedules.ema_decay`.
        match: patterns over the whole path of a parameter, such as 'generator/.*': only what one of them matches has an
            average, everything else stands in it as it is. Frozen parameters never have one.
    """

    decay: Decay | dict[str, Any]
    match: str | Sequence[str] = ".*"

    @property
    def patterns(self) -> tuple[str, ...]:
        return (self.match,) if isinstance(self.match, str) else tuple(self.match)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The top level of a config. Sections are plain dicts: their keys go to the constructors that they configure.

    Whatever is counted in steps can be counted in epochs or examples instead: see `vit_jax.training.durations`.

    Args:
        seed: every random choice of the run is folded from it; below 2^32.
        steps: length of the run in optimizer steps; schedules are laid out over it.
        batch_size: global batch size in examples.
        task: `name` of a module in `vit_jax.tasks`, and its arguments.
        model: `name` of a module in `vit_jax.models`, and its arguments.
        data: sources, transforms and preprocessing, see `vit_jax.training.inputs`.
        optim: optimizer, schedule and frozen parameters, see `vit_jax.training.optim`.
        stop_at: stop (and save) after this step although the schedule goes on, for queues with a time limit.
        microbatch: examples that go through the model at a time; gradients accumulate. None: the whole batch.
        ema: an exponential moving average of the parameters, see `Ema`, which is then what evaluation uses unless the
            task says otherwise.
        ema_decay: the same for an average of all of them, `ema=dict(decay=ema_decay)`.
        evals: evaluators by the name under which their metrics are logged; one that is None is left out.
        eval_every: steps between evaluations; None: only at the end. An evaluator's own `every` takes precedence.
        log_every: steps between lines of metrics.
        trackers: services that get the lines too: names, or sections by name, see `vit_jax.training.trackers`.
        gradient_norms: log the norm of each layer's gradient too, to see which layer a spike starts in; like all
            metrics it is a mean since the last line, so `log_every=1` shows single spikes.
        checkpoint: `every` (steps, None: at the end), `keep` (newest), `best` (a metric), `best_mode` ('max', 'min'),
            `checksums` (false writes and compares none).
        init_from: a checkpoint path, or `{subtree: path}`, from which parameters, and running statistics with them,
            are taken before the first step.
        lora: adapters through which networks learn that stay as they were loaded, see `vit_jax.nn.lora.LoRA`.
        recalibrate: training images on which the running statistics of batch normalisation are estimated anew after the
            last step, for what is evaluated and loaded then, see `vit_jax.training.recalibrate`. None: those of
            training stay.
        precompute: an output of frozen parameters that is computed once for all training examples, see
            `vit_jax.training.precompute.Precompute`.
        mesh: sizes of the axes `data`, `fsdp`, `tensor`; -1 takes the devices that are left.
    """

    seed: Natural
    steps: int | dict[str, float]
    batch_size: Count
    task: dict[str, Any]
    data: dict[str, Any]
    optim: dict[str, Any]
    model: dict[str, Any] | None = None
    stop_at: int | dict[str, float] | None = None
    microbatch: Count | None = None
    ema: dict[str, Any] | None = None
    ema_decay: Decay | dict[str, Any] | None = None
    evals: dict[str, Any] | None = dataclasses.field(default_factory=dict)
    eval_every: int | dict[str, float] | None = None
    log_every: int | dict[str, float] = 50
    trackers: str | Sequence[str] | dict[str, Any] | None = None
    gradient_norms: bool = False
    checkpoint: dict[str, Any] = dataclasses.field(default_factory=dict)
    init_from: str | dict[str, str] | None = None
    lora: dict[str, Any] | None = None
    recalibrate: Count | None = None
    precompute: dict[str, Any] | None = None
    mesh: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_seed(self.seed, "config.seed")
        for key in ("steps", "log_every", "stop_at", "eval_every"):
            if getattr(self, key) is not None or key in ("steps", "log_every"):
                check_duration(getattr(self, key), f"config.{key}")
        # `--config.evals.val=none` takes an evaluator away.
        evals = {name: section for name, section in (self.evals or {}).items() if section is not None}
        object.__setattr__(self, "evals", evals)
        for name, section in evals.items():
            if isinstance(section, Mapping) and section.get("every") is not None:
                check_duration(section["every"], f"config.evals.{name}.every")

        if self.ema is not None and self.ema_decay is not None:
            raise UserError("config.ema and config.ema_decay are both set", "Keep config.ema, with its 'decay'")
        self.average  # noqa: B018  checked here

    @functools.cached_property
    def average(self) -> Ema | None:
        """The moving average that `ema` or `ema_decay` asks for."""
        if self.ema is not None:
            return construct(Ema, self.ema, "config.ema")
        return None if self.ema_decay is None else Ema(self.ema_decay)

    def in_steps(self, examples: int) -> Self:
        """The same with every duration as a number of steps, for a training source of so many examples."""
        top = {k: getattr(self, k) for k in ("steps", "stop_at", "eval_every", "log_every")}
        top = {k: v and in_steps(v, f"config.{k}", examples, self.batch_size) for k, v in top.items()}
        sections = {
            k: sections_in_steps(getattr(self, k), f"config.{k}", examples, self.batch_size)
            for k in ("checkpoint", "evals", "task")
        }
        sections["optim"] = optim_in_steps(self.optim, "config.optim", examples, self.batch_size)
        return dataclasses.replace(self, **top, **sections)


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """Checks the top-level keys of a plain config dict."""
    return construct(RunConfig, values, "config")


def override(config: dict[str, Any], overrides: Mapping[str, str]) -> dict[str, Any]:
    """`config` with dotted keys replaced: `{"optim.learning_rate": "3e-4"}`; keys and sections may be new.

    A new `name` in a section drops the section's other keys: they were the arguments of what had the old name. A
    duration is replaced whole, whatever unit it was counted in.
    """
    config = json.loads(json.dumps(config))  # a deep copy of plain values
    # Those of a section before those within it, which the new name would drop.
    names_first = sorted(overrides.items(), key=lambda item: (not item[0].endswith(".name"), item[0].count(".")))
    for dotted, text in names_first:
        *parents, key = dotted.split(".")
        section, seen = config, "config"
        for parent in parents:
            # A misspelt section is made here and then refused by whoever should read it, who knows the right names.
            known = section.get(parent)
            if known is None or (parent == parents[-1] and key in UNITS and _replaceable(known)):
                section[parent] = {}
            if not isinstance(section[parent], dict):
                raise UserError(f"{seen}.{parent} is a value, not a section", f"Set --{seen}.{parent}=VALUE itself")
            section, seen = section[parent], f"{seen}.{parent}"
        current = section.get(key)
        current = None if is_duration(current) else current
        if isinstance(current, dict) and text.lower() not in ("none", "null"):
            raise UserError(f"{seen}.{key} is a section", f"Set one of its keys: {', '.join(sorted(current))}")
        if key == "name" and current not in (None, text):
            section.clear()
        section[key] = parse_value(text, current, f"{seen}.{key}")
    return plain(config)


def _replaceable(duration: Any) -> bool:
    return is_duration(duration) or isinstance(duration, (int, float))


def differences(ours: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Keys whose value differs between two plain configs, without those that a resumed run may change."""
    a, b = flatten(ours), flatten(stored)
    keys = sorted(k for k in a.keys() | b.keys() if a.get(k, _ABSENT) != b.get(k, _ABSENT))
    # Evaluators may come and go, but under one name there is one measurement.
    apart = (ours.get("evals") or {}).keys() ^ (stored.get("evals") or {}).keys()
    may = (*_MAY_DIFFER, *(f"evals.{name}" for name in apart))
    every = re.compile(r"evals\.[^.]+\.every(\..*)?")
    return [k for k in keys if not (every.fullmatch(k) or any(k == m or k.startswith(m + ".") for m in may))]


_ABSENT = object()


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one dict with dotted keys."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
