// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a worker gives up before it looks at the first byte of an image.
//
// A worker parses what anybody may have crafted, under its user's uid. It holds the descriptors that it was given and
// can get no other: the kernel refuses to open, execute, connect, trace, mount or signal for it. What it still
// can do is read the image, answer the kernel, ask the broker for a file beside the image, and compute.
//
// Thread safety: called once, before threads.

#ifndef DAEMON_WORKER_SANDBOX_H_
#define DAEMON_WORKER_SANDBOX_H_

#include "absl/status/status.h"

namespace dismd {

// The descriptors that a worker is started with.
inline constexpr int kControlFd = 3;  // to the front
inline constexpr int kBrokerFd = 4;
inline constexpr int kImageFd = 5;
// The broker's end of that socket, never used here: a broker that takes over copies it out of this process.
inline constexpr int kBrokerEndFd = 6;
inline constexpr int kStagingFd = 7;  // a directory; of a read-write mount

// That these descriptors are what they should be; closes all others but 0, 1 and 2. `with_staging` is set where there
// is a staging directory.
absl::Status CheckDescriptors(bool* with_staging);

// Drops capabilities and every way to gain any, sets limits, and filters system calls. With a staging directory files
// beneath it can be opened, made, renamed and removed, and nothing else. `adoptable`: a broker of the same uid, which
// has no other right to, can take descriptors out of this process.
absl::Status EnterSandbox(bool with_staging = false, bool adoptable = false);

// The parts of EnterSandbox that the kernel enforces: for all threads made from now on too.
absl::Status FilterSystemCalls(bool with_staging = false);
absl::Status ConfineToDirectory(int directory);

}  // namespace dismd

#endif  // DAEMON_WORKER_SANDBOX_H_
