// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/fuse/fuse_server.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "libmount/base/log.h"
#include "libmount/base/small_thread.h"
#include "libmount/fuse/operations.h"
#include "libmount/fuse/request_source.h"
#include "libmount/fuse/store_ahead.h"
#include "libmount/fuse/wire.h"

namespace libmount {
namespace {

constexpr size_t kPageBytes = 4096;
// The kernel wants room for the largest WRITE in every buffer, also where nothing is ever written.
constexpr size_t kRequestBufferBytes = kFuseMaxRead + kPageBytes;
// One thread receives, one stores ahead; with fewer than two the latter could wait for itself.
constexpr int kFewestThreads = 2;
constexpr int kMostThreads = 16;

int CpuCount() {
  cpu_set_t cpus;
  return sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
}

int ThreadCount(int asked) {
  if (asked <= 0) asked = std::clamp(CpuCount() + 2, 4, 8);
  return std::clamp(asked, kFewestThreads, kMostThreads);
}

// libfuse's own messages, one line each.
void LogFuseMessage(fuse_log_level level, const char* format, va_list arguments) {
  char line[512];
  vsnprintf(line, sizeof(line), format, arguments);
  std::string_view text(line);
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  Severity severity = level <= FUSE_LOG_ERR       ? Severity::kError
                      : level == FUSE_LOG_WARNING ? Severity::kWarning
                                                  : Severity::kDebug;
  Log(severity, text);
}

// Whether `thread` is one of this process. The answer for a caller that was just seen is remembered: requests come in
// runs.
bool IsOwnThread(pid_t thread) {
  thread_local pid_t last_foreign = 0;
  if (thread == 0 || thread == last_foreign) return false;
  if (syscall(SYS_tgkill, getpid(), thread, 0) == 0) return true;
  last_foreign = thread;
  return false;
}

}  // namespace

class FuseServer::Impl {
 public:
  Impl(FileTree* tree, FuseServerOptions options) : options_(std::move(options)) {
    context_.tree = tree;
    context_.source = &source_;
    context_.read_ahead = options_.read_ahead;
  }

  ~Impl() {
    source_.Stop();
    for (SmallThread& thread : threads_) thread.Join();
    if (session_ != nullptr) fuse_session_destroy(session_);  // closes the descriptor
  }

  absl::Status Start(UniqueFd fd, std::function<void()> on_initialized, std::function<void(absl::Status)> on_end) {
    on_initialized_ = std::move(on_initialized);
    on_end_ = std::move(on_end);
    if (absl::Status opened = source_.Open(fd.get()); !opened.ok()) return opened;
    if (absl::Status created = CreateSession(std::move(fd)); !created.ok()) return created;
    if (options_.store_ahead) {
      store_ahead_.emplace(context_.tree,
                           [this](NodeId node, absl::Span<const char> content) { return StoreFile(node, content); });
      context_.store_ahead = &*store_ahead_;
    }
    return StartThreads();
  }

  void Stop() { source_.Stop(); }

  std::optional<InitExchange> init_exchange() const {
    absl::MutexLock lock(&mutex_);
    if (init_.reply.empty()) return std::nullopt;
    return init_;
  }

  Stats GetStats() const {
    Stats stats;
    stats.requests = context_.requests.load(std::memory_order_relaxed);
    stats.reads = context_.reads.load(std::memory_order_relaxed);
    stats.bytes_read = context_.bytes_read.load(std::memory_order_relaxed);
    stats.directory_reads = context_.directory_reads.load(std::memory_order_relaxed);
    stats.lookups = context_.lookups.load(std::memory_order_relaxed);
    stats.stored_ahead = store_ahead_.has_value() ? store_ahead_->stored() : 0;
    return stats;
  }

 private:
  // ServingContext is the session's user data, and libfuse hands it to the io hooks: this is the way back from there.
  struct Context : ServingContext {
    explicit Context(Impl* owner) : owner(owner) {}
    Impl* const owner;
  };

