/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * The weights file: found, checked, mapped.
 */
#include "Internal.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LENGTH_BYTES 8u

/* A search for the loaded object that has our code. */
typedef struct {
  uintptr_t address;
  char path[PATH_MAX];
  bool found;
} rt_object;

static int visit_object(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size;
  rt_object *object = data;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
    if (segment->p_type != PT_LOAD ||
        object->address - info->dlpi_addr - segment->p_vaddr >= segment->p_memsz)
      continue;
    /* The program itself has no name here. */
    const char *name = info->dlpi_name[0] ? info->dlpi_name : "/proc/self/exe";
    if (info->dlpi_name[0]) {
      object->found = strlen(name) < sizeof(object->path);
      if (object->found)
        strcpy(object->path, name);
      return 1;
    }
    ssize_t length = readlink(name, object->path, sizeof(object->path) - 1);
    object->found = length > 0;
    object->path[length > 0 ? length : 0] = 0;
    return 1;
  }
  return 0;
}

/* NAME.safetensors in the folder of the library or program with this code. */
static bool make_default_path(char *path, size_t size) {
  rt_object object = {.address = (uintptr_t)&make_default_path};
  dl_iterate_phdr(visit_object, &object);
  if (!object.found)
    return false;
  char *slash = strrchr(object.path, '/');
  if (slash)
    slash[1] = 0;
  else
    object.path[0] = 0;
  int length = snprintf(path, size, "%s%s.safetensors", object.path, moec_model_description.name);
  return length > 0 && (size_t)length < size;
}

static moec_status check_size(const char *path, int file) {
  uint64_t expected = moec_model_description.weights_file_size;
  struct stat info;
  if (fstat(file, &info) != 0)
    return rt_fail(MOEC_ERROR_WEIGHTS, "cannot read the weights file '%s': %s", path,
                   strerror(errno));
  if (!S_ISREG(info.st_mode))
    return rt_fail(MOEC_ERROR_WEIGHTS, "the weights file '%s' is not a regular file", path);
  if ((uint64_t)info.st_size == expected)
    return MOEC_OK;
  return rt_fail(MOEC_ERROR_WEIGHTS,
                 "the weights file '%s' has %" PRIu64 " bytes, but the weights of '%s' "
                 "have %" PRIu64 ": it is %s",
                 path, (uint64_t)info.st_size, moec_model_description.name, expected,
                 (uint64_t)info.st_size < expected ? "truncated or another model's"
                                                   : "another model's");
}

/* Reads the header only, never the data. */
static moec_status check_digest(const char *path, const char *file) {
  const moec_model_desc *desc = &moec_model_description;
  uint64_t header_bytes = 0;
  for (unsigned i = 0; i < LENGTH_BYTES; ++i)
    header_bytes |= (uint64_t)(unsigned char)file[i] << (8 * i);
  if (header_bytes + LENGTH_BYTES != desc->weights_data_offset)
    return rt_fail(MOEC_ERROR_WEIGHTS,
                   "the weights file '%s' is damaged or another model's: its "
                   "header has %" PRIu64 " bytes, that of '%s' has %" PRIu64,
                   path, header_bytes, desc->name, desc->weights_data_offset - LENGTH_BYTES);
  size_t length;
  const char *digest = rt_find_digest(file + LENGTH_BYTES, header_bytes, &length);
  if (!digest)
    return rt_fail(MOEC_ERROR_WEIGHTS,
                   "the weights file '%s' is damaged or was not written by "
                   "moec: its header has no digest",
                   path);
  if (length != strlen(desc->weights_digest) || memcmp(digest, desc->weights_digest, length) != 0)
    return rt_fail(MOEC_ERROR_WEIGHTS,
                   "the weights file '%s' is another model's: its digest is "
                   "%.*s, that of '%s' is %s",
                   path, length < 128 ? (int)length : 128, digest, desc->name,
                   desc->weights_digest);
  return MOEC_OK;
}

/* Reads the whole file to `memory`. */
static moec_status read_file(const char *path, int file, char *memory, size_t size) {
  for (size_t done = 0; done < size;) {
    ssize_t count = pread(file, memory + done, size - done, (off_t)done);
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      return rt_fail(MOEC_ERROR_WEIGHTS, "cannot read the weights file '%s': %s", path,
                     count < 0 ? strerror(errno) : "it has become shorter");
    done += (size_t)count;
  }
  return MOEC_OK;
}

