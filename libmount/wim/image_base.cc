// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/image_base.h"

#include <cerrno>
#include <string>

namespace libmount {

const MetadataInode* ImageBase::FindInode(NodeId node) const {
  return node == 0 || node > image_->inodes.size() ? nullptr : &image_->inodes[node - 1];
}

bool ImageBase::HasUnnamedStream(const MetadataInode& inode) const {
  if (image_->IsDirectory(inode)) return false;
  return (inode.attributes & kAttributeDirectory) == 0 || inode.content != kNoBlob;
}

uint64_t ImageBase::BlobSize(uint32_t blob) const {
  if (blob == kNoBlob) return 0;
  return blob < blobs_->size() ? blobs_->blob_size(blob) : kUnknownBlobSize;
}

BlobHash ImageBase::HashOf(uint32_t blob) const {
  if (blob == kNoBlob) return {};
  return blob < blobs_->size() ? blobs_->hash(blob) : image_->missing_blobs[blob - ImageMetadata::kFirstMissingBlob];
}

ErrnoOr<FileRecord> ImageBase::GetFileRecord(NodeId node) const {
  const MetadataInode* inode = FindInode(node);
  if (inode == nullptr) return Errno(ENOENT);
  FileRecord record;
  record.attributes = inode->attributes;
  record.creation_time = inode->creation_time;
  record.access_time = inode->access_time;
  record.write_time = inode->write_time;
  if (inode->security != kNone) record.security_descriptor = image_->Text(image_->security[inode->security]);
  if (HasUnnamedStream(*inode)) record.streams.push_back({"", BlobSize(inode->content), HashOf(inode->content)});
  const MetadataExtra* extra = image_->Extra(*inode);
  if (extra == nullptr) return record;

  record.unknown_field = extra->unknown_field;
  record.reparse_tag = extra->reparse_tag;
  record.reparse_reserved = extra->reparse_reserved;
  record.reparse_flags = extra->reparse_flags;
  record.reparse_hash = HashOf(extra->reparse_blob);
  record.reparse_size = BlobSize(extra->reparse_blob);
  if (extra->has_unix_data) {
    const UnixData& data = extra->unix_data;
    record.unix_data = UnixFileData{data.uid, data.gid, data.mode, data.device};
  }
  record.tagged_items = image_->Text(extra->tagged_items);
  for (uint32_t i = 0; i < extra->stream_count; ++i) {
    const MetadataStream& stream = image_->streams[extra->first_stream + i];
    record.streams.push_back({std::string(image_->Text(stream.name)), BlobSize(stream.blob), HashOf(stream.blob)});
  }
  return record;
}

int ImageBase::VisitEntries(NodeId directory, EntryVisitor visitor) const {
  const MetadataInode* inode = FindInode(directory);
  if (inode == nullptr) return ENOENT;
  if (!image_->IsDirectory(*inode)) return ENOTDIR;
  const MetadataDirectory& list = image_->directories[inode->content];
  for (uint64_t i = 0; i < list.entry_count; ++i) {
    const MetadataEntry& entry = image_->entries[list.first_entry + i];
    if (!visitor({image_->Name(entry), image_->ShortName(entry), NodeId{entry.inode} + 1, i + 1})) break;
  }
  return 0;
}

NodeId ImageBase::StreamNode(NodeId file, size_t stream) const {
  const MetadataInode* inode = FindInode(file);
  if (inode == nullptr) return file;
  const size_t number = HasUnnamedStream(*inode) ? stream : stream + 1;  // as Lookup counts: named ones, from 1
  return file | NodeId{number} << kNodeStreamShift;
}

std::pair<NodeId, size_t> ImageBase::FileOfNode(NodeId node) const {
  const NodeId file = node & ((NodeId{1} << kNodeStreamShift) - 1);
  const size_t number = node >> kNodeStreamShift;
  const MetadataInode* inode = FindInode(file);
  if (inode == nullptr || number == 0) return {file, 0};
  return {file, HasUnnamedStream(*inode) ? number : number - 1};
}

bool ImageBase::has_unix_data() const {
  const MetadataExtra* extra = image_->Extra(image_->inodes[0]);
  return extra != nullptr && extra->has_unix_data;
}

uint64_t ImageBase::total_size() const {
  uint64_t size = 0;
  for (const MetadataInode& inode : image_->inodes) {
    if (!image_->IsDirectory(inode)) size += BlobSize(inode.content);
  }
  return size;
}

}  // namespace libmount
