"""Does in a VNC viewer, vncdotool, what the arguments say, and prints the dimensions of the screen.

usage: vnc.py PORT ACTION...      type:TEXT  key:NAME  move:X,Y  click:BUTTON  capture:FILE  expect:FILE
"""

import json
import sys

from vncdotool import api

client = api.connect(f"127.0.0.1::{sys.argv[1]}", timeout=120)
for action in sys.argv[2:]:
    name, _, value = action.partition(":")
    if name == "type":
        for character in value:
            client.keyPress(character)
    elif name == "key":
        client.keyPress(value)
    elif name == "move":
        client.mouseMove(*map(int, value.split(",")))
    elif name == "click":
        client.mousePress(int(value))
    elif name == "capture":
        client.captureScreen(value)
    elif name == "expect":
        client.expectScreen(value, 0)
    else:
        sys.exit(f"unknown action: {action}")
size = client.screen.size if client.screen else None
client.disconnect()
api.shutdown()
print(json.dumps({"size": size}))
