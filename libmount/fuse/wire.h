// SPDX-License-Identifier: GPL-3.0-or-later
//
// What is checked of a raw request before libfuse parses it, and the one reply that is made without it.
//
// libfuse trusts the kernel: it follows lengths and string ends without looking at how much was received. Here they are
// compared with what was received, so that whatever plays the kernel cannot make the server read past a request.
//
// Thread safety: pure functions.

#ifndef LIBMOUNT_FUSE_WIRE_H_
#define LIBMOUNT_FUSE_WIRE_H_

#include <linux/fuse.h>

#include <cstddef>
#include <cstdint>

namespace libmount {

// Bytes behind a received request that must belong to the buffer: TerminateStrings writes there.
inline constexpr size_t kRequestSlack = 8;

// Whether the request of `size` bytes is as long as its header says and has the fixed part that its operation needs.
bool IsWellFormed(const char* request, size_t size);

// Terminates the strings that a request may end with.
// REQUIRES: kRequestSlack bytes behind `size` are writable.
void TerminateStrings(char* request, size_t size);

// The header of a request. REQUIRES: IsWellFormed.
inline const fuse_in_header& HeaderOf(const char* request) { return *reinterpret_cast<const fuse_in_header*>(request); }

// The kernel marks the number of a request that it sends again, after a process died with it.
inline constexpr uint64_t kResentMark = uint64_t{1} << 63;

// The number under which a request was sent first.
inline uint64_t OriginalUnique(const fuse_in_header& header) { return header.unique & ~kResentMark; }

// Whether this operation can be answered. (INTERRUPT can, with ENOSYS; an answer is not waited for.)
bool WantsReply(const fuse_in_header& header);

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_WIRE_H_
