"""Every shipped config is compared with its golden, and one of each kind lowered, with data sets that only have a length."""

import json
import re
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from ml_dtypes import bfloat16

from tests import goldens
from tests.stand_ins import SETS, build_stand_in
from tests.tiny import tiny_config, untrained
from tests.tiny_pairs import CLIP, pairs_config
from tests.training.test_recipes import adamw, momentum, three_updates
from vit_jax import UserError
from vit_jax.checkpoints import transfer
from vit_jax.checkpoints.description import task_of_model
from vit_jax.checkpoints.source import StoredModel
from vit_jax.data import text
from vit_jax.data.sources import few_shot
from vit_jax.data.sources.idx import FASHION_MNIST
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import static_argument
from vit_jax.tasks._image_tokens import TokenGenerator
from vit_jax.training import inputs
from vit_jax.training.config import load_config, override, run_config, shipped_configs
from vit_jax.training.experiment import build_experiment
from vit_jax.training.optim import frozen_mask
from vit_jax.training.parameters import path_name
from vit_jax.training.program import build_program
from vit_jax.training.sharding import make_mesh, state_sharding


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    for module in (inputs, text, few_shot):
        monkeypatch.setattr(module, "build_named", build_stand_in)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pretrained")
    towers = pairs_config(workdir, {**CLIP, "text": {**CLIP["text"], "max_length": 40}})
    untrained(workdir / "towers", towers)
    for i in range(4):
        (workdir / f"photos/train/class {i}").mkdir(parents=True)
        png = cv2.imencode(".png", np.full((8, 8, 3), 99, np.uint8))[1]
        (workdir / f"photos/train/class {i}/a.png").write_bytes(png.tobytes())
    photos = {"name": "folder", "root": str(workdir / "photos"), "split": "train"}
    teacher = tiny_config()
    untrained(workdir / "teacher", {**teacher, "data": {**teacher["data"], "train": photos, "eval": photos}})
    (workdir / "emoji").mkdir()
    (workdir / "emoji/categories.json").write_text('{"class 0": ["cat", "dog"], "class 1": ["rose"]}')
    swin = {"name": "swin", "variant": "T", "width": 16, "depths": [1, 1], "num_heads": [1, 2], "patch_size": 2}
    untrained(workdir / "swin", {**tiny_config(), "model": {**swin, "window_size": 2}})
    return untrained(workdir / "image", tiny_config(model__representation_size=16, model__dropout_rate=0.1))


