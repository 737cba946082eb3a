/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Finds the digest in the header of a safetensors file. The header has been
 * neither written nor checked by us, so nothing in it is trusted.
 */
#include "Internal.h"
#include <string.h>

typedef struct {
  const char *at, *end;
} rt_text;

static void skip_space(rt_text *text) {
  while (text->at < text->end &&
         (*text->at == ' ' || *text->at == '\n' || *text->at == '\r' || *text->at == '\t'))
    ++text->at;
}

static bool skip_char(rt_text *text, char c) {
  skip_space(text);
  if (text->at == text->end || *text->at != c)
    return false;
  ++text->at;
  return true;
}

/* A string as it is written, without its quotes. */
static bool read_string(rt_text *text, const char **begin, size_t *length) {
  if (!skip_char(text, '"'))
    return false;
  *begin = text->at;
  while (text->at < text->end && *text->at != '"')
    text->at += *text->at == '\\' && text->end - text->at > 1 ? 2 : 1;
  if (text->at >= text->end)
    return false;
  *length = (size_t)(text->at - *begin);
  ++text->at;
  return true;
}

/* Steps over a value of any kind. */
static bool skip_value(rt_text *text) {
  size_t depth = 0;
  while (skip_space(text), text->at < text->end) {
    const char *begin;
    size_t length;
    char c = *text->at;
    if (c == '"') {
      if (!read_string(text, &begin, &length))
        return false;
      continue;
    }
    if ((c == ',' || c == '}' || c == ']') && depth == 0)
      return true;
    if (c == '{' || c == '[')
      ++depth;
    if (c == '}' || c == ']')
      --depth;
    ++text->at;
  }
  return false;
}

/* In an object whose '{' has been read: steps to the value of the key. */
static bool find_key(rt_text *text, const char *key) {
  size_t key_length = strlen(key);
  const char *begin;
  size_t length;
  while (read_string(text, &begin, &length)) {
    if (!skip_char(text, ':'))
      return false;
    if (length == key_length && memcmp(begin, key, length) == 0)
      return true;
    if (!skip_value(text) || !skip_char(text, ','))
      return false;
  }
  return false;
}

const char *rt_find_digest(const char *header, size_t size, size_t *length) {
  rt_text text = {header, header + size};
  const char *digest;
  if (!skip_char(&text, '{') || !find_key(&text, "__metadata__") || !skip_char(&text, '{') ||
      !find_key(&text, "moec.digest") || !read_string(&text, &digest, length))
    return NULL;
  return digest;
}
