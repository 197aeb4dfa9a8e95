/* SPDX-License-Identifier: Apache-2.0
 *
 * DismAPI.h for Linux: the image-mounting side of Microsoft's DISM API, served by dismd. Link with -ldismapi.
 *
 *   DismInitialize(DismLogErrors, NULL, NULL);
 *   hr = DismMountImage(L"C:\\test\\images\\myimage.wim", L"C:\\test\\offline", 1, NULL, DismImageIndex,
 *                       DISM_MOUNT_READONLY, NULL, NULL, NULL);
 *   ...
 *   DismUnmountImage(L"C:\\test\\offline", DISM_DISCARD_IMAGE, NULL, NULL, NULL);
 *   DismShutdown();
 *
 * Names, numbers and layouts are those that Microsoft documents (learn.microsoft.com, "DISM API Reference": the page
 * named at each item, beneath /windows-hardware/manufacture/desktop/dism/). Written anew for this project. What
 * changes the Windows inside an image (DismAddPackage, ...) is declared in DismAPIServicing.h and returns E_NOTIMPL.
 *
 * To change an image, leave DISM_MOUNT_READONLY out, write into the mount as into any directory, and
 *
 *   DismOpenSession(L"C:\\test\\offline", NULL, NULL, &session);
 *   DismCommitImage(session, 0, NULL, NULL, NULL);       ... into the image; the mount stays
 *   DismCloseSession(session);
 *   DismUnmountImage(L"C:\\test\\offline", DISM_COMMIT_IMAGE, NULL, NULL, NULL);    ... or DISM_DISCARD_IMAGE
 *
 * PATHS      POSIX paths as they are; C:\dir\file through a drive map: DISMD_DRIVES=C:=/srv/c;D:=/mnt/d, or a section
 *            [drives] with lines "C: = /srv/c" in ~/.config/dismd/dismctl.conf or /etc/dismd/dismctl.conf. Relative
 *            paths start at the current directory. "*:=/srv/drives" is for all other letters: a VHD(X) may be mounted to a
 *            free one, L"X:", which is the directory /srv/drives/X then, and made.
 * SERVICE    DISMD_ADDRESS=unix:PATH, else the user's own service ($XDG_RUNTIME_DIR/dismd/dismd.sock), else the
 *            system's (/run/dismd/dismd.sock). No privileges are needed: a caller needs read access to the image and
 *            owns the mount point.
 * OWNERSHIP  What a function returns through a pointer to a pointer is one allocation, arrays with all that they point
 *            to included; DismDelete on the array's start frees it. Never free a member. What is passed in stays the
 *            caller's and is not used after the return. On failure the pointer is NULL and the count 0.
 * ERRORS     Every function returns an HRESULT; DismGetLastErrorMessage tells, for the calling thread, what happened to
 *            which file and what to do next. Where several things are wrong, the first row of the service's contract
 *            that fails answers. Codes that any function may return besides its own:
 *              DISMAPI_E_DISMAPI_NOT_INITIALIZED
 *              E_INVALIDARG                        a NULL pointer or malformed path
 *              0x800706BA RPC_S_SERVER_UNAVAILABLE the service does not run, or went away
 *              E_OUTOFMEMORY, E_FAIL
 *            No C++ exception leaves the library.
 * THREADS    Every function may be called from any thread at any time. Initialize and Shutdown are serialised; calls
 *            that run while another thread shuts down go on to their end. Progress callbacks run on the thread that
 *            called, never after the call has returned; they may call this library, set the cancel event included.
 *            The library has no threads of its own.
 * FORK       A child begins anew: not initialised, without its parent's sessions, events and results. It may initialise
 *            the library and use it. What a parent's call was doing goes on in the parent alone.
 *            Ending a process without DismShutdown is harmless; a mount stays, a mount being made is cancelled.
 */

#ifndef DISMAPI_H_
#define DISMAPI_H_

#include <windows.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In C++ an enumeration holds any int, as it does in C: what is not one of its values is then an argument to refuse,
 * not undefined behaviour. */
#ifdef __cplusplus
#define DISM_ENUM_BASE : int
#else
#define DISM_ENUM_BASE
#endif

/* ---- Constants ("DISM API Constants", dism-api-constants) ---- */

/* DismMountImage */
#define DISM_MOUNT_READWRITE 0x00000000
#define DISM_MOUNT_READONLY 0x00000001
#define DISM_MOUNT_OPTIMIZE 0x00000002        /* accepted: mounts are always lazy here */
#define DISM_MOUNT_CHECK_INTEGRITY 0x00000004 /* compare with the integrity table first; .wim family only */
#define DISM_MOUNT_SUPPORT_EA 0x00000008      /* accepted: mounts always carry extended attributes here (newer SDKs) */