  absl::Status CreateSession(UniqueFd fd) {
    fuse_set_log_func(LogFuseMessage);
    // libfuse insists that the limit set in init() was given as an option, as it was to the mount.
    std::string max_read = absl::StrCat("-omax_read=", kFuseMaxRead);
    char name[] = "dismd";
    char* arguments[] = {name, max_read.data(), nullptr};
    fuse_args args = FUSE_ARGS_INIT(2, arguments);
    session_ = fuse_session_new(&args, &ReadOnlyOperations(), sizeof(fuse_lowlevel_ops),
                                static_cast<ServingContext*>(&context_));
    fuse_opt_free_args(&args);
    if (session_ == nullptr) return absl::InternalError("fuse_session_new failed");
    fuse_custom_io io = {};
    io.read = [](int fd, void* buffer, size_t size, void*) { return read(fd, buffer, size); };
    io.writev = [](int fd, iovec* parts, int count, void* user_data) {
      return static_cast<Context*>(static_cast<ServingContext*>(user_data))->owner->Write(fd, parts, count);
    };
    if (int error = fuse_session_custom_io(session_, &io, fd.get()); error != 0) {
      return absl::ErrnoToStatus(-error, "fuse_session_custom_io");
    }
    fd_ = fd.release();  // the session closes it
    return absl::OkStatus();
  }

  absl::Status StartThreads() {
    int count = ThreadCount(options_.threads);
    threads_.reserve(count);
    running_ = count;
    for (int i = 0; i < count; ++i) {
      threads_.emplace_back();
      absl::Status started = threads_.back().Start("fuse", [this] { ServeOnThisThread(); });
      if (started.ok()) continue;
      // on_end is for a server that was started: let the threads that run leave silently.
      on_end_ = nullptr;
      source_.Stop();
      running_ -= count - i;
      return started;
    }
    return absl::OkStatus();
  }

  void ServeOnThisThread() {
    ServingThread self(kRequestBufferBytes, kFuseMaxRead, RequestSource::Turn([this](bool all) { OnIdle(all); }));
    ServingThread::Current() = &self;
    if (self.request.valid() && self.reply.valid()) {
      absl::Span<char> buffer = self.request.first(self.request.size() - kRequestSlack);
      while (size_t size = source_.Receive(&self.turn, buffer)) Serve(self, size);
    } else {
      Log(Severity::kError, "no memory for a serving thread's buffers");
      source_.Stop();
    }
    ServingThread::Current() = nullptr;
    Leave();
  }

  void Serve(ServingThread& self, size_t size) {
    char* request = self.request.data();
    context_.requests.fetch_add(1, std::memory_order_relaxed);
    if (idle_.load(std::memory_order_relaxed) && idle_.exchange(false) && options_.on_busy) options_.on_busy();
    if (!IsWellFormed(request, size)) {
      if (size >= sizeof(fuse_in_header)) Refuse(HeaderOf(request), EIO);
      return;
    }
    const fuse_in_header& header = HeaderOf(request);
    // Nothing of this process may wait for this process.
    if (IsOwnThread(static_cast<pid_t>(header.pid)) && header.opcode != FUSE_INIT) return Refuse(header, EIO);
    if (header.opcode == FUSE_INIT) SaveInitRequest(request, size);
    TerminateStrings(request, size);
    fuse_buf buffer = {};
    buffer.mem = request;
    buffer.size = size;
    fuse_session_process_buf(session_, &buffer);
    if (fuse_session_exited(session_)) source_.Stop();
  }

  void Refuse(const fuse_in_header& header, int error) {
    if (!WantsReply(header)) return;
    fuse_out_header reply = {sizeof(reply), -error, header.unique};
    // A failure means that the request or the mount is gone.
    if (write(fd_, &reply, sizeof(reply)) < 0) return;
  }

  void SaveInitRequest(const char* request, size_t size) {
    absl::MutexLock lock(&mutex_);
    if (init_.request.empty()) init_.request.assign(request, size);
  }

  // Every reply and notification goes through here.
  ssize_t Write(int fd, iovec* parts, int count) {
    if (!initialized_.load(std::memory_order_relaxed)) return WriteBeforeInit(fd, parts, count);
    ssize_t written;
    do {
      written = writev(fd, parts, count);
    } while (written < 0 && errno == EINTR);
    return written;
  }

