"""Devices of JAX: a mesh over which batches are shared, and variables cut, from their shapes alone."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import keras
import numpy as np
import tensorflow as tf
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import logs
from experiments.engine.devices import Devices

if TYPE_CHECKING:
    from experiments.engine.jax_engine import JaxEngine
    from experiments.engine.orbax_checkpoints import OrbaxCheckpoints

COPIES, SHARDS = "copies", "shards"  # the axes of the mesh
_LEAST_CUT = 2**10  # numbers; what is smaller is not worth a message
_ROWS, _COLUMNS = 8, 128  # a TPU's tile: of a share that is none, gradients are summed whole and then cut


def connect(
    shards: int | None = None,
    coordinator: str | None = None,
    process_id: int | None = None,
    processes: int | None = None,
) -> JaxDevices:
    """Makes all devices of all processes ready for use.

    Args:
        shards: Devices that hold one copy of the state together; all of them by default.
        coordinator: `HOST:PORT` of process 0; with it the other two are needed. Without it there is one process, or
            those of a TPU pod, which find each other.
        process_id: Number of this process, from 0.
        processes: Number of processes.

    Returns:
        The devices.

    Raises:
        ValueError: If the shards do not divide the devices, one of the flags of a cluster is missing, or the processes
            do not find each other.
    """
    tf.config.set_visible_devices([], "GPU")  # TensorFlow reads the images, on the CPU
    cluster = {"coordinator": coordinator, "process_id": process_id, "processes": processes}
    missing = [name for name, value in cluster.items() if value is None]
    if len(missing) < len(cluster):
        if missing:
            raise ValueError(
                f"A cluster needs --coordinator=HOST:PORT, --process_id and --processes; --{missing[0]} is missing."
            )
        if not re.fullmatch(r".+:\d+", coordinator):  # type: ignore[arg-type]
            raise ValueError(f"--coordinator must be HOST:PORT of process 0; got {coordinator!r}.")
        if not 0 <= process_id < processes:  # type: ignore[operator]
            raise ValueError(f"--process_id must be at least 0 and below --processes={processes}; got {process_id}.")
        try:
            jax.distributed.initialize(coordinator, processes, process_id)
        except RuntimeError as error:
            said = str(error).strip().splitlines()[0]
            raise ValueError(f"The processes cannot meet at --coordinator={coordinator}: {said}") from error
    elif _is_tpu_pod():
        jax.distributed.initialize()
    with logs.without_stderr():  # of a libtpu that finds no TPU
        devices = jax.devices()
    return JaxDevices(make_mesh(devices, shards))


def _is_tpu_pod() -> bool:
    """Whether this host is one of several of a TPU slice; they have to find each other before JAX starts."""
    from jax._src.clusters import cloud_tpu_cluster

    return any(
        cluster.is_env_present() and cluster.get_process_count() > 1
        for cluster in (cloud_tpu_cluster.GkeTpuCluster, cloud_tpu_cluster.GceTpuCluster)
    )


def make_mesh(devices: Sequence[Any], shards: int | None = None) -> Mesh:
    """A mesh of devices in copies of the state, each cut into shards.

    Args:
        devices: Of JAX, or of a topology of `jax.experimental.topologies`.
        shards: Devices of a copy; all by default.

    Returns:
        A mesh of the axes `COPIES` and `SHARDS`.

    Raises:
        ValueError: If the shards do not divide the devices.
    """
    shards = len(devices) if shards is None else shards
    if shards < 1 or len(devices) % shards:
        raise ValueError(f"--shards must divide the number of devices, {len(devices)}; got {shards}.")
    return Mesh(np.array(devices).reshape(-1, shards), (COPIES, SHARDS))


def variable_sharding(mesh: Mesh, shape: Sequence[int]) -> NamedSharding:
    """How a variable lies on the devices: cut along its largest axis that the shards divide, or whole on each.

    An axis that is cut into whole tiles of a TPU goes before one that is not. Kernels of convolutions of images, with
    few channels to take, stay whole: they are small, and a TPU gathers them in a layout that each use transposes.

    Args:
        mesh: From `make_mesh`.
        shape: Shape of the variable.

    Returns:
        A sharding.

    Example:
    >>> import jax
    >>> from experiments.engine.jax_devices import make_mesh, variable_sharding
    >>> tuple(variable_sharding(make_mesh(jax.devices()[:1]), (3, 3, 96, 384)).spec)
    (None, None, None, 'shards')
    """
    shards = mesh.shape[SHARDS]
    spec: list[str | None] = [None] * len(shape)

    def fills_tiles(axis: int) -> bool:
        return shape[axis] // shards % (_COLUMNS if axis == len(shape) - 1 else _ROWS) == 0

    axes = [(fills_tiles(axis), size, axis) for axis, size in enumerate(shape) if size % shards == 0]
    of_images = len(shape) == 4 and shape[2] < _ROWS < shape[3]
    if axes and math.prod(shape) >= _LEAST_CUT and not of_images:
        spec[max(axes)[2]] = SHARDS
    return NamedSharding(mesh, PartitionSpec(*spec))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How a batch lies on the devices: each has its share of the images."""
    return NamedSharding(mesh, PartitionSpec((COPIES, SHARDS)))


