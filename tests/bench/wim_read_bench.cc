// SPDX-License-Identifier: GPL-3.0-or-later
//
// How fast blobs come out of a WIM, without kernel and tree between: wim_read_bench IMAGE [CACHE_MIB] [ROW]...
//
// Each row is one way of reading; MB/s is of uncompressed bytes. "checked" goes through BlobVerifier.

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "libmount/wim/blob_verifier.h"
#include "libmount/wim/resource_reader.h"
#include "tests/unit/wim_read_oracle.h"

namespace libmount {
namespace {

constexpr size_t kRequest = size_t{1} << 20;
constexpr uint64_t kLarge = 256 << 10;
constexpr uint64_t kSmall = 64 << 10;

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& time) { return time.tv_sec + time.tv_usec / 1e6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

class Bench {
 public:
  Bench(const std::string& path, size_t cache_bytes) : content_(ListWim(path, source_)), cache_bytes_(cache_bytes) {
    for (uint32_t i = 0; i < content_.blobs.size(); ++i) {
      const BlobLocation& location = content_.blobs[i].location;
      if (content_.resources[location.resource].solid) solid_.emplace_back(location);
    }
    std::sort(solid_.begin(), solid_.end(), Before);
  }

  // Reads the blobs of `order`, from threads that each take the next one.
  void Row(const char* name, const std::vector<uint32_t>& order, int threads, bool checked, uint64_t limit = ~0ull) {
    Run(name, checked, [&](const ReadBlob& read) {
      std::atomic<size_t> next = 0;
      std::vector<std::thread> readers;
      std::atomic<uint64_t> bytes = 0;
      for (int t = 0; t < threads; ++t) {
        readers.emplace_back([&] {
          std::vector<char> buffer(kRequest + 4096);
          char* aligned = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(buffer.data()) + 4095) & ~4095ull);
          for (size_t i = next++; i < order.size(); i = next++) {
            uint64_t size = std::min(content_.blobs[order[i]].location.size, limit);
            for (uint64_t offset = 0; offset < size; offset += kRequest) {
              read(order[i], offset, absl::MakeSpan(aligned, std::min<uint64_t>(kRequest, size - offset)));
            }
            bytes += size;
          }
        });
      }
      for (std::thread& reader : readers) reader.join();
      return bytes.load();
    });
  }

  void RandomRow(const char* name, const std::vector<uint32_t>& blobs, size_t size, int count) {
    Run(name, false, [&](const ReadBlob& read) {
      std::mt19937_64 random(5);
      std::vector<char> buffer(size);
      for (int i = 0; i < count; ++i) {
        uint32_t blob = blobs[random() % blobs.size()];
        uint64_t slots = content_.blobs[blob].location.size / size;
        if (slots > 0) read(blob, random() % slots * size, absl::MakeSpan(buffer));
      }
      return uint64_t{size} * count;
    });
  }

  std::vector<uint32_t> Select(uint64_t least, uint64_t most) const {
    std::vector<uint32_t> blobs;
    for (uint32_t i = 0; i < content_.blobs.size(); ++i) {
      uint64_t size = content_.blobs[i].location.size;
      if (size >= least && size <= most && size > 0) blobs.push_back(i);
    }
    return blobs;
  }
  uint32_t Largest() const {
    auto less = [](const BlobFacts& a, const BlobFacts& b) { return a.location.size < b.location.size; };
    return std::max_element(content_.blobs.begin(), content_.blobs.end(), less) - content_.blobs.begin();
  }
  const std::vector<uint32_t>& files() const { return content_.files; }

 private:
  using ReadBlob = std::function<void(uint32_t blob, uint64_t offset, absl::Span<char> out)>;

  static bool Before(const BlobLocation& a, const BlobLocation& b) {
    return std::pair(a.resource, a.offset) < std::pair(b.resource, b.offset);
  }

