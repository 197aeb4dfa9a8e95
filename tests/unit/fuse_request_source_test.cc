// SPDX-License-Identifier: GPL-3.0-or-later
//
// RequestSource: when a second thread is woken to help.

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <fstream>
#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "libmount/fuse/request_source.h"

namespace libmount {
namespace {

// How often a thread of this process has gone to sleep.
int SleepsOf(pid_t thread) {
  std::ifstream status("/proc/self/task/" + std::to_string(thread) + "/status");
  const std::string wanted = "voluntary_ctxt_switches:";
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(wanted)) return std::stoi(line.substr(wanted.size()));
  }
  return -1;
}

TEST(RequestSourceTest, ASecondThreadIsWokenWhereRequestsWaitAndOnlyThere) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
  UniqueFd kernel(ends[0]);
  UniqueFd device(ends[1]);
  RequestSource source;
  ASSERT_TRUE(source.Open(device.get()).ok());
  auto send = [&](char request) { ASSERT_EQ(write(kernel.get(), &request, 1), 1); };

  std::array<char, 16> buffer;
  RequestSource::Turn turn([] {}, [](bool) {});
  send('0');  // whoever receives this has the turn from here on
  ASSERT_EQ(source.Receive(&turn, absl::MakeSpan(buffer)), 1u);

  std::atomic<pid_t> helper = 0;
  std::atomic<bool> is_needed = false;
  absl::Notification asleep;
  absl::Notification helped;
  std::thread other([&] {
    helper = gettid();
    RequestSource::Turn own([] {}, [&](bool) { asleep.Notify(); });  // once: it is woken to work, or ends
    std::array<char, 16> request;
    const size_t size = source.Receive(&own, absl::MakeSpan(request));
    if (!is_needed) source.Stop();  // else the other would wait for ever for what was taken from it
    if (size > 0) helped.Notify();
  });
  asleep.WaitForNotification();

  // Each is there as soon as it is looked for, but none behind it.
  const int before = SleepsOf(helper);
  constexpr int kRequests = 200;
  int received = 0;
  for (; received < kRequests; ++received) {
    send('1');
    if (source.Receive(&turn, absl::MakeSpan(buffer)) == 0) break;
  }
  EXPECT_EQ(received, kRequests);
  EXPECT_GE(before, 0);
  EXPECT_LT(SleepsOf(helper) - before, kRequests / 10) << "woken for nothing";

  // Three at once, of which only two are looked for here.
  is_needed = true;
  for (char request : {'2', '3', '4'}) send(request);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(source.Receive(&turn, absl::MakeSpan(buffer)), 1u);
  EXPECT_TRUE(helped.WaitForNotificationWithTimeout(absl::Seconds(60)));
  source.Stop();
  other.join();
}

}  // namespace
}  // namespace libmount
