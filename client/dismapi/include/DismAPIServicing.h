/* SPDX-License-Identifier: Apache-2.0
 *
 * The rest of Microsoft's DismAPI.h: what changes the Windows inside an image (packages, features, capabilities,
 * drivers, ...). Declared so that programs compile and link; included by DismAPI.h. dismd mounts images and services
 * none: every function here returns E_NOTIMPL, sets what it would return to NULL or 0, and DismGetLastErrorMessage names
 * the function. (Before DismInitialize: DISMAPI_E_DISMAPI_NOT_INITIALIZED.)
 */

#ifndef DISMAPI_SERVICING_H_
#define DISMAPI_SERVICING_H_

#define DISMAPI_E_PARENT_FEATURE_DISABLED _HRESULT_TYPEDEF_(0xC004000Du)
#define DISMAPI_E_INVALID_PRODUCT_KEY _HRESULT_TYPEDEF_(0xC004000Fu)
#define DISMAPI_E_UNKNOWN_FEATURE _HRESULT_TYPEDEF_(0x800F080Cu)
#define DISMAPI_E_BUSY _HRESULT_TYPEDEF_(0x800F0902u)

#define DISM_RESERVED_STORAGE_DISABLED 0x00000000
#define DISM_RESERVED_STORAGE_ENABLED 0x00000001

typedef enum _DismImageHealthState DISM_ENUM_BASE {
  DismImageHealthy = 0,
  DismImageRepairable = 1,
  DismImageNonRepairable = 2
} DismImageHealthState;

typedef enum _DismPackageIdentifier DISM_ENUM_BASE {
  DismPackageNone = 0,
  DismPackageName = 1,
  DismPackagePath = 2
} DismPackageIdentifier;

typedef enum _DismPackageFeatureState DISM_ENUM_BASE {
  DismStateNotPresent = 0,
  DismStateUninstallPending = 1,
  DismStateStaged = 2,
  DismStateResolved = 3,
  DismStateRemoved = 3,
  DismStateInstalled = 4,
  DismStateInstallPending = 5,
  DismStateSuperseded = 6,
  DismStatePartiallyInstalled = 7
} DismPackageFeatureState;

typedef enum _DismReleaseType DISM_ENUM_BASE {
  DismReleaseTypeCriticalUpdate = 0,
  DismReleaseTypeDriver = 1,
  DismReleaseTypeFeaturePack = 2,
  DismReleaseTypeHotfix = 3,
  DismReleaseTypeSecurityUpdate = 4,
  DismReleaseTypeSoftwareUpdate = 5,
  DismReleaseTypeUpdate = 6,
  DismReleaseTypeUpdateRollup = 7,
  DismReleaseTypeLanguagePack = 8,
  DismReleaseTypeFoundation = 9,
  DismReleaseTypeServicePack = 10,
  DismReleaseTypeProduct = 11,
  DismReleaseTypeLocalPack = 12,
  DismReleaseTypeOther = 13,
  DismReleaseTypeOnDemandPack = 14
} DismReleaseType;

typedef enum _DismRestartType DISM_ENUM_BASE {
  DismRestartNo = 0,
  DismRestartPossible = 1,
  DismRestartRequired = 2
} DismRestartType;

typedef enum _DismDriverSignature DISM_ENUM_BASE {
  DismDriverSignatureUnknown = 0,
  DismDriverSignatureUnsigned = 1,
  DismDriverSignatureSigned = 2
} DismDriverSignature;

typedef enum _DismFullyOfflineInstallableType DISM_ENUM_BASE {
  DismFullyOfflineInstallable = 0,
  DismFullyOfflineNotInstallable = 1,
  DismFullyOfflineInstallableUndetermined = 2
} DismFullyOfflineInstallableType;

typedef enum _DismStubPackageOption DISM_ENUM_BASE {
  DismStubPackageOptionNone = 0,
  DismStubPackageOptionInstallFull = 1,
  DismStubPackageOptionInstallStub = 2
} DismStubPackageOption;

typedef enum _DismRegistryHive DISM_ENUM_BASE {
  DismRegistryHiveSoftware = 0,
  DismRegistryHiveSystem = 1,
  DismRegistryHiveSecurity = 2,
  DismRegistryHiveSAM = 3,
  DismRegistryHiveDefault = 4,
  DismRegistryHiveHKCU = 5,
  DismRegistryHiveComponents = 6,
  DismRegistryHiveDrivers = 7
} DismRegistryHive;

#pragma pack(push, 1)

typedef struct _DismPackage {
  PCWSTR PackageName;
  DismPackageFeatureState PackageState;
  DismReleaseType ReleaseType;
  SYSTEMTIME InstallTime;
} DismPackage;

typedef struct _DismCustomProperty {
  PCWSTR Name;
  PCWSTR Value;
  PCWSTR Path;
} DismCustomProperty;

typedef struct _DismFeature {
  PCWSTR FeatureName;
  DismPackageFeatureState State;
} DismFeature;

