// SPDX-License-Identifier: Apache-2.0

#include "client/dismctl/progress_view.h"

#include <algorithm>
#include <cstdio>

#include "client/dismctl/format.h"

namespace dismd {
namespace {

constexpr size_t kBarWidth = 20;
// A rate from less than this is noise.
constexpr double kLeastSeconds = 0.25;

std::string Bytes(double bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1000 && unit + 1 < std::size(kUnits)) bytes /= 1024, ++unit;
  char text[32];
  snprintf(text, sizeof(text), unit > 0 && bytes < 10 ? "%.1f %s" : "%.0f %s", bytes, kUnits[unit]);
  return text;
}

std::string Duration(double seconds) {
  const auto whole = static_cast<long>(std::min(seconds, 359999.0) + 0.5);
  char text[32];
  if (whole >= 3600) {
    snprintf(text, sizeof(text), "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
  } else {
    snprintf(text, sizeof(text), "%ld:%02ld", whole / 60, whole % 60);
  }
  return text;
}

std::string PhaseTitle(v1::Phase phase) {
  std::string title = PhaseName(phase);
  std::replace(title.begin(), title.end(), '_', ' ');
  return title;
}

}  // namespace

ProgressView::~ProgressView() {
  if (drawn_) fputs("\r\033[K", stderr);
}

std::string ProgressView::Line(const v1::Progress& progress, Clock::time_point now) {
  if (progress.phase() != phase_) {
    phase_ = progress.phase();
    phase_start_ = now;
    bytes_at_start_ = progress.bytes_done();
  }
  const uint32_t total = std::max<uint32_t>(progress.total(), 1);
  const uint32_t percent = static_cast<uint32_t>(std::min<uint64_t>(uint64_t{100} * progress.current() / total, 100));
  std::string line = PhaseTitle(phase_);
  line.append(line.size() < 18 ? 18 - line.size() : 0, ' ');
  line += "  [" + std::string(kBarWidth * percent / 100, '#');
  line.append(kBarWidth - kBarWidth * percent / 100, ' ');
  char text[16];
  snprintf(text, sizeof(text), "]  %3u%%", percent);
  line += text;
  if (progress.bytes_total() == 0) return line;
  const uint64_t done = std::min(progress.bytes_done(), progress.bytes_total());
  line += "  " + Bytes(static_cast<double>(done)) + " of " + Bytes(static_cast<double>(progress.bytes_total()));
  const double seconds = std::chrono::duration<double>(now - phase_start_).count();
  if (seconds < kLeastSeconds || done <= bytes_at_start_) return line;
  const double rate = static_cast<double>(done - bytes_at_start_) / seconds;
  line += "  " + Bytes(rate) + "/s  " + Duration(static_cast<double>(progress.bytes_total() - done) / rate) + " left";
  return line;
}

void ProgressView::Show(const v1::Progress& progress) {
  const bool new_phase = progress.phase() != phase_;
  const std::string line = Line(progress, Clock::now());
  if (is_terminal_) {
    drawn_ = true;
    fprintf(stderr, "\r%s\033[K", line.c_str());
  } else if (new_phase) {
    fprintf(stderr, "%s (%u%%)\n", PhaseTitle(phase_).c_str(), progress.current());
  }
  fflush(stderr);
}

}  // namespace dismd
