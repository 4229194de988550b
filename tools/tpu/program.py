"""What a compiled program says of itself: collectives, and the cycles that the compiler estimates, by layer.

Its text lists computations. Those that run one after the other (the entry, bodies of loops, branches) hold fusions,
each with its estimate; a loop's body counts as often as the compiler knows the loop to turn, or once. Collectives have
no estimate. One that overlaps with other work is written several times, in the fusions that it runs beside, with one
channel.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re

COLLECTIVES = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"f64": 8, "s64": 8, "u64": 8}
# What a chip of a ring of n sends for each byte of the larger of result and operand, times (n - 1) / n; else 1.
_SENT = {"all-reduce": 2.0}
# The parts of a step by what the path of a layer ends with; the first that fits.
_PARTS = (
    ("norms", r"norm"),
    ("depthwise convolutions", r"depthwise"),
    ("attention", r"attention"),
    ("feed-forward", r"ffn"),
    ("squeeze-and-excitation", r"_se(_\d+)?(/|$)"),
    ("pooling", r"pool"),
    ("convolutions", r"conv|proj|stem"),
    ("classifier and loss", r"predictions|head|loss"),
    ("optimizer", r"optimizer|adam"),
    ("input", r"input|rescaling"),
)


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of the program, mostly a fusion of several.

    Args:
        name: Its name in the program.
        layer: Path of the layer that its last operation comes from, and that operation; empty where it is unknown.
        backward: Whether it is of the backward pass.
        cycles: Estimated by the compiler, all turns of a loop together.
    """

    name: str
    layer: str
    backward: bool
    cycles: int


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A collective.

    Args:
        kind: One of `COLLECTIVES`.
        bytes: That each chip sends, in a ring.
        layer: As in `Operation`.
    """

    kind: str
    bytes: float
    layer: str


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program, read.

    Args:
        operations: Those that have an estimate.
        exchanges: Its collectives.
        wide: Convolutions and products whose result and operands all are float32, by the layers they come from.
    """

    operations: list[Operation]
    exchanges: list[Exchange]
    wide: list[str]

    @property
    def cycles(self) -> int:
        """Of the whole program, as the compiler estimates."""
        return sum(operation.cycles for operation in self.operations)

    def by_part(self) -> dict[str, int]:
        """Cycles by parts of the step, the largest first."""
        found: collections.Counter[str] = collections.Counter()
        for operation in self.operations:
            layer = operation.layer.rpartition("/")[0] or operation.layer
            found[next((part for part, pattern in _PARTS if re.search(pattern, layer)), "others")] += operation.cycles
        return dict(found.most_common())

    def collectives(self) -> dict[str, dict[str, float]]:
        """Number and bytes sent by each chip, by kind."""
        return {
            kind: {
                "count": sum(1 for exchange in self.exchanges if exchange.kind == kind),
                "bytes": round(sum(exchange.bytes for exchange in self.exchanges if exchange.kind == kind)),
            }
            for kind in COLLECTIVES
        }


def read(text: str) -> Program:
    """Reads the text of a compiled program.

    Args:
        text: Of `jax.stages.Compiled.as_text`.

    Returns:
        A `Program`.

    Example:
    >>> from tools.tpu.program import read
    >>> program = read('''HloModule step
    ... ENTRY %main (a: f32[8]) -> f32[8] {
    ...   %a = f32[8] parameter(0)
    ...   ROOT %f = f32[8] fusion(%a), calls=%c, metadata={op_name="jit(f)/jvp(stem)/add"}, c={"estimated_cycles":"7"}
    ... }
    ... ''')
    >>> program.cycles, program.operations[0].layer
    (7, 'stem/add')
    """
    computations = _computations(text)
    turns = _turns(computations)
    operations, exchanges, wide = [], [], []
    overlapped: set[tuple[str, str]] = set()
    for name, lines in computations.items():
        for line in lines:
            times = turns.get(name, 0)
            cycles = re.search(r'"estimated_cycles":"(\d+)"', line)
            if cycles and times:
                layer, backward = _layer(line)
                operations.append(Operation(_name(line), layer, backward, times * int(cycles[1])))
            kind = _kind(line)
            if kind in COLLECTIVES:
                scattered = "all-reduce-scatter" in name
                channel = re.search(r"channel_id=(\d+)", line)
                seen = (kind, name if scattered or times or not channel else channel[1])
                if times or seen not in overlapped:
                    exchanges += [_exchange(kind, line, scattered)] * (times or 1)
                overlapped.add(seen)
            if kind in ("convolution", "dot") and _is_wide(line, lines):
                wide.append(_layer(line)[0])
    return Program(operations, exchanges, wide)


