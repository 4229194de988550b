"""The step through the TPU's compiler: a small network, in a process of its own, as it needs Keras on JAX."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.model_config import make_model_config
from experiments.recipes import paper
from tools import compile_for_tpu
from tools.paper import compile_family, compiled_steps
from tools.tpu import chips, depth, environment, estimate, program
from tools.tpu.compiling import Step, compile_step

pytest.importorskip("libtpu")

ROOT = Path(__file__).parents[2]
RECIPE = """
from experiments.recipes import paper

def get_config():
    config = paper.get_config("imagenet1k_pretrain,coatnet0")
    config.model.update(name="small", depths=(1, 1, 1, 1, 1), widths=(64, 64, 128, 128, 256))
    config.image_size, config.batch_size = 64, 32
    return config
"""
# Of that network on v5e:2x2 with the libtpu named; whoever makes the step cheaper writes the new number.
CYCLES, LIBTPU = 1_079_644, "0.0.52"
KEYS = (
    "model",
    "topology",
    "chips",
    "shards",
    "images_per_chip",
    "argument_gib",
    "temporary_gib",
    "hbm_gib",
    "fits",
    "flops_per_chip",
    "bytes_per_chip",
    "collectives",
    "estimated_cycles",
    "estimated_seconds",
    "peak_share",
    "compile_seconds",
)


def call(*flags, **environment_variables):
    """Runs the program on the recipe; gives what it says, or its last line of stderr if it refuses."""
    clean = {name: value for name, value in os.environ.items() if name not in ("KERAS_BACKEND", "XLA_FLAGS")}
    result = subprocess.run(
        [sys.executable, "-m", "tools.compile_for_tpu", *flags],
        env={**clean, **environment_variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        assert "Traceback" not in result.stderr, result.stderr[-2000:]
        return result.stderr.strip().splitlines()[-1]
    return result.stdout


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.py"
    path.write_text(RECIPE)
    return f"--config={path}"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return f"--cache={tmp_path_factory.mktemp('cache')}"


@pytest.fixture(scope="module")
def numbers(recipe, cache):
    return json.loads(call(recipe, cache, "--topology=v5e:2x2", "--format=json"))


@pytest.mark.slow
def test_the_step_is_what_it_should_be(numbers):
    assert set(KEYS) <= set(numbers)
    assert numbers["fits"] and (numbers["chips"], numbers["shards"], numbers["images_per_chip"]) == (4, 4, 8)
    collectives = numbers["collectives"]
    assert collectives["all-to-all"]["count"] == 0
    assert collectives["reduce-scatter"]["count"] > 0 and collectives["all-gather"]["count"] > 0
    half = 2 * numbers["params"] * 3 / 4  # bytes of bfloat16 that each of four chips sends
    assert collectives["reduce-scatter"]["bytes"] > 0.75 * half  # the rest is of norms, biases and tables
    assert collectives["all-gather"]["bytes"] < 2 * half
    assert all("predictions" in layer for layer in numbers["float32_products"])  # the classifier is to be float32
    assert numbers["argument_gib"] * 2**30 < 4 * numbers["params"] * 1.1 * 3 / 4 + 2**20  # weights and moments, cut


@pytest.mark.slow
def test_cycles_are_what_they_were(numbers):
    import importlib.metadata

    if importlib.metadata.version("libtpu") != LIBTPU:
        pytest.skip(f"the number is of libtpu {LIBTPU}")
    assert numbers["estimated_cycles"] == pytest.approx(CYCLES, rel=0.05)
    seconds = numbers["estimated_cycles"] / 1.5e9
    assert numbers["estimated_seconds"] == pytest.approx(seconds)
    assert numbers["peak_share"] == pytest.approx(numbers["flops_per_chip"] / seconds / 197e12)


@pytest.mark.slow
def test_results_are_kept(numbers, recipe, cache, tmp_path):
    """The second time nothing is compiled: the seconds are those of the first."""
    file = tmp_path / "numbers.json"
    assert call(recipe, cache, "--topology=v5e:2x2", "--format=json", f"--output={file}") == ""
    assert json.loads(file.read_text()) == numbers
    words = call(recipe, cache, "--topology=v5e:2x2")
    assert "small on v5e:2x2: compiled, not run" in words and "fits" in words


STEP_TWICE = """
import sys
from tools.tpu import environment
environment.prepare([])
import experiments
import jax
from experiments import loop
from experiments.engine.jax_devices import JaxDevices, make_mesh
from experiments.engine.jax_engine import JaxEngine, without_values
from experiments.recipe_flags import path_flags
from tools.tpu import chips, steps
import importlib.util
spec = importlib.util.spec_from_file_location("small", sys.argv[1])
recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)
config = recipe.get_config()
devices = JaxDevices(make_mesh(chips.find_topology("v5e:2x2").devices))
source = steps.source_of(config)
engine = without_values(lambda: JaxEngine(config, source, loop.make_schedule(config, source), devices))
lowered = engine.lower()
given, kept, batch = lowered.in_avals[0]
returned, loss = lowered.out_info
same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), given, returned)
assert all(jax.tree.leaves(same)) and len(jax.tree.leaves(same)) > 100
print("the state is returned as it was given")
"""


@pytest.mark.slow
def test_no_step_is_compiled_again(recipe, tmp_path):
    """The state comes back with the shapes and dtypes it went in with; how it lies is the same by `out_shardings`."""
    script = tmp_path / "twice.py"
    script.write_text(STEP_TWICE)
    clean = {name: value for name, value in os.environ.items() if name not in ("KERAS_BACKEND", "XLA_FLAGS")}
    command = [sys.executable, script, recipe.partition("=")[2]]
    result = subprocess.run(
        command, env={**clean, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert "the state is returned as it was given" in result.stdout, result.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--topology=v9:2x2"],
            "ValueError: There is no topology 'v9:2x2'; known are v2, v3, v4, v5e, v5p, v6e, tpu7x",
        ),
        (["--topology=v5e:3x3"], "ValueError: There is no topology 'v5e:3x3'; known are "),
        (["--topology=v5e:2x2", "--config.batch_size=30"], "ValueError: config.batch_size 30 is for all replicas"),
        (["--topology=v5e:2x2", "--shards=3"], "ValueError: --shards must divide the number of devices, 4; got 3."),
        (
            ["--topology=v5e:2x2", "--strategy=tpu", "--peer=ConvNeXtTiny"],
            "ValueError: --shards and --peer are only for",
        ),
        (["--topology=v5e:2x2", "--extend_depth"], "ValueError: --extend_depth is for the family; small is a network"),
        (
            ["--topology=v5e:2x2", "--extend_depth", "--peer=ConvNeXtTiny"],
            "ValueError: --extend_depth is for the recipe",
        ),
        (["--topology=v5e:2x2", "--config.dataset.name=folder:/x"], "ValueError: A step is compiled for a dataset of"),
        (
            ["--topology=v5e:2x2", "--config.dataset.balance=weights"],
            "ValueError: config.dataset.balance=weights follows",
        ),
    ],
)
def test_refusals(recipe, flags, words):
    assert call(recipe, *flags).startswith(words)


def test_backends_that_contradict(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(SystemExit, match="--strategy=sharded is compiled from Keras' jax backend, and the environment"):
        environment.prepare(["--topology=v5e:2x2"])


def test_a_compiler_that_is_missing(monkeypatch):
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"libtpu\) is not installed; it comes with pip install 'coatnet_tf\[tpu\]'"):
        chips.find_topology("v5e:2x2")


def test_what_does_not_fit_is_said(tmp_path):
    def refuse():
        raise RuntimeError(
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (20.50G) exceeds available HBM (15.75G). HLO module: jit_call."
        )

    compiled = compile_step(Step("a program", refuse), "v5e:2x2", tmp_path)
    assert compiled.temporary_bytes == 20.5 * 2**30
    topology = chips.Topology("v5e:2x2", chips.TPUS["v5e"], [None] * 4)
    numbers = estimate.count("large", 10**9, compiled, topology, 4, 128) | {"epochs": 14, "images": 1000}
    numbers = estimate.with_rates(numbers, topology.chip)
    assert numbers["fits"] is False and numbers["estimated_cycles"] is None and set(KEYS) <= set(numbers)
    assert "the compiler needs 20.5 GiB, and 15.75 GiB can be had: does not fit" in "\n".join(
        estimate.describe(numbers)
    )


@pytest.mark.parametrize("limit", [1, 7, 100, 1000])
def test_the_largest_batch_fits_and_a_larger_one_does_not(limit):
    config, tried = paper.get_config("imagenet1k_pretrain,coatnet0"), []
    config.batch_size = 4 * 64
    topology = chips.Topology("v5e:2x2", chips.TPUS["v5e"], [None] * 4)

    def compile_it():
        pairs = config.batch_size // 4 // 2  # Mixup pairs images
        tried.append(pairs)
        gib = 15.9 * pairs / limit
        return {"fits": pairs <= limit, "hbm_gib": 16, "argument_gib": 0.0, "temporary_gib": gib, "pairs": pairs}

    best = compile_for_tpu.largest_batch(config, topology, compile_it)["pairs"]
    assert best <= limit < best + max(1, best // 32) + 1
    assert len(tried) < 8


LOOP = """HloModule step
%body (p: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %f = bf16[8] fusion(%p), metadata={op_name="jit(call)/while/body/jvp(s1)/s1_norm/add"}, b={"estimated_cycles":"100"}
  %g = bf16[32] all-gather(%f), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
}

