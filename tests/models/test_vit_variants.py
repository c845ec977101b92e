"""Names of the published sizes."""

import pytest

from vit_jax.models.vit import VARIANTS, parse_variant


@pytest.mark.parametrize(
    ("name", "variant", "patch"),
    [
        ("B/16", "B", 16),
        ("b/32", "B", 32),
        ("ti/8", "Ti", 8),
        ("SO400M/14", "So400m", 14),
        ("m/16", "M", 16),
        ("MU/16", "mu", 16),
        ("g/14", "g", 14),
        ("G/14", "G", 14),
        ("g-opt/14", "g-opt", 14),
        ("G-opt/14", "G-opt", 14),
    ],
)
def test_variant_names(name, variant, patch):
    assert parse_variant(name) == (VARIANTS[variant], patch)
