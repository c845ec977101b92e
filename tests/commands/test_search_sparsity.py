"""`vit_jax search-sparsity`: what it finds, again and after an interruption, and that other commands take it."""

import dataclasses
import json

import cv2
import jax
import numpy as np
import pytest

from tests.tasks.test_sparsevit import config
from tests.tiny import tiny_config, untrained
from vit_jax.checkpoints.load import load
from vit_jax.commands.main import main
from vit_jax.models import sparse_swin
from vit_jax.nn.pruning import CHOICES
from vit_jax.planning import sparsity


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("sparse") / "run", config(), signed=True)


def search(checkpoint, output, *more):
    few = ("--generations", "3", "--population", "6", "--parents", "3", "--examples", "30")
    given = ["--checkpoint", str(checkpoint), "--max-latency", "0.8", "--flops", "--output", str(output), *few, *more]
    return main(["search-sparsity", *given])


@pytest.fixture(scope="module")
def found(checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("found") / "ratios.json"
    assert search(checkpoint, output) == 0
    return output


@pytest.mark.long
def test_what_is_found_lies_in_the_window_and_is_the_best(checkpoint, found):
    result = json.loads(found.read_text())
    encoder = load(checkpoint, overrides={"pruning_ratios": result["pruning_ratios"]}).model.encoder
    dense = load(checkpoint).model.encoder
    share = encoder.flops((8, 8)) / dense.flops((8, 8))
    assert result["latency"] == pytest.approx(share) and 0.85 * 0.8 <= share <= 0.8
    lines = [json.loads(line) for line in found.with_suffix(".measured.jsonl").read_text().splitlines()]
    costs = sparsity.counted(dense, (8, 8))
    within = [
        line["accuracy"] for line in lines[1:]
        if 0.68 * costs.rest <= costs(line["pruning_ratios"]) <= 0.8 * costs.rest
    ]  # fmt: skip
    assert result["accuracy"] == max(within) and len(set(within)) > 1
    assert result["dense"]["latency"] == 1 and result["uniform"]["latency"] <= 0.8
    assert result["of"] == 9 * 36


@pytest.mark.long
def test_the_same_seed_finds_the_same_and_goes_on_where_it_was(checkpoint, found, tmp_path, monkeypatch):
    """What was measured is not measured again; a line that was cut is."""
    measured = found.with_suffix(".measured.jsonl").read_bytes()
    lines = measured.split(b"\n")
    (tmp_path / "ratios.measured.jsonl").write_bytes(b"\n".join(lines[:5]) + b"\n" + lines[5][:9])
    asked, accuracy_of = [], sparsity.accuracy_of

    def noted(*given):
        accuracy = accuracy_of(*given)
        return lambda ratios: asked.append(ratios) or accuracy(ratios)

    monkeypatch.setattr(sparsity, "accuracy_of", noted)
    assert search(checkpoint, tmp_path / "ratios.json") == 0
    assert (tmp_path / "ratios.json").read_bytes() == found.read_bytes()
    assert (tmp_path / "ratios.measured.jsonl").read_bytes() == measured
    assert len(asked) == len(lines) - 1 - 5
    asked.clear()
    assert search(checkpoint, tmp_path / "ratios.json") == 0 and not asked
    assert (tmp_path / "ratios.json").read_bytes() == found.read_bytes()


@pytest.mark.long
def test_evaluate_takes_what_was_found(checkpoint, found, tmp_path):
    """And measures the accuracy that the search did, by another program."""
    result = json.loads(found.read_text())
    flag = f"--model.pruning_ratios={json.dumps(result['pruning_ratios'])}"
    some = ["--config.data.eval.per_class=3"]
    assert main(["evaluate", "--checkpoint", str(checkpoint), flag, *some, "--output", str(tmp_path / "x.json")]) == 0
    measured = json.loads((tmp_path / "x.json").read_text())
    accuracy = sparsity.accuracy_of(load(checkpoint), config(data__eval__per_class=3), None)
    assert measured["val/accuracy"] == pytest.approx(accuracy(result["pruning_ratios"]))


@pytest.mark.long
def test_predict_takes_what_was_found(checkpoint, found, tmp_path):
    ratios = json.loads(found.read_text())["pruning_ratios"]
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "x.png"), image[..., ::-1])

    flag = f"--model.pruning_ratios={json.dumps(ratios)}"
    argv = ["predict", "--checkpoint", str(checkpoint), flag, "--top", "10", "--output", str(tmp_path / "x.jsonl")]
    assert main([*argv, str(tmp_path / "x.png")]) == 0
    answer = dict(json.loads((tmp_path / "x.jsonl").read_text())["predictions"])
    loaded = load(checkpoint, overrides={"pruning_ratios": ratios})
    logits = loaded.logits(loaded.preprocess(tmp_path / "x.png")[None])[0]
    assert [answer[str(i)] for i in range(10)] == pytest.approx(np.asarray(jax.nn.softmax(logits)), abs=1e-4)


