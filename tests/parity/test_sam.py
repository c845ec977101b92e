"""SAM against its authors' code, part by part, and against transformers' SamModel, whole; files in both directions."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

import vit_jax
from tests.parity.oracle import assert_close, images, read, read_folder, to_torch, write
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.families import hf_sam, sam_authors
from vit_jax.checkpoints.published import Sidecar
from vit_jax.checkpoints.source import nested, open_source
from vit_jax.errors import UserError
from vit_jax.nn.decomposed_attention import rows_at_once
from vit_jax.nn.prompts import PADDING, box_corners, completed

SIDE, PATCH, WIDTH, HEADS = 64, 8, 32, 2
VISION = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "mlp_dim": 40, "image_size": SIDE,
          "patch_size": PATCH, "window_size": 3, "global_attn_indexes": [1], "output_channels": WIDTH,
          "num_pos_feats": WIDTH // 2}  # fmt: skip
PROMPTS = {"hidden_size": WIDTH, "image_size": SIDE, "patch_size": PATCH, "mask_input_channels": 8}
DECODER = {"hidden_size": WIDTH, "mlp_dim": 48, "num_attention_heads": HEADS, "iou_head_hidden_dim": 20}
RNG = np.random.default_rng(0)
X = images(SIDE, SIDE, batch=2)
POINTS = RNG.uniform(0, SIDE, size=(2, 5, 2)).astype(np.float32)
ON = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1]])
BOXES = np.array([[4.0, 9.0, 30.0, 41.0], [20.0, 3.0, 60.0, 33.0]], np.float32)
MASKS = RNG.normal(0, 4, size=(2, 4 * SIDE // PATCH, 4 * SIDE // PATCH)).astype(np.float32)
# What prompts there are: how many points, and whether a box and a mask.
PROMPTED = {
    "one point": (1, False, False), "two points": (2, False, False), "five points": (5, False, False),
    "a box": (0, True, False), "a box and points": (3, True, False), "a mask and a point": (1, False, True),
    "a mask and a box": (0, True, True),
}  # fmt: skip


def redrawn(model):
    """Every leaf drawn anew, so that maps keep their size, tables and biases are felt, and no two names are alike."""
    rng = np.random.default_rng(1)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1 and name.endswith("weight"):
            drawn = rng.uniform(0.5, 1.5, tensor.shape)
        elif tensor.ndim == 1 or "embed" in name or "token" in name or "rel_pos" in name or "gaussian" in name:
            drawn = rng.normal(0, 0.7, tensor.shape)
        else:
            drawn = rng.normal(0, 1.4 * max(tensor[0].numel(), 4) ** -0.5, tensor.shape)
        tensor.copy_(torch.from_numpy(np.asarray(drawn, np.float32)))
    return model.eval()


@pytest.fixture(scope="module")
def authors():
    """The authors' model, and ours that is read of its tensors."""
    encoder = ImageEncoderViT(
        img_size=SIDE, patch_size=PATCH, embed_dim=24, depth=3, num_heads=3, mlp_ratio=5 / 3, out_chans=WIDTH,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6), use_rel_pos=True, window_size=3,
        global_attn_indexes=(1,),
    )  # fmt: skip
    prompts = PromptEncoder(WIDTH, (SIDE // PATCH,) * 2, (SIDE,) * 2, 8)
    transformer = TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=48, num_heads=8)
    decoder = MaskDecoder(transformer_dim=WIDTH, transformer=transformer, iou_head_hidden_dim=20)
    theirs = redrawn(Sam(encoder, prompts, decoder))
    ours = read(sam_authors, {name: x.numpy() for name, x in theirs.state_dict().items()})
    return theirs, ours


class Runner:
    """Our methods, each compiled once for all prompts, which are filled up to as many slots."""

    def __init__(self, ours):
        flat = dict(ours.params)
        constants = nested({name: flat.pop(name) for name in list(flat) if name.startswith("constants/")})
        variables = jax.tree.map(jnp.asarray, {"params": nested(flat), **constants})

        def compiled(method):
            apply = jax.jit(lambda *inputs: ours.model.apply(variables, *inputs, method=method))
            return lambda *inputs: jax.tree.map(np.asarray, apply(*inputs))

        def encoded(model, points, labels, masks, has_mask):
            tokens, valid = model.prompts.tokens(points, labels, (SIDE, SIDE))
            return tokens, valid, model.prompts.map(masks, has_mask), model.prompts.grid(8, 8)

        self.embed, self.predict, self.encoded = compiled("embed"), compiled("predict"), compiled(encoded)


def prompts_of(case):
    """For our model: points and labels of two images in eight slots, masks and whether there are some."""
    count, boxed, masked = PROMPTED[case]
    points, labels = POINTS[:, :count], ON[:, :count]
    if boxed:
        corners, kinds = box_corners(BOXES)
        points, labels = np.concatenate([points, corners], 1), np.concatenate([labels, kinds], 1)
    points, labels = (np.asarray(x) for x in completed(points, labels))
    more = 8 - labels.shape[1]
    points = np.concatenate([points, np.full((2, more, 2), 7.0, np.float32)], 1)
    labels = np.concatenate([labels, np.full((2, more), PADDING)], 1)
    return points, labels.astype(np.int32), MASKS, np.full(2, masked)


def test_the_authors_parts_one_after_the_other(authors):
    theirs, ours = authors
    assert ours.kwargs == {
        "trunk": {"name": "vitdet", "variant": "B/8", "width": 24, "depth": 3, "num_heads": 3, "mlp_dim": 40,
                  "window_size": 3, "global_blocks": [1]},
        "width": 32, "decoder_mlp_dim": 48, "mask_channels": 8, "iou_hidden": 20,
    }  # fmt: skip
    with torch.no_grad():
        embeddings = theirs.image_encoder(to_torch(X))
    run = Runner(ours)
    embeddings_here = run.embed(X)
    assert_close(embeddings_here, embeddings.permute(0, 2, 3, 1).numpy(), "encoder")

    for case in PROMPTED:
        count, boxed, masked = PROMPTED[case]
        prompts = prompts_of(case)
        tokens, valid, added, grid = run.encoded(*prompts)
        with torch.no_grad():
            sparse, dense = theirs.prompt_encoder(
                points=(torch.tensor(POINTS[:, :count]), torch.tensor(ON[:, :count])) if count else None,
                boxes=torch.tensor(BOXES) if boxed else None,
                masks=torch.tensor(MASKS[:, None]) if masked else None,
            )
            positions = theirs.prompt_encoder.get_dense_pe()
            assert (valid.sum(1) == sparse.shape[1]).all()
            assert_close(tokens[valid].reshape(sparse.shape), sparse.numpy(), f"{case}: tokens")
            assert_close(added, dense.permute(0, 2, 3, 1).numpy(), f"{case}: map")
            assert_close(grid, positions[0].permute(1, 2, 0).numpy(), "positions")
            found = [
                theirs.mask_decoder.predict_masks(embeddings[i : i + 1], positions, sparse[i : i + 1], dense[i : i + 1])
                for i in range(2)
            ]
        logits, iou = run.predict(embeddings_here, *prompts)
        assert_close(logits, torch.cat([masks for masks, _ in found]).numpy(), f"{case}: masks")
        assert_close(iou, torch.cat([quality for _, quality in found]).numpy(), f"{case}: quality")


def test_the_authors_encoder_at_1024_pixels():
    """As published but for width and depth: windows of 14 on a map of 64, and a global block by a few rows at a time."""
    encoder = ImageEncoderViT(
        img_size=1024, embed_dim=16, depth=2, num_heads=2, out_chans=256, use_rel_pos=True, window_size=14,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6), global_attn_indexes=(1,),
    )  # fmt: skip
    prompts = PromptEncoder(256, (64, 64), (1024, 1024), 16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    theirs = redrawn(Sam(encoder, prompts, MaskDecoder(transformer_dim=256, transformer=transformer)))
    ours = read(sam_authors, {name: x.numpy() for name, x in theirs.state_dict().items()})
    size = {"variant": "B/16", "width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 64, "global_blocks": [1]}
    assert ours.kwargs == {"trunk": {"name": "vitdet", **size}}
    assert rows_at_once((64, 64)) == 8
    x = images(1024, 1024, batch=2)[-1:]
    with torch.no_grad():
        wanted = theirs.image_encoder(to_torch(x)).permute(0, 2, 3, 1).numpy()
    assert_close(Runner(ours).embed(x), wanted, "encoder at 1024 pixels")


@pytest.fixture(scope="module")
def hugging():
    """transformers' model, its files, and ours."""
    config = transformers.SamConfig(vision_config=VISION, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER)
    return redrawn(transformers.SamModel(config))


@pytest.fixture(scope="module")
def folder(hugging, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam")
    hugging.save_pretrained(folder)
    return folder


def test_transformers_whole(hugging, folder):
    """Several prompts an image too: points of transformers have the axes image, prompt, point."""
    ours = read(hf_sam, *read_folder(folder))
    assert ours.kwargs["decoder_norm_epsilon"] == 1e-6 and ours.kwargs["decoder_heads"] == HEADS
    run = Runner(ours)
    embeddings = run.embed(X)
    for case in PROMPTED:
        count, boxed, masked = PROMPTED[case]
        if masked and not count:
            continue  # transformers cannot
        with torch.no_grad():
            theirs = {
                multimask: hugging(
                    pixel_values=to_torch(X),
                    input_points=torch.tensor(POINTS[:, None, :count]) if count else None,
                    input_labels=torch.tensor(ON[:, None, :count]) if count else None,
                    input_boxes=torch.tensor(BOXES[:, None]) if boxed else None,
                    input_masks=torch.tensor(MASKS[:, None]) if masked else None,
                    multimask_output=multimask,
                )
                for multimask in (False, True)
            }
        logits, iou = run.predict(embeddings, *prompts_of(case))
        for multimask, which in ((False, slice(0, 1)), (True, slice(1, 4))):
            assert_close(logits[:, which], theirs[multimask].pred_masks[:, 0].numpy(), f"{case}: masks")
            assert_close(iou[:, which], theirs[multimask].iou_scores[:, 0].numpy(), f"{case}: quality")
    points, labels = POINTS[:, :4].reshape(2, 2, 2, 2), ON[:, :4].reshape(2, 2, 2)
    points_in_full, labels_in_full = completed(points, labels)
    several = run.predict(embeddings, points_in_full, labels_in_full)
    with torch.no_grad():
        theirs = hugging(
            image_embeddings=torch.tensor(embeddings).permute(0, 3, 1, 2),
            input_points=torch.tensor(points),
            input_labels=torch.tensor(labels),
        )
    assert_close(several[0][:, :, 1:], theirs.pred_masks.numpy(), "several prompts")
    # The token that points without a box get is felt.
    without = run.predict(embeddings, points_in_full, np.where(labels_in_full == 4, PADDING, labels_in_full))[0]
    assert np.abs(several[0] - without).max() > 1e-3 * np.abs(without).max()


def test_files_of_transformers_there_and_back(hugging, folder, tmp_path):
    tensors, sidecar = read_folder(folder)
    ours = read(hf_sam, tensors, sidecar)
    write(ours, tmp_path / "back", {**ours.metadata(labels=[]), "model": {"name": "sam", "kwargs": ours.kwargs}})
    back, report = transformers.SamModel.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    state = hugging.state_dict()
    for name, tensor in back.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), state[name].numpy(), err_msg=name)
    assert back.config.vision_config.global_attn_indexes == [1]


def test_the_fourier_matrix_may_be_there_twice_but_only_if_it_is_one(folder):
    tensors, sidecar = read_folder(folder)
    once = [name for name in tensors if "positional_embedding" in name]
    names = ["shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding"]
    twice = tensors | {name: tensors[once[0]] for name in names}
    assert len(once) == 1
    np.testing.assert_array_equal(read(hf_sam, twice, sidecar).params["constants/prompts/fourier"], tensors[once[0]])
    twice[names[1]] = twice[names[1]] + 1
    with pytest.raises(UserError, match="positional_embedding' differ"):
        read(hf_sam, twice, sidecar)


def test_a_file_of_the_authors_is_loaded_and_written(authors, tmp_path):
    theirs, ours = authors
    save_file({name: x.numpy() for name, x in theirs.state_dict().items()}, tmp_path / "sam.safetensors")
    loaded = vit_jax.load(tmp_path / "sam.safetensors")
    assert loaded.preprocess.resize == "pad" and loaded.preprocess.anchor == "corner"
    assert loaded.preprocess.image_size == (SIDE, SIDE)
    np.testing.assert_array_equal(
        loaded.model_state["constants"]["prompts"]["fourier"], ours.params["constants/prompts/fourier"]
    )
    torch.save(theirs.state_dict(), tmp_path / "sam_vit_b.pth")
    with pytest.raises(UserError, match="is a pickle") as error:
        vit_jax.load(tmp_path / "sam_vit_b.pth")
    assert "save_file" in str(error.value)


@pytest.mark.parametrize("size", [(40, 57), (90, 51)])
def test_a_photo_goes_in_and_its_masks_come_out_as_the_authors_predictor_does_it(authors, tmp_path, size):
    """Padded below or at the right, shrunk or enlarged, with clicks, a box and an earlier mask in the photo's pixels."""
    theirs, _ = authors
    predictor = SamPredictor(theirs)
    save_file({name: x.numpy() for name, x in theirs.state_dict().items()}, tmp_path / "sam.safetensors")
    loaded = vit_jax.load(tmp_path / "sam.safetensors")
    photo = RNG.integers(0, 256, size=(5, 5, 3), dtype=np.uint8)
    photo = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_CUBIC)
    predictor.set_image(photo)
    prompted = loaded.prompted(photo)
    points, box = [(20.0, 30.0), (11.0, 8.0)], (5.0, 6.0, 40.0, 33.0)
    _, _, low = predictor.predict(np.float32(points), np.ones(2))
    for given, theirs_given, several in (
        ({"points": points[:1]}, {"point_coords": np.float32(points[:1]), "point_labels": np.ones(1)}, True),
        ({"box": box}, {"box": np.float32(box)}, True),
        ({"points": points, "labels": [1, 0], "mask": low[1]},
         {"point_coords": np.float32(points), "point_labels": np.array([1, 0]), "mask_input": low[1:2]}, False),
    ):  # fmt: skip
        masks, quality, logits = predictor.predict(**theirs_given, multimask_output=several, return_logits=True)
        found = prompted(**given)
        order = np.argsort(-quality, kind="stable")
        assert_close(found.iou, quality[order], f"{list(given)} quality")
        assert_close(found.logits, logits[order], f"{list(given)} logits")
        assert_close(prompted.at_photo(found.logits), masks[order], f"{list(given)} masks")


