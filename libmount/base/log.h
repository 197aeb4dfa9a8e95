// SPDX-License-Identifier: GPL-3.0-or-later
//
// Structured log lines, to journald's native socket where the process was started by systemd (JOURNAL_STREAM names
// our stderr), else as one text line each on stderr:
//
//   2026-11-22T15:13:56.123Z INFO worker[4711] mount=m-0123 op=op-77 uid=1000: blob damaged: Windows/notepad.exe
//
// Every line carries the operation, mount and uid it belongs to, where there are any. InitLogging opens the socket, so
// that a sandboxed process (no socket(2) any more) can go on logging.
//
// Thread safety: Log is thread-safe; InitLogging is called once, before threads.

#ifndef LIBMOUNT_BASE_LOG_H_
#define LIBMOUNT_BASE_LOG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace libmount {

enum class Severity { kDebug = 7, kInfo = 6, kWarning = 4, kError = 3 };  // syslog's numbers

// What a line is about; empty fields are left out.
struct LogContext {
  std::string operation_id;
  std::string mount_id;
  std::optional<uint32_t> uid;
};

// `role` names the process on each line: "broker", "front", "worker", "dismctl".
// Lines less severe than `least` are dropped.
void InitLogging(std::string_view role, Severity least = Severity::kInfo);

// The descriptor of journald's socket, or -1: a process that closes what it does not know must spare it.
int LogDescriptor();

// Control characters of the message are escaped, so that a file name cannot forge a line.
void Log(Severity severity, const LogContext& context, std::string_view message);
void Log(Severity severity, std::string_view message);

}  // namespace libmount

#endif  // LIBMOUNT_BASE_LOG_H_
