// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/fuse/inflight_table.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "libmount/fuse/fuse_server.h"
#include "libmount/fuse/wire.h"

namespace libmount {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kDataBytes =
    kFuseMaxRead + kPage;  // the last page: slack, and requests that are longer than a WRITE's
constexpr size_t kSlotBytes = kPage + kDataBytes;
constexpr size_t kNoticesAt = kPage + kInflightSlots * kSlotBytes;
constexpr size_t kNoticeBytes = 1024;  // a name of 255 UTF-16 units has 765 at most
constexpr size_t kNoticesBytes = 256 * kNoticeBytes;
constexpr size_t kTableBytes = kNoticesAt + kNoticesBytes;
// A waiting slot keeps these: most requests fit.
constexpr size_t kKeptDataBytes = kPage;

// The longest reply to a request that changes anything (CREATE) has 160 bytes.
constexpr size_t kNotedReplyBytes = 512;

struct TableHeader {
  uint64_t magic;
  uint32_t layout;  // counts up with each change of what is laid out here
  uint32_t slots;
  uint64_t slot_bytes;
};
constexpr uint64_t kMagic = 0x656c62617446'6d64;
constexpr uint32_t kLayout = 2;
// In the header page, where tables of earlier versions have zeros.
constexpr size_t kDirectOpensAt = 1024;
constexpr size_t kDirectOpens = 128;
static_assert(kDirectOpensAt + kDirectOpens * sizeof(DirectOpens::Entry) <= kPage);

absl::StatusOr<TableHeader> ReadHeader(int fd) {
  // Sealed: nobody can make the mapping end in SIGBUS.
  constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;
  struct stat st;
  TableHeader header;
  if (fstat(fd, &st) != 0 || static_cast<uint64_t>(st.st_size) != kTableBytes ||
      (fcntl(fd, F_GET_SEALS) & kSeals) != kSeals || pread(fd, &header, sizeof(header), 0) != sizeof(header) ||
      header.magic != kMagic || header.layout != kLayout || header.slots != kInflightSlots ||
      header.slot_bytes != kSlotBytes) {
    return absl::FailedPreconditionError("the descriptor is no in-flight table of this version");
  }
  return header;
}

}  // namespace

struct InflightTable::Slot::Control {
  std::atomic<uint64_t> answered;
  uint32_t attempts;
  uint32_t reply_size;
  // Written last: the noted reply is that to the request of this number.
  std::atomic<uint64_t> reply_unique;
  char reply[kNotedReplyBytes];
};

struct InflightTable::NoticeSlot {
  std::atomic<uint32_t> used;  // written last
  uint32_t name_size;
  uint64_t node;
  uint64_t target;
  char name[kNoticeBytes - 24];
};