FROM_CHECKPOINT = (
    "adapt", "bert_finetune", "composites_distil", "efficientvit_sam", "finetune", "linear_probe", "lit", "mae_finetune",
    "sparsevit_i1k", "vit_paper_finetune", "vtab",
)  # fmt: skip
FROM_SWIN = ("swin_finetune384",)
FROM_TEACHER = {"deit_i1k": "teacher", "digits_distil": "image", "distil": "teacher", "flexivit_i1k": "teacher"}
FROM_TOWERS = ("cocoop", "coop")
ON_EMOJI = ("emoji_clip", "emoji_lit")
# Arguments with which a config is checked; one that is not listed is checked without.
ARGUMENTS = {
    "adapt": ["data=photos", "data=photos,by=deep_prompts,prompts=4"],
    "bench_b16": ["", "remat=full,scan"],
    "deit_i1k": ["", "variant=Ti/16,data=photos"],
    "deit3_i1k": ["", "variant=H/14"],
    "digits": ["", "smoke"],
    "kl_autoencoder": ["images=photos", "f=16,smoke"],
    "maskgit_vqgan": ["", "smoke"],
    "var_tokenizer": ["images=photos", "smoke"],
    "vqgan_imagenet": ["codes=16384", "smoke"],
    "digits_distil": ["", "form=token", "form=match,smoke"],
    "digits_finetune": ["", "smoke"],
    "distil": ["data=photos,res=32", "data=photos,res=16,temperature=2,smoke"],
    "own_images": ["root=photos", "dataset=cifar10"],
    "linear_probe": ["", "method=moco_v3,pooling=mean", "method=simclr,data=photos"],
    "mae_finetune": ["", "variant=H/14,data=photos"],
    "efficientvit_i1k": ["", "variant=B3", "variant=L1"],
    "efficientvit_sam": ["", "variant=XL1,stage=train"],
    "efficientvit_sr": ["data=photos", "data=photos,variant=w0.75,scale=3"],
    "flexivit_i1k": ["data=photos"],
    "vtab": ["task=dtd,data=vtab-1k", "task=kitti,final,smoke"],
    "finetune": ["data=photos", "data=photos,res=16,microbatch=64"],
    "vit_paper_finetune": [f"res=16,dataset={d}" for d in SETS if d not in ("imagenet21k", "photos", FASHION_MNIST)]
    + ["final"],
    "swin_finetune384": ["", "res=224,drop_path=0.2"],
    "swin_i1k": ["", "variant=B"],
    "swin_i22k": ["", "variant=L"],
    "swinv2_i1k": ["", "variant=B,window=16"],
    "vit_i1k": ["", "variant=B/16", "recipe=plain,aug=none"],
    "vit_i21k": ["", "recipe=paper"],
    "simclr_i1k": ["model=18", "model=18,version=2", "model=S/16"],
    "mae_i1k": ["", "variant=L/16,epochs=1600", "variant=H/14"],
    "moco_v3_i1k": ["", "variant=B/16,gradients,learn_patches"],
    "shifted_fashion": [f"method={m}" for m in ("supervised", "simclr", "mae", "moco_v3")],
    "shifted_fashion_finetune": ["", "smoke,steps=7"],
    "photos_sr": ["", "attention=no,expand=8,scale=4"],
    "composites_distil": ["", "stage=train"],
    "shapes_text": ["", "stage=sam,init=runs/shapes-clip"],
    "composites_seg": ["", "head=linear", "head=upernet"],
    "cityscapes_seg": ["", "trunk=vit_s"],
    "ade20k_seg": ["", "trunk=swin_t"],
    "composites_sam": ["", "single,clicks=1"],
    "composites_detect": [""],
    "yolos_coco": ["", "variant=small"],
    "fashion16": [
        f"model={m}" for m in ("judge", "vq", "kl", "multiscale", "hybrid", "raster", "maskgit", "mar", "var", "hart")
    ],
    "ddpm_fashion16": ["", "space=pixels", "smoke"],
    "garment_mixers": ["mixer=softmax", "mixer=multiscale"],
    "garment_sparse": ["", "stage=adapt"],
    "sam_sa1b": ["", "variant=B/16,init=runs/mae,batch=64"],
    "dalle": ["", "sparse=no,steps=1000"],
    "emoji_dalle": ["", "stage=tokenizer"],
    "emoji_diffusion": ["", "stage=autoencoder", "stage=edges"],
    "controlnet_edges": ["", "smoke"],
    "sd_depth": ["", "smoke"],
    "sd_inpaint": ["", "data=pairs.jsonl", "smoke"],
    "sd_v1": ["", "size=256,steps=237000", "smoke"],
    "maskgit_imagenet": ["", "res=512,inception=inception.safetensors", "smoke"],
    "vqgan_transformer": ["", "variant=vqgan-large,codes=16384,order=random", "smoke"],
    "sparsevit_i1k": ["", "stage=finetune,ratios=cfg3"],
    "transformer_wmt": ["", "variant=big"],
    "gpt2": ["", "variant=gpt1", "variant=gpt3-13b,batch=2048"],
    "brown_gpt": ["", "smoke"],
    "bert_pretrain": ["", "variant=large,length=512,init=runs/bert"],
    "bert_finetune": ["", "data=MNLI,pair"],
    "brown_bert": ["", "texts=genre_texts"],
    "brown_genre": ["", "init=runs/bert", "init=runs/bert,frozen"],
    "clip": ["", "variant=L/14,data=pairs.jsonl", "text=runs/bert"],
    "siglip": ["", "variant=L/16,res=256,batch=4096"],
    "lit": ["", "setting=LU,text=runs/bert,loss=siglip", "setting=UU,text=runs/bert"],
    "coop": [
        "data=photos,shots=8",
        "data=photos,shots=2,context=csc,length=4,position=middle,once",
        "data=photos,shots=1,base",
    ],
    "cocoop": ["data=photos,batch=8,shots=8,words="],
    "hart_c2i": ["", "tokenizer=runs/hart-tokenizer,d=30", "smoke"],
    "hart_tokenizer": ["images=photos", "images=photos,init=runs/var-tokenizer", "smoke"],
    "hart_t2i": ["", "res=1024,init=runs/hart", "smoke,data=pairs.jsonl"],
    "mar": ["", "size=h,tokenizer=runs/kl", "smoke"],
    "cascade_fashion": [
        "",
        "stage=classifier",
        "stage=second,first=plain",
        "smoke",
        "stage=second,smoke",
        "stage=first,classifier=judge,smoke",
    ],
    "ddpm_256": ["images=photos", "smoke"],
    "dit_imagenet256": ["", "variant=B/4,steps=400000,tokenizer=vae", "smoke"],
    "iddpm_imagenet64": ["", "smoke"],
    "ldm_celebahq": ["images=photos,tokenizer=vq", "smoke"],
    "ldm_imagenet": ["", "tokenizer=vq,drop=0.1", "smoke"],
    "var": ["", "d=30", "d=36,tokenizer=vae.safetensors", "smoke"],
    "color_palette": ["", "data=fashion,colors=16,res=16"],
    "igpt_imagenet": ["", "variant=L,res=48"],
}
CASES = [(name, argument) for name in sorted(shipped_configs()) for argument in ARGUMENTS.get(name, [""])]
# One of each kind of program: a task on a model with an optimizer. What else tells configs apart are numbers, which the
# goldens hold.
PROGRAMS = [
    ("adapt", "data=photos"),
    ("adapt", "data=photos,by=deep_prompts,prompts=4"),
    ("composites_distil", ""),
    ("composites_distil", "stage=train"),
    ("composites_sam", ""),
    ("shapes_text", "stage=sam,init=runs/shapes-clip"),
    ("composites_seg", "head=linear"),
    ("deit3_i1k", ""),
    ("digits", ""),
    ("digits_distil", ""),
    ("efficientvit_i1k", "variant=L1"),
    ("finetune", "data=photos,res=16,microbatch=64"),
    ("flexivit_i1k", "data=photos"),
    ("linear_probe", ""),
    ("linear_probe", "method=simclr,data=photos"),
    ("mae_finetune", ""),
    ("brown_bert", ""),
    ("brown_genre", ""),
    ("shifted_fashion", "method=mae"),
    ("shifted_fashion", "method=moco_v3"),
    ("shifted_fashion", "method=simclr"),
    ("photos_sr", ""),
    ("composites_detect", ""),
    ("garment_mixers", "mixer=multiscale"),
    ("garment_sparse", ""),
    ("garment_sparse", "stage=adapt"),
    ("simclr_i1k", "model=18,version=2"),
    ("swin_i1k", ""),
    ("swinv2_i1k", ""),
    ("brown_gpt", ""),
    ("cldr_translate", ""),
    ("clip", ""),
    ("siglip", ""),
    ("lit", ""),
    ("lit", "setting=LU,text=runs/bert,loss=siglip"),
    ("coop", "data=photos,shots=8"),
    ("cocoop", "data=photos,batch=8,shots=8,words="),
    ("cascade_fashion", "stage=classifier"),
    ("cascade_fashion", "stage=second,smoke"),
    ("color_palette", "smoke"),
    ("controlnet_edges", "smoke"),
    ("ddpm_digits", ""),
    ("dit_imagenet256", "smoke"),
    ("dvae", "smoke"),
    ("emoji_dalle", ""),
    ("emoji_diffusion", ""),
    ("fashion16", "model=hybrid,smoke"),
    ("fashion16", "model=judge,smoke"),
    ("fashion16", "model=kl,smoke"),
    ("fashion16", "model=multiscale,smoke"),
    ("hart_c2i", "smoke"),
    ("hart_tokenizer", "smoke"),
    ("igpt_imagenet", "smoke"),
    ("kl_autoencoder", "f=16,smoke"),
    ("mar", "smoke"),
    ("ldm_imagenet", "smoke"),
    ("maskgit_imagenet", "smoke"),
    ("pixelcnn_cifar10", "smoke"),
    ("sd_depth", "smoke"),
    ("sd_inpaint", "smoke"),
    ("var", "smoke"),
    ("var_tokenizer", "smoke"),
    ("vqgan_imagenet", "smoke"),
    ("vqgan_transformer", "smoke"),
    ("vqvae", "smoke"),
    ("vqvae2", "smoke"),
]


