"""A share of a source held out: nothing is in both parts, and the parts are all of it."""

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data.sources import held_out

DIGITS = {"name": "digits", "split": "test", "per_class": 5}


def parts(**arguments):
    return [held_out.build(source=DIGITS, part=part, **arguments) for part in ("held", "rest")]


def test_the_parts_are_the_whole():
    held, rest = parts(share=0.1)
    assert (len(held), len(rest)) == (5, 45) and held.label_names == rest.label_names and held.in_memory
    images = {part[i]["image"].tobytes() for part in (held, rest) for i in range(len(part))}
    assert images == {held.source[i]["image"].tobytes() for i in range(50)} and len(images) == 50
    for part in (held, rest):
        assert [int(part[i]["label"]) for i in range(len(part))] == list(part.labels)
    assert not np.array_equal(parts(share=0.1, seed=1)[0].labels, held.labels)


@pytest.mark.parametrize(("share", "message"), [(0, "holds out nothing"), (0.999, "holds out all of them")])
def test_a_share_that_is_none(share, message):
    with pytest.raises(UserError, match=message):
        parts(share=share)