@pytest.mark.parametrize("name", ["Sam2", "Sam3"])
def test_newer_ones_get_a_sentence(name):
    with torch.device("meta"):
        model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")())
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    for sidecar in (Sidecar(), Sidecar(config={"model_type": name.lower()})):
        with pytest.raises(UserError, match="SAM 2 or 3, which vit_jax does not read"):
            hf_sam.describe(shapes, sidecar)


# Positions of another size than it runs at are interpolated. Without tables shapes say less.
VITDET = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "mlp_ratio": 2, "patch_size": 8,
          "image_size": 64, "window_block_indices": [0, 2], "window_size": 3}  # fmt: skip


@pytest.mark.parametrize(
    ("pretrained", "changes"),
    [
        (64, {"use_relative_position_embeddings": True}),
        (40, {"use_relative_position_embeddings": True}),
        (64, {"window_block_indices": [1]}),
    ],
)
def test_vitdet(pretrained, changes, tmp_path):
    config = transformers.VitDetConfig(**VITDET | changes, pretrain_image_size=pretrained)
    theirs = redrawn(transformers.VitDetBackbone(config))
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = vit_jax.load(tmp_path / "theirs")
    with torch.no_grad():
        wanted = theirs(to_torch(X)).feature_maps[-1].permute(0, 2, 3, 1).numpy()
    found = jax.jit(lambda v: loaded.model.apply(v, X, maps=True))({"params": loaded.params})
    assert list(found["maps"]) == [8]
    assert_close(np.asarray(found["maps"][8]), wanted, "ViTDet")
    export(open_source(tmp_path / "theirs"), tmp_path / "back", "transformers")
    back = transformers.VitDetBackbone.from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        assert_close(back(to_torch(X)).feature_maps[-1].permute(0, 2, 3, 1).numpy(), wanted, "written again")
