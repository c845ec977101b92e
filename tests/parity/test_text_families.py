"""BERT, the GPTs and Marian of transformers: read from what it saves, and written so that it loads it.

Files are compared, not `state_dict()`, which has other names in some versions.
"""

import json
import math

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import vit_jax
from tests.parity.oracle import TOLERANCE, error, files_beside, read
from vit_jax import UserError
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.families import hf_bert, hf_gpt2, hf_marian, openai_gpt
from vit_jax.checkpoints.published import Sidecar, described
from vit_jax.checkpoints.source import families_of, model_shapes, open_source

V, LENGTH = 50, 14
BERT = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "max_position_embeddings": 20}  # fmt: skip
GPT = {"vocab_size": V, "n_positions": 20, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1,
       "eos_token_id": 1}  # fmt: skip
MARIAN = {
    "vocab_size": V, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 20,
    "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1,
    "scale_embedding": True,
}  # fmt: skip
# By name: our family, the class of theirs, and its config.
CASES = {
    "bert": (hf_bert, transformers.BertForPreTraining, transformers.BertConfig(**BERT)),
    "bert, masked": (hf_bert, transformers.BertForMaskedLM, transformers.BertConfig(**BERT, hidden_act="gelu_new")),
    "bert, bare": (hf_bert, transformers.BertModel, transformers.BertConfig(**BERT, layer_norm_eps=1e-6)),
    "gpt1": (openai_gpt, transformers.OpenAIGPTLMHeadModel, transformers.OpenAIGPTConfig(**GPT)),
    "gpt2": (hf_gpt2, transformers.GPT2LMHeadModel, transformers.GPT2Config(**GPT)),
    "gpt2, narrow": (hf_gpt2, transformers.GPT2LMHeadModel, transformers.GPT2Config(**GPT, n_inner=40)),
    "gpt2, bare": (hf_gpt2, transformers.GPT2Model, transformers.GPT2Config(**GPT, activation_function="gelu")),
    "marian": (hf_marian, transformers.MarianMTModel,
               transformers.MarianConfig(**MARIAN, activation_function="swish")),
    "marian, relu": (hf_marian, transformers.MarianMTModel,
                     transformers.MarianConfig(**MARIAN, activation_function="relu")),
}  # fmt: skip


def model_of(name):
    """A model of transformers with every parameter drawn anew, none near zero or one."""
    torch.manual_seed(3)
    _, build, config = CASES[name]
    model = build(config).eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.requires_grad or tensor.shape[-1:] == (V,):
                tensor.normal_(0, 0.3)
    return model


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    """(name, their model, the folder that it saves)."""
    folder = tmp_path_factory.mktemp("model")
    model = model_of(request.param)
    model.save_pretrained(folder)
    return request.param, model, folder


def texts(seed=0, length=LENGTH):
    """Ids, which of them are no padding, and segments."""
    rng = np.random.default_rng(seed)
    there = np.arange(length) < np.array([length, length - 5, 3])[:, None]
    return rng.integers(2, V, (3, length)), there, (np.arange(length) > 4).astype(int)[None].repeat(3, 0)


def theirs(model, name):
    ids, there, segments = map(torch.from_numpy, texts())
    mask = there.long()
    with torch.no_grad():
        if name.startswith("marian"):
            target = torch.from_numpy(texts(1, LENGTH - 2)[0])
            found = model(ids, attention_mask=mask, decoder_input_ids=target, output_hidden_states=True)
            return {"tokens": found.decoder_hidden_states[-1], "logits": found.logits}
        more = {"token_type_ids": segments} if name.startswith("bert") else {}
        found = model(ids, attention_mask=mask, output_hidden_states=True, **more)
    given = {"tokens": found.hidden_states[-1], "logits": getattr(found, "logits", None)}
    if name == "bert":
        given |= {"masked_logits": found.prediction_logits, "next_logits": found.seq_relationship_logits}
    elif name == "bert, masked":
        given = {"tokens": given["tokens"], "masked_logits": given["logits"]}
    elif name == "bert, bare":
        given["features"] = found.pooler_output
    return {key: value for key, value in given.items() if value is not None}


def ours(model, params, name):
    ids, there, segments = texts()
    if name.startswith("marian"):
        return model.apply({"params": params}, ids, texts(1, LENGTH - 2)[0], there)
    more = {"segments": segments} if name.startswith("bert") else {}
    if getattr(model, "masked_language", False):
        more["places"] = np.arange(LENGTH)[None].repeat(3, 0)
    return jax.jit(model.apply)({"params": params}, ids, token_mask=there, **more)


def test_outputs_are_theirs(saved):
    name, model, folder = saved
    loaded = vit_jax.load(folder)
    found, there = ours(loaded.model, loaded.params, name), texts()[1]
    for key, value in theirs(model, name).items():
        here, value = np.asarray(found[key]), value.numpy()
        if key != "next_logits" and key != "features" and not name.startswith("marian"):
            here, value = here[there], value[there]  # of padding nobody asks
        largest = error(here, value)
        print(f"\nPARITY {name}, {key} | {largest:.1e}, reference up to {np.abs(value).max():.1f}")
        assert largest < TOLERANCE, key


def test_the_names_are_a_bijection_and_come_back_bit_for_bit(saved):
    name, _, folder = saved
    found = read(CASES[name][0], load_file(folder / "model.safetensors"), files_beside(folder))
    assert all(value.dtype == np.float32 for value in found.params.values())


