// SPDX-License-Identifier: GPL-3.0-or-later
//
// Server reflection (grpc.reflection.v1alpha), so that grpcurl and the like can call without our .proto files.
//
// gRPC's own plug-in is synchronous: it would cost each connection's server threads of its own.

#ifndef DAEMON_FRONT_REFLECTION_SERVICE_H_
#define DAEMON_FRONT_REFLECTION_SERVICE_H_

#include <memory>

#include "grpcpp/impl/codegen/service_type.h"

namespace dismd {

std::unique_ptr<grpc::Service> MakeReflectionService();

}  // namespace dismd

#endif  // DAEMON_FRONT_REFLECTION_SERVICE_H_
