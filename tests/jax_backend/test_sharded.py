"""The example of docs/planning.md: states sharded over devices train as those of one device."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_example(devices, tmp_path):
    text = (ROOT / "docs" / "planning.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    script = tmp_path / f"example{devices}.py"
    script.write_text("import keras\nkeras.utils.set_random_seed(0)\n" + code + "\nprint(model.history.history)\n")
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
    }
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    share = float(re.search(r"([\d.]+) of the states on each of (\d+) devices", result.stdout)[1])
    losses = [float(x) for x in re.search(r"'loss': \[(.*?)\]", result.stdout)[1].split(",")]
    return share, losses


@pytest.mark.slow
def test_sharded_states_train_alike(tmp_path):
    (whole, expected), (share, losses) = (run_example(devices, tmp_path) for devices in (1, 4))
    assert whole == 1
    assert share == pytest.approx(0.31, abs=0.005)  # the number of docs/planning.md
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[1] < losses[0]
