"""A folder of models as diffusers writes its pipelines: read whole whatever form its files have, and what is said of
one that cannot be."""

import json

import jax
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file, save_file

import vit_jax
from tests.tasks.test_pictured_diffusion import CONTROL, DEPTH, reading
from tests.tasks.test_text_to_image import MODEL
from vit_jax import UserError
from vit_jax.checkpoints.export import export, notes
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.parts.diffusers_scheduler import read
from vit_jax.checkpoints.source import StoredModel, flat_shapes, model_shapes, nested, open_source
from vit_jax.checkpoints.store import FORMAT
from vit_jax.checkpoints.transfer import flat_arrays, init_from

TOKENS = {"name": "ids", "vocab_size": 60, "bos_id": 58, "eos_id": 59}
FIELD = {"name": "tokens", "tokenizer": TOKENS, "length": 6, "bos": True, "eos": True, "long": "cut"}
UNET, VAE = ("diffusion_pytorch_model.safetensors",) * 2
FILES = {"unet": UNET, "vae": VAE, "text_encoder": "model.safetensors"}


def write(target, name="text_to_image", fields=(), model=MODEL, to="diffusers", end_id=59, **how):
    """Writes a run of the task, and gives its parameters."""
    kwargs = {key: value for key, value in model.items() if key != "name"} | {"vocab_size": 60, "end_id": end_id}
    rng = np.random.default_rng(0)
    shapes = model_shapes("latent_diffusion", kwargs, (8, 4))[0]
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    task = {"name": name, "kwargs": {"model": model, **how}}
    metadata = {
        "format": FORMAT, "model": {"name": "latent_diffusion", "kwargs": kwargs}, "task": task, "labels": [],
        "preprocess": {"image_size": [8, 4], "mean": [127.5] * 3, "std": [127.5] * 3}, "image_size": [8, 4],
        "fields": {"image": {"name": "image"}, "text": FIELD, **dict(fields)},
    }  # fmt: skip
    export(StoredModel(epath.Path("x"), metadata, lambda: (nested(params), {})), target, to)
    return params


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "folder"
    return folder, write(folder, prediction="v", offset=1)


@pytest.fixture
def folder(written, tmp_path):
    """A copy that may be changed."""
    for file in written[0].rglob("*.*"):
        target = tmp_path / file.relative_to(written[0])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    return tmp_path


def change(file, **values):
    said = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in said.items() if value != "left out"}))


def loaded(folder):
    return flat_arrays(open_source(folder).read()[0])


def test_a_network_of_several_may_be_given_another_argument(folder):
    kwargs = open_source(folder, overrides={"unet": {"dtype": "bfloat16"}}).metadata["model"]["kwargs"]
    plain = open_source(folder).metadata["model"]["kwargs"]
    assert kwargs["unet"] == {**plain["unet"], "dtype": "bfloat16"}
    assert {**kwargs, "unet": None} == {**plain, "unet": None}
    for wrong, said in (({"dtyp": "bfloat16"}, "config.model.unet.dtyp"), (3, "overrides.unet is 3")):
        with pytest.raises(UserError, match=said):
            open_source(folder, overrides={"unet": wrong})


@pytest.mark.long
def test_it_is_read_as_one_model(written):
    folder, params = written
    found = vit_jax.load(folder)
    jax.tree.map(np.testing.assert_array_equal, flat_arrays(found.params), params)
    task = found.task
    assert (task.prediction, task.schedule, task.to_image, task.image_size) == ("v", "scaled_linear", False, (8, 4))
    assert found.tokenize("7 8")["text"].tolist() == [[58, 7, 8, 59, 59, 59]]
    assert vit_jax.load(folder / "model_index.json").task == task
    assert flat_arrays(vit_jax.load(folder, part="text").params).keys() == {n for n in params if n[:5] == "text/"}


