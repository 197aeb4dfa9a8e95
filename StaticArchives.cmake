# SPDX-License-Identifier: GPL-3.0-or-later
#
# dismd_absl and dismd_protobuf_lite: as archives in a program whose property DISMD_STATIC is true, else as shared
# libraries. A worker is started for each mount: finding and linking forty libraries is a part of its work, and makes the
# broker's forks slower. What has security updates of its own (OpenSSL, libxml2, libfuse) stays shared everywhere; so
# does wimlib, whose archive is not made for programs at any address.
#
# DISMD_HAS_STATIC: whether the archives are there (Debian's packages for development have them).

set(DISMD_HAS_STATIC ON)
foreach(name absl_base protobuf-lite)
  find_library(DISMD_ARCHIVE_${name} NAMES lib${name}.a)
  mark_as_advanced(DISMD_ARCHIVE_${name})
  if(NOT DISMD_ARCHIVE_${name})
    message(STATUS "lib${name}.a is not there: the worker will use shared libraries, and start slower")
    set(DISMD_HAS_STATIC OFF)
  endif()
endforeach()
if(DISMD_SANITIZE OR DISMD_BUILD_FUZZERS)
  set(DISMD_HAS_STATIC OFF)
endif()

# All of Abseil's: they need each other in ways that only its own description tells, and only what is used is taken.
set(abseil)
if(DISMD_HAS_STATIC)
  cmake_path(GET DISMD_ARCHIVE_absl_base PARENT_PATH directory)
  file(GLOB abseil ${directory}/libabsl_*.a)
endif()
list(JOIN abseil "," abseil_group)
add_library(dismd_absl_static INTERFACE)
target_link_libraries(dismd_absl_static INTERFACE "$<LINK_GROUP:RESCAN,${abseil_group}>")
add_library(dismd_absl_shared INTERFACE)
target_link_libraries(dismd_absl_shared INTERFACE absl::btree absl::flat_hash_map absl::flat_hash_set absl::function_ref
  absl::inlined_vector absl::span absl::status absl::statusor absl::str_format absl::strings absl::synchronization absl::time)

function(dismd_either name static shared)
  add_library(${name} INTERFACE)
  target_link_libraries(${name} INTERFACE $<IF:$<BOOL:$<TARGET_PROPERTY:DISMD_STATIC>>,${static},${shared}>)
endfunction()
dismd_either(dismd_absl dismd_absl_static dismd_absl_shared)
dismd_either(dismd_protobuf_lite "${DISMD_ARCHIVE_protobuf-lite}" protobuf::libprotobuf-lite)