def _computations(text: str) -> dict[str, list[str]]:
    """Lines of instructions by the names of their computations; the entry's is `ENTRY`."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            name = "ENTRY" if header[1] else header[2]
            found[name] = []
        elif line.startswith("}"):
            name = ""
        elif name:
            found[name].append(line)
    return found


def _turns(computations: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation runs that is not fused into an operation."""
    turns = {"ENTRY": 1}
    waiting = ["ENTRY"]
    while waiting:
        name = waiting.pop()
        for line in computations.get(name, ()):
            kind = _kind(line)
            if kind not in ("while", "conditional", "call"):
                continue
            known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            times = turns[name] * (int(known[1]) if known and kind == "while" else 1)
            called = re.findall(r"(?:body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)", line)
            branches = re.search(r"branch_computations=\{([^}]*)\}", line)
            called += re.findall(r"[\w.\-]+", branches[1]) if branches else []
            for inner in called:
                turns[inner] = turns.get(inner, 0) + times
                waiting.append(inner)
    return turns


def _name(line: str) -> str:
    return line.split(" = ")[0].replace("ROOT", "").strip(" %")


def _kind(line: str) -> str:
    """The operation of an instruction; the start of one that runs in the background counts, its end does not."""
    found = re.match(r"\s*(?:ROOT )?%?[\w.\-]+ = (?:\((?:[^()]|\([^()]*\))*\)|\S+) ([\w\-]+)\(", line)
    return found[1].removesuffix("-start") if found else ""


def _layer(line: str) -> tuple[str, bool]:
    """Path of layer and operation, and whether it is of the backward pass.

    >>> _layer('metadata={op_name="jit(call)/transpose(jvp(s1_block01))/s1_block01_se/expand/mul"')
    ('s1_block01/s1_block01_se/expand/mul', True)
    """
    found = re.search(r'op_name="([^"]*)"', line)
    path = found[1] if found else ""
    parts = []
    for part in path.split("/"):
        plain = re.sub(r"^(?:(?:transpose|jvp|vmap|rematted_computation|checkpoint)\()+|\)+$", "", part)
        if (
            not plain.startswith(
                ("jit(", "jit_", "while", "body", "closed_call", "checkpoint", "rematted", "gradient_tape")
            )
            and plain
        ):
            parts.append(plain)
    return "/".join(parts), "transpose(" in path or "gradient_tape" in path


def _shapes(words: str) -> list[tuple[str, list[int]]]:
    found = re.findall(r"\b(pred|bf16|f16|f32|f64|[su](?:8|16|32|64))\[([\d,]*)\]", words)
    return [(kind, [int(size) for size in sizes.split(",") if size]) for kind, sizes in found]


def _exchange(kind: str, line: str, scattered: bool) -> Exchange:
    """A collective of a line; `scattered`: in a fusion that keeps a part of the sum only, which is a reduce-scatter."""
    result = line.split(" = ", 1)[1].split(f" {kind}", 1)[0]
    size = float(sum(_BYTES[name] * math.prod(sizes) for name, sizes in _shapes(result)))
    group = _group_size(line)
    if kind == "reduce-scatter":
        size *= group
    if scattered:
        kind = "reduce-scatter"
    return Exchange(kind, _SENT.get(kind, 1.0) * size * (group - 1) / group, _layer(line)[0])


def _group_size(line: str) -> int:
    """How many chips take part in a collective.

    >>> _group_size("replica_groups=mesh['copies'=2,'shards'=4] {'shards'}"), _group_size("replica_groups=[2,8]<=[16]")
    (4, 8)
    >>> _group_size("replica_groups={{0,1},{2,3}}")
    2
    """
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", line)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]) if axis in sizes)
    numbered = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
    if numbered:
        return int(numbered[2])
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]*)\}", line)
    return len(listed[1].split(",")) if listed else 1


def _is_wide(line: str, lines: list[str]) -> bool:
    """Whether a convolution or product takes float32 alone, and not what was widened for it from bfloat16."""
    operands = re.findall(r"%[\w.\-]+", line.split("(", 1)[1].split(")")[0])[:2]
    kinds = []
    for operand in operands:
        made = next((other for other in lines if re.match(rf"\s*{re.escape(operand)} = ", other)), "")
        kinds.append(_shapes(made.split(" = ", 1)[-1][:40])[0][0] if made and _shapes(made[:200]) else "f32")
    return kinds == ["f32", "f32"]
