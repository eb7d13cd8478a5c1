"""`archc build`: which packages to make, making them, and telling whether they are up to date."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from archc import compiler, resources
from archc.codegen.emit import Origin, packages_in, stale_files, write_package
from archc.compiler import Spec
from archc.errors import ArchcError
from archc.files import digest_of
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


@dataclass(frozen=True)
class Written:
    """A package that was made: the files that changed, and a digest of all that were read and written.

    The digests are of what this build read and wrote, whatever became of the files since.
    """

    folder: Path
    changed: tuple[str, ...]
    digests: Mapping[Path, str]

    def __str__(self) -> str:
        return f"{self.folder}: {', '.join(self.changed) or UP_TO_DATE}"


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


def notes(found: Sequence[Job]) -> Iterator[str]:
    """What is to be said of tables that do not fit every chip."""
    for table in dict.fromkeys(job.origin.table for job in found if job.origin.table):
        yield from notes_on(Path(table))


def write(found: Sequence[Job], force: bool) -> Iterator[Written]:
    """Make the packages, one after another."""
    for job in found:
        table = Path(job.origin.table) if job.origin.table else None
        digests = dict(job.spec.module.files())
        if table is not None and table.is_file():
            digests[table] = digest_of(table.read_bytes())  # before it is read: it may change meanwhile
        files = files_of(job)
        changed = write_package(job.folder, files, force)
        digests |= {job.folder / name: digest_of(text.encode()) for name, text in files.items()}
        yield Written(job.folder, tuple(changed), digests)


def absent_files(found: Sequence[Job]) -> list[Path]:
    """Files that would be read in a standard spec's place, were they there."""
    standard = resources.resource_dir("specs").resolve()
    absent = {
        spec.parent / path.name
        for spec, *imported in (job.spec.module.files() for job in found)  # a spec itself comes first
        for path in imported
        if path.parent == standard != spec.parent
    }
    return sorted(absent)


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