absl::StatusOr<UniqueFd> InflightTable::Create() {
  UniqueFd fd(memfd_create("dismd-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return absl::ErrnoToStatus(errno, "memfd_create");
  const TableHeader header = {kMagic, kLayout, kInflightSlots, kSlotBytes};
  if (ftruncate(fd.get(), kTableBytes) != 0 || pwrite(fd.get(), &header, sizeof(header), 0) != sizeof(header) ||
      fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return absl::ErrnoToStatus(errno, "making an in-flight table");
  }
  return fd;
}

absl::StatusOr<uint64_t> InflightTable::CountAnswered(int fd) {
  if (absl::StatusOr<TableHeader> header = ReadHeader(fd); !header.ok()) return header.status();
  uint64_t sum = 0;
  for (int i = 0; i < kInflightSlots; ++i) {
    uint64_t answered;
    auto at = static_cast<off_t>(kPage + i * kSlotBytes + offsetof(Slot::Control, answered));
    if (pread(fd, &answered, sizeof(answered), at) != sizeof(answered)) return absl::ErrnoToStatus(errno, "pread");
    sum += answered;
  }
  return sum;
}

absl::StatusOr<std::unique_ptr<InflightTable>> InflightTable::Open(const UniqueFd& fd) {
  const bool shared = fd.valid();
  if (shared) {
    if (absl::StatusOr<TableHeader> header = ReadHeader(fd.get()); !header.ok()) return header.status();
  }
  void* mapped = mmap(nullptr, kTableBytes, PROT_READ | PROT_WRITE,
                      shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, shared ? fd.get() : -1, 0);
  if (mapped == MAP_FAILED) return absl::ErrnoToStatus(errno, "mapping the in-flight table");
  // Huge pages would make each slot resident as a whole at the first small request.
  madvise(mapped, kTableBytes, MADV_NOHUGEPAGE);
  return std::unique_ptr<InflightTable>(new InflightTable(static_cast<char*>(mapped), shared));
}

InflightTable::~InflightTable() { munmap(base_, kTableBytes); }

InflightTable::Slot InflightTable::slot(int index) const {
  static_assert(sizeof(Slot::Control) <= kRequestAt);
  static_assert(sizeof(fuse_in_header) + sizeof(fuse_write_in) == kPageBytes - kRequestAt);
  return Slot(base_ + kPage + index * kSlotBytes, shared_);
}

absl::Span<DirectOpens::Entry> InflightTable::direct_opens() const {
  return absl::MakeSpan(reinterpret_cast<DirectOpens::Entry*>(base_ + kDirectOpensAt), kDirectOpens);
}

InflightTable::NoticeSlot& InflightTable::notice(int index) const {
  static_assert(sizeof(NoticeSlot) == kNoticeBytes && kMostNotices * kNoticeBytes == kNoticesBytes);
  return *reinterpret_cast<NoticeSlot*>(base_ + kNoticesAt + index * kNoticeBytes);
}

int InflightTable::AddNotice(uint64_t node, std::string_view name, uint64_t target) {
  for (int i = 0; i < kMostNotices; ++i) {
    NoticeSlot& free = notice(i);
    if (free.used.load(std::memory_order_relaxed) != 0) continue;
    if (name.size() > sizeof(free.name)) return -1;
    free.node = node;
    free.target = target;
    free.name_size = static_cast<uint32_t>(name.size());
    memcpy(free.name, name.data(), name.size());
    free.used.store(1, std::memory_order_release);
    return i;
  }
  return -1;
}

void InflightTable::RemoveNotice(int index) {
  if (index >= 0) notice(index).used.store(0, std::memory_order_release);
}

std::vector<InflightTable::Notice> InflightTable::notices() const {
  std::vector<Notice> all;
  for (int i = 0; i < kMostNotices; ++i) {
    const NoticeSlot& slot = notice(i);
    if (slot.used.load(std::memory_order_acquire) == 0 || slot.name_size > sizeof(slot.name)) continue;
    all.push_back({i, slot.node, std::string(slot.name, slot.name_size), slot.target});
  }
  return all;
}

absl::Span<char> InflightTable::Slot::buffer() const {
  return absl::MakeSpan(request(), kSlotBytes - kRequestAt - kRequestSlack);
}

bool InflightTable::Slot::busy() const { return request_size() != 0; }

size_t InflightTable::Slot::request_size() const { return HeaderOf(request()).len; }

void InflightTable::Slot::NoteReply(const iovec* parts, int count) {
  size_t size = 0;
  for (int i = 0; i < count; ++i) size += parts[i].iov_len;
  if (size > kNotedReplyBytes) return;
  char* to = control().reply;
  for (int i = 0; i < count; ++i) {
    memcpy(to, parts[i].iov_base, parts[i].iov_len);
    to += parts[i].iov_len;
  }
  control().reply_size = static_cast<uint32_t>(size);
  control().reply_unique.store(HeaderOf(request()).unique, std::memory_order_release);
}

absl::Span<const char> InflightTable::Slot::noted_reply() const {
  const Control& noted = control();
  if (noted.reply_unique.load(std::memory_order_acquire) != HeaderOf(request()).unique ||
      noted.reply_size < sizeof(fuse_out_header) || noted.reply_size > kNotedReplyBytes) {
    return {};
  }
  return absl::MakeConstSpan(noted.reply, noted.reply_size);
}

int InflightTable::Slot::CountAttempt() { return static_cast<int>(++control().attempts); }

void InflightTable::Slot::Free() {
  Control& counted = control();
  counted.attempts = 0;
  counted.answered.store(counted.answered.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  reinterpret_cast<std::atomic<uint32_t>*>(request())->store(0, std::memory_order_release);
}

void InflightTable::Slot::Trim() {
  // Of a shared mapping only MADV_REMOVE gives the pages back.
  char* from = base_ + kPage + kKeptDataBytes;
  madvise(from, kSlotBytes - kPage - kKeptDataBytes, shared_ ? MADV_REMOVE : MADV_DONTNEED);
}

void InflightTable::Slot::Populate() { madvise(base_, kSlotBytes, MADV_POPULATE_WRITE); }

}  // namespace libmount
