// SPDX-License-Identifier: GPL-3.0-or-later
//
// Test seams: named places where a test can stop the service, look, and let it go on.
//
// Only in builds with DISMD_TEST_SEAMS; elsewhere TestSeam is empty. The test sets DISMD_TEST_SEAM_DIR (writable for
// every uid that a process of the service may have) before it starts dismd, and creates DIR/NAME.stop. Whoever comes
// past the seam NAME then creates DIR/NAME.reached and waits until DIR/NAME.stop is gone, or until `give_up` says so.
// A switch NAME is on while there is DIR/NAME.on.

#ifndef LIBMOUNT_BASE_TEST_SEAM_H_
#define LIBMOUNT_BASE_TEST_SEAM_H_

#include <string_view>

#include "absl/functional/function_ref.h"

namespace libmount {

#ifdef DISMD_TEST_SEAMS
void TestSeam(std::string_view name, absl::FunctionRef<bool()> give_up);
bool TestSwitch(std::string_view name);
#else
inline void TestSeam(std::string_view, absl::FunctionRef<bool()>) {}
inline bool TestSwitch(std::string_view) { return false; }
#endif

inline void TestSeam(std::string_view name) {
  TestSeam(name, [] { return false; });
}

}  // namespace libmount

#endif  // LIBMOUNT_BASE_TEST_SEAM_H_