@pytest.mark.parametrize(
    ("name", "model", "fields", "own"),
    [
        ("inpaint", reading(5), {}, {"to_image": True}),
        ("depth", reading(3), DEPTH, {"spacing": "trailing"}),
        ("controlnet", MODEL | {"control": CONTROL}, {}, {"schedule": "linear", "first": 1e-3}),
        ("controlnet", MODEL | {"control": [CONTROL]}, {}, {"prediction": "v"}),
        ("controlnet", MODEL | {"control": [CONTROL, CONTROL]}, {}, {"steps": 50}),
    ],
    ids=["inpaint", "depth", "controlnet", "list of one", "two controlnets"],
)
def test_other_tasks_come_back(name, model, fields, own, tmp_path):
    params = write(tmp_path, name, fields, model, **own)
    found = vit_jax.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, flat_arrays(found.params), params)
    assert found.metadata["task"]["name"] == name and {key: getattr(found.task, key) for key in own} == own
    settings = found.task.sampling(steps=2)
    pictures = {each: wanted.shape for each, wanted in found.task.pictures(settings).items() if wanted.needed}
    assert found.task.pictures(settings).keys() >= {{"controlnet": "control", "inpaint": "mask"}.get(name, name)}
    if name == "controlnet":
        nets = {each.partition("/")[0] for each in params if each.startswith("control_")}
        assert pictures["control"] == (8, 4, 3 * len(nets)) and len(found.model.control) == len(nets)
    assert ("depth" in found.fields) == (name == "depth")


@pytest.mark.parametrize("form", ["half", "shards", "older names"])
def test_files_of_other_forms(form, written, folder):
    params = written[1]
    if form == "half":
        for part, name in FILES.items():
            tensors = {key: x.astype(np.float16) for key, x in load_file(folder / part / name).items()}
            save_file(tensors, folder / part / name.replace(".safetensors", ".fp16.safetensors"))
            (folder / part / name).unlink()
        params = {name: x.astype(np.float16).astype(np.float32) for name, x in params.items()}
    elif form == "shards":
        tensors, places = load_file(folder / "unet" / UNET), {}
        for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
            save_file({name: tensors[name] for name in names}, folder / "unet" / f"part-{number}.safetensors")
            places |= dict.fromkeys(names, f"part-{number}.safetensors")
        (folder / "unet" / UNET).unlink()
        (folder / "unet" / f"{UNET}.index.json").write_text(json.dumps({"weight_map": places}))
    else:
        now = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        tensors = {}
        for name, x in load_file(folder / "vae" / VAE).items():
            for new, old in now.items():
                name = name.replace(f".{new}.", f".{old}.")
            tensors[name] = x
        assert any(".proj_attn." in name for name in tensors)
        save_file(tensors, folder / "vae" / VAE)
        file = folder / "text_encoder" / "model.safetensors"
        tensors = {name.removeprefix("text_model."): x for name, x in load_file(file).items()}
        save_file(tensors | {"embeddings.position_ids": np.arange(6)[None]}, file)
    jax.tree.map(np.testing.assert_array_equal, loaded(folder), params)


def test_a_part_may_come_from_elsewhere(written):
    folder, params = written
    target = {"params": nested({name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in params.items()})}
    found, reports = init_from(target, {"unet": str(folder), "text": str(folder)})
    assert {name.split("/")[1] for name in found} == {"unet", "text"} and len(reports) == 2
    assert flat_shapes(target) == {f"params/{name}": x.shape for name, x in params.items()}


@pytest.mark.long
def test_an_autoencoder_in_one_file_with_all_else_is_a_tokenizer(tmp_path):
    """Stable Diffusion 1 as its authors have it, of a size whose numbers its names and shapes say."""
    model = {
        "name": "latent_diffusion",
        "unet": {
            "name": "conditional_unet", "channels": 32, "multipliers": [1], "num_blocks": 1, "attention_levels": [0],
            "heads": 8, "context_width": 64,
        },
        "autoencoder": {
            "name": "kl_autoencoder", "channels": 32, "multipliers": [1, 1], "num_blocks": 1, "attention_levels": [],
            "scale": 1.0,
        },
        "text": {"name": "text_tower", "width": 64, "depth": 1, "num_heads": 1, "max_length": 6},
    }  # fmt: skip
    file = tmp_path / "sd.safetensors"
    written = write(file, model=model, to="compvis", end_id=49407)
    params = {name.partition("/")[2]: x for name, x in written.items() if name.startswith("autoencoder/")}
    wanted = {"params": {"tokenizer": nested(params)}}
    found, [report] = init_from(wanted, {"tokenizer": f"{file}::autoencoder"})
    assert not report.missing and not report.unused
    jax.tree.map(np.testing.assert_array_equal, found, {f"params/tokenizer/{name}": x for name, x in params.items()})
    with pytest.raises(UserError, match="no parameter in common.*init_from.tokenizer=.*sd.safetensors::autoencoder"):
        init_from(wanted, {"tokenizer": str(file)})


