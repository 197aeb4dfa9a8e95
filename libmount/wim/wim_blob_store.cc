// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/wim_blob_store.h"

#include <fcntl.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "libmount/base/reason.h"
#include "libmount/wim/blob_verifier.h"
#include "libmount/wim/resource_reader.h"
#include "libmount/wim/wim_header.h"

namespace libmount {
namespace {

// What was just committed was just written: the page cache has it, and rereading it is rare.
constexpr size_t kCacheBudget = size_t{4} << 20;

}  // namespace

class WimBlobStore::Added {
 public:
  Added(const WimSource& original, TreeObserver* observer) : original_(original), observer_(observer) {}

  absl::Status Load(OperationMonitor& monitor);
  uint32_t Find(const BlobHash& hash) const { return blobs_.Find(hash); }
  uint64_t size(uint32_t blob) const { return blobs_.blob_size(blob); }
  int Read(uint32_t blob, uint64_t offset, absl::Span<char> out);
  void Trim() {
    reader_->SetCacheBudget(0);
    verifier_->Trim();
    reader_->SetCacheBudget(kCacheBudget);
  }

 private:
  const WimSource& original_;
  TreeObserver* const observer_;
  WimSource source_;
  BlobTable blobs_;
  std::unique_ptr<ResourceReader> reader_;
  std::unique_ptr<BlobVerifier> verifier_;  // last: its background check reads through the rest
};

absl::Status WimBlobStore::Added::Load(OperationMonitor& monitor) {
  UniqueFd fd(fcntl(original_.part_fd(1), F_DUPFD_CLOEXEC, 0));
  if (!fd) return MakeErrnoError(Reason::kOutOfResources, errno, "no descriptor for reading the image anew");
  absl::Status status = source_.AddPart(std::move(fd), original_.part_name(1));
  if (!status.ok()) return status;
  // Whether others change the file is the original's to watch, which is told of commits.
  source_.SuspendWatch();
  absl::StatusOr<WimHeader> header = ReadWimHeader(source_, 1);
  if (!header.ok()) return header.status();
  const std::vector<WimHeader> headers = {*std::move(header)};
  absl::StatusOr<BlobTable> blobs = BlobTable::Load(source_, headers, monitor);
  if (!blobs.ok()) return blobs.status();
  blobs_ = *std::move(blobs);
  ResourceReader::Options options;
  options.cache_budget = kCacheBudget;
  options.decoder_threads = 1;
  reader_ = std::make_unique<ResourceReader>(&source_, &blobs_.resources(), options);
  verifier_ = std::make_unique<BlobVerifier>(
      reader_.get(), blobs_.size(),
      [this](uint32_t blob) {
        return BlobFacts{blobs_.location(blob), blobs_.hash(blob)};
      },
      [this](uint32_t blob, std::string_view what) {
        if (observer_ == nullptr) return;
        const Sha1Digest& hash = blobs_.hash(blob);
        const absl::string_view bytes(reinterpret_cast<const char*>(hash.data()), hash.size());
        observer_->OnDamage(absl::StrCat("blob ", absl::BytesToHexString(bytes)), what);
      });
  return absl::OkStatus();
}

int WimBlobStore::Added::Read(uint32_t blob, uint64_t offset, absl::Span<char> out) {
  if (!blobs_.readable(blob)) return EIO;
  absl::Status status = verifier_->Read(blob, offset, out);
  // A commit leaves the bytes of former ones in place; what others do is found out here as in the tree.
  if (status.ok()) status = original_.CheckUnchanged();
  if (status.ok()) return 0;
  return ReasonOf(status) == Reason::kOutOfResources ? ENOMEM : EIO;
}

WimBlobStore::WimBlobStore(const WimSource* source, const BlobTable* blobs, TreeObserver* observer, ReadOld read_old)
    : source_(source), blobs_(blobs), observer_(observer), read_old_(std::move(read_old)) {}

WimBlobStore::~WimBlobStore() = default;

std::shared_ptr<WimBlobStore::Added> WimBlobStore::added() const {
  absl::MutexLock lock(&mutex_);
  return added_;
}

int WimBlobStore::ReadBlob(const BlobHash& hash, uint64_t offset, absl::Span<char> out) const {
  if (out.empty()) return 0;
  if (hash == BlobHash{}) return EIO;
  const uint32_t old = blobs_->Find(hash);
  if (old != kNoBlob) {
    const uint64_t size = blobs_->blob_size(old);
    if (offset > size || out.size() > size - offset) return EIO;
    return read_old_(old, offset, out);
  }
  const std::shared_ptr<Added> added = this->added();
  const uint32_t blob = added == nullptr ? kNoBlob : added->Find(hash);
  if (blob == kNoBlob) return EIO;
  const uint64_t size = added->size(blob);
  if (offset > size || out.size() > size - offset) return EIO;
  return added->Read(blob, offset, out);
}

bool WimBlobStore::FindAdded(const BlobHash& hash, uint64_t& size) const {
  const std::shared_ptr<Added> added = this->added();
  const uint32_t blob = added == nullptr ? kNoBlob : added->Find(hash);
  if (blob == kNoBlob) return false;
  size = added->size(blob);
  return true;
}

absl::Status WimBlobStore::Reload(OperationMonitor& monitor) {
  auto added = std::make_shared<Added>(*source_, observer_);
  if (absl::Status status = added->Load(monitor); !status.ok()) return status;
  absl::MutexLock lock(&mutex_);
  added_.swap(added);
  return absl::OkStatus();
}

void WimBlobStore::Trim() {
  if (std::shared_ptr<Added> added = this->added()) added->Trim();
}

}  // namespace libmount
