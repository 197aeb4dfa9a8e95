// SPDX-License-Identifier: GPL-3.0-or-later
//
// Sha1: a running SHA-1, by libcrypto. Not thread-safe.

#ifndef LIBMOUNT_WIM_SHA1_H_
#define LIBMOUNT_WIM_SHA1_H_

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>

#include "absl/types/span.h"

struct evp_md_ctx_st;

namespace libmount {

using Sha1Digest = std::array<uint8_t, 20>;

// Whether there is none: how a WIM says so. Asked for each entry of a tree, several times; comparing arrays is a call
// of memcmp, which took a twentieth of a mount.
inline bool IsZero(const Sha1Digest& digest) {
  uint64_t first, second;
  uint32_t third;
  memcpy(&first, digest.data(), sizeof first);
  memcpy(&second, digest.data() + 8, sizeof second);
  memcpy(&third, digest.data() + 16, sizeof third);
  return (first | second | third) == 0;
}

class Sha1 {
 public:
  Sha1();
  void Update(absl::Span<const char> data);
  // The digest of all data so far. Ends the use of this object.
  Sha1Digest Finish();

  static Sha1Digest Of(absl::Span<const char> data);

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_SHA1_H_
