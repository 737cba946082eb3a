/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Which of the levels of instructions in this library is used.
 */
#include "Internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const moec_level_desc *rt_first_level(bool on_device) {
  const moec_model_desc *desc = &moec_model_description;
  for (uint32_t i = 0; i < desc->num_levels; ++i)
    if ((desc->levels[i]->cuda != NULL) == on_device)
      return desc->levels[i];
  return NULL;
}

/* Those for CPUs are the first ones. */
static uint32_t count_levels(void) {
  const moec_model_desc *desc = &moec_model_description;
  uint32_t count = 0;
  while (count < desc->num_levels && !desc->levels[count]->cuda)
    ++count;
  return count;
}

/* The last one that runs here; the first, when none does. */
static const moec_level_desc *find_best(void) {
  const moec_model_desc *desc = &moec_model_description;
  uint32_t i = count_levels() - 1;
  while (i > 0 && !rt_has_features(desc->levels[i]))
    --i;
  return desc->levels[i];
}

/* The one that the environment names; NULL: it names none of them. */
static const moec_level_desc *find_named(const char *name) {
  const moec_model_desc *desc = &moec_model_description;
  for (uint32_t i = 0; i < count_levels(); ++i)
    if (strcmp(desc->levels[i]->name, name) == 0)
      return desc->levels[i];
  return NULL;
}

/* NULL: there is nothing to choose. Where there is one level, the variable is for others. */
static const char *get_wanted(void) {
  const char *name = getenv(RT_LEVEL_VARIABLE);
  return count_levels() > 1 && name && *name ? name : NULL;
}

static moec_status fail_unknown(const char *name) {
  const moec_model_desc *desc = &moec_model_description;
  char levels[256] = "";
  size_t length = 0;
  for (uint32_t i = 0; i < count_levels() && length < sizeof(levels); ++i)
    length += (size_t)snprintf(levels + length, sizeof(levels) - length, "%s%s", i ? ", " : "",
                               desc->levels[i]->name);
  return rt_fail(MOEC_ERROR_ARGUMENT,
                 RT_LEVEL_VARIABLE " is '%s', but the library '%s' has code for %s", name,
                 desc->name, levels);
}

moec_status rt_choose_level(const moec_level_desc **level) {
  const char *wanted = get_wanted();
  *level = wanted ? find_named(wanted) : find_best();
  if (!*level)
    return fail_unknown(wanted);
  char which[128] = "";
  if (count_levels() > 1)
    snprintf(which, sizeof(which), " (level '%s'%s)", (*level)->name,
             wanted ? ", which " RT_LEVEL_VARIABLE " asks for" : "");
  return rt_check_features(*level, which);
}

const char *rt_info(void) {
  if (count_levels() == 0)
    return rt_first_level(/*on_device=*/true)->info_json;
  const char *wanted = get_wanted();
  const moec_level_desc *level = wanted ? find_named(wanted) : NULL;
  return (level ? level : find_best())->info_json;
}
