"""docs/coverage.md says what the code does."""

import importlib.util
from pathlib import Path

import pytest
import timm

_FILE = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
_SPEC = importlib.util.spec_from_file_location("timm_coverage", _FILE)
coverage = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(coverage)
PAGE = coverage.FILE.read_text(encoding="utf-8")


def test_the_page_has_every_architecture_and_its_counts_add_up():
    said = coverage.parse(PAGE)
    names = coverage.architectures()
    assert set(said) == {name for group in names.values() for name in group}, "run python -m benchmarks.coverage"
    for module, group in names.items():
        read = sum(said[name] for name in group)
        assert f"| {module} | {read} | {len(group) - read} |" in PAGE
    assert f"{sum(said.values())} are read, {len(said) - sum(said.values())} are refused" in " ".join(PAGE.split())
    assert f"timm {timm.__version__}" in PAGE


@pytest.mark.parametrize(
    "name",
    ["vit_base_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_r26_s32_224", "mixer_s16_224",
     "resnetv2_50x1_bit", "vit_base_patch16_rpn_224", "vit_small_patch16_18x2_224", "resmlp_12_224", "resnetv2_50d_gn"],
)  # fmt: skip
def test_a_handful_is_as_the_page_says(name):
    assert (coverage.judge(name) == "") == coverage.parse(PAGE)[name]


@pytest.mark.slow
def test_all_of_it_is_as_the_page_says():
    reasons = {
        module: {name: coverage.judge(name) for name in names} for module, names in coverage.architectures().items()
    }
    assert coverage.table(reasons, timm.__version__) == PAGE, "run python -m benchmarks.coverage"
