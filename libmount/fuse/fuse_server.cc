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

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "libmount/base/log.h"
#include "libmount/base/small_thread.h"
#include "libmount/fuse/inflight_table.h"
#include "libmount/fuse/init_negotiation.h"
#include "libmount/fuse/invalidator.h"
#include "libmount/fuse/notifying_thread.h"
#include "libmount/fuse/operations.h"
#include "libmount/fuse/request_source.h"
#include "libmount/fuse/store_ahead.h"
#include "libmount/fuse/wire.h"

namespace libmount {
namespace {

// Linux 6.9; not yet in Debian 12's header.
constexpr int kNotifyResend = 7;
// A request that was found in the table this often is what its servers die of: it gets EIO, the mount lives on.
constexpr int kMostAttempts = 8;
// One thread receives, one stores ahead; with fewer than two the latter could wait for itself.
constexpr int kFewestThreads = 2;
constexpr int kMostThreads = kInflightSlots;

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
  Impl(FileTree* tree, WritableTree* writable, FuseServerOptions options)
      : options_(std::move(options)), negotiation_(writable != nullptr) {
    context_.tree = tree;
    context_.writable = writable;
    context_.source = &source_;
    context_.read_ahead = options_.read_ahead;
  }

  ~Impl() {
    source_.Stop();
    for (SmallThread& thread : threads_) thread.Join();
    notifying_.reset();
    if (session_ != nullptr) fuse_session_destroy(session_);  // closes the descriptor
  }

  absl::Status Start(UniqueFd fd, Recovery recovery, std::function<void()> on_initialized,
                     std::function<void(absl::Status)> on_end) {
    on_initialized_ = std::move(on_initialized);
    on_end_ = std::move(on_end);
    absl::StatusOr<std::unique_ptr<InflightTable>> inflight = InflightTable::Open(recovery.inflight);
    if (!inflight.ok()) return inflight.status();
    inflight_ = *std::move(inflight);
    absl::Status status = source_.Open(fd.get());
    if (status.ok()) status = CreateSession(std::move(fd));
    if (status.ok() && recovery.init.has_value()) status = NegotiateAgain(*recovery.init);
    if (status.ok()) {
      notifying_.emplace();
      status = notifying_->Start(fd_);
    }
    if (status.ok() && context_.writable != nullptr) {
      invalidator_.emplace(
          Invalidator::Notify{[this](NodeId directory, const std::string& name) {
                                fuse_lowlevel_notify_inval_entry(session_, directory, name.c_str(), name.size());
                              },
                              [this](NodeId node) { fuse_lowlevel_notify_inval_inode(session_, node, -1, 0); },
                              [this](NodeId node) { fuse_lowlevel_notify_inval_inode(session_, node, 0, 0); }},
          &*notifying_, inflight_.get());
      context_.invalidator = &*invalidator_;
    }
    if (!status.ok()) return status;
    if (options_.store_ahead && context_.writable == nullptr) {
      store_ahead_.emplace(context_.tree,
                           [this](absl::Span<const StoreAhead::File> files) { return StoreFiles(files); });
    }
    return StartThreads();
  }

  void Stop() { source_.Stop(); }

  std::optional<InitExchange> init_exchange() const { return negotiation_.exchange(); }

