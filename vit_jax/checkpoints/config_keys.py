"""Keys of other libraries' config.json: each is read, must have the one value that we compute with, or is harmless.

A key in none of the three may change what a model computes, and is refused by its name.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.json_file import JsonObject, shown


@dataclasses.dataclass(frozen=True)
class Keys:
    """What becomes of the keys of an object in a JSON file.

    Args:
        read: those that the family reads, or that the shapes of tensors say too.
        fixed: those that must have this value where they are there.
        harmless: those that change no number of the forward pass.
    """

    read: frozenset[str]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    harmless: frozenset[str] = frozenset()

    def check(self, values: JsonObject) -> None:
        """Refuses a key that is not known, and a value that is not the only one.

        Raises:
            UserError: it names the file, the key and the value.
        """
        for key, value in values.items():
            if value is None or key.startswith("_") or key in self.read or key in self.harmless:
                continue
            if key not in self.fixed:
                raise values.error(
                    key, "is not known to vit_jax, and may change what the model computes", "Load another model"
                )
            if value != self.fixed[key]:
                raise values.error(
                    key, f"is {shown(value)}; only {self.fixed[key]!r} can be read", "Load another model"
                )


def model_type(config: JsonObject, *known: str) -> None:
    """Refuses a config.json of transformers for a model whose tensors only look like those of the `known` ones."""
    said = config.text("model_type")
    if said is not None and said not in known:
        raise config.error("model_type", f"is {shown(said)}, a model that vit_jax does not have", "Load another model")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HF_HARMLESS = _words("""
    architectures chunk_size_feed_forward dtype torch_dtype id2label label2id is_encoder_decoder output_attentions
    output_hidden_states problem_type return_dict transformers_version finetuning_task torchscript use_bfloat16
    tf_legacy_loss tie_word_embeddings is_decoder cross_attention_hidden_size add_cross_attention tie_encoder_decoder
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens bos_token_id
    pad_token_id eos_token_id sep_token_id decoder_start_token_id task_specific_params
    tokenizer_class prefix attn_implementation use_cache
    hidden_dropout_prob attention_probs_dropout_prob attention_dropout dropout initializer_range initializer_factor
    drop_path_rate encoder_stride stage_names out_features out_indices num_labels
""")
_HF_FIXED = {"num_channels": 3, "pruned_heads": {}}
_HF_TRUNK = _words("""
    model_type hidden_size num_hidden_layers num_attention_heads hidden_act layer_norm_eps image_size patch_size
    qkv_bias
""")
HF_VIT = Keys(
    _HF_TRUNK
    | _words("""
        intermediate_size pooler_output_size pooler_act decoder_num_attention_heads decoder_hidden_size
        decoder_num_hidden_layers decoder_intermediate_size mask_ratio norm_pix_loss
    """),
    _HF_FIXED,
    _HF_HARMLESS,
)
# Of a LoRA of PEFT; whatever else is trained there has tensors of other names, or changes the base.
PEFT_LORA = Keys(
    _words("""
        peft_type base_model_name_or_path revision r lora_alpha use_rslora rank_pattern alpha_pattern bias
        target_modules modules_to_save init_lora_weights
    """),
    {
        "use_dora": False, "fan_in_fan_out": False, "lora_bias": False, "use_qalora": False, "loftq_config": {},
        "ensure_weight_tying": False,
    },
    _words("""
        auto_mapping peft_version task_type inference_mode lora_dropout exclude_modules layers_to_transform
        layers_pattern megatron_core qalora_group_size eva_config target_parameters
    """),
)  # fmt: skip
HF_YOLOS = Keys(
    _HF_TRUNK | _words("intermediate_size num_detection_tokens use_mid_position_embeddings"),
    _HF_FIXED,
    _HF_HARMLESS
    | _words("""
        auxiliary_loss class_cost bbox_cost giou_cost bbox_loss_coefficient giou_loss_coefficient eos_coefficient
    """),
)
HF_DINOV2 = Keys(
    _HF_TRUNK | _words("mlp_ratio layerscale_value use_swiglu_ffn num_register_tokens"),
    _HF_FIXED,
    _HF_HARMLESS | _words("apply_layernorm reshape_hidden_states use_mask_token"),  # of a backbone, of pretraining
)
HF_SIGLIP = Keys(_HF_TRUNK | _words("intermediate_size vision_use_head"), _HF_FIXED, _HF_HARMLESS)
# Of the whole model, around its two towers.
HF_SIGLIP_WHOLE = Keys(_words("model_type vision_config"), {}, _HF_HARMLESS | _words("text_config"))
HF_DUAL_ENCODER = Keys(
    _words("model_type text_config vision_config projection_dim"), {}, _HF_HARMLESS | _words("logit_scale_init_value")
)
_HF_CLIP_TOWER = _words("""
    model_type hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act layer_norm_eps
