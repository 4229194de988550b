"""What a run trains: all of a network, its head on features, its last blocks, or LoRA; on either engine."""

import dataclasses
import shutil

import keras
import numpy as np
import pytest

import coatnet_tf
from experiments import checks, closing, label_noise, loop, report, tuning, workdir
from experiments.data import features, pipeline, sources
from experiments.data.damage import DamagedImages
from experiments.model_config import make_model_config
from tests.experiments.samples import make_folder

pytestmark = pytest.mark.usefixtures("no_pictures")
HEAD = {"head_norm", "head_hidden", "predictions"}
LORA = {"query", "key", "value", "out", "expand", "shrink"}


@pytest.fixture
def network(config):
    return coatnet_tf.CoAtNet(
        make_model_config(config.model), input_shape=(8, 8, 1), classes=10, classifier_activation=None
    )


def top_layers(variables):
    return {variable.path.partition("/")[0] for variable in variables}


def test_the_head_is_all_behind_the_pool(config, network):
    config.tune = "head"
    head = tuning.prepare(network, config)
    assert top_layers(head.trainable_variables) == HEAD and head.input_shape == (None, 32)
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(head(tuning.backbone_of(network)(images)), network(images), atol=1e-6)


@pytest.mark.parametrize(("tuned", "trained"), [(1, {"s2_block01"}), (2, {"s1_block01", "s2_block01"})])
def test_the_last_blocks_are_counted_from_the_end(config, network, tuned, trained):
    config.tune, config.tuned_blocks = "last_blocks", tuned
    model = tuning.prepare(network, config)
    assert model is network and top_layers(model.trainable_variables) == HEAD | trained
    frozen, last = tuning.frozen_layers(model)
    assert last == {1: "s1_block01", 2: "stem_conv01"}[tuned]
    assert {"stem_conv01", "preprocessing"} <= frozen and not frozen & (HEAD | trained | {"head_pool"})


def test_lora_is_beside_attention_and_feed_forward_alone(config, network):
    config.tune, config.lora_rank = "lora", 4
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 1)).astype("float32")
    before, plain = np.array(network(images)), [weight.path for weight in network.weights]
    model = tuning.prepare(network, config)
    np.testing.assert_array_equal(model(images), before)  # the second matrix of each begins at zero
    trained = [v for v in model.trainable_variables if v.path.partition("/")[0] not in HEAD]
    assert {v.path.rpartition("/")[2] for v in trained} == {"lora_kernel_a", "lora_kernel_b"}
    assert {v.path.split("/")[-2].rpartition("_")[2] for v in trained} == LORA and len(trained) == 2 * len(LORA)
    assert {4 in v.shape for v in trained} == {True}
    frozen, last = tuning.frozen_layers(model)
    assert "s1_block01" in frozen and last == "s1_block01" and "s2_block01" not in frozen

    for layer in tuning.with_lora(model):
        layer.lora_kernel_b.assign(np.random.default_rng(1).normal(size=layer.lora_kernel_b.shape))
    trained = np.array(model(images))
    assert np.abs(trained - before).max() > 1e-3
    tuning.merge_lora(model)
    np.testing.assert_allclose(model(images), trained, atol=1e-5)
    assert [weight.path for weight in tuning.plain_weights(model)] == plain


def test_all_is_the_network_as_it_is(config, network):
    assert tuning.prepare(network, config) is network
    assert tuning.frozen_layers(network) == (set(), "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tune": "heads"}, "config.tune must be one of all, head, last_blocks, lora; got 'heads'"),
        ({"tune": "head", "init_from": ""}, "config.tune=head leaves most of the network as it is, and without --init"),
        ({"tune": "last_blocks", "tuned_blocks": 3}, "tuned_blocks must be at most 2, the blocks of coatnet-digits"),
        ({"tune": "last_blocks", "tuned_blocks": 0}, "config.tuned_blocks must be at least 1; got 0"),
        ({"tune": "lora", "lora_rank": 0}, "config.lora_rank must be at least 1; got 0"),
        ({"tune": "lora", "model.layout": "C-C"}, "adds to attention and feed-forward layers, and coatnet-digits has"),
        ({"tune": "head", "head_views": 0}, "config.head_views must be at least 1; got 0"),
        ({"tune": "head", "augment.mixup_alpha": 0.2}, "Mixup and CutMix would mix other ones"),
        ({"tune": "head", "optimizer.layer_decay": 0.8}, "config.tune=head trains none of them; set it to 1"),
        ({"optimizer.layer_decay": 0.0}, "config.optimizer.layer_decay must be above 0 and at most 1; got 0.0"),
        ({"optimizer.layer_decay": 1.1}, "config.optimizer.layer_decay must be above 0 and at most 1; got 1.1"),
    ],
)
def test_what_has_no_meaning_is_refused(run, config, devices, tmp_path, change, message):
    config.init_from = str(tmp_path)
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        run(config, tmp_path / "run", devices)
    assert not (tmp_path / "run").exists()