%all-reduce-scatter.1 (i: bf16[64]) -> bf16[16] {
  %r = bf16[64] all-reduce(%i), channel_id=2, replica_groups={{0,1,2,3}}, to_apply=%add
}

%async_collective_fusion.1 (i: f32[64]) -> f32[256] {
  %h = f32[256] all-gather(%i), channel_id=3, replica_groups=mesh['copies'=1,'shards'=4] {'shards'}, dimensions={0}
}

%fused_start (i: f32[64]) -> f32[256] {
  %h.1 = f32[256] all-gather(%i), channel_id=3, replica_groups=mesh['copies'=1,'shards'=4] {'shards'}, dimensions={0}
}

ENTRY %main (a: bf16[8]) -> bf16[8] {
  %w = (s32[], bf16[8]) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %o = bf16[8] fusion(%w), calls=%x, metadata={op_name="jit(call)/optimizer/mul"}, b={"estimated_cycles":"50"}
}
"""


def of_depth(blocks):
    """Numbers of a step as `compile_recipe` gives them, which grow with the blocks."""
    numbers = {"what": "compiled", "model": "coatnet-6", "epochs": 14, "images": 3 * 10**8, "images_per_chip": 16}
    sizes = {"argument_gib": 0.25 * blocks, "temporary_gib": 1.0 + 0.5 * blocks, "compile_seconds": 1.0}
    cycles = {"estimated_cycles": 1000 + 100 * blocks, "cycles_by_part": {"attention": 100 * blocks, "norms": 1000}}
    numbers |= sizes | cycles | {"flops_per_chip": 2e9 * blocks, "most_expensive": [{"cycles": blocks}]}
    return numbers


def blocks_of(config):
    return max(stage.depth for stage in make_model_config(config.model).stages if stage.block == "transformer")


def test_a_deep_network_from_two_shallower_ones():
    config, chip = paper.get_config("jft_pretrain,coatnet6"), chips.TPUS["v5p"]
    seen = []

    def compile_it(shorter):
        seen.append([stage.depth for stage in make_model_config(shorter.model).stages])
        return of_depth(blocks_of(shorter))

    found = depth.extended(config, chip, compile_it)
    assert seen == [[2, 4, 8, 4, 2], [2, 4, 8, 8, 2]] and "stages" not in config.model
    expected = estimate.with_rates(of_depth(42), chip)
    assert "extended to the 42 blocks of stage s3 from programs of 4 and 8" in found.pop("what")
    assert found.pop("compiled_depths") == [4, 8] and found.pop("compile_seconds") == 2.0
    assert found.pop("most_expensive") == [{"cycles": 8}]
    assert found == {name: expected[name] for name in found} and found["fits"]
    refused = depth.extended(config, chip, lambda shorter: {**of_depth(blocks_of(shorter)), "refusal": "too large"})
    assert refused["refusal"] == "too large" and refused["estimated_cycles"] == 1400
    assert refused["what"].endswith("; with 4 of the 42 blocks of stage s3, whose parameters are counted")


def test_a_shallow_network_is_compiled_as_it_is():
    with pytest.raises(ValueError, match="more than 8 blocks; the longest of coatnet-0 has 5. Compile it as it is"):
        depth.extended(paper.get_config("imagenet1k_pretrain,coatnet0"), chips.TPUS["v5e"], of_depth)


def test_a_program_is_read():
    """A loop counts as often as it turns; what overlaps is one collective; a sum that is cut is a reduce-scatter."""
    found = program.read(LOOP)
    assert found.cycles == 3 * 100 + 50
    assert found.by_part() == {"norms": 300, "optimizer": 50}
    assert found.collectives() == {
        "all-gather": {"count": 4, "bytes": round((3 * 32 * 2 + 256 * 4) * 3 / 4)},
        "reduce-scatter": {"count": 1, "bytes": 64 * 2 * 3 // 4},
        "all-reduce": {"count": 0, "bytes": 0},
        "all-to-all": {"count": 0, "bytes": 0},
        "collective-permute": {"count": 0, "bytes": 0},
    }


def test_the_tables_of_the_documentation_are_of_the_files():
    """If this fails: python -m tools.paper.compiled_steps, and its lines into docs/tpu.md."""
    text = (ROOT / "docs" / "tpu.md").read_text()
    between = text.split("<!-- compiled_steps -->\n")[1].split("<!-- /compiled_steps -->")[0]
    assert between.strip().splitlines() == compiled_steps.tables(ROOT / "docs" / "compiled")


FILES = sorted((ROOT / "docs" / "compiled").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_files_are_of_the_programs_that_are_named(file):
    made, numbers = compile_family.PROGRAMS[file.stem], json.loads(file.read_text())
    assert numbers["topology"] == made.topology and numbers["chips"] * numbers["images_per_chip"] == made.batch_size
    peer = next((flag.partition("=")[2] for flag in made.flags if flag.startswith("--peer=")), "")
    recipe = paper.get_config(made.recipe)
    assert numbers["model"] == (peer or recipe.model.name) and numbers["image_size"] == recipe.image_size
    assert bool(numbers.get("compiled_depths")) == ("--extend_depth" in made.flags)
    assert numbers["fits"]


@pytest.mark.parametrize("name", compile_family.PROGRAMS)
def test_every_program_can_be_asked_for(name):
    """What the program refuses before it compiles; 4096 images want so many chips."""
    made = compile_family.PROGRAMS[name]
    config, (kind, axes) = paper.get_config(made.recipe), made.topology.split(":")
    chips_in_all = np.prod([int(side) for side in axes.split("x")]) * chips.TPUS[kind].devices
    assert made.batch_size % (2 * chips_in_all) == 0
    if name in compile_family.FAMILY:
        assert made.batch_size == config.batch_size


@pytest.mark.parametrize("fits", [True, False])
def test_a_program_that_does_not_fit_is_not_kept(fits, tmp_path, monkeypatch):
    def compile_one(command, env):
        Path(command[-1].removeprefix("--output=")).write_text(json.dumps({"fits": fits}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", compile_one)
    failed = compile_family.compile_programs(["coatnet0_v5e"], tmp_path)
    assert failed == ([] if fits else ["coatnet0_v5e"])
    assert (tmp_path / "coatnet0_v5e.json").exists() == fits


def test_the_family_is_on_the_smallest_slices(tmp_path):
    numbers = json.loads((ROOT / "docs" / "compiled" / "coatnet0_v5e.json").read_text())
    numbers |= {"chips": 16, "chip_days": 8.0, "argument_gib": 1.0, "temporary_gib": 9.0, "shards": 1}
    (tmp_path / "coatnet0_v5e_224.json").write_text(json.dumps(numbers))
    (tmp_path / "coatnet3_v5p_224.json").write_text(json.dumps(numbers | {"model": "coatnet-3", "temporary_gib": 2}))
    first, second = compiled_steps.tables(tmp_path)[2:4]
    assert "| 1.0 + 9.0 of 16 | 19 GiB |" in first and first.endswith("| 14% | 0.5 |")
    assert "| 1.0 + 2.0 of 16 | one host |" in second


def test_core_days_are_compared_with_table_5(tmp_path):
    numbers = json.loads((ROOT / "docs" / "compiled" / "coatnet0_v5e.json").read_text())
    numbers |= {"model": "coatnet-4", "topology": "v3:2x2", "images": 300_000_000, "chip_days": 475.0}
    (tmp_path / "one.json").write_text(json.dumps(numbers))
    assert compiled_steps.tables(tmp_path)[6] == "| CoAtNet-4 | 300 | 475 | 950 | 0.50 |"
    compiled_steps.draw(tmp_path, tmp_path / "days.png")
    with Image.open(tmp_path / "days.png") as picture:
        assert len(set(np.asarray(picture.convert("L")).ravel())) > 10
