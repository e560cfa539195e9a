//! Looks as they were recorded, and what each is found to be.

#![expect(clippy::unwrap_used, reason = "what a test needs, it expects")]

use std::collections::BTreeSet;
use std::fmt::Write as _;

use muster_model::{SightingKind, Word};
use muster_sighting::{Custom, Look, Signatures};

/// One process: executable, arguments, mapped files, names of variables, ports.
struct Recorded(
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
    &'static [u16],
);

const PROCESSES: &[Recorded] = &[
    Recorded(
        "/srv/ana/.local/bin/claude",
        &["claude"],
        &[],
        &["ANTHROPIC_API_KEY"],
        &[],
    ),
    Recorded(
        "/srv/ana/.local/share/claude/versions/2.0.14",
        &["claude", "--resume"],
        &[],
        &[],
        &[],
    ),
    Recorded(
        "/usr/bin/node",
        &["claude"],
        &[],
        &["CLAUDE_CODE_ENTRYPOINT"],
        &[],
    ),
    Recorded(
        "/usr/bin/node",
        &[
            "node",
            "/usr/lib/node_modules/@anthropic-ai/claude-code/cli.js",
            "-p",
            "x",
        ],
        &[],
        &[],
        &[],
    ),
    Recorded(
        "/usr/local/bin/claude",
        &["claude", "mcp", "serve"],
        &[],
        &[],
        &[],
    ),
    Recorded(
        "/usr/lib/node_modules/@openai/codex/vendor/codex",
        &["codex", "exec", "fix it"],
        &[],
        &["OPENAI_API_KEY"],
        &[],
    ),
    Recorded(
        "/usr/bin/node",
        &["node", "--no-warnings", "/usr/local/bin/gemini"],
        &[],
        &["GEMINI_API_KEY"],
        &[],
    ),
    Recorded(
        "/opt/venv/bin/python3.12",
        &[
            "/opt/venv/bin/python",
            "/opt/venv/bin/aider",
            "--model",
            "x",
        ],
        &["/opt/venv/lib/python3.12/site-packages/jiter/jiter.cpython-312-x86_64-linux-gnu.so"],
        &["OPENAI_API_KEY"],
        &[],
    ),
    Recorded("/usr/local/bin/goose", &["goose", "session"], &[], &[], &[]),
    Recorded("/usr/local/bin/goose", &["goose", "up"], &[], &[], &[]),
    Recorded("/usr/local/bin/opencode", &["opencode"], &[], &[], &[4096]),
    Recorded(
        "/srv/ana/.local/share/cursor-agent/versions/1/node",
        &["cursor-agent"],
        &[],
        &[],
        &[],
    ),
    Recorded(
        "/usr/bin/node",
        &["node", "/usr/lib/node_modules/@github/copilot/index.js"],
        &[],
        &[],
        &[],
    ),
    Recorded(
        "/opt/venv/bin/python3",
        &["python3", "/opt/venv/bin/langgraph", "dev"],
        &["/opt/venv/lib/python3.12/site-packages/ormsgpack/ormsgpack.so"],
        &["LANGSMITH_API_KEY"],
        &[2024],
    ),
    Recorded(
        "/opt/venv/bin/python3",
        &["python3", "agent.py"],
        &["/opt/venv/lib/python3.12/site-packages/jiter/jiter.so"],
        &["ANTHROPIC_API_KEY"],
        &[],
    ),
    Recorded(
        "/opt/venv/bin/python3",
        &["python3", "agent.py"],
        &["/opt/venv/lib/python3.12/site-packages/crewai/x.so"],
        &[],
        &[],
    ),
    Recorded(
        "/usr/bin/dotnet",
        &["dotnet", "/srv/app/App.dll"],
        &["/srv/app/Microsoft.SemanticKernel.Core.dll"],
        &[],
        &[5000],
    ),
    Recorded(
        "/usr/bin/java",
        &[
            "java",
            "-cp",
            "/srv/a.jar:/srv/lib/langchain4j-core-1.0.jar",
            "Main",
        ],
        &[],
        &[],
        &[],
    ),
    Recorded(
        "/usr/bin/node",
        &["node", ".mastra/output/index.mjs"],
        &[],
        &[],
        &[],
    ),
    Recorded(
        "/opt/venv/bin/python3",
        &["python3", "/opt/venv/bin/adk", "api_server"],
        &[],
        &[],
        &[8000],
    ),
    Recorded(
        "/usr/bin/node",
        &[
            "npm",
            "exec",
            "@modelcontextprotocol/server-filesystem@2025.1",
            "/srv",
        ],
        &[],
        &[],
        &[],
    ),
    Recorded(
        "/usr/bin/node",
        &[
            "node",
            "/srv/.npm/_npx/1/node_modules/.bin/mcp-server-filesystem",
            "/srv",
        ],
        &[],
        &[],
        &[],
    ),
    Recorded(
        "/usr/bin/uv",
        &["uvx", "mcp-server-git==1.2", "--repository", "/srv"],
        &[],
        &[],
        &[],
    ),
    Recorded(
        "/opt/venv/bin/python3",
        &["python3", "-m", "mcp_server_git"],
        &[],
        &[],
        &[],
    ),
    Recorded("/usr/bin/node", &["node", "/srv/x.js"], &[], &[], &[8931]),
    Recorded(
        "/opt/venv/bin/python3",
        &["python3", "a2a_server.py"],
        &[],
        &[],
        &[41241],
    ),
    Recorded(
        "/srv/house/bin/house-agent",
        &["house-agent"],
        &[],
        &[],
        &[],
    ),
    // What is none.
    Recorded(
        "/usr/bin/bash",
        &["bash"],
        &[],
        &["CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT"],
        &[],
    ),
    Recorded(
        "/usr/bin/bash",
        &["bash", "-c", "claude --help"],
        &[],
        &["OPENAI_API_KEY"],
        &[],
    ),
    Recorded(
        "/usr/bin/grep",
        &["grep", "-r", "claude", "/srv/@openai/codex"],
        &[],
        &[],
        &[],
    ),
    Recorded(
        "/usr/bin/vim",
        &["vim", "/usr/local/bin/aider"],
        &[],
        &[],
        &[],
    ),
    Recorded(
        "/usr/bin/python3",
        &["python3", "sort.py", "claude"],
        &[],
        &[],
        &[],
    ),
    Recorded(
        "/usr/sbin/nginx",
        &["nginx: master process"],
        &["/usr/lib/libssl.so.3"],
        &[],
        &[80],
    ),
];

