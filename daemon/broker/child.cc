// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/child.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/broker/kernel.h"
#include "libmount/base/log.h"
#include "libmount/base/test_seam.h"

namespace dismd {
namespace {

using libmount::Log;
using libmount::Severity;
using libmount::UniqueFd;

// The child's whole life. Never returns.
[[noreturn]] void ChildMain(const ChildRunner::Job& job, int answer_socket) {
  libmount::TestSeam(absl::StrCat("broker-forked-for-", job.uid));
  // The broker's signals are blocked and read from a signalfd; a child takes them as any process does.
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_IGN);
  setpgid(0, 0);  // with what it starts itself (fusermount3), so that the deadline ends both

  std::vector<int> keep = job.keep;
  keep.push_back(answer_socket);
  keep.push_back(libmount::LogDescriptor());
  CloseAllBut(std::move(keep));

  std::vector<int> fds;
  job.work(job.answer.get(), &fds);
  Channel channel{UniqueFd(answer_socket)};
  absl::Status sent = channel.Send(*job.answer, fds);
  _exit(sent.ok() ? 0 : 1);
}

}  // namespace

void CloseAllBut(std::vector<int> keep) {
  std::sort(keep.begin(), keep.end());
  unsigned first = 3;
  for (int fd : keep) {
    if (fd < 3 || static_cast<unsigned>(fd) < first) continue;
    if (static_cast<unsigned>(fd) > first) close_range(first, static_cast<unsigned>(fd) - 1, 0);
    first = static_cast<unsigned>(fd) + 1;
  }
  close_range(first, UINT_MAX, 0);
}

ChildRunner::~ChildRunner() {
  for (Running& child : running_) {
    loop_->Unwatch(child.pidfd.get());
    if (!child.given_up) loop_->Cancel(child.timer);
    kill(child.pid, SIGKILL);
  }
  for (Waiting& waiting : waiting_) loop_->Cancel(waiting.timer);
}

int ChildRunner::stuck() const {
  return static_cast<int>(
      std::count_if(running_.begin(), running_.end(), [](const Running& child) { return child.given_up; }));
}

bool ChildRunner::HasRoom(const Job& job) const {
  if (job.unlimited) return true;
  auto of_user = running_of_user_.find(job.uid);
  return counted_ < kMaxChildren && (of_user == running_of_user_.end() || of_user->second < kMaxChildrenOfUser);
}

void ChildRunner::Run(Job job) {
  if (HasRoom(job)) {
    Start(std::move(job));
    return;
  }
  if (waiting_of_user_[job.uid] >= kMaxWaitingOfUser) {
    job.done(ChildOutcome{ChildOutcome::End::kRefused, {}});
    return;
  }
  ++waiting_of_user_[job.uid];
  auto deadline = job.deadline;
  auto waiting = waiting_.insert(waiting_.end(), Waiting{std::move(job), {}, EventLoop::Clock::now() + deadline});
  waiting->timer = loop_->After(deadline, [this, waiting] { GiveUp(waiting, ChildOutcome::End::kTimedOut); });
}

void ChildRunner::GiveUp(std::list<Waiting>::iterator waiting, ChildOutcome::End why) {
  Job job = std::move(waiting->job);
  loop_->Cancel(waiting->timer);
  --waiting_of_user_[job.uid];
  waiting_.erase(waiting);
  job.done(ChildOutcome{why, {}});
}

void ChildRunner::Abandon(uint64_t ticket) {
  if (ticket == 0) return;
  auto running = std::find_if(running_.begin(), running_.end(),
                              [ticket](const Running& child) { return child.job.ticket == ticket; });
  if (running != running_.end()) {
    if (!running->given_up) GiveUp(running, ChildOutcome::End::kAbandoned);
    return;
  }
  auto waiting =
      std::find_if(waiting_.begin(), waiting_.end(), [ticket](const Waiting& one) { return one.job.ticket == ticket; });
  if (waiting != waiting_.end()) GiveUp(waiting, ChildOutcome::End::kAbandoned);
}

