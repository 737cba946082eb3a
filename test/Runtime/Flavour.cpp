// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// MOEC_TEST_FLAVOUR: the parallel layer that this program is linked with.

#include "Fixture.h"

const Flavour flavour = Flavour::MOEC_TEST_FLAVOUR;
