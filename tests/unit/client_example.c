/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The documented example of DismMountImage as a program of its own, compiled as C99 and (client_example_cxx.cc) as C++.
 * Prints what each call returned; its exit status says whether all were S_OK. With an argument it ends without unmounting
 * and without DismShutdown.
 */

#include <stdio.h>

#include "DismAPI.h"

/* C99 has no static_assert. */
#define CHECK_SIZE(type, size) typedef char check_##type[sizeof(type) == (size) ? 1 : -1]
CHECK_SIZE(HRESULT, 4);
CHECK_SIZE(DWORD, 4);
CHECK_SIZE(SYSTEMTIME, 16);
CHECK_SIZE(DismImageType, 4);
CHECK_SIZE(DismString, 8);
CHECK_SIZE(DismWimCustomizedInfo, 44);
CHECK_SIZE(DismMountedImageInfo, 28);
CHECK_SIZE(DismImageInfo, 140);
typedef char check_wimoffset[offsetof(DismWimCustomizedInfo, CreatedTime) == 12 ? 1 : -1];
typedef char check_offset[offsetof(DismImageInfo, ProductName) == 36 && offsetof(DismImageInfo, Bootable) == 104 &&
                                  offsetof(DismImageInfo, CustomizedInfo) == 132 &&
                                  offsetof(DismImageInfo, Language) == 116
                              ? 1
                              : -1];

static int failures = 0;

static void Report(const char *what, HRESULT hr) {
  DismString *text = NULL;
  printf("%s: 0x%08X\n", what, (unsigned)hr);
  if (hr == S_OK) return;
  ++failures;
  if (SUCCEEDED(DismGetLastErrorMessage(&text))) {
    printf("  %ls\n", text->Value);
    DismDelete(text);
  }
}

static void CALLBACK OnProgress(UINT current, UINT total, PVOID user_data) {
  if (current == total) *(int *)user_data = 1;
}

int main(int argc, char **argv) {
  HRESULT hr;
  HANDLE event;
  DismMountedImageInfo *mounts = NULL;
  UINT count = 0;
  int finished = 0;
  (void)argv;

  Report("DismInitialize", DismInitialize(DismLogErrorsWarningsInfo, NULL, NULL));
  hr = DismMountImage(L"C:\\test\\images\\myimage.wim", L"C:\\test\\offline", 1, NULL, DismImageIndex, DISM_MOUNT_READONLY,
                      NULL, NULL, NULL);
  Report("DismMountImage", hr);
  Report("DismGetMountedImageInfo", DismGetMountedImageInfo(&mounts, &count));
  Report("DismDelete", DismDelete(mounts));
  if (argc > 1) return failures != 0;
  event = CreateEventW(NULL, TRUE, FALSE, NULL);
  Report("DismUnmountImage",
         DismUnmountImage(L"C:\\test\\offline", DISM_DISCARD_IMAGE, event, OnProgress, &finished));
  if (!finished || !CloseHandle(event)) ++failures;
  Report("DismShutdown", DismShutdown());
  return failures != 0;
}
