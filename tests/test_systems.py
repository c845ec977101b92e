"""Every task from its first step to an exported file, on the smallest config that it has.

A new task brings a line of `SYSTEMS`, and with it everything that is promised for all of them. What a task computes is
tested in `tests/tasks`; meshes, accumulation, scan and rematerialisation belong to the loop and are tested there.
"""

import json
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

import vit_jax
from tests.commands import test_generate as generating
from tests.programs import share_programs
from tests.tasks import test_autoregressive as tokenwise
from tests.tasks import test_bert as bert
from tests.tasks import test_captioning as captioning
from tests.tasks import test_classify_text as classifying
from tests.tasks import test_coop as prompting
from tests.tasks import test_dalle as painting
from tests.tasks import test_ddpm as denoising
from tests.tasks import test_detect as detecting
from tests.tasks import test_distil as taught
from tests.tasks import test_distil_encoder as distilling
from tests.tasks import test_dvae as relaxing
from tests.tasks import test_efficientvit as efficient
from tests.tasks import test_flexivit as flexible
from tests.tasks import test_hart as hybrid
from tests.tasks import test_mar as filling
from tests.tasks import test_maskgit as masked
from tests.tasks import test_noisy_classifier as leading
from tests.tasks import test_pictured_diffusion as pictured
from tests.tasks import test_pixelcnn as drawing
from tests.tasks import test_sam as clicking
from tests.tasks import test_sam_text as asking
from tests.tasks import test_segment as segmenting
from tests.tasks import test_sparsevit as pruning
from tests.tasks import test_super_resolution as enlarging
from tests.tasks import test_text_to_image as wording
from tests.tasks import test_translate as translating
from tests.tasks import test_upscale_diffusion as cascading
from tests.tasks import test_vae as variational
from tests.tasks import test_var as scale_by_scale
from tests.tasks import test_vqgan as adversarial
from tests.tasks import test_vqvae as quantising
from tests.tasks.test_mae import mae_config
from tests.tiny import tiny_config
from tests.tiny_contrastive import contrastive_config
from tests.tiny_pairs import SIGLIP, pairs_config
from vit_jax import naming, tasks
from vit_jax.checkpoints.steps import find, steps_in
from vit_jax.checkpoints.store import _described
from vit_jax.commands.main import main
from vit_jax.training.config import override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.program import build_program
from vit_jax.training.sharding import make_mesh

# Texts that the configs name, for as long as the tests run.
_TEXTS = tempfile.TemporaryDirectory()
TEXTS = Path(_TEXTS.name)
KNN = {"knn": {"name": "knn", "train": {"name": "digits", "split": "train", "per_class": 2}, "k": 1}}
SYSTEMS = {
    "bert": bert.config(TEXTS),
    "classify_text": classifying.config(TEXTS),
    "language_model": generating.config(TEXTS),
    # One search of the two compiles in half the time.
    "translate": {
        **translating.config(translating.write_pairs(TEXTS)),
        "evals": {"val": {"name": "translation", "output": "greedy"}},
    },
    "bag_of_words": pairs_config(TEXTS, captioning.VIT, "bag_of_words"),
    "captioning": pairs_config(TEXTS, captioning.MODEL, "captioning"),
    "clip": pairs_config(TEXTS),
    "siglip": pairs_config(TEXTS, SIGLIP, "siglip"),
    "cocoop": prompting.run_config(TEXTS, name="cocoop"),
    "coop": prompting.run_config(TEXTS),
    "autoregressive": tokenwise.config(),
    "classify": tiny_config(model__depth=1, ema_decay=0.5),
    "dalle": painting.config(TEXTS),
    "detect": detecting.config(),
    "distil": taught.config(),
    "distil_encoder": distilling.config(),
    "efficientvit": efficient.config(),
    "flexivit": flexible.config(),
    "hart": hybrid.config(),
    "mae": mae_config(model__depth=1),
    "mar": filling.config(),
    "maskgit": masked.config(),
    "moco_v3": contrastive_config("moco_v3", model__depth=1),
    "noisy_classifier": leading.config(),
    "pixelcnn": drawing.config(),
    "segment": segmenting.plain(TEXTS),
    "sam": clicking.config(),
    "sam_text": asking.config(),
    "simclr": contrastive_config("simclr", model__depth=1),
    "sparsevit": pruning.config(),
    "vae": variational.config(),
    "vqgan": adversarial.config(None) | {"evals": {"codes": {"name": "codebook", "vocab_size": 16}}},
    "vqvae": quantising.config(),
    "ddpm": denoising.config(),
    "dvae": relaxing.config(),
    "text_to_image": wording.config(TEXTS),
    **{name: pictured.config(TEXTS, name) for name in ("inpaint", "depth", "controlnet")},
    "super_resolution": enlarging.config(TEXTS / "photos"),
    "var": scale_by_scale.config(),
    "upscale_diffusion": cascading.config(),
}
NOT_TRAINED = {"features", "tokenizer"}


