"""The demo end to end with a few steps, and its report; slow, since CI runs the whole demo anyway."""

import json
import re

import pytest

from vit_jax.commands import page
from vit_jax.commands.main import main


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--workdir", str(folder), "--smoke"]) == 0
    return folder


@pytest.mark.slow
def test_summary(workdir):
    summary = json.loads((workdir / "summary.json").read_text())
    names = ["pretrain_accuracy", "fewshot_accuracy", "fewshot_pixels", "finetune_accuracy", "scratch_accuracy"]
    assert list(summary) == [*names, "image_size", "seconds"]
    assert list(summary["fewshot_accuracy"]) == list(summary["fewshot_pixels"]) == ["1", "5", "10", "25"]
    assert summary["image_size"] == [16, 32]


@pytest.mark.slow
def test_report_stands_alone(workdir):
    text = (workdir / "report.html").read_text()
    assert text.count("<img ") == 27  # three figures and 24 samples
    assert not re.search(r"(src|href)=\"(?!data:)", text) and "<script" not in text


@pytest.mark.slow
def test_it_continues_where_it_was(workdir, capsys):
    before = json.loads((workdir / "summary.json").read_text())
    assert main(["demo", "--workdir", str(workdir), "--smoke"]) == 0
    assert "steps 20 to 20" in capsys.readouterr().err
    after = json.loads((workdir / "summary.json").read_text())
    assert {k: v for k, v in before.items() if k != "seconds"} == {k: v for k, v in after.items() if k != "seconds"}


def test_names_with_markup_are_escaped():
    evil = "<script>alert(1)</script>"
    card = page.prediction_card(b"", evil, [(evil, 0.5), ("&", 0.1)])
    whole = page.page(evil, [card, page.html_table([evil], [[evil]]), page.heading(evil), page.paragraph(evil)])
    assert "<script" not in whole and whole.count("&lt;script&gt;") == 8
