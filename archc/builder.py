"""`archc build`: which packages to make, making them, and telling whether they are up to date."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from archc import compiler, resources
from archc.codegen.emit import Origin, packages_in, stale_files, write_package
from archc.compiler import Spec
from archc.errors import ArchcError
from archc.frontend.resolve import display_name
from archc.settings import parse_settings
from archc.target import TARGETS
from archc.tuned import read_tables
from archc.tuning.room import notes_on

UP_TO_DATE = "up to date"


@dataclass(frozen=True)
class Job:
    """A package to make: where it goes, and what from."""

    folder: Path
    spec: Spec
    origin: Origin


def jobs(
    specs: Sequence[Path],
    output: Path,
    model: str | None,
    target: str,
    settings: tuple[str, ...],
    table: Path | None = None,
) -> list[Job]:
    """A job for each model of the specs, or for the one that is named; raises `ArchcError`."""
    parse_settings(settings)
    found: list[Job] = []
    for path in specs:
        spec = compiler.read_spec_file(path)
        for name in compiler.choose_models(spec, model):
            origin = Origin(display_name(path), name, target, settings, str(table or ""))
            found.append(Job(output / name, spec, origin))
    return found


def recorded_jobs(output: Path) -> list[Job]:
    """A job for each package under a folder, as its header records; raises `ArchcError` without any."""
    packages = packages_in(output)
    if not packages:
        raise ArchcError(f"no generated package under {output}: name a spec to build")
    return [
        Job(folder, compiler.read_spec_file(_recorded_spec(folder, origin), origin.spec), origin)
        for folder, origin in packages.items()
    ]


def _recorded_spec(folder: Path, origin: Origin) -> Path:
    """The spec that a header names: from here, from beside the output folder, or a standard one."""
    standard = resources.resource_dir("specs").parent
    for base in (Path(), folder.parent.parent, standard):
        if (base / origin.spec).is_file():
            return base / origin.spec
    installed = resources.resource_dir("specs") / Path(origin.spec).name
    if installed.is_file():
        return installed
    raise ArchcError(f"{folder} was built from {origin.spec}, which is not there any more")


def files_of(job: Job) -> dict[str, str]:
    """The files of a job's package, headers included."""
    (name,) = compiler.choose_models(job.spec, job.origin.model)
    (program,) = compiler.lower_models(job.spec, [name], parse_settings(job.origin.settings))
    tuned = read_tables(Path(job.origin.table) if job.origin.table else None)
    compilation = compiler.compile_program(program, job.spec.rules, TARGETS[job.origin.target], tuned)
    return compiler.package_files(compilation, job.origin)


def write(found: Sequence[Job], force: bool) -> Iterator[str]:
    """Make the packages; a line for each, after notes on tables that do not fit every chip."""
    for table in dict.fromkeys(job.origin.table for job in found if job.origin.table):
        yield from notes_on(Path(table))
    for job in found:
        changed = write_package(job.folder, files_of(job), force)
        yield f"{job.folder}: {', '.join(changed) if changed else UP_TO_DATE}"


def touched(found: Sequence[Job]) -> tuple[list[Path], list[Path]]:
    """The files that jobs read and wrote, and those that would be read in a standard spec's place."""
    written = [path for job in found for path in sorted(job.folder.iterdir()) if path.is_file()]
    read = [job.spec.module.files() for job in found]  # a spec itself comes first
    standard = resources.resource_dir("specs").resolve()
    absent = {
        spec.parent / path.name
        for spec, *imported in read
        for path in imported
        if path.parent == standard != spec.parent
    }
    tables = [Path(job.origin.table) for job in found if job.origin.table]
    return sorted({*(path for files in read for path in files), *tables, *written}), sorted(absent)


def check(found: Sequence[Job]) -> Iterator[str]:
    """A line for each package that is up to date; raises `ArchcError` with those that are not."""
    stale: list[str] = []
    for job in found:
        names = stale_files(job.folder, files_of(job))
        if names:
            stale.append(f"{job.folder}: stale: {', '.join(names)}")
        else:
            yield f"{job.folder}: {UP_TO_DATE}"
    if stale:
        raise ArchcError("\n".join([*stale, "run `archc build` to bring them up to date"]))