void ChildRunner::AbandonAll() {
  std::vector<uint64_t> tickets;  // first: Abandon changes the lists
  for (const Running& child : running_) tickets.push_back(child.job.ticket);
  for (const Waiting& waiting : waiting_) tickets.push_back(waiting.job.ticket);
  for (uint64_t ticket : tickets) Abandon(ticket);
}

void ChildRunner::StartWaiting() {
  for (auto waiting = waiting_.begin(); waiting != waiting_.end();) {
    auto next = std::next(waiting);
    if (HasRoom(waiting->job)) {
      loop_->Cancel(waiting->timer);
      Job job = std::move(waiting->job);
      auto left = std::chrono::ceil<std::chrono::milliseconds>(waiting->latest - EventLoop::Clock::now());
      job.deadline = std::max(left, std::chrono::milliseconds(1));
      --waiting_of_user_[job.uid];
      waiting_.erase(waiting);
      Start(std::move(job));
    }
    waiting = next;
  }
}

void ChildRunner::Start(Job job) {
  auto pair = Channel::CreatePair();
  pid_t pid = pair.ok() ? fork() : -1;
  if (pid == 0) ChildMain(job, pair->second.get());
  UniqueFd pidfd = pid > 0 ? PidfdOpen(pid) : UniqueFd();
  if (!pidfd) {
    Log(Severity::kError, absl::StrCat("cannot start a child process: ", strerror(errno)));
    if (pid > 0) {
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
    job.done(ChildOutcome{ChildOutcome::End::kFailed, {}});
    return;
  }
  if (!job.unlimited) {
    ++counted_;
    ++running_of_user_[job.uid];
  }
  auto child = running_.emplace(running_.end());
  child->job = std::move(job);
  child->job.work = nullptr;  // what it captured is the child's now
  child->pid = pid;
  child->pidfd = std::move(pidfd);
  child->channel = std::make_unique<Channel>(std::move(pair->first));
  fcntl(child->channel->fd(), F_SETFL, O_NONBLOCK);
  child->timer = loop_->After(child->job.deadline, [this, child] { GiveUp(child, ChildOutcome::End::kTimedOut); });
  // The end of the process is what is waited for, not its answer: only then has it let go of its descriptors, and a
  // mount that a descriptor refers to cannot be unmounted.
  absl::Status watched = loop_->Watch(child->pidfd.get(), EPOLLIN, [this, child](uint32_t) { OnEnd(child); });
  if (!watched.ok()) Log(Severity::kError, watched.ToString());  // the deadline ends it
}

void ChildRunner::CountOut(const Job& job) {
  if (job.unlimited) return;
  --counted_;
  auto of_user = running_of_user_.find(job.uid);
  if (--of_user->second == 0) running_of_user_.erase(of_user);
}

void ChildRunner::OnEnd(std::list<Running>::iterator child) {
  int status = 0;
  if (waitpid(child->pid, &status, WNOHANG) == 0) return;
  loop_->Unwatch(child->pidfd.get());
  Running ended = std::move(*child);
  running_.erase(child);
  CountOut(ended.job);
  if (ended.given_up) {
    if (ended.job.ended_late) ended.job.ended_late();
  } else {
    loop_->Cancel(ended.timer);
    ChildOutcome outcome;
    auto received = ended.channel->Receive(ended.job.answer.get(), &outcome.fds);
    if (received.ok() && *received == Channel::Received::kMessage) {
      outcome.end = ChildOutcome::End::kAnswered;
    } else {
      outcome.fds.clear();
      Log(Severity::kError, absl::StrCat("a child process ended without an answer, wait status ", status));
    }
    ended.job.done(std::move(outcome));
  }
  StartWaiting();
}

void ChildRunner::GiveUp(std::list<Running>::iterator child, ChildOutcome::End why) {
  child->given_up = true;
  child->job.ticket = 0;  // which a later job may have
  loop_->Cancel(child->timer);
  kill(-child->pid, SIGKILL);
  kill(child->pid, SIGKILL);  // if it had not come as far as its own process group
  child->channel.reset();
  std::function<void(ChildOutcome)> done = std::move(child->job.done);
  done(ChildOutcome{why, {}});
}

}  // namespace dismd
