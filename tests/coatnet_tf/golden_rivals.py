"""Small rivals as `tools/imports/rivals_reference.py` wrote them, and which tensor of timm's goes where."""

import keras

from coatnet_tf import rivals
from coatnet_tf.builder import build_model
from coatnet_tf.layers import TransformerBlock
from coatnet_tf.pretrained.conversions import JoinedHeads, Same
from coatnet_tf.pretrained.correspondence import Entry, load_tensors
from coatnet_tf.pretrained.timm import weights
from coatnet_tf.rivals import NFNetBlock, NFNetConfig, ResNetConfig, ViTConfig
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


class Squeezed:
    """A tensor of `[batch, positions, C]`, for one image of one row here."""

    def to_ours(self, tensor):
        return [tensor[None]]

    def to_theirs(self, values):
        return values[0][0]


class Gain:
    """A gain of each channel, `[C, 1, 1, 1]`."""

    def to_ours(self, tensor):
        return [tensor.reshape(-1)]

    def to_theirs(self, values):
        return values[0].reshape(-1, 1, 1, 1)


def load(model, tensors):
    """Loads every tensor of a state dict, or refuses."""
    return load_tensors(model, entries(model, tensors), tensors, "the state dict")


def entries(model, tensors):
    prefix = "patch_embed.backbone." if "patch_embed.backbone.stem.conv.weight" in tensors else ""
    classifier = "head" if "head.weight" in tensors else "head.fc"
    for layer in model.layers:
        stage, _, number = layer.name.removeprefix("resnet_").partition("_block")
        if isinstance(layer, TransformerBlock):
            yield from transformer(layer, f"blocks.{int(number) - 1}.")
        elif isinstance(layer, rivals.Bottleneck):
            yield from bottleneck(layer, f"{prefix}stages.{int(stage[1:]) - 1}.blocks.{int(number) - 1}.")
        elif isinstance(layer, NFNetBlock):
            yield from nfnet(layer, f"stages.{int(stage[1:]) - 1}.{int(number) - 1}.")
        elif isinstance(layer, rivals.TokenEmbedding):
            yield Entry("cls_token", (layer.class_token,), Squeezed())
            yield Entry("pos_embed", (layer.positions,), Squeezed())
        elif isinstance(layer, keras.layers.Conv2D):
            number = layer.name[-2:].lstrip("0") if layer.name.startswith("stem") else ""
            names = {"resnet_stem_conv": f"{prefix}stem.conv", "patch_conv": "patch_embed.proj"}
            yield from conv(layer, names.get(layer.name, layer.name if not number else f"stem.conv{number}"))
        elif isinstance(layer, keras.layers.GroupNormalization):
            yield from norm(layer, f"{prefix}stem.norm")
        elif isinstance(layer, keras.layers.LayerNormalization):
            yield from weights(layer, "norm")
        elif isinstance(layer, keras.layers.Dense):
            yield from weights(layer, classifier)


def transformer(block, prefix):
    attention = block.attention
    parts = (attention.query, attention.key, attention.value)
    width = attention.query.units  # q of all heads, then k, then v
    yield Entry(f"{prefix}attn.qkv.weight", tuple(part.kernel for part in parts), JoinedHeads(width, rank=2))
    yield Entry(f"{prefix}attn.qkv.bias", tuple(part.bias for part in parts), JoinedHeads(width, rank=1))
    yield from weights(block.attention_norm, prefix + "norm1")
    yield from weights(attention.out, prefix + "attn.proj")
    yield from weights(block.ffn_norm, prefix + "norm2")
    yield from weights(block.ffn.expand, prefix + "mlp.fc1")
    yield from weights(block.ffn.shrink, prefix + "mlp.fc2")


def bottleneck(block, prefix):
    for number, part in enumerate(("reduce", "spatial", "expand"), start=1):
        yield from conv(getattr(block, f"{part}_conv"), f"{prefix}conv{number}")
        yield from norm(getattr(block, f"{part}_norm"), f"{prefix}norm{number}")
    if block.config.project:
        yield from conv(block.proj_conv, prefix + "downsample.conv")
        yield from norm(block.proj_norm, prefix + "downsample.norm")


def nfnet(block, prefix):
    if block.config.project:
        yield from conv(block.proj_conv, prefix + "downsample.conv")
    yield from conv(block.reduce_conv, prefix + "conv1")
    yield from conv(block.spatial_conv1, prefix + "conv2")
    yield from conv(block.spatial_conv2, prefix + "conv2b")
    yield from conv(block.expand_conv, prefix + "conv3")
    yield from weights(block.se.reduce, prefix + "attn_last.fc1")
    yield from weights(block.se.expand, prefix + "attn_last.fc2")
    yield Entry(prefix + "skipinit_gain", (block.skip_gain,), Same())


def conv(layer, prefix):
    yield from weights(layer, prefix)
    if isinstance(layer, rivals.ScaledStandardizedConv2D):
        yield Entry(f"{prefix}.gain", (layer.gain,), Gain())


def norm(layer, prefix):
    yield Entry(f"{prefix}.weight", (layer.gamma,), Same())
    yield Entry(f"{prefix}.bias", (layer.beta,), Same())
