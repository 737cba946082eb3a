# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

import os

import harness
import pytest


@pytest.fixture(scope="session")
def compiler(tmp_path_factory):
    """moec, with a cache of packages over the session."""
    if not harness.tool("moec").exists():
        # scripts/test.sh builds first, so there it is a failure.
        absent = pytest.fail if "MOEC_BUILD_DIR" in os.environ else pytest.skip
        absent(f"moec is not built: {harness.tool('moec')}")
    return harness.Compiler(tmp_path_factory.mktemp("packages"))
