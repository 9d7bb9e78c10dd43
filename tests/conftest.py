"""One thread per test process, since several run side by side; tests never use the user's cache."""

import gc
import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for libraries and processes that tests start, too

import pytest
import torch
from hypothesis import settings

OWN_MODULES = (
    *("broken_parts", "lazy_shards", "own_criterion", "tiny_learner"),
    *("test_conditions", "test_resume"),
)
LARGE = (  # networks of a second a test, where the same test has smaller ones as well
    *("vgg19", "wrn-16-8", "resnet18", "resnet34", "resnet50", "mobilenet-v2"),
    *("mobilenet-v3-small", "efficientnet-b0", "efficientnet-lite0-levels"),
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

torch.set_num_threads(1)
settings.register_profile("patient", deadline=None)  # no test asserts a time
settings.load_profile("patient")
os.fsync = lambda file: None  # no test pulls the plug, and disks are slow
os.environ["ALPRUNE_TRUST_CODE"] = ",".join(OWN_MODULES)  # which run folders of the tests name


def pytest_xdist_auto_num_workers():
    """Start one process more than there are processors: tests of pages mostly wait."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(tryfirst=True)  # before the marks select
def pytest_collection_modifyitems(items):
    """Leave large networks to `-m slow`."""
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if any(isinstance(value, str) and value in LARGE for value in values):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """Leave what has been imported out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    os.environ["ALPRUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def browser():
    """A headless browser, where there are one and its driver."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_api.sync_playwright() as driver:
        own = driver.chromium.executable_path
        if found is None and not os.path.exists(own):
            pytest.skip(f"no browser: none of {', '.join(BROWSERS)}, nor playwright's own")
        root = hasattr(os, "geteuid") and os.geteuid() == 0  # whom Chromium's sandbox refuses
        browser = driver.chromium.launch(
            executable_path=found, args=["--no-sandbox"] if root else []
        )
        yield browser
        browser.close()
