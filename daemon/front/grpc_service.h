// SPDX-License-Identifier: GPL-3.0-or-later
//
// The gRPC adapter of one connection: its calls are made in the name of the caller that it was built with. Handlers run
// on gRPC's few threads and hop to the service's pools at once.

#ifndef DAEMON_FRONT_GRPC_SERVICE_H_
#define DAEMON_FRONT_GRPC_SERVICE_H_

#include <memory>

#include "daemon/front/caller.h"
#include "daemon/front/service.h"
#include "grpcpp/impl/codegen/service_type.h"

namespace dismd {

// `service` outlives the adapter, which outlives the grpc::Server that it is registered with.
std::unique_ptr<grpc::Service> MakeGrpcService(Service& service, Caller caller);

}  // namespace dismd

#endif  // DAEMON_FRONT_GRPC_SERVICE_H_
