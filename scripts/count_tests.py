"""Adds up JUnit files and prints one line: N passed, N failed, N skipped.

A file that is missing, unreadable or empty (its runner died or found nothing)
counts as one failure.
The exit status is 1 when anything failed.
"""

import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def count(path):
    """(passed, failed, skipped) of one JUnit file, from its test cases."""
    passed = failed = skipped = 0
    for case in ElementTree.parse(path).iter("testcase"):
        outcomes = {child.tag for child in case}
        if outcomes & {"failure", "error"} or case.get("status") == "fail":
            failed += 1
        elif "skipped" in outcomes or case.get("status") in ("notrun", "disabled"):
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def main(paths):
    totals = [0, 0, 0]
    for path in paths:
        try:
            counts = count(path)
        except (OSError, ElementTree.ParseError):
            counts = (0, 0, 0)
        if not any(counts):
            print(f"no test of {pathlib.Path(path).stem} ran", file=sys.stderr)
            counts = (0, 1, 0)
        totals = [total + new for total, new in zip(totals, counts)]
    print("{} passed, {} failed, {} skipped".format(*totals))
    return 1 if totals[1] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
