//! Which variables hold secrets, by their names.

/// Parts of names, in upper case and between underscores, that secrets have.
const PARTS: [&str; 16] = [
    "APIKEY",
    "AUTH",
    "AUTHORIZATION",
    "BEARER",
    "COOKIE",
    "CREDENTIAL",
    "CREDENTIALS",
    "KEY",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PAT",
    "PRIVATE",
    "PWD_HASH",
    "SECRET",
    "TOKEN",
];
/// How names end that have no underscores: `GITHUBTOKEN`.
const ENDS: [&str; 4] = ["APIKEY", "PASSWORD", "SECRET", "TOKEN"];

/// Whether a variable of that name holds a secret: `OPENAI_API_KEY`, and not `OPENAI_BASE_URL`.
pub fn holds_secret(variable: &str) -> bool {
    let upper = variable.to_uppercase();
    upper.split('_').any(|part| PARTS.contains(&part))
        || ENDS.iter().any(|end| upper.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_variables_hold_secrets() {
        for (name, expected) in [
            ("OPENAI_API_KEY", true),
            ("CLAUDE_CODE_OAUTH_TOKEN", true),
            ("AWS_BEARER_TOKEN_BEDROCK", true),
            ("HF_TOKEN", true),
            ("house_agent_key", true),
            ("PGPASSWORD", true),
            ("OPENAI_BASE_URL", false),
            ("CLAUDECODE", false),
            ("LANGCHAIN_PROJECT", false),
            ("KEYBOARD", false),
            ("AUTHOR", false),
            ("", false),
        ] {
            assert_eq!(holds_secret(name), expected, "{name}");
        }
    }
}
