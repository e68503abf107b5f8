"""The stock MCP client lists the tools, chooses, reports and reads the decision: in both eras, by HTTP and pipes.

    mcp_client.py PROGRAM URL"""

import asyncio
import json
import sys
import urllib.request

from mcp import StdioServerParameters
from mcp.client.client import Client

program, url = sys.argv[1:]


async def closes_a_loop(server, mode, expected):
    async with Client(server, mode=mode) as client:
        assert client.protocol_version == expected, client.protocol_version
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == ["which_agent", "report_outcome", "list_agents"]
        question = {"task_type": "review", "context": {"size": 3}, "candidates": ["a", "b"]}
        chosen = (await client.call_tool("which_agent", question)).structured_content
        report = {"decision_id": chosen["decision_id"], "status": "success", "quality_score": 1}
        told = await client.call_tool("report_outcome", report)
        assert not told.is_error and told.structured_content["accepted"], told
        assert (await client.call_tool("report_outcome", {"status": "success"})).is_error
    headers = {"Content-Type": "application/x-ndjson"}
    wait = urllib.request.Request(f"{url}/api/learning/outcomes?wait=true", b"", headers)
    urllib.request.urlopen(wait).close()
    with urllib.request.urlopen(f"{url}/api/learning/decisions/{chosen['decision_id']}") as answer:
        decision = json.load(answer)
    assert (decision["chosen"], decision["outcome"]["status"]) == (chosen["agent"], "success"), decision


for server in (f"{url}/mcp", StdioServerParameters(command=program, args=["mcp", "--url", url])):
    for mode, expected in (("auto", "2026-07-28"), ("legacy", "2025-11-25")):
        asyncio.run(closes_a_loop(server, mode, expected))
