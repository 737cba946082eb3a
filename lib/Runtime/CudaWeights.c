/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Weights to the device: through two pinned buffers, one of which is filled from the file while
 * the other one is on its way.
 */
#include "CudaDriver.h"
#include <string.h>

#define CHUNK ((size_t)16 << 20)

typedef struct {
  void *memory;
  rt_cu_event sent; /* what was copied from it has arrived */
} rt_staging;

typedef struct {
  const rt_cu_driver *driver;
  rt_cu_stream stream;
  rt_staging buffers[2];
} rt_upload;

static moec_status check(const rt_upload *upload, rt_cu_result result) {
  return rt_cu_check(upload->driver, result, "cannot copy the weights of '%s' to the device",
                     moec_model_description.name);
}

static moec_status begin(rt_upload *upload, size_t bytes) {
  const rt_cu_driver *driver = upload->driver;
  moec_status status =
      check(upload, driver->StreamCreate(&upload->stream, RT_CU_STREAM_NON_BLOCKING));
  for (int i = 0; status == MOEC_OK && i < 2; ++i) {
    rt_staging *buffer = &upload->buffers[i];
    status =
        rt_cu_check(driver, driver->MemHostAlloc(&buffer->memory, bytes, 0),
                    "cannot allocate %zu bytes of pinned memory for copying the weights", bytes);
    if (status == MOEC_OK)
      status = check(upload, driver->EventCreate(&buffer->sent, RT_CU_EVENT_DISABLE_TIMING));
  }
  return status;
}

static void end(rt_upload *upload) {
  const rt_cu_driver *driver = upload->driver;
  /* Also after an error, when a copy may be on its way. */
  if (upload->stream)
    (void)driver->StreamSynchronize(upload->stream);
  for (int i = 0; i < 2; ++i) {
    if (upload->buffers[i].sent)
      (void)driver->EventDestroy(upload->buffers[i].sent);
    if (upload->buffers[i].memory)
      (void)driver->MemFreeHost(upload->buffers[i].memory);
  }
  if (upload->stream)
    (void)driver->StreamDestroy(upload->stream);
}

/* One chunk through a buffer. An event that was never recorded counts as reached. */
static moec_status send(const rt_upload *upload, const rt_staging *buffer, rt_cu_pointer to,
                        const char *from, size_t bytes) {
  const rt_cu_driver *driver = upload->driver;
  rt_cu_result result = driver->EventSynchronize(buffer->sent);
  if (result != RT_CU_SUCCESS)
    return check(upload, result);
  memcpy(buffer->memory, from, bytes);
  result = driver->MemcpyHtoDAsync(to, buffer->memory, bytes, upload->stream);
  if (result == RT_CU_SUCCESS)
    result = driver->EventRecord(buffer->sent, upload->stream);
  return check(upload, result);
}

static moec_status send_all(const rt_upload *upload, rt_cu_pointer to, const char *from,
                            size_t bytes, const moec_options *options) {
  for (size_t done = 0, i = 0; done < bytes; ++i) {
    size_t part = bytes - done < CHUNK ? bytes - done : CHUNK;
    moec_status status = send(upload, &upload->buffers[i % 2], to + done, from + done, part);
    if (status != MOEC_OK)
      return status;
    done += part;
    if (options->progress)
      options->progress(options->progress_data, done, bytes);
  }
  return check(upload, upload->driver->StreamSynchronize(upload->stream));
}

moec_status rt_upload_weights(moec_model *model, rt_cuda_model *cuda, const moec_options *options) {
  if (!model->weights)
    return MOEC_OK;
  const moec_model_desc *desc = &moec_model_description;
  size_t skipped = cuda->desc->weights_begin, bytes = cuda->desc->weights_bytes;
  if (bytes == 0)
    return MOEC_OK;
  moec_status status =
      rt_cu_check(&cuda->driver, cuda->driver.MemAlloc(&cuda->weights, bytes),
                  "cannot allocate %zu bytes on CUDA device %d for the weights of '%s'", bytes,
                  cuda->device_id, desc->name);
  if (status != MOEC_OK)
    return status;
  rt_upload upload = {&cuda->driver, NULL, {{NULL, NULL}, {NULL, NULL}}};
  status = begin(&upload, bytes < CHUNK ? bytes : CHUNK);
  if (status == MOEC_OK)
    status =
        send_all(&upload, cuda->weights, (const char *)model->weights + skipped, bytes, options);
  end(&upload);
  if (status == MOEC_OK)
    model->weights = (const void *)(uintptr_t)(cuda->weights - skipped);
  return status;
}