  ssize_t WriteBeforeInit(int fd, const iovec* parts, int count) {
    std::string reply;
    for (int i = 0; i < count; ++i) reply.append(static_cast<const char*>(parts[i].iov_base), parts[i].iov_len);
    bool is_init = CompleteInitReply(&reply);
    ssize_t written = write(fd, reply.data(), reply.size());
    if (!is_init || written < 0) return written;
    {
      absl::MutexLock lock(&mutex_);
      init_.reply = std::move(reply);
    }
    initialized_.store(true, std::memory_order_relaxed);
    if (on_initialized_) on_initialized_();
    return written;
  }

  // Whether this is the reply to INIT. libfuse 3.14 forgets to answer FUSE_PARALLEL_DIROPS, which is added here:
  // without it the kernel lets only one look-up or reading at a time into a directory.
  bool CompleteInitReply(std::string* reply) {
    absl::MutexLock lock(&mutex_);
    if (init_.request.empty() || reply->size() < sizeof(fuse_out_header) + FUSE_COMPAT_22_INIT_OUT_SIZE) return false;
    fuse_out_header header;
    memcpy(&header, reply->data(), sizeof(header));
    if (header.error != 0 || header.unique != HeaderOf(init_.request.data()).unique) return false;
    fuse_init_in asked;
    memcpy(&asked, init_.request.data() + sizeof(fuse_in_header), offsetof(fuse_init_in, flags2));
    char* flags_at = reply->data() + sizeof(header) + offsetof(fuse_init_out, flags);
    uint32_t flags;
    memcpy(&flags, flags_at, sizeof(flags));
    flags |= asked.flags & FUSE_PARALLEL_DIROPS;
    memcpy(flags_at, &flags, sizeof(flags));
    return true;
  }

  int StoreFile(NodeId node, absl::Span<const char> content) {
    fuse_bufvec data = FUSE_BUFVEC_INIT(content.size());
    data.buf[0].mem = const_cast<char*>(content.data());
    return -fuse_lowlevel_notify_store(session_, node, 0, &data, static_cast<fuse_buf_copy_flags>(0));
  }

  // On each serving thread, once after it had nothing to do for a while; `all`: nobody has.
  void OnIdle(bool all) {
    ServingThread::Current()->request.Discard();
    ServingThread::Current()->reply.Discard();
    if (!all) return;
    if (store_ahead_.has_value()) store_ahead_->Trim();
    if (options_.on_idle) options_.on_idle();
    idle_.store(true, std::memory_order_relaxed);
  }

  void Leave() {
    if (running_.fetch_sub(1) == 1 && on_end_) on_end_(source_.end_status());
  }

  const FuseServerOptions options_;
  Context context_{this};
  RequestSource source_;
  std::optional<StoreAhead> store_ahead_;
  fuse_session* session_ = nullptr;
  int fd_ = -1;  // the session's

  std::function<void()> on_initialized_;
  std::function<void(absl::Status)> on_end_;
  std::vector<SmallThread> threads_;
  std::atomic<int> running_{0};
  std::atomic<bool> initialized_{false};
  std::atomic<bool> idle_{true};

  mutable absl::Mutex mutex_;
  InitExchange init_ ABSL_GUARDED_BY(mutex_);
};

FuseServer::FuseServer(FileTree* tree, FuseServerOptions options)
    : impl_(std::make_unique<Impl>(tree, std::move(options))) {}
FuseServer::~FuseServer() = default;

absl::Status FuseServer::Start(UniqueFd fuse_fd, std::function<void()> on_initialized,
                               std::function<void(absl::Status)> on_end) {
  return impl_->Start(std::move(fuse_fd), std::move(on_initialized), std::move(on_end));
}

void FuseServer::Stop() { impl_->Stop(); }

std::optional<FuseServer::InitExchange> FuseServer::init_exchange() const { return impl_->init_exchange(); }

FuseServer::Stats FuseServer::GetStats() const { return impl_->GetStats(); }

}  // namespace libmount
