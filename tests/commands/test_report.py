"""Runs side by side: what is grouped, what is counted, and that names from outside cannot break the page."""

import json
import re

import numpy as np
import pytest
from scipy import stats

from tests.tiny import tiny_config, trained
from tests.tiny_contrastive import contrastive_run
from vit_jax.commands import figures, report
from vit_jax.commands.main import main


def write_run(folder, accuracies, seed=0, **settings):
    """A workdir as training leaves it, with these accuracies at steps 2, 4, ..."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"seed": seed, "optim": {"name": "sgd"}, **settings}))
    rows = []
    for i, accuracy in enumerate(accuracies):
        rows.append({"step": 2 * i + 1, "train/loss": 1.0 / (i + 1), "train/accuracy": 0.5})
        rows.append({"step": 2 * i + 2, "val/accuracy": accuracy, "val/examples": 50, "knn/5shot_std": 0.1})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 99, "val/acc')
    return folder


@pytest.fixture
def sweep(tmp_path):
    write_run(tmp_path / "sweep" / "a0", [0.2, 0.5])
    write_run(tmp_path / "sweep" / "a1", [0.4, 0.7], seed=1)
    write_run(tmp_path / "sweep" / "b", [0.1, 0.2, 0.9], optim={"name": "adamw", "decay": 0.1})
    (tmp_path / "sweep" / "notes").mkdir()
    return tmp_path / "sweep"


def groups_of(sweep):
    return report.group_runs([report.read_run(path) for path in report.find_runs(str(sweep))])


def test_seeds_share_a_row_with_mean_and_deviation(sweep):
    header, rows = report.result_table(groups_of(sweep), ["val/accuracy", "train/loss"])
    assert header == ["run", "seeds", "step", "val/accuracy", "train/loss"]
    assert rows == [
        ["1: a0 and 1 more", "2", "4", f"0.6 ± {np.std([0.5, 0.7], ddof=1):.2g}", "0.5 ± 0"],
        ["2: b", "1", "6", "0.9", "0.3333"],
    ]


def test_differences_are_compared_with_what_seeds_make(tmp_path, capsys):
    a, b = [0.5, 0.52, 0.55, 0.49], [0.6, 0.58, 0.66]
    for name, values in (("a", a), ("b", b)):
        for seed, value in enumerate(values):
            write_run(tmp_path / "runs" / f"{name}{seed}", [value], seed=seed, optim={"name": name})
    write_run(tmp_path / "runs" / "c", [0.9], optim={"name": "c"})
    groups = groups_of(tmp_path / "runs")
    header, rows = report.significance_table(groups, ["val/accuracy", "train/loss"])
    assert header[2] == "difference from 1: a0 and 3 more"
    wanted = stats.ttest_ind(b, a, equal_var=False)
    low, high = wanted.confidence_interval()
    assert rows[0][1:4] == ["2: b0 and 2 more", f"{np.mean(b) - np.mean(a):+.4g}", f"{low:+.2g} to {high:+.2g}"]
    assert float(rows[0][4]) == pytest.approx(wanted.pvalue, rel=0.05) and 0 < wanted.pvalue < 0.05
    assert rows[1:] == [["train/loss", "2: b0 and 2 more", "+0", "", ""]], "no spread, and a run with one seed"
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "out.html")]) == 0
    assert "difference from" in capsys.readouterr().out and "Welch" in (tmp_path / "out.html").read_text()


def test_folds_share_a_row_and_are_compared_pair_by_pair(tmp_path):
    """The paired test with Nadeau and Bengio's variance, against its formula written out."""
    a, b = [0.5, 0.7, 0.62, 0.4, 0.55], [0.54, 0.71, 0.69, 0.41, 0.6]
    for name, values in (("a", a), ("b", b)):
        for fold, value in enumerate(values, 1):
            write_run(tmp_path / f"{name}{fold}", [value], optim={"name": name}, data={"fold": f"{fold}/5"})
    groups = groups_of(tmp_path)
    header, rows = report.result_table(groups, ["val/accuracy"])
    assert header[1] == "folds" and [row[:2] for row in rows] == [["1: a1 and 4 more", "5"], ["2: b1 and 4 more", "5"]]
    assert rows[0][3] == f"{np.mean(a):.4g} ± {np.std(a, ddof=1):.2g}"
    assert [row[0] for row in report.difference_table(groups)[1]] == ["optim.name"]
    d = np.subtract(b, a)
    t = d.mean() / np.sqrt((1 / 5 + 0.2 / 0.8) * d.var(ddof=1))
    [found] = report.significance_table(groups, ["val/accuracy"])[1]
    assert found[2] == f"{d.mean():+.4g}" and found[4] == f"{2 * stats.t.sf(t, 4):.2g}"
    low, high = map(float, found[3].split(" to "))
    assert (low + high) / 2 == pytest.approx(d.mean(), abs=1e-3) and high > low
    page = report.build_page(groups, ["val/accuracy"])
    assert "Nadeau and Bengio" in page and "deviation over folds" in page and ">2/5<" in page
    write_run(tmp_path / "c", [0.9], seed=1, optim={"name": "a"}, data={"fold": "1/5"})
    write_run(tmp_path / "d", [0.9], optim={"name": "a"}, data={"fold": "1/4"})
    counts = [row[1] for row in report.result_table(groups_of(tmp_path), ["val/accuracy"])[1]]
    assert sorted(counts) == ["1", "5", "6"], "another number of parts is another experiment"
    assert report.repeated(groups_of(tmp_path)) == "seeds and folds"


