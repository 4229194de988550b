"""TPUs as their maker describes them, and topologies of them for the compiler."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A chip as its maker describes it.

    Args:
        devices: Devices of a chip that hold a model each.
        tflops: Peak of a device in bfloat16, 1e12 FLOP/s, dense; a multiply-accumulate is two.
        gib: Memory of a device.
        ghz: Clock of its matrix units; 0 where no compiler's cycles are converted.
    """

    devices: int
    tflops: float
    gib: float
    ghz: float = 0.0


# By the name that topologies have. Peak and memory: "System architecture" of cloud.google.com/tpu/docs (of a chip; v2,
# v3 and tpu7x have two devices in each). Clock: Table 1 of Jouppi et al., "Ten Lessons From Three Generations" (v2,
# v3), Table 4 of "TPU v4" (arXiv:2304.01433); of the others that at which the matrix units reach the peak, as many as
# the compiler's cycles of a product of 4096 x 4096 bfloat16 matrices tell: 131,072 FLOPs per cycle in v5e, twice that
# in v4 and v5p, four times in v6e and tpu7x. That product comes to 81 to 98 % of the peak on each.
TPUS = {
    "v2": Accelerator(devices=2, tflops=22.5, gib=8, ghz=0.7),
    "v3": Accelerator(devices=2, tflops=61.5, gib=16, ghz=0.94),
    "v4": Accelerator(devices=1, tflops=275, gib=32, ghz=1.05),
    "v5e": Accelerator(devices=1, tflops=197, gib=16, ghz=1.5),
    "v5p": Accelerator(devices=1, tflops=459, gib=95, ghz=1.75),
    "v6e": Accelerator(devices=1, tflops=918, gib=32, ghz=1.75),
    "tpu7x": Accelerator(devices=2, tflops=1153.5, gib=96, ghz=2.2),
}
_EXAMPLES = "v2:2x2, v3:2x2, v3:4x4, v4:2x2x1, v4:4x4x4, v5e:2x2, v5e:16x16, v5p:2x2x1, v6e:8x8, tpu7x:2x2x1"
_OPTIONS = {"v4": {"chip_config_name": "megacore"}}  # its two cores are one device, as they are for JAX on a v4


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips that are connected, and need not be there.

    Args:
        name: Such as `v5e:2x2`.
        chip: What they are.
        devices: Of JAX, all of them.
    """

    name: str
    chip: Accelerator
    devices: list[Any]


def find_topology(name: str) -> Topology:
    """The devices of a topology, which only a compiler can use.

    Args:
        name: Kind and numbers of the chips along each axis, such as `v5e:2x2`.

    Returns:
        A `Topology`.

    Raises:
        ValueError: If the compiler knows no such topology.
        ImportError: If the compiler is not installed.
    """
    if importlib.util.find_spec("libtpu") is None or importlib.util.find_spec("jax") is None:
        raise ImportError("The TPU's compiler (libtpu) is not installed; it comes with pip install 'coatnet_tf[tpu]'.")
    from jax.experimental import topologies

    kind = name.partition(":")[0]
    words = (
        f"There is no topology {name!r}; known are {', '.join(TPUS)} with the chips along each axis, as in {_EXAMPLES}"
    )
    if kind not in TPUS:
        raise ValueError(f"{words}.")
    try:
        devices = topologies.get_topology_desc(name, platform="tpu", **_OPTIONS.get(kind, {})).devices
    except Exception as error:  # of JAX' runtime, whatever is wrong with it
        raise ValueError(f"{words} (the compiler says: {' '.join(str(error).split())}).") from error
    return Topology(name, TPUS[kind], devices)
