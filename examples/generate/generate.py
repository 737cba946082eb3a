# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes text with a compiled language model whose tokens are bytes.

    python generate.py MODEL.moec PROMPT [--tokens 200] [--temperature 0] [--top-p 1] [--seed 0]

The model takes `input_ids`, `attention_mask`, `position_ids` and a key/value cache as torch exports it:
`past_key_values.N.key` and `.value` in, `present.N.key` and `.value` out.
"""

import argparse
import sys
import time
from collections.abc import Iterator

import moec.runtime
import numpy as np

START = 0  # the token that begins a document


class Decoder:
    """The model and the cache of the tokens that it has read."""

    def __init__(self, model: moec.runtime.Model) -> None:
        self._model = model
        self._length = 0
        self._cache = {
            info.name: np.zeros([size if isinstance(size, int) else 0 for size in (1, *info.dims[1:])], info.dtype)
            for info in model.inputs
            if info.name.startswith("past_key_values.")
        }

    def read(self, tokens: list[int]) -> np.ndarray:
        """Reads more tokens: logits [vocabulary] of the token after them."""
        end = self._length + len(tokens)
        outputs = self._model.run(
            {
                "input_ids": np.array([tokens], np.int64),
                "attention_mask": np.ones((1, end), np.int64),
                "position_ids": np.arange(self._length, end, dtype=np.int64)[None],
                **self._cache,
            }
        )
        self._length = end
        self._cache = {name: outputs[name.replace("past_key_values", "present")] for name in self._cache}
        return outputs["logits"][0, -1]


def choose(logits: np.ndarray, temperature: float, top_p: float, random: np.random.Generator) -> int:
    """A token: the likeliest at temperature 0, else one drawn from the smallest set of likeliest
    tokens whose probabilities sum to at least `top_p` (Holtzman et al. 2020)."""
    if temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")
    scaled = logits[order].astype(np.float64) / temperature
    probabilities = np.exp(scaled - scaled[0])
    probabilities /= probabilities.sum()
    kept = 1 + int(np.searchsorted(probabilities.cumsum(), top_p)) if top_p < 1 else len(order)
    probabilities = probabilities[:kept] / probabilities[:kept].sum()
    return int(order[random.choice(len(probabilities), p=probabilities)])


def generate(decoder: Decoder, prompt: bytes, count: int, temperature: float, top_p: float, seed: int) -> Iterator[int]:
    random = np.random.default_rng(seed)
    tokens = [START, *prompt]
    for _ in range(count):
        token = choose(decoder.read(tokens), temperature, top_p, random)
        yield token
        tokens = [token]


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes text with a compiled language model.")
    parser.add_argument("package", help="the folder that moec wrote")
    parser.add_argument("prompt", help="text to go on from")
    parser.add_argument("--tokens", type=int, default=200, help="how many to write (200)")
    parser.add_argument("--temperature", type=float, default=0, help="0 takes the likeliest token (default)")
    parser.add_argument("--top-p", type=float, default=1, help="draw from the likeliest tokens of this sum (1: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: all processors")
    options = parser.parse_args()

    decoder = Decoder(moec.runtime.load(options.package, threads=options.threads))
    prompt = options.prompt.encode()
    sys.stdout.buffer.write(prompt)
    start = time.perf_counter()
    for token in generate(decoder, prompt, options.tokens, options.temperature, options.top_p, options.seed):
        sys.stdout.buffer.write(bytes([token]))
        sys.stdout.buffer.flush()
    seconds = time.perf_counter() - start
    print(f"\n[{options.tokens} tokens in {seconds:.2f} s: {options.tokens / seconds:.0f} tokens/s]", file=sys.stderr)


if __name__ == "__main__":
    main()
