#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is installed works: the README's examples, exactly as printed, with the headers, libraries and programs that
`cmake --install` puts below a directory, found through pkg-config and find_package."""

import glob
import os
import re
import shutil
import subprocess
import sys
import unittest

from dismd_client import ROOT, stubs_directory
from dismd_service import ServiceTestCase

CMAKE_LISTS = """cmake_minimum_required(VERSION 3.25)
project(example C)
find_package(dismapi 1.0 REQUIRED)
add_executable(example example.c)
target_link_libraries(example dismapi::dismapi)
"""


def example(first_line):
    """The indented block of README.md that holds this line."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        blocks = re.findall(r"(?:^(?:    .*)?\n)+", file.read(), re.MULTILINE)
    found = [block for block in blocks if first_line in block]
    assert len(found) == 1, first_line
    return re.sub("^    ", "", found[0].strip("\n"), flags=re.MULTILINE) + "\n"


ZSH_SETUP = """
PS1=
fpath=({directory} $fpath)
autoload -Uz compinit
compinit -u -D
compadd() {{
  local -a found
  builtin compadd -O found "$@"
  print -rl -- $found >> offered
  builtin compadd "$@"
}}
offer() {{ _main_complete; print DONE }}
zle -C offer complete-word offer
bindkey '^I' offer
zle-line-init() {{ print READY }}
zle -N zle-line-init
"""


