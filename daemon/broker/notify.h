// SPDX-License-Identifier: GPL-3.0-or-later
//
// Tells systemd how the service is (sd_notify(3) without libsystemd). Does nothing where nobody asked for it.

#ifndef DAEMON_BROKER_NOTIFY_H_
#define DAEMON_BROKER_NOTIFY_H_

#include <string>

namespace dismd {

// Remembers NOTIFY_SOCKET and takes it out of the environment.
void InitNotify();

// Puts that back, for a program that takes this one's place.
void RestoreNotify();

// "READY=1", "STOPPING=1", "STATUS=...", several separated by newlines.
void Notify(const std::string& state);

}  // namespace dismd

#endif  // DAEMON_BROKER_NOTIFY_H_
