"""An MCP client that starts its server by `muster run`: one JSON line a check. See ../README.md."""

import asyncio
import importlib.metadata
import json
import os
import sys
from pathlib import Path

from mcp import Client, StdioServerParameters

# What a careless harness has in its environment: secrets by name, by the shape of the value, and
# what is on no list.
PLANTED = {
    "ANTHROPIC_API_KEY": "sk-" + "0123456789" * 3,
    "DATABASE_URL": "postgres://agent:hunter2@db.example.org/x",
    "NO_COLOR": "ghp_" + "0123456789" * 4,
    "GIT_AUTHOR_NAME": "somebody",
    "LD_PRELOAD": "",
}


def require(condition, text):
    if not condition:
        raise AssertionError(text)


def report(check, run):
    """Runs one check and prints its line."""
    try:
        ok, detail = True, run()
    except Exception as error:  # noqa: BLE001 - whatever went wrong is the result
        ok, detail = False, f"{type(error).__name__}: {error}"
    version = importlib.metadata.version("mcp")
    line = {"client": "mcp", "version": version, "check": check, "ok": ok, "detail": detail}
    print(json.dumps(line), flush=True)


def given(told, agent):
    own = told["own"]
    require("refused" not in own, f"on its own socket it is refused: {own}")
    require(len(own["x509"]) == 1 and own["x509"] == own["jwt"], f"not one identity but {own}")
    require(own["x509"][0].startswith(f"{agent}/t/"), f"{own['x509'][0]} is no task of {agent}")
    return f"{own['x509'][0]}, by X.509 and JWT, and no other"


def nothing_else(told):
    main, child = told["main"].get("refused"), told["child"].get("refused")
    require(main == "PERMISSION_DENIED", f"on the node's socket it gets {told['main']}")
    require(child in ("PERMISSION_DENIED", "UNAVAILABLE"), f"a process that it starts gets {told['child']}")
    names = told["environment"]
    require("SPIFFE_ENDPOINT_SOCKET" in names, f"no SPIFFE_ENDPOINT_SOCKET among {names}")
    planted = [name for name in PLANTED if name in names]
    require(not planted, f"its environment has {planted}")
    return (
        f"on the node's socket {main}, its child {child}; "
        f"of {len(PLANTED)} planted variables none, {len(names)} in all"
    )


def gone(told):
    path = Path(told["socket"].removeprefix("unix://"))
    require(path.is_absolute() and not path.exists(), f"{path} is there after the run")
    return "the run ended, and its socket is gone"


async def main(muster, main_socket, name, agent):
    server = StdioServerParameters(
        command=muster,
        args=["run", "--socket", f"unix://{main_socket}", "--class", name, "--agent", agent]
        + ["--task", "interop.mcp", "--ttl", "5m", "--", sys.executable]
        + [os.path.join(os.path.dirname(os.path.abspath(__file__)), "server.py")],
        env=PLANTED,
    )
    async with Client(server) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        require(tools == ["identity"], f"the server has the tools {tools}")
        answer = await client.call_tool("identity", {"main_socket": main_socket})
        require(not answer.is_error, f"the tool failed: {answer.content}")
        told = json.loads(answer.content[0].text)
    report("task-given", lambda: given(told, agent))
    report("task-withdrawn", lambda: gone(told))
    report("nothing-else", lambda: nothing_else(told))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: client.py MUSTER WORKLOAD_SOCKET CLASS AGENT_ID")
    asyncio.run(main(*sys.argv[1:]))