""")
HF_CLIP_VISION = Keys(_HF_CLIP_TOWER | _words("image_size patch_size"), _HF_FIXED, _HF_HARMLESS | {"projection_dim"})
HF_CLIP_TEXT = Keys(
    _HF_CLIP_TOWER | _words("vocab_size max_position_embeddings eos_token_id"),
    {"pruned_heads": {}},
    (_HF_HARMLESS | _words("projection_dim projection_size")) - {"eos_token_id"},
)
HF_CLIP = Keys(
    _words("model_type text_config vision_config text_config_dict vision_config_dict projection_dim"),
    {},
    _HF_HARMLESS | _words("logit_scale_init_value"),
)
HF_BIT = Keys(
    _words("""
        model_type embedding_size hidden_sizes depths layer_type hidden_act global_padding num_groups
        embedding_dynamic_padding
    """),
    {"num_channels": 3, "output_stride": 32, "width_factor": 1},
    _HF_HARMLESS,
)

_HF_SWIN = _words("""
    model_type image_size patch_size embed_dim depths num_heads window_size mlp_ratio hidden_act layer_norm_eps
    hidden_size num_layers
""")
_HF_SWIN_FIXED = {"num_channels": 3, "qkv_bias": True, "use_absolute_embeddings": False, "path_norm": True}
HF_SWIN = Keys(_HF_SWIN, _HF_SWIN_FIXED, _HF_HARMLESS)
_STAGES = frozenset({"out_features", "out_indices", "stage_names"})  # of a backbone; a whole model has no use for them
HF_SWIN_BACKBONE = Keys(_HF_SWIN | _STAGES, _HF_SWIN_FIXED, _HF_HARMLESS - _STAGES)
HF_UPERNET = Keys(
    _words("model_type backbone_config hidden_size pool_scales use_auxiliary_head auxiliary_channels"),
    {"auxiliary_num_convs": 1, "auxiliary_concat_input": False, "backbone": None},
    _HF_HARMLESS | _words("auxiliary_loss_weight auxiliary_in_channels loss_ignore_index"),
)
HF_SWIN_V2 = Keys(_HF_SWIN | {"pretrained_window_sizes"}, _HF_SWIN_FIXED, _HF_HARMLESS)
HF_SWIN2SR = Keys(
    (_HF_SWIN - {"patch_size"}) | _words("upscale upsampler img_range"),
    {"num_channels": 3, "num_channels_out": 3, "qkv_bias": True, "use_absolute_embeddings": False, "patch_size": 1,
     "resi_connection": "1conv", "path_norm": True},
    _HF_HARMLESS | _words("num_attention_heads num_hidden_layers"),
)  # fmt: skip

HF_CHAMELEON_VQVAE = Keys(
    _words("""
        model_type resolution base_channels channel_multiplier num_res_blocks attn_resolutions embed_dim num_embeddings
        latent_channels
    """),
    {"in_channels": 3, "attn_type": "vanilla", "double_latent": False},
    _HF_HARMLESS | _words("dropout initializer_range"),
)
HF_FLAVA_CODEBOOK = Keys(
    _words("model_type num_blocks_per_group hidden_size vocab_size"),
    {"num_groups": 4, "input_channels": 3},
    _HF_HARMLESS | _words("freeze initializer_range"),
)
HF_SAM = Keys(_words("model_type vision_config prompt_encoder_config mask_decoder_config"), {}, _HF_HARMLESS)
_HF_SAM_HARMLESS = _HF_HARMLESS | _words("intermediate_size projection_dim")  # SAM's encoder reads mlp_dim instead
HF_SAM_VISION = Keys(
    _words("""
        model_type image_size patch_size hidden_size num_hidden_layers num_attention_heads mlp_dim mlp_ratio hidden_act
        layer_norm_eps window_size global_attn_indexes output_channels num_pos_feats use_rel_pos
    """),
    {"num_channels": 3, "qkv_bias": True, "use_abs_pos": True},
    _HF_SAM_HARMLESS | {"scale"},  # of the random matrix, before it is read
)
HF_SAM_PROMPTS = Keys(
    _words("model_type hidden_size image_size patch_size image_embedding_size mask_input_channels"),
    {"num_point_embeddings": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
    _HF_SAM_HARMLESS,
)
HF_SAM_DECODER = Keys(
    _words("model_type hidden_size mlp_dim num_attention_heads num_hidden_layers iou_head_hidden_dim layer_norm_eps"),
    {"attention_downsample_rate": 2, "hidden_act": "relu", "iou_head_depth": 3, "num_multimask_outputs": 3},
    _HF_SAM_HARMLESS,
)
HF_VITDET = Keys(
    _words("""
        model_type image_size pretrain_image_size patch_size hidden_size num_hidden_layers num_attention_heads mlp_ratio
        hidden_act layer_norm_eps window_size window_block_indices use_relative_position_embeddings
    """),
    {"num_channels": 3, "qkv_bias": True, "residual_block_indices": [], "use_absolute_position_embeddings": True},
    _HF_HARMLESS | {"dropout_prob"},
)

_HF_DROPOUT = _words("""
    attn_pdrop embd_pdrop resid_pdrop classifier_dropout activation_dropout decoder_layerdrop encoder_layerdrop init_std
    summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