  Stats GetStats() const {
    Stats stats;
    stats.requests = context_.requests.load(std::memory_order_relaxed);
    stats.reads = context_.reads.load(std::memory_order_relaxed);
    stats.bytes_read = context_.bytes_read.load(std::memory_order_relaxed);
    stats.directory_reads = context_.directory_reads.load(std::memory_order_relaxed);
    stats.lookups = context_.lookups.load(std::memory_order_relaxed);
    stats.writes = context_.writes.load(std::memory_order_relaxed);
    stats.bytes_written = context_.bytes_written.load(std::memory_order_relaxed);
    stats.replayed = replayed_.load(std::memory_order_relaxed);
    stats.resent = resent_.load(std::memory_order_relaxed);
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
    const fuse_lowlevel_ops& operations = context_.writable != nullptr ? ReadWriteOperations() : ReadOnlyOperations();
    session_ = fuse_session_new(&args, &operations, sizeof(fuse_lowlevel_ops), static_cast<ServingContext*>(&context_));
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

  // Lets libfuse negotiate with the request that the kernel sent to the dead process.
  absl::Status NegotiateAgain(const InitExchange& saved) {
    if (absl::Status checked = InitNegotiation::Check(saved); !checked.ok()) return checked;
    std::string request = saved.request;
    negotiation_.OnRequest(request.data(), request.size());
    request.append(kRequestSlack, '\0');
    recovering_ = true;
    fuse_buf buffer = {};
    buffer.mem = request.data();
    buffer.size = saved.request.size();
    fuse_session_process_buf(session_, &buffer);
    AllowDirectOpens(saved.reply);
    return negotiation_.CheckAgreesWith(saved);
  }

  // Where the kernel keeps such files right, and a successor knows which they are.
  void AllowDirectOpens(const std::string& reply) {
    if (context_.writable == nullptr || !inflight_->shared() || !InitNegotiation::AllowsDirectMapping(reply)) return;
    direct_opens_.emplace(inflight_->direct_opens());
    context_.direct_opens = &*direct_opens_;
  }

  absl::Status StartThreads() {
    int count = ThreadCount(options_.threads);
    threads_.reserve(count);
    running_ = count;
    for (int i = 0; i < count; ++i) {
      threads_.emplace_back();
      absl::Status started = threads_.back().Start("fuse", [this, i] { ServeOnThisThread(i); });
      if (started.ok()) continue;
      // on_end is for a server that was started: let the threads that run leave silently.
      on_end_ = nullptr;
      recovered_.Notify();
      source_.Stop();
      running_ -= count - i;
      return started;
    }
    return absl::OkStatus();
  }

  void ServeOnThisThread(int index) {
    ServingThread self(inflight_->slot(index), kFuseMaxRead,
                       RequestSource::Turn([this] { OnBusy(); }, [this](bool all) { OnIdle(all); }));
    ServingThread::Current() = &self;
    if (index == 0) {
      Recover(self);
      recovered_.Notify();
    } else {
      recovered_.WaitForNotification();
    }
    if (self.reply.valid()) {
      while (size_t size = source_.Receive(&self.turn, self.slot.buffer())) {
        Serve(self, size);
        self.slot.Free();
      }
    } else {
      Log(Severity::kError, "no memory for a serving thread's buffers");
      source_.Stop();
    }
    ServingThread::Current() = nullptr;
    Leave();
  }

  // --- Recovery: what a dead process had read and not answered, before anything new is read.

  void Recover(ServingThread& self) {
    if (invalidator_.has_value()) invalidator_->TellWhatWasLeft();  // before there are any of our own
    for (int i = 0; i < kInflightSlots; ++i) {
      InflightTable::Slot slot = inflight_->slot(i);
      if (!slot.busy()) continue;
      self.slot = slot;
      self.request = slot.request();
      Replay(self, slot);
      slot.Free();
      replayed_.fetch_add(1, std::memory_order_relaxed);
    }
    self.slot = inflight_->slot(0);
    self.request = self.slot.request();
    // After the replay, so that the kernel does not send those again.
    if (recovering_ && options_.resend) AskToResend();
    if (store_ahead_.has_value()) context_.store_ahead = &*store_ahead_;  // not before: it waits for other threads
    if (recovering_ && on_initialized_) on_initialized_();
  }

  void Replay(ServingThread& self, InflightTable::Slot slot) {
    if (slot.request_size() > slot.buffer().size()) {
      Log(Severity::kError, "the in-flight table is damaged: a request of a dead process is lost");
      return;
    }
    const fuse_in_header& header = HeaderOf(self.request);
    // The mount is negotiated: this was answered.
    if (recovering_ && header.opcode == FUSE_INIT) return;
    if (absl::Span<const char> reply = slot.noted_reply(); !reply.empty()) {
      // The work was done. ENOENT: the reply was written too.
      if (write(fd_, reply.data(), reply.size()) < 0) return;
    } else if (slot.CountAttempt() > kMostAttempts) {
      Log(Severity::kError, absl::StrCat("gave up a request (operation ", header.opcode, " on node ", header.nodeid,
                                         ") that ", kMostAttempts, " processes died with"));
      Refuse(header, EIO);
    } else {
      Serve(self, slot.request_size());
    }
  }

  void AskToResend() {
    fuse_out_header notification = {sizeof(notification), kNotifyResend, 0};
    if (write(fd_, &notification, sizeof(notification)) < 0) {
      Log(Severity::kDebug, "this kernel does not send requests again");
    }
  }

  // --- Serving

  void Serve(ServingThread& self, size_t size) {
    char* request = self.request;
    context_.requests.fetch_add(1, std::memory_order_relaxed);
    if (idle_.load(std::memory_order_relaxed) && idle_.exchange(false) && options_.on_busy) options_.on_busy();
    if (!IsWellFormed(request, size)) {
      if (size >= sizeof(fuse_in_header)) Refuse(HeaderOf(request), EIO);
      return;
    }
    const fuse_in_header& header = HeaderOf(request);
    // Nothing of this process may wait for this process.
    if (IsOwnThread(static_cast<pid_t>(header.pid)) && header.opcode != FUSE_INIT) return Refuse(header, EIO);
    if ((header.unique & kResentMark) != 0) resent_.fetch_add(1, std::memory_order_relaxed);
    switch (header.opcode) {
      case FUSE_INIT: negotiation_.OnRequest(request, size); break;
      // Nothing waits so long that ending it early would pay. The kernel stops sending these after the first answer.
      case FUSE_INTERRUPT: return Refuse(header, ENOSYS);
      default: break;
    }
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

  // Every reply and notification of libfuse goes through here.
  ssize_t Write(int fd, iovec* parts, int count) {
    if (!initialized_.load(std::memory_order_relaxed)) return WriteBeforeInit(fd, parts, count);
    if (inflight_->shared()) NoteReply(parts, count);
    ssize_t written;
    do {
      written = writev(fd, parts, count);
    } while (written < 0 && errno == EINTR);
    return written;
  }

  void NoteReply(const iovec* parts, int count) {
    ServingThread* self = ServingThread::Current();
    if (self == nullptr) return;
    const auto* header = static_cast<const fuse_out_header*>(parts[0].iov_base);
    // Not a notification.
    if (header->unique == HeaderOf(self->slot.request()).unique) self->slot.NoteReply(parts, count);
  }

  ssize_t WriteBeforeInit(int fd, const iovec* parts, int count) {
    std::string reply;
    for (int i = 0; i < count; ++i) reply.append(static_cast<const char*>(parts[i].iov_base), parts[i].iov_len);
    const bool is_init = negotiation_.CompleteReply(&reply);
    if (is_init && !recovering_) AllowDirectOpens(reply);
    ssize_t written = static_cast<ssize_t>(reply.size());
    if (!recovering_) written = write(fd, reply.data(), reply.size());
    if (!is_init || written < 0) return written;
    negotiation_.OnReplied(std::move(reply));
    initialized_.store(true, std::memory_order_relaxed);
    if (!recovering_ && on_initialized_) on_initialized_();
    return written;
  }

  size_t StoreFiles(absl::Span<const StoreAhead::File> files) {
    size_t stored = 0;
    notifying_->Run([&] {
      while (stored < files.size() && StoreFile(files[stored].node, files[stored].content) == 0) ++stored;
    });
    return stored;
  }

  int StoreFile(NodeId node, absl::Span<const char> content) {
    fuse_bufvec data = FUSE_BUFVEC_INIT(content.size());
    data.buf[0].mem = const_cast<char*>(content.data());
    return -fuse_lowlevel_notify_store(session_, node, 0, &data, static_cast<fuse_buf_copy_flags>(0));
  }

  // On each serving thread, before it first receives, and again after OnIdle.
  void OnBusy() {
    if (context_.writable != nullptr) ServingThread::Current()->slot.Populate();
  }

  // On each serving thread, once after it had nothing to do for a while; `all`: nobody has.
  void OnIdle(bool all) {
    ServingThread::Current()->slot.Trim();
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
  InitNegotiation negotiation_;
  std::unique_ptr<InflightTable> inflight_;
  std::optional<DirectOpens> direct_opens_;
  std::optional<StoreAhead> store_ahead_;
  std::optional<Invalidator> invalidator_;
  std::optional<NotifyingThread> notifying_;  // ends before what it uses
  fuse_session* session_ = nullptr;
  int fd_ = -1;  // the session's

  std::function<void()> on_initialized_;
  std::function<void(absl::Status)> on_end_;
  std::vector<SmallThread> threads_;
  std::atomic<int> running_{0};
  std::atomic<bool> initialized_{false};
  std::atomic<bool> idle_{true};
  std::atomic<uint64_t> replayed_{0};
  std::atomic<uint64_t> resent_{0};
  bool recovering_ = false;  // set before threads start
  absl::Notification recovered_;
};

FuseServer::FuseServer(FileTree* tree, FuseServerOptions options)
    : impl_(std::make_unique<Impl>(tree, nullptr, std::move(options))) {}
FuseServer::FuseServer(WritableTree* tree, FuseServerOptions options)
    : impl_(std::make_unique<Impl>(tree, tree, std::move(options))) {}
FuseServer::~FuseServer() = default;

absl::Status FuseServer::Start(UniqueFd fuse_fd, Recovery recovery, std::function<void()> on_initialized,
                               std::function<void(absl::Status)> on_end) {
  return impl_->Start(std::move(fuse_fd), std::move(recovery), std::move(on_initialized), std::move(on_end));
}

absl::Status FuseServer::Start(UniqueFd fuse_fd, std::function<void()> on_initialized,
                               std::function<void(absl::Status)> on_end) {
  return impl_->Start(std::move(fuse_fd), {}, std::move(on_initialized), std::move(on_end));
}

void FuseServer::Stop() { impl_->Stop(); }

std::optional<FuseServer::InitExchange> FuseServer::init_exchange() const { return impl_->init_exchange(); }

FuseServer::Stats FuseServer::GetStats() const { return impl_->GetStats(); }

}  // namespace libmount
