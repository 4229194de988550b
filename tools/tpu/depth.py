"""A deep network's step from those of two shallower ones, as each block of a run of equal ones costs the same.

CoAtNet-6 and -7 have 42 such blocks, whose program takes the compiler hours and more memory than many machines have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_collections

from experiments.model_config import make_model_config
from tools.tpu import estimate
from tools.tpu.chips import Accelerator

DEPTHS = (4, 8)  # of that stage in each of the two, the smaller first


def extended(
    config: ml_collections.ConfigDict,
    chip: Accelerator,
    compile_it: Callable[[ml_collections.ConfigDict], dict[str, Any]],
) -> dict[str, Any]:
    """The numbers of a step, on the line through those of two networks whose longest stage is shorter.

    Args:
        config: The recipe.
        chip: What the step is for.
        compile_it: Gives the numbers of a recipe.

    Returns:
        Numbers as those of `compile_it`, and `compiled_depths`; of the first of the two that does not fit by the
        compiler's word, if one does not.

    Raises:
        ValueError: If the network is none of the family, or its longest stage is not longer than that.
    """
    if "depths" in config.model:
        raise ValueError(f"--extend_depth is for the family; {config.model.name} is a network of its own.")
    stages = make_model_config(config.model).stages
    longest = max(stages, key=lambda stage: stage.depth)
    if longest.depth <= DEPTHS[1]:
        raise ValueError(
            f"--extend_depth is for networks with a stage of more than {DEPTHS[1]} blocks; the longest of "
            f"{config.model.name} has {longest.depth}. Compile it as it is."
        )
    compiled = []
    for depth in DEPTHS:
        shorter = config.copy_and_resolve_references()
        with shorter.model.unlocked():
            shorter.model.stages = tuple(
                dataclasses.replace(stage, depth=depth) if stage is longest else stage for stage in stages
            )
        compiled.append(compile_it(shorter))
        if compiled[-1].get("refusal"):
            of = f"with {depth} of the {longest.depth} blocks of stage {longest.name}, whose parameters are counted"
            return compiled[-1] | {"what": f"{compiled[-1]['what']}; {of}"}
    short, long = compiled
    numbers = on_the_line(short, long, (longest.depth - DEPTHS[0]) / (DEPTHS[1] - DEPTHS[0]))
    numbers["compile_seconds"] = short["compile_seconds"] + long["compile_seconds"]
    numbers["compiled_depths"] = list(DEPTHS)
    numbers["what"] = (
        f"{short['what']}; extended to the {longest.depth} blocks of stage {longest.name} from programs of "
        f"{DEPTHS[0]} and {DEPTHS[1]}"
    )
    return estimate.with_rates(numbers, chip)


def on_the_line(short: Any, long: Any, steps: float) -> Any:
    """What a value becomes that was `short`, and one step later `long`.

    Args:
        short: A number, a dictionary of such values, or something else.
        long: Likewise.
        steps: How far to go; whole steps keep whole numbers whole.

    Returns:
        The number or numbers; of other values `long`.

    Example:
    >>> from tools.tpu.depth import on_the_line
    >>> on_the_line({"cycles": 10, "name": "a"}, {"cycles": 13, "name": "a"}, 3)
    {'cycles': 19, 'name': 'a'}
    """
    if isinstance(long, dict):
        return {name: on_the_line(short.get(name, 0), value, steps) for name, value in long.items()}
    if isinstance(long, bool) or not isinstance(long, int | float):
        return long
    value = short + steps * (long - short)
    return round(value) if isinstance(long, int) else value
