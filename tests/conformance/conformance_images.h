// SPDX-License-Identifier: GPL-3.0-or-later
//
// What the contract's tests stand on: images made with wimlib's programs, a private service, a caller without
// privileges, and a look at what is left afterwards.

#ifndef TESTS_CONFORMANCE_CONFORMANCE_IMAGES_H_
#define TESTS_CONFORMANCE_CONFORMANCE_IMAGES_H_

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "DismAPI.h"
#include "tests/integration/service.h"

namespace dismd::testing {

// The caller of the tests; nobody here has these ids.
constexpr uid_t kCaller = 51234;
constexpr gid_t kCallersGroup = 51234;

// Makes in `directory`, readable by all, small.wim (XPRESS, one image "Small") and two.wim (LZX, "First" and "Second").
// Returns "" or what went wrong.
std::string MakeImages(const std::string& directory);

// Runs a program and waits; true if it ended with 0. Its output goes to this test's.
bool RunProgram(const std::vector<std::string>& arguments);

// The same with all of the caller's ids: what looks into a mount must be the caller wholly, effective ids are not
// enough.
bool RunAsCaller(std::vector<std::string> arguments);

std::wstring Wide(const std::string& text);
std::string Hex(HRESULT hr);
// The calling thread's last error text.
std::string LastError();

// A service with images, an empty mount point of the caller's, and the library initialised.
class ContractTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  std::string Image(const std::string& name) const { return images_ / name; }
  const std::string& mount_point() const { return mount_point_; }
  // A new directory of the caller's.
  std::string MakeDirectory(const std::string& name);

  // As the caller.
  HRESULT Mount(const std::string& image, const std::string& directory, UINT index = 1,
                DWORD flags = DISM_MOUNT_READONLY);
  HRESULT Unmount(const std::string& directory, DWORD flags = DISM_DISCARD_IMAGE);

  // Nothing is mounted, no worker lives, the mount point is an empty directory, and the service lists nothing.
  void ExpectNothingLeft();

  PrivateService service_;

 private:
  TempDir images_;
  std::string mount_point_;
  bool initialised_ = false;
};

}  // namespace dismd::testing

#endif  // TESTS_CONFORMANCE_CONFORMANCE_IMAGES_H_