def load(name, argument, checkpoint):
    if Path(name).stem in FROM_CHECKPOINT:
        argument = ",".join(filter(None, [argument, f"init={checkpoint}"]))
    if Path(name).stem in FROM_SWIN:
        argument = ",".join(filter(None, [argument, f"init={checkpoint.parent / 'swin'}"]))
    teacher = FROM_TEACHER.get(Path(name).stem)
    if teacher and (Path(name).stem != "deit_i1k" or "data=" in argument):
        argument = ",".join(filter(None, [argument, f"teacher={checkpoint.parent / teacher}"]))
    if Path(name).stem in FROM_TOWERS:
        argument = f"{argument},init={checkpoint.parent / 'towers'}"
    if Path(name).stem in ON_EMOJI:
        argument = ",".join(filter(None, [argument, f"data={checkpoint.parent / 'emoji'}"]))
    return load_config(f"{name}:{argument}")


def few_blocks(values):
    """The values with two blocks: blocks are alike, so two of them say as much as all."""
    model = values["model"]
    two = {"depth": 2} if model["name"] in ("bert", "clip", "gpt", "siglip", "vit") else {}
    towers = {"clip": ("text",), "siglip": ("text",), "two_towers": ("image", "text")}.get(model["name"], ())
    two |= {side: {**model.get(side, {}), "depth": 2} for side in towers}
    two |= {"depths": [2, 2, 2, 2]} if model["name"].startswith("swin") and "depths" not in model else {}
    return {**values, "model": {**model, **two}}