/* DismUnmountImage: one of the two, and with DISM_COMMIT_IMAGE any of the DISM_COMMIT_ bits. DismCommitImage: the
 * bits. */
#define DISM_COMMIT_IMAGE 0x00000000
#define DISM_DISCARD_IMAGE 0x00000001
#define DISM_COMMIT_GENERATE_INTEGRITY 0x00010000 /* write an integrity table; one that is there is renewed always */
#define DISM_COMMIT_APPEND 0x00020000             /* as a new image at the end; the mount is of that one afterwards */
#define DISM_COMMIT_SUPPORT_EA 0x00040000         /* accepted: always carried (newer SDKs) */
#define DISM_COMMIT_MASK 0xFFFF0000               /* to extract the commit bits; not itself a flag */

/* Sessions */
#define DISM_SESSION_DEFAULT 0
#define DISM_ONLINE_IMAGE L"DISM_{53BFAE52-B167-4E2F-A258-0A37B57FF845}" /* a running Windows: there is none here */

/* Results of this API. Others are E_INVALIDARG and the like, Win32 errors (0x8007....) and those of the image engine
 * (0xC142...., 0xC151....), for which Microsoft publishes no names. */
#define DISMAPI_S_RELOAD_IMAGE_SESSION_REQUIRED _HRESULT_TYPEDEF_(0x00000001)
#define DISMAPI_E_DISMAPI_NOT_INITIALIZED _HRESULT_TYPEDEF_(0xC0040001u)
#define DISMAPI_E_SHUTDOWN_IN_PROGRESS _HRESULT_TYPEDEF_(0xC0040002u)
#define DISMAPI_E_OPEN_SESSION_HANDLES _HRESULT_TYPEDEF_(0xC0040003u)
#define DISMAPI_E_INVALID_DISM_SESSION _HRESULT_TYPEDEF_(0xC0040004u)
#define DISMAPI_E_INVALID_IMAGE_INDEX _HRESULT_TYPEDEF_(0xC0040005u)
#define DISMAPI_E_INVALID_IMAGE_NAME _HRESULT_TYPEDEF_(0xC0040006u)
#define DISMAPI_E_UNABLE_TO_UNMOUNT_IMAGE_PATH _HRESULT_TYPEDEF_(0xC0040007u)
#define DISMAPI_E_LOGGING_DISABLED _HRESULT_TYPEDEF_(0xC0040009u)
#define DISMAPI_E_OPEN_HANDLES_UNABLE_TO_UNMOUNT_IMAGE_PATH _HRESULT_TYPEDEF_(0xC004000Au)
#define DISMAPI_E_OPEN_HANDLES_UNABLE_TO_MOUNT_IMAGE_PATH _HRESULT_TYPEDEF_(0xC004000Bu)
#define DISMAPI_E_OPEN_HANDLES_UNABLE_TO_REMOUNT_IMAGE_PATH _HRESULT_TYPEDEF_(0xC004000Cu)
#define DISMAPI_E_MUST_SPECIFY_ONLINE_IMAGE _HRESULT_TYPEDEF_(0xC004000Eu)
#define DISMAPI_E_MUST_SPECIFY_INDEX_OR_NAME _HRESULT_TYPEDEF_(0xC0040020u)
#define DISMAPI_E_NEEDS_REMOUNT _HRESULT_TYPEDEF_(0xC1510114u)
/* Microsoft documents this name and publishes no value for it. Here: HRESULT_FROM_WIN32(ERROR_ALREADY_INITIALIZED). */
#define DISMAPI_E_DISMAPI_ALREADY_INITIALIZED _HRESULT_TYPEDEF_(0x800704DFu)

/* ---- Enumerations ("DISM API Enumerations"); 32 bits each ---- */

typedef enum _DismLogLevel DISM_ENUM_BASE { /* dismloglevel-enumeration */
  DismLogErrors = 0,
  DismLogErrorsWarnings = 1,
  DismLogErrorsWarningsInfo = 2,
  DismLogErrorsWarningsInfoDebug = 3 /* newer SDKs */
} DismLogLevel;

typedef enum _DismImageIdentifier DISM_ENUM_BASE { /* dismimageidentifier-enumeration */
  DismImageIndex = 0,
  DismImageName = 1,
  DismImageNone = 2 /* newer SDKs */
} DismImageIdentifier;

