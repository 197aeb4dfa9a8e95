// SPDX-License-Identifier: GPL-3.0-or-later
//
// The same program, as C++.
#include "tests/unit/client_example.c"
