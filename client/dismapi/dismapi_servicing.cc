// SPDX-License-Identifier: Apache-2.0
//
// The functions of DismAPIServicing.h: there for programs to link with, and to say that they are not there.

#include <string>

#include "client/dismapi/include/DismAPI.h"
#include "client/dismapi/library.h"

namespace dismd {
namespace {

template <typename T>
void Clear(T** result) {
  if (result != nullptr) *result = nullptr;
}
void Clear(UINT* result) {
  if (result != nullptr) *result = 0;
}
void Clear(DismImageHealthState* result) {
  if (result != nullptr) *result = DismImageHealthy;
}

template <typename... Results>
HRESULT NotImplemented(const char* function, Results... results) {
  return AtBorder(function, [&] {
    (Clear(results), ...);
    if (Library::Instance().service() == nullptr) return FailNotInitialized();
    return Fail(E_NOTIMPL, std::string(function) +
                               " is not there: dismd mounts Windows images and does not service them; change the files "
                               "of a mounted image, or use DISM on Windows");
  });
}

}  // namespace
}  // namespace dismd

extern "C" {

HRESULT WINAPI DismCheckImageHealth(DismSession, BOOL, HANDLE, DISM_PROGRESS_CALLBACK, PVOID,
                                    DismImageHealthState* ImageHealth) {
  return dismd::NotImplemented("DismCheckImageHealth", ImageHealth);
}

HRESULT WINAPI DismRestoreImageHealth(DismSession, PCWSTR*, UINT, BOOL, HANDLE, DISM_PROGRESS_CALLBACK, PVOID) {
  return dismd::NotImplemented("DismRestoreImageHealth");
}

HRESULT WINAPI DismAddPackage(DismSession, PCWSTR, BOOL, BOOL, HANDLE, DISM_PROGRESS_CALLBACK, PVOID) {
  return dismd::NotImplemented("DismAddPackage");
}

HRESULT WINAPI DismRemovePackage(DismSession, PCWSTR, DismPackageIdentifier, HANDLE, DISM_PROGRESS_CALLBACK, PVOID) {
  return dismd::NotImplemented("DismRemovePackage");
}

HRESULT WINAPI DismEnableFeature(DismSession, PCWSTR, PCWSTR, DismPackageIdentifier, BOOL, PCWSTR*, UINT, BOOL, HANDLE,
                                 DISM_PROGRESS_CALLBACK, PVOID) {
  return dismd::NotImplemented("DismEnableFeature");
}

HRESULT WINAPI DismDisableFeature(DismSession, PCWSTR, PCWSTR, BOOL, HANDLE, DISM_PROGRESS_CALLBACK, PVOID) {
  return dismd::NotImplemented("DismDisableFeature");
}

HRESULT WINAPI DismGetPackages(DismSession, DismPackage** Package, UINT* Count) {
  return dismd::NotImplemented("DismGetPackages", Package, Count);
}

HRESULT WINAPI DismGetPackageInfo(DismSession, PCWSTR, DismPackageIdentifier, DismPackageInfo** PackageInfo) {
  return dismd::NotImplemented("DismGetPackageInfo", PackageInfo);
}

HRESULT WINAPI DismGetPackageInfoEx(DismSession, PCWSTR, DismPackageIdentifier, DismPackageInfoEx** PackageInfoEx) {
  return dismd::NotImplemented("DismGetPackageInfoEx", PackageInfoEx);
}

HRESULT WINAPI DismGetFeatures(DismSession, PCWSTR, DismPackageIdentifier, DismFeature** Feature, UINT* Count) {
  return dismd::NotImplemented("DismGetFeatures", Feature, Count);
}

HRESULT WINAPI DismGetFeatureInfo(DismSession, PCWSTR, PCWSTR, DismPackageIdentifier, DismFeatureInfo** FeatureInfo) {
  return dismd::NotImplemented("DismGetFeatureInfo", FeatureInfo);
}

HRESULT WINAPI DismGetFeatureParent(DismSession, PCWSTR, PCWSTR, DismPackageIdentifier, DismFeature** Feature,
                                    UINT* Count) {
  return dismd::NotImplemented("DismGetFeatureParent", Feature, Count);
}

HRESULT WINAPI DismApplyUnattend(DismSession, PCWSTR, BOOL) { return dismd::NotImplemented("DismApplyUnattend"); }

HRESULT WINAPI DismAddDriver(DismSession, PCWSTR, BOOL) { return dismd::NotImplemented("DismAddDriver"); }

HRESULT WINAPI DismRemoveDriver(DismSession, PCWSTR) { return dismd::NotImplemented("DismRemoveDriver"); }

HRESULT WINAPI DismGetDrivers(DismSession, BOOL, DismDriverPackage** DriverPackage, UINT* Count) {
  return dismd::NotImplemented("DismGetDrivers", DriverPackage, Count);
}

HRESULT WINAPI DismGetDriverInfo(DismSession, PCWSTR, DismDriver** Driver, UINT* Count,
                                 DismDriverPackage** DriverPackage) {
  return dismd::NotImplemented("DismGetDriverInfo", Driver, Count, DriverPackage);
}

HRESULT WINAPI DismGetCapabilities(DismSession, DismCapability** Capability, UINT* Count) {
  return dismd::NotImplemented("DismGetCapabilities", Capability, Count);
}

HRESULT WINAPI DismGetCapabilityInfo(DismSession, PCWSTR, DismCapabilityInfo** Info) {
  return dismd::NotImplemented("DismGetCapabilityInfo", Info);
}

HRESULT WINAPI DismAddCapability(DismSession, PCWSTR, BOOL, PCWSTR*, UINT, HANDLE, DISM_PROGRESS_CALLBACK, PVOID) {
  return dismd::NotImplemented("DismAddCapability");
}

HRESULT WINAPI DismRemoveCapability(DismSession, PCWSTR, HANDLE, DISM_PROGRESS_CALLBACK, PVOID) {
  return dismd::NotImplemented("DismRemoveCapability");
}

HRESULT WINAPI DismGetReservedStorageState(DismSession, DWORD* State) {
  return dismd::NotImplemented("DismGetReservedStorageState", State);
}

HRESULT WINAPI DismSetReservedStorageState(DismSession, DWORD) {
  return dismd::NotImplemented("DismSetReservedStorageState");
}

HRESULT WINAPI _DismGetProvisionedAppxPackages(DismSession, DismAppxPackage** Package, UINT* Count) {
  return dismd::NotImplemented("_DismGetProvisionedAppxPackages", Package, Count);
}

HRESULT WINAPI _DismAddProvisionedAppxPackage(DismSession, PCWSTR, PCWSTR*, UINT, PCWSTR*, UINT, PCWSTR*, UINT, BOOL,
                                              PCWSTR, PCWSTR, DismStubPackageOption) {
  return dismd::NotImplemented("_DismAddProvisionedAppxPackage");
}

HRESULT WINAPI _DismRemoveProvisionedAppxPackage(DismSession, PCWSTR) {
  return dismd::NotImplemented("_DismRemoveProvisionedAppxPackage");
}

HRESULT WINAPI _DismGetRegistryMountPoint(DismSession, DismRegistryHive, DismString** RegistryMountPoint) {
  return dismd::NotImplemented("_DismGetRegistryMountPoint", RegistryMountPoint);
}

HRESULT WINAPI _DismSetProductKey(DismSession, PCWSTR) { return dismd::NotImplemented("_DismSetProductKey"); }

HRESULT WINAPI _DismGetProductKeyInfo(DismSession, PCWSTR, DismString** EditionId, DismString** Channel) {
  return dismd::NotImplemented("_DismGetProductKeyInfo", EditionId, Channel);
}

HRESULT WINAPI _DismGetCurrentEdition(DismSession, DismString** EditionId) {
  return dismd::NotImplemented("_DismGetCurrentEdition", EditionId);
}

HRESULT WINAPI _DismGetTargetEditions(DismSession, DismString*** EditionIds, UINT* Count) {
  return dismd::NotImplemented("_DismGetTargetEditions", EditionIds, Count);
}

HRESULT WINAPI _DismSetEdition(DismSession, PCWSTR, PCWSTR, HANDLE, DISM_PROGRESS_CALLBACK, PVOID) {
  return dismd::NotImplemented("_DismSetEdition");
}

}  // extern "C"