typedef enum _DismMountMode DISM_ENUM_BASE { /* dismmountmode-enumeration */
  DismReadWrite = 0,
  DismReadOnly = 1
} DismMountMode;

typedef enum _DismImageType DISM_ENUM_BASE { /* dismimagetype-enumeration */
  DismImageTypeUnsupported = -1,
  DismImageTypeWim = 0,
  DismImageTypeVhd = 1
} DismImageType;

typedef enum _DismImageBootable DISM_ENUM_BASE { /* dismimagebootable-enumeration */
  DismImageBootableYes = 0,
  DismImageBootableNo = 1,
  DismImageBootableUnknown = 2
} DismImageBootable;

typedef enum _DismMountStatus DISM_ENUM_BASE { /* dismmountstatus-enumeration */
  DismMountStatusOk = 0,
  DismMountStatusNeedsRemount = 1, /* not mounted at the moment; its edits are kept */
  DismMountStatusInvalid = 2       /* image gone or changed, or the serving process died: can only be unmounted */
} DismMountStatus;

typedef UINT DismSession;

/* ---- Structures ("DISM API Structures"): packed, the layout of Windows x64 but for the width of wchar_t ----
 * Strings are never NULL; empty where the image says nothing. */

#pragma pack(push, 1)

typedef struct _DismString { /* dismstring-structure */
  PCWSTR Value;
} DismString;

typedef DismString DismLanguage; /* dismlanguage-structure; such as L"en-US" */

typedef struct _DismWimCustomizedInfo { /* dismwimcustomizedinfo-structure */
  UINT Size;           /* of this structure, in bytes */
  UINT DirectoryCount; /* 0xFFFFFFFF: that many or more */
  UINT FileCount;
  SYSTEMTIME CreatedTime; /* UTC; all zero where the image says nothing */
  SYSTEMTIME ModifiedTime;
} DismWimCustomizedInfo;

typedef struct _DismImageInfo { /* dismimageinfo-structure */
  DismImageType ImageType;
  UINT ImageIndex; /* from 1 */
  PCWSTR ImageName;
  PCWSTR ImageDescription;
  UINT64 ImageSize;  /* bytes of all files */
  UINT Architecture; /* PROCESSOR_ARCHITECTURE_*: 0 x86, 5 ARM, 6 IA64, 9 AMD64, 12 ARM64, 65535 unknown */
  PCWSTR ProductName;
  PCWSTR EditionId;
  PCWSTR InstallationType;
  PCWSTR Hal;
  PCWSTR ProductType;
  PCWSTR ProductSuite;
  UINT MajorVersion;
  UINT MinorVersion;
  UINT Build;
  UINT SpBuild;
  UINT SpLevel;
  DismImageBootable Bootable;
  PCWSTR SystemRoot;
  DismLanguage *Language; /* LanguageCount of them; NULL when that is 0 */
  UINT LanguageCount;
  UINT DefaultLanguageIndex; /* into Language, from 0 */
  VOID *CustomizedInfo;      /* DismWimCustomizedInfo for the .wim family, NULL for a disk */
} DismImageInfo;

typedef struct _DismMountedImageInfo { /* dismmountedimageinfo-structure */
  PCWSTR MountPath;                    /* POSIX paths */
  PCWSTR ImageFilePath;
  UINT ImageIndex;
  DismMountMode MountMode;
  DismMountStatus MountStatus;
} DismMountedImageInfo;

#pragma pack(pop)

/* Current of Total, never backwards (dism-progress-callback-function). */
typedef void(CALLBACK *DISM_PROGRESS_CALLBACK)(UINT Current, UINT Total, PVOID UserData);

/* ---- Functions ("DISM API Functions") ---- */

#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

/* Makes the library ready; once, before anything else. Does not contact the service. (disminitialize-function)
 *
 * LogFilePath (may be NULL: then DISMD_LOG names it, or there is no log): a line for each call and its outcome, in the
 *   format of DISM's log, is added to the file: failures alone, with LogLevel DismLogErrors. Its directory must exist.
 * ScratchDirectory (may be NULL): must exist. What is edited in the mounts that DismMountImage makes is kept there, in a
 *   directory of each mount's own, until it is committed or discarded; so the caller must be able to write there, it
 *   must be on no network, and it must stay where it is, also when the program and the library have ended. NULL: the
 *   service keeps edits in its own state directory. Where it does not serve, DismMountImage tells that: E_INVALIDARG,
 *   E_ACCESSDENIED.
 *
 * DISMAPI_E_DISMAPI_ALREADY_INITIALIZED  of several calls the first wins
 * DISMAPI_E_LOGGING_DISABLED             the log file cannot be written: the library IS ready, without a log
 * E_INVALIDARG                           LogLevel is none; LogFilePath or ScratchDirectory is malformed; ScratchDirectory
 *                                        is no directory */