def test_curves_are_means_with_their_range(sweep):
    first, second = groups_of(sweep).values()
    assert report.curve(first, "val/accuracy") == [
        pytest.approx((2, 0.3, 0.2, 0.4)),
        pytest.approx((4, 0.6, 0.5, 0.7)),
    ]
    assert [point[0] for point in report.curve(second, "val/accuracy")] == [2, 4, 6]
    assert report.curve(second, "none") == []


def test_settings_that_differ(sweep):
    header, rows = report.difference_table(groups_of(sweep))
    assert header == ["setting", "1: a0 and 1 more", "2: b"]
    assert rows == [["optim.decay", "", "0.1"], ["optim.name", '"sgd"', '"adamw"']]


def test_metrics_by_default_and_by_name(sweep):
    runs = [report.read_run(path) for path in report.find_runs(str(sweep))]
    assert report.choose_metrics(runs, None) == ["val/accuracy", "train/loss"]
    assert report.choose_metrics(runs, ["train/accuracy"]) == ["train/accuracy"]


def test_the_command_writes_one_page(sweep, capsys, tmp_path):
    output = tmp_path / "out.html"
    assert main(["report", str(sweep), str(sweep / "b"), "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "1: a0 and 1 more" in out and "0.6 ± 0.14" in out and str(output) in out
    text = output.read_text(encoding="utf-8")
    assert text.count("2: b") >= 3 and text.count(str(sweep / "b")) == 1, "a run that was named twice counts once"
    assert "adamw" in text and "Shaded" in text and text.count("data:image/png") == 1
    assert not re.search(r"""(src|href)=["'](?!data:)""", text), "the page needs another file"


def test_nothing_outside_the_workdir_is_opened_unless_asked_for(tmp_path, capsys, monkeypatch):
    """A config is anyone's: its paths are not to reach the page."""
    (tmp_path / "secret.csv").write_text("root:x:0:0,secret\n")
    source = {"name": "manifest", "path": str(tmp_path / "secret.csv"), "split": "train"}
    data = {"image_size": [8, 8], "train": source, "eval": source, "transform": {"name": "supervised"}}
    write_run(tmp_path / "run", [0.1, 0.2], data=data, steps=2, batch_size=2, task={"name": "classify"})
    pages = []
    for images in ([], ["--images"]):
        assert main(["report", str(tmp_path / "run"), *images, "--output", str(tmp_path / "out.html")]) == 0
        pages.append((tmp_path / "out.html").read_text())
    assert "secret" not in pages[0] and "secret" in pages[1], pages[1][-800:]


def test_names_are_escaped(tmp_path, capsys):
    name = "<script>alert(1)</script> & $\\frac{1$_\"'"
    write_run(tmp_path / "runs" / name.replace("/", "∕"), [0.1, 0.2], **{"<b>": "<i>"})
    write_run(tmp_path / "runs" / "_hidden", [0.1])
    output = tmp_path / "out.html"
    assert main(["report", str(tmp_path / "runs"), "--output", str(output)]) == 0
    text = output.read_text(encoding="utf-8")
    assert "&lt;script&gt;" in text and "&lt;i&gt;" in text
    assert "<script" not in text and "<i>" not in text and "<b>" not in text


def test_more_runs_than_colours_stay_apart():
    lines = {f"{i}: run": [(0, i, i, i), (1, i, i - 1, i + 1)] for i in range(17)}
    png = figures.run_curves({"a $x$": lines, "b": {"3: run": lines["3: run"]}, "c": {}})
    assert png.startswith(b"\x89PNG")


@pytest.mark.long
def test_a_run_as_training_leaves_it(tmp_path, capsys):
    trained(tmp_path / "run")
    assert main(["report", str(tmp_path / "run"), "--images", "--output", str(tmp_path / "out.html")]) == 0
    assert "val/accuracy" in capsys.readouterr().out
    text = (tmp_path / "out.html").read_text()
    assert "Nothing but the seed" in text
    assert text.count("data:image/png") == 2 and "1: run: left the image as in evaluation, then random views" in text
    assert tiny_config()["optim"]["name"] in json.loads((tmp_path / "run" / "config.json").read_text())["optim"]["name"]


@pytest.mark.long
def test_what_runs_see_is_drawn_once_where_the_data_is_here(tmp_path, capsys):
    contrastive_run(tmp_path / "runs" / "a", "simclr", steps=2, log_every=1, optim__schedule__warmup_steps=1)
    for name, changes in {"b": {"optim": {"name": "sgd"}}, "c": {"data": {"train": {"name": "gone"}}}}.items():
        values = json.loads((tmp_path / "runs" / "a" / "config.json").read_text())
        write_run(tmp_path / "runs" / name, [0.1], **{k: {**values[k], **v} for k, v in changes.items()} | {
            k: v for k, v in values.items() if k not in (*changes, "seed")})  # fmt: skip
    assert main(["report", str(tmp_path / "runs"), "--images", "--output", str(tmp_path / "out.html")]) == 0
    text = (tmp_path / "out.html").read_text()
    assert text.count("data:image/png") == 2  # the curves, and what a and b see
    assert "1: a, 2: b: left the image as in evaluation, then times the 2 views that the loss compares" in text
    assert re.search(r"3: c: the training images cannot be drawn here\. .*no source named", text)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["gone"], "There is no directory gone"),
        (["sweep/notes"], "is not a workdir and holds none"),
        (["sweep", "--metrics", "val/acuracy"], "No run has logged 'val/acuracy'. Did you mean 'val/accuracy'?"),
        (["sweep", "--output", "no/where.html"], "There is no directory no"),
        (["sweep", "--output", "sweep"], "is a directory"),
        (["sweep/silent"], "has logged nothing yet"),
        (["sweep/broken"], "is damaged"),
    ],
)
def test_mistakes(sweep, capsys, monkeypatch, argv, message):
    write_run(sweep / "silent", [])
    write_run(sweep / "broken", [0.1])
    (sweep / "broken" / "config.json").write_text('{"seed"')
    if argv[0] == "sweep":
        for name in ("silent", "broken"):
            (sweep / name / "config.json").unlink()
    (sweep / "silent" / "metrics.jsonl").write_text("")
    monkeypatch.chdir(sweep.parent)
    assert main(["report", *argv]) == 2
    assert message in capsys.readouterr().err


def test_diffusions_are_compared_by_tenths_of_their_steps(tmp_path):
    """A mean over what was logged last, seeds together; a run without has no line, and without any there is no part."""
    for name, factor in (("a", 1.0), ("b", 3.0)):
        write_run(tmp_path / name, [0.5], seed=int(factor), task={"name": "ddpm"})
        rows = [{"step": i, **{f"train/simple_t{t}": factor * (t + 1) for t in range(10)}} for i in range(9)]
        with (tmp_path / name / "metrics.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    write_run(tmp_path / "c", [0.5])
    groups = groups_of(tmp_path)
    assert report.tenths(groups) == {"1: a and 1 more": [2.0 * (t + 1) for t in range(10)]}
    assert "Loss by t" in report.build_page(groups, ["train/loss"])
    assert report.tenths({"2: c": groups["2: c"]}) == {}