def raw_batch(experiment, batch_size=8):
    """The shapes of a small batch. A whole one at its real size would take longer to make than all the rest."""
    few = experiment.pipeline.batch(0, slices=experiment.pipeline.batch_size // 2)
    return {k: jax.ShapeDtypeStruct((batch_size, *v.shape[1:]), v.dtype) for k, v in few.items()}


def parameters(experiment):
    """Each parameter's shape and, on a mesh of four by two, how it is split; blocks that agree stand there once."""
    batch = jax.eval_shape(experiment.on_device, raw_batch(experiment), jax.random.key(0))
    params = init_shapes(experiment.task.init, jax.random.key(0), batch)["params"]
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
    shardings = jax.tree.leaves(state_sharding({"params": params}, make_mesh({"data": 2, "fsdp": 4}), {}))
    found = {}
    for (path, leaf), sharding in zip(jax.tree.leaves_with_path(params), shardings, strict=True):
        name = re.sub(r"block_\d+", "block_*", path_name(path))
        found.setdefault(name, []).append(
            f"{list(leaf.shape)} {[axis or '-' for axis in sharding.spec]}".replace("'", "")
        )
    return {name: "; ".join(sorted(set(said))) for name, said in found.items()}


@pytest.mark.long
@pytest.mark.parametrize(("name", "argument"), CASES)
def test_every_config_is_what_it_was(name, argument, checkpoint, request):
    """Every value of it, and every parameter that it makes."""
    values = load(name, argument, checkpoint)
    said = json.loads(json.dumps(values).replace(str(checkpoint), "CHECKPOINT"))
    said = json.loads(json.dumps(said).replace(str(checkpoint.parent), "FOLDER"))
    found = parameters(build_experiment(few_blocks(values)))
    goldens.check(name, argument, {"config": said, "parameters": found}, request.config.getoption("--update-goldens"))


@pytest.mark.long
def test_a_small_sam_may_sit_on_a_frozen_trunk(checkpoint):
    values = load_config(f"composites_sam:init={checkpoint},size=16,smoke")
    experiment = build_experiment(values)
    batch = jax.eval_shape(experiment.on_device, raw_batch(experiment), jax.random.key(0))
    params = init_shapes(experiment.task.init, jax.random.key(0), batch)["params"]
    rows, columns, _, width = params["encoder"]["embedding"]["kernel"].shape
    assert (rows, columns) == (4, 4) and params["neck"]["conv1"]["kernel"].shape == (1, 1, width, 64)
    assert batch["image"].shape[1:] == (16, 16, 3)
    assert values["init_from"] == {"encoder": str(checkpoint)}
    frozen = frozen_mask(params, values["optim"]["frozen"])
    assert {name for name, tree in frozen.items() if all(jax.tree.leaves(tree))} == {"encoder"}


def test_no_golden_is_left_of_a_config_that_is_gone():
    assert goldens.keys() == set(CASES)


@pytest.mark.parametrize(("name", "argument"), PROGRAMS)
@pytest.mark.long
def test_a_step_of_every_kind_is_lowered(name, argument, checkpoint):
    values = few_blocks(load(name, argument, checkpoint))
    experiment = build_experiment(values)
    config, task, raw = experiment.config, experiment.task, raw_batch(experiment)
    program = build_program(config, task, experiment.on_device, raw, make_mesh({}, jax.devices()[:1]))
    program.lower(static_argument(task, 0))
    # Generators and palettes have no trunk for others.
    own = {"pixelcnn": "mixed", "color_palette": "palette", "unet": "middle", "unet_classifier": "middle"}
    own |= {"latent_diffusion": "unet"}
    trunk = "encoder" if "image" in experiment.fields else "text"
    with_tokenizer = isinstance(task, TokenGenerator) and task.tokenizer is not None
    trunk = "tokenizer" if with_tokenizer else own.get(values["model"]["name"], trunk)
    named = {
        "classify": "head",
        "efficientvit": "head",
        "sparsevit": "head",
        "super_resolution": "head",
        "detect": "boxes",
        "segment": "head",
        "mae": "decoder",
        "sam": "decoder",
        "distil": "teacher",
        "flexivit": "teacher",
        "distil_encoder": "teacher",
        "sam_text": "teacher",
        "clip": "text",
        "siglip": "text",
        "coop": "prompt",
        "cocoop": "prompt",
        "dvae": "decoder",
        "vae": "decoder",
        "vqgan": "discriminator",
        "vqvae": "decoder",
    }
    beside = named.get(values["task"]["name"], "projector")
    assert set(program.params) >= ({trunk, beside} if trunk == "encoder" else {trunk})


@pytest.mark.long
def test_every_kind_of_program_is_among_those_lowered(checkpoint):
    """A new config needs no line in `PROGRAMS` unless it brings a new kind."""

    def kind(name, argument):
        values = load(name, argument, checkpoint)
        optimizer = values["optim"].get("groups", [values["optim"]])[0]["name"]
        return values["task"]["name"], values["model"]["name"], optimizer

    assert {kind(*case) for case in CASES} == {kind(*case) for case in PROGRAMS}


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_shipped_configs_load_by_name_and_by_path_with_a_smoke_run(name, checkpoint):
    values = load(name, "smoke", checkpoint)
    assert run_config(values).steps <= 50
    assert load(str(shipped_configs()[name]), "smoke", checkpoint) == values


@pytest.mark.parametrize(
    ("argument", "count"),
    [("", 22_122_472), ("variant=B/16", 86_567_656 - 768 + 768**2 + 768)],
    ids=["S/16 of big_vision's plain config", "B/16 with a tanh layer, without the class token's position"],
)
def test_the_models_have_the_published_sizes(argument, count):
    experiment = build_experiment(load_config(f"vit_i1k:{argument}"))
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    params = init_shapes(experiment.task.init, jax.random.key(0), {"image": image})["params"]
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
    ("config", "argument", "trunk", "heads"),
    [
        # torchvision's count without its classifier; and ViTs without theirs and without learned positions.
        ("simclr_i1k", "", 25_557_032 - 2_049_000, 2048 * 2048 + 2 * 2048 + 2048 * 128 + 128),
        ("moco_v3_i1k", "variant=B/16", 85_798_656 - 197 * 768, 3_145_728 + 16_777_216 + 1_048_576 + 4 * 4096
         + 1_048_576 + 2 * 4096 + 1_048_576),
    ],
)  # fmt: skip
def test_the_contrastive_models_have_the_published_sizes(config, argument, trunk, heads):
    experiment = build_experiment(load_config(f"{config}:{argument}"))
    views = jax.ShapeDtypeStruct((2, 2, 224, 224, 3), np.float32)
    params = init_shapes(experiment.task.init, jax.random.key(0), {"image": views})["params"]
    counts = {name: sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for name, tree in params.items()}
    assert counts.pop("encoder") == trunk and sum(counts.values()) == heads
    if config == "moco_v3_i1k":
        small = build_experiment(load_config(config)).task.model.encoder
        assert (small.style.num_heads, small.width) == (12, 384)


