#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs contract.tsv and prints it, each row with what came of it:  contract_test.py wim|vhd|vhdx [ROW...]

Each row through each client that it has an expectation for. ROW: only rows whose case has these words.
Environment: DISMD_BIN_DIR, and DISMD_SANITIZE where the build is sanitized.
"""

import os
import re
import signal
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
COLUMNS = ("case", "formats", "set-up", "action", "DismAPI", "gRPC", "dism", "message", "afterwards")
NOT_THROUGH_IT = "-"
ROW_SECONDS = 60


def rows(extension):
    """Those of a format, as dicts."""
    groups = {"wim": {"wim", "all"}, "vhd": {"vhd", "disk", "all"}, "vhdx": {"vhdx", "disk", "all"}}[extension]
    with open(f"{HERE}/contract.tsv", encoding="utf-8") as file:
        lines = file.read().splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        assert len(cells) == len(COLUMNS), f"contract.tsv:{number}: {len(cells)} columns, not {len(COLUMNS)}"
        row = dict(zip(COLUMNS, cells))
        if row["formats"] in groups:
            yield row


def parts(cell):
    return [part.strip() for part in cell.split(",") if part.strip()]


def expectation(client, row):
    """What the table says for this client; None: nothing. "=" of dism: what follows from the HRESULT."""
    text = row[client.column]
    if text == NOT_THROUGH_IT:
        return None
    return client.expects(row["DismAPI"] if text == "=" else text)


def run_row(world, client, row, fixtures, clients, checks):
    """A list of what is wrong."""
    expected = expectation(client, row)
    setting = fixtures.Setting(world)
    signal.alarm(ROW_SECONDS)
    try:
        setting.prepare(parts(row["set-up"]))
        outcome = client.run(row["action"], setting)
        wrong = []
        if outcome.result != expected:
            wrong.append(f"{client.show(outcome.result)}, not {client.show(expected)}: {outcome.message}")
        if row["message"] and not re.search(clients.fill_in(row["message"], setting, re.escape), outcome.message):
            wrong.append(f"the message has no {row['message']}: {outcome.message}")
        return wrong + checks.After(setting, outcome.answer).check(parts(row["afterwards"]))
    except Exception:
        client.restart()
        raise
    finally:
        signal.alarm(0)
        setting.clean_up()


def give_up(*_):
    raise TimeoutError(f"the row took {ROW_SECONDS} s")


def main():
    extension, *words = sys.argv[1:]
    import contract_checks as checks  # they want the environment
    import contract_clients as clients
    import contract_fixtures as fixtures

    signal.signal(signal.SIGALRM, give_up)
    world = fixtures.World(extension)
    through = [client(world) for client in clients.CLIENTS]
    failures, count, start = 0, 0, time.monotonic()
    try:
        for row in rows(extension):
            if words and not all(word in row["case"] for word in words):
                continue
            cells = []
            for client in through:
                if expectation(client, row) is None:
                    continue
                count += 1
                try:
                    wrong = run_row(world, client, row, fixtures, clients, checks)
                except Exception:
                    wrong = [traceback.format_exc()]
                cells.append(f"{client.name}: " + ("ok" if not wrong else "WRONG"))
                if wrong:
                    failures += 1
                    print(f"{client.name}, {row['case']}:\n  " + "\n  ".join(wrong))
            print(f"| {row['case']:<52} | {extension:<4} | {row['DismAPI']:<34} | {', '.join(cells)}", flush=True)
    finally:
        for client in through:
            client.close()
        wrong, log = world.close()
    for sentence in wrong:
        print(sentence)
    print(f"{count - failures} of {count} rows pass, each counted for each client; {time.monotonic() - start:.1f} s")
    if failures or wrong:
        print(log)
    return failures != 0 or wrong != []


if __name__ == "__main__":
    sys.exit(main())
