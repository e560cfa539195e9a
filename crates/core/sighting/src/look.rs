//! What was seen of a process, and what of it can be told to others.

use std::collections::BTreeSet;

/// Programs that run other programs' text: what they are called says little.
const INTERPRETERS: [&str; 19] = [
    "python",
    "pypy",
    "node",
    "nodejs",
    "bun",
    "deno",
    "ruby",
    "java",
    "dotnet",
    "sh",
    "bash",
    "dash",
    "zsh",
    "php",
    "perl",
    "tsx",
    "ts-node",
    "electron",
    "MainThread",
];
/// Programs that fetch and run a package which an argument names.
const LAUNCHERS: [&str; 11] = [
    "npx",
    "npm",
    "pnpm",
    "bunx",
    "yarn",
    "uv",
    "uvx",
    "pipx",
    "poetry",
    "npx-cli.js",
    "npm-cli.js",
];
/// What may stand between a launcher and the package.
const LAUNCHING: [&str; 5] = ["exec", "run", "x", "dlx", "tool"];
/// Flags of interpreters whose value is the next word, and no script.
const WITH_VALUE: [&str; 8] = [
    "-r",
    "--require",
    "--import",
    "--loader",
    "-W",
    "-X",
    "-p",
    "--package",
];
/// Flags after which there is no script but a text that is run.
const WITH_TEXT: [&str; 5] = ["-c", "-e", "--eval", "--print", "-ec"];
/// Flags before a list of Java's archives.
const WITH_ARCHIVES: [&str; 4] = ["-cp", "-classpath", "--class-path", "-jar"];

/// What a look at a process gives. Everything is borrowed: nothing of it goes into a finding.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The path of its executable, where the kernel shows it.
    pub executable: Option<&'a str>,
    /// Its arguments, or the words of the title that it gave itself.
    pub words: &'a [&'a str],
    /// The files that are mapped into it.
    pub libraries: &'a BTreeSet<String>,
    /// The names of variables of its first environment that a rule knows.
    pub variables: &'a BTreeSet<String>,
    /// The TCP ports on which it listens.
    pub ports: &'a BTreeSet<u16>,
}

/// What of a look is compared with what.
#[derive(Debug, Default)]
pub(crate) struct Parts<'a> {
    /// The executable's file name, unless it is an interpreter's.
    pub(crate) executable: Option<&'a str>,
    /// The name that it gives itself, where that is not its executable's.
    pub(crate) title: Option<&'a str>,
    /// Scripts and packages that it runs.
    pub(crate) scripts: Vec<&'a str>,
    /// A Python module.
    pub(crate) module: Option<&'a str>,
    /// Words after the program's own name that are no flags.
    pub(crate) subcommands: Vec<&'a str>,
    /// Flags, without values.
    pub(crate) flags: Vec<&'a str>,
    /// Archives on Java's class path.
    pub(crate) archives: Vec<&'a str>,
}

/// How many words after the program are taken for a subcommand.
const SUBCOMMANDS: usize = 2;

impl<'a> Parts<'a> {
    pub(crate) fn of(look: &Look<'a>) -> Self {
        let own = look.executable.map(file_name);
        let first = look.words.first().copied().map(file_name);
        let mut parts = Self {
            executable: own.filter(|name| !is_interpreter(name) && !is_launcher(name)),
            ..Self::default()
        };
        let named = first.filter(|name| !name.is_empty() && !is_interpreter(name));
        // Where the executable is hidden, the first argument is all that there is.
        if first != own {
            parts.title = named.filter(|name| !is_launcher(name));
        }
        let runs_text = own.or(first).is_some_and(is_interpreter) && named.is_none();
        let launches = first.or(own).is_some_and(is_launcher);
        parts.read(look.words.get(1..).unwrap_or_default(), runs_text, launches);
        parts
    }

    /// Reads the words after the first.
    fn read(&mut self, words: &[&'a str], runs_text: bool, launches: bool) {
        let mut wants_script = runs_text || launches;
        let mut launching = launches;
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            if word.starts_with('-') && word.len() > 1 {
                let flag = word.split_once('=').map_or(word, |(flag, _)| flag);
                self.flags.push(flag);
                if !wants_script {
                    continue;
                }
                if flag == "-m" && !launching {
                    self.module = words.next();
                    wants_script = false;
                } else if WITH_ARCHIVES.contains(&flag) {
                    self.archives
                        .extend(words.next().into_iter().flat_map(|list| list.split(':')));
                    wants_script = flag != "-jar";
                } else if WITH_TEXT.contains(&flag) && !launching {
                    // What follows is a program's text, and its arguments.
                    return;
                } else if WITH_VALUE.contains(&flag) && flag == word {
                    let value = words.next();
                    if launching && matches!(flag, "-p" | "--package") {
                        self.scripts.extend(value);
                    }
                } else if launching && matches!(flag, "--from" | "--with") {
                    self.scripts.extend(words.next());
                }
                continue;
            }
            if wants_script {
                if launching && LAUNCHING.contains(&word) {
                    continue;
                }
                self.scripts.push(word);
                // A launcher may be a script itself.
                launching = is_launcher(file_name(word));
                wants_script = launching;
            } else if self.subcommands.len() < SUBCOMMANDS {
                self.subcommands.push(word);
            }
        }
    }
}

