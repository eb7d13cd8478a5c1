"""Settings for every test."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import pytest
import torch

from tests import gpu
from tests.codegen import hazards
from tests.import_time import collect_rarely, save_import_time


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(gpu.OPTION, action="store_true", help="Compile kernels and run them on the GPU.")
    parser.addoption("--seeds", default="0:100", help="FROM:TO, of the random specs that slow tests take.")
    parser.addoption(hazards.OPTION, action="store_true", help="Fail where interpreted kernels have hazards.")


def pytest_configure(config: pytest.Config) -> None:
    collect_rarely()
    save_import_time()
    if config.getoption(gpu.OPTION):
        gpu.enter()
    if config.getoption(hazards.OPTION):
        hazards.enter()


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    seed = torch.manual_seed if request.config.getoption(gpu.OPTION) else torch.default_generator.manual_seed
    seed(0)  # where no GPU is used, torch.manual_seed would keep a stack trace for the first one
    torch.set_num_threads(1)  # tensors are small, and as many tests run at once as there are cores