def test_epochs_are_those_of_the_papers():
    """90 epochs of 99% of ImageNet at batch 1024 are 111,477 steps in the baseline's config."""
    SETS["imagenet2012"] = (1000, 1_268_355)
    try:
        assert build_experiment(load_config("vit_i1k")).config.steps == 111_477
    finally:
        SETS["imagenet2012"] = (1000, 1_281_167)


@pytest.mark.parametrize(
    ("name", "argument", "rule"),
    [
        ("vit_i1k", "", lambda name, rates: adamw(name, rates, 1.0, 0.1 * name.endswith("kernel"), mu_dtype=bfloat16)),
        (
            "vit_i21k",
            "recipe=paper",
            lambda name, rates: adamw(name, rates, None, 0.03 * name.endswith("kernel"), mu_dtype=bfloat16),
        ),
        ("vit_paper_finetune", "dataset=cifar10", lambda name, rates: momentum(name, rates, 1.0, bfloat16)),
        ("finetune", "", lambda name, rates: momentum(name, rates, 1.0, bfloat16)),
        (
            "mae_finetune",
            "",
            lambda name, rates: adamw(name, rates, None, 0.05 * name.endswith("kernel"), scale=mae_scale(name)),
        ),
        ("linear_probe", "method=moco_v3", lambda name, rates: momentum(name, rates, None)),
        ("linear_probe", "method=simclr", lambda name, rates: momentum(name, rates, None, nesterov=True)),
    ],
)
def test_the_first_three_updates_are_the_papers_rule(name, argument, rule, checkpoint):
    section = override(load(name, argument, checkpoint), {"optim.schedule.warmup_steps": "2"})["optim"]
    section.pop("frozen", None)
    got, peak = three_updates(section, 10_000), section["learning_rate"]
    for parameter, value in got.items():
        np.testing.assert_allclose(value, rule(parameter, [0, peak / 2, peak]), atol=2e-6)


