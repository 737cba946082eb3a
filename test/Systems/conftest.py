# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The summary: the largest error of the systems, of each of them with `-v`."""

import collections


def largest_errors(reports):
    """{case: {(dtype, level): largest error}}"""
    errors = collections.defaultdict(dict)
    for report in reports:
        for name, found in report.user_properties:
            if name == "error":
                column = (found["dtype"], found["level"])
                errors[found["case"]][column] = max(errors[found["case"]].get(column, 0.0), found["error"])
    return errors


def pytest_terminal_summary(terminalreporter, config):
    stats = terminalreporter.stats
    errors = largest_errors([*stats.get("passed", []), *stats.get("failed", [])])
    if not errors:
        return
    columns = sorted({column for row in errors.values() for column in row})
    rows = dict(sorted(errors.items())) if config.option.verbose > 0 else {}
    rows["all"] = {
        column: max(row[column] for row in errors.values() if column in row) for column in columns
    }
    terminalreporter.section("largest errors of the MoE systems against float64")
    width = max(map(len, rows))
    terminalreporter.line(" " * width + "".join(f"  {dtype + ' ' + level:>12}" for dtype, level in columns))
    for case, row in rows.items():
        numbers = (f"{row[column]:12.1e}" if column in row else " " * 12 for column in columns)
        terminalreporter.line(f"{case:{width}}" + "".join("  " + number for number in numbers))