def config(name):
    values = override(SYSTEMS[name], {"steps": "4"}) | {"log_every": 1, "checkpoint": {"every": 2, "keep": 2}}
    return values | {"evals": values["evals"] or KNN}


def test_every_task_is_here():
    assert set(naming.buildable(tasks)) == SYSTEMS.keys() | NOT_TRAINED


# Whole runs and programs for eight devices, of which `make test` has one each. A student of SAM is SAM's task, compiled
# once more, and so is SAM that is asked in words.
DEAR = {"distil_encoder", "sam_text"}
EACH = [
    n if n == "classify" else pytest.param(n, marks=pytest.mark.slow if n in DEAR else pytest.mark.long)
    for n in SYSTEMS
]


@pytest.mark.parametrize("name", EACH)
def test_a_system_from_its_first_step_to_an_exported_file(name, tmp_path, capsys, monkeypatch):
    share_programs(monkeypatch)
    values, workdir, one = config(name), tmp_path / "run", jax.devices()[:1]
    experiment = build_experiment(values)
    summary = train(experiment, workdir, one)
    assert steps_in(workdir) == [2, 4]

    # Interrupted after two steps, it ends with the same bits: those of all leaves have checksums, and frozen ones name
    # their folder.
    shutil.copytree(workdir, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "4")
    (tmp_path / "again" / "summary.json").unlink()
    again = train(experiment, tmp_path / "again", one)
    ours, theirs = (_described(find(path))[0] for path in (workdir, tmp_path / "again"))
    assert ours["checksums"] and ours["checksums"] == theirs["checksums"] and ours["frozen_in"] == theirs["frozen_in"]
    measured = {key: value for key, value in summary.items() if key.partition("/")[0] in values["evals"]}
    assert measured and {key: again[key] for key in measured} == measured

    # The path alone gives it back, and the command measures what training did.
    loaded = vit_jax.load(workdir)
    assert type(loaded.task) is type(experiment.task)
    assert main(["evaluate", "--checkpoint", str(workdir), "--output", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    # On eight devices now, where sums may differ in their last bit.
    assert {key: scores[key] for key in measured} == pytest.approx(measured, rel=1e-6)

    # Converted, it is still itself.
    capsys.readouterr()
    assert main(["convert", str(workdir), str(tmp_path / "there"), "--to", "orbax"]) == 0
    jax.tree.map(np.testing.assert_array_equal, vit_jax.load(tmp_path / "there").params, loaded.params)


@pytest.mark.parametrize("name", EACH)
def test_a_system_is_planned_for_eight_devices(name, monkeypatch):
    """From shapes alone: what a device holds of its parameters."""
    from vit_jax.training import sharding

    monkeypatch.setattr(sharding, "_MIN_FSDP_ELEMENTS", 1)
    experiment = build_experiment(config(name))
    rows = experiment.pipeline.batch(0, slices=1, index=0)
    batch = {key: jax.ShapeDtypeStruct(value.shape, value.dtype) for key, value in rows.items()}
    program = build_program(
        experiment.config, experiment.task, experiment.on_device, batch, make_mesh({"data": 4, "fsdp": 2})
    )
    whole = sum(leaf.size for leaf in jax.tree.leaves(program.params))
    shardings = program.shardings["params"]
    held = sum(
        int(np.prod(sharding.shard_shape(leaf.shape)))
        for leaf, sharding in zip(jax.tree.leaves(program.params), jax.tree.leaves(shardings), strict=True)
    )
    assert held < 0.6 * whole
