// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/image_info.h"

#include <memory>
#include <utility>

#include "daemon/front/judge.h"
#include "daemon/front/limits.h"
#include "daemon/front/slot.h"
#include "daemon/front/text.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using libmount::MakeError;
using libmount::Reason;

void MakeValid(std::string* text) {
  std::string valid = ToValidUtf8(*text);
  if (valid != *text) *text = std::move(valid);
}

// The two messages are the same on the wire; only strings must be made what a protobuf string may be.
v1::ImageInfo ToPublic(internal::ImageInfo info) {
  for (std::string* text : {info.mutable_image_name(), info.mutable_image_description(), info.mutable_product_name(),
                            info.mutable_edition_id(), info.mutable_installation_type(), info.mutable_hal(),
                            info.mutable_product_type(), info.mutable_product_suite(), info.mutable_system_root()}) {
    MakeValid(text);
  }
  for (std::string& language : *info.mutable_languages()) MakeValid(&language);
  v1::ImageInfo result;
  if (!result.ParseFromString(info.SerializeAsString())) result.Clear();
  return result;
}

v1::DiskInfo ToPublic(internal::DiskInfo info) {
  MakeValid(info.mutable_partition_table());
  for (internal::DiskFile& file : *info.mutable_chain()) {
    for (std::string* text : {file.mutable_name(), file.mutable_format(), file.mutable_disk_type(),
                              file.mutable_creator(), file.mutable_identifier(), file.mutable_parent_identifier()}) {
      MakeValid(text);
    }
    for (std::string& path : *file.mutable_parent_paths()) MakeValid(&path);
    for (std::string& warning : *file.mutable_warnings()) MakeValid(&warning);
  }
  for (internal::Partition& partition : *info.mutable_partitions()) {
    for (std::string* text : {partition.mutable_type(), partition.mutable_file_system(), partition.mutable_label()}) {
      MakeValid(text);
    }
  }
  v1::DiskInfo result;
  if (!result.ParseFromString(info.SerializeAsString())) result.Clear();
  return result;
}

}  // namespace

absl::StatusOr<v1::GetImageInfoResponse> ReadImageInfo(const Tools& tools, const Caller& caller,
                                                       const std::string& image_path, CancelToken& cancel) {
  MountPaths paths{image_path, ""};
  internal::InspectPaths inspect;
  inspect.set_connection_id(caller.connection->id());
  inspect.set_image_path(image_path);
  absl::StatusOr<std::unique_ptr<Slot>> inspected = Slot::Inspect(tools.broker, inspect, cancel);
  if (!inspected.ok()) return inspected.status();
  Slot& slot = **inspected;
  if (absl::Status found = JudgePresence(paths, slot.facts()); !found.ok()) return found;
  if (absl::Status known = JudgeExtension(image_path); !known.ok()) return known;
  if (absl::Status visible = JudgeNamespace(slot.facts()); !visible.ok()) return visible;
  if (absl::Status local = JudgeImageLocation(paths, slot.facts()); !local.ok()) return local;
  if (absl::Status may = JudgeAccess(paths, slot.facts()); !may.ok()) return may;
  if (cancel.cancelled()) return MakeError(Reason::kCancelled, "the call was cancelled");

  absl::Status started = slot.StartWorker(tools.loop, internal::StartWorker(), [](const internal::WorkerToFront&) {});
  if (!started.ok()) return started;
  internal::FrontToWorker request;
  request.mutable_read_image_info()->set_image_name_for_messages(BaseName(image_path));
  absl::StatusOr<internal::WorkerToFront> answer = slot.worker()->Call(std::move(request), cancel, kImageInfoDeadline);
  if (!answer.ok()) return answer.status();
  if (!answer->has_image_info_read()) {
    return MakeError(Reason::kWorkerDied, "the process that reads the image gave no sensible answer");
  }
  v1::GetImageInfoResponse response;
  for (internal::ImageInfo& info : *answer->mutable_image_info_read()->mutable_images()) {
    *response.add_images() = ToPublic(std::move(info));
  }
  if (answer->image_info_read().has_disk()) {
    *response.mutable_disk() = ToPublic(std::move(*answer->mutable_image_info_read()->mutable_disk()));
  }
  return response;
}

}  // namespace dismd