  void VisitSolid(uint32_t resource, uint64_t begin, uint64_t end, ResourceReader::BlobVisitor visitor) {
    auto blob = std::lower_bound(solid_.begin(), solid_.end(), BlobLocation{resource, begin, 0}, Before);
    for (; blob != solid_.end() && blob->resource == resource && blob->offset < end; ++blob) {
      visitor(blob->offset, blob->size);
    }
  }

  void Run(const char* name, bool checked, const std::function<uint64_t(const ReadBlob&)>& body) {
    ResourceReader::Options options;
    options.cache_budget = cache_bytes_;
    options.visit_blobs = [this](uint32_t resource, uint64_t begin, uint64_t end, ResourceReader::BlobVisitor visitor) {
      VisitSolid(resource, begin, end, visitor);
    };
    ResourceReader reader(&source_, &content_.resources, std::move(options));
    BlobVerifier verifier(
        &reader, content_.blobs.size(), [this](uint32_t blob) { return content_.blobs[blob]; },
        [](uint32_t blob, std::string_view what) { printf("blob %u damaged: %s\n", blob, what.data()); });
    ReadBlob read = [&](uint32_t blob, uint64_t offset, absl::Span<char> out) {
      const BlobLocation& location = content_.blobs[blob].location;
      absl::Status status =
          checked ? verifier.Read(blob, offset, out) : reader.Read(location.resource, location.offset + offset, out);
      if (!status.ok()) {
        printf("blob %u: %s\n", blob, status.ToString().c_str());
        exit(1);
      }
    };
    double cpu = CpuSeconds();
    auto start = std::chrono::steady_clock::now();
    uint64_t bytes = body(read);
    double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    cpu = CpuSeconds() - cpu;
    ResourceReader::Stats stats = reader.GetStats();
    printf("%-44s %7.3f s %7.1f MB/s %7.3f CPU s  %7.1f MB decoded, %7.1f MB read again, %5zu MiB wanted\n", name, wall,
           bytes / wall / 1e6, cpu, stats.bytes_decoded / 1e6, verifier.GetStats().read_again / 1e6,
           stats.wanted_bytes >> 20);
    fflush(stdout);
  }

  WimSource source_;
  WimContent content_;
  std::vector<BlobLocation> solid_;  // by resource and offset
  size_t cache_bytes_;
};

int Main(int argc, char** argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: wim_read_bench IMAGE [CACHE_MIB] [ROW]...\n");
    return 2;
  }
  Bench bench(argv[1], size_t{argc > 2 ? strtoul(argv[2], nullptr, 10) : 64} << 20);
  auto wanted = [&](const char* row) {
    return argc <= 3 || std::find(argv + 3, argv + argc, std::string(row)) != argv + argc;
  };
  std::vector<uint32_t> large = bench.Select(kLarge, ~0ull);
  std::vector<uint32_t> small = bench.Select(1, kSmall);
  if (wanted("large1")) bench.Row("large files, 1 reader", large, 1, false);
  if (wanted("large1c")) bench.Row("large files, 1 reader, checked", large, 1, true);
  if (wanted("large4c")) bench.Row("large files, 4 readers, checked", large, 4, true);
  if (wanted("small1")) bench.Row("small files, 1 reader", small, 1, false);
  if (wanted("small1c")) bench.Row("small files, 1 reader, checked", small, 1, true);
  if (wanted("random")) bench.RandomRow("random 128 KiB of large files", large, 128 << 10, 2000);
  if (wanted("thirty")) {
    std::mt19937 random(3);
    std::shuffle(small.begin(), small.end(), random);
    small.resize(std::min<size_t>(small.size(), 30));
    bench.Row("30 random small files, checked", small, 1, true);
  }
  if (wanted("first")) bench.Row("first 4 MiB of the largest file, checked", {bench.Largest()}, 1, true, 4 << 20);
  if (wanted("all")) bench.Row("all files in directory order, checked", bench.files(), 1, true);
  return 0;
}

}  // namespace
}  // namespace libmount

int main(int argc, char** argv) { return libmount::Main(argc, argv); }
