// SPDX-License-Identifier: GPL-3.0-or-later
//
// How long a WIM takes from the open to the first listing, how much memory its tree keeps, and what look-ups cost.
//
//   DISMD_BENCH_WIM=install.wim wim_parse_bench [--benchmark_filter=...]

#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <malloc.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "libmount/wim/wim_file.h"

namespace libmount {
namespace {

absl::StatusOr<UniqueFd> OpenFile(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return absl::NotFoundError(path);
  return fd;
}

std::unique_ptr<WimFile> OpenWim() {
  const char* path = getenv("DISMD_BENCH_WIM");
  if (path == nullptr) {
    fprintf(stderr, "DISMD_BENCH_WIM must name a WIM file\n");
    exit(2);
  }
  const std::string whole = path;
  const size_t slash = whole.rfind('/');
  const std::string directory = slash == whole.npos ? "./" : whole.substr(0, slash + 1);
  NullMonitor monitor;
  absl::StatusOr<UniqueFd> fd = OpenFile(whole);
  auto open_sibling = [&](std::string_view name) { return OpenFile(directory + std::string(name)); };
  auto wim = fd.ok() ? WimFile::Open(*std::move(fd), whole.substr(directory.size()), open_sibling, monitor)
                     : absl::StatusOr<std::unique_ptr<WimFile>>(fd.status());
  if (!wim.ok()) {
    fprintf(stderr, "%s\n", wim.status().ToString().c_str());
    exit(1);
  }
  return *std::move(wim);
}

std::unique_ptr<WimTree> OpenTree(const WimFile& wim) {
  NullMonitor monitor;
  absl::StatusOr<std::unique_ptr<WimTree>> tree = wim.OpenTree(1, {}, monitor);
  if (!tree.ok()) {
    fprintf(stderr, "%s\n", tree.status().ToString().c_str());
    exit(1);
  }
  return *std::move(tree);
}

void BM_Open(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(OpenWim());
}
BENCHMARK(BM_Open)->Unit(benchmark::kMillisecond);

void BM_OpenTree(benchmark::State& state) {
  std::unique_ptr<WimFile> wim = OpenWim();
  for (auto _ : state) benchmark::DoNotOptimize(OpenTree(*wim));
}
BENCHMARK(BM_OpenTree)->Unit(benchmark::kMillisecond);

struct Found {
  NodeId directory;
  NodeId node;
  std::string name;
};

// Visits the whole tree, directory by directory.
std::vector<Found> Walk(const FileTree& tree) {
  std::vector<Found> all;
  std::vector<NodeId> directories = {kRootNode};
  for (size_t i = 0; i < directories.size(); ++i) {
    tree.ReadDirectory(directories[i], 0, [&](const DirectoryEntry& entry) {
      if (S_ISDIR(entry.attributes.mode)) directories.push_back(entry.attributes.node);
      all.push_back({directories[i], entry.attributes.node, std::string(entry.name)});
      return true;
    });
  }
  return all;
}

void BM_Walk(benchmark::State& state) {
  std::unique_ptr<WimFile> wim = OpenWim();
  std::unique_ptr<WimTree> tree = OpenTree(*wim);
  size_t entries = 0;
  for (auto _ : state) entries = Walk(*tree).size();
  state.counters["entries"] = static_cast<double>(entries);
}
BENCHMARK(BM_Walk)->Unit(benchmark::kMillisecond);

void BM_Lookup(benchmark::State& state) {
  std::unique_ptr<WimFile> wim = OpenWim();
  std::unique_ptr<WimTree> tree = OpenTree(*wim);
  std::vector<Found> all = Walk(*tree);
  size_t i = 0;
  for (auto _ : state) {
    const Found& found = all[i++ % all.size()];
    benchmark::DoNotOptimize(tree->Lookup(found.directory, found.name));
  }
}
BENCHMARK(BM_Lookup);

void BM_LookupAbsent(benchmark::State& state) {
  std::unique_ptr<WimFile> wim = OpenWim();
  std::unique_ptr<WimTree> tree = OpenTree(*wim);
  std::vector<Found> all = Walk(*tree);
  size_t i = 0;
  for (auto _ : state) {
    const Found& found = all[i++ % all.size()];
    benchmark::DoNotOptimize(tree->Lookup(found.directory, found.name + "-"));
  }
}
BENCHMARK(BM_LookupAbsent);

// Not a time: the bytes that an open tree keeps allocated.
void BM_Memory(benchmark::State& state) {
  const size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
  std::unique_ptr<WimFile> wim = OpenWim();
  const size_t opened = mallinfo2().uordblks + mallinfo2().hblkhd;
  std::unique_ptr<WimTree> tree = OpenTree(*wim);
  const size_t parsed = mallinfo2().uordblks + mallinfo2().hblkhd;
  for (auto _ : state) benchmark::ClobberMemory();
  state.counters["tables_KiB"] = static_cast<double>(opened - before) / 1024;
  state.counters["tree_KiB"] = static_cast<double>(parsed - opened) / 1024;
}
BENCHMARK(BM_Memory)->Iterations(1);

}  // namespace
}  // namespace libmount

BENCHMARK_MAIN();