def test_several_processes_do_not_share_features(config, devices):
    class Several:
        hold_features = False

    config.tune, config.init_from = "head", "somewhere"
    checks.check_tuning(config, devices)
    with pytest.raises(ValueError, match="computes all features in one process"):
        checks.check_tuning(config, Several)


def test_features_come_in_the_order_of_images(config):
    """The mean of an image is its feature here, so that the batches of both are comparable."""
    config.tune, config.head_views, config.dataset.max_damaged_share = "head", 2, 0.0
    source = sources.prepare(config.dataset)
    found = features.of_training(
        source,
        config,
        lambda images: images.numpy().astype("float32").mean(axis=(1, 2)),
        DamagedImages(source.train.count, 0.0),
        shown=False,
    )
    assert found.values.shape == (2, 160, 1) and found.weights.min() == 1
    steps = pipeline.training_order(source, config).steps_per_epoch

    def take(first, count):
        context = pipeline.tf.distribute.InputContext()
        return list(features.training_batches(found, config, first, context).take(count).as_numpy_iterator())

    batches = take(0, 2 * steps + 1)
    for step, (values, targets, weights, shares) in enumerate(batches):
        names = found.example_names(config, step)
        places = [found.names.index(name) for name in names]
        assert len(set(names)) == config.batch_size
        view = step // steps % 2  # of the first epoch that of evaluation, then augmented, then again
        np.testing.assert_array_equal(values, found.values[view, places])
        np.testing.assert_array_equal(targets, found.targets[places])
        assert weights.min() == shares.min() == 1
    for mine, expected in zip(take(steps + 1, 2), batches[steps + 1 :], strict=False):  # from the middle on
        for part, other in zip(mine, expected, strict=True):
            np.testing.assert_array_equal(part, other)
    assert (found.values[0] != found.values[1]).any()


def test_features_of_a_folder_are_of_its_images(config, tmp_path):
    """A damaged image has no weight, and the order is the one that the images would have."""
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for index in range(20):
            keras.utils.save_img(tmp_path / label / f"{index}.png", np.full((8, 8, 3), 10 * index), scale=False)
    config.dataset.name, config.dataset.train_split = f"folder:{tmp_path}", "train"
    config.dataset.channels, config.batch_size, config.dataset.max_damaged_share = 1, 8, 0.5
    source = sources.prepare(config.dataset)
    damaged_file = source.train.paths[3]
    with open(damaged_file, "wb") as file:
        file.write(b"no image")
    damaged = DamagedImages(source.train.count, 0.5)
    found = features.of_training(
        source, config, lambda images: images.numpy().astype("float32").mean(axis=(1, 2)), damaged, shown=False
    )
    assert np.flatnonzero(found.weights[0] == 0).tolist() == [3] and damaged.names == [damaged_file]
    for step in range(4):
        assert found.example_names(config, step) == pipeline.example_names(source, config, step)


@pytest.fixture
def tuned(config, whole_run):
    """A recipe that begins where `whole_run` ended, with every part that a part of the network can have."""
    config.init_from = str(whole_run)
    config.early_stop_patience = 2
    config.ema_decay = 0.5
    return config


def weights_of(folder):
    return {v.path: np.array(v) for v in keras.models.load_model(folder / workdir.MODEL).weights}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["head", "last_blocks", "lora"])
