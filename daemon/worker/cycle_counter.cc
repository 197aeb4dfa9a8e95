// SPDX-License-Identifier: GPL-3.0-or-later
//
// The first thread that waits for an absl::Mutex has abseil ask for the frequency of the CPU's cycle counter. Where the
// kernel does not tell it (in most virtual machines), abseil measures it, asleep for 3 ms, while whoever needs that lock
// waits along: a quarter of what a mount takes. It wants to know how many cycles are about a second, to look at a
// thread's priority again after that; any number does. The linker (--wrap, see CMakeLists.txt) leads its call to here; the
// name is that of Debian 12's abseil, and with another one everything works as abseil has it.

double __wrap__ZN4absl7debian313base_internal19NominalCPUFrequencyEv() __asm__(
    "__wrap__ZN4absl7debian313base_internal19NominalCPUFrequencyEv");

double __wrap__ZN4absl7debian313base_internal19NominalCPUFrequencyEv() { return 2e9; }