""")


def _hf_text(read: frozenset[str], fixed: Mapping[str, Any], harmless: str = "") -> Keys:
    """Of a text model, to which some of what images do not care about means something."""
    return Keys(read, fixed, (_HF_HARMLESS | _HF_DROPOUT | _words(harmless)) - read - set(fixed))


HF_BERT = _hf_text(
    _words("""
        model_type vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act
        layer_norm_eps max_position_embeddings type_vocab_size pad_token_id bos_token_id eos_token_id
    """),
    {
        "pruned_heads": {},
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "tie_word_embeddings": True,
        "add_cross_attention": False,
    },
    "gradient_checkpointing",
)
_HF_GPT_READ = _words("""
    model_type vocab_size n_positions n_ctx n_embd n_layer n_head layer_norm_epsilon pad_token_id bos_token_id
    eos_token_id n_inner
""")
HF_GPT = _hf_text(
    _HF_GPT_READ | _words("afn"), {"pruned_heads": {}, "tie_word_embeddings": True, "predict_special_tokens": True}
)
HF_GPT2 = _hf_text(
    _HF_GPT_READ | _words("activation_function"),
    {
        "pruned_heads": {},
        "tie_word_embeddings": True,
        "scale_attn_weights": True,
        "add_cross_attention": False,
        "scale_attn_by_inverse_layer_idx": False,
    },
    "reorder_and_upcast_attn gradient_checkpointing",
)
HF_IMAGEGPT = dataclasses.replace(HF_GPT2, fixed={**HF_GPT2.fixed, "tie_word_embeddings": False})
HF_MARIAN = _hf_text(
    _words("""
        model_type vocab_size decoder_vocab_size d_model encoder_layers decoder_layers encoder_attention_heads
        decoder_attention_heads encoder_ffn_dim decoder_ffn_dim activation_function max_position_embeddings dropout
        num_hidden_layers scale_embedding pad_token_id bos_token_id eos_token_id decoder_start_token_id
    """),
    {
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "static_position_embeddings": True,
        "normalize_before": False,
        "normalize_embedding": False,
        "add_final_layer_norm": False,
        "add_bias_logits": False,
        "extra_pos_embeddings": 0,
    },
    "gradient_checkpointing classif_dropout force_bos_token_to_be_generated",
)

OPEN_CLIP = Keys(_words("embed_dim quick_gelu vision_cfg text_cfg"), {"custom_text": False}, frozenset())
_OPEN_CLIP_BLOCKS = {
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
    "block_type": "default",
    "final_ln_after_pool": False,
    "act_kwargs": {},
    "norm_kwargs": {},
}
OPEN_CLIP_VISION = Keys(
    _words("layers width head_width mlp_ratio patch_size image_size"),
    {**_OPEN_CLIP_BLOCKS, "attentional_pool": False, "no_ln_pre": False, "pos_embed_type": "learnable",
     "pool_type": "tok"},
    _words("patch_dropout output_tokens attn_pooler_queries attn_pooler_heads"),
)  # fmt: skip
OPEN_CLIP_TEXT = Keys(
    _words("context_length vocab_size width heads layers mlp_ratio"),
    {**_OPEN_CLIP_BLOCKS, "embed_cls": False, "no_causal_mask": False, "pool_type": "argmax", "proj_bias": False,
     "proj_type": "linear", "tokenizer_kwargs": {}},
    _words("pad_id eos_id output_tokens"),
)  # fmt: skip

TIMM = Keys(
    _words("architecture model_args pretrained_cfg num_classes global_pool label_names label_descriptions labels"),
    {},
    _words("num_features"),
)
TIMM_PRETRAINED = Keys(
    _words("input_size interpolation crop_pct crop_mode mean std label_names label_descriptions labels num_classes"),
    {},
    _words("""
        url file state_dict hf_hub_id hf_hub_filename source architecture tag custom_load test_input_size min_input_size
        fixed_input_size test_crop_pct label_offset pool_size test_pool_size first_conv classifier license description
        origin_url paper_name paper_ids notes dataset reparam num_features global_pool
    """),
)
_BOTH = TIMM.read | TIMM_PRETRAINED.read
TIMM_OLD = Keys(_BOTH, {}, (TIMM.harmless | TIMM_PRETRAINED.harmless) - _BOTH)  # one level
_TIMM_HARMLESS = _words("""
    drop_rate pos_drop_rate patch_drop_rate proj_drop_rate attn_drop_rate drop_path_rate weight_init fix_init device
    dtype num_classes strict_img_size