def whole(mesh: Mesh) -> NamedSharding:
    """The sharding of what each device has whole."""
    return NamedSharding(mesh, PartitionSpec())


class ShapedLayout(keras.distribution.ModelParallel):
    """Gives each Keras variable the layout that `variable_sharding` says, from the moment it is made.

    Args:
        mesh: From `make_mesh`.
    """

    def __init__(self, mesh: Mesh) -> None:
        device_names = [str(device) for device in mesh.devices.flat]
        device_mesh = keras.distribution.DeviceMesh(mesh.devices.shape, mesh.axis_names, device_names)
        super().__init__(layout_map=keras.distribution.LayoutMap(device_mesh), batch_dim_name=COPIES)
        self._mesh = mesh

    def get_variable_layout(self, variable: keras.Variable) -> Any:
        return variable_sharding(self._mesh, variable.shape)

    def get_tensor_layout(self, path: str) -> None:
        """The compiler lays out what is between the layers."""


class JaxDevices(Devices):
    """The devices of a mesh.

    Args:
        mesh: From `make_mesh`.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.lost_process = (jax.errors.JaxRuntimeError,) if jax.process_count() > 1 else ()

    @property
    def replicas(self) -> int:
        return self.mesh.size

    @property
    def is_chief(self) -> bool:
        return jax.process_index() == 0

    @property
    def hold_features(self) -> bool:
        return jax.process_count() == 1

    @property
    def meets_in_parts(self) -> bool:
        return True

    def __str__(self) -> str:
        copies, shards = self.mesh.devices.shape
        kind = jax.devices()[0].device_kind
        return (
            f"{self.replicas} x {kind}, {copies} {'copy' if copies == 1 else 'copies'} of the state, cut into {shards}"
        )

    @property
    def input_context(self) -> tf.distribute.InputContext:
        """Which share of each batch this process reads."""
        processes = jax.process_count()
        return tf.distribute.InputContext(processes, jax.process_index(), processes)

    def gather(self, numbers: Sequence[int]) -> list[int]:
        mine = np.array(numbers, np.int32)
        if jax.process_count() == 1:
            return mine.tolist()
        lengths = multihost_utils.process_allgather(np.array([len(mine)])).ravel()
        padded = multihost_utils.process_allgather(np.pad(mine, (0, lengths.max() - len(mine))))
        return [int(number) for row, length in zip(padded, lengths, strict=True) for number in row[:length]]

    def _engine_class(self) -> type[JaxEngine]:
        from experiments.engine.jax_engine import JaxEngine

        return JaxEngine

    def checkpoints(self, workdir: epath.Path, state: dict[str, list[keras.Variable]]) -> OrbaxCheckpoints:
        from experiments.engine.orbax_checkpoints import OrbaxCheckpoints

        return OrbaxCheckpoints(workdir, state, self)