def mae_scale(name):
    """Layer-wise decay of 0.65 over two blocks: the head and the norm learn at the full rate."""
    layer = {"embedding": 0, "cls": 0, "pos_embedding": 0, "block_00": 1, "block_01": 2}
    return 0.65 ** (3 - layer.get(name.split("/")[1], 3))


@pytest.mark.parametrize(
    ("variant", "rate", "layer_decay", "drop_path", "epochs"),
    [("", 5e-4, 0.65, 0.1, 100), ("B/16", 5e-4, 0.65, 0.1, 100), ("L/16", 1e-3, 0.75, 0.2, 50),
     ("H/14", 1e-3, 0.75, 0.3, 50)],
)  # fmt: skip
def test_mae_is_fine_tuned_by_its_size(variant, rate, layer_decay, drop_path, epochs, checkpoint):
    values = load("mae_finetune", f"variant={variant}", checkpoint)
    assert values["optim"]["learning_rate"] == 4 * rate and values["optim"]["layer_decay"] == layer_decay
    assert values["model"]["drop_path_rate"] == drop_path and values["steps"] == {"epochs": epochs}
    assert values["init_from"] == {"encoder": str(checkpoint)}
    given = load("mae_finetune", "layer_decay=0.8,epochs=7,batch=256", checkpoint)
    assert (given["optim"]["layer_decay"], given["steps"], given["optim"]["learning_rate"]) == (
        0.8,
        {"epochs": 7},
        5e-4,
    )


