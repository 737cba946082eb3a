# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs the fuzz targets of build-fuzz, all at once:

    python test/fuzz/run.py [--seconds N | --fixed] [--seed N] [--junit FILE] [TARGET...]

Each starts from its kept corpus, from the inputs that were findings once, from the
models (MOEC_MODELS or ../shared/models) when they are there, and from what earlier
runs found, in build-fuzz/fuzz/TARGET/corpus. A finding fails the target; its input is
kept in build-fuzz/fuzz/TARGET/findings. With 0 seconds the inputs are only replayed.
Runs differ, unless they are --fixed, as in the tests: the same seed and number of inputs,
so that what is found belongs to the change that is tested, not to the machine's speed.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import make

BUILD = make.ROOT / "build-fuzz"

# Inputs of a fixed run: about a minute on two cores without other work.
FIXED_INPUTS = {"model-reader-fuzzer": 12000, "raise-moe-fuzzer": 3000, "moe-parser-fuzzer": 30000}
FIXED_SEED = 1


@dataclasses.dataclass
class Run:
    """A target that runs."""

    target: str
    folder: pathlib.Path
    process: subprocess.Popen

    @property
    def log(self):
        return self.folder / "log"


def seeds():
    """The seeds from the models, made once."""
    folder = BUILD / "fuzz" / "seeds"
    if make.MODELS.is_dir() and not folder.is_dir():
        make.make_seeds(folder)
    return folder


def limits(target, arguments):
    """The options that end a run, and its seed (0: a random one)."""
    if arguments.fixed:
        return [f"-runs={FIXED_INPUTS[target]}", f"-seed={FIXED_SEED}"]
    limit = f"-max_total_time={arguments.seconds}" if arguments.seconds else "-runs=0"
    return [limit, f"-seed={arguments.seed}"]


def start(target, arguments):
    folder = BUILD / "fuzz" / target
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    for name in ("corpus", "findings", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    sources = [make.FUZZ / "corpus" / target, make.FUZZ / "findings" / target, seeds() / target]
    command = [
        BUILD / "bin" / target,
        *limits(target, arguments),
        f"-dict={make.FUZZ / make.TARGETS[target]}",
        f"-max_len={make.SEED_BYTES}",
        f"-artifact_prefix={folder / 'findings'}/",
        # In seconds of a busy machine, and MiB.
        "-timeout=60",
        "-rss_limit_mb=3000",
        "-print_final_stats=1",
        "-reload=0",
        folder / "corpus",
        *(source for source in sources if source.is_dir()),
    ]
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    if symbolizer := shutil.which("llvm-symbolizer-22"):
        environment.setdefault("ASAN_SYMBOLIZER_PATH", symbolizer)
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    return Run(target, folder, process)


def finish(run):
    """The JUnit test case of a run; prints its figures."""
    status = run.process.wait()
    shutil.rmtree(run.folder / "tmp")
    text = run.log.read_text(errors="replace")
    case = ElementTree.Element("testcase", classname="fuzz", name=run.target)
    executions = re.findall(r"stat::number_of_executed_units:\s*(\d+)", text)
    coverage = re.findall(r"cov: (\d+) ft: (\d+)", text)
    if status == 0 and executions and coverage:
        print(f"{run.target}: {executions[-1]} inputs, {coverage[-1][0]} edges, {coverage[-1][1]} features")
        return case
    written = re.findall(r"Test unit written to (\S+)", text)
    message = f"exit status {status}; input: {written[-1] if written else 'none'}; log: {run.log}"
    print(f"{run.target}: {message}")
    failure = ElementTree.SubElement(case, "failure", message=message)
    failure.text = "".join(c for c in text[-8000:] if c.isprintable() or c == "\n")
    return case


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--fixed", action="store_true", help="the same inputs each time")
    parser.add_argument("--seed", type=int, default=0, help="0: a random one")
    parser.add_argument("--junit", type=pathlib.Path)
    parser.add_argument("targets", nargs="*", default=list(make.TARGETS), metavar="TARGET")
    arguments = parser.parse_args()
    runs = [start(target, arguments) for target in arguments.targets]
    suite = ElementTree.Element("testsuite", name="fuzz")
    suite.extend(finish(run) for run in runs)
    if arguments.junit:
        ElementTree.ElementTree(suite).write(arguments.junit)
    return 1 if suite.findall("testcase/failure") else 0


if __name__ == "__main__":
    sys.exit(main())
