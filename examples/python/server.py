"""A server that tells each of its callers who they are: server.py ADDRESS CLIENT_ID"""

import socket
import sys
import threading

from OpenSSL import SSL
from spiffe import SpiffeId, X509Source

from identity import context, peer_id


def main(address, client):
    host, port = address.rsplit(":", 1)
    # The source holds the newest SVID and bundle from $SPIFFE_ENDPOINT_SOCKET.
    with X509Source() as source, socket.create_server((host, int(port))) as listener:
        print("listening on", "{}:{}".format(*listener.getsockname()), flush=True)
        while True:
            plain, _ = listener.accept()
            threading.Thread(target=serve, args=(source, client, plain), daemon=True).start()


def serve(source, client, plain):
    connection = SSL.Connection(context(source, client), plain)
    connection.set_accept_state()
    try:
        connection.do_handshake()
        caller = peer_id(connection.get_peer_certificate())
        connection.sendall(f"Hello, {caller}\n".encode())
        connection.shutdown()
    except SSL.Error as error:
        print("refused:", error, file=sys.stderr)
    finally:
        connection.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: server.py ADDRESS CLIENT_ID")
    try:
        main(sys.argv[1], SpiffeId(sys.argv[2]))
    except KeyboardInterrupt:
        pass