def test_what_it_says_beside(written, folder, capfd):
    change(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    change(
        folder / "scheduler" / "scheduler_config.json", _class_name="PNDMScheduler", prediction_type="left out",
        clip_sample=True, steps_offset=0, skip_prk_steps=True,
    )  # fmt: skip
    metadata = open_source(folder).metadata
    said = " ".join(metadata["source"]["remarks"])
    for wanted in (
        "safety checker is not loaded", "PNDMScheduler there", "DDIM with the same noise", "does not say what the network",
        "clip_sample of the scheduler is passed over", "steps_offset of the scheduler is taken for 1, not 0",
    ):  # fmt: skip
        assert wanted in said
    assert said.split(". ") and capfd.readouterr().err.count("safety checker") == 1
    assert metadata["task"]["kwargs"]["prediction"] == "epsilon" and metadata["task"]["kwargs"]["offset"] == 1


def test_what_cannot_be_read_is_one_sentence(folder):
    scheduler, index = folder / "scheduler" / "scheduler_config.json", folder / "model_index.json"
    for key, value, message in (
        ("prediction_type", "flow", "'prediction_type' is 'flow'"), ("beta_schedule", "sigmoid", "is 'sigmoid'"),
        ("rescale_betas_zero_snr", True, "rescale_betas_zero_snr"),
    ):  # fmt: skip
        change(scheduler, **{key: value})
        with pytest.raises(UserError, match=message):
            open_source(folder)
        change(scheduler, **{key: "left out"})
    change(folder / "text_encoder" / "config.json", hidden_size=9)
    with pytest.raises(UserError, match="hidden_size"):
        open_source(folder)
    change(folder / "text_encoder" / "config.json", hidden_size=8)
    (folder / "vae" / VAE).rename(folder / "vae" / "model.bin")
    with pytest.raises(UserError, match="vae has its weights as a pickle"):
        open_source(folder)
    (folder / "vae" / "model.bin").unlink()
    with pytest.raises(UserError, match="vae has no weights"):
        open_source(folder)
    for file in (folder / "vae").iterdir():
        file.unlink()
    (folder / "vae").rmdir()
    with pytest.raises(UserError, match="has no folder 'vae'"):
        open_source(folder)
    change(index, vae="left out")
    with pytest.raises(UserError, match="vae.* is missing"):
        open_source(folder)
    change(index, unet=["diffusers", "../UNet"], **{"../up": ["diffusers", "UNet"]})
    with pytest.raises(UserError, match="names no part"):
        open_source(folder)


def test_a_scheduler_that_is_all_defaults():
    found = read(JsonObject({"_class_name": "DDIMScheduler", "prediction_type": "sample"}))
    assert (found.sampler, found.noise["prediction"], found.to_image, found.clip) == ("ddim", "x0", True, True)
    assert not found.remarks and found.noise["schedule"] == "linear"
    found = read(JsonObject({"_class_name": "DDPMScheduler", "variance_type": "fixed_large"}))
    assert (found.sampler, found.noise["variance"]) == ("ddpm", "large")


@pytest.mark.parametrize(("name", "extra", "size"), [("inpaint", 3, 4), ("depth", 1, 4), ("text_to_image", 0, [4, 2])])
def test_sides_that_differ(tmp_path, name, extra, size):
    """Of in-painting and depth diffusers compares the side with a number: a folder with two is not opened."""
    model = {**MODEL, "unet": {**MODEL["unet"], "inputs": 2 + extra}}
    fields = {"depth": {"name": "dense", "dtype": "float32"}} if name == "depth" else {}
    write(tmp_path / "folder", name, fields, model)
    assert json.loads((tmp_path / "folder/unet/config.json").read_text())["sample_size"] == size
    metadata = {"model": {"name": "latent_diffusion", "kwargs": {}}, "task": {"name": name, "kwargs": {}}}
    found = notes(
        StoredModel(epath.Path("x"), metadata | {"image_size": [8, 4], "preprocess": None}, dict), "diffusers"
    )
    assert len(found) == (extra > 0) and all("8 is written, and 8x4 pixels have to be asked for" in x for x in found)


def write_ddpm(folder, model=(), **how):
    """A U-Net in pixels, trained with this noise, as diffusers would have it."""
    kwargs = {"channels": 4, "multipliers": [1, 1], "num_blocks": 1, "attention_levels": [], "norm_groups": 2}
    kwargs |= dict(model)
    shapes = model_shapes("unet", kwargs, (4, 4))[0]
    params = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    metadata = {
        "format": FORMAT, "model": {"name": "unet", "kwargs": kwargs}, "labels": [], "image_size": [4, 4],
        "task": {"name": "ddpm", "kwargs": {"model": {"name": "unet", **kwargs}, **how}}, "fields": None,
        "preprocess": {"image_size": [4, 4], "mean": [127.5] * 3, "std": [127.5] * 3},
    }  # fmt: skip
    return export(StoredModel(epath.Path("x"), metadata, lambda: (nested(params), {})), folder, "diffusers")


@pytest.mark.parametrize(
    ("model", "noise"),
    [
        ({}, {"schedule": "cosine", "prediction": "v", "variance": "small", "steps": 100}),
        ({"outputs": 6}, {"schedule": "scaled_linear", "variance": "learned_range", "first": 1e-3, "last": 0.1}),
        ({"num_classes": 2}, {"prediction": "x0"}),
    ],
    ids=["cosine", "learned", "classes"],
)
def test_the_noise_of_a_unet_comes_back(model, noise, tmp_path):
    """Another schedule or prediction than was trained with would draw nonsense, and nothing would say so."""
    written = {path.name for path in write_ddpm(tmp_path, model, conditional="num_classes" in model, **noise)}
    task = vit_jax.load(tmp_path).task
    assert {key: getattr(task, key) for key in noise} == noise
    assert (task.variance, task.steps) == (noise.get("variance", "large"), noise.get("steps", 1000))
    # Its pipeline knows no classes.
    assert ("model_index.json" in written) == ("num_classes" not in model)


DIT = {"variant": "S/2", "width": 8, "depth": 1, "num_heads": 2, "mlp_dim": 32, "grid_side": 2, "time_shift": 1}
DIT |= {"num_classes": 3, "norm2_epsilon": 1e-5}


def written_dit(folder, model=(), params=(), **how):
    """A DiT, trained with this noise, as diffusers would have it."""
    kwargs = {**DIT, **dict(model)}
    shapes = model_shapes("dit", kwargs, (4, 4))[0]
    params = {name: np.ones(shape, np.float32) for name, shape in shapes.items()} | dict(params)
    metadata = {
        "format": FORMAT, "model": {"name": "dit", "kwargs": kwargs}, "labels": ["a", "b"], "image_size": [8, 8],
        "task": {"name": "ddpm", "kwargs": {"model": {"name": "dit", **kwargs}, **how}}, "fields": None,
        "preprocess": {"image_size": [8, 8], "mean": [127.5] * 3, "std": [127.5] * 3},
    }  # fmt: skip
    return export(StoredModel(epath.Path("x"), metadata, lambda: (nested(params), {})), folder, "diffusers")


def test_what_becomes_of_the_null_class_is_said():
    for name, more, labels, said in (
        ("unet", {}, 2, ["class 2, the last one, and read back as that, without guidance"]),
        ("unet", {"label_drop": 0.0}, 2, []),
        ("dit", {}, 2, []),
        ("dit", {"tokenizer": {"name": "kl_autoencoder"}}, 2, ["takes class 1000 for the null class, which is 2 here"]),
        ("dit", {"tokenizer": {"name": "kl_autoencoder"}}, 1000, []),
    ):
        task = {"name": "ddpm", "kwargs": {"conditional": True, "label_drop": 0.1, **more}}
        metadata = {"model": {"name": name, "kwargs": {}}, "task": task, "labels": ["x"] * labels, "preprocess": None}
        found = notes(StoredModel(epath.Path("x"), metadata, dict), "diffusers")
        assert len(found) == len(said) and all(part in line for part, line in zip(said, found, strict=True))


def test_the_noise_of_a_dit_comes_back(tmp_path):
    """In pixels it lies beside the model; with its autoencoder it is a pipeline."""
    noise = {"schedule": "cosine", "prediction": "v", "steps": 100}
    known = {"conditional": True, "label_drop": 0.1, **noise}
    written_dit(tmp_path / "pixels", {"inputs": 3, "outputs": 3}, **known)
    said = open_source(tmp_path / "pixels").metadata["task"]["kwargs"]
    assert {key: said[key] for key in noise} == noise
    section = {key: value for key, value in MODEL["autoencoder"].items() if key != "name"}
    shapes = model_shapes("kl_autoencoder", section, (8, 8))[0]
    rng = np.random.default_rng(0)
    own = {f"tokenizer/{name}": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    kwargs = {"inputs": 2, "outputs": 4}
    files = written_dit(
        tmp_path / "latents", kwargs, own, tokenizer=MODEL["autoencoder"], variance="learned_range", **known
    )
    names = {str(file.relative_to(tmp_path / "latents")) for file in files}
    assert names == {
        "model_index.json", "scheduler/scheduler_config.json", "transformer/config.json", "vae/config.json",
        *(f"{part}/diffusion_pytorch_model.safetensors" for part in ("transformer", "vae")),
    }  # fmt: skip
    opened = open_source(tmp_path / "latents")
    said = opened.metadata["task"]["kwargs"]
    assert {key: said[key] for key in (*noise, "variance")} == noise | {"variance": "learned_range"}
    assert opened.metadata["labels"] == ["a", "b"] and opened.metadata["image_size"] == [8, 8]
    read = flat_arrays(opened.read()[0])
    for name, x in own.items():
        np.testing.assert_array_equal(read[name], x)
    with pytest.raises(UserError, match="diffusers has no place for this dit"):
        written_dit(tmp_path / "untold", kwargs, own, tokenizer=MODEL["autoencoder"])
    change(tmp_path / "latents" / "model_index.json", vae="left out")
    with pytest.raises(UserError, match="is missing: there is nothing that draws an image"):
        open_source(tmp_path / "latents")


def test_a_pipeline_of_one_model_beside_its_index(tmp_path):
    """As DDPM's published folders are: no folder in it, and the noise in the scheduler's file."""
    write_ddpm(tmp_path)
    (tmp_path / "scheduler_config.json").unlink()
    assert "schedule" not in open_source(tmp_path).metadata["task"]["kwargs"]
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "X"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    scheduler = tmp_path / "scheduler_config.json"
    scheduler.write_text('{"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"}')
    said = open_source(tmp_path).metadata["task"]["kwargs"]
    assert (said["schedule"], said["variance"], said["prediction"]) == ("cosine", "small", "epsilon")
    scheduler.write_text('{"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}')
    said = open_source(tmp_path).metadata["task"]["kwargs"]
    assert (said["schedule"], said["variance"], said["prediction"]) == ("linear", "large", "v")
    (tmp_path / "unet").mkdir()
    for file in (*tmp_path.glob("*.safetensors"), tmp_path / "config.json"):
        file.rename(tmp_path / "unet" / file.name)
    with pytest.raises(UserError, match="has no folder 'scheduler'"):
        open_source(tmp_path)
    (tmp_path / "scheduler").mkdir()
    with pytest.raises(UserError, match="'DDPMPipeline', and nothing in it reads texts"):
        open_source(tmp_path)
    assert open_source(tmp_path / "unet").metadata["model"]["name"] == "unet"
