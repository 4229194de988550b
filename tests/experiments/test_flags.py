"""Paths and recipes on the command line of every program: what is taken, and one sentence for what is wrong."""

import ast
import errno
import functools
import re
import sys
from pathlib import Path

import ml_collections
import pytest
from absl import flags

from experiments import path_flags, recipe_flags, train
from experiments.recipes import base, digits, small_folder
from tests import programs

ROOT = Path(__file__).parents[2]
DEFINE_FILE = recipe_flags.config_flags.DEFINE_config_file


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~/runs/x", "HOME/runs/x"),
        ("~", "HOME"),
        ("~/my photos/süß/", "HOME/my photos/süß"),
        ("folder:~/x//", "folder:HOME/x"),
        ("runs/mine/", "runs/mine"),
        ("./~x", "./~x"),
        ("a~/b", "a~/b"),
        ("/", "/"),
        ("timm/coatnet_0_rw_224.sw_in1k", "timm/coatnet_0_rw_224.sw_in1k"),
        ("tfds:digits", "tfds:digits"),
        ("gs://bucket/x/", "gs://bucket/x"),
    ],
)
def test_paths_are_expanded(given, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/some body")
    assert path_flags.expand(given) == expected.replace("HOME", "/home/some body")


def test_paths_that_are_none(monkeypatch, tmp_path):
    for empty in ("", "  ", "folder:"):
        with pytest.raises(ValueError, match="a path is expected, and there is none"):
            path_flags.expand(empty)
    with pytest.raises(ValueError, match="there is no user 'nobody_here' whose home"):
        path_flags.expand("~nobody_here/x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~old copies").mkdir()
    assert path_flags.expand("~old copies/x") == "~old copies/x"


def test_no_file_of_a_run_that_is_read_is_written_over(tmp_path):
    for name in ("model.keras", "classes.txt", "predictions.csv", "notes.png"):
        (tmp_path / name).touch()
    for name in ("model.keras", "classes.txt"):
        with pytest.raises(ValueError, match=f"--output=.*{name} would be written over: .*{name} is read"):
            path_flags.refuse_overwriting({"output": tmp_path / name}, [tmp_path, None])
    for name in ("predictions.csv", "notes.png", "new.csv"):  # written again and again
        path_flags.refuse_overwriting({"output": tmp_path / name}, [tmp_path])


def test_every_path_flag_of_every_program_is_one():
    """The words of the help text tell which flags take paths."""
    plain = []
    for package in ("experiments", "tools"):
        for file in (ROOT / package).rglob("*.py"):
            for call in ast.walk(ast.parse(file.read_text())):
                if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "DEFINE_string":
                    name, help_string = (ast.unparse(call.args[i]).strip("'\"") for i in (0, -1))
                    if any(word in help_string.lower() for word in ("folder", "file", "path", "to write")):
                        plain.append((file.name, name))
    # The name of a network; patterns, which the programs expand.
    assert sorted(plain) == [("fine_tune.py", "model"), ("load_test.py", "images"), ("serve_client.py", "images")]


WRONG = {
    "learning_rate=1": "The recipe has no field 'learning_rate'; near it is optimizer.learning_rate",
    "optimizer.lr=1": "no field 'optimizer.lr'; near it is optimizer.learning_rate",
    "lr=1": "near it are lora_rank, optimizer.learning_rate",
    "batchsize=8": "near it is batch_size",
    "optimiser.weight_decay=1": "near it is optimizer.weight_decay",
    "dataset.path=x": "no field 'dataset.path'",
    "epochs.x=1": "no field 'epochs.x'",
    "zzz=1": "no field 'zzz'; it has accumulation_steps, augment.crop",
    "epochs=ten": "--config.epochs=ten: the field takes a whole number",
    "epochs=2.5": "takes a whole number",
    "epochs=": "takes a whole number",
    "optimizer.learning_rate=fast": "takes a number",
    "augment.flip=maybe": "takes true or false",
    "image_size=wide": "--config.image_size=wide: the size of images is a whole number, such as 288, or a height and a",
    "image_size=0": "got '0'",
    "image_size=(1, 2, 3)": "or a height and a width, such as 288x512; got '(1, 2, 3)'",
    "optimizer=adam": "config.optimizer is a group of fields: give them one by one, as --config.optimizer.",
}


@pytest.mark.parametrize("config", [digits.get_config(), small_folder.get_config()])
def test_wrong_overrides_get_a_sentence(config):
    for override, sentence in WRONG.items():
        with pytest.raises(base.RecipeError) as refusal:
            recipe_flags.check_overrides(config, [f"--config.{override}"])
        assert sentence in str(refusal.value) and "\n" not in str(refusal.value), override
    with pytest.raises(base.RecipeError, match="no flag --batch_size; the .* by --config.batch_size="):
        recipe_flags.check_overrides(config, ["--batch_size=3"])
    with pytest.raises(base.RecipeError, match=r"--config.epochs=ten"):
        recipe_flags.check_overrides(config, ["--config.epochs", "ten"])
    good = [
        "--config.epochs=3",
        "-config.augment.flip",
        "--noconfig.augment.flip",
        "--config.ema_decay=1e-3",
    ]
    good += ["--config.epochs", "4", "--config.init_from=~/x", "--workdir=x", "--", "--config.learning_rate=1"]
    recipe_flags.check_overrides(config, good)


@pytest.fixture
def with_recipe(monkeypatch):
    """Reads a command line into flags of their own."""

    def read(*arguments):
        values = flags.FlagValues()
        monkeypatch.setattr(flags, "FLAGS", values)
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        monkeypatch.setattr(
            recipe_flags.config_flags,
            "DEFINE_config_file",
            functools.partial(DEFINE_FILE, flag_values=values),
        )
        recipe_flags.define_file(required=False)
        values(sys.argv)
        return recipe_flags.recipe()

    return read


def test_recipes_and_their_paths(with_recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my recipe.py").write_text((ROOT / "experiments/recipes/digits.py").read_text())
    config = with_recipe(
        "--config=~/my recipe.py", "--config.epochs=3", "--config.dataset.name=folder:~/x/", "--config.init_from=~/w"
    )
    assert isinstance(config, ml_collections.ConfigDict)
    assert (config.epochs, config.dataset.name, config.init_from) == (3, f"folder:{tmp_path}/x", f"{tmp_path}/w")
    for given, expected in {
        "24": 24,
        "24x24": 24,
        "24x48": (24, 48),
        "24,48": (24, 48),
        "(24, 48)": (24, 48),
    }.items():
        config = with_recipe("--config=experiments/recipes/digits.py", f"--config.image_size={given}")
        assert config.image_size == expected
    with pytest.raises(base.RecipeError, match="takes its value behind a =, as --config.image_size=288x512"):
        with_recipe("--config=experiments/recipes/digits.py", "--config.image_size", "24")
    with pytest.raises(base.RecipeError, match=r"there is no file nowhere/digit.py; experiments/recipes has digits.py"):
        with_recipe("--config=nowhere/digit.py")


@pytest.mark.slow
def test_programs_end_with_a_sentence(tmp_path):
    program = ["experiments.train", "--config=experiments/recipes/digits.py", "--workdir=~/run"]
    tune = ["tools.fine_tune", "--images=~/none/", "--init_from=timm/coatnet_0_rw_224.sw_in1k", "--output=~/mine"]
    for command, sentence in (
        ([*program, "--data=folder:~/none/"], f"There is no folder '{tmp_path}/none'"),
        ([*tune, "--config.learning_rate=1"], "no field 'learning_rate'; near it is optimizer.learning_rate"),
        (["tools.predict", f"--model={tmp_path}", "--output=x.csv"], "--images must have a value"),
        (["tools.export_saved_model", "--workdir=x", "--output=y", "--fold", "false"], "What does 'false' mean?"),
    ):
        done = programs.run(*command, env={"HOME": str(tmp_path)})
        said = done.stderr + done.stdout
        assert done.returncode == 1 and sentence in said and "Traceback" not in said, said
    assert not (tmp_path / "run").exists() and not (tmp_path / "mine").exists()


@pytest.mark.slow
def test_help_lists_the_flags_of_each_program_and_nothing_else_is_said():
    files = [file for package in ("experiments", "tools") for file in (ROOT / package).rglob("*.py")]
    texts = {file: file.read_text() for file in files if "    app.run(main)" in file.read_text()}
    assert len(texts) > 20
    for file, text in texts.items():
        done = programs.run(".".join(file.relative_to(ROOT).with_suffix("").parts), "--helpshort")
        assert "del argv" not in text, file
        defined = re.findall(r"(?:\.define|define_several|DEFINE_\w+)\(\s*\"(\w+)\"", text)
        listed = re.findall(r"^  --(?:\[no\])?(\w+):", done.stdout, re.MULTILINE)
        assert set(defined) <= set(listed) and listed and not done.stderr, done


def test_a_folder_that_cannot_be_written_gets_a_sentence(monkeypatch):
    def fail(*_):
        raise OSError(errno.EROFS, "Read-only file system", "runs")

    monkeypatch.setattr(train.loop, "prepare", lambda *_: None)
    monkeypatch.setattr(train.loop, "build", lambda *_: ())
    monkeypatch.setattr(train.loop, "train", fail)
    with pytest.raises(SystemExit, match="^OSError: .*Read-only file system: 'runs'$"):
        train._run(None, None, None)
