// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Writes text with a compiled language model whose tokens are bytes:
//
//     generate PROMPT [TOKENS [TEMPERATURE [TOP_P [SEED]]]]
//
// MODEL is the name of the package. The model takes input_ids, attention_mask and position_ids, all
// int64, and then a key and a value [1, heads, past, head size] for each layer; it gives the logits
// [1, tokens, vocabulary] and then the longer keys and values, all float32.

#include "moec.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#ifndef MODEL
#define MODEL tinymoe
#endif
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

extern "C" const moec_library *JOIN(MODEL, _moec)(void);

static const moec_library &moec = *JOIN(MODEL, _moec)();

static void check(moec_status status) {
  if (status != MOEC_OK)
    throw std::runtime_error(moec.last_error());
}

/// A tensor and the memory that it owns.
template <typename T> struct Array {
  std::vector<int64_t> shape;
  std::vector<T> values;

  DLTensor view() {
    DLTensor tensor = {};
    tensor.data = values.data();
    tensor.device.device_type = kDLCPU;
    tensor.ndim = int32_t(shape.size());
    tensor.dtype.code = std::is_floating_point<T>::value ? kDLFloat : kDLInt;
    tensor.dtype.bits = 8 * sizeof(T);
    tensor.dtype.lanes = 1;
    tensor.shape = shape.data();
    return tensor;
  }
};

/// The model and the cache of the tokens that it has read.
class Decoder {
public:
  /// `layers`, `heads` and `headSize` of the cache.
  Decoder(int layers, int64_t heads, int64_t headSize) : cache(2 * layers), nextCache(2 * layers) {
    for (Array<float> &array : cache)
      array.shape = {1, heads, 0, headSize};
    check(moec.open(nullptr, nullptr, &model));
    check(moec.context_create(model, nullptr, &context));
  }
  ~Decoder() {
    moec.context_destroy(context);
    moec.close(model);
  }
  Decoder(const Decoder &) = delete;
  Decoder &operator=(const Decoder &) = delete;

  /// Reads more tokens: logits of the token after them.
  std::vector<float> read(const std::vector<int64_t> &tokens) {
    int64_t count = int64_t(tokens.size()), end = length + count;
    Array<int64_t> ids{{1, count}, tokens}, positions{{1, count}, std::vector<int64_t>(count)};
    Array<int64_t> mask{{1, end}, std::vector<int64_t>(end, 1)};
    std::iota(positions.values.begin(), positions.values.end(), length);

    std::vector<DLTensor> in{ids.view(), mask.view(), positions.view()};
    for (Array<float> &array : cache)
      in.push_back(array.view());
    run(in);
    length = end;
    std::swap(cache, nextCache);
    int64_t vocabulary = logits.shape.back();
    return {logits.values.end() - vocabulary, logits.values.end()};
  }

private:
  void run(std::vector<DLTensor> &in) {
    std::vector<DLTensor> out(1 + cache.size());
    std::vector<const DLTensor *> inputs;
    std::vector<DLTensor *> outputs;
    for (DLTensor &tensor : in)
      inputs.push_back(&tensor);
    for (DLTensor &tensor : out)
      outputs.push_back(&tensor);
    int32_t numIn = int32_t(in.size()), numOut = int32_t(out.size());
    // The library says how large the outputs will be; the memory is ours.
    check(moec.output_shapes(context, nullptr, inputs.data(), numIn, outputs.data(), numOut));
    for (size_t i = 0; i < out.size(); ++i) {
      Array<float> &array = i ? nextCache[i - 1] : logits;
      array.shape.assign(out[i].shape, out[i].shape + out[i].ndim);
      array.values.resize(std::accumulate(array.shape.begin(), array.shape.end(), int64_t(1),
                                          std::multiplies<int64_t>()));
      out[i] = array.view();
    }
    check(moec.run(context, nullptr, inputs.data(), numIn, outputs.data(), numOut));
  }

  moec_model *model = nullptr;
  moec_context *context = nullptr;
  int64_t length = 0;
  Array<float> logits;
  std::vector<Array<float>> cache, nextCache;
};

struct Sampling {
  /// 0 takes the likeliest token.
  double temperature = 0;
  /// Tokens are drawn from the smallest set of likeliest ones whose probabilities sum to at least
  /// this (Holtzman et al. 2020).
  double topP = 1;
};

static int64_t choose(const std::vector<float> &logits, Sampling sampling, std::mt19937 &random) {
  if (sampling.temperature == 0)
    return std::max_element(logits.begin(), logits.end()) - logits.begin();
  std::vector<int64_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return logits[a] > logits[b]; });
  std::vector<double> weights;
  for (int64_t token : order)
    weights.push_back(std::exp((logits[token] - logits[order[0]]) / sampling.temperature));
  double limit = sampling.topP * std::accumulate(weights.begin(), weights.end(), 0.0), sum = 0;
  size_t kept = 0;
  while (kept < weights.size() && sum < limit)
    sum += weights[kept++];
  weights.resize(std::max<size_t>(kept, 1));
  return order[std::discrete_distribution<size_t>(weights.begin(), weights.end())(random)];
}

static void generate(const std::string &prompt, int count, Sampling sampling, unsigned seed) {
  Decoder decoder(/*layers=*/4, /*heads=*/2, /*headSize=*/32);
  std::mt19937 random(seed);
  std::vector<int64_t> tokens{0}; // begins a document
  for (unsigned char byte : prompt)
    tokens.push_back(byte);
  std::fwrite(prompt.data(), 1, prompt.size(), stdout);

  auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) {
    tokens = {choose(decoder.read(tokens), sampling, random)};
    std::putchar(int(tokens[0]));
    std::fflush(stdout);
  }
  std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::fprintf(stderr, "\n[%d tokens in %.2f s: %.0f tokens/s]\n", count, seconds.count(),
               count / seconds.count());
}

int main(int argc, char **argv) {
  if (argc < 2 || argc > 6) {
    std::fprintf(stderr, "usage: %s PROMPT [TOKENS [TEMPERATURE [TOP_P [SEED]]]]\n", argv[0]);
    return 2;
  }
  Sampling sampling;
  if (argc > 3)
    sampling.temperature = std::atof(argv[3]);
  if (argc > 4)
    sampling.topP = std::atof(argv[4]);
  try {
    generate(argv[1], argc > 2 ? std::atoi(argv[2]) : 200, sampling,
             argc > 5 ? unsigned(std::atoi(argv[5])) : 0);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "%s: %s\n", TEXT(MODEL), error.what());
    return 1;
  }
  return 0;
}
