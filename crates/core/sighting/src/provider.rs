//! Which variable is whose: the providers of models for which a process was started.
//!
//! Only what opens a provider's door says so, a key or a token or the address of an account: the
//! variables that choose a model or another address say nothing about who answers.

use std::collections::BTreeSet;

use muster_model::Word;

use crate::signature::word;

/// Providers, and the variables that their clients read keys from. Each name is one that the table
/// of signatures knows, so that it is looked for at all.
const PROVIDERS: &[(&str, &[&str])] = &[
    (
        "anthropic",
        &[
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_AUTH_TOKEN",
            "CLAUDE_CODE_OAUTH_TOKEN",
            "AIDER_ANTHROPIC_API_KEY",
        ],
    ),
    ("azure", &["AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT"]),
    ("bedrock", &["AWS_BEARER_TOKEN_BEDROCK"]),
    ("cohere", &["COHERE_API_KEY"]),
    ("deepseek", &["DEEPSEEK_API_KEY"]),
    ("fireworks", &["FIREWORKS_API_KEY"]),
    ("google", &["GEMINI_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI"]),
    ("groq", &["GROQ_API_KEY"]),
    ("huggingface", &["HF_TOKEN"]),
    ("mistral", &["MISTRAL_API_KEY"]),
    (
        "openai",
        &[
            "OPENAI_API_KEY",
            "OPENAI_ORG_ID",
            "CODEX_API_KEY",
            "AIDER_OPENAI_API_KEY",
        ],
    ),
    ("openrouter", &["OPENROUTER_API_KEY"]),
    ("perplexity", &["PERPLEXITY_API_KEY"]),
    ("together", &["TOGETHER_API_KEY"]),
    ("xai", &["XAI_API_KEY"]),
];

/// The providers whose variable is among these names, ascending.
pub fn providers(variables: &BTreeSet<String>) -> Vec<Word> {
    let shown = |names: &[&str]| names.iter().any(|name| variables.contains(*name));
    let found = PROVIDERS.iter().filter(|(_, names)| shown(names));
    // The names of the table are words: a test says so.
    found.filter_map(|(name, _)| word(name).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Signatures;

    #[test]
    fn each_variable_is_looked_for_and_is_one_provider_s() {
        let signatures = Signatures::new(&[]).unwrap();
        let mut seen = BTreeSet::new();
        for (provider, names) in PROVIDERS {
            assert!(word(provider).is_ok(), "{provider}");
            for name in *names {
                assert!(signatures.knows_variable(name), "{name}");
                assert!(seen.insert(name), "{name}");
            }
        }
    }

    #[test]
    fn providers_of_variables() {
        let check = |names: &[&str], expected: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let found: Vec<String> = providers(&names).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        };
        check(&[], &[]);
        check(&["OPENAI_BASE_URL", "ANTHROPIC_MODEL"], &[]);
        check(
            &["OPENAI_API_KEY", "CODEX_API_KEY", "ANTHROPIC_API_KEY"],
            &["anthropic", "openai"],
        );
    }
}