HRESULT WINAPI DismInitialize(DismLogLevel LogLevel, PCWSTR LogFilePath, PCWSTR ScratchDirectory);

/* Ends the use of the library; it may be initialised again. Mounts stay. (dismshutdown-function)
 * DISMAPI_E_OPEN_SESSION_HANDLES: sessions are open; close them first. */
HRESULT WINAPI DismShutdown(void);

/* Mounts an image of a .wim, .esd, .swm, .vhd or .vhdx file at an existing empty directory that the caller owns, or a disk
 * at a free drive letter (PATHS, above). (dismmountimage-function)
 *
 * ImageIdentifier picks ImageIndex or ImageName (compared without case); the other is not looked at.
 * Flags: DISM_MOUNT_*; unknown bits are E_INVALIDARG.
 * CancelEvent (may be NULL): from CreateEventW. A call that is cancelled returns HRESULT_FROM_WIN32(ERROR_CANCELLED)
 *   and leaves nothing behind; one cancelled too late succeeds.
 * Progress (may be NULL): called at least once when the mount succeeds, the last time with Current == Total.
 *
 * E_INVALIDARG                     path malformed; image or mount point missing or of the wrong kind; extension
 * 0x8007000B                       not an image, or damaged
 * DISMAPI_E_INVALID_IMAGE_INDEX, DISMAPI_E_INVALID_IMAGE_NAME
 * 0xC1420114, 0xC1420113, 0xC1420131  mount point not empty; already in use; root of a file system
 * 0x80070032                       image on a network file system, or another case that cannot be supported
 * 0x8007000D                       the integrity table does not match
 * E_ACCESSDENIED                   no read access to the image, mount point not the caller's, or policy
 * DISMAPI_E_OPEN_HANDLES_UNABLE_TO_MOUNT_IMAGE_PATH  this program has a session open on MountPath
 * Read-write (several images of one file may be mounted so at once):
 * 0xC1510111, 0xC1420127           the file cannot be written by the caller; this image is mounted read-write already
 * 0xC1420130, 0xC142013C           split and solid files (which can be mounted read-only)
 * 0x80070020                       another program is writing the file */
HRESULT WINAPI DismMountImage(PCWSTR ImageFilePath, PCWSTR MountPath, UINT ImageIndex, PCWSTR ImageName,
                              DismImageIdentifier ImageIdentifier, DWORD Flags, HANDLE CancelEvent,
                              DISM_PROGRESS_CALLBACK Progress, PVOID UserData);

/* Unmounts; afterwards the mount point is an empty directory again. (dismunmountimage-function)
 *
 * Flags: DISM_DISCARD_IMAGE, or DISM_COMMIT_IMAGE with any of the commit bits. A read-only mount takes only
 *   DISM_DISCARD_IMAGE: 0xC142010C otherwise. Returns when the image file is final on the disk.
 * A failed or cancelled commit leaves file, mount and changes as they were; cancelled too late, the call succeeds.
 *
 * DISMAPI_E_UNABLE_TO_UNMOUNT_IMAGE_PATH  no mount of the caller's is there
 * DISMAPI_E_OPEN_HANDLES_UNABLE_TO_UNMOUNT_IMAGE_PATH  this program has a session open on it
 * 0xC1420117                           files in it are in use (the message names the processes); call again, with the
 *                                      same flags: what was committed is not committed or appended twice
 * DISMAPI_E_NEEDS_REMOUNT, 0xC1510115  commit: it is not mounted at the moment; it is invalid
 * and, with DISM_COMMIT_IMAGE, those of DismCommitImage */
HRESULT WINAPI DismUnmountImage(PCWSTR MountPath, DWORD Flags, HANDLE CancelEvent, DISM_PROGRESS_CALLBACK Progress,
                                PVOID UserData);

/* Brings a mount back that is DismMountStatusNeedsRemount (after a restart of the machine or the service), with every
 * change that had reached the disk. (dismremountimage-function)
 *
 * 0xC1420123   no mount of the caller's is there that needs it
 * 0xC1420124   the image file was changed by another program since; put it back, or discard by DismUnmountImage
 * 0xC1420125   another operation works on it
 * 0xC1510115   it is invalid: image, mount point or changes are gone
 * 0xC1420114, 0xC1420113  something else is at the mount point
 * DISMAPI_E_OPEN_HANDLES_UNABLE_TO_REMOUNT_IMAGE_PATH  this program has a session open on it */