@pytest.mark.long
def test_bench_takes_ratios(tmp_path, capsys):
    """And counts what is left to compute."""
    (tmp_path / "sparse.py").write_text(f"def get_config():\n    return {config()!r}\n")
    flags = ["--config.model.pruning_ratios=[[0.5],[0.0,0.5]]", "--rounds", "1", "--warmup", "0", "--classes", "10"]
    assert main(["bench", "--config", str(tmp_path / "sparse.py"), *flags, "--batch-size", "8", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["inference"]["images_per_second"] > 0
    sizes = {key: value for key, value in config()["model"].items() if key != "name"}
    dense, pruned = (
        sparse_swin.build("T", num_classes=10, **sizes, pruning_ratios=r) for r in (None, ((0.5,), (0, 0.5)))
    )
    assert results["inference"]["flops_per_image"] == pruned.flops((8, 8)) < 0.8 * dense.flops((8, 8))


@pytest.mark.long
def test_seconds_of_pairs_make_those_of_the_model(checkpoint, monkeypatch):
    """With operations for seconds, which need no clock: the sum is that of the whole model at any ratios."""

    def operations(function, arguments, rounds):
        return function.lower(*arguments).cost_analysis()["flops"]

    monkeypatch.setattr(sparsity, "_seconds", operations)
    loaded = load(checkpoint)
    costs = sparsity.timed(loaded, (8, 8), 2)
    for ratios in (((0.0,), (0.0, 0.0)), ((0.6,), (0.0, 0.5)), ((0.0,), (0.7, 0.7))):
        whole = sparsity.seconds_of_model(loaded, ratios, (8, 8), 2)
        assert costs(ratios) == pytest.approx(whole, rel=0.15)
    assert costs(((0.8,), (0.7, 0.7))) < 0.6 * costs(((0.0,), (0.0, 0.0)))
    assert [[len(costs) for costs in of_stage] for of_stage in costs.pairs] == [[9], [8, 8]] and len(CHOICES) == 9


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-latency", "1.5"], "--max-latency is 1.5. It is a share of the dense model's latency"),
        (["--min-latency", "0.9"], "--min-latency is 0.9. It must be at least 0 and at most --max-latency, 0.8"),
        (["--population", "0"], "--population is 0. It must be at least 1"),
        (["--output", "ratios.txt"], "ratios.txt does not end in .json"),
        (["--examples", "31"], "holds what was measured with another examples. Give another --output"),
        (["--model.width", "3"], "may not be given another width. It may be given pruning_ratios, scores"),
    ],
)
def test_what_is_refused(checkpoint, found, capsys, more, message):
    assert search(checkpoint, found, *more) == 2
    assert message in capsys.readouterr().err


def test_a_model_without_windows_and_a_file_of_others(checkpoint, tmp_path, capsys):
    assert search(untrained(tmp_path / "vit", tiny_config()), tmp_path / "ratios.json") == 2
    assert "has no windows that can be left out. Adapt a Swin to pruning first" in capsys.readouterr().err
    (tmp_path / "ratios.measured.jsonl").write_text("hello\n")
    assert search(checkpoint, tmp_path / "ratios.json") == 2
    assert "ratios.measured.jsonl is not what this command writes. Remove it" in capsys.readouterr().err


def test_examples_are_evenly_spaced():
    @dataclasses.dataclass
    class Numbers:
        label_names: tuple = ()

        def __len__(self):
            return 10

        def __getitem__(self, index):
            return index

    some = sparsity._Some(Numbers(), 4)
    assert [some[i] for i in range(len(some))] == [0, 2, 5, 7]
