// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/commit_tables.h"

#include <algorithm>
#include <cstring>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"
#include "libmount/base/test_seam.h"
#include "libmount/wim/integrity_writer.h"

namespace libmount {

absl::Status CommitProgress::Add(uint64_t bytes) {
  done_ += bytes;
  total_ = std::max(total_, done_);
  Report();
  return CheckCancelled(monitor_);
}

absl::Status CommitProgress::Step(std::string_view seam) const {
  if (!seam.empty()) TestSeam(seam, [this] { return monitor_.cancelled(); });
  return CheckCancelled(monitor_);
}

void CommitProgress::Finish() {
  done_ = total_;
  Report();
}

absl::Status CommitTables::Write(const std::string& bytes, uint8_t flags, ResourceHeader* place) {
  *place = {bytes.size(), out_.offset(), bytes.size(), flags};
  if (absl::Status status = out_.Append(bytes); !status.ok()) return status;
  return out_.Flush();
}

absl::Status CommitTables::WriteBlobTable(const BlobTableWriter& table) {
  if (table.table().size() > kMaxBlobTableSize) {
    return MakeError(Reason::kOutOfResources, absl::StrFormat("%s would hold too many blobs", name_));
  }
  return Write(table.table(), kResourceMetadata, &blob_table_);
}

absl::Status CommitTables::WriteXml(XmlChange change) {
  change.file_bytes = out_.offset();
  absl::StatusOr<std::string> xml = ChangeWimXml(old_.xml, change, name_);
  if (!xml.ok()) return xml.status();
  return Write(*xml, kResourceMetadata, &xml_);
}

absl::Status CommitTables::WriteIntegrityTable(uint64_t kept_end, int threads) {
  IntegrityWriting writing;
  writing.old_table = old_.integrity;
  writing.old_end = kept_end;
  writing.end = blob_table_.offset + blob_table_.size_in_file;
  writing.threads = threads;
  progress_.Expect(IntegrityWork(writing));
  absl::StatusOr<std::string> table =
      MakeIntegrityTable(fd_, name_, writing, [this](uint64_t bytes) { return progress_.Add(bytes); });
  if (!table.ok()) return table.status();
  return Write(*table, 0, &integrity_);
}

std::string CommitTables::Header(uint32_t image_count) const {
  std::string header = old_.header_bytes;
  PutHeaderNumber(header, kHeaderImageCountAt, image_count);
  PutHeaderResource(header, kHeaderBlobTableAt, blob_table_);
  PutHeaderResource(header, kHeaderXmlAt, xml_);
  PutHeaderResource(header, kHeaderIntegrityTableAt, integrity_);
  return header;
}

void PutHeaderNumber(std::string& header, size_t at, uint32_t number) {
  memcpy(header.data() + at, &number, sizeof number);
}

void PutHeaderResource(std::string& header, size_t at, const ResourceHeader& resource) {
  header.replace(at, kResourceHeaderSize, EncodeResourceHeader(resource));
}

}  // namespace libmount
