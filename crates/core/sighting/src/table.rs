//! The table of signatures: facts about programs that others publish, and how much each says.
//!
//! Points of different clues of one product add up: from 25 a finding is possible, from 50 likely,
//! from 85 certain. A name that only one program has says 90; one that is an ordinary word, 60. What
//! a child inherits (variables) says little: the shell that an agent starts has them too.

use muster_model::SightingClue::{
    Executable, ExecutablePath, Flag, Library, Module, Port, Script, Subcommand, Variable,
};
use muster_model::SightingKind::{A2a, Cli, Framework, McpClient, McpServer, Sdk};

use crate::signature::{PORT, Rule, Signature, VARIABLE};

/// A name that nothing else has.
const OWN: u8 = 90;
/// A name that is a word of the language, or that several programs share.
const WORD: u8 = 60;
/// What points at it, together with something else.
const HINT: u8 = 35;
/// What its children inherit.
const INHERITED: u8 = 10;

macro_rules! table {
    ($($product:literal: $kind:ident { $($clue:ident $weight:ident: $($pattern:literal)+;)+ })+) => {
        &[$(Signature {
            product: $product,
            kind: $kind,
            rules: &[$($(Rule { clue: $clue, pattern: $pattern, weight: $weight }),+),+],
        }),+]
    };
}

