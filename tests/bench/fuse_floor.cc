// SPDX-License-Identifier: GPL-3.0-or-later
//
// What FUSE itself costs on this machine: an empty file system that keeps names and sizes in memory, and no bytes.
//
//   fuse_floor DIR
//
// Mounts on DIR, serves until it is unmounted. One thread that polls for requests, no permission checks, everything
// cached for good, new files written past the page cache: no file system in user space can be faster at making,
// writing and removing files than this.

#define FUSE_USE_VERSION 314

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {

constexpr size_t kMaxWrite = 1 << 20;
constexpr double kForever = 1e9;  // seconds
constexpr int kReadsBeforeBlocking = 1000;

struct Node {
  mode_t mode;
  off_t size = 0;
  std::map<std::string, fuse_ino_t> entries = {};
};

// By number; 0 stands for none, FUSE_ROOT_ID (1) is the root.
std::deque<Node> nodes = {{0}, {S_IFDIR | 0755}};

struct stat StatOf(fuse_ino_t number) {
  struct stat st = {};
  st.st_ino = number;
  st.st_mode = nodes[number].mode;
  st.st_size = nodes[number].size;
  st.st_nlink = 1;
  return st;
}

fuse_entry_param EntryOf(fuse_ino_t number) {
  fuse_entry_param entry = {};
  entry.ino = number;
  entry.attr = StatOf(number);
  entry.attr_timeout = entry.entry_timeout = kForever;
  return entry;
}

fuse_entry_param Make(fuse_ino_t parent, const char* name, mode_t mode) {
  nodes.push_back({mode});
  nodes[parent].entries[name] = nodes.size() - 1;
  return EntryOf(nodes.size() - 1);
}

void Init(void*, fuse_conn_info* connection) {
  connection->want = connection->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS);
  connection->max_write = kMaxWrite;
}

void Lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  auto found = nodes[parent].entries.find(name);
  if (found == nodes[parent].entries.end()) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  fuse_entry_param entry = EntryOf(found->second);
  fuse_reply_entry(request, &entry);
}

void GetAttr(fuse_req_t request, fuse_ino_t node, fuse_file_info*) {
  struct stat st = StatOf(node);
  fuse_reply_attr(request, &st, kForever);
}

void SetAttr(fuse_req_t request, fuse_ino_t node, struct stat*, int, fuse_file_info* file) {
  GetAttr(request, node, file);
}

void MakeDirectory(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode) {
  fuse_entry_param entry = Make(parent, name, S_IFDIR | mode);
  fuse_reply_entry(request, &entry);
}

void Create(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* file) {
  fuse_entry_param entry = Make(parent, name, mode);
  file->direct_io = 1;
  fuse_reply_create(request, &entry, file);
}

void Open(fuse_req_t request, fuse_ino_t, fuse_file_info* file) { fuse_reply_open(request, file); }
void Done(fuse_req_t request, fuse_ino_t, fuse_file_info*) { fuse_reply_err(request, 0); }
void NotNeeded(fuse_req_t request, fuse_ino_t, fuse_file_info*) { fuse_reply_err(request, ENOSYS); }
void NoXattr(fuse_req_t request, fuse_ino_t, const char*, size_t) { fuse_reply_err(request, ENODATA); }

void Write(fuse_req_t request, fuse_ino_t node, const char*, size_t size, off_t offset, fuse_file_info*) {
  nodes[node].size = std::max(nodes[node].size, offset + static_cast<off_t>(size));
  fuse_reply_write(request, size);
}

void Remove(fuse_req_t request, fuse_ino_t parent, const char* name) {
  fuse_reply_err(request, nodes[parent].entries.erase(name) != 0 ? 0 : ENOENT);
}

// Cookies: the place in the directory. Who removes what it has read reads on from a place that has moved, and once
// more from the start when that fails (as rm does).
void ReadDirPlus(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset, fuse_file_info*) {
  std::vector<char> reply(size);
  size_t used = 0;
  off_t place = 0;
  for (const auto& [name, number] : nodes[node].entries) {
    if (place++ < offset) continue;
    fuse_entry_param entry = EntryOf(number);
    size_t needed = fuse_add_direntry_plus(request, reply.data() + used, size - used, name.c_str(), &entry, place);
    if (needed > size - used) break;
    used += needed;
  }
  fuse_reply_buf(request, reply.data(), used);
}

fuse_lowlevel_ops Operations() {
  fuse_lowlevel_ops operations = {};
  operations.init = Init;
  operations.lookup = Lookup;
  operations.getattr = GetAttr;
  operations.setattr = SetAttr;
  operations.mkdir = MakeDirectory;
  operations.create = Create;
  operations.open = Open;
  operations.opendir = Open;
  operations.release = Done;
  operations.releasedir = Done;
  operations.flush = NotNeeded;
  operations.getxattr = NoXattr;
  operations.write = Write;
  operations.unlink = Remove;
  operations.rmdir = Remove;
  operations.readdirplus = ReadDirPlus;
  return operations;
}

void Serve(fuse_session* session) {
  const int fd = fuse_session_fd(session);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  constexpr size_t kBufferBytes = kMaxWrite + 2 * 4096;
  std::unique_ptr<char, decltype(&free)> buffer(static_cast<char*>(aligned_alloc(4096, kBufferBytes)), &free);
  while (!fuse_session_exited(session)) {
    ssize_t size;
    int reads = 0;
    while ((size = read(fd, buffer.get(), kBufferBytes)) < 0 &&
           (errno == EAGAIN || errno == EINTR || errno == ENOENT)) {
      if (++reads < kReadsBeforeBlocking) continue;
      pollfd entry = {fd, POLLIN, 0};
      poll(&entry, 1, -1);
      reads = 0;
    }
    if (size <= 0) return;  // ENODEV: unmounted
    fuse_buf request = {};
    request.mem = buffer.get();
    request.size = static_cast<size_t>(size);
    fuse_session_process_buf(session, &request);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: fuse_floor DIR\n");
    return 2;
  }
  char name[] = "fuse_floor";
  char* arguments[] = {name, nullptr};
  fuse_args args = FUSE_ARGS_INIT(1, arguments);
  const fuse_lowlevel_ops operations = Operations();
  fuse_session* session = fuse_session_new(&args, &operations, sizeof(operations), nullptr);
  if (session == nullptr || fuse_session_mount(session, argv[1]) != 0) return 1;
  Serve(session);
  fuse_session_destroy(session);
  return 0;
}
