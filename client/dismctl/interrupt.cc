// SPDX-License-Identifier: Apache-2.0

#include "client/dismctl/interrupt.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>

namespace dismd {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM};
int interrupt_fd = -1;

void OnSignal(int) {
  const int saved = errno;
  // The next one, of either kind, ends the program.
  for (int each : kSignals) {
    struct sigaction action;
    if (sigaction(each, nullptr, &action) != 0 || action.sa_handler != OnSignal) continue;
    action.sa_handler = SIG_DFL;
    sigaction(each, &action, nullptr);
  }
  eventfd_write(interrupt_fd, 1);
  errno = saved;
}

}  // namespace

Interrupt::Interrupt() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  interrupt_fd = fd_.get();
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  for (int signal : kSignals) {
    struct sigaction before;
    // nohup and the like: what was ignored stays ignored.
    if (sigaction(signal, nullptr, &before) == 0 && before.sa_handler == SIG_IGN) continue;
    sigaction(signal, &action, nullptr);
  }
}

bool Interrupt::Take() {
  pollfd entry = {fd_.get(), POLLIN, 0};
  return poll(&entry, 1, 0) == 1;
}

}  // namespace dismd