/* Puts a copy in huge pages in the place of the mapping. */
static moec_status copy_to_huge_pages(moec_model *model, const char *path, int file) {
  size_t bytes = (model->map_size + RT_HUGE_PAGE - 1) / RT_HUGE_PAGE * RT_HUGE_PAGE;
  char *memory =
      mmap(NULL, bytes + RT_HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    return rt_fail(MOEC_ERROR_MEMORY, "cannot allocate %zu bytes for the weights", bytes);
  size_t before = (RT_HUGE_PAGE - (uintptr_t)memory % RT_HUGE_PAGE) % RT_HUGE_PAGE;
  if (before)
    munmap(memory, before);
  memory += before;
  munmap(memory + bytes, RT_HUGE_PAGE - before);
  /* Advice only: in small pages it is as right. */
  (void)madvise(memory, bytes, MADV_HUGEPAGE);
  moec_status status = read_file(path, file, memory, model->map_size);
  if (status != MOEC_OK) {
    munmap(memory, bytes);
    return status;
  }
  (void)mprotect(memory, bytes, PROT_READ);
  munmap(model->map, model->map_size);
  model->map = memory;
  model->map_size = bytes;
  return MOEC_OK;
}

/* Maps every page. */
static void populate(const moec_model *model) {
#ifdef MADV_POPULATE_READ
  if (madvise(model->map, model->map_size, MADV_POPULATE_READ) == 0)
    return;
#endif
  /* Linux before 5.14. */
  const volatile char *bytes = model->map;
  for (size_t i = 0; i < model->map_size; i += 4096)
    (void)bytes[i];
}

static moec_status map_file(moec_model *model, const char *path, int file, uint32_t flags) {
  moec_status status = check_size(path, file);
  if (status != MOEC_OK)
    return status;
  size_t size = moec_model_description.weights_file_size;
  void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, file, 0);
  if (map == MAP_FAILED)
    return rt_fail(errno == ENOMEM ? MOEC_ERROR_MEMORY : MOEC_ERROR_WEIGHTS,
                   "cannot map the weights file '%s': %s", path, strerror(errno));
  model->map = map;
  model->map_size = size;
  /* Advice only: a kernel or file system without it is no error. */
  (void)madvise(map, size, MADV_HUGEPAGE);
  if (flags & MOEC_OPEN_PREFETCH)
    (void)madvise(map, size, MADV_WILLNEED);
  status = check_digest(path, map);
  if (status == MOEC_OK && flags & MOEC_OPEN_HUGE_PAGES)
    status = copy_to_huge_pages(model, path, file);
  else if (status == MOEC_OK && flags & MOEC_OPEN_POPULATE)
    populate(model);
  if (status != MOEC_OK)
    rt_unmap_weights(model);
  return status;
}

moec_status rt_map_weights(moec_model *model, const char *path, uint32_t flags) {
  const moec_model_desc *desc = &moec_model_description;
  if (desc->weights_file_size == 0)
    return MOEC_OK;
  if (desc->weights_data_offset < LENGTH_BYTES ||
      desc->weights_data_offset > desc->weights_file_size)
    return rt_fail(MOEC_ERROR_WEIGHTS, "the library '%s' describes its weights wrongly",
                   desc->name);
  char beside[PATH_MAX + 256];
  if (!path) {
    if (!make_default_path(beside, sizeof(beside)))
      return rt_fail(MOEC_ERROR_WEIGHTS,
                     "cannot find the folder of the library '%s': give the "
                     "path of its weights file",
                     desc->name);
    path = beside;
  }
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0)
    return rt_fail(MOEC_ERROR_WEIGHTS, "cannot open the weights file '%s': %s", path,
                   strerror(errno));
  moec_status status = map_file(model, path, file, flags);
  close(file);
  if (status != MOEC_OK)
    return status;
  model->weights = (const char *)model->map + desc->weights_data_offset;
  return MOEC_OK;
}

void rt_unmap_weights(moec_model *model) {
  if (model->map)
    munmap(model->map, model->map_size);
  model->map = NULL;
  if (!model->device)
    model->weights = NULL;
}
