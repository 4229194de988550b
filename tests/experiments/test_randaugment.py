"""RandAugment: tensorflow-addons' geometry, the paper's ranges, and seeds."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from experiments import augment, randaugment

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "addons_image_ops.npz")
OPERATIONS = {
    "rotate_degrees": randaugment.rotate,
    "translate_xy_pixels": lambda image, pixels: randaugment.translate(image, pixels, 2 * pixels),
    "shear_x": randaugment.shear_x,
    "sharpness": randaugment.sharpness,
    "equalize": lambda image, _: randaugment.equalize(image),
}


@pytest.mark.parametrize("case", sorted(set(GOLDEN) - {"image"}))
def test_operations_are_tensorflow_addons(case):
    name, _, argument = case.partition("/")
    result = OPERATIONS[name](tf.constant(GOLDEN["image"]), float(argument or 0))
    difference = np.abs(result.numpy().astype(int) - GOLDEN[case])
    assert difference.max() <= (1 if name == "sharpness" else 0), (difference.max(), (difference > 0).mean())


def test_shear_y_is_shear_x_of_the_transposed_image():
    image = tf.constant(GOLDEN["image"])
    expected = tf.transpose(randaugment.shear_x(tf.transpose(image, (1, 0, 2)), 0.2), (1, 0, 2))
    np.testing.assert_array_equal(randaugment.shear_y(image, 0.2), expected)


def of_name(name, image, magnitude, seed=(0, 0), **arguments):
    index = list(randaugment.OPERATIONS).index(name)
    return randaugment.apply(image, tf.constant(index), magnitude, tf.constant(seed, tf.int64), **arguments).numpy()


@pytest.fixture
def ramp():
    """16 x 16 x 3 with every value of 0..255 in each channel."""
    return tf.constant(np.repeat(np.arange(256, dtype="uint8").reshape(16, 16, 1), 3, axis=2))


@pytest.mark.parametrize(
    ("name", "magnitude", "expected"),
    [
        ("Invert", 10, lambda x: 255 - x),
        ("Posterize", 10, lambda x: x // 16 * 16),
        ("Posterize", 15, lambda x: x // 4 * 4),
        ("Posterize", 30, lambda x: x),
        ("Solarize", 5, lambda x: np.where(x < 128, x, 255 - x)),
        ("Solarize", 15, lambda x: x),
        ("SolarizeAdd", 5, lambda x: np.where(x < 128, x + 55, x)),
        ("SolarizeAdd", 15, lambda x: np.where(x < 128, np.minimum(x + 165, 255), x)),
        ("Brightness", 5, lambda x: x),
        ("Brightness", 15, lambda x: np.minimum(np.floor((x * np.float32(2.8)).astype("float32")), 255)),
        ("Color", 15, lambda x: x),
        ("AutoContrast", 15, lambda x: x),
        ("Equalize", 15, lambda x: x),
    ],
)
def test_arguments_follow_the_magnitude(ramp, name, magnitude, expected):
    np.testing.assert_array_equal(of_name(name, ramp, magnitude), expected(ramp.numpy().astype(int)))


def test_autocontrast_stretches():
    image = tf.constant(np.array([[[50], [150], [100]]], "uint8"))
    assert of_name("AutoContrast", image, 5).ravel().tolist() == [0, 255, 127]


def test_contrast_blends_with_the_mean():
    image = tf.constant(np.array([[[100], [200]]], "uint8"))
    assert of_name("Contrast", image, 0).ravel().tolist() == [145, 155]  # factor 0.1 about 150


def test_magnitude_fifteen_rotates_by_45_degrees(ramp):
    turned = {of_name("Rotate", ramp, 15, (0, seed)).tobytes() for seed in range(20)}
    assert turned == {randaugment.rotate(ramp, angle).numpy().tobytes() for angle in (45.0, -45.0)}


def test_translation_and_cutout_scale_with_small_images(ramp):
    moved = {of_name("TranslateX", ramp, 10, (0, s), pixel_scale=0.04).tobytes() for s in range(20)}
    assert moved == {randaugment.translate(ramp, x, 0.0).numpy().tobytes() for x in (4.0, -4.0)}
    covered = [(of_name("Cutout", ramp + 1, 10, (0, s), pixel_scale=0.05)[..., 0] == 128) for s in range(30)]
    assert max(c.sum() for c in covered) in (16, 17)  # 4 x 4, and the one pixel that had the value
    assert len({c.tobytes() for c in covered}) > 20


def test_randaugment_is_a_function_of_its_seed_and_picks_every_operation():
    image = tf.constant(GOLDEN["image"])

    @tf.function
    def once(seed):
        return randaugment.randaugment(image, tf.stack([0, seed]), layers=1, magnitude=9)

    results = [once(tf.constant(seed)).numpy().tobytes() for seed in range(150)]
    assert results[:10] == [once(tf.constant(seed)).numpy().tobytes() for seed in range(10)]
    single = {name: {of_name(name, image, 9, (0, s)).tobytes() for s in range(8)} for name in randaugment.OPERATIONS}
    for name in set(single) - {"Cutout"}:
        assert single[name] & set(results), name


def test_randaugment_applies_the_asked_share():
    image = tf.constant(GOLDEN["image"])

    @tf.function
    def both(seed):
        seed = tf.stack([0, seed])
        return randaugment.randaugment(image, seed, 1, 9.0), randaugment.randaugment(image, seed, 1, 9.0, 1.0, 0.25)

    changed = []
    for seed in range(200):
        always, sometimes = (result.numpy().tobytes() for result in both(tf.constant(seed)))
        assert sometimes in (always, image.numpy().tobytes())
        changed.append(sometimes == always)
    assert 30 < sum(changed) < 80  # 50 and what leaves the image as it is


@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_takes_grey_and_colour(channels):
    image = tf.constant(GOLDEN["image"][..., :channels])
    for name in randaugment.OPERATIONS:
        result = of_name(name, image, 15)
        assert result.shape == image.shape and result.dtype == np.uint8, name


def test_mixup_mixes_pairs():
    images = tf.reshape(tf.range(4.0), (4, 1, 1, 1))
    shares = tf.constant([[0.75] * 2, [0.75] * 2, [1.0] * 2, [1.0] * 2])
    mixed, targets, weights = augment.mixup(images, tf.eye(4), tf.constant([1.0, 1.0, 1.0, 0.0]), shares)
    np.testing.assert_allclose(mixed[:, 0, 0, 0], [0.25, 0.75, 2, 3])
    np.testing.assert_allclose(targets[:2], [[0.75, 0.25, 0, 0], [0.25, 0.75, 0, 0]])
    np.testing.assert_allclose(weights, [1, 1, 0, 0])


def test_mixup_shares_are_of_the_beta_distribution():
    shares = np.array([augment.mixup_share(tf.constant([1, seed]), 0.8) for seed in range(500)])
    assert abs(shares.mean() - 0.5) < 0.05
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.15)


def test_cutmix_exchanges_the_box():
    images = tf.reshape(tf.range(2 * 4 * 5), (2, 4, 5, 1))
    begins, ends = tf.constant([[1, 2]] * 2), tf.constant([[3, 5]] * 2)
    mixed, kept = augment.cutmix(images, begins, ends)
    expected = images.numpy()
    expected[:, 1:3, 2:5] = expected[::-1, 1:3, 2:5]
    np.testing.assert_array_equal(mixed, expected)
    np.testing.assert_allclose(kept, 1 - 6 / 20)
    mixed, kept = augment.cutmix(images, begins, begins)  # nothing
    np.testing.assert_array_equal(mixed, images)
    np.testing.assert_array_equal(kept, 1)


def test_cutmix_boxes_are_the_papers():
    """1 - share of the area in the image's shape, cut off at the border: the distribution of timm's `rand_bbox`."""
    height, width = 30, 60
    boxes = [augment.cutmix_box(tf.constant([2, seed]), 1.0, (height, width)) for seed in range(600)]
    begins, ends = (np.array(parts) for parts in zip(*boxes, strict=True))
    assert (begins >= 0).all() and (ends <= (height, width)).all() and (begins <= ends).all()
    generator = np.random.default_rng(0)
    ratio = np.sqrt(1 - generator.beta(1, 1, 20000))
    areas = np.ones_like(ratio)
    for side in (height, width):
        cut, centre = (side * ratio).astype(int), generator.integers(0, side, len(ratio))
        areas *= np.clip(centre + cut // 2, 0, side) - np.clip(centre - cut // 2, 0, side)
    mine = (ends - begins).prod(axis=1)
    assert mine.mean() == pytest.approx(areas.mean(), rel=0.1)
    np.testing.assert_allclose(np.quantile(mine, [0.25, 0.5, 0.75]), np.quantile(areas, [0.25, 0.5, 0.75]), rtol=0.25)
    inside = [((b > 0) & (e < (height, width))).all() for b, e in zip(begins, ends, strict=True)]
    whole = (ends - begins)[inside]
    assert np.abs(whole[:, 1] - 2 * whole[:, 0]).max() <= 4  # of the image's shape


def test_random_erasing_fills_one_rectangle():
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (40, 30, 3), "uint8"))
    areas, heights, erased = [], [], 0
    for seed in range(200):
        result = augment.random_erasing(image, tf.constant([seed, 5]), 0.75)
        assert result.shape == image.shape and result.dtype == np.uint8
        rows, columns = np.nonzero((result.numpy() != image.numpy()).any(axis=-1))
        if not len(rows):
            continue
        erased += 1
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) > 0.95 * height * width  # noise is seldom what was there
        areas.append(height * width / 1200)
        heights.append(height / width)
    assert 0.68 < erased / 200 < 0.82
    assert min(areas) > 0.015 and max(areas) < 0.36 and 0.12 < np.mean(areas) < 0.22
    assert min(heights) < 0.6 and max(heights) > 1.6
    same = [augment.random_erasing(image, tf.constant([3, 5]), 1.0).numpy() for _ in range(2)]
    np.testing.assert_array_equal(*same)
    np.testing.assert_array_equal(augment.random_erasing(image, tf.constant([3, 5]), 0.0), image)
