# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""One field at a time of a protobuf message or of a JSON value, changed in every way
that its type suggests."""

import copy
import dataclasses
from typing import Callable

from google.protobuf.descriptor import FieldDescriptor as Field

INTEGERS = [0, 1, -1, 2, 7, 16, 99, 1 << 31, 1 << 62, -(1 << 63)]
FLOATS = [0.0, -1.0, 1.5, float("nan"), float("inf"), 1e30]
STRINGS = ["", "x", "../up", "/etc/passwd", "a\nb", "ünï", "%s%n", "n" * 300]


@dataclasses.dataclass(frozen=True)
class Mutation:
    """`apply(message)` makes the change that `name` describes."""

    name: str
    apply: Callable


def _fits(field, value):
    if field.cpp_type in (Field.CPPTYPE_INT32, Field.CPPTYPE_ENUM):
        return -(1 << 31) <= value < 1 << 31
    if field.cpp_type == Field.CPPTYPE_UINT64:
        return value >= 0
    return True


def _scalars(field, old, names):
    """Other values of a scalar field."""
    if field.cpp_type in (Field.CPPTYPE_FLOAT, Field.CPPTYPE_DOUBLE):
        values = [*FLOATS, -old]
    elif field.type == Field.TYPE_BYTES:
        values = [b"", old[:-1], old + b"\0", old[: len(old) // 2], old + old[:64], b"\xff" * len(old)]
    elif field.cpp_type == Field.CPPTYPE_STRING:
        values = [*STRINGS, old + "_", old[:-1], *names]
    elif field.cpp_type == Field.CPPTYPE_ENUM:
        values = [value.number for value in field.enum_type.values]
    else:
        values = [*INTEGERS, old + 1, old - 1, 2 * old]
    return [value for value in values if value != old and _fits(field, value)]


def _text(value):
    text = repr(value)
    return text if len(text) < 40 else f"{text[:30]}… ({len(value)})"


def _is_repeated(field):
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == Field.LABEL_REPEATED


def _at(path):
    """A function from the root message to the message at `path`: (field name, index)…"""

    def get(message):
        for name, index in path:
            message = getattr(message, name)
            message = message if index is None else message[index]
        return message

    return get


def _set_scalar(get, name, value):
    return lambda root: setattr(get(root), name, value)


def _set_element(get, name, index, value):
    return lambda root: getattr(get(root), name).__setitem__(index, value)


def _set_list(get, name, change):
    def apply(root):
        message = get(root)
        values = [copy.deepcopy(value) for value in getattr(message, name)]
        message.ClearField(name)
        getattr(message, name).extend(change(values))

    return apply


LISTS = {
    "empty": lambda values: [],
    "drop first": lambda values: values[1:],
    "drop last": lambda values: values[:-1],
    "repeat last": lambda values: values + values[-1:],
    "reverse": lambda values: values[::-1],
}


def protobuf(message, names=(), path=(), label=""):
    """Mutations of all fields of a message and of those inside it: each scalar, string,
    enum and list, set ones and unset ones. `names` are what strings may become."""
    get = _at(path)
    for field in message.DESCRIPTOR.fields:
        here = f"{label}.{field.name}" if label else field.name
        value = getattr(message, field.name)
        is_message = field.cpp_type == Field.CPPTYPE_MESSAGE
        if _is_repeated(field):
            for change, function in LISTS.items():
                if function(list(value)) != list(value):
                    yield Mutation(f"{here}: {change}", _set_list(get, field.name, function))
            for index, element in enumerate(value):
                if is_message:
                    yield from protobuf(element, names, (*path, (field.name, index)), f"{here}[{index}]")
                    continue
                for other in _scalars(field, element, names):
                    apply = _set_element(get, field.name, index, other)
                    yield Mutation(f"{here}[{index}] = {_text(other)}", apply)
            continue
        is_set = message.HasField(field.name) if field.has_presence else bool(value)
        if is_set:
            yield Mutation(f"{here}: unset", lambda root, name=field.name: get(root).ClearField(name))
        if is_message:
            if is_set:
                yield from protobuf(value, names, (*path, (field.name, None)), here)
            continue
        for other in _scalars(field, value, names):
            yield Mutation(f"{here} = {_text(other)}", _set_scalar(get, field.name, other))


# --- JSON -----------------------------------------------------------------------------


def _json_scalars(old):
    if isinstance(old, bool):
        return [not old, None, 0]
    if isinstance(old, (int, float)):
        return [*INTEGERS, old + 1, old - 1, 1.5, 1e300, str(old), None]
    if isinstance(old, str):
        return [*STRINGS, old + "_", old[:-1], 1, None, [old]]
    return [0, "x", {}]


def _json_set(path, value):
    def apply(root):
        for key in path[:-1]:
            root = root[key]
        root[path[-1]] = copy.deepcopy(value)

    return apply


def _json_drop(path):
    def apply(root):
        for key in path[:-1]:
            root = root[key]
        del root[path[-1]]

    return apply


def json_value(value, path=()):
    """Mutations of a JSON object or list: each value replaced, each key and element
    dropped or doubled."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        here = (*path, key)
        label = "/".join(str(part) for part in here)
        yield Mutation(f"{label}: dropped", _json_drop(here))
        if isinstance(inner, (dict, list)):
            for other in ({}, [], [inner], None, 1):
                yield Mutation(f"{label} = {_text(other)}", _json_set(here, other))
            yield from json_value(inner, here)
            continue
        for other in _json_scalars(inner):
            if other != inner or type(other) is not type(inner):
                yield Mutation(f"{label} = {_text(other)}", _json_set(here, other))