def test_only_what_is_said_changes_and_the_model_is_a_plain_one(run, tuned, devices, whole_run, tmp_path, way):
    """The statistics of frozen BatchNorms stay, and a stopped run comes to the same end, bit for bit."""
    tuned.tune, tuned.tuned_blocks, tuned.head_views = way, 1, 2
    if way != "head":
        tuned.optimizer.layer_decay = 0.5
    folder = tmp_path / "tuned"
    run(tuned, folder, devices)
    before, after = weights_of(whole_run), weights_of(folder)
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert before.keys() == after.keys()
    in_head = {path for path in before if path.partition("/")[0] in HEAD}
    expected = {
        "head": in_head,
        "last_blocks": in_head | {path for path in before if path.startswith("s2_block01")},
        "lora": in_head
        | {
            path
            for path in before
            if path.startswith("s2_block01") and path.endswith("/kernel") and "_proj/" not in path
        },
    }[way]
    assert changed == expected

    model = keras.models.load_model(folder / workdir.MODEL)
    batches = pipeline.evaluation_batches(sources.prepare(tuned.dataset), tuned).as_numpy_iterator()
    images, targets, kept = (np.concatenate(part) for part in zip(*batches, strict=True))
    chances = (np.asarray(model(images.astype("float32"))) * targets).sum(axis=-1)
    rows = workdir.read_metrics(folder)
    assert -np.log(chances)[kept > 0].mean() == pytest.approx(workdir.result_of(rows)["eval_loss"], rel=1e-4)
    assert "| Trained |" in (folder / workdir.REPORT).read_text()

    for path in (folder / workdir.CHECKPOINTS).glob("*10*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / workdir.MODEL).unlink()
    run(tuned, folder, devices)
    again = weights_of(folder)
    for path, value in after.items():
        np.testing.assert_array_equal(again[path], value, err_msg=path)
    loss = [[row["train_loss"], row["eval_loss"]] for row in workdir.read_metrics(folder)]
    assert loss == [[row["train_loss"], row["eval_loss"]] for row in rows]


@pytest.mark.slow
def test_at_the_end_a_head_is_asked_of_features_and_the_sheet_alone_is_read(tuned, devices, tmp_path, monkeypatch):
    make_folder(tmp_path / "photos", {"red": 20, "green": 20})
    tuned.dataset.name, tuned.dataset.train_split = f"folder:{tmp_path / 'photos'}", "train"
    tuned.dataset.update(eval_split="validation", channels=1)
    tuned.batch_size, tuned.tune, tuned.reset_head, tuned.head_views = 4, "head", True, 2
    monkeypatch.setattr(report, "CONTACT_SHEET", 3)
    source = loop.prepare(tuned, tmp_path / "run", devices)
    engine, _, _ = loop.build(tuned, tmp_path / "run", devices, source)
    engine.begin(0)
    engine.train(3)
    with engine.kept_weights(), engine.result(tmp_path) as (model, predict):
        model.save(tmp_path / "model.keras")
        known = engine.predictions("eval", predict), engine.predictions("train", predict)
        read = []
        load = pipeline._load_chunk
        monkeypatch.setattr(pipeline, "_load_chunk", lambda *of: read.append(of) or load(*of))
        monkeypatch.setattr(pipeline, "view_batches", None)
        said = closing.ask(tuned, source, engine, predict)
    assert not read  # no pipeline of images is made
    model = keras.models.load_model(tmp_path / "model.keras")
    for split, found in zip(("eval", "train"), known, strict=True):
        reader = getattr(source, split)
        images = pipeline.evaluation_batches(dataclasses.replace(source, eval=reader), tuned).as_numpy_iterator()
        images = np.concatenate([batch for batch, _, _ in images])[: reader.count]
        np.testing.assert_allclose(found.outputs, model(images.astype("float32")), atol=1e-5)
        assert found.targets.argmax(axis=-1).tolist() == list(reader.labels) and found.read.all()
        np.testing.assert_array_equal(found.outputs, said.splits[split].outputs)
    np.testing.assert_array_equal(said.examples[2], known[0].outputs[:3])
    disagreements = label_noise.find(source, tuned, said.splits)
    assert len(disagreements) > 3 and [entry.image is not None for entry in disagreements[:4]] == [True] * 3 + [False]


@pytest.mark.slow
def test_a_head_goes_on_with_its_own_features_alone(run, tuned, devices, whole_run, tmp_path):
    start = shutil.copytree(whole_run, tmp_path / "start")
    tuned.tune, tuned.init_from = "head", str(start)
    run(tuned, tmp_path / "tuned", devices)
    model = keras.models.load_model(start / workdir.MODEL)
    model.get_layer("stem_conv01").kernel.assign(model.get_layer("stem_conv01").kernel * 1.01)
    model.save(start / workdir.MODEL)
    with pytest.raises(ValueError, match="The weights of --init_from have changed since the run .* put them back"):
        run(tuned, tmp_path / "tuned", devices)


@pytest.mark.slow
def test_frozen_parts_run_in_inference_mode(config, devices, tmp_path):
    """No branch of theirs is dropped: their random states do not move, nor do the statistics of their norms."""
    config.model.depths, config.model.drop_path_rate = (1, 2, 1), 0.5  # the first of all blocks drops no branch
    network = coatnet_tf.CoAtNet(make_model_config(config.model), input_shape=(8, 8, 1), classes=10)
    network.save_weights(tmp_path / "start.weights.h5")
    config.tune, config.tuned_blocks, config.init_from = "last_blocks", 1, str(tmp_path / "start.weights.h5")
    source = loop.prepare(config, tmp_path / "run", devices)
    engine, _, _ = loop.build(config, tmp_path / "run", devices, source)
    frozen = [v for v in engine.network.variables if v.path.partition("/")[0] in engine._frozen]
    states = [v for v in engine.network.variables if "s2_block01" in v.path and "seed_generator" in v.path]
    assert any("moving_mean" in v.path for v in frozen) and any("seed_generator" in v.path for v in frozen) and states
    engine.begin(0)
    before, moving = [np.array(v) for v in frozen], [np.array(v) for v in states]
    engine.train(2)
    for variable, value in zip(frozen, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)
    assert any((np.array(v) != value).any() for v, value in zip(states, moving, strict=True))
