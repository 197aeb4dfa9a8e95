// SPDX-License-Identifier: GPL-3.0-or-later
//
// What tests of staging share: directories, opened trees, and their content.

#ifndef TESTS_UNIT_STAGING_TEST_UTIL_H_
#define TESTS_UNIT_STAGING_TEST_UTIL_H_

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "libmount/staging/staged_tree.h"
#include "libmount/staging/staging_files.h"
#include "tests/unit/staging_test_base.h"

namespace libmount {

// A directory that is removed with all that is in it.
class StagingDirectory {
 public:
  StagingDirectory() {
    path_ = (std::filesystem::temp_directory_path() / "dismd-staging-XXXXXX").string();
    if (mkdtemp(path_.data()) == nullptr) abort();
  }
  // A copy of what another has just now, as a kill would leave it.
  explicit StagingDirectory(const StagingDirectory& from, int) : StagingDirectory() {
    using std::filesystem::copy_options;
    std::filesystem::copy(from.path_, path_, copy_options::recursive | copy_options::overwrite_existing);
  }
  StagingDirectory(const StagingDirectory&) = delete;
  StagingDirectory& operator=(const StagingDirectory&) = delete;
  ~StagingDirectory() { std::filesystem::remove_all(path_); }

  const std::string& path() const { return path_; }
  UniqueFd Open() const { return UniqueFd(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)); }

 private:
  std::string path_;
};

inline absl::StatusOr<std::unique_ptr<StagedTree>> TryOpenStaged(const StagingDirectory& directory,
                                                                 const TestImage& image,
                                                                 const StagedTreeOptions& options) {
  return StagedTree::Open(directory.Open(), &image, &image, &image, options);
}

inline std::unique_ptr<StagedTree> OpenStaged(const StagingDirectory& directory, const TestImage& image,
                                              const StagedTreeOptions& options = {}) {
  absl::StatusOr<std::unique_ptr<StagedTree>> tree = TryOpenStaged(directory, image, options);
  EXPECT_TRUE(tree.ok()) << tree.status();
  return tree.ok() ? *std::move(tree) : nullptr;
}

inline absl::Span<const char> Bytes(std::string_view text) { return {text.data(), text.size()}; }

inline std::string Content(const FileTree& tree, NodeId file) {
  ErrnoOr<NodeAttributes> attributes = tree.GetAttributes(file);
  if (!attributes.ok()) return "no such file";
  // More than there is, to see that it ends where it says.
  std::string content(attributes->size + 10, '?');
  ErrnoOr<size_t> got = tree.Read(file, 0, absl::MakeSpan(content));
  if (!got.ok()) return "error " + std::to_string(got.error());
  content.resize(*got);
  return content;
}

inline std::vector<std::string> List(const FileTree& tree, NodeId directory) {
  std::vector<std::string> names;
  EXPECT_EQ(tree.ReadDirectory(directory, 0,
                               [&](const DirectoryEntry& entry) {
                                 names.emplace_back(entry.name);
                                 return true;
                               }),
            0);
  return names;
}

}  // namespace libmount

#endif  // TESTS_UNIT_STAGING_TEST_UTIL_H_
