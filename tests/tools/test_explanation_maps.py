"""What a model looks at: each computation against what is known."""

import keras
import numpy as np
import pytest

import coatnet_tf
from coatnet_tf import layers
from coatnet_tf.config import CoAtNetConfig, StageConfig
from tests.tools.samples import cttt_config, make_cttt
from tools import model_files
from tools.explanations import maps
from tools.explanations.maps import Attention


@pytest.mark.parametrize("stage", ["s1", "s3", "s4"])
def test_grad_cam_weighs_channels_by_finite_differences_of_the_logit(stage, cttt, image):
    block = maps.stages_of(cttt)[stage][-1]
    until = keras.Model(cttt.input, block.output)
    tail = keras.Model(block.output, cttt.layers[-1].input)
    kernel = cttt.layers[-1].kernel.numpy()
    feature = until(image[None]).numpy()
    _, rows, columns, channels = feature.shape

    # One more of a channel everywhere changes the logit by the sum of its gradient.
    step = 1e-2 * np.eye(channels, dtype="float32")[:, None, None, :]
    above, below = (tail(feature + change).numpy() @ kernel for change in (step, -step))
    weights = (above - below) / (2e-2 * rows * columns)  # [channels, classes]
    expected = np.maximum(feature[0] @ weights, 0)

    found = []
    for target in range(7):
        probabilities, (of_class,) = maps.predict_and_grad_cam(cttt, image, [stage], target)
        found.append(of_class)
        np.testing.assert_allclose(probabilities, cttt.predict(image[None], verbose=0)[0], rtol=1e-4)
    assert expected.max() > 0 and np.shape(found) == (7, rows, columns)
    np.testing.assert_allclose(np.stack(found, axis=-1), expected, atol=0.01 * expected.max())


def test_grad_cam_is_of_the_logit_whatever_the_activation(cttt, image):
    """A saturated softmax has no gradient, its logit has; and the predicted class is the default."""
    of_activation = {}
    for activation in (None, "softmax", "sigmoid"):
        model = coatnet_tf.CoAtNet(cttt_config(), input_shape=(32, 48, 3), classes=7, classifier_activation=activation)
        model.set_weights(cttt.get_weights())
        model.layers[-1].bias.assign(100 * np.eye(7)[3])
        model.trainable = False  # gradients are of the feature map, not of weights
        probabilities, (of_activation[activation],) = maps.predict_and_grad_cam(model, image, ["s4"])
        assert probabilities.argmax() == 3 and probabilities.max() == pytest.approx(1.0)
    assert of_activation[None].max() > 0
    np.testing.assert_array_equal(of_activation["softmax"], of_activation[None])
    np.testing.assert_array_equal(of_activation["sigmoid"], of_activation[None])


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_score_is_that_of_the_second_of_two_classes(activation, cttt, image):
    one = coatnet_tf.CoAtNet(cttt_config(), input_shape=(32, 48, 3), classes=1, classifier_activation=activation)
    two = coatnet_tf.CoAtNet(cttt_config(), input_shape=(32, 48, 3), classes=2)
    one.set_weights([*cttt.get_weights()[:-2], *(weight[..., :1] for weight in cttt.get_weights()[-2:])])
    halves = [np.concatenate([-weight / 2, weight / 2], axis=-1) for weight in one.get_weights()[-2:]]
    two.set_weights([*cttt.get_weights()[:-2], *halves])
    assert model_files.name_classes(one, "path", ["no", "yes"]) == ["no", "yes"]
    for target in (0, 1, None):
        for found, expected in zip(
            maps.predict_and_grad_cam(one, image, ["s2", "s4"], target),
            maps.predict_and_grad_cam(two, image, ["s2", "s4"], target),
            strict=True,
        ):
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_attention_is_what_the_blocks_compute(cttt, image):
    attentions = maps.attention(cttt, image)
    assert [block.grid for block in attentions] == [(4, 6), (2, 3), (2, 3), (2, 3)]
    narrow = maps.transformers_of(cttt)[:-1]  # of two heads; the last block has three
    by_head = [maps.attention(cttt, image, [head]) for head in (0, 1)]
    for index, (block, found) in enumerate(zip(narrow, attentions, strict=False)):
        assert found.scores.shape == (found.grid[0] * found.grid[1],) * 2
        np.testing.assert_allclose(found.scores.sum(axis=1), 1, rtol=1e-5)
        # The block's output again, by hand from the scores of each head.
        x = keras.Model(cttt.input, block.input)(image[None])
        attended = block.attention_norm(x)
        attended = block.pool(attended) if block.pool else attended
        heads = [of_head[index].scores for of_head in by_head[: block.attention.num_heads]]
        np.testing.assert_allclose(np.mean(heads, axis=0), found.scores, rtol=1e-5)
        values = block.attention.value(attended.numpy().reshape(-1, attended.shape[-1])).numpy()
        mixed = np.concatenate(
            [scores @ part for scores, part in zip(heads, np.split(values, len(heads), axis=1), strict=True)], axis=1
        )
        residual = block.attention.out(mixed).numpy().reshape(1, *found.grid, -1)
        x = layers.common.chain(block.shortcut(), x) + residual
        x = x + block.ffn(block.ffn_norm(x))
        expected = keras.Model(cttt.input, block.output)(image[None])
        np.testing.assert_allclose(x, expected, atol=1e-5)


