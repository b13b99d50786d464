"""Stands in for the process with Feast: says, waits or ends as it is told. Run as a program."""

from __future__ import annotations

import json
import sys
import time

print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    told = json.loads(line)
    if told.get("versions") == {"v": "feast:other"}:
        print(json.dumps({"problem": "Unavailable: changed"}), flush=True)
    elif "service" in told:
        keys = told["keys"]["id"]
        if not all(isinstance(key, str) for key in keys):
            print(json.dumps({"refused": ["entity key id", keys[0], "must be text"]}), flush=True)
        else:
            print(
                json.dumps({"found": {"f": [[len(key), told["latest_us"]] for key in keys]}}),
                flush=True,
            )
    elif "end" in told:
        sys.exit(told["end"])
    elif "wait_s" in told:
        time.sleep(told["wait_s"])
        print(json.dumps({"found": "waited"}), flush=True)
    else:
        print(json.dumps({"found": told["say"]}), flush=True)
