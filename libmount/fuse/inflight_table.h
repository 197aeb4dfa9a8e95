// SPDX-License-Identifier: GPL-3.0-or-later
//
// InflightTable: the memory that requests are received into, which may outlive the process.
//
// On a memfd that somebody else holds too, the table tells a replacement server which requests its predecessor had
// read and not answered. Each serving thread has a slot, and the slot IS the buffer that read(2) fills: the kernel
// itself marks it busy, by writing a length that is not zero into it. A copy made after the read would leave a moment
// in which a kill loses the request.
//
//   header page │ slot 0                                          │ slot 1 ...
//               │ control page              │ data pages    │ slack │
//               │ reply, attempts ... 80 B ─┼─ the request  │       │
//                                           └ what a WRITE writes begins on a page
//
// A slot becomes free (length 0) after the reply was written. Short replies are noted in the slot before they are
// written: when the process dies between the two, or between writing and freeing, the replacement writes the same reply
// again (the kernel refuses it where it has it) instead of doing the work again, perhaps long after it was done first.
//
// The header page has room for what else must outlive the process: which files are open directly (direct_opens.h).
// Behind the slots are notices: what the kernel is still to be told (invalidator.h).
//
// Memory: a slot that waits costs its first pages. The data pages are given back by Trim. They must be there before a
// large request is read (Populate): when a process is killed while the kernel has to bring pages in, the request fails
// with EIO.
//
// Thread safety: each slot, and the notices, belong to one thread at a time.

#ifndef LIBMOUNT_FUSE_INFLIGHT_TABLE_H_
#define LIBMOUNT_FUSE_INFLIGHT_TABLE_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libmount/base/unique_fd.h"
#include "libmount/fuse/direct_opens.h"

namespace libmount {

// Serving threads at most.
inline constexpr int kInflightSlots = 16;

class InflightTable {
 public:
  class Slot {
   public:
    // Where the next request is received. REQUIRES: free.
    char* request() const { return base_ + kRequestAt; }
    absl::Span<char> buffer() const;

    // Whether a request was received here and not answered.
    bool busy() const;
    size_t request_size() const;

    // Notes the reply to the request in this slot before it is written; too long ones are not noted.
    void NoteReply(const iovec* parts, int count);
    // The noted reply to the request in this slot; empty: none.
    absl::Span<const char> noted_reply() const;

    // Counts another attempt at a request that was found here; returns how many there have been.
    int CountAttempt();

    // The request was answered, or needs no answer.
    void Free();

    // Gives the data pages back. REQUIRES: free.
    void Trim();
    // Has them present. Takes a tenth of a millisecond or two.
    void Populate();

   private:
    friend class InflightTable;
    struct Control;
    Slot(char* base, bool shared) : base_(base), shared_(shared) {}
    Control& control() const { return *reinterpret_cast<Control*>(base_); }

    char* base_;
    bool shared_;
  };

  // A descriptor for a new, empty table.
  static absl::StatusOr<UniqueFd> Create();

  // How many requests have been answered from this table, by all processes that used it: whoever replaces dead
  // processes sees from it whether they get anywhere.
  static absl::StatusOr<uint64_t> CountAnswered(int fd);

  // The table of `fd`, or one of this process's own where `fd` is invalid. kFailedPrecondition: it is none, or one of
  // another layout; kOutOfResources.
  static absl::StatusOr<std::unique_ptr<InflightTable>> Open(const UniqueFd& fd);

  ~InflightTable();
  InflightTable(const InflightTable&) = delete;
  InflightTable& operator=(const InflightTable&) = delete;

  bool shared() const { return shared_; }

  // Notices, each of a node, or of a name in it that was `target`'s. -1: there is no room.
  int AddNotice(uint64_t node, std::string_view name, uint64_t target);
  void RemoveNotice(int index);
  // Those that are there.
  struct Notice {
    int index;
    uint64_t node;
    std::string name;
    uint64_t target;
  };
  std::vector<Notice> notices() const;

  Slot slot(int index) const;  // REQUIRES: index < kInflightSlots
  absl::Span<DirectOpens::Entry> direct_opens() const;

 private:
  // Before the data of a WRITE come its two headers of 40 bytes; they end with the control page.
  static constexpr size_t kPageBytes = 4096;
  static constexpr size_t kRequestAt = kPageBytes - 80;

  static constexpr int kMostNotices = 256;
  struct NoticeSlot;
  NoticeSlot& notice(int index) const;

  InflightTable(char* base, bool shared) : base_(base), shared_(shared) {}

  char* const base_;
  const bool shared_;
};

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_INFLIGHT_TABLE_H_
