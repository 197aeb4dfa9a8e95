// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a commit and a rebuild have in common: CommitProgress counts and reports, CommitTables writes what lies behind
// all resources (blob table, XML data, integrity table) and makes the header that names it.
//
// Thread safety: CommitProgress may be told of bytes by one thread at a time; CommitTables: none; one owner.

#ifndef LIBMOUNT_WIM_COMMIT_TABLES_H_
#define LIBMOUNT_WIM_COMMIT_TABLES_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "libmount/base/monitor.h"
#include "libmount/wim/blob_table_writer.h"
#include "libmount/wim/commit_source.h"
#include "libmount/wim/file_appender.h"
#include "libmount/wim/wim_header.h"
#include "libmount/wim/xml_writer.h"

namespace libmount {

class CommitProgress {
 public:
  // Reports the phase's begin. `monitor` must outlive it.
  CommitProgress(Phase phase, OperationMonitor& monitor) : phase_(phase), monitor_(monitor) { Report(); }

  // There are `bytes` more to come.
  void Expect(uint64_t bytes) { total_ += bytes; }
  // That many are done. kCancelled.
  absl::Status Add(uint64_t bytes);
  // A place to be killed at, in tests (none if `seam` is empty); and a look whether to go on: kCancelled.
  absl::Status Step(std::string_view seam) const;
  // Everything is done, however much had been expected.
  void Finish();

 private:
  void Report() { monitor_.Report({phase_, done_, total_}); }

  const Phase phase_;
  OperationMonitor& monitor_;
  uint64_t done_ = 0;
  uint64_t total_ = 0;
};

class CommitTables {
 public:
  // Everything must outlive it. `name` is the file's, for errors; `fd` is what `out` writes to.
  CommitTables(const CommitSource& old, int fd, const std::string& name, FileAppender& out, CommitProgress& progress)
      : old_(old), fd_(fd), name_(name), out_(out), progress_(progress) {}

  // In this order; each hands what it wrote to the kernel. kOutOfResources, kBadImageFormat, kCancelled.
  absl::Status WriteBlobTable(const BlobTableWriter& table);
  // `change.file_bytes` is filled in.
  absl::Status WriteXml(XmlChange change);
  // With the chunk size of the former table. Chunks that lie before `kept_end` keep the hash that they have there.
  absl::Status WriteIntegrityTable(uint64_t kept_end, int threads);

  // The former header, with the places of the tables.
  std::string Header(uint32_t image_count) const;

 private:
  absl::Status Write(const std::string& bytes, uint8_t flags, ResourceHeader* place);

  const CommitSource& old_;
  const int fd_;
  const std::string& name_;
  FileAppender& out_;
  CommitProgress& progress_;
  ResourceHeader blob_table_;
  ResourceHeader xml_;
  ResourceHeader integrity_;
};

// Replaces a field of a header by its offset there.
void PutHeaderNumber(std::string& header, size_t at, uint32_t number);
void PutHeaderResource(std::string& header, size_t at, const ResourceHeader& resource);

}  // namespace libmount

#endif  // LIBMOUNT_WIM_COMMIT_TABLES_H_