def described(name, kwargs, size):
    """Metadata of a checkpoint of such a model."""
    model = {"name": name, "kwargs": kwargs}
    return {
        "model": model, "task": task_of_model(model), "fields": None, "labels": [], "image_size": [size, size],
        "preprocess": {"image_size": [size, size]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"pooling": "token"}, {"pooling": "mean", "fc_norm": True, "class_token": True}),
        ({"pooling": "mean"}, {"pooling": "mean", "fc_norm": True, "class_token": False}),
        ({"pooling": "mean", "class_token": True}, {"pooling": "mean", "fc_norm": True, "class_token": True}),
    ],
)
def test_mae_keeps_the_class_token_that_there_is(model, expected, monkeypatch):
    trunk = {"variant": "mu/4", "posemb": "sincos2d_mae", "gelu": "exact", **model}
    metadata = described("vit", trunk, 8)
    monkeypatch.setattr(transfer, "open_source", lambda path: StoredModel(path, metadata, dict))
    assert load_config("mae_finetune:init=x")["model"] == {"name": "vit", **trunk, **expected, "drop_path_rate": 0.1}
    metadata |= described("resnet", {"variant": "50"}, 8)
    with pytest.raises(UserError, match="x holds a resnet, and MAE fine-tunes Vision Transformers"):
        load_config("mae_finetune:init=x")
    probe = load_config("linear_probe:init=x,method=moco_v3")
    assert probe["model"]["trunk"] == {"name": "resnet", "variant": "50"}
    assert probe["optim"]["learning_rate"] == 0.4, "a ResNet's rate is not a ViT's"


@pytest.mark.parametrize("name", ["mae", "probed"])
def test_recipes_take_the_trunk_out_of_its_wrapping(name, monkeypatch):
    trunk = {"name": "vit", "variant": "L/16", "pooling": "token", "posemb": "sincos2d_mae", "gelu": "exact"}
    metadata = described(name, {"trunk": trunk, "num_classes": 0}, 224)
    monkeypatch.setattr(transfer, "open_source", lambda path: StoredModel(path, metadata, dict))
    assert load_config("linear_probe:init=x")["model"] == {"name": "probed", "norm": "batch", "trunk": trunk}
    tuned = load_config("mae_finetune:init=x")
    assert tuned["model"].items() >= {**trunk, "pooling": "mean", "fc_norm": True, "class_token": True}.items()
    assert "trunk" not in tuned["model"] and tuned["optim"]["layer_decay"] == 0.75
    assert load_config("finetune:init=x")["model"] == trunk


@pytest.mark.parametrize(
    ("method", "rate", "batch", "norm"), [("mae", 6.4, 16384, "batch"), ("moco_v3", 12, 1024, "none"),
                                          ("simclr", 1.6, 4096, "none")]
)  # fmt: skip
def test_linear_probes_train_the_head_alone(method, rate, batch, norm, checkpoint):
    values = load("linear_probe", f"method={method}", checkpoint)
    assert values["optim"]["learning_rate"] == pytest.approx(rate) and values["batch_size"] == batch
    assert values["model"]["norm"] == norm and values["steps"] == {"epochs": 90}
    experiment = build_experiment(override(values, {"batch_size": "8"}))
    image = jax.ShapeDtypeStruct((8, 8, 8, 3), np.float32)
    params = init_shapes(experiment.task.init, jax.random.key(0), {"image": image})["params"]
    frozen = frozen_mask(params, values["optim"]["frozen"])
    assert all(jax.tree.leaves(frozen["encoder"])) and not any(jax.tree.leaves(frozen["head"]))


def test_a_probe_of_a_folder_has_a_small_batch(monkeypatch):
    metadata = described("vit", {"variant": "mu/4"}, 8)
    monkeypatch.setattr(transfer, "open_source", lambda path: StoredModel(path, metadata, dict))
    values = load_config("linear_probe:init=x,data=photos")
    assert (values["batch_size"], values["optim"]["learning_rate"]) == (256, 0.1)
    assert values["checkpoint"]["every"] == {"epochs": 10}
    assert load_config("linear_probe:init=x")["batch_size"] == 16384