typedef struct _DismCapability {
  PCWSTR Name;
  DismPackageFeatureState State;
} DismCapability;

/* The fields of a DismPackageInfo, which a DismPackageInfoEx begins with. */
#define DISM_PACKAGE_INFO_FIELDS                \
  PCWSTR PackageName;                           \
  DismPackageFeatureState PackageState;         \
  DismReleaseType ReleaseType;                  \
  SYSTEMTIME InstallTime;                       \
  BOOL Applicable;                              \
  PCWSTR Copyright;                             \
  PCWSTR Company;                               \
  SYSTEMTIME CreationTime;                      \
  PCWSTR DisplayName;                           \
  PCWSTR Description;                           \
  PCWSTR InstallClient;                         \
  PCWSTR InstallPackageName;                    \
  SYSTEMTIME LastUpdateTime;                    \
  PCWSTR ProductName;                           \
  PCWSTR ProductVersion;                        \
  DismRestartType RestartRequired;              \
  DismFullyOfflineInstallableType FullyOffline; \
  PCWSTR SupportInformation;                    \
  DismCustomProperty *CustomProperty;           \
  UINT CustomPropertyCount;                     \
  DismFeature *Feature;                         \
  UINT FeatureCount;

typedef struct _DismPackageInfo {
  DISM_PACKAGE_INFO_FIELDS
} DismPackageInfo;

typedef struct _DismPackageInfoEx {
  DISM_PACKAGE_INFO_FIELDS
  PCWSTR CapabilityId;
} DismPackageInfoEx;

typedef struct _DismFeatureInfo {
  PCWSTR FeatureName;
  DismPackageFeatureState FeatureState;
  PCWSTR DisplayName;
  PCWSTR Description;
  DismRestartType RestartRequired;
  DismCustomProperty *CustomProperty;
  UINT CustomPropertyCount;
} DismFeatureInfo;

typedef struct _DismCapabilityInfo {
  PCWSTR Name;
  DismPackageFeatureState State;
  PCWSTR DisplayName;
  PCWSTR Description;
  DWORD DownloadSize;
  DWORD InstallSize;
} DismCapabilityInfo;

typedef struct _DismDriverPackage {
  PCWSTR PublishedName;
  PCWSTR OriginalFileName;
  BOOL InBox;
  PCWSTR CatalogFile;
  PCWSTR ClassName;
  PCWSTR ClassGuid;
  PCWSTR ClassDescription;
  BOOL BootCritical;
  DismDriverSignature DriverSignature;
  PCWSTR ProviderName;
  SYSTEMTIME Date;
  UINT MajorVersion;
  UINT MinorVersion;
  UINT Build;
  UINT Revision;
} DismDriverPackage;

typedef struct _DismDriver {
  PCWSTR ManufacturerName;
  PCWSTR HardwareDescription;
  PCWSTR HardwareId;
  UINT Architecture;
  PCWSTR ServiceName;
  PCWSTR CompatibleIds;
  PCWSTR ExcludeIds;
} DismDriver;

typedef struct _DismAppxPackage {
  PCWSTR PackageName;
  PCWSTR DisplayName;
  PCWSTR PublisherId;
  UINT MajorVersion;
  UINT MinorVersion;
  UINT Build;
  UINT RevisionNumber;
  UINT Architecture;
  PCWSTR ResourceId;
  PCWSTR InstallLocation;
  PCWSTR Region;
} DismAppxPackage;

#pragma pack(pop)

#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

HRESULT WINAPI DismCheckImageHealth(DismSession Session, BOOL ScanImage, HANDLE CancelEvent,
                                    DISM_PROGRESS_CALLBACK Progress, PVOID UserData, DismImageHealthState *ImageHealth);
HRESULT WINAPI DismRestoreImageHealth(DismSession Session, PCWSTR *SourcePaths, UINT SourcePathCount, BOOL LimitAccess,
                                      HANDLE CancelEvent, DISM_PROGRESS_CALLBACK Progress, PVOID UserData);
HRESULT WINAPI DismAddPackage(DismSession Session, PCWSTR PackagePath, BOOL IgnoreCheck, BOOL PreventPending,
                              HANDLE CancelEvent, DISM_PROGRESS_CALLBACK Progress, PVOID UserData);
HRESULT WINAPI DismRemovePackage(DismSession Session, PCWSTR Identifier, DismPackageIdentifier PackageIdentifier,
                                 HANDLE CancelEvent, DISM_PROGRESS_CALLBACK Progress, PVOID UserData);
HRESULT WINAPI DismEnableFeature(DismSession Session, PCWSTR FeatureName, PCWSTR Identifier,
                                 DismPackageIdentifier PackageIdentifier, BOOL LimitAccess, PCWSTR *SourcePaths,
                                 UINT SourcePathCount, BOOL EnableAll, HANDLE CancelEvent,
                                 DISM_PROGRESS_CALLBACK Progress, PVOID UserData);
