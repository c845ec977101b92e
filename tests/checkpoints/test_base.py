"""Checkpoints that name a base."""

import numpy as np
import pytest
from etils import epath

from vit_jax.checkpoints.base import bases_of, read_bases
from vit_jax.errors import UserError


def test_a_base_that_leads_back_is_refused(tmp_path):
    step = epath.Path(tmp_path) / "run" / "checkpoints" / "1"
    step.mkdir(parents=True)
    bases = bases_of([(str(step), {"encoder/kernel": "encoder/kernel"})], {"encoder/kernel": np.ones(3)}, step)

    def reading(path):
        return read_bases(bases, epath.Path(path), reading)

    with pytest.raises(UserError, match="lead back to it"):
        read_bases(bases, step, reading)