def test_rollout_of_two_blocks_by_hand():
    first = Attention((1, 2), np.array([[0.0, 1.0], [0.5, 0.5]]))  # with the shortcut [[1/2, 1/2], [1/4, 3/4]]
    second = Attention((1, 2), np.array([[1.0, 0.0], [1.0, 0.0]]))  # [[1, 0], [1/2, 1/2]]
    joined = [[0.5, 0.5], [0.375, 0.625]]
    for column in (0, 1):
        found = maps.rollout([first, second], (0, column))
        np.testing.assert_allclose(found, [joined[column]])
    np.testing.assert_allclose(maps.rollout([first, second]), [np.mean(joined, axis=0)])


def test_rollout_goes_on_through_the_pool_to_the_finer_grid():
    fine = Attention((2, 4), np.eye(8))  # every position keeps to itself
    coarse = Attention((1, 2), np.array([[0.0, 1.0], [0.0, 1.0]]))
    # The left position keeps half of the 2 x 2 that were pooled to it, and takes half from the right one.
    np.testing.assert_allclose(maps.rollout([fine, coarse], (0, 0)), np.full((2, 4), 1 / 8))
    right = [[0, 0, 1 / 4, 1 / 4]] * 2
    np.testing.assert_allclose(maps.rollout([fine, coarse], (0, 1)), right)


def test_rollout_without_mixing_stays_where_it_is():
    attentions = [Attention((2, 3), np.eye(6))] * 4
    for row, column in np.ndindex(2, 3):
        expected = np.zeros((2, 3))
        expected[row, column] = 1
        np.testing.assert_array_equal(maps.rollout(attentions, (row, column)), expected)


def test_rollout_of_a_model_hands_out_whole_shares(image):
    attentions = maps.attention(make_cttt(kernel_initializer=None), image)  # so small: all attend to all
    seen = [maps.rollout(attentions, position) for position in np.ndindex(2, 3)]
    for share in seen:
        assert share.shape == (4, 6) and share.min() > 0
        assert share.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(maps.rollout(attentions), np.mean(seen, axis=0))
    # The residual keeps most of each position where it is.
    assert [np.argmax(share.reshape(2, 2, 3, 2).sum(axis=(1, 3))) for share in seen] == list(range(6))


def test_tables_are_those_of_the_first_and_last_block_of_each_stage(cttt):
    tables = maps.bias_tables(cttt)
    assert list(tables) == ["s2_block01", "s3_block01", "s3_block02", "s4_block01"]
    for name, table in tables.items():
        np.testing.assert_array_equal(table, cttt.get_layer(name).attention.relative_bias.table.numpy())


def test_mixed_stages_and_other_layouts_have_their_stages():
    stages = (
        StageConfig("s1", "mbconv", 1, 8),
        StageConfig("s2", "mbconv", 1, 8),
        StageConfig("s3", "mbconv", 1, 16),
        StageConfig("s3", "transformer", 3, 32, stride=1),
        StageConfig("s4", "transformer", 1, 32, stride=1),
    )
    heads = layers.TransformerConfig(attention=layers.AttentionConfig(head_size=16))
    config = CoAtNetConfig("mixed", coatnet_tf.StemConfig(1, 8), stages, transformer=heads)
    mixed = coatnet_tf.CoAtNet(config, input_shape=(32, 32, 3), classes=2)
    assert {name: len(blocks) for name, blocks in maps.stages_of(mixed).items()} == {
        "s1": 1,
        "s2": 1,
        "s3": 4,
        "s4": 1,
    }
    assert maps.default_stages(mixed) == ["s2", "s4"]
    assert list(maps.bias_tables(mixed)) == ["s3_block02", "s3_block04", "s4_block01"]
    for layout, expected in (("CC", ["s2"]), ("TT", ["s2"]), ("CT", ["s1", "s2"])):
        config = coatnet_tf.make_config("small", (1, 1, 1), (8, 16, 16), layout, head_size=16)
        model = coatnet_tf.CoAtNet(config, input_shape=(16, 16, 3), classes=2)
        assert maps.default_stages(model) == expected
