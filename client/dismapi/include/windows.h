/* SPDX-License-Identifier: Apache-2.0
 *
 * The few Windows types, macros and event functions that programs written for DismAPI.h need, for Linux. Not a port of
 * the Windows SDK: what is missing here is missing on purpose.
 *
 * wchar_t is 32 bits wide here (UTF-32) where it is 16 bits on Windows (UTF-16): L"" literals work in both worlds.
 */

#ifndef DISMD_WINDOWS_H_
#define DISMD_WINDOWS_H_

#include <stddef.h>
#include <stdint.h>
#include <wchar.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Calling conventions: x86-64 and arm64 have one. */
#define WINAPI
#define CALLBACK

#define VOID void
typedef int BOOL;
typedef unsigned char BYTE;
typedef uint16_t WORD;
typedef uint32_t DWORD; /* "unsigned long" on Windows, where that has 32 bits */
typedef unsigned int UINT;
typedef int INT;
typedef int32_t LONG;
typedef uint32_t ULONG;
typedef uint64_t UINT64;
typedef int32_t HRESULT;
typedef wchar_t WCHAR;
typedef WCHAR *PWSTR, *LPWSTR;
typedef const WCHAR *PCWSTR, *LPCWSTR;
typedef void *PVOID, *LPVOID;
typedef void* HANDLE;

typedef struct _SYSTEMTIME {
  WORD wYear;
  WORD wMonth;     /* 1 to 12 */
  WORD wDayOfWeek; /* 0: Sunday */
  WORD wDay;
  WORD wHour;
  WORD wMinute;
  WORD wSecond;
  WORD wMilliseconds;
} SYSTEMTIME, *PSYSTEMTIME, *LPSYSTEMTIME;

typedef struct _SECURITY_ATTRIBUTES {
  DWORD nLength;
  LPVOID lpSecurityDescriptor;
  BOOL bInheritHandle;
} SECURITY_ATTRIBUTES, *PSECURITY_ATTRIBUTES, *LPSECURITY_ATTRIBUTES;

#ifndef TRUE
#define TRUE 1
#endif
#ifndef FALSE
#define FALSE 0
#endif

#ifndef _HRESULT_TYPEDEF_
#define _HRESULT_TYPEDEF_(code) ((HRESULT)(code))
#endif
#define SUCCEEDED(hr) (((HRESULT)(hr)) >= 0)
#define FAILED(hr) (((HRESULT)(hr)) < 0)
#define HRESULT_CODE(hr) ((hr)&0xFFFF)
#define HRESULT_FACILITY(hr) (((hr) >> 16) & 0x1FFF)
#define FACILITY_WIN32 7
#define HRESULT_FROM_WIN32(error)           \
  ((HRESULT)(error) <= 0 ? (HRESULT)(error) \
                         : (HRESULT)(((uint32_t)(error)&0xFFFFu) | (FACILITY_WIN32 << 16) | 0x80000000u))

#define S_OK _HRESULT_TYPEDEF_(0)
#define S_FALSE _HRESULT_TYPEDEF_(1)
#define E_NOTIMPL _HRESULT_TYPEDEF_(0x80004001u)
#define E_FAIL _HRESULT_TYPEDEF_(0x80004005u)
#define E_UNEXPECTED _HRESULT_TYPEDEF_(0x8000FFFFu)
#define E_ACCESSDENIED _HRESULT_TYPEDEF_(0x80070005u)
#define E_HANDLE _HRESULT_TYPEDEF_(0x80070006u)
#define E_OUTOFMEMORY _HRESULT_TYPEDEF_(0x8007000Eu)
#define E_INVALIDARG _HRESULT_TYPEDEF_(0x80070057u)

#define ERROR_SUCCESS 0
#define ERROR_FILE_NOT_FOUND 2
#define ERROR_ACCESS_DENIED 5
#define ERROR_INVALID_HANDLE 6
#define ERROR_BAD_FORMAT 11
#define ERROR_INVALID_DATA 13
#define ERROR_OUTOFMEMORY 14
#define ERROR_SHARING_VIOLATION 32
#define ERROR_NOT_SUPPORTED 50
#define ERROR_INVALID_PARAMETER 87
#define ERROR_DISK_FULL 112
#define ERROR_UNRECOGNIZED_VOLUME 1005
#define ERROR_PROCESS_ABORTED 1067
#define ERROR_POSSIBLE_DEADLOCK 1131
#define ERROR_NOT_FOUND 1168
#define ERROR_CANCELLED 1223
#define ERROR_ALREADY_INITIALIZED 1247
#define ERROR_TIMEOUT 1460
#define RPC_S_SERVER_UNAVAILABLE 1722
#define ERROR_NOT_ENOUGH_QUOTA 1816
#define FVE_E_LOCKED_VOLUME _HRESULT_TYPEDEF_(0x80310000u)

/* Events, to cancel a call from another thread or from its progress callback.
 *
 * A HANDLE is a number that this library gave out, never a pointer: a stale or foreign one is recognised. On failure
 * the functions return NULL or FALSE and set errno (there is no GetLastError here).
 *
 * CreateEventW: events are private to the process; `Attributes` is not looked at and `Name` must be NULL (else EINVAL).
 *   A manual-reset event stays signalled until ResetEvent; an auto-reset event is reset by the call that it cancels.
 * CloseHandle: a call that is using the event goes on with it.
 * Thread safety: all may be called from any thread at any time, and from a progress callback; not from a signal
 * handler.
 */
#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

HANDLE WINAPI CreateEventW(LPSECURITY_ATTRIBUTES Attributes, BOOL ManualReset, BOOL InitialState, LPCWSTR Name);
BOOL WINAPI SetEvent(HANDLE Event);
BOOL WINAPI ResetEvent(HANDLE Event);
BOOL WINAPI CloseHandle(HANDLE Object);
#ifndef CreateEvent
#define CreateEvent CreateEventW
#endif

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif /* DISMD_WINDOWS_H_ */
