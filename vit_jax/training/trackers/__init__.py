"""Services that people follow their runs in, beside the workdir: one file each, which imports its library itself."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from etils import epath

from vit_jax.errors import UserError
from vit_jax.naming import build_named

# How a run ended: at its last step, with an error, or told to stop and to go on later.
Ending = Literal["finished", "failed", "stopped"]


@dataclasses.dataclass(frozen=True)
class Beginning:
    """What a service is told when a run begins or goes on.

    Args:
        workdir: of the run.
        config: its plain config.
        run_id: what the service called it when it began; None for a run that it does not know.
    """

    workdir: epath.Path
    config: Mapping[str, Any]
    run_id: str | None


class Session(Protocol):
    """One run in one service. Whatever it raises is said once and tried again; see `vit_jax.training.tracking`."""

    run_id: str
    where: str  # an address or a folder, for people

    def write(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self, ending: Ending) -> None: ...


class Tracker(Protocol):
    """What a section of `config.trackers` makes: it touches no network before `begin`."""

    def check(self) -> None:
        """Raises a `UserError` where the service cannot be used: no library, no key, no address."""
        ...

    def begin(self, beginning: Beginning) -> Session: ...


def build_trackers(config: str | Sequence[str] | Mapping[str, Any] | None) -> dict[str, Tracker]:
    """The trackers of `config.trackers` by name: a name, several names, or sections by name.

    Raises:
        UserError: there is none of that name, or it does not take one of its arguments.
    """
    if isinstance(config, Mapping):
        sections = dict(config)
    else:
        names = (config,) if isinstance(config, str) else (config or ())
        sections = {name: {} for name in names}
    built = {}
    for name, section in sections.items():
        if section is None:  # `--config.trackers.wandb=none` takes one away
            continue
        if not isinstance(section, Mapping):
            raise UserError(f"config.trackers.{name} is {section!r}, not a section", "Give its arguments, or {}")
        built[name] = build_named("tracker", {"name": name, **section}, f"config.trackers.{name}")
    return built


def library(name: str, extra: str, load: Callable[[], Any]) -> Any:
    """What `load` imports.

    Raises:
        UserError: it is not installed, or does not fit what is installed beside it.
    """
    try:
        return load()
    except ImportError as error:
        raise UserError(
            f"config.trackers names {name!r}, whose library cannot be imported: {error}",
            f"Install it with: pip install 'vit_jax[{extra}]', or leave it out",
        ) from None
