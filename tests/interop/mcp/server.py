"""An MCP server whose one tool tells what identity it can get. See ../README.md."""

import json
import os
import subprocess
import sys

import grpc
from mcp.server import MCPServer
from spiffe import WorkloadApiClient

AUDIENCE = "interop"
ANSWER_WITHIN = 30.0

server = MCPServer("identity")


def ask(socket=None):
    """What a Workload API gives us, or the gRPC status with which it refuses."""
    try:
        with WorkloadApiClient(socket) as api:
            return {
                "x509": [str(svid.spiffe_id) for svid in api.fetch_x509_svids(ANSWER_WITHIN)],
                "jwt": [str(svid.spiffe_id) for svid in api.fetch_jwt_svids({AUDIENCE}, timeout=ANSWER_WITHIN)],
            }
    except Exception as error:  # noqa: BLE001 - how it is refused is the answer
        cause = error
        while cause is not None and not isinstance(cause, grpc.RpcError):
            cause = cause.__cause__ or cause.__context__
        return {"refused": cause.code().name if cause else f"{type(error).__name__}: {error}"}


@server.tool()
def identity(main_socket: str) -> str:
    """What this process gets on its own socket and on the node's, what its child gets, and what it
    finds in its environment: names, never values."""
    child = subprocess.run(
        [sys.executable, __file__, "ask"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    return json.dumps(
        {
            "own": ask(),
            "main": ask(f"unix:{main_socket}"),
            "child": json.loads(child.stdout),
            "socket": os.environ.get("SPIFFE_ENDPOINT_SOCKET", ""),
            "environment": sorted(os.environ),
        }
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["ask"]:
        print(json.dumps(ask()))
    else:
        server.run()
