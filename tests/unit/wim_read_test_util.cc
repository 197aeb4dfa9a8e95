// SPDX-License-Identifier: GPL-3.0-or-later

#include "tests/unit/wim_read_test_util.h"

#include <sys/mman.h>
#include <unistd.h>
#include <wimlib.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>

namespace libmount {
namespace {

void Check(bool fine) {
  if (!fine) abort();
}

// Compression level: the lowest, since LZMS takes long.
constexpr unsigned kFastest = 1;

template <typename T>
void Append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));  // tests run on little-endian machines
}

struct FreeCompressor {
  void operator()(wimlib_compressor* compressor) const { wimlib_free_compressor(compressor); }
};

}  // namespace

std::vector<char> MakeData(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  static constexpr const char* kWords[] = {"resource ", "chunk ",       "blob ", "\x55\x8b\xec",
                                           "Windows\\", "kernel32.dll", "\xe8"};
  std::vector<char> data;
  data.reserve(size + (64 << 10));
  while (data.size() < size) {
    uint32_t kind = random() % 16;
    uint32_t count = random() % 200;
    if (kind == 0) {
      data.insert(data.end(), count * 16, static_cast<char>(random()));
    } else if (kind == 1) {
      for (uint32_t i = 0; i < count * 4; ++i) data.push_back(static_cast<char>(random()));
    } else if (kind == 2 && count == 0) {
      for (uint32_t i = 0; i < (40 << 10); ++i) data.push_back(static_cast<char>(random()));
    } else {
      const char* word = kWords[random() % std::size(kWords)];
      data.insert(data.end(), word, word + strlen(word));
    }
  }
  data.resize(size);
  return data;
}

uint32_t ResourceFile::AddCompressed(const std::vector<char>& data, Compression compression, uint32_t chunk_size,
                                     Options options) {
  wimlib_compressor* made = nullptr;
  Check(wimlib_create_compressor(static_cast<wimlib_compression_type>(compression), chunk_size, kFastest, &made) == 0);
  std::unique_ptr<wimlib_compressor, FreeCompressor> compressor(made);
  std::vector<std::string> chunks;
  for (size_t done = 0; done < data.size(); done += chunk_size) {
    size_t size = std::min<size_t>(chunk_size, data.size() - done);
    std::string chunk(size, 0);
    size_t compressed = size < 2 ? 0 : wimlib_compress(data.data() + done, size, chunk.data(), size - 1, made);
    if (compressed == 0) {
      chunk.assign(data.data() + done, size);
    } else {
      chunk.resize(compressed);
    }
    chunks.push_back(std::move(chunk));
  }

  std::string table;
  if (options.solid) {
    Append<uint64_t>(table, data.size());
    Append<uint32_t>(table, chunk_size);
    Append<uint32_t>(table, static_cast<uint32_t>(compression));
    for (const std::string& chunk : chunks) Append<uint32_t>(table, chunk.size());
  } else {
    uint64_t offset = 0;
    for (size_t i = 0; i + 1 < chunks.size(); ++i) {
      offset += chunks[i].size();
      if (data.size() > std::numeric_limits<uint32_t>::max()) {
        Append<uint64_t>(table, offset);
      } else {
        Append<uint32_t>(table, offset);
      }
    }
  }
  bool table_last = options.pipable && !options.solid;
  std::string resource = table_last ? "" : table;
  for (const std::string& chunk : chunks) {
    if (table_last) Append<uint32_t>(resource, chunk.size());
    resource += chunk;
  }
  if (table_last) resource += table;
  ResourceLocation location;
  location.offset = bytes_.size();
  location.size_in_file = resource.size();
  location.size = data.size();
  location.chunk_size = chunk_size;
  location.compression = compression;
  location.solid = options.solid;
  location.pipable = options.pipable;
  bytes_ += resource;
  locations_.push_back(location);
  return static_cast<uint32_t>(locations_.size() - 1);
}

uint32_t ResourceFile::AddRaw(const std::vector<char>& data) {
  ResourceLocation location;
  location.offset = bytes_.size();
  location.size_in_file = data.size();
  location.size = data.size();
  bytes_.append(data.data(), data.size());
  locations_.push_back(location);
  return static_cast<uint32_t>(locations_.size() - 1);
}

UniqueFd ResourceFile::Open(WimSource& source) const {
  UniqueFd fd(memfd_create("resources", MFD_CLOEXEC));
  Check(fd.valid());
  for (size_t done = 0; done < bytes_.size();) {
    ssize_t count = write(fd.get(), bytes_.data() + done, bytes_.size() - done);
    Check(count > 0);
    done += static_cast<size_t>(count);
  }
  Check(source.AddPart(fd.Duplicate(), "test.wim").ok());
  return fd;
}

}  // namespace libmount
