# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Collects the outcomes of the node tests, and prints them by operator."""

import node_tests
import pytest

OUTCOMES = pytest.StashKey()


@pytest.fixture(scope="session")
def node_outcomes(pytestconfig):
    return pytestconfig.stash.setdefault(OUTCOMES, {})


def pytest_terminal_summary(terminalreporter, config):
    if outcomes := config.stash.get(OUTCOMES, None):
        terminalreporter.section("node tests of ONNX, by operator")
        terminalreporter.write_line(node_tests.summary(outcomes))
