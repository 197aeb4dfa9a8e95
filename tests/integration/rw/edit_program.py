#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random edits (edit_model.py) of a directory of a mount, by a process of its own.

  edit_program.py DIRECTORY MODEL SEED      DIRECTORY is filled, MODEL is empty

A line of the standard input is an order, one of the standard output its answer: "run SECONDS" is answered by the number
of operations done, "compare" by "same". Anything else that happens is the program's end, with an error.
"""

import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from edit_model import Edits

AT_ONCE = 10


def main():
    directory, model, seed = sys.argv[1:]
    edits = Edits(directory, model, int(seed))
    for line in sys.stdin:
        order, *arguments = line.split()
        if order == "run":
            end, done = time.monotonic() + float(arguments[0]), 0
            while time.monotonic() < end:
                edits.run(AT_ONCE)
                done += AT_ONCE
            print(done, flush=True)
        else:
            edits.compare()
            print("same", flush=True)


if __name__ == "__main__":
    main()
