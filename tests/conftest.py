"""One thread a test process, since several run side by side; no test writes to the user's cache."""

import os

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    os.environ["ALPRUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
