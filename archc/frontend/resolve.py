"""Files -> modules: follows imports and says what every top-level name stands for.

It does not evaluate anything, and does not look into blocks; names.py does.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archc import resources
from archc.errors import ArchcError, Note, Reporter, Source, Span, did_you_mean
from archc.files import digest_of
from archc.frontend import mistakes, syntax
from archc.frontend.kept_trees import tree_of
from archc.frontend.limits import MAX_IMPORTS, MAX_MODELS, MAX_SOURCE

_MAX_BYTES = 4 * MAX_SOURCE + 1
_LINE_ENDS = re.compile(r"\r\n?")  # of Windows, and of old Macs
_RESERVED_MODELS = {"generated", "archc", "torch", "triton"}


@dataclass
class Module:
    """One spec file: what it defines, and the modules it imports.

    It is `complete` when all of those could be read.
    """

    source: Source
    path: Path | None
    archs: dict[str, syntax.Arch] = field(default_factory=dict)
    blocks: dict[str, syntax.Block] = field(default_factory=dict)
    defines: dict[str, syntax.Define] = field(default_factory=dict)
    models: dict[str, syntax.Model] = field(default_factory=dict)
    fusions: dict[str, syntax.Fuse] = field(default_factory=dict)
    imports: dict[str, Module] = field(default_factory=dict)
    complete: bool = True

    def with_imports(self) -> list[Module]:
        """This module and all that it imports, directly or through others, each once."""
        found: dict[int, Module] = {id(self): self}
        waiting = [self]
        while waiting:
            for module in waiting.pop().imports.values():
                if id(module) not in found:
                    found[id(module)] = module
                    waiting.append(module)
        return list(found.values())

    def files(self) -> dict[Path, str]:
        """This file and all it imports, each with the digest of what was read."""
        return {module.path: module.source.digest for module in self.with_imports() if module.path}

    def notes(self) -> Iterator[str]:
        """What some block here notes for losses."""
        members = (member for arch in self.archs.values() for member in arch.members)
        blocks = [member for member in members if isinstance(member, syntax.Block)]
        for block in (*blocks, *self.blocks.values()):
            yield from _notes_in(block.body)

    def find_arch(self, name: str) -> tuple[syntax.Arch, Module] | None:
        """An arch defined here or in a module imported here, and the module it is from."""
        for module in (self, *self.imports.values()):
            if name in module.archs:
                return module.archs[name], module
        return None


class Loader:
    """Reads specs and what they import, each file once."""

    def __init__(self, reporter: Reporter):
        self.reporter = reporter
        self._modules: dict[Path, Module | None] = {}
        self._loading: list[Path] = []

    def load(self, path: Path, name: str | None = None) -> Module | None:
        """The module of a file, or None when it has syntax mistakes; raises `ArchcError` if unreadable.

        `name` is how messages call the file.
        """
        key = _resolved(path)
        if key not in self._modules:
            self._loading.append(key)
            self._modules[key] = self.load_text(read_spec(path, name), key)
            self._loading.pop()
        return self._modules[key]

    def load_text(self, source: Source, path: Path | None = None) -> Module | None:
        """The module of a text; `path` says where its imports are looked for first."""
        tree = tree_of(source, self.reporter, keep=path is not None)
        if tree is None:
            return None
        module = Module(source, path)
        defined: dict[str, Span] = {}
        imports: dict[str, Span] = {}
        for item in tree.items:
            if isinstance(item, syntax.Import):
                imports.setdefault(item.name, item.span)
                self._import(module, item)
            else:
                self._enter(module, item, defined)
        self._check_clashes(module, imports)
        self._check_models(module)
        return module

    def _enter(self, module: Module, item: syntax.Definition, defined: dict[str, Span]) -> None:
        """Note what an item defines; fusions have names of their own, all others share theirs."""
        table, kind = _table_of(module, item)
        first = table[item.name].span if item.name in table else defined.get(item.name)
        if first is not None and (item.name in table or table is not module.fusions):
            notes = [Note("the first of them is here", first)]
            self.reporter.report(mistakes.DuplicateName(item.span, kind=kind, name=item.name, notes=notes))
            return
        table[item.name] = item
        if table is not module.fusions:
            defined[item.name] = item.span

    def _check_models(self, module: Module) -> None:
        for model in module.models.values():
            name = model.name
            if keyword.iskeyword(name) or name in _RESERVED_MODELS or name.startswith("__"):
                reason = "a package of that name cannot be imported"
                self.reporter.report(
                    mistakes.ReservedName(model.span, name=name, kind="a model", reason=reason)
                )
        if len(module.models) > MAX_MODELS:
            span = list(module.models.values())[MAX_MODELS].span
            self.reporter.report(mistakes.TooMany(span, what="models in one spec", limit=MAX_MODELS))
            module.complete = False

    def _check_clashes(self, module: Module, imports: dict[str, Span]) -> None:
        """Two imports that bring the same name leave it unclear which is meant."""
        own = {**module.archs, **module.blocks, **module.defines}
        seen: dict[str, str] = {}
        for imported, other in module.imports.items():
            for name in (*other.archs, *other.blocks, *other.defines):
                if name in seen and name not in own:
                    first = seen[name]
                    self.reporter.report(
                        mistakes.AmbiguousName(imports[imported], name=name, first=first, second=imported)
                    )
                seen[name] = imported

    def _import(self, module: Module, item: syntax.Import) -> None:
        path = self._find(module, item.name)
        imported = None
        if path is None:
            hint = did_you_mean(item.name, _specs_beside(module))
            importer = module.source.name
            self.reporter.report(
                mistakes.MissingImport(item.span, name=item.name, importer=importer, hint=hint)
            )
        elif path.resolve() in self._loading:
            start = self._loading.index(path.resolve())
            cycle = " -> ".join([p.stem for p in self._loading[start:]] + [path.stem])
            self.reporter.report(mistakes.ImportCycle(item.span, cycle=cycle))
        elif len(self._modules) >= MAX_IMPORTS:
            self.reporter.report(mistakes.TooMany(item.span, what="imports", limit=MAX_IMPORTS))
        else:
            imported = self.load(path, _name_beside(module, path))
        if imported is None:
            module.complete = False
        else:
            module.imports[item.name] = imported
            module.complete &= imported.complete

    def _find(self, module: Module, name: str) -> Path | None:
        """The spec of a name; a file that is called like a standard spec may import that one."""
        paths = [folder / f"{name}.arch" for folder in search_path(module)]
        found = [path for path in paths if path.is_file()]
        return next((path for path in found if path != module.path), found[0] if found else None)


def _notes_in(body: Iterable[syntax.Statement]) -> Iterator[str]:
    for statement in body:
        match statement:
            case syntax.Leave(kind="note"):
                yield statement.name
            case syntax.If():
                yield from _notes_in((*statement.then, *statement.otherwise))
            case syntax.For():
                yield from _notes_in(statement.body)
            case _:
                pass


def _table_of(module: Module, item: syntax.Definition) -> tuple[dict[str, Any], str]:
    """The table of a module for an item, and what messages call its kind."""
    match item:
        case syntax.Model():
            return module.models, "model"
        case syntax.Arch():
            return module.archs, "arch"
        case syntax.Block():
            return module.blocks, "block"
        case syntax.Define():
            return module.defines, "constant"
        case syntax.Fuse():
            return module.fusions, "fusion"


def read_spec(path: Path, name: str | None = None) -> Source:
    """The text of a spec file; raises `ArchcError` when it cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES)  # what is larger is refused by its length
        text = raw.decode("utf-8-sig", "strict" if len(raw) < _MAX_BYTES else "ignore")
    except FileNotFoundError:
        own = resources.resource_dir("specs") / path.name
        near = did_you_mean(path.name, (p.name for p in path.parent.glob("*.arch") if p.is_file()))
        near = f"archc's own is {own}" if own.is_file() else near
        raise ArchcError(f"no such spec: {path}" + (f" ({near})" if near else "")) from None
    except IsADirectoryError:
        raise ArchcError(f"{path} is a folder: name the specs in it, {path / '*.arch'}") from None
    except UnicodeDecodeError:
        raise ArchcError(f"{path} is not a text file in UTF-8") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ArchcError(f"cannot read {str(path)!r}: {reason}") from None
    text = _LINE_ENDS.sub("\n", text)
    return Source(name or display_name(path), text, _is_standard(path), digest_of(raw))


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        raise ArchcError(f"cannot read {str(path)!r}: not a path to a file") from None


def display_name(path: Path) -> str:
    """How messages and generated files call a spec: standard ones `specs/llama3.arch`, others as given."""
    if _is_standard(path):
        return f"specs/{path.resolve().name}"
    return "".join(char if char.isprintable() else "?" for char in str(path))


def _name_beside(module: Module, path: Path) -> str:
    """How an imported spec is called: one beside its importer as that one is, wherever both lie."""
    return display_name(path if _is_standard(path) else Path(module.source.name).parent / path.name)


def _is_standard(path: Path) -> bool:
    """Whether a spec is one of those that come with archc."""
    return path.resolve().parent == resources.resource_dir("specs").resolve()


def search_path(module: Module) -> list[Path]:
    """The folders that `import` looks into, in order."""
    beside = [module.path.parent] if module.path else []
    return [*beside, resources.resource_dir("specs")]


def _specs_beside(module: Module) -> Iterable[str]:
    found = (path for folder in search_path(module) for path in folder.glob("*.arch"))
    return [path.stem for path in found if path.is_file()]