/// The last segment of a path.
pub(crate) fn file_name(path: &str) -> &str {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether a file name is an interpreter's, versions included: `python3.12`.
fn is_interpreter(name: &str) -> bool {
    let bare = name.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    INTERPRETERS.contains(&bare)
}

fn is_launcher(name: &str) -> bool {
    LAUNCHERS.contains(&name)
}

/// How many words a shape has.
const SHAPED: usize = 12;

/// The shape of a command line: what kind of thing each argument is, and none of its text.
///
/// ```
/// use muster_sighting::shape_of;
/// let words = ["node", "/opt/agent/cli.js", "--api-key=sk-1", "-v", "fix it"];
/// assert_eq!(shape_of(&words), "WORD PATH --FLAG=VALUE -F TEXT");
/// ```
pub fn shape_of(words: &[&str]) -> String {
    let kind = |word: &&str| match *word {
        "" => "EMPTY",
        word if word.starts_with("--") && word.contains('=') => "--FLAG=VALUE",
        word if word.starts_with("--") => "--FLAG",
        word if word.starts_with('-') && word.len() > 1 => "-F",
        word if word.contains("://") => "URL",
        word if word.contains(char::is_whitespace) => "TEXT",
        word if word.contains('/') => "PATH",
        word if word.contains('=') => "NAME=VALUE",
        _ => "WORD",
    };
    let mut shape: Vec<&str> = words.iter().take(SHAPED).map(kind).collect();
    if words.len() > SHAPED {
        shape.push("...");
    }
    shape.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'a>(executable: Option<&'a str>, words: &'a [&'a str]) -> Parts<'a> {
        let (texts, ports) = (Box::leak(Box::default()), Box::leak(Box::default()));
        Parts::of(&Look {
            executable,
            words,
            libraries: texts,
            variables: texts,
            ports,
        })
    }

    #[test]
    fn what_an_interpreter_runs() {
        let check = |words: &[&str], scripts: &[&str]| {
            let exe = format!("/usr/bin/{}", words[0]);
            assert_eq!(parts(Some(&exe), words).scripts, scripts, "{words:?}");
        };
        check(&["node", "--inspect", "/a/cli.js", "run"], &["/a/cli.js"]);
        check(&["node", "-r", "./hook", "/a/cli.js"], &["/a/cli.js"]);
        check(&["python3.11", "-c", "import claude"], &[]);
        check(
            &["python3", "/usr/bin/aider", "claude"],
            &["/usr/bin/aider"],
        );
        check(
            &["uvx", "--from", "git+x", "mcp-server-git"],
            &["git+x", "mcp-server-git"],
        );
        check(
            &["node", "/usr/lib/npx-cli.js", "-y", "@x/y", "/srv"],
            &["/usr/lib/npx-cli.js", "@x/y"],
        );
        let module = ["python", "-u", "-m", "mcp_server_git", "--repository", "x"];
        assert_eq!(
            parts(Some("/bin/python"), &module).module,
            Some("mcp_server_git")
        );
        let java = ["java", "-cp", "/a.jar:/b.jar", "Main"];
        assert_eq!(
            parts(Some("/bin/java"), &java).archives,
            ["/a.jar", "/b.jar"]
        );
    }

    #[test]
    fn what_a_process_calls_itself() {
        let titled = parts(Some("/usr/bin/node"), &["claude"]);
        assert_eq!((titled.title, titled.executable), (Some("claude"), None));
        let npm = parts(Some("/usr/bin/node"), &["npm", "exec", "@x/y@1", "/srv"]);
        assert_eq!((npm.title, npm.scripts), (None, vec!["@x/y@1"]));
        let plain = parts(Some("/usr/bin/grep"), &["grep", "claude", "aider"]);
        assert_eq!(plain.executable, Some("grep"));
        assert!(plain.scripts.is_empty() && plain.title.is_none());
        assert_eq!(plain.subcommands, ["claude", "aider"]);
        let hidden = parts(None, &["/opt/bin/goose", "session"]);
        assert_eq!((hidden.title, hidden.executable), (Some("goose"), None));
    }
}
