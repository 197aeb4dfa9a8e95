// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/base/log.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace libmount {
namespace {

constexpr char kJournalSocket[] = "/run/systemd/journal/socket";

struct Logger {
  std::string role = "dismd";
  Severity least = Severity::kInfo;
  int journal = -1;
};

Logger& TheLogger() {
  static Logger* const logger = new Logger;  // lives as long as the process: threads may log at exit
  return *logger;
}

// systemd sets JOURNAL_STREAM=DEV:INODE of the stream it connected to our stderr.
bool StderrIsJournal() {
  const char* stream = getenv("JOURNAL_STREAM");
  struct stat st;
  if (stream == nullptr || fstat(STDERR_FILENO, &st) != 0) return false;
  return absl::StrCat(st.st_dev, ":", st.st_ino) == stream;
}

int ConnectJournal() {
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  static_assert(sizeof(kJournalSocket) <= sizeof(address.sun_path));
  memcpy(address.sun_path, kJournalSocket, sizeof(kJournalSocket));
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    close(fd);
    return -1;
  }
  return fd;
}

std::string Escape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (unsigned char c : text) {
    if (c < 0x20 || c == 0x7f) {
      absl::StrAppendFormat(&out, "\\x%02x", c);
    } else {
      out.push_back(static_cast<char>(c));
    }
  }
  return out;
}

const char* SeverityName(Severity severity) {
  switch (severity) {
    case Severity::kDebug: return "DEBUG";
    case Severity::kInfo: return "INFO";
    case Severity::kWarning: return "WARNING";
    case Severity::kError: return "ERROR";
  }
  return "INFO";
}

bool SendToJournal(const Logger& logger, Severity severity, const LogContext& context, const std::string& message) {
  std::string fields = absl::StrCat("MESSAGE=", message, "\nPRIORITY=", static_cast<int>(severity),
                                    "\nSYSLOG_IDENTIFIER=dismd\nDISMD_ROLE=", logger.role, "\n");
  if (!context.mount_id.empty()) absl::StrAppend(&fields, "DISMD_MOUNT_ID=", Escape(context.mount_id), "\n");
  if (!context.operation_id.empty()) absl::StrAppend(&fields, "DISMD_OPERATION_ID=", Escape(context.operation_id), "\n");
  if (context.uid.has_value()) absl::StrAppend(&fields, "DISMD_UID=", *context.uid, "\n");
  return send(logger.journal, fields.data(), fields.size(), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

void WriteToStderr(const Logger& logger, Severity severity, const LogContext& context, const std::string& message) {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc;
  gmtime_r(&now.tv_sec, &utc);
  std::string line = absl::StrFormat("%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %s %s[%d]", utc.tm_year + 1900, utc.tm_mon + 1,
                                     utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, now.tv_nsec / 1000000,
                                     SeverityName(severity), logger.role, getpid());
  if (!context.mount_id.empty()) absl::StrAppend(&line, " mount=", Escape(context.mount_id));
  if (!context.operation_id.empty()) absl::StrAppend(&line, " op=", Escape(context.operation_id));
  if (context.uid.has_value()) absl::StrAppend(&line, " uid=", *context.uid);
  absl::StrAppend(&line, ": ", message, "\n");
  // One write: lines of several processes on one stderr stay whole.
  if (write(STDERR_FILENO, line.data(), line.size()) < 0) return;  // nobody left to tell
}

}  // namespace

void InitLogging(std::string_view role, Severity least) {
  Logger& logger = TheLogger();
  logger.role = role;
  logger.least = least;
  if (StderrIsJournal()) logger.journal = ConnectJournal();
}

int LogDescriptor() { return TheLogger().journal; }

void Log(Severity severity, const LogContext& context, std::string_view message) {
  const Logger& logger = TheLogger();
  if (severity > logger.least) return;
  std::string escaped = Escape(message);
  if (logger.journal >= 0 && SendToJournal(logger, severity, context, escaped)) return;
  WriteToStderr(logger, severity, context, escaped);
}

void Log(Severity severity, std::string_view message) { Log(severity, LogContext{}, message); }

}  // namespace libmount