fn texts(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn own() -> Custom {
    Custom {
        product: Word::parse("house-agent").unwrap(),
        kind: SightingKind::Framework,
        executables: vec!["house-agent".into()],
        scripts: Vec::new(),
        modules: Vec::new(),
        libraries: Vec::new(),
        variables: Vec::new(),
        ports: Vec::new(),
    }
}

#[test]
fn each_recorded_look_is_what_it_is_found_to_be() {
    let signatures = Signatures::new(&[own()]).unwrap();
    let mut table = String::new();
    for Recorded(executable, words, libraries, variables, ports) in PROCESSES {
        for name in *variables {
            assert!(signatures.knows_variable(name), "{name}");
        }
        let finding = signatures.judge(&Look {
            executable: Some(executable),
            words,
            libraries: &texts(libraries),
            variables: &texts(variables),
            ports: &ports.iter().copied().collect(),
        });
        writeln!(table, "{executable} {words:?}").unwrap();
        let Some(finding) = finding else {
            writeln!(table, "    -").unwrap();
            continue;
        };
        let first = &finding.first;
        writeln!(
            table,
            "    {} ({}), {} {}; {}",
            first.product, first.kind, first.confidence, first.points, finding.shape
        )
        .unwrap();
        for evidence in &first.evidence {
            writeln!(table, "      {} {}", evidence.clue, evidence.rule).unwrap();
        }
        for also in &finding.also {
            writeln!(
                table,
                "    also {} ({}), {}",
                also.product, also.kind, also.confidence
            )
            .unwrap();
        }
    }
    insta::assert_snapshot!(table);
}

/// Whatever a process says of itself, a finding says it in the words of the table.
#[test]
fn a_finding_has_no_text_of_the_process() {
    let signatures = Signatures::new(&[]).unwrap();
    let secret = "sk-proj-hunter2";
    let flag = format!("--api-key={secret}");
    let words = ["claude", &flag, secret, "--token", secret, "mcp", "serve"];
    let finding = signatures
        .judge(&Look {
            executable: Some("/usr/bin/claude"),
            words: &words,
            libraries: &BTreeSet::new(),
            variables: &BTreeSet::new(),
            ports: &BTreeSet::new(),
        })
        .unwrap();
    assert!(!format!("{finding:?}").contains("hunter2"), "{finding:?}");
}
