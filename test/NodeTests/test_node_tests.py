# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The node tests of the ONNX project: each passes, or is skipped for a reason that
node_tests.py names."""

import os

import node_tests
import pytest
from harness import CPU

pytestmark = pytest.mark.skipif(
    "ASAN_OPTIONS" in os.environ, reason="python would have to be linked with the sanitizer that libmoec-c.so has"
)

TESTS = node_tests.load_tests()


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.name)
def test_node(test, node_outcomes):
    outcome = node_tests.run(test, CPU)
    node_outcomes[test] = outcome
    if outcome.skipped:
        pytest.skip(outcome.skipped)


def test_the_page_is_current(node_outcomes):
    """node_tests.py writes it."""
    if len(node_outcomes) < len(TESTS):
        pytest.skip("some node tests were not run, or failed")
    text = node_tests.page(node_outcomes)
    if "MOEC_WRITE_PAGES" in os.environ:
        node_tests.PAGE.write_text(text)
    assert node_tests.PAGE.read_text() == text
