// SPDX-License-Identifier: GPL-3.0-or-later
//
// BlobVerifier: reads blobs, and checks each against its SHA-1 once all of it has been decoded.
//
//   whole in one read          hashed before the data is handed out
//   in order, piece by piece   hashed along the way (kMaxStreams blobs at once), without a lock; what overtakes, or
//                              comes while an earlier piece is hashed, is held for a moment
//   in any other order         a bit for each unit of the blob tells when nothing is missing; then it is read and
//                              hashed once more, in the background
//
// From a mismatch or a decoding error on, every read of that blob fails. A disk's error and a changed image fail the
// read alone.
//
// Thread safety: all methods may be called from any number of threads at once.

#ifndef LIBMOUNT_WIM_BLOB_VERIFIER_H_
#define LIBMOUNT_WIM_BLOB_VERIFIER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "libmount/wim/resource.h"
#include "libmount/wim/resource_reader.h"
#include "libmount/wim/sha1.h"

namespace libmount {

struct BlobFacts {
  BlobLocation location;
  Sha1Digest sha1 = {};  // all zeros: not known, and not checked
};

class BlobVerifier {
 public:
  // Of a blob, by its index in the blob table. Called from any thread.
  using FactsOf = std::function<BlobFacts(uint32_t blob)>;
  // Called once for each blob found damaged, from any thread, without locks held. `what`: one sentence.
  using OnDamage = std::function<void(uint32_t blob, std::string_view what)>;

  // `reader` must outlive the verifier. Blobs are 0 ... blob_count - 1.
  BlobVerifier(ResourceReader* reader, uint32_t blob_count, FactsOf facts_of, OnDamage on_damage);
  // Waits for the background check at work, which stops soon.
  ~BlobVerifier();
  BlobVerifier(const BlobVerifier&) = delete;
  BlobVerifier& operator=(const BlobVerifier&) = delete;

  // Fills `out` with the blob's bytes from `offset`.
  // REQUIRES: the range lies within the blob. kBadImageFormat: the blob is damaged; kImageChanged; others: disk.
  absl::Status Read(uint32_t blob, uint64_t offset, absl::Span<char> out);

  // For who decodes ahead: `owner` keeps `out` alive. `on_decoded` is called once `out` is filled (not on failure),
  // before it is hashed.
  using OnDecoded = std::function<void()>;
  absl::Status ReadAhead(uint32_t blob, uint64_t offset, absl::Span<char> out, std::shared_ptr<const void> owner,
                         const OnDecoded& on_decoded);

  // To be asked before bytes from ReadAhead are handed out: fails where the blob is known to be damaged. `wait`: the
  // reader has all of the blob now; where all was decoded, its hash is waited for.
  absl::Status Verdict(uint32_t blob, bool wait);

  // Gives back what only a reader in the middle of something needs: for a worker that goes idle.
  void Trim();

  struct Stats {
    uint64_t verified_blobs = 0;
    uint64_t damaged_blobs = 0;
    uint64_t read_again = 0;  // bytes decoded once more, only for the check
  };
  Stats GetStats() const;

  // Until nothing waits for the background check. For tests.
  void WaitForBackground();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_BLOB_VERIFIER_H_
