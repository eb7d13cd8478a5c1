"""Settings for tests of benchmarks, which assert no time."""

from collections.abc import Iterator

import pytest

from tests.support import compile_quickly, shared_folder


@pytest.fixture(scope="package", autouse=True)
def _compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Native code is compiled once for all test processes of a run, and not optimised."""
    with pytest.MonkeyPatch.context() as patch:
        compile_quickly(shared_folder(tmp_path_factory, "native"), patch)
        yield
