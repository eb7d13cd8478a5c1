"""What a run found, and its JSON."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from archc.benchmarking.probes import Rates
from archc.benchmarking.timing import Times
from archc.errors import ArchcError

SCHEMA = 1
PACKAGES = ("torch", "triton", "transformers", "liger-kernel")
OURS = "archc"


@dataclass(frozen=True)
class Case:
    """Something that is timed.

    kind:   "model" or "kernel"
    name:   "decode", "prefill", "training step"; for a kernel its name and "forward" or "backward"
    sizes:  B, T and, where tokens precede, S
    tokens: that one call makes or reads
    bytes:  read and written at the least, flops: operations, by the graph; None where neither is known
    least:  seconds that the device needs for these, by this run's probes
    """

    kind: str
    name: str
    sizes: Mapping[str, int]
    tokens: int
    bytes: int | None = None
    flops: int | None = None
    least: float | None = None

    @property
    def title(self) -> str:
        """`decode, B 8, S 64`."""
        return ", ".join([self.name, *(f"{dim} {size:,}" for dim, size in self.sizes.items())])


@dataclass(frozen=True)
class Measurement:
    """A case by one contender.

    turn:     the number of the task: the two contenders of a turn were timed side by side
    relative: this contender's seconds over archc's in the same turn; above 1 archc is faster
    peak:     bytes of memory at the peak, beside the weights; None where it was not read
    """

    case: Case
    contender: str
    times: Times
    turn: int
    relative: float | None
    peak: int | None

    @property
    def tokens_per_second(self) -> float:
        return self.case.tokens / self.times.median

    @property
    def fraction(self) -> float | None:
        """Of what the device could do."""
        return None if self.case.least is None else self.case.least / self.times.median


@dataclass(frozen=True)
class Skip:
    """What was not measured, and why.  `needs`: seconds, where those are what was missing."""

    case: str
    peer: str
    reason: str
    needs: float | None = None


@dataclass
class Findings:
    """Measurements, and what was skipped."""

    measurements: list[Measurement] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)

    def extend(self, other: Findings) -> None:
        self.measurements += other.measurements
        self.skipped += other.skipped


@dataclass(frozen=True)
class Pair:
    """What one turn found: a case by us and by a peer."""

    ours: Measurement
    theirs: Measurement

    @property
    def ratio(self) -> float:
        """How many times as fast as the peer archc is."""
        return self.theirs.times.median / self.ours.times.median

    @property
    def noise(self) -> float:
        """By how much the ratio may be off: half the quartiles' distance on both sides, together."""
        spreads = (m.times.spread / m.times.median / 2 for m in (self.ours, self.theirs))
        return self.ratio * math.hypot(*spreads)


def pairs(findings: Findings) -> list[Pair]:
    """The turns of a run, cases together, in the order in which they were first timed."""
    turns: dict[int, dict[bool, Measurement]] = {}
    for measurement in findings.measurements:
        turns.setdefault(measurement.turn, {})[measurement.contender == OURS] = measurement
    found = [Pair(turn[True], turn[False]) for turn in turns.values()]
    titles = list(dict.fromkeys(pair.ours.case.title for pair in found))
    return sorted(found, key=lambda pair: titles.index(pair.ours.case.title))


@dataclass(frozen=True)
class Subject:
    """The model that was run: `layers` of `all_layers`, None where its arch has no such parameter."""

    spec: str
    model: str
    settings: Mapping[str, str]
    dtype: str
    layers: int | None
    all_layers: int | None
    parameters: int

    @property
    def title(self) -> str:
        if self.layers is None or self.layers == self.all_layers:
            return f"{self.model}, {self.dtype}"
        return f"{self.model}, {self.layers} of {self.all_layers} layers, {self.dtype}"


@dataclass(frozen=True)
class Result:
    """A whole run of one model."""

    subject: Subject
    device: Mapping[str, Any]
    rates: Rates
    budget: float
    findings: Findings
    environment: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON has it, derived numbers included."""
        return {
            "schema": SCHEMA,
            **self.environment,
            "device": dict(self.device),
            "probes": asdict(self.rates),
            "budget": self.budget,
            "subject": asdict(self.subject),
            "measurements": [_measurement(m) for m in self.findings.measurements],
            "skipped": [asdict(skip) for skip in self.findings.skipped],
        }


def _measurement(measurement: Measurement) -> dict[str, Any]:
    return {
        **asdict(measurement),
        "tokens_per_second": measurement.tokens_per_second,
        "fraction": measurement.fraction,
    }


def from_json(record: Mapping[str, Any]) -> Result:
    """A result from its JSON."""
    if record.get("schema") != SCHEMA:
        raise ArchcError(f"results of another schema than {SCHEMA}: {record.get('schema')}")
    measurements = [
        Measurement(
            Case(**entry["case"]),
            entry["contender"],
            Times(**entry["times"]),
            entry["turn"],
            entry["relative"],
            entry["peak"],
        )
        for entry in record["measurements"]
    ]
    return Result(
        Subject(**record["subject"]),
        record["device"],
        Rates(**record["probes"]),
        record["budget"],
        Findings(measurements, [Skip(**skip) for skip in record["skipped"]]),
        {name: record[name] for name in ("date", "commit", "versions")},
    )


def environment() -> dict[str, Any]:
    """Date, commit and versions."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _commit() -> str | None:
    """The commit of the checkout that this file lies in, with a plus where files were changed."""
    folder = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe_device(device: torch.device) -> dict[str, Any]:
    """The device by name, with what its numbers depend on."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {"type": "cuda", "name": properties.name, "memory": properties.total_memory}
    return {
        "type": "cpu",
        "name": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_json(results: Iterable[Result], path: Path) -> None:
    """Write results as a list; raises `ArchcError` where the file cannot be written."""
    try:
        path.write_text(json.dumps([result.to_json() for result in results], indent=1) + "\n")
    except OSError as error:
        raise ArchcError(f"cannot write {path}: {error.strerror}") from None


def read_json(path: Path) -> list[Result]:
    """Results that `write_json` wrote."""
    return [from_json(record) for record in json.loads(path.read_text())]