HRESULT WINAPI DismRemountImage(PCWSTR MountPath);

/* Opens a session on an offline image: a mount point of DismMountImage, or any other directory, which cannot be
 * committed. A session belongs to this process; several may be open on one mount. While one is, this program cannot
 * unmount it. (dismopensession-function)
 *
 * WindowsDirectory and SystemDrive serve servicing functions, which are not there yet; they may be NULL.
 * *Session is DISM_SESSION_DEFAULT on failure.
 * E_INVALIDARG                          no such directory
 * DISMAPI_E_NEEDS_REMOUNT, 0xC1510115   the mount must be remounted first; it is invalid
 * DISMAPI_E_MUST_SPECIFY_ONLINE_IMAGE   the root of the running system
 * 0x80070032                            DISM_ONLINE_IMAGE */
HRESULT WINAPI DismOpenSession(PCWSTR ImagePath, PCWSTR WindowsDirectory, PCWSTR SystemDrive, DismSession *Session);

/* Closes a session; waits for the calls that use it. The mount stays. (dismclosesession-function)
 * DISMAPI_E_INVALID_DISM_SESSION  not an open session, or being closed by another thread
 * 0x8007046B                      called from the progress callback of a call that uses it: it would wait for itself */
HRESULT WINAPI DismCloseSession(DismSession Session);

/* Writes the changes of a read-write mount into its image file. The mount stays, and so do changes made meanwhile, for
 * the next commit. (dismcommitimage-function)
 *
 * Flags: any of the DISM_COMMIT_ bits, or 0; other bits are E_INVALIDARG.
 * CancelEvent, Progress: as in DismMountImage. A failed or cancelled commit leaves the file byte for byte as it was, and
 *   the changes staged; cancelled too late, the call succeeds.
 *
 * E_INVALIDARG  Session is not an open session, or not one on a mounted image
 * DISMAPI_E_INVALID_DISM_SESSION  it is being closed
 * 0xC142010C    the image is mounted read-only
 * 0xC1420122    another program changed the image file since it was mounted
 * 0x80070020    another program is writing the file or has it locked
 * 0xC15101FD    another operation works on the mount
 * 0x80070070    no space left where the file lies
 * 0xC1510111    the file cannot be written any more
 * DISMAPI_E_NEEDS_REMOUNT, 0xC1510115  the mount must be remounted first; it is invalid */
HRESULT WINAPI DismCommitImage(DismSession Session, DWORD Flags, HANDLE CancelEvent, DISM_PROGRESS_CALLBACK Progress,
                               PVOID UserData);

/* Frees what is left of the caller's invalid mounts (root: everyone's); never touches live ones, or those that can be
 * remounted, and throws no edits away: a mount that has some stays as one to be remounted, or to be discarded by
 * DismUnmountImage. (dismcleanupmountpoints-function) */
HRESULT WINAPI DismCleanupMountpoints(void);

/* What an image file says of the images in it, in order of index. Nothing is mounted. (dismgetimageinfo-function)
 * Errors of the image as in DismMountImage. */
HRESULT WINAPI DismGetImageInfo(PCWSTR ImageFilePath, DismImageInfo **ImageInfo, UINT *Count);

/* The caller's mounts (root: everyone's), in order of mount time. None: S_OK, NULL and 0.
 * (dismgetmountedimageinfo-function) */
HRESULT WINAPI DismGetMountedImageInfo(DismMountedImageInfo **MountedImageInfo, UINT *Count);

/* The text of the calling thread's last failed call; an empty string when its last call succeeded. Calls to DismShutdown,
 * DismDelete and this function do not change it. Also tells why a call failed that came before DismInitialize; only
 * without any such text it is DISMAPI_E_DISMAPI_NOT_INITIALIZED itself. (dismgetlasterrormessage-function) */
HRESULT WINAPI DismGetLastErrorMessage(DismString **ErrorMessage);

/* Frees what another function returned. NULL is ignored; a pointer that the library did not return, or that was freed
 * before, is E_INVALIDARG. Needs no DismInitialize. (dismdelete-function) */
HRESULT WINAPI DismDelete(VOID *DismStructure);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#include <DismAPIServicing.h>

#ifdef __cplusplus
}
#endif

#endif /* DISMAPI_H_ */