@pytest.mark.parametrize("name", ["digits", "digits_finetune:init=x", "fashion_mnist", "own_images:root=x"])
def test_small_configs_save_on_the_way(name, monkeypatch):
    metadata = described("vit", {"variant": "mu/4"}, 8)
    monkeypatch.setattr(transfer, "open_source", lambda path: StoredModel(path, metadata, dict))
    values = load_config(name)
    assert values["checkpoint"]["every"] <= values["steps"] // 4


def test_own_images_come_from_a_manifest_too():
    data = load_config("own_images:manifest=photos.csv")["data"]
    assert data["train"] == {"name": "manifest", "path": "photos.csv", "split": "train"}
    assert data["eval"] == {"name": "manifest", "path": "photos.csv", "split": "test"}


def test_fine_tuning_takes_the_model_from_the_checkpoint(checkpoint):
    values = load("finetune", "data=photos,res=24", checkpoint)
    assert values["model"] == {"name": "vit", "variant": "mu/4", "pooling": "mean", "dropout_rate": 0.1}
    assert values["data"]["image_size"] == [24, 24] and values["init_from"] == str(checkpoint)
    assert values["data"]["preprocess"]["resize"] == "squash"


def test_resize_to_keeps_its_proportion(checkpoint, monkeypatch):
    metadata = described("vit", {"variant": "mu/4"}, 224)
    metadata["preprocess"] |= {"resize": "short_side", "resize_to": 256}
    monkeypatch.setattr(transfer, "open_source", lambda path: StoredModel(path, metadata, dict))
    data = transfer.starting_point(checkpoint, 384)[1]
    assert (data["image_size"], data["preprocess"]["resize_to"]) == ([384, 384], 439)
    assert transfer.starting_point(checkpoint)[1]["preprocess"]["resize_to"] == 256


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("finetune", "needs a checkpoint"),
        ("finetune:init=nowhere", "There is no checkpoint at .*nowhere"),
        ("mae_finetune", "needs a checkpoint"),
        ("swin_finetune384", "needs a checkpoint"),
        ("swin_finetune384:init=x,res=300", "no whole places"),
        ("swin_i1k:variant=L", "no recipe for Swin 'L'"),
        ("swin_i22k:variant=X", "There is no Swin 'X'"),
        ("swinv2_i1k:variant=L", "no recipe for Swin v2 'L'"),
        ("linear_probe", "needs a checkpoint"),
        ("linear_probe:init=x,method=moco", "Unknown method 'moco'. Did you mean 'moco_v3'"),
        ("vit_paper_finetune:init=x,dataset=cifar", "Did you mean 'cifar10'"),
        ("vit_i1k:aug=medium3", "Did you mean 'medium"),
        ("vit_i1k:recipe=plian", "Did you mean 'plain'"),
        ("vit_i21k:recipe=papr", "Did you mean 'paper'"),
        ("vit_i21k:variant=B16", "There is no ViT 'B16'"),
        ("simclr_i1k:model=51", "Unknown model '51'. Did you mean '50'"),
        ("simclr_i1k:model=S16/", "There is no ViT 'S16/'"),
        ("simclr_i1k:version=3", "Unknown version 3 of SimCLR"),
        ("moco_v3_i1k:varaint=S/16", "Did you mean 'variant'"),
        ("sparsevit_i1k", "needs a checkpoint"),
        ("sparsevit_i1k:init=x,ratios=cfg4", "Unknown ratios 'cfg4'. Did you mean 'cfg"),
        ("sparsevit_i1k:init=x,stage=tune", "Unknown stage 'tune'. Did you mean 'finetune'"),
        ("garment_mixers:mixer=windows", "Unknown mixer 'windows'. Did you mean 'window'"),
        ("garment_sparse:stage=dens", "Unknown stage 'dens'. Did you mean 'dense'"),
        ("shifted_fashion:method=moco_v2", "Unknown method 'moco_v2'. Did you mean 'moco_v3'"),
    ],
)
def test_wrong_arguments_get_a_sentence(spec, message):
    with pytest.raises(UserError, match=message):
        load_config(spec)
