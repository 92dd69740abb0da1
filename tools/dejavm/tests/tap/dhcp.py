#!/usr/bin/env python3
"""Gives whoever asks on an interface the address 10.0.2.15, with 10.0.2.2 as router (DHCP: RFC 2131, options: RFC 2132).

usage: dhcp.py INTERFACE
"""

import socket
import sys

FIXED = 240  # what is before the options, with their magic number
OFFER, ACK = 2, 5
DISCOVER, REQUEST = 1, 3


def kind(options):
    """The message's type, option 53."""
    at = 0
    while at < len(options) and options[at] != 255:
        if options[at] == 53:
            return options[at + 2]
        at += 1 if options[at] == 0 else 2 + options[at + 1]
    return None


def main():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[1].encode() + b"\0")
    server.bind(("0.0.0.0", 67))
    while True:
        message, _ = server.recvfrom(2048)
        answer = {DISCOVER: OFFER, REQUEST: ACK}.get(kind(message[FIXED:]))
        if answer is None:
            continue
        reply = bytearray(message[:FIXED])
        reply[0] = 2
        reply[16:20] = 10, 0, 2, 15
        reply[20:24] = 10, 0, 2, 2
        reply += bytes([53, 1, answer, 54, 4, 10, 0, 2, 2, 51, 4, 0, 1, 0, 0])
        reply += bytes([1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2, 255])
        server.sendto(reply, ("255.255.255.255", 68))


main()