""")
TIMM_VIT = Keys(
    _words("""
        img_size patch_size embed_dim depth num_heads mlp_ratio qkv_bias init_values class_token no_embed_class
        reg_tokens global_pool fc_norm pool_include_prefix act_layer
    """),
    {
        "in_chans": 3,
        "qk_norm": False,
        "scale_attn_norm": False,
        "scale_mlp_norm": False,
        "proj_bias": True,
        "pos_embed": "learn",
        "pre_norm": False,
        "final_norm": True,
        "dynamic_img_pad": False,
    },
    _TIMM_HARMLESS | _words("dynamic_img_size"),
)
TIMM_MIXER = Keys(
    _words("img_size patch_size num_blocks embed_dim mlp_ratio"),
    {"in_chans": 3, "act_layer": "gelu", "stem_norm": False, "global_pool": "avg"},
    _TIMM_HARMLESS | _words("nlhb"),
)
TIMM_RESNET = Keys(
    frozenset(),
    {
        "in_chans": 3,
        "global_pool": "avg",
        "output_stride": 32,
        "stem_width": 64,
        "stem_type": "",
        "avg_down": False,
        "cardinality": 1,
        "base_width": 64,
        "replace_stem_pool": False,
        "act_layer": "relu",
    },
    _TIMM_HARMLESS | _words("zero_init_last drop_block_rate"),
)
TIMM_VGG = Keys(
    frozenset(),
    {"in_chans": 3, "global_pool": "avg", "output_stride": 32, "mlp_ratio": 1.0, "act_layer": "relu"},
    _TIMM_HARMLESS,
)

TIMM_RESNETV2 = Keys(
    _words("layers channels width_factor stem_chs"),
    {
        "in_chans": 3,
        "global_pool": "avg",
        "output_stride": 32,
        "stem_type": "fixed",
        "avg_down": False,
        "preact": True,
        "basic": False,
        "bottle_ratio": 0.25,
        "act_layer": "relu",
    },
    _TIMM_HARMLESS | _words("zero_init_last"),
)
TIMM_EFFICIENTVIT = Keys(
    _words("widths depths head_dim head_widths"),
    {
        "in_chans": 3,
        "global_pool": "avg",
        "expand_ratio": 4,
        "norm_eps": 1e-7,
    },
    _TIMM_HARMLESS,
)
_TIMM_SWIN = _words("img_size patch_size embed_dim depths num_heads window_size mlp_ratio")
_TIMM_SWIN_FIXED = {"in_chans": 3, "global_pool": "avg", "qkv_bias": True, "always_partition": False}
TIMM_SWIN = Keys(_TIMM_SWIN, {**_TIMM_SWIN_FIXED, "head_dim": None}, _TIMM_HARMLESS)
TIMM_SWIN_V2 = Keys(_TIMM_SWIN | {"pretrained_window_sizes"}, {**_TIMM_SWIN_FIXED, "act_layer": "gelu"}, _TIMM_HARMLESS)
# Types of levels are seen in the names of tensors; in which dtype a model is to be cast changes no number.
_DIFFUSERS = _words("""
    block_out_channels layers_per_block down_block_types up_block_types latent_channels norm_num_groups sample_size
    mid_block_add_attention
