"""From what the compiler made of a step to numbers for people: memory, cycles, time, share of the peak."""

from __future__ import annotations

import math
from typing import Any

from tools.tpu import program
from tools.tpu.chips import Accelerator, Topology
from tools.tpu.compiling import Compiled

_GIB = 2**30
_SHOWN = 10  # operations


def count(model: str, params: int, compiled: Compiled, topology: Topology, shards: int, images: int) -> dict[str, Any]:
    """Numbers of a compiled step that need no chip's speed.

    Args:
        model: Name of the network.
        params: Its parameters.
        compiled: The step.
        topology: What it was compiled for.
        shards: Devices that hold one copy of the state.
        images: Share of a device in the batch.

    Returns:
        Numbers by name, for JSON; those of a program that does not fit are `None`, but for its memory. A chip is a
        device of JAX: a core in v2, v3 and tpu7x.
    """
    arguments, temporaries = (size / _GIB for size in (compiled.argument_bytes, compiled.temporary_bytes))
    numbers: dict[str, Any] = {
        "what": "compiled, not run; cycles as the compiler estimates them, without communication",
        "model": model,
        "params": params,
        "topology": topology.name,
        "chips": len(topology.devices),
        "shards": shards,
        "images_per_chip": images,
        "argument_gib": arguments,
        "temporary_gib": temporaries,
        "hbm_gib": topology.chip.gib,
        "compile_seconds": compiled.seconds,
    }
    if compiled.refusal:
        names = ("flops_per_chip", "bytes_per_chip", "collectives", "estimated_cycles")
        return numbers | dict.fromkeys(names) | {"refusal": compiled.refusal}
    found = program.read(compiled.text)
    return numbers | {
        "flops_per_chip": compiled.flops,
        "bytes_per_chip": compiled.bytes_accessed,
        "collectives": found.collectives(),
        "estimated_cycles": found.cycles,
        "cycles_by_part": found.by_part(),
        "most_expensive": [
            {
                "operation": operation.name,
                "layer": operation.layer,
                "backward": operation.backward,
                "cycles": operation.cycles,
            }
            for operation in sorted(found.operations, key=lambda operation: -operation.cycles)[:_SHOWN]
        ],
        "float32_products": found.wide,
    }


def with_rates(numbers: dict[str, Any], chip: Accelerator) -> dict[str, Any]:
    """Numbers of a step, and what follows from them: whether it fits, and times as the compiler estimates them.

    Args:
        numbers: From `count`, with `epochs`, and `images` of an epoch.
        chip: What the step is for.

    Returns:
        More numbers; times of a program that does not fit by the compiler's word are `None`.
    """
    fits = not numbers.get("refusal") and numbers["argument_gib"] + numbers["temporary_gib"] <= chip.gib
    names = ("estimated_seconds", "images_per_second_per_chip", "peak_share", "chip_days")
    if numbers["estimated_cycles"] is None:
        return numbers | {"fits": fits} | dict.fromkeys(names)
    seconds = numbers["estimated_cycles"] / (chip.ghz * 1e9)
    rate = numbers["images_per_chip"] / seconds
    peak_share = numbers["flops_per_chip"] / (seconds * chip.tflops * 1e12)
    days = numbers["epochs"] * numbers["images"] / rate / 86_400
    return numbers | {"fits": fits} | dict(zip(names, (seconds, rate, peak_share, days), strict=True))


def describe(numbers: dict[str, Any]) -> list[str]:
    """The numbers for people, as Markdown.

    Args:
        numbers: From `estimate`.

    Returns:
        Lines.
    """
    memory = f"{numbers['argument_gib']:.2f} + {numbers['temporary_gib']:.2f} of {numbers['hbm_gib']:g} GiB"
    if numbers.get("refusal"):
        memory = numbers["refusal"]
    rows = [
        ("parameters", f"{numbers['params'] / 1e6:,.1f} M"),
        ("chips", f"{numbers['chips']}, a copy of the state on {numbers['shards']}"),
        ("images per chip", str(numbers["images_per_chip"])),
        ("memory per chip, arguments + temporaries", f"{memory}: {'fits' if numbers['fits'] else 'does not fit'}"),
    ]
    if numbers["estimated_cycles"]:
        rows += _time_rows(numbers)
    rows.append(("compiled in", f"{numbers['compile_seconds']:.0f} s"))
    lines = [f"{numbers['model']} on {numbers['topology']}: {numbers['what']}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    if numbers["estimated_cycles"]:
        lines += ["", "| cycles | share | most expensive operations | layer |", "| ---: | ---: | --- | --- |"]
        for row in numbers["most_expensive"]:
            layer = f"{row['layer'] or 'unknown'}{', backward' if row['backward'] else ''}"
            share = row["cycles"] / numbers["estimated_cycles"]
            lines.append(f"| {row['cycles']:,} | {share:.1%} | {row['operation']} | {layer} |")
    return lines


def _time_rows(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    total = numbers["estimated_cycles"]
    collectives = [
        f"{found['count']} {kind} ({_bytes(found['bytes'])})"
        for kind, found in numbers["collectives"].items()
        if found["count"]
    ]
    parts = [
        f"{part} {cycles / total:.0%}" for part, cycles in numbers["cycles_by_part"].items() if cycles > 0.005 * total
    ]
    return [
        (
            "FLOPs and bytes per chip",
            f"{numbers['flops_per_chip'] / 1e12:.3g} TFLOP, {_bytes(numbers['bytes_per_chip'])}",
        ),
        ("collectives, with what a chip sends", ", ".join(collectives) or "none"),
        ("cycles", f"{total / 1e6:,.1f} M: {', '.join(parts)}"),
        ("step", f"{1000 * numbers['estimated_seconds']:,.1f} ms, {numbers['peak_share']:.0%} of the peak"),
        ("images per second and chip", f"{numbers['images_per_second_per_chip']:,.0f}"),
    ]


def _bytes(size: float) -> str:
    """A size for people.

    >>> _bytes(82.9e9), _bytes(1500)
    ('82.9 GB', '1.5 kB')
    """
    power = max(0, min(3, int(math.log10(size or 1) // 3)))
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB')[power]}"
