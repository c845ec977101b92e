"""Seeds for one purpose each, made from the seed of a run."""

import numpy as np


def derived_seed(seed: int, *purpose: int) -> int:
    """A seed of its own for every purpose, named by numbers."""
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1)[0])
