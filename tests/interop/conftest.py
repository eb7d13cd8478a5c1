"""Settings for the tests against transformers."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(_seed: None) -> None:
    """Matrices are so small here that a second thread only waits."""
    torch.set_num_threads(1)
