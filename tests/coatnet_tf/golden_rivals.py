"""Small rivals as `tools/imports/rivals_reference.py` wrote them, and which tensor of timm's goes where."""

import keras

from coatnet_tf import rivals
from coatnet_tf.builder import build_model
from coatnet_tf.layers import TransformerBlock
from coatnet_tf.rivals import NFNetBlock, NFNetConfig, ResNetConfig, ViTConfig
from coatnet_tf.weights.imports import Assignment
from tests.coatnet_tf import golden_imports

FOLDER = golden_imports.FOLDER.parent / "rivals"
VIT = {"width": 32, "depth": 2, "num_heads": 2}
CONFIGS = {
    "vit_l_16": ViTConfig(name="vit", patch_size=16, mlp_width=128, **VIT),
    "vit_h_14": ViTConfig(name="vit", patch_size=14, mlp_width=128, **VIT),
    "vit_g_14": ViTConfig(name="vit", patch_size=14, mlp_width=157, **VIT),
    "resnet50_vit_l_32": ViTConfig(
        name="hybrid",
        patch_size=1,
        mlp_width=128,
        resnet=ResNetConfig(depths=(2, 1, 1, 1), widths=(32, 32, 64, 64), stem_width=16, groups=4),
        **VIT,
    ),
    "resnet50_vit_b_16": ViTConfig(
        name="hybrid",
        patch_size=1,
        mlp_width=128,
        resnet=ResNetConfig(depths=(1, 2, 1), stage_strides=(1, 2, 2), widths=(32, 32, 64), stem_width=16, groups=4),
        **VIT,
    ),
    "nfnet_f4": NFNetConfig(
        name="nfnet", depths=(1, 2, 1, 1), widths=(16, 32, 48, 48), stem_widths=(1, 2, 4, 8), group_width=8
    ),
}


def read(name):
    """Tensors by name in float32, images and logits."""
    return golden_imports.read(name, FOLDER)


def make_model(case, /, input_shape, **arguments):
    """The untrained model of a golden case."""
    arguments = {"classes": 10, "classifier_activation": None, **arguments}
    return build_model(CONFIGS[case], input_shape=input_shape, **arguments)


def load(model, tensors):
    """Loads every tensor of a state dict, or refuses."""
    assignment = Assignment(model, tensors, "the state dict")
    prefix = "patch_embed.backbone." if "patch_embed.backbone.stem.conv.weight" in tensors else ""
    classifier = "head" if "head.weight" in tensors else "head.fc"
    for layer in model.layers:
        stage, _, number = layer.name.removeprefix("resnet_").partition("_block")
        if isinstance(layer, TransformerBlock):
            _transformer(assignment, layer, f"blocks.{int(number) - 1}.")
        elif isinstance(layer, rivals.Bottleneck):
            _bottleneck(assignment, layer, f"{prefix}stages.{int(stage[1:]) - 1}.blocks.{int(number) - 1}.")
        elif isinstance(layer, NFNetBlock):
            _nfnet(assignment, layer, f"stages.{int(stage[1:]) - 1}.{int(number) - 1}.")
        elif isinstance(layer, rivals.TokenEmbedding):
            assignment.put(layer.class_token, "cls_token", lambda x: x[None])
            assignment.put(layer.positions, "pos_embed", lambda x: x[None])
        elif isinstance(layer, keras.layers.Conv2D):
            number = layer.name[-2:].lstrip("0") if layer.name.startswith("stem") else ""
            names = {"resnet_stem_conv": f"{prefix}stem.conv", "patch_conv": "patch_embed.proj"}
            _conv(assignment, layer, names.get(layer.name, layer.name if not number else f"stem.conv{number}"))
        elif isinstance(layer, keras.layers.GroupNormalization):
            _norm(assignment, layer, f"{prefix}stem.norm")
        elif isinstance(layer, keras.layers.LayerNormalization):
            _norm(assignment, layer, "norm")
        elif isinstance(layer, keras.layers.Dense):
            _dense(assignment, layer, classifier)
    return assignment.load()


def _transformer(assignment, block, prefix):
    _norm(assignment, block.attention_norm, prefix + "norm1")
    attention = block.attention
    for kind in ("weight", "bias"):
        name = f"{prefix}attn.qkv.{kind}"
        joined = assignment.take(name)  # q of all heads, then k, then v
        for layer, part in zip(
            (attention.query, attention.key, attention.value), joined.reshape(3, -1, 32), strict=True
        ):
            value = part.T if kind == "weight" else part[0]
            assignment.put_value(layer.kernel if kind == "weight" else layer.bias, name, value)
    _dense(assignment, attention.out, prefix + "attn.proj")
    _norm(assignment, block.ffn_norm, prefix + "norm2")
    _dense(assignment, block.ffn.expand, prefix + "mlp.fc1")
    _dense(assignment, block.ffn.shrink, prefix + "mlp.fc2")


def _bottleneck(assignment, block, prefix):
    for number, part in enumerate(("reduce", "spatial", "expand"), start=1):
        _conv(assignment, getattr(block, f"{part}_conv"), f"{prefix}conv{number}")
        _norm(assignment, getattr(block, f"{part}_norm"), f"{prefix}norm{number}")
    if block.project:
        conv, norm = block.proj
        _conv(assignment, conv, prefix + "downsample.conv")
        _norm(assignment, norm, prefix + "downsample.norm")


def _nfnet(assignment, block, prefix):
    if block.project:
        _conv(assignment, block.proj_conv, prefix + "downsample.conv")
    _conv(assignment, block.reduce_conv, prefix + "conv1")
    _conv(assignment, block.spatial_conv1, prefix + "conv2")
    _conv(assignment, block.spatial_conv2, prefix + "conv2b")
    _conv(assignment, block.expand_conv, prefix + "conv3")
    _dense(assignment, block.se.reduce, prefix + "attn_last.fc1")
    _dense(assignment, block.se.expand, prefix + "attn_last.fc2")
    assignment.put(block.skip_gain, prefix + "skipinit_gain")


def _conv(assignment, conv, prefix):
    assignment.put(conv.kernel, f"{prefix}.weight", lambda x: x.transpose(2, 3, 1, 0))
    if conv.use_bias:
        assignment.put(conv.bias, f"{prefix}.bias")
    if isinstance(conv, rivals.ScaledStandardizedConv2D):
        assignment.put(conv.gain, f"{prefix}.gain", lambda x: x.reshape(-1))


def _dense(assignment, dense, prefix):
    """From a linear layer or a 1x1 convolution."""
    assignment.put(dense.kernel, f"{prefix}.weight", lambda x: x.reshape(x.shape[:2]).T)
    assignment.put(dense.bias, f"{prefix}.bias")


def _norm(assignment, norm, prefix):
    assignment.put(norm.gamma, f"{prefix}.weight")
    assignment.put(norm.beta, f"{prefix}.bias")
