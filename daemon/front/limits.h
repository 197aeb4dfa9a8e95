// SPDX-License-Identifier: GPL-3.0-or-later
//
// The fixed limits of the service. Each has an error that names it (GetServerInfo tells them).

#ifndef DAEMON_FRONT_LIMITS_H_
#define DAEMON_FRONT_LIMITS_H_

#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"

namespace dismd {

// Mounts, made or being made. 200 idle ones are the measured case; the process limits allow for these.
inline constexpr size_t kMaxMounts = 1024;
inline constexpr size_t kMaxMountsPerUid = 256;

// Operations that run or wait for their turn.
inline constexpr size_t kMaxOperations = 2048;
inline constexpr size_t kMaxOperationsPerUid = 128;

// Mounts being made at one time; further ones wait, the users in turn. A user whose files do not answer holds up his
// own share only.
inline constexpr size_t kMaxConcurrentMounts = 64;
inline constexpr size_t kMaxConcurrentMountsPerUid = 8;
inline constexpr size_t kMaxConcurrentUnmounts = 64;
inline constexpr size_t kMaxConcurrentUnmountsPerUid = 8;

// Commits, and unmounts with one. Each compresses on all CPUs.
inline constexpr size_t kMaxConcurrentCommits = 32;
inline constexpr size_t kMaxConcurrentCommitsPerUid = 8;

// GetImageInfo: each takes a short-lived worker.
inline constexpr size_t kMaxConcurrentInfos = 32;
inline constexpr size_t kMaxConcurrentInfosPerUid = 4;

// Calls that are answered at once, unless they must resolve a path.
inline constexpr size_t kMaxConcurrentCalls = 32;
inline constexpr size_t kMaxConcurrentCallsPerUid = 4;

// Enforced by the broker, which accepts; told here.
inline constexpr uint32_t kMaxConnectionsPerUid = 128;

// WatchMounts and WatchOperation streams.
inline constexpr size_t kMaxWatchesPerUid = 32;
// Events that wait for a watcher that does not read; one more ends it.
inline constexpr size_t kMaxWaitingEvents = 1024;

// What a client may send: the longest request has a handful of paths. Answers may be larger (GetImageInfo).
inline constexpr int kMaxRequestBytes = 64 << 10;
// What gRPC may hold of a user's connections, of requests that never end for example; beyond it gRPC ends calls of his.
inline constexpr size_t kMaxReceivedBytesPerUid = size_t{32} << 20;
inline constexpr int kMaxMetadataBytes = 16 << 10;
inline constexpr int kMaxStreamsPerConnection = 128;

// The message of a failed call. It travels twice in HTTP/2 trailers, of which gRPC's clients take 8 KiB: once with up
// to three bytes for one, and once in base64. A path alone can be longer.
inline constexpr size_t kMaxCallMessageBytes = 1024;

inline constexpr size_t kMaxPathBytes = 4095;
inline constexpr size_t kMaxImageNameBytes = 4096;

// How long ended operations can be asked for, and how many of a user's.
inline constexpr absl::Duration kOperationRetention = absl::Minutes(10);
inline constexpr size_t kMaxEndedOperationsPerUid = 256;

// Snapshots of an operation are published at most this often.
inline constexpr absl::Duration kSnapshotInterval = absl::Milliseconds(100);

// A worker that neither answers nor reports progress for so long is given up: it may hang in a file system, or in an
// image made to hang it.
inline constexpr absl::Duration kWorkerSilence = absl::Seconds(120);
// A commit syncs what it has written, which a slow disk may take long for without a sign.
inline constexpr absl::Duration kCommitSilence = absl::Minutes(30);
// For workers to say that they take notice of another's commit, all together; who does not is left to his own
// judgement.
inline constexpr absl::Duration kNoticeDeadline = absl::Seconds(5);
// For the replacement of a worker that died to be there and to tell what became of a commit.
inline constexpr absl::Duration kReplacementDeadline = absl::Seconds(60);
// How long it is remembered which files were changed as a whole: longer than a mount takes from its paths to its claim.
inline constexpr absl::Duration kChangedFileRetention = absl::Hours(1);
inline constexpr absl::Duration kServingDeadline = absl::Seconds(30);
inline constexpr absl::Duration kImageInfoDeadline = absl::Seconds(120);
inline constexpr absl::Duration kStatsDeadline = absl::Seconds(1);

// Damaged files that a mount names; the others are counted.
inline constexpr int kMaxDamagedFiles = 16;
// What is kept of a text that a worker sent.
inline constexpr size_t kMaxWorkerTextBytes = 4096;

// Decoded chunks, in all workers together.
inline constexpr uint64_t kCacheBudget = uint64_t{512} << 20;
inline constexpr uint64_t kIdleCacheBytes = uint64_t{1} << 20;
inline constexpr absl::Duration kBudgetInterval = absl::Seconds(2);
// A worker that had no request for so long is idle.
inline constexpr absl::Duration kIdleAfter = absl::Seconds(10);

// A client that is stopped, or a machine that is gone, is noticed after the sum of the two.
inline constexpr absl::Duration kKeepaliveTime = absl::Seconds(30);
inline constexpr absl::Duration kKeepaliveTimeout = absl::Seconds(20);
// More frequent pings of a client end its connection.
inline constexpr absl::Duration kLeastClientPingInterval = absl::Seconds(10);

}  // namespace dismd

#endif  // DAEMON_FRONT_LIMITS_H_
