"""Pictures as PNG, SVG or PDF files.  Needs matplotlib, which the extra `analysis` brings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from archc.errors import ArchcError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KINDS = (".png", ".svg", ".pdf")


def check_picture(path: Path) -> None:
    """Raise `ArchcError` where no picture can be written, before the work for it is done."""
    if path.suffix.lower() not in _KINDS:
        raise ArchcError(f"a picture is a {', '.join(_KINDS)} file, not `{path.name}`")
    if not path.parent.is_dir():
        raise ArchcError(f"cannot write {path}: there is no directory {path.parent}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ArchcError("pictures need matplotlib: pip install 'archc-compiler[analysis]'") from None


@contextmanager
def picture(path: Path, width: float = 7.0, height: float = 5.0) -> Iterator[Axes]:
    """Axes to draw on; the picture is written at the end.  Sizes in inches.  Raises `ArchcError`."""
    check_picture(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(
        {"svg.hashsalt": "archc", "font.size": 9.5, "axes.grid": True, "grid.alpha": 0.25}
    ):
        figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
        try:
            yield axes
            figure.savefig(path, dpi=200)
        except OSError as error:
            raise ArchcError(f"cannot write {path}: {error.strerror}") from None
        finally:
            pyplot.close(figure)