""")
_DIFFUSERS_FIXED = {"in_channels": 3, "out_channels": 3, "act_fn": "silu"}
DIFFUSERS_KL = Keys(
    _DIFFUSERS | _words("scaling_factor shift_factor use_quant_conv use_post_quant_conv"),
    _DIFFUSERS_FIXED,
    _words("force_upcast"),
)
DIFFUSERS_VQ = Keys(
    _DIFFUSERS | _words("num_vq_embeddings vq_embed_dim"),
    {**_DIFFUSERS_FIXED, "norm_type": "group"},
    _words("force_upcast scaling_factor lookup_from_codebook"),
)
DIFFUSERS_UNET = Keys(
    _words("""
        in_channels out_channels block_out_channels down_block_types up_block_types layers_per_block sample_size
        attention_head_dim flip_sin_to_cos freq_shift downsample_padding downsample_type upsample_type dropout
        resnet_time_scale_shift add_attention num_class_embeds norm_num_groups norm_eps attn_norm_num_groups
        time_embedding_dim
    """),
    {
        "act_fn": "silu",
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "mid_block_type": "UNetMidBlock2D",
        "mid_block_scale_factor": 1,
    },
    _words("num_train_timesteps"),
)
_DIFFUSERS_CONDITION = _words("""
    in_channels block_out_channels down_block_types layers_per_block attention_head_dim norm_num_groups norm_eps
    cross_attention_dim use_linear_projection
""")
_DIFFUSERS_CONDITION_FIXED = {
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "mid_block_scale_factor": 1,
    "only_cross_attention": False,
    "transformer_layers_per_block": 1,
    "resnet_time_scale_shift": "default",
}
# Attention in float32 is what is computed here always.
_DIFFUSERS_CONDITION_HARMLESS = _words("upcast_attention addition_embed_type_num_heads num_train_timesteps")
DIFFUSERS_UNET_CONDITION = Keys(
    _DIFFUSERS_CONDITION | _words("out_channels up_block_types sample_size dropout"),
    {
        **_DIFFUSERS_CONDITION_FIXED,
        "center_input_sample": False,
        "dual_cross_attention": False,
        "resnet_skip_time_act": False,
        "resnet_out_scale_factor": 1.0,
        "time_embedding_type": "positional",
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "attention_type": "default",
        "class_embeddings_concat": False,
    },
    _DIFFUSERS_CONDITION_HARMLESS,
)
DIFFUSERS_CONTROLNET = Keys(
    _DIFFUSERS_CONDITION | _words("conditioning_channels conditioning_embedding_out_channels"),
    {
        **_DIFFUSERS_CONDITION_FIXED,
        "controlnet_conditioning_channel_order": "rgb",
        # Only what is guessed without a prompt is pooled.
        "global_pool_conditions": False,
    },
    _DIFFUSERS_CONDITION_HARMLESS,
)
DIFFUSERS_DIT = Keys(
    _words("""
        num_attention_heads attention_head_dim in_channels out_channels num_layers sample_size patch_size dropout
        num_embeds_ada_norm norm_eps
    """),
    {
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "upcast_attention": False,
        # Of the class that had this model before.
        "double_self_attention": False,
        "only_cross_attention": False,
        "use_linear_projection": False,
    },
    _words("norm_num_groups"),
)
DIFFUSERS_TINY = Keys(
    _words("latent_channels num_encoder_blocks num_decoder_blocks"),
    {
        **_DIFFUSERS_FIXED,
        "act_fn": "relu",
        "upsample_fn": "nearest",
        "upsampling_scaling_factor": 2,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
    },
    # What it quantises with when it is called as a whole, and widths, which shapes say.
    _words("""
        force_upcast latent_magnitude latent_shift block_out_channels encoder_block_out_channels
        decoder_block_out_channels
    """),
)
