/* SPDX-License-Identifier: Apache-2.0
 *
 * For programs that write the name so: on Windows case makes no difference.
 */

#include "windows.h"
