// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/base/test_seam.h"

#ifdef DISMD_TEST_SEAMS

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"

namespace libmount {

void TestSeam(std::string_view name, absl::FunctionRef<bool()> give_up) {
  const char* dir = getenv("DISMD_TEST_SEAM_DIR");
  if (dir == nullptr) return;
  std::string stop = absl::StrCat(dir, "/", std::string(name), ".stop");
  if (access(stop.c_str(), F_OK) != 0) return;
  std::string reached = absl::StrCat(dir, "/", std::string(name), ".reached");
  int fd = open(reached.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
  if (fd >= 0) close(fd);
  while (access(stop.c_str(), F_OK) == 0 && !give_up()) poll(nullptr, 0, 1);
}

bool TestSwitch(std::string_view name) {
  const char* dir = getenv("DISMD_TEST_SEAM_DIR");
  return dir != nullptr && access(absl::StrCat(dir, "/", std::string(name), ".on").c_str(), F_OK) == 0;
}

}  // namespace libmount

#endif  // DISMD_TEST_SEAMS