def test_what_we_write_is_theirs_again(saved, tmp_path):
    name, model, folder = saved
    export(open_source(folder), tmp_path / "out", "transformers")
    written, before = (load_file(path / "model.safetensors") for path in (tmp_path / "out", folder))
    if "bare" not in name:  # a bare model has no prefix; we write the names of the models with a head
        assert written.keys() == before.keys()
        assert all(written[key].tobytes() == before[key].tobytes() for key in before)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"][0] == type(model).__name__ or "bare" in name
    again, told = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not told["unexpected_keys"] and not told["mismatched_keys"]
    assert {key for key in told["missing_keys"] if not key.startswith("cls.")} <= {"lm_head.weight"}
    for key, value in theirs(again.eval(), name).items():
        np.testing.assert_array_equal(value, theirs(model, name)[key], err_msg=key)


def other_names(tensors, name):
    """As other versions of transformers wrote the same file."""
    if name == "bert":
        new = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        tensors = {next((k.replace(a, b) for a, b in new.items() if a in k), k): x for k, x in tensors.items()}
        more = {
            "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
            "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
            "bert.embeddings.position_ids": np.arange(20, dtype=np.float32)[None],
        }
    elif name == "marian":
        table = transformers.MarianMTModel(CASES[name][2]).model.encoder.embed_positions.weight.detach().numpy()
        shared = tensors["model.shared.weight"]
        more = {f"model.{side}.embed_tokens.weight": shared for side in ("encoder", "decoder")}
        more |= {f"model.{side}.embed_positions.weight": table for side in ("encoder", "decoder")}
        more["lm_head.weight"] = shared
    else:
        tensors = {key.removeprefix("transformer."): value for key, value in tensors.items()}
        words = tensors["wte.weight" if name == "gpt2" else "tokens_embed.weight"]
        masks = {f"h.{i}.attn.bias": np.tri(20, dtype=np.float32)[None, None] for i in range(2)}
        more = {"lm_head.weight": words, **masks}
    return tensors | more


@pytest.mark.parametrize("name", ["bert", "gpt1", "gpt2", "marian"])
def test_files_of_other_versions_are_read_too(name, tmp_path):
    model_of(name).save_pretrained(tmp_path)
    want = vit_jax.load(tmp_path).params
    tensors = other_names(load_file(tmp_path / "model.safetensors"), name)
    save_file({k: np.ascontiguousarray(x).copy() for k, x in tensors.items()}, tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, vit_jax.load(tmp_path).params, want)
    kept = [key for key in tensors if not key.endswith(("position_ids", ".attn.bias"))]
    read(CASES[name][0], {key: tensors[key] for key in kept}, files_beside(tmp_path))

    head = "cls.predictions.decoder.weight" if name == "bert" else "lm_head.weight"
    tensors[head] = tensors[head] + 1
    save_file({k: np.ascontiguousarray(x).copy() for k, x in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="differ, and the model has one parameter for both"):
        vit_jax.load(tmp_path)


PUBLISHED = {
    "BERT base": (transformers.BertForPreTraining, transformers.BertConfig(), {"variant": "base"}, 110_106_428),
    "BERT large": (
        transformers.BertForPreTraining,
        transformers.BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
        {"variant": "large"}, 336_226_108,
    ),
    "BERT base, no heads": (transformers.BertModel, transformers.BertConfig(), {"variant": "base"}, 109_482_240),
    "GPT-1": (transformers.OpenAIGPTLMHeadModel, transformers.OpenAIGPTConfig(), {"variant": "gpt1"}, 116_534_784),
    "GPT-2": (transformers.GPT2LMHeadModel, transformers.GPT2Config(), {"variant": "gpt2-small"}, 124_439_808),
    "GPT-2 XL": (
        transformers.GPT2LMHeadModel, transformers.GPT2Config(n_embd=1600, n_layer=48, n_head=25),
        {"variant": "gpt2-xl"}, 1_557_611_200,
    ),
    "opus-mt": (
        transformers.MarianMTModel,
        transformers.MarianConfig(
            vocab_size=37_000, d_model=512, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=2048,
            decoder_ffn_dim=2048, encoder_attention_heads=8, decoder_attention_heads=8, scale_embedding=True,
            pad_token_id=36_999, decoder_start_token_id=36_999, eos_token_id=0,
            activation_function="swish", max_position_embeddings=512,
        ),
        {"variant": "base"}, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_is_known_by_its_shapes(name):
    """Nothing is allocated: the names and shapes of their model, and the parameters of the one that we make of them."""
    build, config, kwargs, count = PUBLISHED[name]
    with torch.device("meta"):
        model = build(config)
    shapes = {key: tuple(x.shape) for key, x in model.named_parameters() if "embed_positions" not in key}
    if name == "opus-mt":
        shapes["final_logits_bias"] = (1, 37_000)
    sidecar = Sidecar(config.to_dict())
    answers = [(family, described(family, shapes, None, sidecar)) for family in families_of("transformers")]
    [(family, found)] = [(family, answer) for family, answer in answers if answer]
    assert kwargs.items() <= found.kwargs.items() and "width" not in found.kwargs
    names = family.name_map(found.kwargs, found.layout)
    names.check(shapes, "FILE")
    params, state = model_shapes(found.model, found.kwargs, None)
    names.check_sizes(shapes, params, "FILE")
    assert not state
    here = sum(math.prod(shape) for shape in params.values())
    assert here == sum(map(math.prod, shapes.values())) and count in (None, here)
    config = family.sidecar({"model": {"name": found.model, "kwargs": found.kwargs}})["config.json"]
    again = described(family, shapes, None, Sidecar(config))
    assert again.kwargs == found.kwargs
