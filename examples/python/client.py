"""Greets a server once a second over a new connection: client.py ADDRESS SERVER_ID [COUNT]"""

import itertools
import socket
import sys
import time

from OpenSSL import SSL
from spiffe import SpiffeId, X509Source

from identity import context


def main(address, server, count=None):
    # The source holds the newest SVID and bundle from $SPIFFE_ENDPOINT_SOCKET.
    with X509Source() as source:
        for _ in range(int(count)) if count else itertools.count():
            print(greet(source, address, server), flush=True)
            time.sleep(1)


def greet(source, address, server):
    host, port = address.rsplit(":", 1)
    connection = SSL.Connection(context(source, server), socket.create_connection((host, int(port))))
    connection.set_connect_state()
    try:
        connection.do_handshake()
        return connection.recv(1024).decode().rstrip()
    finally:
        connection.close()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: client.py ADDRESS SERVER_ID [COUNT]")
    try:
        main(sys.argv[1], SpiffeId(sys.argv[2]), *sys.argv[3:])
    except KeyboardInterrupt:
        pass
