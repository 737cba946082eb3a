// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// What the runtime tests share.

#include "Fixture.h"
#include <thread>

void runOnThreads(void *numThreads, int64_t n, moec_task_fn body, void *ctx) {
  auto count = int32_t(intptr_t(numThreads));
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (int32_t worker = 0; worker < count; ++worker)
    threads.emplace_back([&, worker] {
      for (int64_t task = next++; task < n; task = next++)
        body(ctx, task, worker);
    });
  for (std::thread &thread : threads)
    thread.join();
}

void RuntimeTest::SetUp() {
  std::string path = writeTestFile("weights", makeFakeWeights());
  ASSERT_EQ(library->open(path.c_str(), nullptr, &model), MOEC_OK) << library->last_error();
  // The mapping outlives the name.
  remove(path.c_str());
}

void RuntimeTest::TearDown() {
  for (moec_context *context : contexts)
    library->context_destroy(context);
  library->close(model);
}

moec_context_options RuntimeTest::makeOptions(int32_t workers) {
  moec_context_options options = MOEC_CONTEXT_OPTIONS_INIT;
  options.num_workers = workers;
  if (flavour == Flavour::Custom) {
    options.parallel_for = runOnThreads;
    options.pool = reinterpret_cast<void *>(intptr_t(workers));
  }
  return options;
}

moec_context *RuntimeTest::makeContext(const moec_context_options &options) {
  moec_context *context = nullptr;
  EXPECT_EQ(library->context_create(model, &options, &context), MOEC_OK) << library->last_error();
  contexts.push_back(context);
  return context;
}

moec_status RuntimeTest::runMain(moec_context *context, DLTensor &x, DLTensor &b, DLTensor &y,
                                 DLTensor &count) {
  const DLTensor *in[] = {&x, &b};
  DLTensor *out[] = {&y, &count};
  return library->run(context, "main", in, 2, out, 2);
}

testing::AssertionResult failsWith(moec_status found, moec_status expected,
                                   const std::string &part) {
  std::string message = fake_moec()->last_error();
  if (found != expected)
    return testing::AssertionFailure()
           << "status " << found << " instead of " << expected << ": " << message;
  if (message.find(part) == std::string::npos)
    return testing::AssertionFailure() << "'" << message << "' has no '" << part << "'";
  return testing::AssertionSuccess();
}
