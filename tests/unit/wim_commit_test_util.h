// SPDX-License-Identifier: GPL-3.0-or-later
//
// EditedImage: an ImageContents in memory, for commits in tests. And what compares and checks committed files.

#ifndef TESTS_UNIT_WIM_COMMIT_TEST_UTIL_H_
#define TESTS_UNIT_WIM_COMMIT_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "libmount/tree/image_contents.h"
#include "libmount/wim/wim_commit.h"
#include "libmount/wim/wim_file.h"
#include "tests/unit/wim_format_test_util.h"

namespace libmount {

class EditedImage final : public ImageContents {
 public:
  // Starts as `base` is, which is copied.
  explicit EditedImage(const BaseImage& base);

  File GetFile(NodeId node) const override { return nodes_.at(node).file; }
  void VisitEntries(NodeId directory, EntryVisitor visitor) const override;
  absl::Status ReadStaged(NodeId file, size_t stream, uint64_t offset, absl::Span<char> out) const override;
  uint64_t staged_bytes() const override;

  // Paths are "a/b/c". Each must exist, but for the last part of what is made.
  NodeId Find(std::string_view path) const;
  NodeId AddFile(std::string_view path, std::string data);
  NodeId AddDirectory(std::string_view path);
  void Link(std::string_view path, std::string_view new_path);
  void Remove(std::string_view path);  // with all that is in it
  void Rename(std::string_view path, std::string_view new_path);
  void SetData(std::string_view path, std::string data);
  void SetStream(std::string_view path, std::string_view stream, std::string data);
  void SetReparse(std::string_view path, uint32_t tag, std::string data);
  void SetShortName(std::string_view path, std::string_view short_name);
  FileRecord& Record(std::string_view path) { return nodes_.at(Find(path)).file.record; }

  // Puts in the hashes that a commit returned, so that Describe tells what must be in the file.
  void Apply(const std::vector<StoredFile>& stored);

 private:
  struct Node {
    File file;
    std::vector<std::string> data;  // of staged streams
  };
  struct Name {
    std::string name;
    std::string short_name;
    NodeId node;
  };

  NodeId NewNode(uint32_t attributes);
  std::vector<Name>& DirectoryOf(std::string_view path);
  Name& NameOf(std::string_view path);

  std::map<NodeId, Node> nodes_;
  std::map<NodeId, std::vector<Name>> directories_;
  NodeId last_ = 0;
};

// Everything of each entry, by its path; hard links name the first path.
std::map<std::string, std::string> Describe(const ImageContents& contents);
std::map<std::string, std::string> Describe(const std::string& wim, uint32_t index);

// wimlib verifies every blob, 7-Zip tests the archive, the integrity table is right, wimlib sees in each image what the
// tree shows, and the blob table's counts are those of the images. Failures are reported through GoogleTest.
void CheckWim(const std::string& path);

// The XML data in UTF-8 without what every commit changes: times of modification, and the size of the file.
std::string StableXml(const std::string& path);

// The metadata resource of an image.
std::string MetadataOf(const std::string& path, uint32_t index);
// But for the numbers of the few hard-link groups in tests' images, which mean nothing.
void ExpectSameMetadata(const std::string& a, const std::string& b);

absl::StatusOr<WimCommitResult> CommitTo(const std::string& path, uint32_t index, const ImageContents& contents,
                                         const WimCommitOptions& options = {}, OperationMonitor* monitor = nullptr);

// Three images of one directory, the second with some more.
void MakeThreeImages(const TempDirectory& directory, const std::string& wim, const WimMaking& making);
EditedImage ImageOf(const std::string& wim, uint32_t index);
// Some of everything that can be changed. `unix_data`: whether the image has it.
void Edit(EditedImage& image, bool unix_data = false);

// Cancels when it was asked that often.
class Canceller final : public OperationMonitor {
 public:
  explicit Canceller(int asks) : left_(asks) {}
  void Report(const ProgressUpdate& update) override {
    EXPECT_GE(update.bytes_done, done_);
    if (update.bytes_total > 0) {
      EXPECT_LE(update.bytes_done, update.bytes_total);
    }
    done_ = update.bytes_done;
  }
  bool cancelled() const override { return --left_ < 0; }
  int left() const { return left_; }

 private:
  mutable std::atomic<int> left_;
  uint64_t done_ = 0;
};

// Data that compresses to about a third, another one for each seed; or not at all.
std::string Words(size_t size, uint32_t seed);
std::string Noise(size_t size, uint32_t seed);

}  // namespace libmount

#endif  // TESTS_UNIT_WIM_COMMIT_TEST_UTIL_H_
