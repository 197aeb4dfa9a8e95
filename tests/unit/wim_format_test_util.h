// SPDX-License-Identifier: GPL-3.0-or-later
//
// Opens WIMs for tests, makes them with wimlib, and compares a tree with what wimlib says of the same image.

#ifndef TESTS_UNIT_WIM_FORMAT_TEST_UTIL_H_
#define TESTS_UNIT_WIM_FORMAT_TEST_UTIL_H_

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "libmount/wim/wim_file.h"

namespace libmount {

// A directory that is removed with all that is in it.
class TempDirectory {
 public:
  TempDirectory();
  ~TempDirectory();
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string Path(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

void WriteFile(const std::string& path, std::string_view content);
std::string ReadFile(const std::string& path);

// Remembers what a tree reports.
class RecordingObserver final : public TreeObserver {
 public:
  void OnDamage(std::string_view path, std::string_view what) override;
  void OnImageChanged(std::string_view what) override;
  std::vector<std::string> damaged();
  int changes();

 private:
  std::mutex mutex_;
  std::vector<std::string> damaged_;
  int changes_ = 0;
};

// Opens a WIM by path; further parts are taken from the same directory.
absl::StatusOr<std::unique_ptr<WimFile>> OpenWimFile(const std::string& path);

// Opens an image of it.
absl::StatusOr<std::unique_ptr<WimTree>> OpenWimTree(const std::string& path, uint32_t index = 1,
                                                     const WimTreeOptions& options = {});

struct WimMaking {
  int compression = 1;  // enum wimlib_compression_type
  uint32_t chunk_size = 0;
  int add_flags = 0;    // WIMLIB_ADD_FLAG_*
  int write_flags = 0;  // WIMLIB_WRITE_FLAG_*
};

// Captures a directory (or an NTFS volume) as image 1 of a new WIM.
void MakeWim(const std::string& source, const std::string& wim, const WimMaking& making = {});

// "a/b/c" as a walk from the root; 0 where it is not found.
NodeId FindPath(const FileTree& tree, std::string_view path);

// All of a file's data; the test fails where it cannot be read.
std::string ReadAll(const FileTree& tree, NodeId node);

// Compares every entry of the image with wimlib's: names, attributes, times, security, links, streams and their
// content's SHA-1, reparse data, object ids, UNIX data. Failures are reported through GoogleTest.
// `contents`: compare the data of files too. Returns the number of entries compared.
size_t CompareWithWimlib(const std::string& path, uint32_t index, bool contents = true);

}  // namespace libmount

#endif  // TESTS_UNIT_WIM_FORMAT_TEST_UTIL_H_
