/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A program as one writes it for Windows with Microsoft's pages on the DISM API at hand ("DISM API Reference": "Using
 * the DISM API", DismMountImage, DismOpenSession, DismCommitImage, DismGetLastErrorMessage, ...) and nothing of
 * dismd's. But for the paths at the top nothing in it is of this system. It services an image: mounts it, commits an
 * edit that is made meanwhile, closes, unmounts, and at the end mounts an image that is not there, for the error's
 * text.
 */

#include <stdio.h>
#include <windows.h>

#include "DismAPI.h"

static const WCHAR kImage[] = L"C:\\test\\images\\myimage.wim";
static const WCHAR kMissing[] = L"C:\\test\\images\\missing.wim";
static const WCHAR kMountPath[] = L"C:\\test\\offline";

typedef struct {
  const char* what;
  UINT calls;
  UINT last;
} PROGRESS_CONTEXT;

static VOID CALLBACK ShowProgress(UINT Current, UINT Total, PVOID UserData) {
  PROGRESS_CONTEXT* context = (PROGRESS_CONTEXT*)UserData;
  context->calls++;
  context->last = Total == 0 ? 0 : Current * 100 / Total;
  printf("%s: %u %%\n", context->what, context->last);
}

/* Prints what a call returned, with the text of its error, and hands it on. */
static HRESULT Show(const char* what, HRESULT hr) {
  DismString* message = NULL;
  if (SUCCEEDED(hr)) return hr;
  printf("%s failed: 0x%08X\n", what, (unsigned int)hr);
  if (SUCCEEDED(DismGetLastErrorMessage(&message)) && message != NULL) {
    printf("  %ls\n", message->Value);
    DismDelete(message);
  }
  return hr;
}

static HRESULT ShowImages(void) {
  DismImageInfo* images = NULL;
  DismMountedImageInfo* mounted = NULL;
  UINT count = 0;
  UINT i;
  HRESULT hr = Show("DismGetImageInfo", DismGetImageInfo(kImage, &images, &count));
  for (i = 0; SUCCEEDED(hr) && i < count; i++) {
    printf("image %u: %ls\n", images[i].ImageIndex, images[i].ImageName);
  }
  DismDelete(images);
  if (FAILED(hr)) return hr;
  hr = Show("DismGetMountedImageInfo", DismGetMountedImageInfo(&mounted, &count));
  for (i = 0; SUCCEEDED(hr) && i < count; i++) {
    printf("mounted: %ls, %s, status %d\n", mounted[i].MountPath,
           mounted[i].MountMode == DismReadOnly ? "read-only" : "read/write", (int)mounted[i].MountStatus);
  }
  DismDelete(mounted);
  return hr;
}

/* What a servicing program does to an image. Here: a new file, written as any file is, with the C library. */
static HRESULT Edit(void) {
  char path[1024];
  FILE* file;
  if (scanf("%1023s", path) != 1) return E_FAIL; /* where C:\test\offline\edited.txt is on this system */
  file = fopen(path, "w");
  if (file == NULL) return HRESULT_FROM_WIN32(ERROR_ACCESS_DENIED);
  fputs("changed", file);
  return fclose(file) == 0 ? S_OK : E_FAIL;
}

int main(void) {
  HRESULT hr = S_OK;
  HRESULT hrLocal = S_OK;
  HANDLE cancelEvent = NULL;
  DismSession session = DISM_SESSION_DEFAULT;
  BOOL mounted = FALSE;
  PROGRESS_CONTEXT mounting = {"mounting", 0, 0};
  PROGRESS_CONTEXT committing = {"committing", 0, 0};
  PROGRESS_CONTEXT unmounting = {"unmounting", 0, 0};

  hr = Show("DismInitialize", DismInitialize(DismLogErrorsWarningsInfo, L"C:\\test\\dism.log", L"C:\\test"));
  if (FAILED(hr)) return 1;

  cancelEvent = CreateEventW(NULL, TRUE, FALSE, NULL);
  if (cancelEvent == NULL) goto Cleanup;

  hr = Show("DismMountImage", DismMountImage(kImage, kMountPath, 1, NULL, DismImageIndex, DISM_MOUNT_READWRITE,
                                             cancelEvent, ShowProgress, &mounting));
  if (FAILED(hr)) goto Cleanup;
  mounted = TRUE;

  hr = ShowImages();
  if (FAILED(hr)) goto Cleanup;

  hr = Show("DismOpenSession", DismOpenSession(kMountPath, NULL, NULL, &session));
  if (FAILED(hr)) goto Cleanup;

  hr = Edit();
  if (FAILED(hr)) goto Cleanup;

  hr = Show("DismCommitImage",
            DismCommitImage(session, DISM_COMMIT_IMAGE, cancelEvent, ShowProgress, (PVOID)&committing));
  if (FAILED(hr)) goto Cleanup;

Cleanup:
  if (session != DISM_SESSION_DEFAULT) {
    hrLocal = Show("DismCloseSession", DismCloseSession(session));
    if (FAILED(hrLocal)) hr = hrLocal;
  }
  if (mounted) {
    hrLocal =
        Show("DismUnmountImage", DismUnmountImage(kMountPath, DISM_DISCARD_IMAGE, NULL, ShowProgress, &unmounting));
    if (FAILED(hrLocal)) hr = hrLocal;
  }
  if (SUCCEEDED(hr)) {
    hrLocal = Show("DismMountImage", DismMountImage(kMissing, kMountPath, 1, NULL, DismImageIndex, DISM_MOUNT_READONLY,
                                                    NULL, NULL, NULL));
    if (hrLocal != E_INVALIDARG) hr = E_FAIL;
  }
  if (cancelEvent != NULL) CloseHandle(cancelEvent);
  hrLocal = Show("DismShutdown", DismShutdown());
  if (FAILED(hrLocal)) hr = hrLocal;
  if (mounting.last != 100 || committing.last != 100 || unmounting.last != 100) return 1;
  return FAILED(hr) ? 1 : 0;
}
