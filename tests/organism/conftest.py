"""The whole build of the organism takes minutes."""

from __future__ import annotations

import os

import pytest

NEEDS = "takes minutes; make test-build"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "build: builds the built-in model anew, in minutes; make test-build")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("build") and os.environ.get("TEST_BUILD") != "1":
        pytest.skip(NEEDS)