/// The products, by kind.
pub(crate) const TABLE: &[Signature] = table! {
    // Agents that people start in a terminal.
    "claude-code": Cli {
        Executable OWN: "claude";
        ExecutablePath OWN: "claude/versions" "@anthropic-ai/claude-code" "@anthropic-ai/claude-agent-sdk";
        Script OWN: "@anthropic-ai/claude-code" "@anthropic-ai/claude-agent-sdk" "bin/claude";
        Flag HINT: "--dangerously-skip-permissions" "--permission-mode";
        Variable INHERITED: "CLAUDECODE" "CLAUDE_CODE_ENTRYPOINT" "CLAUDE_CODE_OAUTH_TOKEN";
    }
    "codex": Cli {
        Executable OWN: "codex" "codex-x86_64-unknown-linux-musl" "codex-aarch64-unknown-linux-musl";
        Script OWN: "@openai/codex" "bin/codex";
        Flag HINT: "--dangerously-bypass-approvals-and-sandbox";
        Variable INHERITED: "CODEX_HOME" "CODEX_API_KEY" "CODEX_SANDBOX";
    }
    "gemini-cli": Cli {
        Executable WORD: "gemini";
        Script OWN: "@google/gemini-cli" "bin/gemini";
        Variable INHERITED: "GEMINI_CLI";
    }
    "copilot-cli": Cli {
        Executable WORD: "copilot";
        Script OWN: "@github/copilot" "bin/copilot";
    }
    "cursor-agent": Cli {
        Executable OWN: "cursor-agent";
        ExecutablePath OWN: "cursor-agent/versions";
        Script OWN: "cursor-agent/versions" "bin/cursor-agent";
        Variable INHERITED: "CURSOR_AGENT" "CURSOR_API_KEY";
    }
    "opencode": Cli {
        Executable OWN: "opencode";
        Script OWN: "opencode-ai" "bin/opencode";
        Variable INHERITED: "OPENCODE";
    }
    "aider": Cli {
        Executable OWN: "aider";
        Script OWN: "bin/aider" "aider-chat";
        Module OWN: "aider";
        Variable VARIABLE: "AIDER_MODEL" "AIDER_OPENAI_API_KEY" "AIDER_ANTHROPIC_API_KEY";
    }
    "goose": Cli {
        Executable WORD: "goose" "goosed";
        Subcommand HINT: "session" "recipe" "acp";
        Variable VARIABLE: "GOOSE_PROVIDER" "GOOSE_MODEL";
    }
    "amp": Cli {
        Executable HINT: "amp";
        Script OWN: "@sourcegraph/amp";
        Variable VARIABLE: "AMP_API_KEY";
    }
    "qwen-code": Cli {
        Executable WORD: "qwen";
        Script OWN: "@qwen-code/qwen-code" "bin/qwen";
    }
    "crush": Cli {
        Executable WORD: "crush";
        Script OWN: "@charmland/crush";
    }
    "droid": Cli {
        Executable WORD: "droid";
        Variable VARIABLE: "FACTORY_API_KEY";
    }
    "auggie": Cli {
        Executable OWN: "auggie";
        Script OWN: "@augmentcode/auggie" "bin/auggie";
    }
    "cline": Cli {
        Executable OWN: "cline" "cline-host" "cline-core";
        Script OWN: "bin/cline";
    }
    "continue": Cli {
        Script OWN: "@continuedev/cli";
    }
    "kiro": Cli {
        Executable OWN: "kiro-cli" "qchat";
    }
    "plandex": Cli {
        Executable OWN: "plandex" "pdx";
    }
    "open-interpreter": Cli {
        Script OWN: "bin/interpreter";
        Module OWN: "interpreter";
    }
    "openhands": Cli {
        Executable OWN: "openhands";
        Script OWN: "bin/openhands";
        Module OWN: "openhands.server" "openhands.core.main" "openhands.cli.main";
    }
    "kimi-cli": Cli {
        Executable OWN: "kimi-cli";
        Script OWN: "bin/kimi" "kimi-cli";
    }
    "codebuff": Cli {
        Executable OWN: "codebuff";
        Script OWN: "bin/codebuff" "codebuff";
    }
    "swe-agent": Cli {
        Executable OWN: "sweagent" "mini-swe-agent";
        Script OWN: "bin/sweagent" "bin/mini";
        Module OWN: "sweagent" "minisweagent";
    }

    // Programs built with a framework. What is pure Python or JavaScript is mapped nowhere: then
    // the commands by which such programs are started give them away.
    "langchain": Framework {
        Library OWN: "site-packages/langchain*" "node_modules/langchain" "@langchain/*" "langchain4j-*.jar";
        Module OWN: "langchain" "langserve";
        Variable VARIABLE: "LANGCHAIN_API_KEY" "LANGCHAIN_TRACING_V2" "LANGCHAIN_PROJECT" "LANGSMITH_API_KEY" "LANGSMITH_TRACING";
    }
    "langgraph": Framework {
        Library OWN: "site-packages/langgraph*" "@langchain/langgraph";
        Library WORD: "site-packages/ormsgpack";
        Script OWN: "bin/langgraph" "@langchain/langgraph-cli";
        Module OWN: "langgraph_cli" "langgraph_api" "langgraph_api.server";
        Variable VARIABLE: "LANGGRAPH_API_URL" "LANGSERVE_GRAPHS";
    }
    "crewai": Framework {
        Library OWN: "site-packages/crewai*";
        Script OWN: "bin/crewai";
        Module OWN: "crewai";
        Variable VARIABLE: "CREWAI_STORAGE_DIR" "CREWAI_API_KEY";
    }
    "autogen": Framework {
        Library OWN: "site-packages/autogen*" "Microsoft.AutoGen*.dll";
        Script OWN: "bin/autogenstudio" "bin/magentic-ui";
        Module OWN: "autogenstudio" "autogen";
    }
    "llama-index": Framework {
        Library OWN: "site-packages/llama_index*" "node_modules/llamaindex";
        Script OWN: "bin/llamactl" "bin/llamaindex-cli";
        Module OWN: "llama_index" "llama_deploy";
        Variable VARIABLE: "LLAMA_CLOUD_API_KEY";
    }
    "openai-agents": Framework {
        Library OWN: "@openai/agents*" "site-packages/openai_agents*";
        Script OWN: "@openai/agents*";
    }
    "pydantic-ai": Framework {
        Library OWN: "site-packages/pydantic_ai*";
        Script OWN: "bin/clai" "bin/pai";
        Module OWN: "pydantic_ai";
    }
    "mastra": Framework {
        Library OWN: "@mastra/*";
        Script OWN: "bin/mastra" "node_modules/mastra" ".mastra/output";
    }
    "semantic-kernel": Framework {
        Library OWN: "Microsoft.SemanticKernel*.dll" "site-packages/semantic_kernel*";
        Module OWN: "semantic_kernel";
    }
    "agent-framework": Framework {
        Library OWN: "Microsoft.Agents.AI*.dll" "site-packages/agent_framework*";
    }
    "google-adk": Framework {
        Library OWN: "google/adk" "google-adk-*.jar";
        Script OWN: "bin/adk";
        Module OWN: "google.adk.cli" "google.adk";
    }
    "strands": Framework {
        Library OWN: "site-packages/strands*";
        Module OWN: "strands";
    }
    "smolagents": Framework {
        Library OWN: "site-packages/smolagents*";
        Script OWN: "bin/smolagent" "bin/webagent";
        Module OWN: "smolagents" "smolagents.cli";
    }
    "agno": Framework {
        Library OWN: "site-packages/agno";
        Script OWN: "bin/ag";
    }
    "haystack": Framework {
        Library OWN: "site-packages/haystack*";
        Script OWN: "bin/hayhooks";
    }
    "letta": Framework {
        Library OWN: "site-packages/letta*";
        Script OWN: "bin/letta";
        Module OWN: "letta";
    }
    "spring-ai": Framework {
        Library OWN: "spring-ai-*.jar";
    }
    "vercel-ai": Framework {
        Library OWN: "@ai-sdk/*";
    }
    "n8n": Framework {
        Script WORD: "bin/n8n" "node_modules/n8n";
        Variable HINT: "N8N_AI_ENABLED";
    }
    "flowise": Framework {
        Script OWN: "bin/flowise" "node_modules/flowise";
    }
    "dify": Framework {
        Variable HINT: "PLUGIN_DAEMON_KEY";
    }

    // Programs that call a provider. `jiter` is the JSON reader of both OpenAI's and Anthropic's
    // packages for Python, and of little else.
    "openai-sdk": Sdk {
        Library OWN: "site-packages/openai" "node_modules/openai" "openai-java*.jar" "OpenAI.dll";
        Library WORD: "site-packages/jiter";
        Library HINT: "site-packages/tiktoken";
        Variable VARIABLE: "OPENAI_API_KEY" "OPENAI_BASE_URL" "OPENAI_ORG_ID" "AZURE_OPENAI_API_KEY" "AZURE_OPENAI_ENDPOINT";
    }
    "anthropic-sdk": Sdk {
        Library OWN: "site-packages/anthropic" "@anthropic-ai/sdk" "anthropic-java*.jar" "Anthropic*.dll";
        Library HINT: "site-packages/jiter";
        Variable VARIABLE: "ANTHROPIC_API_KEY" "ANTHROPIC_AUTH_TOKEN" "ANTHROPIC_BASE_URL" "ANTHROPIC_MODEL";
    }
    "google-genai-sdk": Sdk {
        Library OWN: "google/genai" "google/generativeai" "@google/genai" "google-genai-*.jar";
        Variable VARIABLE: "GEMINI_API_KEY" "GOOGLE_GENAI_USE_VERTEXAI";
    }
    "mistral-sdk": Sdk {
        Library OWN: "site-packages/mistralai" "@mistralai/mistralai";
        Variable VARIABLE: "MISTRAL_API_KEY";
    }
    "litellm": Sdk {
        Library OWN: "site-packages/litellm";
        Script OWN: "bin/litellm";
        Module OWN: "litellm";
        Variable VARIABLE: "LITELLM_MASTER_KEY" "LITELLM_API_KEY";
    }
    "other-provider": Sdk {
        Variable VARIABLE: "GROQ_API_KEY" "DEEPSEEK_API_KEY" "XAI_API_KEY" "OPENROUTER_API_KEY" "TOGETHER_API_KEY" "COHERE_API_KEY" "PERPLEXITY_API_KEY" "FIREWORKS_API_KEY" "HF_TOKEN" "AWS_BEARER_TOKEN_BEDROCK";
    }

    // Servers of the Model Context Protocol; most have no socket, and speak over a pipe.
    "mcp-server": McpServer {
        Executable OWN: "mcp-server" "github-mcp-server" "mcp-proxy" "mcp-toolbox" "mcp-grafana";
        Script OWN: "@modelcontextprotocol/server-*" "mcp-server-*" "@*/mcp-server*" "@*/*-mcp" "@*/*-mcp-server" "*-mcp-server" "server-mcp" "@playwright/mcp" "mcp-remote";
        Script WORD: "mcp_server.py" "mcp-server.js" "mcp_server.js" "*-mcp" "mcp-*";
        Module OWN: "mcp_server" "mcp.server" "mcp_server_git" "mcp_server_fetch" "mcp_server_time" "mcp_server_sqlite" "fastmcp";
        Subcommand WORD: "mcp serve" "mcp-server" "mcp start" "mcp run";
        ExecutablePath OWN: "mcp-server-*" "*-mcp-server";
        Library WORD: "ModelContextProtocol*.dll" "mcp-*.jar" "@modelcontextprotocol/sdk";
        Port PORT: "8931" "6277" "3845";
        Variable VARIABLE: "MCP_SERVER_NAME" "MCP_TRANSPORT" "FASTMCP_PORT" "FASTMCP_HOST" "FASTMCP_SERVER_PORT";
    }
    "fastmcp": McpServer {
        Script OWN: "bin/fastmcp";
        Module OWN: "fastmcp.cli";
        Library OWN: "site-packages/fastmcp";
    }
    "mcp-inspector": McpClient {
        Script OWN: "@modelcontextprotocol/inspector*";
        Port PORT: "6274";
    }
    "mcp-client": McpClient {
        Flag HINT: "--mcp-config" "--mcp-server" "--mcp-servers";
        Script OWN: "mcp-use" "bin/mcp-cli" "bin/mcphost";
        Executable OWN: "mcphost" "mcp-cli";
    }

    // Servers that other agents call.
    "a2a-server": A2a {
        Library OWN: "site-packages/a2a" "@a2a-js/*" "a2a-java-*.jar" "A2A.dll" "A2A.AspNetCore.dll";
        Script OWN: "@a2a-js/*" "bin/a2a-server" "a2a-server" "a2a_server.py";
        Executable OWN: "a2a-server" "a2a-inspector";
        Module OWN: "a2a" "a2a.server";
        Subcommand HINT: "a2a";
        Flag WORD: "--a2a";
        Port PORT: "41241" "41242";
        Variable VARIABLE: "A2A_HOST" "A2A_PORT" "A2A_SERVER_URL";
    }
};

/// Whether that is the name of a product of the table.
pub fn is_product(name: &str) -> bool {
    TABLE.iter().any(|signature| signature.product == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::signature::word;

    #[test]
    fn products_are_words_once_and_each_can_be_found() {
        let mut products = BTreeSet::new();
        for signature in TABLE {
            assert!(word(signature.product).is_ok(), "{}", signature.product);
            assert!(products.insert(signature.product), "{}", signature.product);
            for rule in signature.rules {
                assert!(rule.weight > 0 && rule.weight <= 100);
                assert!(!rule.pattern.is_empty() && rule.pattern != "*");
                let stars = rule
                    .pattern
                    .split('/')
                    .map(|part| part.matches('*').count());
                assert!(stars.max() <= Some(1), "{}", rule.pattern);
            }
        }
        assert!(is_product("claude-code") && !is_product("claude"));
    }
}
