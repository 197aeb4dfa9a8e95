// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/wim/sha1.h"

#include <openssl/evp.h>

namespace libmount {
namespace {

// Fetched once: EVP_sha1() is looked up anew at each use, which costs more than hashing a small file. Never freed.
const EVP_MD* FetchedSha1() {
  static const EVP_MD* const md = [] {
    EVP_MD* fetched = EVP_MD_fetch(nullptr, "SHA1", nullptr);
    return fetched != nullptr ? fetched : EVP_sha1();
  }();
  return md;
}

}  // namespace

void Sha1::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Sha1::Sha1() : context_(EVP_MD_CTX_new()) { EVP_DigestInit_ex(context_.get(), FetchedSha1(), nullptr); }

void Sha1::Update(absl::Span<const char> data) { EVP_DigestUpdate(context_.get(), data.data(), data.size()); }

Sha1Digest Sha1::Finish() {
  Sha1Digest digest = {};
  EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr);
  return digest;
}

Sha1Digest Sha1::Of(absl::Span<const char> data) {
  Sha1 hash;
  hash.Update(data);
  return hash.Finish();
}

}  // namespace libmount