HRESULT WINAPI DismDisableFeature(DismSession Session, PCWSTR FeatureName, PCWSTR PackageName, BOOL RemovePayload,
                                  HANDLE CancelEvent, DISM_PROGRESS_CALLBACK Progress, PVOID UserData);
HRESULT WINAPI DismGetPackages(DismSession Session, DismPackage **Package, UINT *Count);
HRESULT WINAPI DismGetPackageInfo(DismSession Session, PCWSTR Identifier, DismPackageIdentifier PackageIdentifier,
                                  DismPackageInfo **PackageInfo);
HRESULT WINAPI DismGetPackageInfoEx(DismSession Session, PCWSTR Identifier, DismPackageIdentifier PackageIdentifier,
                                    DismPackageInfoEx **PackageInfoEx);
HRESULT WINAPI DismGetFeatures(DismSession Session, PCWSTR Identifier, DismPackageIdentifier PackageIdentifier,
                               DismFeature **Feature, UINT *Count);
HRESULT WINAPI DismGetFeatureInfo(DismSession Session, PCWSTR FeatureName, PCWSTR Identifier,
                                  DismPackageIdentifier PackageIdentifier, DismFeatureInfo **FeatureInfo);
HRESULT WINAPI DismGetFeatureParent(DismSession Session, PCWSTR FeatureName, PCWSTR Identifier,
                                    DismPackageIdentifier PackageIdentifier, DismFeature **Feature, UINT *Count);
HRESULT WINAPI DismApplyUnattend(DismSession Session, PCWSTR UnattendFile, BOOL SingleSession);
HRESULT WINAPI DismAddDriver(DismSession Session, PCWSTR DriverPath, BOOL ForceUnsigned);
HRESULT WINAPI DismRemoveDriver(DismSession Session, PCWSTR DriverPath);
HRESULT WINAPI DismGetDrivers(DismSession Session, BOOL AllDrivers, DismDriverPackage **DriverPackage, UINT *Count);
HRESULT WINAPI DismGetDriverInfo(DismSession Session, PCWSTR DriverPath, DismDriver **Driver, UINT *Count,
                                 DismDriverPackage **DriverPackage);
HRESULT WINAPI DismGetCapabilities(DismSession Session, DismCapability **Capability, UINT *Count);
HRESULT WINAPI DismGetCapabilityInfo(DismSession Session, PCWSTR Name, DismCapabilityInfo **Info);
HRESULT WINAPI DismAddCapability(DismSession Session, PCWSTR Name, BOOL LimitAccess, PCWSTR *SourcePaths,
                                 UINT SourcePathCount, HANDLE CancelEvent, DISM_PROGRESS_CALLBACK Progress,
                                 PVOID UserData);
HRESULT WINAPI DismRemoveCapability(DismSession Session, PCWSTR Name, HANDLE CancelEvent,
                                    DISM_PROGRESS_CALLBACK Progress, PVOID UserData);
HRESULT WINAPI DismGetReservedStorageState(DismSession Session, DWORD *State);
HRESULT WINAPI DismSetReservedStorageState(DismSession Session, DWORD State);

/* Exported by newer dismapi.dll, and used by wrappers such as ManagedDism. */
HRESULT WINAPI _DismGetProvisionedAppxPackages(DismSession Session, DismAppxPackage **Package, UINT *Count);
HRESULT WINAPI _DismAddProvisionedAppxPackage(DismSession Session, PCWSTR AppPath, PCWSTR *DependencyPackages,
                                              UINT DependencyPackageCount, PCWSTR *OptionalPackages,
                                              UINT OptionalPackageCount, PCWSTR *LicensePaths, UINT LicensePathCount,
                                              BOOL SkipLicense, PCWSTR CustomDataPath, PCWSTR Region,
                                              DismStubPackageOption StubPackageOption);
HRESULT WINAPI _DismRemoveProvisionedAppxPackage(DismSession Session, PCWSTR PackageName);
HRESULT WINAPI _DismGetRegistryMountPoint(DismSession Session, DismRegistryHive RegistryHive,
                                          DismString **RegistryMountPoint);
HRESULT WINAPI _DismSetProductKey(DismSession Session, PCWSTR ProductKey);
HRESULT WINAPI _DismGetProductKeyInfo(DismSession Session, PCWSTR ProductKey, DismString **EditionId,
                                      DismString **Channel);
HRESULT WINAPI _DismGetCurrentEdition(DismSession Session, DismString **EditionId);
HRESULT WINAPI _DismGetTargetEditions(DismSession Session, DismString ***EditionIds, UINT *Count);
HRESULT WINAPI _DismSetEdition(DismSession Session, PCWSTR EditionId, PCWSTR ProductKey, HANDLE CancelEvent,
                               DISM_PROGRESS_CALLBACK Progress, PVOID UserData);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#endif /* DISMAPI_SERVICING_H_ */