class InstalledTest(ServiceTestCase):
    def setUp(self):
        super().setUp()
        build = os.path.dirname(os.environ["DISMD_BIN_DIR"])
        self.root = os.path.join(self.directory, "root")
        subprocess.run(["cmake", "--install", build, "--prefix", self.root + "/usr"], check=True,
                       stdout=subprocess.DEVNULL)
        self.drive = os.path.join(self.directory, "drive")
        os.makedirs(self.drive + "/test/images")
        os.makedirs(self.drive + "/test/offline")
        shutil.copyfile(self.image("small.wim"), self.drive + "/test/images/myimage.wim")
        self.libraries = os.path.dirname(glob.glob(self.root + "/usr/lib/**/libdismapi.so.1", recursive=True)[0])
        self.environment = {**os.environ, "DISMD_ADDRESS": self.service.address, "DISMD_DRIVES": "C:=" + self.drive,
                            "LD_LIBRARY_PATH": self.libraries, "PATH": self.root + "/usr/bin:" + os.environ["PATH"],
                            "XDG_STATE_HOME": self.directory,
                            "PKG_CONFIG_PATH": self.libraries + "/pkgconfig"}
        # A sanitized library wants its sanitizer's runtime first in the program, so the program has it, too.
        sanitize = os.environ.get("DISMD_SANITIZE")
        self.flags = ["-fsanitize=" + sanitize] if sanitize else []
        self.environment["CFLAGS"] = " ".join(self.flags)
        self.source = os.path.join(self.directory, "example.c")
        with open(self.source, "w", encoding="utf-8") as file:
            file.write(example("#include <DismAPI.h>"))

    def run_program(self, *command, **options):
        done = subprocess.run(command, env=self.environment, cwd=self.directory, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False, timeout=120, **options)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}")
        return done.stdout

    def test_c_example_by_pkg_config(self):
        flags = self.run_program("pkg-config", "--cflags", "--libs", "dismapi").split()
        self.run_program("cc", "-Wall", "-Werror", *self.flags, self.source, "-o", "example", *flags)
        self.run_program("./example")
        self.assert_nothing_left(self.drive + "/test/offline")

    def test_c_example_by_find_package(self):
        with open(os.path.join(self.directory, "CMakeLists.txt"), "w", encoding="ascii") as file:
            file.write(CMAKE_LISTS)
        self.run_program("cmake", "-S", ".", "-B", "out", "-DCMAKE_PREFIX_PATH=" + self.root + "/usr")
        self.run_program("cmake", "--build", "out")
        self.run_program("out/example")
        self.assert_nothing_left(self.drive + "/test/offline")

    def test_dism_example(self):
        text = self.run_program("sh", "-e", "-c", example("dism /Mount-Image"))
        self.assertIn(f"Mount Dir : {self.drive}/test/offline\n", text)
        self.assertEqual(text.count("The operation completed successfully."), 3, text)
        self.assert_nothing_left(self.drive + "/test/offline")

    def test_python_example(self):
        # Its paths are at the root: there, in a namespace of file names alone, it would be another mount namespace's
        # caller; so the text is given ours.
        program = example("from dismd.v1 import").replace("/test/", self.drive + "/test/")
        self.environment["PYTHONPATH"] = stubs_directory()
        text = self.run_program(sys.executable, "-c", program)
        self.assertIn("100 %", text)
        self.assertIn("one.txt", text)
        self.assert_nothing_left(self.drive + "/test/offline")

    def test_manual_pages(self):
        for page in ("man8/dismd.8", "man1/dismctl.1", "man1/dism.1", "man3/dismapi.3"):
            path = f"{self.root}/usr/share/man/{page}"
            warnings = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", path], capture_output=True, check=True)
            self.assertEqual(warnings.stderr, b"")

    def complete(self, shell, command, line):
        """What the shell offers for the last word of the line."""
        if shell == "bash":
            script = (f"compopt() {{ :; }}; . '{self.completions(command)['bash']}'; COMP_WORDS=({line}); "
                      f"COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _{command}; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
        elif shell == "zsh":
            # Completion works on a terminal only: the inner shell has one, and writes down what would be offered.
            with open(setup := f"{self.directory}/setup.zsh", "w", encoding="ascii") as file:
                file.write(ZSH_SETUP.format(directory=os.path.dirname(self.completions(command)["zsh"])))
            script = (f"zmodload zsh/zpty; zpty inner zsh -f -i; zpty -w inner '. {setup}'; zpty -r inner x '*READY*'; "
                      f"zpty -w -n inner '{line}'$'\\t'; zpty -r inner x '*DONE*'; zpty -d inner; cat offered; rm offered")
        else:
            script = f"source '{self.completions(command)['fish']}'; complete -C '{line}'"
        return [word.split("\t")[0] for word in self.run_program(shell, "-c", script).split()]

    def completions(self, command):
        share = f"{self.root}/usr/share"
        return {"bash": f"{share}/bash-completion/completions/{command}", "zsh": f"{share}/zsh/vendor-completions/_{command}",
                "fish": f"{share}/fish/vendor_completions.d/{command}.fish"}

    def test_completions(self):
        self.environment["HOME"] = self.directory  # fish keeps a history there
        for shell in ("bash", "zsh", "fish"):
            self.assertEqual(self.complete(shell, "dismctl", "dismctl mo"), ["mount"])
            self.assertEqual(self.complete(shell, "dismctl", "dismctl commit --rec"),
                             ["--recompress=" if shell == "zsh" else "--recompress"])
            self.assertEqual(self.complete(shell, "dism", "dism /mount-image /ima"), ["/ImageFile:"])
            self.assertEqual(self.complete(shell, "dism", "dism /cl"), ["/Cleanup-Mountpoints", "/Cleanup-Wim"])
        # They name every option that the help names.
        topics = ("mount", "unmount", "commit", "cleanup", "list")
        helps = {"dismctl": "".join(self.run_program("dismctl", topic, "--help") for topic in topics),
                 "dism": self.run_program("dism", "/?")}
        options = {"dismctl": set(re.findall(r"--[a-z][a-z-]+", helps["dismctl"])),
                   "dism": set(re.findall(r"(?<![\w./])/[A-Z][A-Za-z-]+", helps["dism"]))}
        self.assertGreater(len(options["dismctl"]), 12)
        self.assertGreater(len(options["dism"]), 25)
        for command, names in options.items():
            for shell, path in self.completions(command).items():
                self.run_program(shell, "-n", path)
                with open(path, encoding="utf-8") as file:
                    text = file.read().replace("-l ", "--") if shell == "fish" else file.read()
                self.assertEqual([name for name in sorted(names) if name not in text], [], f"{shell}, {command}")


if __name__ == "__main__":
    unittest.main()
