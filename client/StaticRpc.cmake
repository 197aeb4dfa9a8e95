# SPDX-License-Identifier: Apache-2.0
#
# dismd_rpc: gRPC and protobuf, for what clients are made of. A target whose property DISMD_STATIC_RPC is true gets them,
# and what only they need, as archives. OpenSSL and zlib stay shared: they have security updates of their own. Tests that
# link the clients' code get everything shared, since a server within them must not bring gRPC a second time.
#
# DISMD_HAS_STATIC_RPC: whether the archives are there (Debian's packages for development have them).

add_library(dismd_rpc_shared INTERFACE)
target_link_libraries(dismd_rpc_shared INTERFACE protobuf::libprotobuf gRPC::grpc++)

set(archives)
set(DISMD_HAS_STATIC_RPC ON)
foreach(name grpc++ grpc gpr address_sorting upb re2 cares protobuf absl_base)
  find_library(DISMD_ARCHIVE_${name} NAMES lib${name}.a)
  mark_as_advanced(DISMD_ARCHIVE_${name})
  if(DISMD_ARCHIVE_${name})
    list(APPEND archives ${DISMD_ARCHIVE_${name}})
  else()
    message(STATUS "lib${name}.a is not there: dismctl will use the shared gRPC, and start slower")
    set(DISMD_HAS_STATIC_RPC OFF)
  endif()
endforeach()
if(DISMD_SANITIZE OR DISMD_BUILD_FUZZERS)
  set(DISMD_HAS_STATIC_RPC OFF)
endif()

add_library(dismd_rpc_static INTERFACE)
if(DISMD_HAS_STATIC_RPC)
  # All of Abseil's: only what is used is taken, and asking pkg-config what gRPC needs takes it half a minute.
  cmake_path(GET DISMD_ARCHIVE_absl_base PARENT_PATH directory)
  file(GLOB abseil ${directory}/libabsl_*.a)
  list(APPEND archives ${abseil})
  list(REMOVE_DUPLICATES archives)
  list(JOIN archives "," archives)
  target_link_libraries(dismd_rpc_static INTERFACE
    "$<LINK_GROUP:RESCAN,${archives}>" ssl crypto z Threads::Threads ${CMAKE_DL_LIBS})
endif()

add_library(dismd_rpc INTERFACE)
target_link_libraries(dismd_rpc INTERFACE
  $<IF:$<BOOL:$<TARGET_PROPERTY:DISMD_STATIC_RPC>>,dismd_rpc_static,dismd_rpc_shared>)
