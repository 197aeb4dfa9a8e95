// SPDX-License-Identifier: Apache-2.0
//
// Stands in libdismapi.so for two objects of libprotobuf-lite.a, arena.o and common.o. The archive is compiled for
// programs: a shared library can have neither their thread-local variable nor what they refer to of libstdc++'s data.
// The rest of it a shared library can have.
//
// Messages never live in an arena here, so nothing of arena.o is ever called; of common.o there is what ends the
// process when the runtime finds itself broken, and what it says otherwise is dropped: a library does not write to
// stderr. That these are all that the runtime refers to is what the linker checks: a symbol missing here brings the
// object in, and the link fails.

#include <arpa/inet.h>
#include <google/protobuf/arena.h>
#include <google/protobuf/stubs/logging.h>
#include <stdlib.h>

namespace google::protobuf {

void* Arena::AllocateAlignedWithHook(size_t, const std::type_info*) { abort(); }
void* Arena::AllocateAlignedWithHookForArray(size_t, const std::type_info*) { abort(); }
std::pair<void*, internal::SerialArena::CleanupNode*> Arena::AllocateAlignedWithCleanup(size_t, const std::type_info*) {
  abort();
}

uint32_t ghtonl(uint32_t value) { return htonl(value); }

namespace internal {

__thread ThreadSafeArena::ThreadCache ThreadSafeArena::thread_cache_ = {};
ThreadSafeArena::~ThreadSafeArena() { abort(); }
void ThreadSafeArena::AddCleanup(void*, void (*)(void*)) { abort(); }
uint64_t ThreadSafeArena::SpaceAllocated() const { abort(); }

LogMessage::LogMessage(LogLevel level, const char* file, int line) : level_(level), filename_(file), line_(line) {}
LogMessage::~LogMessage() = default;
LogMessage& LogMessage::operator<<(const std::string&) { return *this; }
LogMessage& LogMessage::operator<<(const char*) { return *this; }
LogMessage& LogMessage::operator<<(int) { return *this; }
LogMessage& LogMessage::operator<<(uint) { return *this; }
LogMessage& LogMessage::operator<<(unsigned long) { return *this; }
void LogMessage::Finish() {
  if (level_ == LOGLEVEL_FATAL) abort();
}
void LogFinisher::operator=(LogMessage& message) { message.Finish(); }

}  // namespace internal
}  // namespace google::protobuf

// The type of char, which the runtime names to arenas: never looked at.
extern "C" __attribute__((visibility("hidden"))) const void* const dismd_type_of_char __asm__("_ZTIc") = nullptr;
